"""GemNet-T (Gasteiger, Becker, Guennemann, NeurIPS 2021, arXiv 2106.08903)."""

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, joined
from eipnn.representations.base import MAX_Z, Representation
from eipnn.representations.gemnet.basis import BesselBasis, zonal_harmonics
from eipnn.representations.gemnet.blocks import EdgeEmbedding, InteractionBlock, OutputBlock, Sizes, Surroundings
from eipnn.representations.gemnet.layers import ScalingFactor, dense
from eipnn.representations.gemnet.neighbourhoods import among_nearest, neighbourhoods

CALIBRATION_ATOMS = 1000
"""Atoms on which the scaling factors are found, about."""


class GemNet(Representation):
    """Directional messages on edges, updated over triplets: the paper's GemNet-T.

    Each edge c -> a carries a message; triplets c -> a <- b couple it to the others that end at a, by the distance
    d_ca and the angle at a. The features are the sum of the output blocks' (each has `features` outputs in place of
    the paper's one energy), divided by the root of their number; they are zero for an atom without neighbours. The
    frequencies of the radial basis stay at n pi. The rest is the paper's form, smooth at both cutoffs unless
    `max_neighbours` is given.

    Memory and time grow with the atoms' number of neighbours within `triplet_cutoff` squared and within `cutoff`. For
    large cells lower `triplet_cutoff`, set `checkpointing`, or take smaller batches and
    ``trainer.accumulate_grad_batches``, in this order.

    Args:
        cutoff: of edges, in A.
        triplet_cutoff: of the edges that form triplets, in A; their bases have this cutoff, so that they vanish
            smoothly at it. None, or more than `cutoff`: all edges, the paper's form.
        max_neighbours: largest number of an atom's neighbours that form triplets, the nearest ones; a pair counts
            only if it is among the nearest of both atoms. Energies jump where neighbours change places; None: all.
        features: width of the atom features (and `dim`).
        edge_features: width of the messages.
        triplet_features: width of the messages that are summed over triplets.
        rbf_features: width of the embedded radial basis.
        cbf_features: width of the embedded circular basis.
        bilinear_features: width after the bilinear layer.
        spherical: number of orders l of the circular basis.
        radial: number of radial functions, an order; at least 2.
        interactions: number of interaction blocks.
        checkpointing: keep only the inputs of each block for the backward pass and compute the block again in it:
            the same results in about a third more time and two thirds of the memory; where forces are trained, which
            are derived twice, in three quarters of it.

    Raises:
        InputError: a triplet cutoff that is not positive, fewer than two neighbours or radial functions.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        triplet_cutoff: float | None = 4.0,
        max_neighbours: int | None = None,
        features: int = 128,
        edge_features: int = 128,
        triplet_features: int = 64,
        rbf_features: int = 16,
        cbf_features: int = 16,
        bilinear_features: int = 64,
        spherical: int = 7,
        radial: int = 6,
        interactions: int = 4,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.require_positive()
        if max_neighbours is not None and max_neighbours < 2:
            raise InputError(f"max_neighbours must be at least 2, not {max_neighbours}: a triplet has two; null: all")
        if radial < 2:
            raise InputError(f"radial must be at least 2, not {radial}")
        self.cutoff = cutoff
        self.triplet_cutoff = cutoff if triplet_cutoff is None else min(cutoff, triplet_cutoff)
        self.max_neighbours = max_neighbours
        self.checkpointing = checkpointing
        self.dim = features
        sizes = Sizes(features, edge_features, triplet_features, rbf_features, cbf_features, bilinear_features)
        self.edge_basis = BesselBasis(1, radial, cutoff)
        self.triplet_basis = BesselBasis(spherical, radial, self.triplet_cutoff)
        self.rbf_atom = dense(radial, rbf_features)
        self.rbf_out = dense(radial, rbf_features)
        self.rbf_triplet = dense(radial, rbf_features)
        # (L, N, cbf)
        self.cbf = nn.Parameter(dense(spherical * radial, cbf_features).weight.T.reshape(spherical, radial, -1))
        self.embedding = nn.Embedding(MAX_Z + 1, features)
        nn.init.uniform_(self.embedding.weight, -math.sqrt(3), math.sqrt(3))
        self.edge_embedding = EdgeEmbedding(features, radial, edge_features)
        self.blocks = nn.ModuleList(InteractionBlock(sizes) for _ in range(interactions))
        self.outputs = nn.ModuleList(OutputBlock(sizes) for _ in range(interactions + 1))

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        rbf, around = self.surroundings(graph)
        h = self.embedding(graph.z)  # (N, atom)
        m = self.edge_embedding(h, rbf, around)  # (2, P, edge)
        features = self.outputs[0](h, m, around)  # (N, atom)
        for block, output in zip(self.blocks, self.outputs[1:], strict=True):
            h, m, update = self._interact(block, output, h, m, around)
            features = features + update
        return features / math.sqrt(len(self.outputs))

    def surroundings(self, graph: AtomicGraph) -> tuple[Tensor, Surroundings]:
        """Radial basis (P, N) and what the blocks know, of the pairs with those in triplets put first."""
        vector = graph.vectors  # (P, 3)
        distance = vector.norm(dim=-1)  # (P,)
        target, atoms = graph.edge_index, graph.z.shape[0]  # row 0: messages j -> i
        inner = distance < self.triplet_cutoff
        if self.max_neighbours is not None:
            inner &= among_nearest(target, distance, atoms, self.max_neighbours)
        order = torch.argsort((~inner).to(torch.uint8), stable=True)
        vector, distance, target = vector[order], distance[order], target[:, order]
        count = cast(int, inner.sum().item())
        torch._check(count <= distance.shape[0])  # for torch.export

        rbf = self.edge_basis(distance)[:, 0]  # (P, N)
        radial = self.triplet_basis(distance[:count])  # (Q, L, N)
        layout = neighbourhoods(target[:, :count], atoms)
        unit = vector[:count] / distance[:count, None]  # (Q, 3) from i to j
        embedded = torch.einsum("qln,lnk->qkl", radial, self.cbf)  # (Q, cbf, L)
        units = layout.spread(torch.stack([unit, -unit]))
        tables = layout.spread(embedded.expand(2, -1, -1, -1))
        return rbf, Surroundings(
            source=target.flip(0),
            target=target,
            layout=layout,
            rbf_atom=self.rbf_atom(rbf),
            rbf_out=self.rbf_out(rbf),
            rbf_triplet=self.rbf_triplet(radial[:, 0]),
            cbf=[circular(*parts) for parts in zip(tables, units, strict=True)],
        )

    def _interact(
        self, block: nn.Module, output: nn.Module, h: Tensor, m: Tensor, around: Surroundings
    ) -> tuple[Tensor, Tensor, Tensor]:
        def interact(h: Tensor, m: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            h, m = block(h, m, around)
            return h, m, output(h, m, around)

        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(interact, h, m, use_reentrant=False)
        return interact(h, m)

    def calibrate(self, graphs: Iterable[AtomicGraph]) -> None:
        """Find the scaling factors on the first training configurations, about `CALIBRATION_ATOMS` atoms."""
        first, atoms = [], 0
        for graph in graphs:
            first.append(graph)
            atoms += len(graph.z)
            if atoms >= CALIBRATION_ATOMS:
                break
        factors = [module for module in self.modules() if isinstance(module, ScalingFactor)]
        for factor in factors:
            factor.fitting = True
        self(joined(first))
        for factor in factors:
            factor.fitting = False


def circular(embedded: Tensor, unit: Tensor) -> Tensor:
    """Embedded circular basis of the triplets of N_g atoms with K_g neighbours.

    Of its radial part (N_g, K_g, cbf, L) and unit vectors to the neighbours (N_g, K_g, 3) -> (N_g, K_g * cbf, K_g),
    neighbours c and cbf in the rows and b in the columns; 0 where b is c.
    """
    angular = zonal_harmonics(unit @ unit.mT, embedded.shape[-1])
    other = 1 - torch.eye(unit.shape[1], device=unit.device, dtype=unit.dtype)
    return (embedded @ torch.stack([y * other for y in angular], dim=2)).flatten(1, 2)
