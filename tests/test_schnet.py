"""SchNet against PyG's interaction blocks with the same weights."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch_geometric.data import Batch
from torch_geometric.nn.models.schnet import GaussianSmearing
from torch_geometric.nn.models.schnet import InteractionBlock as PygBlock

from eipnn.inputs import Graph, graph_of
from eipnn.representations import SchNet


def rattled(symbol="Si", repeat=(2, 1, 1), seed=0):
    atoms = bulk(symbol, "diamond", 5.43).repeat(repeat)
    atoms.rattle(0.1, seed=seed)
    return atoms


def pyg_features(net, batch):
    """PyG's blocks on the full neighbour list, with the weights of `net`."""
    half, shift = batch.edge_index, batch.edge_shift
    both = torch.cat([half, half.flip(0)], dim=1)
    distance = graph_of(batch).vectors.norm(dim=-1).repeat(2)
    smearing = GaussianSmearing(0.0, net.cutoff, net.hparams.gaussians)
    smearing.coeff = -net.expansion.gamma  # PyG ties the width to the spacing
    expanded = smearing(distance)
    h = net.embedding(batch.z)
    for block in net.blocks:
        pyg = PygBlock(net.dim, net.hparams.gaussians, net.hparams.filters, net.cutoff)
        pyg.mlp[0].load_state_dict(block.filter[0].state_dict())
        pyg.mlp[2].load_state_dict(block.filter[2].state_dict())
        pyg.conv.lin1.load_state_dict(block.source.state_dict())
        pyg.conv.lin2.load_state_dict(block.update[0].state_dict())
        pyg.lin.load_state_dict(block.update[2].state_dict())
        h = h + pyg.to(h.dtype)(h, both, distance, expanded)
    assert len(shift) == half.shape[1]
    return h


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pyg(dtype):
    torch.manual_seed(0)
    net = SchNet(cutoff=4.0, features=32, filters=24, gaussians=20, interactions=3).to(dtype)
    frames = [rattled(), rattled("C", (1, 1, 1), 1), rattled("Si", (1, 2, 2), 2)]
    batch = Batch.from_data_list([net.inputs(atoms, dtype) for atoms in frames])
    with torch.no_grad():
        ours, theirs = net(graph_of(batch)), pyg_features(net, batch)
    assert ours.shape == (sum(map(len, frames)), 32)
    # PyG keeps ln 2 in float32, which bounds the agreement in float64
    tolerance = 1e-5 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_negligible_gaussians_are_cut_without_changing_energies():
    net = SchNet(cutoff=5.0, features=8, filters=8, interactions=1, gamma=323.0)
    values = net.expansion(torch.linspace(0.5, 5.0, 400))
    nonzero = values[values != 0]
    assert nonzero.min() > 9e-14
    exact = torch.exp(-323 * (torch.linspace(0.5, 5.0, 400)[:, None] - net.expansion.centres) ** 2)
    torch.testing.assert_close(values, exact, rtol=1e-4, atol=1e-12)


def test_config_rebuilds_it():
    net = SchNet(cutoff=4.5, features=16)
    config = net.config()
    assert config["class_path"] == "eipnn.representations.schnet.SchNet"
    assert SchNet(**config["init_args"]).config() == config


def test_graph_holds_each_pair_once():
    atoms = bulk("Si", "diamond", 5.43)
    data = Graph(4.0)(atoms)
    vectors = graph_of(Batch.from_data_list([data])).vectors.numpy()
    from ase.neighborlist import neighbor_list

    distances = np.sort(np.concatenate([np.linalg.norm(vectors, axis=1)] * 2))
    np.testing.assert_allclose(distances, np.sort(neighbor_list("d", atoms, 4.0)), atol=1e-5)
