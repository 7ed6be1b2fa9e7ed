"""How close two atoms of a generated structure may come, periodic images included."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii

from eipnn.neighbours import pairs

PARENT_SHARE = 0.9  # of the shortest distance that the parents have for a pair of elements
COVALENT_SHARE = 0.8
"""Of the sum of the covalent radii, for pairs that no parent has: Si-Si 1.78 A, Al-Al 1.94 A, Ag-Au 2.25 A."""
REACH = 2.0
"""Sums of covalent radii within which two atoms are neighbours. Elements that the parents hold farther apart only do
not count as a pair that they have."""
RADII = np.add.outer(covalent_radii, covalent_radii)
"""Their sums, A, by two atomic numbers."""


@dataclass(frozen=True)
class DistanceRule:
    """The shortest distance allowed, in A: `shortest[z1, z2]` for two atomic numbers, symmetric."""

    shortest: np.ndarray

    def broken(self, atoms: Atoms) -> bool:
        """Whether two atoms, or an atom and an image, are closer than allowed."""
        present = np.unique(atoms.numbers)
        reach = self.shortest[np.ix_(present, present)].max()
        first, second, found = distances(atoms, reach + 1e-6)
        return bool((found < self.shortest[first, second]).any())

    def text(self, numbers: Iterable[int]) -> str:
        """The distances between the elements of these atomic numbers, for people to read."""
        elements = combinations_with_replacement(sorted(set(numbers)), 2)
        return ", ".join(f"{chemical_symbols[a]}-{chemical_symbols[b]} {self.shortest[a, b]:.2f}" for a, b in elements)


def distances(atoms: Atoms, reach: float | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both atomic numbers and the distance (A) of pairs up to `reach` (or that can be neighbours), each (n_pairs,)."""
    reach = reach or 2 * REACH * float(covalent_radii[atoms.numbers].max())
    i, j, found, _ = pairs(atoms, reach)
    return atoms.numbers[i], atoms.numbers[j], found


def shortest_distances(frames: Iterable[Atoms]) -> np.ndarray:
    """The shortest distance (A) by two atomic numbers, symmetric; inf for elements that no frame has side by side."""
    shortest = np.full_like(RADII, np.inf)
    for atoms in frames:
        first, second, found = distances(atoms)
        np.minimum.at(shortest, (first, second), found)
    return np.minimum(shortest, shortest.T)


def covalent_rule() -> DistanceRule:
    """`COVALENT_SHARE` of the sums of covalent radii."""
    return DistanceRule(COVALENT_SHARE * RADII)


def uniform_rule(shortest: float) -> DistanceRule:
    """One distance (A) for all pairs."""
    return DistanceRule(np.full_like(RADII, shortest))


def parents_rule(frames: Sequence[Atoms], ideal: float = np.inf) -> DistanceRule:
    """`PARENT_SHARE` of the shortest distances in the frames; `covalent_rule` for pairs that they do not have.

    `ideal` is the shortest distance (A) of prototypes that are parents too: they must hold the rule as well.
    """
    seen = shortest_distances(frames)
    from_parents = PARENT_SHARE * np.minimum(seen, ideal)
    return DistanceRule(np.where(seen <= REACH * RADII, from_parents, covalent_rule().shortest))
