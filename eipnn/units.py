"""Are energies and forces in eV and eV/A? A unit is a factor of 13 or more, and that shows in the spread.

Energies are compared with those of references (EIPs, or `eipnn.yardstick` where there are no labels) on the same
structures, once each has been freed of one energy an element, so that no energy zero matters. Of the references the one
that goes with DFT best (Spearman's correlation, which knows no units) is asked for its spread.

What cannot be told from eV is a factor within `SILENT` (eV/bohr, for one). Nothing is said where no reference goes with
DFT.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from scipy.stats import spearmanr

from eipnn.labels.store import LabelStore
from eipnn.reference import fit_composition
from eipnn.structures import StructureStore
from eipnn.yardstick import STRETCHES, yardstick

ENERGY_UNITS = {
    "Hartree": 1 / units.Hartree,
    "Rydberg": 1 / units.Rydberg,
    "kcal/mol": units.mol / units.kcal,
    "kJ/mol": units.mol / units.kJ,
    "meV": 1000.0,
}
"""The number that stands for 1 eV."""
FORCE_UNITS = {
    "Hartree/bohr": units.Bohr / units.Hartree,
    "Rydberg/bohr": units.Bohr / units.Rydberg,
    "kcal/mol/A": units.mol / units.kcal,
    "kJ/mol/A": units.mol / units.kJ,
    "meV/A": 1000.0,
}
"""The number that stands for 1 eV/A."""

SILENT = (0.2, 5.0)
"""Ratios to a reference of which nothing is said. Right units are at 0.6 to 1.5 on the bundled sets; the nearest wrong
ones are at 1/14 and 23 times that."""
ALIKE = 3.0
"""Units whose factor is this close to what is found are all named."""
CORRELATED = 0.5
"""A reference that goes with DFT less than this tells nothing."""
AS_GOOD = 0.1
"""References that are less good by this have a say too."""
ROUNDING = 1e-9
"""eV/atom; what varies less does not vary."""
PER_ATOM = 0.5
"""Energies per atom are spoken of where they leave less than this share of what totals leave unexplained."""
STILL = 0.02
"""Root mean square of the forces, eV/A, of a reference below which a structure is at rest and says nothing."""
FEW = 8
"""Frames below which nothing is said."""
FRAMES, ATOMS = 200, 5_000
"""As many are looked at: the question is one of factors."""


class References(NamedTuple):
    """What n structures are compared with."""

    name: str
    """Said in warnings: "the EIPs", for one."""
    energies: np.ndarray
    """(n, k), eV, NaN where missing."""
    forces: Sequence[np.ndarray]
    """Of each structure (n_atoms, k, 3), eV/A, NaN where missing."""
    signs: bool = True
    """Whether forces against them are wrong."""


def sample(structures: Sequence[Atoms]) -> StructureStore:
    """Evenly spread over the structures with an energy, as many as are needed."""
    store = StructureStore.of(structures)
    rows = np.flatnonzero(np.isfinite(store.energies))
    enough = max(ATOMS * len(rows) // max(int(store.sizes[rows].sum()), 1), FEW)
    count = min(len(rows), FRAMES, enough)
    return store.take(rows[np.linspace(0, len(rows) - 1, count).astype(int)])


def yardstick_references(structures: Sequence[Atoms]) -> References:
    """Those of `eipnn.yardstick`; no energies where the structures are at rest, as crystals under strain alone are.

    Along such a path every potential goes with every other, and one that is at rest elsewhere may have any slope.
    """
    energies, forces = zip(*map(yardstick, structures), strict=True)
    moving = sum(np.sqrt(np.mean(f**2)) > STILL for f in forces)
    known = np.array(energies) if moving >= FEW else np.full((len(forces), len(STRETCHES)), np.nan)
    return References("a crude universal potential", known, forces, signs=False)


def label_references(structures: Sequence[Atoms], store: LabelStore, eips: Sequence[str]) -> References:
    """The labels of these EIPs."""
    ids = StructureStore.of(structures).ids
    columns = [store.eips.index(name) for name in eips]
    name = f"the EIP {eips[0]}" if len(eips) == 1 else "the EIPs"
    return References(name, store.energies_of(ids, eips), [store.forces(i)[:, columns] for i in ids])


def energy_warning(structures: Sequence[Atoms], references: References, source: str) -> str | None:
    """What is to be said of the unit of energies; None where they may be totals in eV.

    Args:
        structures: n, with an energy each, as of `sample`.
        references: of the same n structures.
        source: the file that the energies are from.
    """
    store = StructureStore.of(structures)
    if len(store) < FEW:
        return None
    counts = store.composition()[1].astype(np.float64)
    per_atom = is_per_atom(store.energies, counts, references.energies)
    totals = store.energies * (store.sizes if per_atom else 1)
    ratio = energy_ratio(totals, counts, references.energies)
    # where sizes do not vary, eV an atom is a unit like another one
    alike = {"eV per atom": 1 / float(store.sizes[0])} if np.ptp(store.sizes) == 0 else {}
    unit = "eV" if ratio is None else likely(ratio, ENERGY_UNITS | alike)
    said, guesses = [], []
    if unit != "eV":
        said.append(f"vary {ratio:.2g} times as much as those of {references.name}")
        guesses.append(f"{unit}?")
    if per_atom:
        said.append("do not grow with the number of atoms")
        guesses.append("per atom?")
    if not said:
        return None
    what = f"the energies {' and '.join(said)}: {' '.join(guesses)}"
    return f"{source}: {what} Total energies in eV are due; convert the file"


def force_warning(structures: Sequence[Atoms], references: References, source: str) -> str | None:
    """The same for forces, if there are any: None where they may be in eV/A."""
    if (found := force_ratio(structures, references.forces)) is None:
        return None
    cosine, ratio = found
    unit = likely(ratio, FORCE_UNITS)
    if unit != "eV":
        what = f"are {ratio:.2g} times those of {references.name}: {unit}? eV/A are due; convert the file"
    elif references.signs and cosine < -CORRELATED:
        what = f"point against those of {references.name}: gradients? Forces are due; change the sign"
    else:
        return None
    return f"{source}: the forces {what}"


def likely(ratio: float, factors: dict[str, float]) -> str:
    """ "eV" within `SILENT`; else the closest of the units, and all that are about as likely, closest first."""
    if SILENT[0] <= ratio <= SILENT[1]:
        return "eV"
    off = {name: abs(np.log(ratio / factor)) for name, factor in factors.items()}
    named = sorted(off, key=off.__getitem__)
    return " or ".join(n for n in named if n == named[0] or off[n] <= np.log(ALIKE))


def energy_ratio(energies: np.ndarray, counts: np.ndarray, references: np.ndarray) -> float | None:
    """Spread of total energies (n,) over that of the reference (of k) that goes with them best.

    One about as good whose ratio is right has precedence: along one path, as of strain, many go with DFT. None where
    none does. counts: (n, elements); references: (n, k).
    """
    found = []  # (correlation, ratio)
    for column, known in _told(references):
        n_atoms = counts[known].sum(axis=1)
        x, y = (fit_composition(counts[known], e[known]).left / n_atoms for e in (column, energies))
        if min(spread(x), spread(y)) > ROUNDING:
            found.append((max(float(spearmanr(x, y)[0]), 0.0), spread(y) / spread(x)))
    ratios = [ratio for _, ratio in _good(found)]
    right = [ratio for ratio in ratios if SILENT[0] <= ratio <= SILENT[1]]
    return next(iter(right + ratios), None)


def is_per_atom(energies: np.ndarray, counts: np.ndarray, references: np.ndarray) -> bool:
    """Whether energies (n,) are explained far better as energies per atom than as totals.

    Both are fitted by one energy an element and a multiple of one of the references (n, k); sizes that do not vary
    tell nothing.
    """
    n_atoms = counts.sum(axis=1)
    if len(np.unique(n_atoms)) < 2:
        return False
    best = [np.inf, np.inf]
    for column, known in _told(np.column_stack([np.zeros_like(energies), references])):  # the first: no reference
        terms = np.column_stack([counts, column])[known]
        for k, scaled in enumerate((terms, terms / n_atoms[known, None])):
            best[k] = min(best[k], spread(fit_composition(scaled, energies[known]).left))
    return best[1] < PER_ATOM * best[0]


def _told(references: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each reference (n,) of enough structures, and of which (n,)."""
    for column in references.T:
        if (known := np.isfinite(column)).sum() >= FEW:
            yield column, known


def force_ratio(structures: Sequence[Atoms], references: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Cosine between the forces and those of the reference with their directions best, and the ratio of sizes.

    The ratio is a median over the references that are about as good: directions hardly depend on the sizes. Both are
    medians over structures. None without forces, and where no reference has their directions.
    """
    store = StructureStore.of(structures)
    if len(store) < FEW:
        return None
    rows = np.repeat(np.arange(len(store)), store.sizes)

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # of each structure (n,), NaN where one has no forces
        return np.bincount(rows, np.sum(a * b, axis=1), len(store))

    found = []  # (cosine, ratio)
    sizes = np.sqrt(dot(store.forces, store.forces))
    for other in np.concatenate(references).transpose(1, 0, 2):
        others = np.sqrt(dot(other, other))
        moving = (sizes > 0) & (others > STILL * np.sqrt(3 * store.sizes))
        if moving.sum() >= FEW:
            own, theirs, products = sizes[moving], others[moving], dot(store.forces, other)[moving]
            found.append((float(np.median(products / (own * theirs))), float(np.median(own / theirs))))
    good = _good(found)
    return (good[0][0], float(np.median([ratio for _, ratio in good]))) if good else None


def _good(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (correlation, ratio) pairs those that go with DFT best and about as well, the best first."""
    found = sorted(found, key=lambda pair: -abs(pair[0]))
    return [p for p in found if abs(p[0]) >= max(CORRELATED, abs(found[0][0]) - AS_GOOD)]


def spread(values: np.ndarray) -> float:
    """Median absolute deviation: a single absurd value does not count."""
    return float(np.median(np.abs(values - np.median(values))))
