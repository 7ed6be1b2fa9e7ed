"""Are energies, forces and stress in eV and A? A unit is a factor of 13 or more, and that shows in the spread.

Energies are compared with those of references (EIPs, or `eipnn.yardstick` where there are no labels) on the same
structures, once each has been freed of one energy an element, so that no energy zero matters. Of the references the one
that goes with DFT best (Spearman's correlation, which knows no units) is asked for its spread.

The stress is compared with what goes with the forces: of the yardsticks that go with the forces, each gives the stress
in its own stiffness, which the ratio of forces takes out. So its sign shows too, and virials where a stress is due.

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
STRESS_UNITS = {
    "GPa": 1 / units.GPa,
    "kbar": 10 / units.GPa,
    "MPa": 1e3 / units.GPa,
    "bar": 1e4 / units.GPa,
    "Hartree/bohr^3": units.Bohr**3 / units.Hartree,
    "Rydberg/bohr^3": units.Bohr**3 / units.Rydberg,
    "meV/A^3": 1000.0,
}
"""The number that stands for 1 eV/A^3."""

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
STILL_STRESS = 1e-4
"""The same of the stress, eV/A^3."""
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


def sample(structures: Sequence[Atoms], *labels: str) -> StructureStore:
    """Evenly spread over the structures with these labels (default: energies), as many as are needed."""
    store = StructureStore.of(structures)
    rows = np.flatnonzero(np.all([store.labelled()[name] for name in labels or ("energies",)], axis=0))
    enough = max(ATOMS * len(rows) // max(int(store.sizes[rows].sum()), 1), FEW)
    count = min(len(rows), FRAMES, enough)
    return store.take(rows[np.linspace(0, len(rows) - 1, count).astype(int)])


def yardstick_references(structures: Sequence[Atoms]) -> References:
    """Those of `eipnn.yardstick`; no energies where the structures are at rest, as crystals under strain alone are.

    Along such a path every potential goes with every other, and one that is at rest elsewhere may have any slope.
    """
    energies, forces, _ = zip(*map(yardstick, structures), strict=True)
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


def stress_warning(structures: Sequence[Atoms], source: str) -> str | None:
    """The same for the stress of those that have forces too: None where it may be in eV/A^3, positive under tension."""
    store = sample(structures, "forces", "stress")
    if (found := stress_ratio(store)) is None:
        return None
    cosine, ratio = found
    volume = float(np.median(np.abs(np.linalg.det(store.cells))))
    swapped = {"a stress under a key of virials": 1 / volume} if cosine < 0 else {}
    unit = likely(ratio, STRESS_UNITS | {"virials": volume} | swapped)
    guesses = ([f"{unit}?"] if unit != "eV" else []) + (["positive under pressure?"] if cosine < 0 else [])
    if not guesses:
        return None
    what = f"is {np.sign(cosine) * ratio:.3g} times what goes with the forces: {' '.join(guesses)}"
    return f"{source}: the stress {what} eV/A^3, positive under tension, are due; convert the file"


def zeros_warning(structures: Sequence[Atoms], source: str) -> str | None:
    """What is to be said of forces that are exactly 0 where the yardstick has some; None where none are.

    So of a stress that is exactly 0 where forces are not.
    """
    store, strained = sample(structures, "forces"), sample(structures, "forces", "stress")
    for name, looked, zeros, where in (
        ("forces", store, [k for k, atoms in enumerate(store) if _zero_forces(atoms)], "atoms are displaced"),
        ("stress", strained, [k for k, atoms in enumerate(strained) if _zero_stress(atoms)], "forces are not"),
    ):
        if zeros:
            what = f"{name} of {len(zeros)} of {len(looked)} frames looked at are exactly 0 where {where}"
            return f"{source}: {what} ({looked.ids[zeros[0]]}): do they stand for none? Leave them out of the file"
    return None


def _zero_forces(atoms: Atoms) -> bool:
    return not atoms.calc.results["forces"].any() and np.sqrt(np.mean(yardstick(atoms)[1] ** 2)) > STILL


def _zero_stress(atoms: Atoms) -> bool:
    return not atoms.calc.results["stress"].any() and np.abs(atoms.calc.results["forces"]).max() > STILL


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
    found = np.zeros((references.shape[1], 2))  # correlation, ratio
    for k, column, known in _told(references):
        n_atoms = counts[known].sum(axis=1)
        x, y = (fit_composition(counts[known], e[known]).left / n_atoms for e in (column, energies))
        if min(spread(x), spread(y)) > ROUNDING:
            found[k] = max(float(spearmanr(x, y)[0]), 0.0), spread(y) / spread(x)
    ratios = found[_good(found[:, 0]), 1].tolist()
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
    for _, column, known in _told(np.column_stack([np.zeros_like(energies), references])):  # the first: no reference
        terms = np.column_stack([counts, column])[known]
        for k, scaled in enumerate((terms, terms / n_atoms[known, None])):
            best[k] = min(best[k], spread(fit_composition(scaled, energies[known]).left))
    return best[1] < PER_ATOM * best[0]


def _told(references: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Place, values (n,) and what is known (n,) of each reference of enough structures."""
    for k, column in enumerate(references.T):
        if (known := np.isfinite(column)).sum() >= FEW:
            yield k, column, known


def force_ratio(structures: Sequence[Atoms], references: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Cosine between the forces and those of the reference with their directions best, and the ratio of sizes.

    The ratio is a median over the references that are about as good: directions hardly depend on the sizes. Both are
    medians over structures. None without forces, and where no reference has their directions.
    """
    store = StructureStore.of(structures)
    if len(store) < FEW:
        return None
    found = _forces_beside(store, references)
    good = _good(found[:, 0])
    return (float(found[good[0], 0]), float(np.median(found[good, 1]))) if len(good) else None


def stress_ratio(structures: Sequence[Atoms]) -> tuple[float, float] | None:
    """Cosine between the stress and that of the yardsticks that go with the forces, and the ratio of sizes.

    Of each, without the median pressure, over that of the forces. None without forces and stress, and where they tell
    nothing.
    """
    store = StructureStore.of(structures)
    if len(store) < FEW:
        return None
    _, forces, stresses = zip(*map(yardstick, store), strict=True)
    beside = _forces_beside(store, forces)
    own, theirs = _sheared(store.stresses), _sheared(np.stack(stresses, axis=1))  # (n, 3, 3), (k, n, 3, 3)
    rows = np.repeat(np.arange(len(store)), 3)
    found = _beside(own.reshape(-1, 3), theirs.reshape(len(theirs), -1, 3), rows, np.full(len(store), STILL_STRESS))
    good = [k for k in _good(beside[:, 0]) if found[k, 1] > 0]
    if not good or likely(float(np.median(beside[good, 1])), FORCE_UNITS) != "eV":
        return None
    cosine = float(np.median(found[good, 0] * np.sign(beside[good, 0])))
    ratio = float(np.median(found[good, 1] / beside[good, 1]))
    return (cosine, ratio) if abs(cosine) > CORRELATED else None


def _sheared(stresses: np.ndarray) -> np.ndarray:
    """Stress (..., n, 3, 3) without the median pressure of the n structures, which depends on where rest is."""
    pressures = np.trace(stresses, axis1=-2, axis2=-1) / 3
    return stresses - np.median(pressures, axis=-1)[..., None, None, None] * np.eye(3)


def _forces_beside(store: StructureStore, references: Sequence[np.ndarray]) -> np.ndarray:
    """`_beside` of the forces (k, 2)."""
    rows = np.repeat(np.arange(len(store)), store.sizes)
    return _beside(store.forces, np.concatenate(references).transpose(1, 0, 2), rows, STILL * np.sqrt(3 * store.sizes))


def _beside(own: np.ndarray, references: np.ndarray, rows: np.ndarray, still: np.ndarray) -> np.ndarray:
    """Cosine with each reference and ratio of sizes to it, medians over n structures (k, 2); 0 where too few tell.

    Args:
        own: vectors (N, 3), as are those of the references (k, N, 3).
        rows: which structure each vector belongs to (N,).
        still: size of all vectors of a structure up to which a reference says nothing (n,).
    """

    def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:  # of each structure (n,), NaN where one has none
        return np.bincount(rows, np.sum(a * b, axis=1), len(still))

    found = np.zeros((len(references), 2))
    sizes = np.sqrt(dot(own, own))
    for k, other in enumerate(references):
        others = np.sqrt(dot(other, other))
        moving = (sizes > 0) & (others > still)
        if moving.sum() >= FEW:
            mine, theirs, products = sizes[moving], others[moving], dot(own, other)[moving]
            found[k] = np.median(products / (mine * theirs)), np.median(mine / theirs)
    return found


def _good(correlations: np.ndarray) -> np.ndarray:
    """Places of the references that go with DFT best and about as well, the best first."""
    size = np.abs(correlations)
    good = np.flatnonzero(size >= max(CORRELATED, size.max(initial=0.0) - AS_GOOD))
    return good[np.argsort(-size[good], kind="stable")]


def spread(values: np.ndarray) -> float:
    """Median absolute deviation: a single absurd value does not count."""
    return float(np.median(np.abs(values - np.median(values))))
