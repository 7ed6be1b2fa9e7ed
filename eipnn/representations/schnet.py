"""SchNet (Schuett et al., NeurIPS 2017; J. Chem. Phys. 148, 241722, 2018)."""

import copy
import math
from collections.abc import Iterator
from functools import partial
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph
from eipnn.representations.base import MAX_Z, Representation
from eipnn.representations.filter_convolution import Radial, convolution, filters

NEGLIGIBLE = 30.0
"""A Gaussian whose exponent is beyond -30 is zero: 1e-13, less than the rounding of float32 sums and of float64
finite differences."""


class SchNet(Representation):
    """Continuous-filter convolutions on the neighbour graph, in their smooth, published form.

    Filters depend on the distance alone, so that the pairs i-j and j-i share one: the graph holds each
    pair once and a filter is computed once a pair. Weights are those of PyG's ``InteractionBlock``.

    Args:
        cutoff: neighbour cutoff in A.
        features: width of the atom features (and `dim`).
        filters: width of the filters.
        gaussians: number of Gaussians between 0 and the cutoff that expand a distance.
        gamma: their exponent in 1/A^2; 10, a width of 0.22 A, is the published one. Widths near the spacing of many
            Gaussians (0.5/gap^2 = 323 for 128 of them up to 5 A) let filters vary faster than energies do.
        interactions: number of interaction blocks.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        features: int = 128,
        filters: int = 128,
        gaussians: int = 128,
        gamma: float = 10.0,
        interactions: int = 5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.require_positive()
        self.cutoff = cutoff
        self.dim = features
        self.embedding = nn.Embedding(MAX_Z + 1, features)
        self.expansion = GaussianExpansion(cutoff, gaussians, gamma)
        self.span = span_of(self.expansion, cutoff)  # (G, K)
        self.blocks = nn.ModuleList(InteractionBlock(features, filters, gaussians) for _ in range(interactions))

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        distance = graph.vectors.norm(dim=-1)  # (P,)
        features = self.embedding(graph.z)  # (N, F)
        for block, weight in zip(self.blocks, self.filters(distance, graph.curvature), strict=True):
            features = features + block(features, graph.edge_index, weight)
        return features

    def filters(self, distance: Tensor, curvature: bool = True) -> Iterator[Tensor]:
        """The filters (P, filters) of one block after the other at these distances (P,) in A; see `AtomicGraph`."""
        networks = [block.get_submodule("filter") for block in self.blocks]
        plain = [partial(self.plain_filters, network) for network in networks]
        if torch.compiler.is_compiling():
            return (function(distance) for function in plain)
        radial = self._radial(distance)
        weights = (tuple(network.parameters()) for network in networks)
        return map(partial(filters, radial), weights, plain if curvature else repeat(None))

    def plain_filters(self, network: nn.Module, distance: Tensor) -> Tensor:
        """Those of one block, written down as they read."""
        return network(self.expansion(distance)) * cosine_cutoff(distance, self.cutoff).unsqueeze(-1)

    def _radial(self, distance: Tensor) -> Radial:
        length = distance.detach()
        expanded = self.expansion(length)
        span = self.span.to(expanded)
        slopes: tuple[Tensor | None, Tensor | None] = (None, None)
        with torch.autocast(distance.device.type, enabled=False):
            basis = expanded @ span
            if distance.requires_grad:
                slopes = self.expansion.slope(length, expanded) @ span, cosine_cutoff_slope(length, self.cutoff)
        return Radial(distance, span, basis, cosine_cutoff(length, self.cutoff), *slopes)

    def tabulate(self, points: int = 1000) -> "TabulatedSchNet":
        """The same with the weights fixed and the filters read from tables of that many points.

        With 1000 points up to 5 A and the default `gamma`, forces change by some 1e-6 eV/A, less than by the rounding
        of float32; the change grows with ``gamma^2 (cutoff / points)^3``.
        """
        return TabulatedSchNet(self, points)


class InteractionBlock(nn.Module):
    """``h_i <- W_3 ssp(W_2 sum_j (W_1 h_j) * filter(r_ij))``, the update that is added to h.

    The filter is ``MLP(gaussians(r)) * cosine_cutoff(r)``.
    """

    def __init__(self, features: int, filters: int, gaussians: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(gaussians, filters), ShiftedSoftplus(), nn.Linear(filters, filters))
        self.source = nn.Linear(features, filters, bias=False)
        self.update = nn.Sequential(nn.Linear(filters, features), ShiftedSoftplus(), nn.Linear(features, features))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, h: Tensor, pairs: Tensor, weight: Tensor) -> Tensor:
        """h (N, F), pairs (2, P), filters (P, filters) -> update (N, F)."""
        return self.update(convolution(self.source(h), pairs, weight))  # from (N, filters)


class GaussianExpansion(nn.Module):
    """``exp(-gamma (r - mu_g)^2)`` with the centres mu_g evenly spaced from 0 to the cutoff."""

    def __init__(self, cutoff: float, gaussians: int, gamma: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0, cutoff, gaussians), persistent=False)
        self.centres: Tensor
        self.gamma = gamma

    def forward(self, distance: Tensor) -> Tensor:
        """(P,) -> (P, G)."""
        exponent = self.gamma * (distance.unsqueeze(-1) - self.centres).square()
        # far tails would become denormal numbers, which make exp and every product several times slower
        return F.threshold(torch.exp(-exponent.clamp(max=NEGLIGIBLE)), math.exp(-NEGLIGIBLE), 0.0)

    def slope(self, distance: Tensor, expanded: Tensor) -> Tensor:
        """Of each in the distance, (P,) and the expansion (P, G) -> (P, G)."""
        return (distance.unsqueeze(-1) - self.centres).mul_(-2 * self.gamma).mul_(expanded)


def span_of(expansion: GaussianExpansion, cutoff: float) -> Tensor:
    """Orthonormal columns (G, K), float64, in which the expansion of each distance up to the cutoff lies but for 1e-13.

    Wide Gaussians side by side are nearly dependent. Of the 128 published ones up to 5 A 61 columns are left, so that
    products with them are half as long: training takes 0.9 of its time.
    """
    exact = copy.deepcopy(expansion).double()
    values = exact(torch.linspace(0, cutoff, 1000, dtype=torch.float64))
    _, sizes, rows = torch.linalg.svd(values, full_matrices=False)
    return rows[sizes > 1e-13 * sizes[0]].T.contiguous()


class ShiftedSoftplus(nn.Module):
    """``ln(0.5 exp(x) + 0.5)``."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x) - math.log(2.0)


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """``(cos(pi r / r_cut) + 1) / 2``: 1 at r = 0, 0 with zero slope at the cutoff and 0 beyond it."""
    return 0.5 * (torch.cos((distance * (math.pi / cutoff)).clamp(max=math.pi)) + 1)


def cosine_cutoff_slope(distance: Tensor, cutoff: float) -> Tensor:
    """Its slope in r."""
    return torch.sin((distance * (math.pi / cutoff)).clamp(max=math.pi)) * (-0.5 * math.pi / cutoff)


class TabulatedSchNet(Representation):
    """A trained SchNet with cubic Hermite splines in place of its filter networks, by `SchNet.tabulate`.

    Values and slopes of the filters are exact at equidistant distances, so that energies are continuously
    differentiable and forces are the slopes of just these energies. It shares the rest with the network that it was
    made from, and is neither trained nor saved.
    """

    def __init__(self, net: SchNet, points: int) -> None:
        super().__init__()
        if points < 2:
            raise InputError(f"a table of {points} points: give at least 2")
        self.cutoff, self.dim = net.cutoff, net.dim
        self.embedding = net.embedding
        self.sources = nn.ModuleList(block.get_submodule("source") for block in net.blocks)
        self.updates = nn.ModuleList(block.get_submodule("update") for block in net.blocks)
        self.step = net.cutoff / (points - 1)
        self.register_buffer("tables", filter_tables(net, points))  # (blocks, rows, filters)
        self.tables: Tensor

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        distance = graph.vectors.norm(dim=-1)  # (P,)
        rows, weights = terms(distance / self.step, self.tables.shape[1] // 4)
        features = self.embedding(graph.z)  # (N, F)
        for source, update, table in zip(self.sources, self.updates, self.tables, strict=True):
            weight = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
            message = convolution(source(features), graph.edge_index, weight)
            features = features + update(message)
        return features


def filter_tables(net: SchNet, points: int) -> Tensor:
    """Coefficients of the cubic polynomials, in steps from the left end of each interval (blocks, 4 points, filters).

    Four rows an interval, from the constant to the cubic one; the last are zero, for distances from the cutoff on.
    They are found in float64: of rounded values the differences, the slopes, would lose digits.
    """
    exact = copy.deepcopy(net).double()
    distance = torch.linspace(0, net.cutoff, points, dtype=torch.float64)
    distance = distance.to(exact.embedding.weight.device)
    networks = [partial(exact.plain_filters, block.get_submodule("filter")) for block in exact.blocks]
    found = [torch.func.jvp(network, (distance,), (torch.ones_like(distance),)) for network in networks]
    values, slopes = map(torch.stack, zip(*found, strict=True))  # (blocks, points, filters)
    slopes = slopes * (net.cutoff / (points - 1))  # a step
    rise = values[:, 1:] - values[:, :-1]  # (blocks, points - 1, filters)
    start, end = slopes[:, :-1], slopes[:, 1:]
    coefficients = [values[:, :-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise]
    rows = torch.stack(coefficients, dim=2).flatten(1, 2)
    rows = F.pad(rows, (0, 0, 0, 4))  # from the cutoff on
    return rows.detach().to(net.embedding.weight.dtype)


def terms(position: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """Rows of a table and their weights (P, 4) that make the filters at distances (P,) in steps."""
    interval = position.detach().long().clamp(max=intervals - 1)  # (P,)
    t = position - interval
    rows = 4 * interval.unsqueeze(-1) + torch.arange(4, device=position.device)
    return rows, torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=1)
