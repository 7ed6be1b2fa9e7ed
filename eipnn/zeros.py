"""Energy zeros: what is subtracted from total energies so that DFT and EIPs share one zero.

    aligned energy = E - sum over atoms of E0(element)        (all in eV)

Three modes: `isolated_atoms` takes E0 as given, `least_squares` fits it, `none` subtracts nothing.
DFT and each EIP have a zero of their own. For DFT a fit is of E on the composition; for an EIP it is of
E_EIP - (aligned E_DFT) on the composition, so that the aligned EIP shares the aligned DFT's zero. Fit on
the training split only.

Where all frames have one composition (SiC, water), a fit has no answer of its own: the shortest solution is taken,
which is one constant a formula unit, shared by its elements. It says nothing of other compositions;
`Zero.note` says that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols

from eipnn.errors import InputError
from eipnn.structures.store import StructureStore

MODES = ("isolated_atoms", "least_squares", "none")


class ZeroError(InputError):
    """A zero that cannot be made or applied; the message names the element and the mend."""


@dataclass(frozen=True)
class Zero:
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

    def total(self, atoms: Atoms) -> float:
        """The zero of a whole structure: the sum of its atoms' E0 (eV).

        Raises `ZeroError` where an element has no E0.
        """
        return float(self.totals([atoms])[0])

    def totals(self, structures: Sequence[Atoms]) -> np.ndarray:
        """`total` of each structure, (n,) in eV."""
        given = StructureStore.of(structures)
        if self.mode == "none":
            return np.zeros(len(given))
        if strangers := [e for e in given.elements() if e not in self.energies]:
            raise ZeroError(
                f"no energy zero for the element {strangers[0]}, only for "
                f"{', '.join(sorted(self.energies))}; give the isolated atom's energy, or fit on "
                "frames that hold the element"
            )
        table = np.array([self.energies.get(symbol, np.nan) for symbol in chemical_symbols])
        rows = np.repeat(np.arange(len(given)), given.sizes)
        return np.bincount(rows, table[given.numbers], len(given))

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


def fit_zero(
    mode: str,
    structures: Sequence[Atoms],
    energies: Sequence[float] | np.ndarray,
    isolated: Mapping[str, float] | None = None,
    reference: Sequence[float] | np.ndarray | None = None,
    source: str = "DFT",
) -> Zero:
    """The zero of total energies (n,) in eV, where a NaN is a missing label and is left out.

    `isolated`: E0 per element (eV), for the mode "isolated_atoms". `reference`: for an EIP, the aligned
    DFT energies (n,) of the same structures. `source`: whose energies these are, for messages. An element
    that no labelled frame holds gets no E0. Raises `ZeroError` for an unknown mode, an element without an
    isolated atom, and a fit to nothing.
    """
    target = np.asarray(energies, dtype=np.float64)
    if target.shape != (len(structures),):
        raise ZeroError(f"{source}: {len(structures)} structures and energies of the shape {target.shape}")
    if reference is not None:
        target = target - np.asarray(reference, dtype=np.float64)
    known = np.flatnonzero(np.isfinite(target))
    labelled = StructureStore.of(structures).take(known)
    elements = labelled.elements()
    try:
        if mode == "isolated_atoms":
            return _isolated(elements, isolated)
        if mode == "least_squares":
            return _least_squares(elements, labelled, target[known], source)
        return Zero(mode)
    except ZeroError as error:
        raise ZeroError(f"{source}: {error}") from None


def _isolated(elements: list[str], isolated: Mapping[str, float] | None) -> Zero:
    missing = [element for element in elements if element not in (isolated or {})]
    if isolated is None or missing:
        raise ZeroError(
            f"the energy zero isolated_atoms needs an isolated-atom energy (eV) of "
            f"{', '.join(missing) or 'every element'}; give it, or use least_squares"
        )
    return Zero("isolated_atoms", {element: float(isolated[element]) for element in elements})


def _least_squares(elements: list[str], structures: StructureStore, target: np.ndarray, source: str) -> Zero:
    if not structures:
        raise ZeroError("0 labelled frames do not determine an energy zero; use isolated_atoms")
    numbers, counts = structures.composition()
    order = np.argsort([chemical_symbols[z] for z in numbers])  # as of `elements`
    counts = counts[:, order].astype(np.float64)  # (n, n_elements)
    solution, _, rank, _ = np.linalg.lstsq(counts, target, rcond=None)
    note = None
    if rank < len(elements):
        note = (
            f"{source}: the {len(structures)} frames that the energy zero is fitted to do not determine one energy for "
            f"each of {', '.join(elements)}: their compositions are too alike. A zero that suits these compositions is "
            "taken; energies of other compositions are not determined. Give isolated_atoms if you need them"
        )
    return Zero("least_squares", dict(zip(elements, solution.tolist(), strict=True)), note)
