"""A guard that tells when atoms leave what a potential was trained on (`eipnn.potential.seen`)."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from ase import Atoms
from ase.data import chemical_symbols

from eipnn.errors import InputError
from eipnn.generate.distance import RADII, REACH
from eipnn.inputs import AtomicGraph
from eipnn.potential.committee import Committee
from eipnn.potential.seen import closest_in, volumes_in

Mode = Literal["warn", "error", "off"]

MARGIN = 0.02
"""Share of a length by which atoms may leave the limits: no word of thermal motion just inside."""


class Guard:
    """The limits of one potential or, of a committee, the narrowest: a mean is as good as the members that know.

    Each kind of excess is told once: distances of each pair of elements, too dense, too dilute.

    Args:
        seen: of each member, as in its record.
        error: raise `InputError` in place of a warning.
    """

    def __init__(self, seen: Sequence[Mapping[str, Any]], error: bool = False) -> None:
        self.error = error
        self.closest = np.max([closest_in(member) for member in seen], axis=0)  # A, by two atomic numbers
        self.limits = torch.from_numpy((1 - MARGIN) * self.closest)
        known = [volumes_in(member) for member in seen]
        self.volumes = (max(low for low, _ in known), min(high for _, high in known)) if all(known) else None
        self.told: set[str] = set()

    def check(self, frames: Sequence[Atoms], graph: AtomicGraph, volume: bool = True) -> None:
        """Tell what of the frames, whose pairs are in `graph`, is outside; of the `volume` if that of a cell is one of
        the atoms. The host waits once for the device of the graph."""
        i, j = graph.z[graph.edge_index]
        lengths = graph.vectors.norm(dim=-1)
        self.limits = self.limits.to(lengths.device)
        if len(close := (lengths < self.limits[i, j]).nonzero().flatten()):
            found = (values[close].tolist() for values in (lengths, i, j, graph.batch[graph.edge_index[0]]))
            self._tell_close(sorted(zip(*found, strict=True)), graph.size)
        for k, atoms in enumerate(frames):
            if volume and atoms.pbc.all():
                self._check_volume(atoms.get_volume() / len(atoms), _place(k, len(frames)))

    def _tell_close(self, pairs: list[tuple[float, int, int, int]], frames: int) -> None:
        """Of pairs, the shortest first: the distance, the two atomic numbers, the frame."""
        shortest: dict[tuple[int, int], tuple[float, int]] = {}
        for length, a, b, k in pairs:
            shortest.setdefault((min(a, b), max(a, b)), (length, k))
        for (a, b), (length, k) in shortest.items():
            name, seen = f"{chemical_symbols[a]}-{chemical_symbols[b]}", self.closest[a, b]
            known = f"from {seen:.2f} A on" if seen < REACH * RADII[a, b] else "nowhere side by side"
            what = f"{name} {length:.2f} A apart{_place(k, frames)}"
            self._tell(name, f"{what}, which the training frames have {known}")
            self.limits[a, b] = self.limits[b, a] = 0  # looked for no more

    def _check_volume(self, volume: float, place: str) -> None:
        if self.volumes is None:
            self._tell("crystal", f"a crystal{place}, and no training frame is periodic along all axes")
            return
        low, high = self.volumes
        excess = {"dense": volume < low * (1 - MARGIN) ** 3, "dilute": volume > high * (1 + MARGIN) ** 3}
        for kind, outside in excess.items():
            if outside:
                what = f"{volume:.2f} A^3 an atom{place}"
                self._tell(kind, f"{what}, where the training frames have {low:.2f} to {high:.2f}")

    def _tell(self, kind: str, text: str) -> None:
        if self.error:
            raise InputError(f"outside of the training: {text}; guard: warn or off goes on")
        if kind not in self.told:
            self.told.add(kind)
            warnings.warn(f"outside of the training: {text}; the potential extrapolates (told once)", stacklevel=2)


def guard_of(committee: Committee, mode: Mode | None) -> Guard | None:
    """The guard of these potentials; None if it is off, or if none is asked for and a file does not say what it saw.

    Raises:
        InputError: no such mode; one is asked for and a file does not say what its training saw.
    """
    if mode not in (None, *get_args(Mode)):
        raise InputError(f"guard must be one of {', '.join(get_args(Mode))}, not {mode!r}")
    silent = [n for n, p in zip(committee.names, committee.potentials, strict=True) if not p.seen]
    if mode in ("warn", "error") and silent:
        raise InputError(
            f"{silent[0]}: does not say what its training saw, so that nothing can be guarded: train it again, or "
            "guard: off"
        )
    return None if silent or mode == "off" else Guard([p.seen for p in committee.potentials], mode == "error")


def _place(frame: int, frames: int) -> str:
    """Which of the frames is meant, where there are several."""
    return f" in system {frame}" if frames > 1 else ""
