"""Energies of elements: what is subtracted from total energies so that DFT and EIPs share one zero.

    aligned energy = E - sum over atoms of E0(element)        (all in eV)

Three modes: `isolated_atoms` takes E0 as given, `least_squares` fits it, `none` subtracts nothing. DFT and each EIP
have a reference of their own. For DFT a fit is of E on the composition; for an EIP it is of E_EIP - (aligned E_DFT) on
the composition, so that the aligned EIP shares the aligned DFT's zero. Fit on the training split only.

Where all frames have one composition (SiC, water), a fit has no answer of its own: the shortest solution is taken,
which is one constant a formula unit, shared by its elements. It says nothing of other compositions; `Reference.note`
says that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols

from eipnn.errors import InputError
from eipnn.structures.store import StructureStore

Mode = Literal["isolated_atoms", "least_squares", "none"]
MODES: tuple[str, ...] = get_args(Mode)


class ZeroError(InputError):
    """A zero that cannot be made or applied; the message names the element and the mend."""


@dataclass(frozen=True)
class Reference:
    """Per-element energies (eV); empty where `mode` is "none"."""

    mode: str
    energies: dict[str, float] = field(default_factory=dict)
    note: str | None = field(default=None, compare=False)
    """What a user must know of it."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ZeroError(f"energy zero {self.mode!r} is unknown; use one of {', '.join(MODES)}")
        for element, energy in self.energies.items():
            if not np.isfinite(energy):
                raise ZeroError(f"the energy zero of {element} is {energy}; give a finite number in eV")

    def table(self) -> np.ndarray:
        """By atomic number (119,), eV; NaN for elements without an energy."""
        table = np.full(len(chemical_symbols), 0.0 if self.mode == "none" else np.nan)
        table[[atomic_numbers[symbol] for symbol in self.energies]] = list(self.energies.values())
        return table

    def totals(self, structures: Sequence[Atoms]) -> np.ndarray:
        """The sum of the atoms' E0 of each structure, (n,) in eV.

        Raises `ZeroError` where an element has no E0.
        """
        given = StructureStore.of(structures)
        energies = self.table()[given.numbers]
        if np.isnan(energies).any():
            strangers = [element for element in given.elements() if element not in self.energies]
            raise ZeroError(
                f"no energy zero for the element {strangers[0]}, only for {', '.join(sorted(self.energies))}; give the "
                "isolated atom's energy, or fit on frames that hold the element"
            )
        return np.bincount(np.repeat(np.arange(len(given)), given.sizes), energies, len(given))

    def aligned(self, structures: Sequence[Atoms], energies: np.ndarray, source: str) -> np.ndarray:
        """Total energies (n,) less this zero, eV; NaN stays NaN, whatever the elements.

        Raises `ZeroError`, with the name of the `source` of these energies, where an element has no E0.
        """
        aligned = np.array(energies, dtype=np.float64)
        known = np.flatnonzero(np.isfinite(aligned))
        try:
            aligned[known] -= self.totals(StructureStore.of(structures).take(known))
        except ZeroError as error:
            raise ZeroError(f"{source}: {error}") from None
        return aligned

    def record(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"mode": self.mode, "energies": dict(self.energies)}


class Fit(NamedTuple):
    """A least-squares fit of energies by the composition: the energy of each element (k,), eV (the shortest solution
    where the data leave a choice), what is `left` unexplained (n,), eV, and whether they leave none."""

    energies: np.ndarray
    left: np.ndarray
    determined: bool


def fit_composition(counts: np.ndarray, energies: np.ndarray) -> Fit:
    """Fit total energies (n,), eV, by the atoms of each element (n, k)."""
    counts = counts.astype(np.float64)
    solution, _, rank, _ = np.linalg.lstsq(counts, energies, rcond=None)
    return Fit(solution, energies - counts @ solution, bool(rank == counts.shape[1]))


def fit_reference(
    mode: str,
    structures: Sequence[Atoms],
    energies: Sequence[float] | np.ndarray,
    isolated: Mapping[str, float] | None = None,
    beside: Sequence[float] | np.ndarray | None = None,
    source: str = "DFT",
) -> Reference:
    """The zero of total energies (n,) in eV, where a NaN is a missing label and is left out.

    `isolated`: E0 per element (eV), for the mode "isolated_atoms". `beside`: for an EIP, the aligned DFT energies (n,)
    of the same structures. `source`: whose energies these are, for messages. An element that no labelled frame holds
    gets no E0. Raises `ZeroError` for an unknown mode, an element without an isolated atom, and a fit to nothing.
    """
    target = np.asarray(energies, dtype=np.float64)
    if target.shape != (len(structures),):
        raise ZeroError(f"{source}: {len(structures)} structures and energies of the shape {target.shape}")
    if beside is not None:
        target = target - np.asarray(beside, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(target))
    labelled = StructureStore.of(structures).take(known)
    try:
        if mode == "isolated_atoms":
            return _isolated(labelled.elements(), isolated)
        if mode == "least_squares":
            return _least_squares(labelled, target[known], source)
        return Reference(mode)
    except ZeroError as error:
        raise ZeroError(f"{source}: {error}") from None


def _isolated(elements: list[str], isolated: Mapping[str, float] | None) -> Reference:
    missing = [element for element in elements if element not in (isolated or {})]
    if isolated is None or missing:
        raise ZeroError(
            f"the energy zero isolated_atoms needs an isolated-atom energy (eV) of "
            f"{', '.join(missing) or 'every element'}; give it, or use least_squares"
        )
    return Reference("isolated_atoms", {element: float(isolated[element]) for element in elements})


def _least_squares(structures: StructureStore, target: np.ndarray, source: str) -> Reference:
    if not structures:
        raise ZeroError("0 labelled frames do not determine an energy zero; use isolated_atoms")
    numbers, counts = structures.composition()
    elements, columns = zip(*sorted((chemical_symbols[z], k) for k, z in enumerate(numbers)), strict=True)
    fit = fit_composition(counts[:, columns], target)
    note = None
    if not fit.determined:
        note = (
            f"{source}: the {len(structures)} frames that the energy zero is fitted to do not determine one energy for "
            f"each of {', '.join(elements)}: their compositions are too alike. A zero that suits these compositions is "
            "taken; energies of other compositions are not determined. Give isolated_atoms if you need them"
        )
    return Reference("least_squares", dict(zip(elements, fit.energies.tolist(), strict=True)), note)


def scale_and_shift(structures: Sequence[Atoms], energies: np.ndarray) -> tuple[float, Reference]:
    """Per-atom scale and per-element shift of energies, for the energy head.

    The shift is the least-squares energy an element, the scale the root mean square of what is left, an atom.

    Args:
        structures: n configurations.
        energies: (n,), eV; NaN rows are left out.

    Returns:
        scale in eV (1 where nothing is left to scale), and the shift.
    """
    known = np.isfinite(energies)
    numbers, counts = StructureStore.of(structures).composition()
    fit = fit_composition(counts[known], energies[known])
    scale = float(np.sqrt(np.mean((fit.left / counts[known].sum(axis=1)) ** 2)))
    symbols = [chemical_symbols[z] for z in numbers]
    shift = Reference("least_squares", dict(zip(symbols, fit.energies.tolist(), strict=True)))
    return (scale if scale > 1e-6 else 1.0), shift
