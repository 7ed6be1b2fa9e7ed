"""How close two atoms of a generated structure may come, periodic images included."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

PARENT_SHARE = 0.9  # of the shortest distance that the parents have for a pair of elements
COVALENT_SHARE = 0.8
"""Of the sum of the covalent radii, for pairs that no parent has: Si-Si 1.78 A, Al-Al 1.94 A, Ag-Au 2.25 A."""
REACH = 2.0
"""Sums of covalent radii within which two atoms are neighbours. Elements that the parents hold farther apart
only do not count as a pair that they have."""

N_ELEMENTS = len(covalent_radii)


@dataclass(frozen=True)
class DistanceRule:
    """The shortest distance allowed, in A: `shortest[z1, z2]` for two atomic numbers, symmetric."""

    shortest: np.ndarray

    def broken(self, atoms: Atoms) -> bool:
        """Whether two atoms, or an atom and an image, are closer than allowed."""
        present = np.unique(atoms.numbers)
        reach = self.shortest[np.ix_(present, present)].max()
        first, second, distances = pairs(atoms, reach + 1e-6)
        return bool((distances < self.shortest[first, second]).any())

    def text(self, numbers: Iterable[int]) -> str:
        """The distances between the elements of these atomic numbers, for people to read."""
        present = sorted(set(numbers))
        return ", ".join(
            f"{chemical_symbols[a]}-{chemical_symbols[b]} {self.shortest[a, b]:.2f}"
            for a in present
            for b in present
            if a <= b
        )


def pairs(atoms: Atoms, reach: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both atomic numbers and the distance (A) of all pairs up to `reach`, each (n_pairs,)."""
    # ASE's own list is the same and takes thirty times as long, for every draw.
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    import vesin  # imports torch where that is installed: over a second

    finder = vesin.NeighborList(cutoff=reach, full_list=False, n_threads=1)
    i, j, distances = finder.compute(atoms.positions, cell, atoms.pbc, quantities="ijd")
    return atoms.numbers[i], atoms.numbers[j], distances


def closest(atoms: Atoms) -> float:
    """The shortest distance (A) between two atoms, infinite where there are no neighbours."""
    found = pairs(atoms, 2 * REACH * covalent_radii[atoms.numbers].max())[2]
    return float(found.min(initial=np.inf))


def covalent_rule() -> DistanceRule:
    """`COVALENT_SHARE` of the sums of covalent radii."""
    return DistanceRule(COVALENT_SHARE * np.add.outer(covalent_radii, covalent_radii))


def uniform_rule(shortest: float) -> DistanceRule:
    """One distance (A) for all pairs."""
    return DistanceRule(np.full((N_ELEMENTS, N_ELEMENTS), shortest))


def parents_rule(frames: Sequence[Atoms], ideal: float = np.inf) -> DistanceRule:
    """`PARENT_SHARE` of the shortest distances in the frames; `covalent_rule` for pairs that they do not have.

    `ideal` is the shortest distance (A) of prototypes that are parents too: they must hold the rule as well.
    """
    limit = REACH * np.add.outer(covalent_radii, covalent_radii)
    seen = np.full((N_ELEMENTS, N_ELEMENTS), np.inf)
    for atoms in frames:
        first, second, distances = pairs(atoms, 2 * REACH * covalent_radii[atoms.numbers].max())
        np.minimum.at(seen, (first, second), distances)
    seen = np.minimum(seen, seen.T)
    from_parents = PARENT_SHARE * np.minimum(seen, ideal)
    return DistanceRule(np.where(seen <= limit, from_parents, covalent_rule().shortest))
