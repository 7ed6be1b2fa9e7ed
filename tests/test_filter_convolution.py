"""SchNet's convolution against its plain form, with the pairs in several parts."""

import pytest
import torch
from torch.autograd import grad, gradcheck, gradgradcheck

from eipnn.representations import filter_convolution
from eipnn.representations.filter_convolution import (
    FilterConvolution,
    plain_filter_convolution,
    shifted_softplus_,
)

ATOMS, FEATURES, GAUSSIANS = 5, 3, 4


@pytest.fixture(autouse=True)
def few_pairs_at_a_time(monkeypatch):
    monkeypatch.setattr(filter_convolution, "PAIRS", 4)


def arguments(pairs=11, dtype=torch.float64, wanted=True):
    """Random ones; the pairs hold an atom with its own image, and leave one atom alone."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(wanted)

    index = torch.randint(ATOMS - 1, (2, pairs), generator=generator)
    index[:, :1] = 0
    return (
        random(ATOMS, FEATURES),
        index,
        random(pairs, GAUSSIANS),
        random(pairs, 1),
        random(FEATURES, GAUSSIANS),
        random(FEATURES),
        random(FEATURES, FEATURES),
        random(FEATURES),
    )


def differentiable(values):
    return [value for value in values if value.is_floating_point()]


@pytest.mark.parametrize("pairs", [0, 1, 4, 11])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_the_plain_form_with_all_gradients(pairs, dtype):
    values = arguments(pairs, dtype)
    ours, plain = FilterConvolution.apply(*values), plain_filter_convolution(*values)
    torch.testing.assert_close(ours, plain)
    direction = torch.randn_like(plain)
    inputs = differentiable(values)
    torch.testing.assert_close(grad(ours, inputs, direction), grad(plain, inputs, direction))


def test_first_and_second_derivatives_are_those_of_finite_differences():
    assert gradcheck(FilterConvolution.apply, arguments())
    assert gradgradcheck(FilterConvolution.apply, arguments())


def test_second_derivatives_through_two_convolutions():
    """The features that the second one takes depend on the distances, as in a network."""
    source, *rest = arguments()

    def second(convolution):
        energy = convolution(convolution(source, *rest), *rest).square().sum()
        (slope,) = grad(energy, rest[1], create_graph=True)
        return grad(slope.square().sum(), [source, *differentiable(rest)])

    torch.testing.assert_close(second(FilterConvolution.apply), second(plain_filter_convolution))


@pytest.mark.parametrize("frozen", ["geometry", "weights"])
def test_only_what_is_wanted_is_differentiated(frozen):
    values = list(arguments(wanted=False))
    chosen = values[4:] if frozen == "geometry" else values[2:4]
    for value in chosen:
        value.requires_grad_()
    ours, plain = FilterConvolution.apply(*values), plain_filter_convolution(*values)
    torch.testing.assert_close(grad(ours.sum(), chosen), grad(plain.sum(), chosen))


class Convolution(torch.nn.Module):
    def forward(self, *values):
        return filter_convolution.filter_convolution(*values)


def test_an_exported_convolution_takes_any_number_of_pairs():
    values = arguments(wanted=False)
    pairs, fixed = torch.export.Dim("pairs"), None
    shapes = ((fixed, {1: pairs}, {0: pairs}, {0: pairs}, fixed, fixed, fixed, fixed),)
    exported = torch.export.export(Convolution(), values, dynamic_shapes=shapes).module()
    more = arguments(pairs=23, wanted=False)
    torch.testing.assert_close(exported(*more), plain_filter_convolution(*more))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shifted_softplus(dtype):
    x = torch.tensor([-1e4, -90.0, -20.0, -1.0, -1e-3, 0.0, 1e-3, 1.0, 20.0, 90.0, 1e4], dtype=dtype)
    exact = torch.nn.functional.softplus(x.double()) - torch.log(torch.tensor(2.0).double())
    tolerance = 2e-7 if dtype == torch.float32 else 1e-15
    torch.testing.assert_close(shifted_softplus_(x.clone()).double(), exact, rtol=tolerance, atol=tolerance)
