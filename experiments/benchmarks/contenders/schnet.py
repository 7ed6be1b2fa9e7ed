"""SchNet of five libraries at the paper's sizes: 128 features and filters, 128 Gaussians, 5 blocks.

DGL's `CFConv` is built as the library ships it, which differs from the others in its form: a second activation on the
filter and one after the convolution, and no cutoff function. "DGL kernels" is the published form with
the gather, product and sum of DGL.
"""

import os
from typing import Any

import torch
import torch.utils.data.dataloader as dataloader
from ase import Atoms
from torch import Tensor, nn
from torch_geometric.nn.models.schnet import InteractionBlock as PygBlock

from contenders.prepared import Contender, FullGraph, Prepared, base, full_graph, ours
from eipnn.representations.base import MAX_Z
from eipnn.representations.schnet import GaussianExpansion, ShiftedSoftplus, cosine_cutoff

FEATURES = 128
GAUSSIANS = 128
BLOCKS = 5
GAMMA = 10.0


def eipnn(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(base("schnet", cutoff), frames)


class Stack(nn.Module):
    """Embedding and blocks with residual connections, for libraries that bring the block alone.

    Distances are expanded once for all blocks, by eipnn's expansion, which cuts denormal tails.
    """

    def __init__(self, blocks: list[nn.Module], cutoff: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MAX_Z + 1, FEATURES)
        self.expansion = GaussianExpansion(cutoff, GAUSSIANS, GAMMA)
        self.blocks = nn.ModuleList(blocks)

    def forward(self, graph: FullGraph, edges: Any) -> Tensor:
        """``block(h, edges, distance, expanded)`` is added to h -> (N, FEATURES)."""
        distance = graph.distances()  # (E,)
        expanded = self.expansion(distance)  # (E, GAUSSIANS)
        h = self.embedding(graph.z)
        for block in self.blocks:
            h = h + block(h, edges, distance, expanded)
        return h


def pyg(frames: list[Atoms], cutoff: float) -> Prepared:
    graph = full_graph(frames, cutoff)
    edges = torch.stack([graph.sender, graph.receiver])
    blocks = [PygBlock(FEATURES, GAUSSIANS, FEATURES, cutoff) for _ in range(BLOCKS)]
    network = Stack(blocks, cutoff)
    return Prepared(network, lambda: network(graph, edges), FEATURES, graph.pos)


def dgl_graph(graph: FullGraph) -> Any:
    """The graph of DGL with its sparse formats built."""
    os.environ.setdefault("DGLBACKEND", "pytorch")
    import dgl

    dgl.utils.set_num_threads(torch.get_num_threads())
    edges = dgl.graph((graph.sender, graph.receiver), num_nodes=len(graph.z))
    edges.create_formats_()
    return edges


class DglBlock(nn.Module):
    """`dgl.nn.CFConv` as it is, and a linear layer."""

    def __init__(self) -> None:
        from dgl.nn.pytorch.conv import CFConv

        super().__init__()
        self.conv = CFConv(FEATURES, GAUSSIANS, FEATURES, FEATURES)
        self.project = nn.Linear(FEATURES, FEATURES)

    def forward(self, h: Tensor, edges: Any, distance: Tensor, expanded: Tensor) -> Tensor:
        return self.project(self.conv(edges, h, expanded))


class DglKernelBlock(nn.Module):
    """The published block on DGL's message passing, ``update_all(u_mul_e, sum)``."""

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.filter = mlp(GAUSSIANS)
        self.source = nn.Linear(FEATURES, FEATURES, bias=False)
        self.update = mlp(FEATURES)

    def forward(self, h: Tensor, edges: Any, distance: Tensor, expanded: Tensor) -> Tensor:
        import dgl.function as fn

        with edges.local_scope():
            edges.edata["weight"] = self.filter(expanded) * cosine_cutoff(distance, self.cutoff).unsqueeze(-1)
            edges.srcdata["source"] = self.source(h)
            edges.update_all(fn.u_mul_e("source", "weight", "m"), fn.sum("m", "message"))
            return self.update(edges.dstdata["message"])


def mlp(inputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, FEATURES), ShiftedSoftplus(), nn.Linear(FEATURES, FEATURES))


def dgl_cfconv(frames: list[Atoms], cutoff: float) -> Prepared:
    graph = full_graph(frames, cutoff)
    edges = dgl_graph(graph)
    network = Stack([DglBlock() for _ in range(BLOCKS)], cutoff)
    return Prepared(network, lambda: network(graph, edges), FEATURES, graph.pos)


def dgl_kernels(frames: list[Atoms], cutoff: float) -> Prepared:
    graph = full_graph(frames, cutoff)
    edges = dgl_graph(graph)
    network = Stack([DglKernelBlock(cutoff) for _ in range(BLOCKS)], cutoff)
    return Prepared(network, lambda: network(graph, edges), FEATURES, graph.pos)


def import_schnetpack() -> None:
    """Let schnetpack 2.1.1 import: it takes a name from torch that newer versions have under another."""
    if not hasattr(dataloader, "T_co"):
        dataloader.T_co = dataloader._T_co
    import schnetpack  # noqa: F401


def schnetpack_network(cutoff: float) -> nn.Module:
    """Its SchNet, with eipnn's width of the Gaussians."""
    import_schnetpack()
    from schnetpack.nn import CosineCutoff, GaussianRBF
    from schnetpack.representation.schnet import SchNet as Peer

    radial = GaussianRBF(GAUSSIANS, cutoff)
    radial.widths.fill_((2 * GAMMA) ** -0.5)
    return Peer(FEATURES, BLOCKS, radial, CosineCutoff(cutoff))


def schnetpack(frames: list[Atoms], cutoff: float) -> Prepared:
    network = schnetpack_network(cutoff)
    from schnetpack import properties

    graph = full_graph(frames, cutoff)

    def features() -> Tensor:
        given = {
            properties.Z: graph.z,
            properties.Rij: graph.vectors(),
            properties.idx_i: graph.receiver,
            properties.idx_j: graph.sender,
        }
        return network(given)["scalar_representation"]

    return Prepared(network, features, FEATURES, graph.pos)


def graph_pes(frames: list[Atoms], cutoff: float) -> Prepared:
    from graph_pes import AtomicGraph
    from graph_pes.atomic_graph import neighbour_distances, to_batch
    from graph_pes.models import SchNet as Peer

    batch = to_batch([AtomicGraph.from_ase(atoms, cutoff) for atoms in frames])
    network = Peer(cutoff, FEATURES, GAUSSIANS, BLOCKS)
    del network.read_out, network.scaler

    def features() -> Tensor:
        h = network.chemical_embedding(batch.Z)
        distance = neighbour_distances(batch)
        for interaction in network.interactions:
            h = h + interaction(h, distance, batch)
        return h

    return Prepared(network, features, FEATURES, batch.R)


SCHNET = [
    Contender("eipnn", eipnn),
    Contender("DGL CFConv", dgl_cfconv, forces=False),
    Contender("DGL kernels", dgl_kernels, forces=False),
    Contender("PyG blocks", pyg),
    Contender("SchNetPack", schnetpack),
    Contender("graph-pes", graph_pes),
]
