"""MACE's convolution over pairs, tensor products included, as one step of autograd that stays in the cache.

The message to atom i from its neighbours j is, in each of C channels,

    m_i = sum_j sum_paths R_path(r_ij) (h_j x Y(r_ij))_path

where a path couples an order l1 of the features h and an order l2 of the spherical harmonics Y to an order l3 of the
message. Left to itself, autograd writes each of these products to memory, for both directions of each pair.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

PAIRS = 256
"""Pairs that a CPU works on at a time: fewer and their number of steps costs more than the memory does."""


class TensorConvolution:
    """The sum over the neighbours of each atom; each pair stands once and serves both directions.

    Any number of times differentiable. Features (N, M1, C) and messages (N, M3, C) have 2 l + 1 rows for each
    order l, the messages for each path. A pair has the couplings ``sum_m <l1 m1 l2 m | l3 m3> Y_m`` between their rows.

    Args:
        product: e3nn's tensor product of one atom's features and harmonics; its paths couple channel by channel
            (``uvu``), each with weights and rows of the message of its own.
    """

    def __init__(self, product: Any) -> None:
        from e3nn.o3 import wigner_3j

        irreps = product.irreps_in1, product.irreps_in2, product.irreps_out
        first, second, out = ([part.ir for part in parts] for parts in irreps)
        self.channels: int = product.irreps_in1[0].mul
        h, y, m = (slices([ir.dim for ir in orders]) for orders in (first, second, out))
        table = torch.zeros(y[-1].stop, m[-1].stop, h[-1].stop, dtype=torch.float64)
        path = torch.zeros(m[-1].stop, dtype=torch.int64)
        sign = torch.zeros(m[-1].stop, 1, dtype=torch.float64)
        for k, i in enumerate(product.instructions):
            a, b, c = first[i.i_in1].l, second[i.i_in2].l, out[i.i_out].l
            coefficients = i.path_weight * wigner_3j(a, b, c, dtype=torch.float64)
            table[y[i.i_in2], m[i.i_out], h[i.i_in1]] = coefficients.permute(1, 2, 0)
            path[m[i.i_out]] = k
            sign[m[i.i_out]] = (-1.0) ** b
        self.paths = len(product.instructions)
        self.table = Exact(table)
        """Couplings of the harmonics ((ell + 1)^2, M3, M1)."""
        self.path = Exact(path)
        """Of each row of the messages (M3,)."""
        self.sign = Exact(sign)
        """Of each row of the messages where the pair is seen from its other atom (M3, 1)."""

    def __call__(
        self, features: Tensor, harmonics: Tensor, radial: Tensor, pairs: Tensor, curvature: bool = True
    ) -> Tensor:
        """The messages (N, M3, C).

        Args:
            features: (N, M1, C).
            harmonics: of the vectors from i to j, (P, (ell + 1)^2).
            radial: R of the paths and channels, (P, paths * C).
            pairs: i and j, (2, P).
            curvature: see `AtomicGraph`.
        """
        table = self.table(harmonics)
        couplings = (harmonics @ table.flatten(1)).unflatten(1, table.shape[1:])  # (P, M3, M1)
        given = None, features, couplings, radial.unflatten(1, (-1, self.channels))
        if torch.compiler.is_compiling():
            return to_message(self, pairs, *given)
        return Contraction.apply(MESSAGE, self, pairs, curvature, False, *given)


class Exact:
    """A constant, in float64 or of indices, that is asked for in the precision and on the device of other tensors.

    Rounded to float32 it would spoil float64. The last form that was asked for is kept.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = self.kept = value.clone(memory_format=torch.contiguous_format)  # no views in files

    def __call__(self, like: Tensor) -> Tensor:
        dtype = like.dtype if self.value.is_floating_point() else self.value.dtype
        if torch.compiler.is_compiling():  # what is kept there is no tensor of numbers
            return self.value.to(like.device, dtype)
        if self.kept.device != like.device or self.kept.dtype != dtype:
            with torch.inference_mode(False):  # a training may ask for it next
                self.kept = self.value.to(like.device, dtype)
        return self.kept


def slices(sizes: list[int]) -> list[slice]:
    """Of consecutive parts of these sizes."""
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]


class Contraction(Function):
    """The sum over pairs, paths and channels of ``message * radial * (couplings h)``, without one of the four.

    What is left out is at `slot`; the result has its shape and is the slope of the whole sum in it. So the slopes of a
    contraction are contractions too.
    """

    @staticmethod
    def forward(
        ctx: Any, slot: int, tensor: TensorConvolution, pairs: Tensor, curvature: bool, again: bool, *given: Any
    ) -> Tensor:
        """The four are the messages (N, M3, C), h (N, M1, C), couplings (P, M3, M1) and radial (P, paths, C).

        `again`: whether this is itself a slope.
        """
        ctx.slot, ctx.tensor, ctx.curvature, ctx.again = slot, tensor, curvature, again
        ctx.save_for_backward(pairs, *given)
        return CONTRACTIONS[slot](tensor, pairs, *given)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pairs, *given = ctx.saved_tensors
        given[ctx.slot] = gradient
        wanted = list(ctx.needs_input_grad[5:])
        if torch.is_grad_enabled():
            ctx.again = True
        elif ctx.again and not ctx.curvature:  # directions matter to second derivatives in the positions alone
            wanted[COUPLINGS] = False
        slopes = (
            Contraction.apply(k, ctx.tensor, pairs, ctx.curvature, True, *given[:k], None, *given[k + 1 :])
            if wanted[k] and k != ctx.slot
            else None
            for k in range(4)
        )
        return None, None, None, None, None, *slopes


def to_message(
    tensor: TensorConvolution, pairs: Tensor, _: Any, h: Tensor, couplings: Tensor, radial: Tensor
) -> Tensor:
    result = h.new_zeros(h.shape[0], couplings.shape[1], h.shape[2])
    for _, source, target, a, weight in directions(tensor, pairs, couplings, radial):
        result.index_add_(0, target, torch.bmm(a, h.index_select(0, source)) * weight)
    return result


def to_source(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, _: Any, couplings: Tensor, radial: Tensor
) -> Tensor:
    result = message.new_zeros(message.shape[0], couplings.shape[2], message.shape[2])
    for _, source, target, a, weight in directions(tensor, pairs, couplings, radial):
        result.index_add_(0, source, torch.bmm(a.mT, message.index_select(0, target).mul_(weight)))
    return result


def to_couplings(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, h: Tensor, _: Any, radial: Tensor
) -> Tensor:
    result = h.new_zeros(radial.shape[0], message.shape[1], h.shape[1])
    ones = h.new_ones(1, 1, 1).expand(*result.shape[:2], 1)  # what is left of couplings: the sign of a direction
    for part, source, target, sign, weight in directions(tensor, pairs, ones, radial):
        weighted = message.index_select(0, target).mul_(weight)
        result[part].addcmul_(torch.bmm(weighted, h.index_select(0, source).mT), sign)
    return result


def to_radial(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, h: Tensor, couplings: Tensor, _: Any
) -> Tensor:
    result = h.new_zeros(couplings.shape[0], tensor.paths, h.shape[2])
    for part, source, target, a, _ in directions(tensor, pairs, couplings):
        products = torch.bmm(a, h.index_select(0, source)).mul_(message.index_select(0, target))
        result[part].index_add_(1, tensor.path(pairs), products)
    return result


MESSAGE, SOURCE, COUPLINGS, RADIAL = range(4)
CONTRACTIONS = (to_message, to_source, to_couplings, to_radial)


def directions(
    tensor: TensorConvolution, pairs: Tensor, couplings: Tensor, radial: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor, Any]]:
    """Parts of the pairs, first seen from j, then from i: which, their sources, targets, couplings, and radial
    (P, paths, C) at the rows of the messages (n, M3, C)."""
    sign, path = tensor.sign(couplings), tensor.path(pairs)
    for part in parts(pairs):
        i, j = pairs[:, part]
        weight = None if radial is None else radial[part].index_select(1, path)
        yield part, i, j, couplings[part], weight
        yield part, j, i, couplings[part] * sign, weight


def parts(pairs: Tensor) -> list[slice]:
    """Of the pairs (2, P); all at once where there is no such cache, or their number is to stay open."""
    if pairs.device.type != "cpu" or torch.compiler.is_compiling():
        return [slice(None)]
    return [slice(start, start + PAIRS) for start in range(0, pairs.shape[1], PAIRS)]
