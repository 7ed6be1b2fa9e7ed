"""Neighbour graphs."""

from dataclasses import dataclass

import torch
from ase import Atoms
from torch_geometric.data import Data

from eipnn.inputs.base import Inputs
from eipnn.neighbours import NeighbourList, complete_cell


@dataclass(frozen=True)
class Graph(Inputs):
    """Neighbour graph with all periodic images within the cutoff; each pair of atoms stands once.

    Adds to the fields of `Inputs`:

    =========== ====== ======= =======================================================
    field       shape  dtype   what
    =========== ====== ======= =======================================================
    edge_index  (2, P) int64   atoms i and j of a pair; j-i is not listed again
    edge_shift  (P, 3) float   lattice translation of j, in whole cells
    =========== ====== ======= =======================================================

    Args:
        cutoff: in A.
    """

    cutoff: float

    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        cell = complete_cell(atoms)
        index, shift = NeighbourList(self.cutoff)(atoms.positions, cell, atoms.pbc)
        return Data(
            z=torch.as_tensor(atoms.numbers, dtype=torch.int64),
            pos=torch.as_tensor(atoms.positions, dtype=dtype),
            cell=torch.as_tensor(cell, dtype=dtype).unsqueeze(0),
            edge_index=torch.from_numpy(index),
            edge_shift=torch.as_tensor(shift, dtype=dtype),
            n_atoms=torch.tensor([len(atoms)]),
            num_nodes=len(atoms),
        )
