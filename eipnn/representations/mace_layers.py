"""One layer of MACE, with the weights of the library's modules: the same function in a tenth of their operations.

Everywhere features are (N, M, C): C channels, and rows for each order l in turn, 2 l + 1 of them, or as many for each
path that leads to this order. The library keeps a tensor for each order and path, and works on these one by one; with
the few atoms of a training batch that is what its time goes into.
"""

from collections import defaultdict
from itertools import combinations_with_replacement, pairwise
from typing import Any

import torch
from torch import Tensor

from eipnn.representations.tensor_convolution import Exact, TensorConvolution, slices

CORRELATIONS = (1, 2, 3)
"""Degrees of the polynomials that `Product` knows."""


class Layer:
    """Message passing and the product of messages.

    Args:
        interaction: of the library, residual or not.
        product: of the library.
    """

    def __init__(self, interaction: Any, product: Any) -> None:
        self.interaction = interaction
        self.convolution = TensorConvolution(interaction.conv_tp)
        self.before, self.after = Mixing(interaction.linear_up), Mixing(interaction.linear)
        self.skip = Mixing(interaction.skip_tp)
        self.residual = product.use_sc
        self.product, self.last = Product(product.symmetric_contractions.contractions), Mixing(product.linear)

    def __call__(
        self, features: Tensor, elements: Tensor, harmonics: Tensor, radial: Tensor, pairs: Tensor, curvature: bool
    ) -> Tensor:
        """New features, (N, M, C).

        Args:
            features: (N, M, C).
            elements: for each atom a one at its element, (N, S).
            harmonics: of the vectors from i to j, (P, (ell + 1)^2).
            radial: radial functions, (P, bessel).
            pairs: i and j, (2, P), each pair once.
            curvature: see `AtomicGraph`.
        """
        weights = self.interaction.conv_tp_weights(radial)
        message = self.convolution(self.before(features), harmonics, weights, pairs, curvature)
        message = self.after(message) / self.interaction.avg_num_neighbors
        if not self.residual:
            return self.last(self.product(self.skip(message, elements), elements))
        return self.last(self.product(message, elements)) + self.skip(features, elements)


class Mixing:
    """A linear map of the channels of each order, and of the paths that lead to it.

    Args:
        layer: of e3nn: a ``Linear``, or a ``FullyConnectedTensorProduct`` with scalars that say the element.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        by_element = hasattr(layer, "irreps_in1")
        given = layer.irreps_in1 if by_element else layer.irreps_in
        rows = slices([part.ir.dim for part in given])
        self.orders: list[tuple[slice, int, slice, float]] = []
        """Of each order of the result: rows that lead to it, of how many paths, their weights, and a factor."""
        instructions = layer.instructions
        places = slices([torch.Size(i.path_shape).numel() for i in instructions])
        for out, part in enumerate(layer.irreps_out):
            mine = [(k, i) for k, i in enumerate(instructions) if i.i_out == out]
            sources = [rows[i.i_in1 if by_element else i.i_in] for _, i in mine]
            weights = [places[k] for k, _ in mine]
            # e3nn keeps what belongs to an order side by side, with one factor
            assert all(a.stop == b.start for a, b in (*pairwise(sources), *pairwise(weights)))
            assert len({i.path_weight for _, i in mine}) == 1
            # a product with a scalar is the feature itself, over sqrt(2 l + 1) in e3nn's normalisation
            factor = mine[0][1].path_weight / (part.ir.dim**0.5 if by_element else 1.0)
            found = slice(sources[0].start, sources[-1].stop), len(mine), slice(weights[0].start, weights[-1].stop)
            self.orders.append((*found, factor))

    def __call__(self, features: Tensor, elements: Tensor | None = None) -> Tensor:
        """(N, M, C) -> (N, M', C'); `elements` (N, S), where the weights depend on these."""
        mixed = []
        for rows, paths, weights, factor in self.orders:
            part = features[:, rows]
            if paths > 1:
                part = part.unflatten(1, (paths, -1)).transpose(1, 2).flatten(2)  # (N, 2 l + 1, paths * C)
            one = part @ (self.layer.weight[weights].view(part.shape[2], -1) * factor)
            if elements is not None:
                one = (one.unflatten(2, (elements.shape[1], -1)) * elements[:, None, :, None]).sum(dim=2)
            mixed.append(one)
        return torch.cat(mixed, dim=1) if len(mixed) > 1 else mixed[0]


class Product:
    """The symmetric contraction: of each channel a polynomial of its M rows, of degree 3 at most.

    Its terms x_i x_j x_k, i <= j <= k, are found as (x_i x_j) x_k, x_i x_j as (x_i x_j) 1 and x_i as 1 x_i: for each
    k a sum over pairs, then a sum over k.

    Args:
        contractions: of the library, one for each order of the result.
    """

    def __init__(self, contractions: Any) -> None:
        self.contractions = contractions
        size = contractions[0].coupling_irreps.dim
        pairs = list(combinations_with_replacement(range(size), 2))
        self.first, self.second = map(Exact, torch.tensor(pairs).T)
        place: dict[tuple[int, ...], int] = {pair: k for k, pair in enumerate(pairs)}
        self.rows, self.size, self.pairs = 0, size, len(place) + 1
        self.tables: list[Exact] = []
        """Of each order: of its terms (E) the coefficients of the library's paths (E, K)."""
        positions: list[int] = []
        for contraction in contractions:
            terms: dict[int, Tensor] = defaultdict(float)  # type: ignore[arg-type]
            start = 0
            degrees = range(contraction.correlation, 0, -1)
            paths = [contraction.U_tensors(degree).shape[-1] for degree in degrees]
            for degree, count in zip(degrees, paths, strict=True):
                couplings = contraction.U_tensors(degree).double()
                if couplings.ndim == degree + 1:  # of scalars
                    couplings = couplings.unsqueeze(0)
                for row, *factors in couplings.any(dim=-1).nonzero().tolist():
                    *two, last = sorted(factors) if degree != 2 else (*sorted(factors), size)
                    pair = place[tuple(two)] if two else len(place)
                    coefficients = torch.zeros(sum(paths), dtype=torch.float64)
                    coefficients[start : start + count] = couplings[(row, *factors)]
                    terms[((self.rows + row) * (size + 1) + last) * self.pairs + pair] += coefficients
                start += count
            self.rows += couplings.shape[0]
            positions += terms
            none = torch.zeros(0, sum(paths), dtype=torch.float64)  # an order that nothing leads to
            self.tables.append(Exact(torch.stack(list(terms.values())) if terms else none))
        self.positions = Exact(torch.tensor(positions, dtype=torch.int64))

    def __call__(self, features: Tensor, elements: Tensor) -> Tensor:
        """(N, M, C), (N, S) -> (N, M', C)."""
        x = features.permute(2, 1, 0)  # (C, M, N)
        ones = x.new_ones(x.shape[0], 1, x.shape[2])
        squares = x.index_select(1, self.first(x)) * x.index_select(1, self.second(x))
        slopes = self.coefficients(features) @ torch.cat([squares, ones], dim=1)  # (C, S * M' * (M + 1), N)
        slopes = slopes.unflatten(1, (elements.shape[1], self.rows, -1))
        if elements.shape[1] > 1:
            slopes = (slopes * elements.T[:, None, None]).sum(dim=1, keepdim=True)
        return (slopes.squeeze(1) * torch.cat([x, ones], dim=1).unsqueeze(1)).sum(dim=2).permute(2, 1, 0)

    def coefficients(self, like: Tensor) -> Tensor:
        """Of all terms, for each element and row of the result: (C, S * M' * (M + 1), pairs)."""
        found = []
        for contraction, table in zip(self.contractions, self.tables, strict=True):
            weights = torch.cat([contraction.weights_max, *contraction.weights], dim=1)  # (S, K, C)
            found.append(torch.matmul(table(like), weights))  # (S, E, C)
        terms = torch.cat(found, dim=1).permute(2, 0, 1)  # (C, S, E)
        zeros = terms.new_zeros(*terms.shape[:2], self.rows * (self.size + 1) * self.pairs)
        return zeros.index_copy(2, self.positions(like), terms).view(len(terms), -1, self.pairs)


class Harmonics:
    """Real spherical harmonics, in the order and normalisation of e3nn, as polynomials of a unit vector's components.

    Args:
        harmonics: of e3nn, of all orders from 0 on.
    """

    def __init__(self, harmonics: Any) -> None:
        random = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        unit, values = random / random.norm(dim=1, keepdim=True), harmonics.double()(random)
        places = slices([part.ir.dim for part in harmonics.irreps_out])
        self.zeroth = Exact(values[:1, :1])
        self.orders: list[tuple[Exact, Exact, Exact]] = []
        """Of each order from 1 on: its monomials are those of the order before at the first times components at the
        second indices; the coefficients (2 l + 1, monomials)."""
        names: list[tuple[int, ...]] = [()]
        monomials = random.new_ones(1, 1000)
        for order, place in enumerate(places[1:], start=1):
            before = {name: k for k, name in enumerate(names)}
            names = list(combinations_with_replacement(range(3), order))
            parent, axis = torch.tensor([(before[name[:-1]], name[-1]) for name in names]).T
            monomials = monomials[parent] * unit.T[axis]
            coefficients = torch.linalg.lstsq(monomials.T, values[:, place]).solution.T
            self.orders.append((Exact(parent), Exact(axis), Exact(coefficients)))

    def __call__(self, unit: Tensor) -> Tensor:
        """(P, 3) -> (P, (ell + 1)^2)."""
        components = unit.T
        monomials = torch.ones_like(components[:1])
        found = [monomials * self.zeroth(unit)]
        for parent, axis, coefficients in self.orders:
            monomials = monomials.index_select(0, parent(unit)) * components.index_select(0, axis(unit))
            found.append(coefficients(unit) @ monomials)
        return torch.cat(found).T
