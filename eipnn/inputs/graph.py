"""Neighbour graphs."""

from dataclasses import dataclass

import numpy as np
import torch
import vesin
from ase import Atoms
from torch import Tensor
from torch_geometric.data import Batch, Data

from eipnn.inputs.base import Inputs


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

    An atom whose own image lies within the cutoff forms pairs i-i, each of both directions once.

    Args:
        cutoff: in A.
    """

    cutoff: float

    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        cell = _complete_cell(atoms)
        finder = vesin.NeighborList(cutoff=self.cutoff, full_list=False, sorted=True, n_threads=1)
        i, j, shift = finder.compute(atoms.positions, cell, atoms.pbc, quantities="ijS")
        index = np.stack([i, j]).astype(np.int64)
        return Data(
            z=torch.from_numpy(atoms.numbers.astype(np.int64)),
            pos=torch.as_tensor(atoms.positions, dtype=dtype),
            cell=torch.as_tensor(cell, dtype=dtype).unsqueeze(0),
            edge_index=torch.from_numpy(index),
            edge_shift=torch.as_tensor(shift, dtype=dtype),
            n_atoms=torch.tensor([len(atoms)]),
            num_nodes=len(atoms),
        )

    def key(self) -> str:
        return f"graph-v1 cutoff={self.cutoff!r}"


def pair_vectors(batch: Batch) -> Tensor:
    """Vectors from i to the image of j, (P, 3) in A, differentiable in positions and cell."""
    i, j = batch.edge_index
    # no matrix product, which mixed precision would round to three digits
    translation = (batch.edge_shift.unsqueeze(-1) * batch.cell[batch.batch[i]]).sum(dim=1)
    return batch.pos[j] - batch.pos[i] + translation


def _complete_cell(atoms: Atoms) -> np.ndarray:
    """The cell, with lattice vectors of non-periodic axes set to zero: they carry no meaning."""
    return np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
