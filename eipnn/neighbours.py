"""The neighbour list: vesin's, each pair of atoms once."""

import numpy as np
from ase import Atoms


class NeighbourList:
    """All pairs of atoms within a cutoff, periodic images included; each pair stands once.

    An atom whose own image lies within the cutoff forms pairs i-i, each of both directions once.

    Args:
        cutoff: in A.
        skin: A. With one, candidates that reach so much further are kept between calls until an atom has moved by more
            than half of it, or cell, periodic axes or the number of atoms have changed. What is returned is the same
            but for the order of pairs.
    """

    def __init__(self, cutoff: float, skin: float = 0.0) -> None:
        self.cutoff, self.skin = cutoff, skin
        self._renew(np.zeros((3, 3)))

    def __reduce__(self) -> tuple[type["NeighbourList"], tuple[float, float]]:
        return NeighbourList, (self.cutoff, self.skin)  # copies begin with no candidates: vesin's cannot be copied

    def __call__(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of one configuration.

        Args:
            positions: (N, 3), A; not necessarily in the cell.
            cell: lattice vectors as rows (3, 3), A.
            pbc: periodic axes (3,).

        Returns:
            i and j (2, P), int64, and the lattice translation of j in whole cells (P, 3).
        """
        return self._find(positions, cell, pbc, "PS")

    def vectors(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        """i and j (2, P), int64, and the vectors from i to the image of j (P, 3), A, float64."""
        return self._find(atoms.positions, complete_cell(atoms), atoms.pbc, "PD")

    def _find(
        self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray, quantities: str
    ) -> tuple[np.ndarray, np.ndarray]:
        # vesin 0.6.2 keeps candidates in a cell that changes little, and loses pairs of atoms many cells apart
        if self.skin and not np.array_equal(cell, self._cell):
            self._renew(cell)
        pairs, found = self._finder.compute(positions, cell, pbc, quantities=quantities)
        return pairs.T.astype(np.int64, order="C"), found

    def _renew(self, cell: np.ndarray) -> None:
        import vesin  # which imports torch: seconds that commands without it need not wait for

        self._cell = cell.copy()
        self._finder = vesin.NeighborList(cutoff=self.cutoff, full_list=False, sorted=True, skin=self.skin, n_threads=1)


def pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms i and j (P,) of each pair up to `cutoff` (A), their distances (P,) and vectors from i to j (P, 3), A."""
    import vesin  # here: as above

    finder = vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    return finder.compute(atoms.positions, complete_cell(atoms), atoms.pbc, quantities="ijdD")


def heights(atoms: Atoms) -> np.ndarray:
    """Distances (3,), A, of opposite faces of the cell."""
    return 1 / np.linalg.norm(atoms.cell.reciprocal(), axis=1)


def complete_cell(atoms: Atoms) -> np.ndarray:
    """The cell (3, 3) in A, with lattice vectors of open axes set to zero: they carry no meaning."""
    return np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
