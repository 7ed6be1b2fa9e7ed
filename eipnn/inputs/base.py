"""What turns atoms into the input of a representation, and what a representation is given."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, NamedTuple

import torch
from ase import Atoms
from torch import Tensor
from torch_geometric.data import Batch, Data


class AtomicGraph(NamedTuple):
    """All that a representation is given of B configurations with N atoms and P pairs.

    Pairs beyond the cutoff may be among them and change nothing. Where forces are wanted, `vectors` ask for gradients.
    """

    z: Tensor
    """Atomic numbers (N,), int64."""
    edge_index: Tensor
    """Atoms i and j of each pair (2, P), int64; the pair j-i is not listed again."""
    vectors: Tensor
    """From i to the image of j (P, 3), A."""
    batch: Tensor
    """The configuration that an atom belongs to (N,), 0 ... B - 1, ascending."""
    size: int
    """B."""
    features: Tensor | None = None
    """What the inputs computed beforehand for each atom (N, F), such as SOAP; None where gradients are asked for."""
    cell: Tensor | None = None
    """Lattice vectors as rows (B, 3, 3), A, zero along open axes; for the volume alone, no representation reads it."""
    curvature: bool = True
    """Whether second derivatives in `vectors` may be asked for. A loss on forces needs those in the weights alone: with
    False, once forces were made with ``create_graph=True`` later derivatives in `vectors` may be incomplete."""


def graph_of(batch: Batch) -> AtomicGraph:
    """What a representation is given of a batch of `Inputs`; vectors differentiable in positions and cell."""
    moving = batch.pos.requires_grad or batch.cell.requires_grad
    features = None if moving else batch.get("features")
    vectors = vectors_between(batch.pos, batch.cell, batch.edge_index, batch.edge_shift, batch.batch)
    return AtomicGraph(batch.z, batch.edge_index, vectors, batch.batch, batch.num_graphs, features, batch.cell)


def vectors_between(pos: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor) -> Tensor:
    """Vectors from i to the image of j, (P, 3) in A, differentiable in positions and cell; see `Graph` and `Inputs`."""
    i, j = edge_index
    # no matrix product, which mixed precision would round to three digits
    translation = (edge_shift.unsqueeze(-1) * cell[batch[i]]).sum(dim=1)
    return pos[j] - pos[i] + translation


class Graphs:
    """What a representation is given of each batch of `Inputs`; every pass over them begins anew."""

    def __init__(self, batches: Iterable[Batch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[AtomicGraph]:
        return map(graph_of, self.batches)


def joined(graphs: Sequence[AtomicGraph]) -> AtomicGraph:
    """Several as one, in order."""
    atoms = list(accumulate((len(graph.z) for graph in graphs), initial=0))
    sizes = list(accumulate((graph.size for graph in graphs), initial=0))
    features = [graph.features for graph in graphs if graph.features is not None]
    return AtomicGraph(
        z=torch.cat([graph.z for graph in graphs]),
        edge_index=torch.cat([g.edge_index + n for g, n in zip(graphs, atoms, strict=False)], 1),
        vectors=torch.cat([graph.vectors for graph in graphs]),
        batch=torch.cat([g.batch + n for g, n in zip(graphs, sizes, strict=False)]),
        size=sizes[-1],
        features=torch.cat(features) if len(features) == len(graphs) else None,
    )


class Inputs(ABC):
    """Settings of one kind of model input; equal settings make equal inputs.

    The fields that every `Data` carries, whatever the kind:

    ======== ========= ======= =====================
    field    shape     dtype   what
    ======== ========= ======= =====================
    z        (N,)      int64   atomic numbers
    pos      (N, 3)    float   positions, A
    cell     (1, 3, 3) float   lattice vectors as rows, A; zero where there is none
    n_atoms  (1,)      int64   N
    ======== ========= ======= =====================
    """

    costly: ClassVar[bool] = False
    """Whether one takes milliseconds: they are then made before the training, by several processes, and cached."""

    @abstractmethod
    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        """The model input of one configuration."""

    def key(self) -> str:
        """What names kind and settings, for a dataclass all that it prints; costly inputs are cached under it."""
        return repr(self)
