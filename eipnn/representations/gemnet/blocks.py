"""Interaction and output blocks of GemNet-T.

Messages are kept as (2, P, F): pair p has the message j -> i in ``m[0, p]`` and i -> j in ``m[1, p]``, so that the
reverse of all messages is ``m.flip(0)`` and what depends on a distance alone is (P, F) and stands for both.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from eipnn.representations.gemnet.layers import ROOT_HALF, Residual, ScalingFactor, add, dense, scaled_silu
from eipnn.representations.gemnet.neighbourhoods import Neighbourhoods


class Sizes(NamedTuple):
    """Widths of the layers."""

    atom: int
    edge: int
    triplet: int
    rbf: int
    cbf: int
    bilinear: int


class Surroundings(NamedTuple):
    """What all blocks know of the configurations. The first Q of the P pairs take part in triplets."""

    source: Tensor  # (2, P) atom c of a message c -> a
    target: Tensor  # (2, P) atom a
    layout: Neighbourhoods  # of the first Q pairs
    rbf_atom: Tensor  # (P, rbf) embedded radial basis, for atom updates
    rbf_out: Tensor  # (P, rbf) the same for outputs
    rbf_triplet: Tensor  # (Q, rbf) and for triplets, with their cutoff
    cbf: list[Tensor]  # (N_g, K_g * cbf, K_g) embedded circular basis of the triplets; 0 where b is c


class EdgeEmbedding(nn.Module):
    """``f(W [h_c, h_a, x])``: two products an atom and one an edge in place of one with the joined features."""

    def __init__(self, atom: int, inputs: int, edge: int) -> None:
        super().__init__()
        self.widths = [atom, atom, inputs]
        self.weight = dense(sum(self.widths), edge).weight

    def forward(self, h: Tensor, x: Tensor, around: Surroundings) -> Tensor:
        """h (N, atom), x (P, inputs) or (2, P, inputs) -> (2, P, edge)."""
        source, target, edge = self.weight.split(self.widths, dim=1)
        ends = gather(h @ source.T, around.source).add_(gather(h @ target.T, around.target))
        return scaled_silu(ends.add_(x @ edge.T))


def gather(h: Tensor, index: Tensor) -> Tensor:
    """Rows of (N, F) at the atoms (2, P) -> (2, P, F)."""
    return h.index_select(0, index.flatten()).view(*index.shape, h.shape[1])


class AtomUpdate(nn.Module):
    """``MLP(factor sum_c m_ca * W rbf(d_ca))``; with the product by the radial basis all that leaves an edge is smooth.

    The MLP is a dense layer and two residual layers.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.rbf = dense(sizes.rbf, sizes.edge)
        self.scale = ScalingFactor()
        self.dense = dense(sizes.edge, sizes.atom)
        self.residual = nn.Sequential(Residual(sizes.atom), Residual(sizes.atom))

    def forward(self, m: Tensor, rbf: Tensor, around: Surroundings, atoms: int) -> Tensor:
        """m (2, P, edge), rbf (P, rbf) -> (N, atom)."""
        damped = (m * self.rbf(rbf)).flatten(0, 1)  # (2P, edge)
        total = damped.new_zeros(atoms, damped.shape[1])
        total = total.index_add(0, around.target.flatten(), damped)
        return self.residual(scaled_silu(self.dense(self.scale(total, m))))


class OutputBlock(nn.Module):
    """Features of the atoms from the messages: an `AtomUpdate` and a linear layer."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.update = AtomUpdate(sizes)
        self.linear = dense(sizes.atom, sizes.atom)

    def forward(self, h: Tensor, m: Tensor, around: Surroundings) -> Tensor:
        """m (2, P, edge) -> (N, atom)."""
        return self.linear(self.update(m, around.rbf_out, around, h.shape[0]))


class TripletInteraction(nn.Module):
    """Messages from all edges b -> a to the edges c -> a and a -> c (the paper's efficient bilinear layer).

    ::

        x_ba = f(W_down (f(W m_ba) * W_rbf rbf(d_ba)))
        y_ca = W_bilinear sum_{b != c} cbf(d_ca, angle cab) (x) x_ba
        update of m_ca = (f(W_up y_ca) + f(W_up' y_ac)) / sqrt(2)
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.dense = dense(sizes.edge, sizes.edge)
        self.rbf = dense(sizes.rbf, sizes.edge)
        self.scale_rbf = ScalingFactor()
        self.down = dense(sizes.edge, sizes.triplet)
        self.bilinear = dense(sizes.cbf * sizes.triplet, sizes.bilinear)
        self.scale_sum = ScalingFactor()
        self.up = dense(sizes.bilinear, sizes.edge)
        self.up_reverse = dense(sizes.bilinear, sizes.edge)

    def forward(self, m: Tensor, around: Surroundings) -> Tensor:
        """Messages (2, Q, edge) of the pairs in triplets -> their updates (2, Q, edge)."""
        layout = around.layout
        x = scaled_silu(self.dense(m))
        x = self.scale_rbf(x * self.rbf(around.rbf_triplet), x)
        x = scaled_silu(self.down(x))  # (2, Q, triplet)
        width = self.bilinear.in_features
        summed = [
            self.bilinear((cbf @ table).view(*table.shape[:2], width))  # (N_g, K_g, bilinear)
            for cbf, table in zip(around.cbf, layout.spread(x), strict=True)
        ]
        y = self.scale_sum(layout.collect(summed), x)  # (2, Q, bilinear)
        return add(scaled_silu(self.up(y)), scaled_silu(self.up_reverse(y)).flip(0))


class InteractionBlock(nn.Module):
    """One round of messages: over triplets to edges, from edges to atoms, and from atoms back to edges.

    With one residual layer before and one after the skip connection and one after the atoms' features are joined in,
    as in the paper's code.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.skip = dense(sizes.edge, sizes.edge)
        self.triplets = TripletInteraction(sizes)
        self.before = Residual(sizes.edge)
        self.after = Residual(sizes.edge)
        self.update = AtomUpdate(sizes)
        self.join = EdgeEmbedding(sizes.atom, sizes.edge, sizes.edge)
        self.joined = Residual(sizes.edge)

    def forward(self, h: Tensor, m: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """h (N, atom), m (2, P, edge) -> the same, updated."""
        parts = [around.rbf_triplet.shape[0], m.shape[1] - around.rbf_triplet.shape[0]]
        inner, _ = m.split(parts, dim=1)
        update = self.triplets(inner, around)
        inner, outer = scaled_silu(self.skip(m)).split(parts, dim=1)
        x = torch.cat([inner + update, outer], dim=1).mul_(ROOT_HALF)
        m = self.after(add(self.before(x), m))
        h = add(self.update(m, around.rbf_atom, around, h.shape[0]), h)
        m = add(self.joined(self.join(h, m, around)), m)
        return h, m
