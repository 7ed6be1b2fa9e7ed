"""Which structures are the same, atom by atom: candidates by marks that noise hardly moves, then true distances."""

import numpy as np
from scipy.spatial import cKDTree

from eipnn.structures.store import StructureStore

APART = 1e-3
"""A; so far apart at most are the ends of lattice vectors, and atoms, that are the same."""
REACH = 2 * APART  # by which the marks of the same structures differ at most
WAVES = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]])
BLOCK = 200  # structures, or pairs of them, at a time
RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.uniform(0.5, 1, 256)  # of atoms in the marks, by atomic number
KEYS = RANDOM.integers(0, 2**63, 256 + 3, dtype=np.uint64)  # of elements, and of periodic axes


def first_twins(known: StructureStore, asked: StructureStore, earlier: bool = False) -> np.ndarray:
    """For each of n structures the row of the first of `known` that is the same; -1 where none is.

    The same are structures with the same periodic axes, whose lattice vectors and atoms are up to `APART` from each
    other's: in any order of the atoms within an element, and whichever periodic image of an atom a file gives. Atoms
    are compared relative to the cells; along open axes lattice vectors carry no meaning. Other cells of a crystal, and
    atoms that are shifted as a whole, are other structures.

    Args:
        known: any number of structures.
        asked: n structures.
        earlier: of the same `known` structures; a twin stands before.

    Returns:
        (n,) rows of `known`.
    """
    found = np.full(len(asked), len(known))
    if known:
        own = np.unique(known.checksums, return_index=True)[1]  # of copies the first
        tree = cKDTree(np.concatenate([_marks(known, rows) for rows in _blocks(len(known))])[own])
        for block in _blocks(len(asked)):
            near = tree.query_ball_point(_marks(asked, block), REACH, p=np.inf)
            pairs = np.array([own[np.concatenate(near).astype(int)], np.repeat(block, [len(rows) for rows in near])])
            if earlier:
                pairs = pairs[:, pairs[0] < pairs[1]]
            for part in _blocks(pairs.shape[1]):
                first, second = pairs[:, part]
                same = _same(known, first, asked, second)
                np.minimum.at(found, second[same], first[same])
    return np.where(found < len(known), found, -1)


def _blocks(n: int) -> list[np.ndarray]:
    return [np.arange(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]


def _marks(store: StructureStore, rows: np.ndarray) -> np.ndarray:
    """Numbers (n, 16) of structures (n,), in A: apart by no more than `REACH` where structures are the same.

    Elements and periodic axes, as a number; the sum of the lattice vectors; the structure factors of the longest waves
    in the cell.
    """
    cells, inverse, scaled = _relative(store, rows)
    numbers, sizes = store.numbers[store.atoms_of(rows)], store.sizes[rows]
    starts = np.cumsum(sizes) - sizes
    kinds = np.add.reduceat(KEYS[numbers], starts) + store.pbc[rows] @ KEYS[256:]
    long = np.exp(2j * np.pi * scaled)
    waves = np.concatenate([long, long * np.roll(long, -1, axis=1)], axis=1) * WEIGHTS[numbers, None]
    factors = np.add.reduceat(waves, starts) / sizes[:, None]
    factors /= 2 * np.pi * np.linalg.norm(inverse @ WAVES.T, axis=1)  # an atom moves them by less than it is moved
    lattice = np.where(store.pbc[rows, :, None], cells, 0.0).sum(axis=1) / 3
    return np.column_stack([kinds % 2**20, lattice, factors.real, factors.imag]).astype(np.float64)


def _relative(store: StructureStore, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells (n, 3, 3) without open axes, their inverse, and places of the atoms in them (N, 3)."""
    cells = _completed(np.where(store.pbc[rows, :, None], store.cells[rows], 0.0))
    inverse = np.linalg.inv(cells)
    of = np.repeat(np.arange(len(rows)), store.sizes[rows])
    return cells, inverse, np.einsum("ai,aij->aj", store.positions[store.atoms_of(rows)], inverse[of])


def _completed(cells: np.ndarray) -> np.ndarray:
    """Cells (n, 3, 3) with open axes of 1 A, at right angles, which noise in the others hardly turns."""
    cells = cells.copy()
    missing = (cells == 0).all(axis=2)  # (n, 3)
    cells[missing.all(axis=1)] = np.eye(3)
    wires = np.flatnonzero(missing.sum(axis=1) == 2)
    along = cells[wires].sum(axis=1)
    steep = np.abs(along) < 0.6 * np.linalg.norm(along, axis=1, keepdims=True)  # at least one is
    cells[wires, missing[wires].argmax(axis=1)] = _normal(along, np.eye(3)[steep.argmax(axis=1)])
    row, axis = np.nonzero((cells == 0).all(axis=2))
    cells[row, axis] = _normal(cells[row, (axis + 1) % 3], cells[row, (axis + 2) % 3])
    return cells


def _normal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    normal = np.cross(first, second)
    return normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _same(one: StructureStore, first: np.ndarray, other: StructureStore, second: np.ndarray) -> np.ndarray:
    """Which (n,) of pairs of structures, rows `first` (n,) of one and `second` of the other, are the same."""
    same = (one.sizes[first] == other.sizes[second]) & (one.pbc[first] == other.pbc[second]).all(axis=1)
    apart = np.where(one.pbc[first, :, None], one.cells[first] - other.cells[second], 0.0)
    same &= (np.linalg.norm(apart, axis=2) <= APART).all(axis=1)
    left = np.flatnonzero(same)
    if not len(left):
        return same
    first, second = first[left], second[left]
    sizes, (cells, _, here), (*_, there) = one.sizes[first], _relative(one, first), _relative(other, second)
    numbers = one.numbers[one.atoms_of(first)], other.numbers[other.atoms_of(second)]
    of = np.repeat(np.arange(len(left)), sizes)
    close = _close(here - there, cells[of], one.pbc[first][of]) & (numbers[0] == numbers[1])
    starts = np.cumsum(sizes) - sizes
    for k in np.flatnonzero(~np.logical_and.reduceat(close, starts)).tolist():
        atoms = slice(starts[k], starts[k] + sizes[k])
        elements = numbers[0][atoms], numbers[1][atoms]
        same[left[k]] = _reordered(here[atoms], elements[0], there[atoms], elements[1], cells[k], one.pbc[first[k]])
    return same


def _close(apart: np.ndarray, cells: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """Which (n,) of differences (n, 3), relative to cells (n, 3, 3), are up to `APART` from a period."""
    nearest = apart - np.where(pbc, np.rint(apart), 0.0)
    return np.linalg.norm(np.einsum("ni,nij->nj", nearest, cells), axis=1) <= APART


def _reordered(
    here: np.ndarray, elements: np.ndarray, there: np.ndarray, others: np.ndarray, cell: np.ndarray, pbc: np.ndarray
) -> bool:
    """Whether atoms at relative places (n, 3) are the same as others, in another order."""
    # twice: the first turns -1e-20 into 1, which the tree takes for outside; elements stand apart along a fourth axis
    points = [
        np.column_stack([np.where(pbc, at % 1.0 % 1.0, at), 10.0 * z]) for at, z in ((here, elements), (there, others))
    ]
    partner = cKDTree(points[1], boxsize=[*pbc.astype(float), 0.0]).query(points[0])[1]  # a period of 0: an open axis
    if len(np.unique(partner)) < len(partner) or (elements != others[partner]).any():
        return False
    cells = np.broadcast_to(cell, (len(here), 3, 3))
    return bool(_close(here - there[partner], cells, np.broadcast_to(pbc, here.shape)).all())
