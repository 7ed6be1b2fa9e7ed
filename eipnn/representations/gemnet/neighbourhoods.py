"""Which pairs take part in triplets, and their edges in tables, atom by atom.

A triplet c -> a <- b is two edges that end at the same atom a. With the edges of each atom side by side, the triplets
of an atom with K neighbours are the K x K table of them without its diagonal, so that no list of triplets is needed:
angles are one product of unit vectors and sums over b are one matrix product an atom.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

STEP = 4
"""Atoms whose numbers of neighbours round up to the same multiple of this share a table."""
ROWS = 4096
"""Rows of a table, about, above which it is split: what is wide in a row exists for one table at a time."""


class Neighbourhoods(NamedTuple):
    """Place of each directed edge (d, q), direction d of pair q, among the rows of tables (N_g, K_g, ...).

    A table holds N_g atoms of similar numbers of neighbours, each with K_g rows of which the last are zero where it
    has fewer. The R rows of all tables follow one another.
    """

    place: Tensor  # (2Q,) row of an edge
    tables: list[tuple[int, int]]  # (N_g, K_g)

    def spread(self, edges: Tensor) -> list[Tensor]:
        """(2, Q, ...) -> tables (N_g, K_g, ...)."""
        shape = edges.shape[2:]
        sizes = [atoms * neighbours for atoms, neighbours in self.tables]
        rows = edges.new_zeros(sum(sizes), *shape).index_copy(0, self.place, edges.flatten(0, 1))
        return [part.view(*table, *shape) for part, table in zip(rows.split(sizes), self.tables, strict=True)]

    def collect(self, tables: list[Tensor]) -> Tensor:
        """Tables (N_g, K_g, F) -> (2, Q, F), the reverse of `spread`."""
        rows = torch.cat([table.flatten(0, 1) for table in tables])
        return rows.index_select(0, self.place).view(2, self.place.shape[0] // 2, rows.shape[1])


def neighbourhoods(target: Tensor, atoms: int) -> Neighbourhoods:
    """The tables of the edges that end at the atoms `target` (2, Q) of N."""
    target = target.flatten()
    rank, count = rank_at_target(target, atoms)
    if torch.compiler.is_compiling():  # an exported program has one table, whatever the atoms
        widest = cast(int, count.max().clamp(min=1).item())
        torch._check(widest >= 1)
        return Neighbourhoods(target * widest + rank, [(atoms, widest)])
    width = (count + STEP - 1) // STEP * STEP  # (N,)
    order = torch.argsort(width, stable=True)
    start = torch.empty_like(width)
    start[order] = width[order].cumsum(0) - width[order]
    widths, numbers = torch.unique_consecutive(width[order], return_counts=True)
    tables = []
    for number, neighbours in zip(numbers.tolist(), widths.tolist(), strict=True):
        largest = max(1, ROWS // max(1, neighbours))
        tables += [(min(largest, number - done), neighbours) for done in range(0, number, largest)]
    return Neighbourhoods(start[target] + rank, tables)


def rank_at_target(target: Tensor, atoms: int) -> tuple[Tensor, Tensor]:
    """Number of each edge (E,) among those with its target, in their order; number of edges of each atom (N,)."""
    # not bincount, whose length torch.export takes for data
    count = target.new_zeros(atoms).index_add(0, target, torch.ones_like(target))
    order = torch.argsort(target, stable=True)
    start = (count.cumsum(0) - count)[target[order]]
    rank = torch.empty_like(target)
    rank[order] = torch.arange(target.shape[0], device=target.device) - start
    return rank, count


def among_nearest(target: Tensor, distance: Tensor, atoms: int, number: int) -> Tensor:
    """Which pairs (P,) are of the `number` nearest for both of their atoms, `target` (2, P) of N; distances (P,).

    Neighbours at equal distances are kept or left out together, whatever their order.
    """
    order = torch.argsort(distance.repeat(2), stable=True)
    ends = target.flatten()[order]
    rank, _ = rank_at_target(ends, atoms)
    last = rank == number - 1
    reach = distance.new_full((atoms,), torch.inf)
    reach[ends[last]] = distance.repeat(2)[order][last]
    return distance <= reach[target].amin(dim=0) * (1 + 1e-4)
