"""MACE's convolution against that of its library, and against its plain form, with the pairs in several parts."""

import pytest
import torch
from backbones import FRAMES, build, graph
from torch.autograd import grad, gradcheck, gradgradcheck

from eipnn.representations import MACE, tensor_convolution
from eipnn.representations.tensor_convolution import Contraction, TensorConvolution

ATOMS, PAIRS = 5, 11


@pytest.fixture(autouse=True)
def few_pairs_at_a_time(monkeypatch):
    monkeypatch.setattr(tensor_convolution, "PAIRS", 4)


@pytest.fixture
def product():
    """The library's tensor product of the second interaction, up to l = 2 everywhere."""
    torch.manual_seed(0)
    net = build(MACE, ["C", "Si"], channels=3, max_L=2, max_ell=2).double()
    return net.interactions[1].conv_tp


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def pairs() -> torch.Tensor:
    """One atom with its own image, and one atom alone."""
    index = torch.randint(ATOMS - 1, (2, PAIRS))
    index[:, :1] = 0
    return index


def in_library_s_order(features: torch.Tensor, irreps) -> torch.Tensor:
    """(N, M, C) -> (N, M * C), with the components of a channel side by side within an order."""
    parts = features.split([part.ir.dim for part in irreps], dim=1)
    return torch.cat([part.mT.flatten(1) for part in parts], dim=1)


def the_four(tensor: TensorConvolution) -> list[torch.Tensor]:
    _, messages, rows = tensor.table.value.shape
    shapes = [(ATOMS, messages, 3), (ATOMS, rows, 3), (PAIRS, messages, rows), (PAIRS, tensor.paths, 3)]
    return [random(*shape) for shape in shapes]


def test_it_is_the_library_s_sum_over_directed_edges(product):
    tensor, index = TensorConvolution(product), pairs()
    features = random(ATOMS, 9, 3)
    signs = torch.cat([torch.full((2 * order + 1,), (-1.0) ** order) for order in range(3)])
    harmonics, radial = random(PAIRS, 9), random(PAIRS, product.weight_numel)
    ours = in_library_s_order(tensor(features, harmonics, radial, index), product.irreps_out)
    i, j = index
    theirs = torch.zeros_like(ours)
    for source, target, y in ((i, j, harmonics), (j, i, harmonics * signs)):
        messages = product(in_library_s_order(features, product.irreps_in1)[source], y, radial)
        theirs = theirs.index_add(0, target, messages)
    torch.testing.assert_close(ours, theirs)
    direction, inputs = torch.randn_like(ours), [features, harmonics, radial]
    torch.testing.assert_close(grad(ours, inputs, direction), grad(theirs, inputs, direction))


@pytest.mark.parametrize("slot", range(4))
def test_derivatives_are_those_of_finite_differences(slot):
    net = build(MACE, ["Si"], channels=3, max_L=1, max_ell=1).double()
    tensor, index = net.layers[1].convolution, pairs()
    given = the_four(tensor)
    given[slot] = None

    def contraction(*four):
        return Contraction.apply(slot, tensor, index, True, False, *four)

    assert gradcheck(contraction, given, fast_mode=True)
    assert gradgradcheck(contraction, given, fast_mode=True)


@pytest.mark.parametrize("curvature", [True, False])
def test_gradients_of_a_loss_on_slopes(product, curvature):
    """In the weights they are the same with and without those in the positions."""
    torch.manual_seed(1)
    net = build(MACE, ["C", "Si"], channels=2, max_L=1).double()
    given = graph(net, FRAMES["cubic"], dtype=torch.float64)
    found = []
    for plain in (True, False):
        vectors = given.vectors.detach().requires_grad_()
        if plain:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.compiler, "is_compiling", lambda: True)
                features = net(given._replace(vectors=vectors))
        else:
            features = net(given._replace(vectors=vectors, curvature=curvature))
        (slope,) = grad(features.sin().sum(), vectors, create_graph=True)
        inputs = [*net.parameters(), *[vectors] * curvature]
        gradients = grad(slope.square().sum(), inputs, allow_unused=True)
        found.append([g for g in gradients if g is not None])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
