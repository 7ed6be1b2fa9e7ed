"""SchNet's filters and convolution against their plain forms, with the pairs in several parts."""

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from eipnn.representations import SchNet, filter_convolution
from eipnn.representations.filter_convolution import Convolution, PairProduct, convolution, plain_convolution

ATOMS, FEATURES = 5, 3
CUTOFF = 3.0


@pytest.fixture(autouse=True)
def few_pairs_at_a_time(monkeypatch):
    monkeypatch.setattr(filter_convolution, "PAIRS", 4)


def arguments(pairs=11, dtype=torch.float64, wanted=True):
    """Random ones of a convolution; the pairs hold an atom with its own image, and leave one atom alone."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(wanted)

    index = torch.randint(ATOMS - 1, (2, pairs), generator=generator)
    index[:, :1] = 0
    return random(ATOMS, FEATURES), index, random(pairs, FEATURES)


@pytest.mark.parametrize("pairs", [0, 1, 4, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_convolution_equals_the_plain_form_with_its_gradients(pairs, dtype):
    values = arguments(pairs, dtype)
    ours, plain = convolution(*values), plain_convolution(*values)
    torch.testing.assert_close(ours, plain)
    inputs, direction = values[::2], torch.randn_like(plain)
    torch.testing.assert_close(grad(ours, inputs, direction), grad(plain, inputs, direction))


def test_derivatives_of_the_convolution_are_those_of_finite_differences():
    source, pairs, weight = arguments()
    assert gradcheck(Convolution.apply, (source, pairs, weight))
    assert gradgradcheck(Convolution.apply, (source, pairs, weight))
    other = torch.randn_like(source, requires_grad=True)
    assert gradgradcheck(PairProduct.apply, (source, other, pairs))


@pytest.fixture
def net() -> SchNet:
    torch.manual_seed(0)
    return SchNet(CUTOFF, features=4, filters=5, gaussians=12, interactions=2).double()


def distances(number=11) -> torch.Tensor:
    """Two of them beyond the cutoff."""
    return torch.linspace(0.3, CUTOFF + 0.4, number, dtype=torch.float64).requires_grad_()


def both(net, distance):
    """The filters of the last block (P, F), ours and the plain ones."""
    *_, ours = net.filters(distance)
    return ours, net.plain_filters(net.blocks[-1].filter, distance)


@pytest.mark.parametrize("number", [0, 1, 4, 11])
@pytest.mark.parametrize("forces", [False, True])
def test_filters_equal_the_plain_ones_with_their_gradients(net, number, forces):
    distance = distances(number).requires_grad_(forces)
    inputs = [*net.blocks[-1].filter.parameters(), *[distance] * forces]
    ours, plain = both(net, distance)
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)
    direction = torch.randn_like(plain)
    torch.testing.assert_close(grad(ours, inputs, direction), grad(plain, inputs, direction), rtol=0, atol=1e-11)


def test_second_derivatives_of_filters_are_those_of_the_plain_ones(net):
    """Of a function of values and slopes, as the loss on forces is: in the weights, and in the distance too."""
    distance = distances()
    inputs = [*net.blocks[-1].filter.parameters(), distance]
    torch.manual_seed(1)
    outer, pull = torch.randn(len(distance), 5), torch.randn(len(distance))
    found = []
    for values in both(net, distance):
        (slope,) = grad(((values + 0.1 * values.sin()) * outer).sum(), distance, create_graph=True)
        for loss in (slope * pull).square().sum() + values.square().sum(), (slope * pull).sum():
            found.append(grad(loss, inputs, retain_graph=True))
    for ours, plain in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-10)
        assert ours[-1].abs().max() > 1e-3


def test_further_derivatives_are_refused(net):
    """In place of a constant."""
    distance = distances()
    ours, _ = both(net, distance)
    (slope,) = grad(ours.square().sum(), distance, create_graph=True)
    for wanted in (distance, net.blocks[-1].filter[0].weight):
        with pytest.raises(RuntimeError, match="no further ones"):
            grad(slope.square().sum(), wanted, create_graph=True)


def test_the_gaussians_lie_in_their_span(net):
    assert net.span.shape[0] == 12
    wide = SchNet(CUTOFF)
    assert wide.span.shape[1] < 60
    expanded = wide.expansion(torch.linspace(0, CUTOFF, 321)).double()
    torch.testing.assert_close(expanded @ wide.span @ wide.span.T, expanded, rtol=0, atol=1e-6)


class Convolve(torch.nn.Module):
    def forward(self, *values):
        return convolution(*values)


def test_an_exported_convolution_takes_any_number_of_pairs():
    values = arguments(wanted=False)
    pairs = torch.export.Dim("pairs")
    shapes = ((None, {1: pairs}, {0: pairs}),)
    exported = torch.export.export(Convolve(), values, dynamic_shapes=shapes).module()
    more = arguments(pairs=23, wanted=False)
    torch.testing.assert_close(exported(*more), plain_convolution(*more))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_and_its_slope_far_out(dtype):
    """Of a filter network that hands its Gaussian on, times a large weight."""
    net = SchNet(CUTOFF, features=1, filters=1, gaussians=1, interactions=1)
    network = net.blocks[0].filter.to(dtype)
    net.expansion.to(dtype)
    for size in (-200.0, -30.0, -1.0, 1.0, 30.0, 200.0):
        torch.nn.init.constant_(network[0].weight, size)
        torch.nn.init.ones_(network[2].weight)
        distance = torch.tensor([1e-3, 0.2, 0.4], dtype=dtype, requires_grad=True)
        values, plain = both(net, distance)
        tolerance = {"rtol": 1e-5 if dtype == torch.float32 else 1e-9, "atol": 1e-6}
        torch.testing.assert_close(values, plain, **tolerance)
        slopes = (grad(v.sum(), distance)[0] for v in (values, plain))
        torch.testing.assert_close(*slopes, rtol=tolerance["rtol"], atol=abs(size) * 1e-5)
