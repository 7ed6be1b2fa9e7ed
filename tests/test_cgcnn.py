"""CGCNN against a stack of PyG's ``CGConv`` with the same weights, and its batch normalisation."""

import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch_geometric.data import Batch
from torch_geometric.nn import CGConv

from eipnn.inputs import graph_of
from eipnn.representations import CGCNN


def batch_of(net, *frames, dtype=torch.float32) -> Batch:
    return Batch.from_data_list([net.inputs(atoms, dtype) for atoms in frames])


def rattled(symbol="Si", repeat=(2, 1, 1), seed=0):
    atoms = bulk(symbol, "diamond", 5.43).repeat(repeat)
    atoms.rattle(0.1, seed=seed)
    return atoms


FRAMES = [rattled(), rattled("C", (1, 1, 1), 1), rattled("Si", (1, 2, 2), 2)]


def pyg_stack(net: CGCNN) -> torch.nn.ModuleList:
    """PyG's convolutions with the weights of `net`."""
    stack = torch.nn.ModuleList()
    for ours in net.convolutions:
        conv = CGConv(net.dim, net.hparams.gaussians, batch_norm=net.hparams.batch_norm)
        for linear, weight, bias in zip(
            (conv.lin_f, conv.lin_s),
            ours.gates.weight.detach().chunk(2),
            ours.gates.bias.detach().chunk(2),
            strict=True,
        ):
            linear.weight.data.copy_(weight)
            linear.bias.data.copy_(bias)
        if net.hparams.batch_norm:
            conv.bn.load_state_dict(ours.norm.state_dict())
        stack.append(conv)
    return stack.to(net.embedding.weight.dtype).train(net.training)


def pyg_features(net: CGCNN, stack: torch.nn.ModuleList, batch: Batch) -> torch.Tensor:
    """PyG's stack on the list of directed pairs."""
    both = torch.cat([batch.edge_index, batch.edge_index.flip(0)], dim=1)
    distance = graph_of(batch).vectors.norm(dim=-1).repeat(2)
    expanded = torch.exp(-net.hparams.gamma * (distance[:, None] - net.expansion.centres) ** 2)
    features = net.embedding(batch.z)
    for conv in stack:
        features = conv(features, both, expanded)
    return features


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_published_form_equals_pyg(dtype, batch_norm, training):
    torch.manual_seed(0)
    net = CGCNN(4.0, features=24, gaussians=20, batch_norm=batch_norm, smooth=False)
    net = net.to(dtype).train(training)
    stack = pyg_stack(net)
    batch = batch_of(net, *FRAMES, dtype=dtype)
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    for _ in range(2):  # in training the second pass follows other running statistics
        ours, theirs = net(graph_of(batch)), pyg_features(net, stack, batch)
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    ours.square().sum().backward()
    theirs.square().sum().backward()
    for mine, conv in zip(net.convolutions, stack, strict=True):
        both = torch.cat([conv.lin_f.weight.grad, conv.lin_s.weight.grad])
        scale = both.abs().max()
        torch.testing.assert_close(mine.gates.weight.grad / scale, both / scale, rtol=0, atol=1e-4)
        if batch_norm:
            torch.testing.assert_close(mine.norm.state_dict(), conv.bn.state_dict())


def dimer(net, distance: float) -> torch.Tensor:
    atoms = Atoms("SiC", [[0, 0, 0], [0, 0, distance]])
    with torch.no_grad():
        return net(graph_of(batch_of(net, atoms, dtype=torch.float64)))


def test_the_published_form_jumps_at_the_cutoff():
    torch.manual_seed(0)
    net = CGCNN(4.0, features=8, smooth=False).double().eval()
    jump = dimer(net, 4.0 - 1e-6) - dimer(net, 4.0 + 1e-6)
    assert jump.abs().max() > 0.05
    net.smooth = True
    inside, outside = dimer(net, 4.0 - 1e-6), dimer(net, 4.0 + 1e-6)
    torch.testing.assert_close(inside, outside, rtol=0, atol=1e-9)


def test_a_batch_of_one_atom_trains():
    net = CGCNN(4.0, features=8)
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    features = net(graph_of(batch_of(net, bulk("Al"))))
    features.square().sum().backward()
    assert features.isfinite().all()
    assert net.embedding.weight.grad.isfinite().all()
    for name, value in before.items():
        torch.testing.assert_close(net.state_dict()[name], value)
    torch.testing.assert_close(features, net.eval()(graph_of(batch_of(net, bulk("Al")))))


@pytest.mark.parametrize("frames", [[Atoms("Si")] * 3, [bulk("Si")] * 2, [Atoms("C"), rattled()]])
def test_equal_and_isolated_atoms_train(frames):
    """Atoms whose messages are equal have no variance either."""
    net = CGCNN(4.0, features=8)
    features = net(graph_of(batch_of(net, *frames)))
    features.square().sum().backward()
    assert features.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


class Rough(CGCNN):
    """A subclass with arguments of its own."""

    def __init__(self, cutoff: float = 5.0, width: int = 8) -> None:
        super().__init__(cutoff, features=width, smooth=False)


def test_a_subclass_is_rebuilt_from_its_own_arguments():
    net = Rough(4.0)
    assert net.config()["init_args"] == {"cutoff": 4.0, "width": 8}
    again = Rough(**net.config()["init_args"])
    again.load_state_dict(net.state_dict())
