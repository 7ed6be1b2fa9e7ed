"""A guard that tells when atoms leave what a potential was trained on.

What training saw stands in the record of a file under ``seen``: for the frames with DFT labels (``dft``) and, with
label augmentation, those with EIP labels (``eip``), ``distances``, the shortest one of each pair of elements (A), and
``volumes``, the smallest and the largest one an atom of fully periodic frames (A^3), empty where there are none.

Frames of pretraining do not count: the head that learned their energies is not that of the potential.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from eipnn.errors import InputError
from eipnn.generate.distance import RADII, REACH, shortest_distances
from eipnn.inputs import AtomicGraph
from eipnn.potential.committee import Committee
from eipnn.structures import StructureStore

Mode = Literal["warn", "error", "off"]

MARGIN = 0.02
"""Share of a length by which atoms may leave the limits: no word of thermal motion just inside."""


def seen_in(frames: StructureStore) -> dict[str, Any]:
    """``distances`` and ``volumes`` of these frames, see the head of this file."""
    closest = shortest_distances(frames)
    pairs = [(a, b) for a, b in np.argwhere(np.isfinite(closest)).tolist() if a <= b]
    periodic = frames.pbc.all(axis=1)
    volumes = np.abs(np.linalg.det(frames.cells[periodic])) / frames.sizes[periodic]
    return {
        "distances": {f"{chemical_symbols[a]}-{chemical_symbols[b]}": float(closest[a, b]) for a, b in pairs},
        "volumes": [float(volumes.min()), float(volumes.max())] if len(volumes) else [],
    }


class Guard:
    """The limits of one potential or, of a committee, the narrowest: a mean is as good as the members that know.

    Each kind of excess is told once: distances of each pair of elements, too dense, too dilute.

    Args:
        seen: of each member, as in its record.
        error: raise `InputError` in place of a warning.
    """

    def __init__(self, seen: Sequence[Mapping[str, Any]], error: bool = False) -> None:
        self.error = error
        self.closest = np.max([_closest(member) for member in seen], axis=0)  # A, by two atomic numbers
        self.limits = torch.from_numpy((1 - MARGIN) * self.closest)
        known = [_volumes(member) for member in seen]
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


def _closest(seen: Mapping[str, Any]) -> np.ndarray:
    """The shortest distance (A) of a member by two atomic numbers; `REACH` for elements that it has not seen side by
    side."""
    closest = REACH * RADII
    for part in seen.values():
        for name, length in part["distances"].items():
            a, b = (atomic_numbers[symbol] for symbol in name.split("-"))
            closest[a, b] = closest[b, a] = min(length, closest[a, b])
    return closest


def _volumes(seen: Mapping[str, Any]) -> list[float]:
    """The smallest and the largest volume (A^3) an atom of a member; empty if it saw no periodic frames."""
    every = [volume for part in seen.values() for volume in part["volumes"]]
    return [min(every), max(every)] if every else []
