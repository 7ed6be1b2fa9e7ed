"""Which pairs take part in triplets, and their edges in a dense layout, atom by atom.

A triplet c -> a <- b is two edges that end at the same atom a. With the edges of each atom side by side, the triplets
of an atom with K neighbours are the K x K table of them without its diagonal, so that no list of triplets is needed:
angles are one product of unit vectors and sums over b are one matrix product an atom.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Neighbourhoods(NamedTuple):
    """Place of each directed edge (d, p), direction d of pair p, in a table (N, K) of atoms and their neighbours.

    Rows with fewer neighbours than K are filled up with zeros.
    """

    place: Tensor  # (2 * pairs,) row of an edge in the flattened table
    atoms: int  # N
    neighbours: int  # K

    def spread(self, edges: Tensor) -> Tensor:
        """(2, pairs, ...) -> (N, K, ...)."""
        shape = edges.shape[2:]
        table = edges.new_zeros(self.atoms * self.neighbours, *shape)
        return table.index_copy(0, self.place, edges.flatten(0, 1)).view(
            self.atoms, self.neighbours, *shape
        )

    def collect(self, table: Tensor) -> Tensor:
        """(N, K, F) -> (2, pairs, F), the reverse of `spread`."""
        edges = table.flatten(0, 1).index_select(0, self.place)
        return edges.view(2, len(self.place) // 2, table.shape[-1])


def neighbourhoods(target: Tensor, atoms: int) -> Neighbourhoods:
    """The layout of the edges that end at the atoms `target` (2, pairs) of N."""
    target = target.flatten()
    rank, count = rank_at_target(target, atoms)
    neighbours = max(1, int(count.max()))
    return Neighbourhoods(target * neighbours + rank, atoms, neighbours)


def rank_at_target(target: Tensor, atoms: int) -> tuple[Tensor, Tensor]:
    """Number of each edge (E,) among those with its target, in their order; number of edges of each atom (N,)."""
    count = torch.bincount(target, minlength=atoms)
    order = torch.argsort(target, stable=True)
    start = torch.repeat_interleave(count.cumsum(0) - count, count)
    rank = torch.empty_like(target)
    rank[order] = torch.arange(len(target), device=target.device) - start
    return rank, count


def among_nearest(target: Tensor, distance: Tensor, atoms: int, number: int) -> Tensor:
    """Which pairs (P,) are of the `number` nearest for both of their atoms.

    Neighbours at equal distances are kept or left out together, whatever their order.

    Args:
        target: (2, P) both atoms of each pair.
        distance: (P,) in A.
        atoms: N.
        number: of neighbours.
    """
    order = torch.argsort(distance.repeat(2), stable=True)
    ends = target.flatten()[order]
    rank, _ = rank_at_target(ends, atoms)
    last = rank == number - 1
    reach = distance.new_full((atoms,), torch.inf)
    reach[ends[last]] = distance.repeat(2)[order][last]
    return distance <= reach[target].amin(dim=0) * (1 + 1e-4)
