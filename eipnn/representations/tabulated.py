"""SchNet whose filters are read from tables over the distance, for energies and forces with fixed weights."""

import copy
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, Graph
from eipnn.representations.base import Representation
from eipnn.representations.filter_convolution import convolution

if TYPE_CHECKING:
    from eipnn.representations.schnet import SchNet


class TabulatedSchNet(Representation):
    """A trained SchNet with cubic Hermite splines in place of its filter networks, by `SchNet.tabulate`.

    Values and slopes of the filters are exact at equidistant distances, so that energies are continuously
    differentiable and forces are the slopes of just these energies. It shares the rest with the network that it was
    made from, and is neither trained nor saved.

    Args:
        net: its weights, as they are now, make the tables.
        points: number of distances from 0 to the cutoff.

    Raises:
        InputError: fewer than two points.
    """

    def __init__(self, net: "SchNet", points: int) -> None:
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

    @property
    def inputs(self) -> Graph:
        return Graph(self.cutoff)

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        distance = graph.vectors.norm(dim=-1)  # (P,)
        rows, weights = terms(distance / self.step, self.tables.shape[1] // 4)
        features = self.embedding(graph.z)  # (N, F)
        for source, update, table in zip(self.sources, self.updates, self.tables, strict=True):
            filters = F.embedding_bag(rows, table, per_sample_weights=weights, mode="sum")
            message = convolution(source(features), graph.edge_index, filters)
            features = features + update(message)
        return features


def filter_tables(net: "SchNet", points: int) -> Tensor:
    """Coefficients of the cubic polynomials, in steps from the left end of each interval.

    They are found in float64. Rounded values would not do: in float32 their differences, the slopes, would lose digits.

    Returns:
        (blocks, 4 points, filters): four rows an interval, from the constant to the cubic one; the last are zero, for
        distances from the cutoff on.
    """
    exact = copy.deepcopy(net).double()
    distance = torch.linspace(0, net.cutoff, points, dtype=torch.float64)
    distance = distance.to(exact.embedding.weight.device)
    values, slopes, *_ = torch.func.jvp(exact.filters, (distance,), (torch.ones_like(distance),))
    slopes = slopes * (net.cutoff / (points - 1))  # a step
    rise = values[:, 1:] - values[:, :-1]  # (blocks, points - 1, filters)
    start, end = slopes[:, :-1], slopes[:, 1:]
    coefficients = [values[:, :-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise]
    rows = torch.stack(coefficients, dim=2).flatten(1, 2)
    rows = F.pad(rows, (0, 0, 0, 4))  # from the cutoff on
    return rows.detach().to(net.embedding.weight.dtype)


def terms(position: Tensor, intervals: int) -> tuple[Tensor, Tensor]:
    """Which rows of a table make the filters, and by which weights.

    Args:
        position: (P,) distances in steps; the last interval has no end.
        intervals: their number in the table.

    Returns:
        rows and weights, (P, 4) each.
    """
    interval = position.detach().long().clamp(max=intervals - 1)  # (P,)
    t = position - interval
    rows = 4 * interval.unsqueeze(-1) + torch.arange(4, device=position.device)
    return rows, torch.stack([torch.ones_like(t), t, t * t, t * t * t], dim=1)
