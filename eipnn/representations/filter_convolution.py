"""SchNet's convolution over pairs, filter network included, as one step of autograd that stays in the cache."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

LN2 = math.log(2.0)

PAIRS = 1024
"""Pairs that a CPU works on at a time: 128 features of so many are 512 KiB in float32, and the few arrays that are in
use at once fit into the second cache of a core."""


def filter_convolution(
    source: Tensor, pairs: Tensor, expanded: Tensor, envelope: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """``sum_j source_j * filter(r_ij)`` with ``filter = (W_2 ssp(W_1 expanded + b_1) + b_2) * envelope``.

    Each pair stands once and serves both directions. Differentiable, any number of times, in all but `pairs`.

    Args:
        source: (N, F).
        pairs: i and j, (2, P).
        expanded: distances of the pairs in Gaussians, (P, G).
        envelope: factor that makes the filter zero at the cutoff, (P, 1).
        w1, b1, w2, b2: of the filter network, (F, G), (F,), (F, F), (F,).

    Returns:
        (N, F).
    """
    device = source.device.type
    if torch.is_autocast_enabled(device):  # filters and sums in full precision: they are short of memory, not of time
        with torch.autocast(device, enabled=False):
            source = source.to(envelope.dtype)
            return filter_convolution(source, pairs, expanded, envelope, w1, b1, w2, b2)
    # a loop over parts would fix the number of pairs of a compiled program
    convolve = plain_filter_convolution if torch.compiler.is_compiling() else FilterConvolution.apply
    return convolve(source, pairs, expanded, envelope, w1, b1, w2, b2)


def plain_filter_convolution(
    source: Tensor, pairs: Tensor, expanded: Tensor, envelope: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """The same, written down as it reads."""
    hidden = F.softplus(F.linear(expanded, w1, b1)) - LN2  # (P, F)
    return convolution(source, pairs, F.linear(hidden, w2, b2) * envelope)


def convolution(source: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
    """``sum_j source_j * weight_ij``: source (N, F), pairs (2, P), weight (P, F) -> (N, F)."""
    i, j = pairs
    message = torch.zeros_like(source)
    message = message.index_add(0, i, source.index_select(0, j) * weight)
    return message.index_add(0, j, source.index_select(0, i) * weight)


class FilterConvolution(Function):
    """`filter_convolution`, `PAIRS` pairs at a time.

    Left to itself, autograd writes and reads some twenty arrays of shape (P, F) that are each larger than a core's
    cache, and keeps seven of them; here two are kept, the hidden layer and the filter.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Tensor:
        source, pairs, expanded, envelope, w1, b1, w2, b2 = arguments
        message = torch.zeros_like(source)
        hidden = expanded.new_empty(len(expanded), len(b1))  # (P, F)
        filters = torch.empty_like(hidden)
        for (i, j), x, damping, h, f in parts(pairs, expanded, envelope, hidden, filters):
            shifted_softplus_(torch.addmm(b1, x, w1.t(), out=h))
            torch.addmm(b2, h, w2.t(), out=f)
            weight = f * damping
            message.index_add_(0, i, source.index_select(0, j).mul_(weight))
            message.index_add_(0, j, weight.mul_(source.index_select(0, i)))
        ctx.save_for_backward(*arguments, hidden, filters)
        return message

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        *arguments, hidden, filters = ctx.saved_tensors
        if torch.is_grad_enabled():  # these derivatives are going to be differentiated themselves
            return gradients_by_autograd(arguments, ctx.needs_input_grad, gradient)
        source, pairs, expanded, envelope, w1, b1, w2, b2 = arguments
        _, _, expanded_wanted, envelope_wanted, *weights_wanted = ctx.needs_input_grad
        to_source, to_w1, to_b1, to_w2, to_b2 = map(torch.zeros_like, (source, w1, b1, w2, b2))
        to_expanded, to_envelope = [], []
        for (i, j), x, damping, h, f in parts(pairs, expanded, envelope, hidden, filters):
            to_i, to_j = gradient.index_select(0, i), gradient.index_select(0, j)  # (PAIRS, F)
            to_weight = source.index_select(0, j).mul_(to_i)
            to_weight.addcmul_(source.index_select(0, i), to_j)
            weight = f * damping
            to_source.index_add_(0, j, to_i.mul_(weight))
            to_source.index_add_(0, i, to_j.mul_(weight))
            if envelope_wanted:
                to_envelope.append((to_weight * f).sum(1, keepdim=True))
            to_f = to_weight.mul_(damping)
            to_h = to_f @ w2
            to_h.sub_(torch.exp(-h).mul_(to_h), alpha=0.5)  # ssp'(x) = 1 - exp(-ssp(x)) / 2
            if any(weights_wanted):
                to_w2.addmm_(to_f.t(), h)
                to_b2.add_(to_f.sum(0))
                to_w1.addmm_(to_h.t(), x)
                to_b1.add_(to_h.sum(0))
            if expanded_wanted:
                to_expanded.append(to_h @ w1)
        return (
            to_source,
            None,
            torch.cat(to_expanded) if expanded_wanted else None,
            torch.cat(to_envelope) if envelope_wanted else None,
            to_w1,
            to_b1,
            to_w2,
            to_b2,
        )


def shifted_softplus_(x: Tensor) -> Tensor:
    """``ln(0.5 exp(x) + 0.5) = max(x, 0) + ln(1 + exp(-|x|)) - ln 2`` in place of x; exp and log are the quick ones."""
    tail = x.abs().neg_().exp_().add_(1).log_()
    return x.clamp_(min=0).add_(tail).sub_(LN2)


def parts(pairs: Tensor, *arrays: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Blocks of pairs (2, PAIRS) and of arrays (PAIRS, ...); all at once where there is no such cache."""
    size = PAIRS if pairs.device.type == "cpu" else max(pairs.shape[1], 1)
    return zip(pairs.split(size, 1), *(array.split(size) for array in arrays), strict=True)


def gradients_by_autograd(
    arguments: Sequence[Tensor], wanted: Sequence[bool], gradient: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of `plain_filter_convolution` as differentiable tensors; None where not wanted."""
    # views: one argument may depend on another (the features on the distances), but not through this convolution
    views = [argument.view_as(argument) for argument in arguments]
    message = plain_filter_convolution(*views)
    chosen = [view for view, want in zip(views, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(message, chosen, gradient, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)
