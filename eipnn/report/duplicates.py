"""Structures that two sets share, or nearly so.

The fingerprint of a structure is its pointwise distance distribution (Widdowson & Kurlin, NeurIPS 2022, "Resolving
the data ambiguity for periodic crystals"): for each atom, the sorted distances to its nearest neighbours. It does not
change under translation, rotation, reflection, order of atoms and choice of cell, supercells included, and it is
continuous: atoms that move by at most e change no distance by more than 2 e. Here each atom has one such list per
neighbour element, and distances end at a radius, so that clusters and slabs are compared in the same way.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse import eye, kron, vstack
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from eipnn.neighbours import NeighbourList, complete_cell

THRESHOLD = 0.02
"""A. Among the DFT frames of si_mini, all pairs this near differ by less than 0.02 eV/atom (median 0.01), which is
below the errors of the potentials and of the order of what k-point sets leave open."""
RADIUS = 6.0  # A; beyond the reach of most potentials
NEIGHBOURS = 64  # of each element; silicon has about 45 within 6 A


@dataclass(frozen=True)
class Fingerprint:
    """Pointwise distance distribution."""

    name: str  # the structure's config_id
    formula: str  # of the formula unit
    numbers: np.ndarray  # atomic numbers (N,)
    distances: np.ndarray  # (N, n_elements * NEIGHBOURS), A, sorted within each element; RADIUS without neighbour

    @property
    def mean(self) -> np.ndarray:
        """Mean distances of the atoms of each element, one after the other."""
        elements = np.unique(self.numbers)
        return np.concatenate([self.distances[self.numbers == z].mean(axis=0) for z in elements])


def fingerprint(atoms: Atoms, elements: Sequence[int]) -> Fingerprint:
    """The fingerprint of a structure with ``info["config_id"]``; `elements`: of all structures that are compared."""
    cell = complete_cell(atoms)
    (i, j), shift = NeighbourList(RADIUS)(atoms.positions, cell, atoms.pbc)
    d = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shift @ cell, axis=1)
    i, j, d = np.concatenate([i, j]), np.concatenate([j, i]), np.tile(d, 2)
    distances = np.full((len(atoms), len(elements), NEIGHBOURS), RADIUS)
    for atom, column in np.ndindex(distances.shape[:2]):
        near = np.sort(d[(i == atom) & (atoms.numbers[j] == elements[column])])[:NEIGHBOURS]
        distances[atom, column, : len(near)] = near
    formula = atoms.symbols.formula.reduce()[0].format("hill")
    return Fingerprint(atoms.info["config_id"], formula, atoms.numbers.copy(), distances.reshape(len(atoms), -1))


def distance(a: Fingerprint, b: Fingerprint) -> float:
    """How far two structures of one composition are apart, A: atoms are matched, and what counts is the largest
    change in an atom's neighbour distances, averaged over the atoms (the earth mover's distance)."""
    total = 0.0
    for z in np.unique(a.numbers):
        mine, theirs = a.distances[a.numbers == z], b.distances[b.numbers == z]
        total += _transport(cdist(mine, theirs, "chebyshev")) * len(mine)
    return total / len(a.numbers)


def _transport(cost: np.ndarray) -> float:
    """Smallest mean cost (n, m) of carrying n equal weights to m equal weights."""
    n, m = cost.shape
    if n == m:
        return float(cost[linear_sum_assignment(cost)].mean())
    rows, columns = kron(eye(n), np.ones((1, m))), kron(np.ones((1, n)), eye(m))
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    return float(linprog(cost.ravel(), A_eq=vstack([rows, columns]), b_eq=weights).fun)


def near_duplicates(
    first: Sequence[Atoms], second: Sequence[Atoms], threshold: float = THRESHOLD
) -> list[tuple[str, str, float]]:
    """Ids and distance of pairs of one structure of each set that are at most `threshold` (A) apart.

    In the order of `first`, the nearest partner first.
    """
    elements = sorted({int(z) for atoms in (*first, *second) for z in set(atoms.numbers)})
    groups: dict[str, list[Fingerprint]] = {}
    for theirs in (fingerprint(atoms, elements) for atoms in second):
        groups.setdefault(theirs.formula, []).append(theirs)
    trees = {key: cKDTree([p.mean for p in prints]) for key, prints in groups.items()}
    pairs = []
    for mine in (fingerprint(atoms, elements) for atoms in first):
        if mine.formula not in groups:
            continue
        # Means differ by no more than the distance does: nothing is lost by looking at them first.
        reach = threshold * len(mine.numbers) / np.unique(mine.numbers, return_counts=True)[1].min()
        near = [groups[mine.formula][k] for k in trees[mine.formula].query_ball_point(mine.mean, reach, p=np.inf)]
        partners = [(mine.name, theirs.name, distance(mine, theirs)) for theirs in near]
        pairs += sorted((p for p in partners if p[2] <= threshold), key=lambda p: p[2])
    return pairs
