"""Are energies and forces in eV and eV/A? A unit is a factor of 13 or more, and that shows in the spread.

Energies are compared with those of references (EIPs, or `eipnn.yardstick` where there are no labels) on the same
structures, once each has been freed of one energy an element, so that no energy zero matters. Of the references the one
that goes with DFT best (Spearman's correlation, which knows no units) is asked for its spread.

What cannot be told from eV is a factor within `SILENT` (eV/bohr, for one). Nothing is said where no reference goes with
DFT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms, units
from scipy.stats import spearmanr

from eipnn.labels.store import LabelStore
from eipnn.reference import fit_composition
from eipnn.structures import energy
from eipnn.yardstick import yardsticks

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


@dataclass(frozen=True)
class References:
    """What n structures are compared with.

    Args:
        name: said in warnings: "the EIPs", for one.
        energies: (n, k), eV, NaN where missing.
        forces: of each structure (n_atoms, k, 3), eV/A, NaN where missing.
        signs: whether forces against them are wrong.
    """

    name: str
    energies: np.ndarray
    forces: Sequence[np.ndarray]
    signs: bool = True


def sample(structures: Sequence[Atoms]) -> list[Atoms]:
    """Evenly spread over the structures with an energy, as many as are needed."""
    given = [atoms for atoms in structures if energy(atoms) is not None]
    size = np.mean([len(atoms) for atoms in given]) if given else 1
    count = int(min(len(given), FRAMES, max(ATOMS / size, FEW)))
    return [given[k] for k in np.linspace(0, len(given) - 1, count).astype(int)] if given else []


def yardstick_references(structures: Sequence[Atoms]) -> References:
    """Those of `eipnn.yardstick`; no energies where the structures are at rest, as crystals under strain alone are.

    Along such a path every potential goes with every other, and one that is at rest elsewhere may have any slope.
    """
    energies, forces = yardsticks(structures)
    moving = [np.sqrt(np.mean(f**2)) > STILL for f in forces]
    energies = energies if sum(moving) >= FEW else np.full_like(energies, np.nan)
    return References("a crude universal potential", energies, forces, signs=False)


def label_references(structures: Sequence[Atoms], store: LabelStore, eips: Sequence[str]) -> References:
    """The labels of these EIPs."""
    ids = [atoms.info["config_id"] for atoms in structures]
    columns = [store.eips.index(name) for name in eips]
    forces = [store.forces(name)[:, columns] for name in ids]
    name = f"the EIP {eips[0]}" if len(eips) == 1 else "the EIPs"
    return References(name, store.energies_of(ids, eips), forces)


def energy_warning(structures: Sequence[Atoms], references: References, source: str) -> str | None:
    """What is to be said of the unit of energies; None where they may be totals in eV.

    Args:
        structures: n, with an energy each, as of `sample`.
        references: of the same n structures.
        source: the file that the energies are from.
    """
    if len(structures) < FEW:
        return None
    energies = np.array([energy(atoms) for atoms in structures], dtype=np.float64)
    elements = sorted({symbol for atoms in structures for symbol in atoms.symbols})
    counts = np.array([[np.sum(a.symbols == e) for e in elements] for a in structures], float)
    n_atoms = counts.sum(axis=1)
    per_atom = is_per_atom(energies, counts, references.energies)
    weights = n_atoms if per_atom else np.ones_like(n_atoms)
    ratio = energy_ratio(energies * weights, counts, references.energies)
    unit = "eV" if ratio is None else likely(ratio, _with_size(n_atoms))
    if not per_atom and unit == "eV":
        return None
    what = f"{source}: the energies "
    if ratio is not None and unit != "eV":
        what += f"vary {ratio:.2g} times as much as those of {references.name}"
    if per_atom:
        what += (" and " if unit != "eV" else "") + "do not grow with the number of atoms"
        guess = "per atom?" if unit == "eV" else f"{unit}? per atom?"
    else:
        guess = f"{unit}?"
    return f"{what}: {guess} Total energies in eV are due; convert the file"


def force_warning(structures: Sequence[Atoms], references: References, source: str) -> str | None:
    """The same for forces, if there are any: None where they may be in eV/A."""
    found = force_ratio(structures, references.forces)
    if found is None:
        return None
    cosine, ratio = found
    what = f"{source}: the forces "
    unit = likely(ratio, FORCE_UNITS)
    if unit != "eV":
        return f"{what}are {ratio:.2g} times those of {references.name}: {unit}? eV/A are due; convert the file"
    if references.signs and cosine < -CORRELATED:
        return f"{what}point against those of {references.name}: gradients? Forces are due; change the sign"
    return None


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
    for column in references.T:
        known = np.isfinite(column) & np.isfinite(energies)
        if known.sum() < FEW:
            continue
        n_atoms = counts[known].sum(axis=1)
        x = fit_composition(counts[known], column[known]).left / n_atoms
        y = fit_composition(counts[known], energies[known]).left / n_atoms
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
    for column in (np.zeros_like(energies), *references.T):  # the first: without a reference
        known = np.isfinite(column) & np.isfinite(energies)
        if known.sum() < FEW:
            continue
        terms = np.column_stack([counts, column])[known]
        for k, scaled in enumerate((terms, terms / n_atoms[known, None])):
            best[k] = min(best[k], spread(fit_composition(scaled, energies[known]).left))
    return best[1] < PER_ATOM * best[0]


def force_ratio(structures: Sequence[Atoms], references: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """Cosine between the forces and those of the reference with their directions best, and the ratio of sizes.

    The ratio is a median over the references that are about as good: directions hardly depend on the sizes. Both are
    medians over structures. None without forces, and where no reference has their directions.
    """
    given = [
        (atoms.calc.results["forces"], reference)
        for atoms, reference in zip(structures, references, strict=True)
        if "forces" in atoms.calc.results
    ]
    found = []  # (cosine, ratio)
    for k in range(given[0][1].shape[1] if given else 0):
        pairs = [(f, r[:, k]) for f, r in given]
        # (n, 2), NaN without a label
        sizes = np.array([[np.linalg.norm(f), np.linalg.norm(r)] for f, r in pairs])
        moving = (sizes[:, 0] > 0) & (sizes[:, 1] > [STILL * np.sqrt(f.size) for f, _ in pairs])
        if moving.sum() < FEW:
            continue
        products, sizes = np.array([np.sum(f * r) for f, r in pairs])[moving], sizes[moving]
        cosine = float(np.median(products / sizes.prod(axis=1)))
        found.append((cosine, float(np.median(sizes[:, 0] / sizes[:, 1]))))
    good = _good(found)
    return (good[0][0], float(np.median([ratio for _, ratio in good]))) if good else None


def _good(found: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (correlation, ratio) pairs those that go with DFT best and about as well, the best first."""
    found = sorted(found, key=lambda pair: -abs(pair[0]))
    return [p for p in found if abs(p[0]) >= max(CORRELATED, abs(found[0][0]) - AS_GOOD)]


def spread(values: np.ndarray) -> float:
    """Median absolute deviation: a single absurd value does not count."""
    return float(np.median(np.abs(values - np.median(values))))


def _with_size(n_atoms: np.ndarray) -> dict[str, float]:
    """The units of energy and, where sizes do not vary, eV an atom, which is a unit like another one then."""
    alike = {"eV per atom": 1 / float(n_atoms[0])} if np.ptp(n_atoms) == 0 else {}
    return ENERGY_UNITS | alike
