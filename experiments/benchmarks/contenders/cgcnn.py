"""CGCNN at the authors' sizes: 64 features, 41 Gaussians, 3 convolutions, batch normalisation.

PyG's `CGConv` is the published form, which is not smooth at the cutoff; eipnn's default form is, and
multiplies each message by a cutoff function.
"""

import torch
from ase import Atoms
from torch import Tensor, nn
from torch_geometric.nn import CGConv

from contenders.prepared import Contender, FullGraph, Prepared, base, full_graph, ours
from eipnn.representations.base import MAX_Z
from eipnn.representations.schnet import GaussianExpansion


def eipnn(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(base("cgcnn", cutoff), frames)


def eipnn_published(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(base("cgcnn", cutoff, smooth=False), frames)


class PygStack(nn.Module):
    """Embedding, Gaussians and `CGConv`, which adds to what it is given."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        sizes = base("cgcnn", cutoff).hparams
        self.embedding = nn.Embedding(MAX_Z + 1, sizes.features)
        self.expansion = GaussianExpansion(cutoff, sizes.gaussians, sizes.gamma)
        self.convolutions = nn.ModuleList(
            CGConv(sizes.features, sizes.gaussians, batch_norm=True) for _ in range(sizes.convolutions)
        )

    def forward(self, graph: FullGraph, edges: Tensor) -> Tensor:
        """(N, features)."""
        expanded = self.expansion(graph.distances())  # (E, gaussians)
        h = self.embedding(graph.z)
        for convolution in self.convolutions:
            h = convolution(h, edges, expanded)
        return h


def pyg(frames: list[Atoms], cutoff: float) -> Prepared:
    graph = full_graph(frames, cutoff)
    edges = torch.stack([graph.sender, graph.receiver])
    network = PygStack(cutoff)
    return Prepared(network, lambda: network(graph, edges), network.embedding.embedding_dim, graph.pos)


CGCNN = [
    Contender("eipnn", eipnn),
    Contender("eipnn, published form", eipnn_published),
    Contender("PyG CGConv", pyg),
]
