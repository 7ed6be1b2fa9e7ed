"""GemNet-T at the paper's sizes, against that of the Open Catalyst project (fairchem-core 1.10, its last with it).

It forms triplets among all edges, as the paper; eipnn's default lets the edges within 4 A form them. Both find the
triplets in every step from the neighbour list. The peer's output blocks give an atom's energy, those of eipnn
128 features for the readout. Where torch_scatter and torch_sparse are not installed, the peer runs on torch's own
operations (`fairchem_stubs`).
"""

from typing import Any

import torch
from ase import Atoms
from torch_geometric.data import Batch, Data

from contenders import fairchem_stubs
from contenders.prepared import Contender, Prepared, base, ours
from eipnn.inputs import Graph
from eipnn.representations import GemNet as Ours

BEFORE, AFTER, JOINED, ATOM = 1, 1, 1, 2
"""Residual layers of a block, as in the paper's code."""


def eipnn_all(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(base("gemnet", cutoff, triplet_cutoff=None), frames)


def eipnn(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(base("gemnet", cutoff), frames)


def fairchem(frames: list[Atoms], cutoff: float) -> Prepared:
    fairchem_stubs.provide()
    from fairchem.core.models.gemnet.gemnet import GemNetTBackbone

    network = GemNetTBackbone(
        **sizes(base("gemnet", cutoff)),
        cutoff=cutoff,
        otf_graph=True,  # else it takes no cutoff beyond 6 A
        regress_forces=False,
        rbf={"name": "spherical_bessel"},
        num_before_skip=BEFORE,
        num_after_skip=AFTER,
        num_concat=JOINED,
        num_atom=ATOM,
    )
    network.otf_graph = False  # the neighbour list is prepared
    batch = Batch.from_data_list([both_directions(atoms, cutoff) for atoms in frames])
    return Prepared(network, lambda: network(batch)["E_t"], 1, batch.pos)


def sizes(network: Any) -> dict[str, int]:
    """Sizes of eipnn's network under the names of the peer."""
    assert isinstance(network, Ours)
    ours = network.hparams
    return {
        "num_spherical": ours.spherical,
        "num_radial": ours.radial,
        "num_blocks": ours.interactions,
        "emb_size_atom": ours.features,
        "emb_size_edge": ours.edge_features,
        "emb_size_trip": ours.triplet_features,
        "emb_size_rbf": ours.rbf_features,
        "emb_size_cbf": ours.cbf_features,
        "emb_size_bil_trip": ours.bilinear_features,
    }


def both_directions(atoms: Atoms, cutoff: float) -> Data:
    """The neighbour list as fairchem's data sets hold it."""
    graph = Graph(cutoff)(atoms)
    index, shift = graph.edge_index, graph.edge_shift
    return Data(
        pos=graph.pos,
        cell=graph.cell,
        atomic_numbers=graph.z,
        natoms=graph.n_atoms,
        edge_index=torch.cat([index.flip(0), index], dim=1),
        cell_offsets=torch.cat([shift, -shift]),
        neighbors=torch.tensor([2 * index.shape[1]]),
        num_nodes=len(atoms),
    )


GEMNET = [
    Contender("eipnn, all triplets", eipnn_all),
    Contender("fairchem 1.10", fairchem),
    Contender("eipnn, triplets to 4 A", eipnn),
]
