"""SchNet's filters and its convolution over pairs, in few steps of autograd that stay in the cache.

Left to itself, autograd writes and reads some twenty arrays of shape (P, F) a block, each larger than a core's cache,
for energies, and more than twice as many for the gradient of a loss on forces.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LN2 = math.log(2.0)

PAIRS = 1024
"""Pairs that a CPU works on at a time: 128 features of so many are 512 KiB in float32, and the few arrays that are in
use at once fit into the second cache of a core."""


class Radial(NamedTuple):
    """What the filters of all blocks take of the distances of P pairs, without gradients but for `distance`.

    The G functions of the distance on which the first layer of a filter network acts are combinations of K, ``span``
    their coefficients. Slopes are in the distance, None where it asks for no gradient.
    """

    distance: Tensor  # (P,)
    span: Tensor  # (G, K)
    basis: Tensor  # (P, K)
    envelope: Tensor  # (P,) factor that makes a filter zero at the cutoff
    basis_slope: Tensor | None  # (P, K)
    envelope_slope: Tensor | None  # (P,)


Plain = Callable[[Tensor], Tensor]


def filters(radial: Radial, weights: tuple[Tensor, ...], plain: Plain | None) -> Tensor:
    """``(W_2 ssp(W_1 span basis + b_1) + b_2) * envelope``, (P, F).

    With slopes they are differentiable in the distance, and this derivative in the weights: what the gradient of a loss
    on forces takes.

    Args:
        radial: what they take of the distances.
        weights: W_1, b_1, W_2 and b_2 of the filter network, (F, G), (F,), (F, F), (F,).
        plain: the same as a function of the distance, for second derivatives in it; without it they are incomplete.
    """
    envelope, slope = (None if x is None else x.unsqueeze(-1) for x in (radial.envelope, radial.envelope_slope))
    w1, *others = weights
    # in full precision: they are short of memory, not of time
    with torch.autocast(radial.distance.device.type, enabled=False):
        values, slopes = Filters.apply(radial.basis, envelope, radial.basis_slope, slope, w1 @ radial.span, *others)
    return values if slopes is None else AlongDistance.apply(values, slopes, radial.distance, plain)


def convolution(source: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """``sum_j source_j * weight_ij``; each pair stands once and serves both directions.

    Args:
        source: (N, F).
        pairs: i and j, (2, P).
        weight: (P, F).

    Returns:
        (N, F).
    """
    # a loop over parts would fix the number of pairs of a compiled program
    convolve = plain_convolution if torch.compiler.is_compiling() else Convolution.apply
    return convolve(source.to(weight.dtype), pairs, weight)


def plain_convolution(source: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """The same, written down as it reads."""
    i, j = pairs
    message = torch.zeros_like(source)
    message = message.index_add(0, i, source.index_select(0, j) * weight)
    return message.index_add(0, j, source.index_select(0, i) * weight)


class Convolution(Function):
    """`plain_convolution`, `PAIRS` pairs at a time; any number of times differentiable."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(source, pairs, weight)
        message = torch.zeros_like(source)
        for k, w in parts(weight):
            i, j = pairs[:, k]
            message.index_add_(0, i, source.index_select(0, j).mul_(w))
            message.index_add_(0, j, source.index_select(0, i).mul_(w))
        return message

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        source, pairs, weight = ctx.saved_tensors
        source_wanted, _, weight_wanted = ctx.needs_input_grad
        return (
            Convolution.apply(gradient, pairs, weight) if source_wanted else None,
            None,
            PairProduct.apply(source, gradient, pairs) if weight_wanted else None,
        )


class PairProduct(Function):
    """``a_i b_j + a_j b_i`` of the pairs: a and b (N, F) -> (P, F); the slope of a convolution in its weights."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, pairs: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, pairs)
        product = a.new_empty(pairs.shape[1], a.shape[1])
        for k, p in parts(product):
            i, j = pairs[:, k]
            torch.mul(a.index_select(0, i), b.index_select(0, j), out=p)
            p.addcmul_(a.index_select(0, j), b.index_select(0, i))
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b, pairs = ctx.saved_tensors
        return Convolution.apply(b, pairs, gradient), Convolution.apply(a, pairs, gradient), None


class Filters(Function):
    """`filters` and, where the basis has them, their slopes in the distance, `PAIRS` pairs at a time.

    The slopes are found forwards, by the chain rule from the distance on, so that the gradient of a loss on forces is a
    first derivative in the weights: ten matrix products, energies alone take five.
    """

    @staticmethod
    def forward(
        ctx: Any,
        basis: Tensor,
        envelope: Tensor,
        basis_slope: Tensor | None,
        envelope_slope: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        w1, b1, w2, b2 = weights
        shape = len(basis), len(w1)
        hidden, values = basis.new_empty(shape), basis.new_empty(shape)
        rising, slopes = (basis.new_empty(shape) if basis_slope is not None else None for _ in range(2))
        columns = (basis, envelope, basis_slope, envelope_slope, hidden, values, rising, slopes)
        for _, x, c, dx, dc, h, f, dh, df in parts(*columns):
            z = torch.addmm(b1, x, w1.t())
            h.copy_(F.softplus(z, threshold=SATURATED)).sub_(LN2)
            torch.addmm(b2, h, w2.t(), out=f)
            if df is not None:
                torch.mm(dx, w1.t(), out=dh).mul_(z.sigmoid_())
                torch.mm(dh, w2.t(), out=df).mul_(c).addcmul_(f, dc)
            f.mul_(c)
        ctx.save_for_backward(basis, envelope, basis_slope, envelope_slope, w1, w2, hidden, rising)
        return values, slopes

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, slope_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        require_last_derivative()
        basis, envelope, basis_slope, envelope_slope, w1, w2, hidden, rising = ctx.saved_tensors
        to_w1, to_w2 = torch.zeros_like(w1), torch.zeros_like(w2)
        to_b1, to_b2 = w1.new_zeros(len(w1)), w2.new_zeros(len(w2))
        columns = (basis, envelope, basis_slope, envelope_slope, hidden, rising, gradient, slope_gradient)
        for _, x, c, dx, dc, h, dh, g, dg in parts(*columns):
            to_f = g * c
            flat = torch.exp(-h).mul_(0.5)  # ssp'(z) = 1 - exp(-ssp(z)) / 2
            if dg is not None:
                to_f.addcmul_(dg, dc)
                to_df = dg * c
                to_w2.addmm_(to_df.t(), dh)
                to_dh = to_df @ w2
            to_w2.addmm_(to_f.t(), h)
            to_b2.add_(to_f.sum(0))
            to_z = to_f @ w2
            to_z.addcmul_(to_z, flat, value=-1)
            if dg is not None:
                to_z.add_((to_dh * dh).mul_(flat))  # ssp'' = ssp' (1 - ssp')
                to_w1.addmm_(to_dh.addcmul_(to_dh, flat, value=-1).t(), dx)
            to_w1.addmm_(to_z.t(), x)
            to_b1.add_(to_z.sum(0))
        return None, None, None, None, to_w1, to_b1, to_w2, to_b2


SATURATED = 40.0
"""Beyond it softplus is the identity, in float64 too."""


class AlongDistance(Function):
    """Values (P, F) with their known slopes (P, F) in the distance (P,)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Tensor, distance: Tensor, plain: Plain | None) -> Tensor:
        ctx.save_for_backward(slopes, distance)
        ctx.plain = plain
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        slopes, distance = ctx.saved_tensors
        to_distance = torch.linalg.vecdot(gradient, slopes)
        if torch.is_grad_enabled() and ctx.plain is not None:
            to_distance = to_distance + Curvature.apply(distance, gradient.detach(), ctx.plain)
        return gradient, None, to_distance, None


class Curvature(Function):
    """Zero (P,), whose slope in the distance is that of ``sum_f gradient_f slopes_f``.

    By autograd through the plain form, at leisure.
    """

    @staticmethod
    def forward(ctx: Any, distance: Tensor, gradient: Tensor, plain: Plain) -> Tensor:
        ctx.save_for_backward(distance, gradient)
        ctx.plain = plain
        return torch.zeros_like(distance)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        require_last_derivative()
        distance, gradient = ctx.saved_tensors
        with torch.enable_grad():
            distance = distance.detach().requires_grad_()
            _, slopes, *_ = torch.func.jvp(ctx.plain, (distance,), (torch.ones_like(distance),))
            (found,) = torch.autograd.grad((slopes * gradient).sum(), distance)
        return found * outer, None, None


def require_last_derivative() -> None:
    """Raise where a gradient is to be differentiated again that would be taken for a constant."""
    if torch.is_grad_enabled():
        raise RuntimeError(
            "SchNet has second derivatives in positions, and those of forces and stress in weights, but no further ones"
        )


def parts(*columns: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Slices of `PAIRS` rows and these rows of each; all at once where there is no such cache."""
    first = columns[0]
    assert first is not None
    size = PAIRS if first.device.type == "cpu" else max(len(first), 1)
    for start in range(0, len(first), size):
        rows = slice(start, start + size)
        yield rows, *(column if column is None else column[rows] for column in columns)
