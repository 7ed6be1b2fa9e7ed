"""MACE's convolution over pairs, tensor products included, as one step of autograd that stays in the cache.

The message to atom i from its neighbours j is, in each of C channels,

    m_i = sum_j sum_paths R_path(r_ij) (h_j x Y(r_ij))_path

where a path couples an order l1 of the features h and an order l2 of the spherical harmonics Y to an order l3 of the
message. Left to itself, autograd writes each of these products to memory, for both directions of each pair.
"""

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

PAIRS = 512
"""Pairs that a CPU works on at a time: fewer and their number of steps costs more than the memory does."""


class Path(NamedTuple):
    """Where a coupling of l1 and l2 to l3 stands."""

    source: slice  # 2 l1 + 1 rows of the features
    message: slice  # 2 l3 + 1 rows of the messages
    couplings: slice  # (2 l1 + 1) (2 l3 + 1) columns
    shape: tuple[int, int]  # 2 l1 + 1, 2 l3 + 1

    def of(self, couplings: Tensor) -> Tensor:
        """Its part of the couplings (n, T) -> (n, 2 l1 + 1, 2 l3 + 1, 1)."""
        return couplings[:, self.couplings].view(-1, *self.shape, 1)


class TensorConvolution:
    """The sum over the neighbours of each atom; each pair stands once and serves both directions.

    Any number of times differentiable. Inside, features and messages are laid out (N, rows, C), where each order l has
    2 l + 1 rows, and a pair has the couplings ``sum_m <l1 m1 l2 m | l3 m3> Y_m`` between their rows.

    Args:
        product: e3nn's tensor product of one atom's features and harmonics; its paths couple channel by channel
            (``uvu``), each with weights of its own.
    """

    def __init__(self, product: Any) -> None:
        from e3nn.o3 import wigner_3j

        first, second, out = product.irreps_in1, product.irreps_in2, product.irreps_out
        self.channels: int = first[0].mul
        self.sizes = [part.ir.dim for part in first], [part.ir.dim for part in out]
        sources, harmonics, messages = (slices([part.ir.dim for part in irreps]) for irreps in (first, second, out))
        shapes = [(first[i.i_in1].ir.dim, out[i.i_out].ir.dim) for i in product.instructions]
        columns = slices([n * m for n, m in shapes])
        self.paths: list[Path] = []
        self.table = torch.zeros(harmonics[-1].stop, columns[-1].stop, dtype=torch.float64)
        """Couplings of the harmonics ((ell + 1)^2, T)."""
        self.sign = torch.ones(columns[-1].stop)
        """Of the couplings where the pair is seen from its other atom (T,)."""
        for i, shape, column in zip(product.instructions, shapes, columns, strict=True):
            a, b, c = first[i.i_in1].ir, second[i.i_in2].ir, out[i.i_out].ir
            coefficients = i.path_weight * wigner_3j(a.l, b.l, c.l, dtype=torch.float64)
            self.table[harmonics[i.i_in2], column] = coefficients.transpose(0, 1).flatten(1)
            self.sign[column] = (-1.0) ** b.l
            self.paths.append(Path(sources[i.i_in1], messages[i.i_out], column, shape))

    curvature = True
    """See `AtomicGraph`."""

    def __call__(self, features: Tensor, harmonics: Tensor, radial: Tensor, pairs: Tensor) -> Tensor:
        """Features and messages are in the layout of e3nn.

        Args:
            features: (N, irreps_in1).
            harmonics: of the vectors from i to j, (P, (ell + 1)^2).
            radial: R of the paths and channels, (P, paths * C).
            pairs: i and j, (2, P).

        Returns:
            (N, irreps_out).
        """
        parts = features.split([self.channels * size for size in self.sizes[0]], dim=1)
        h = torch.cat([x.unflatten(1, (self.channels, -1)).mT for x in parts], dim=1)  # (N, M1, C)
        couplings = harmonics @ self.table.to(harmonics)  # (P, T)
        given = h, couplings, radial.unflatten(1, (len(self.paths), self.channels))
        if torch.compiler.is_compiling():  # a loop over parts would fix the number of pairs of a compiled program
            message = plain_message(self, pairs, *given)
        else:
            message = Contraction.apply(MESSAGE, self, pairs, self.curvature, False, None, *given)  # (N, M3, C)
        return torch.cat([x.mT.flatten(1) for x in message.split(self.sizes[1], dim=1)], dim=1)


def slices(sizes: list[int]) -> list[slice]:
    """Of consecutive parts of these sizes."""
    return [slice(*ends) for ends in pairwise(accumulate(sizes, initial=0))]


def plain_message(tensor: TensorConvolution, pairs: Tensor, h: Tensor, couplings: Tensor, radial: Tensor) -> Tensor:
    """Messages (N, M3, C), written down as they read."""
    message = h.new_zeros(h.shape[0], sum(tensor.sizes[1]), h.shape[2])
    i, j = pairs
    for source, target, a in ((i, j, couplings), (j, i, couplings * tensor.sign.to(couplings))):
        x = h.index_select(0, source)
        products = [(p.of(a) * x[:, p.source].unsqueeze(2)).sum(dim=1) for p in tensor.paths]
        weighted = [product * radial[:, k].unsqueeze(1) for k, product in enumerate(products)]
        message = message.index_add(0, target, torch.cat(weighted, dim=1))
    return message


class Contraction(Function):
    """The sum over pairs, paths and channels of ``radial * (couplings h) * message``, without one of the four.

    What is left out is at `slot`; the result has its shape and is the slope of the whole sum in it. So the slopes of a
    contraction are contractions too.
    """

    @staticmethod
    def forward(
        ctx: Any, slot: int, tensor: TensorConvolution, pairs: Tensor, curvature: bool, again: bool, *given: Tensor
    ) -> Tensor:
        """The four are the messages (N, M3, C), h (N, M1, C), couplings (P, T) and radial (P, paths, C).

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
    tensor: TensorConvolution, pairs: Tensor, message: Any, h: Tensor, couplings: Tensor, radial: Tensor
) -> Tensor:
    result = h.new_zeros(h.shape[0], sum(tensor.sizes[1]), h.shape[2])
    x, u = Rows(h), Rows(result)
    for part, source, target, a in directions(tensor, pairs, couplings):
        product = weighted(tensor, radial[part], coupled(tensor, a, x.of(source), u.empty(target)))
        u.add(target, product)
    return result


def to_source(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, h: Any, couplings: Tensor, radial: Tensor
) -> Tensor:
    result = message.new_zeros(message.shape[0], sum(tensor.sizes[0]), message.shape[2])
    x, u = Rows(result), Rows(message)
    for part, source, target, a in directions(tensor, pairs, couplings):
        m, product = weighted(tensor, radial[part], u.of(target)), x.empty(source).zero_()
        for path in tensor.paths:
            out = product[:, path.source]
            for c, row in zip(path.of(a).unbind(2), m[:, path.message].split(1, dim=1), strict=True):
                out.addcmul_(c, row)
        x.add(source, product)
    return result


def to_couplings(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, h: Tensor, couplings: Any, radial: Tensor
) -> Tensor:
    result = h.new_zeros(radial.shape[0], len(tensor.sign))
    x, u = Rows(h), Rows(message)
    for part, source, target, sign in directions(tensor, pairs, torch.ones_like(result)):
        features, m = x.of(source), weighted(tensor, radial[part], u.of(target))
        for path in tensor.paths:
            product = torch.linalg.vecdot(features[:, path.source, None], m[:, None, path.message])
            result[part, path.couplings].addcmul_(product.flatten(1), sign[:, path.couplings])
    return result


def to_radial(
    tensor: TensorConvolution, pairs: Tensor, message: Tensor, h: Tensor, couplings: Tensor, radial: Any
) -> Tensor:
    result = h.new_zeros(couplings.shape[0], len(tensor.paths), h.shape[2])
    x, u, out = Rows(h), Rows(message), Rows(message)
    for part, source, target, a in directions(tensor, pairs, couplings):
        product = coupled(tensor, a, x.of(source), out.empty(target)).mul_(u.of(target))
        for k, path in enumerate(tensor.paths):
            for row in product[:, path.message].unbind(1):
                result[part, k].add_(row)
    return result


MESSAGE, SOURCE, COUPLINGS, RADIAL = range(4)
CONTRACTIONS = (to_message, to_source, to_couplings, to_radial)


def directions(
    tensor: TensorConvolution, pairs: Tensor, couplings: Tensor
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Parts of the pairs, first seen from j, then from i: their rows, sources, targets, couplings."""
    i, j = pairs
    sign = tensor.sign.to(couplings)
    size = rows_of(couplings)
    for start in range(0, len(couplings), size):
        part = slice(start, start + size)
        yield part, i[part], j[part], couplings[part]
        yield part, j[part], i[part], couplings[part] * sign


def rows_of(x: Tensor) -> int:
    """Pairs of a part; all at once where there is no such cache."""
    return PAIRS if x.device.type == "cpu" else max(len(x), 1)


def coupled(tensor: TensorConvolution, couplings: Tensor, h: Tensor, out: Tensor) -> Tensor:
    """``couplings h``: (n, T), (n, M1, C) -> (n, M3, C)."""
    for path in tensor.paths:
        target = out[:, path.message]
        columns = path.of(couplings).unbind(1)
        sources = h[:, path.source].split(1, dim=1)
        torch.mul(columns[0], sources[0], out=target)
        for c, row in zip(columns[1:], sources[1:], strict=True):
            target.addcmul_(c, row)
    return out


def weighted(tensor: TensorConvolution, radial: Tensor, message: Tensor) -> Tensor:
    """The message (n, M3, C) times the weight of its path and channel (n, paths, C), in place."""
    for path, weight in zip(tensor.paths, radial.split(1, dim=1), strict=True):
        message[:, path.message].mul_(weight)
    return message


class Rows:
    """Rows of an array of atoms (N, M, C) in memory that is used again for each part of the pairs."""

    def __init__(self, atoms: Tensor) -> None:
        self.atoms = atoms.flatten(1)
        self.shape = atoms.shape[1:]
        self.memory = atoms.new_empty(0)

    def empty(self, index: Tensor) -> Tensor:
        """(n, M, C), with anything in it."""
        if len(index) * self.atoms.shape[1] > self.memory.numel():
            self.memory = self.atoms.new_empty(len(index), self.atoms.shape[1])
        return self.memory[: len(index)].view(-1, *self.shape)

    def of(self, index: Tensor) -> Tensor:
        """Those of the atoms (n,) -> (n, M, C)."""
        out = self.empty(index)
        torch.index_select(self.atoms, 0, index, out=self.memory[: len(index)])
        return out

    def add(self, index: Tensor, rows: Tensor) -> None:
        """Add rows (n, M, C) to those of the atoms (n,)."""
        self.atoms.index_add_(0, index, rows.view(len(index), -1))
