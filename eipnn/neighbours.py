"""The neighbour list: vesin's, each pair of atoms once."""

import numpy as np
from ase import Atoms


class NeighbourList:
    """All pairs of atoms within a cutoff, periodic images included; each pair stands once.

    An atom whose own image lies within the cutoff forms pairs i-i, each of both directions once.

    Args:
        cutoff: in A.
        skin: A. With one the list reaches so much further and is kept between calls until an atom has moved by half of
            it or the cell has changed; its pairs beyond the cutoff are part of what is returned.
    """

    def __init__(self, cutoff: float, skin: float = 0.0) -> None:
        import vesin  # which imports torch: seconds that commands without it need not wait for

        self._finder = vesin.NeighborList(cutoff=cutoff, full_list=False, sorted=True, skin=skin, n_threads=1)

    def __call__(self, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pairs of one configuration.

        Args:
            positions: (N, 3), A; not necessarily in the cell.
            cell: lattice vectors as rows (3, 3), A.
            pbc: periodic axes (3,).

        Returns:
            i and j (2, P), int64, and the lattice translation of j in whole cells (P, 3).
        """
        i, j, shift = self._finder.compute(positions, cell, pbc, quantities="ijS")
        return np.stack([i, j]).astype(np.int64), shift


def pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Atoms i and j (P,) of each pair up to `cutoff` (A), their distances (P,) and vectors from i to j (P, 3), A."""
    import vesin  # here: as above

    finder = vesin.NeighborList(cutoff=cutoff, full_list=False, n_threads=1)
    return finder.compute(atoms.positions, complete_cell(atoms), atoms.pbc, quantities="ijdD")


def complete_cell(atoms: Atoms) -> np.ndarray:
    """The cell (3, 3) in A, with lattice vectors of open axes set to zero: they carry no meaning."""
    return np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
