"""A network with the batch that it is timed on, and the graphs that the peers read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from ase import Atoms
from torch import Tensor, nn
from torch_geometric.data import Batch

from eipnn.inputs import Graph, graph_of
from eipnn.potential.checkpoints import build_representation
from eipnn.representations import Representation

BASE = Path(__file__).parents[2] / "base"
"""Settings of each backbone."""


@dataclass(frozen=True)
class Prepared:
    """What one contender hands over; everything that does not depend on weights or positions is done."""

    network: nn.Module
    """Holds the weights to train."""
    features: Callable[[], Tensor]
    """From the positions to per-atom features (N, dim)."""
    dim: int
    positions: Tensor
    """(N, 3) A; they ask for gradients where forces are trained."""


@dataclass(frozen=True)
class Contender:
    """A network under a name; `prepare(frames, cutoff)` raises ImportError where its library is missing."""

    name: str
    prepare: Callable[[list[Atoms], float], Prepared]
    forces: bool = True
    """Whether its features can be differentiated twice."""


def base(name: str, cutoff: float, **changes: Any) -> Representation:
    """The backbone of a file of `experiments/base`, with some settings changed."""
    config = yaml.safe_load((BASE / f"{name}.yaml").read_text())
    config["init_args"] |= {"cutoff": cutoff, **changes}
    return build_representation(config)


def ours(representation: Representation, frames: list[Atoms]) -> Prepared:
    """A representation of eipnn on its own inputs."""
    batch = Batch.from_data_list([representation.inputs(atoms) for atoms in frames])
    with torch.no_grad():
        representation.calibrate([graph_of(batch)])

    def features() -> Tensor:
        return representation(graph_of(batch)._replace(curvature=False))  # as in training

    return Prepared(representation, features, representation.dim, batch.pos)


@dataclass(frozen=True)
class FullGraph:
    """Both directions of every pair, in the order of the atoms that receive."""

    z: Tensor  # (N,)
    pos: Tensor  # (N, 3) A
    receiver: Tensor  # (E,)
    sender: Tensor  # (E,)
    translation: Tensor  # (E, 3) A, of the sender's image

    def vectors(self) -> Tensor:
        """From receiver to sender, (E, 3) in A."""
        return self.pos[self.sender] - self.pos[self.receiver] + self.translation

    def distances(self) -> Tensor:
        """(E,) in A."""
        return self.vectors().norm(dim=-1)


def full_graph(frames: list[Atoms], cutoff: float) -> FullGraph:
    """The frames as one graph, whose pairs are those that eipnn's networks see."""
    inputs = Graph(cutoff)
    batch = Batch.from_data_list([inputs(atoms) for atoms in frames])
    i, j = batch.edge_index
    translation = graph_of(batch).vectors - (batch.pos[j] - batch.pos[i])
    receiver, order = torch.cat([i, j]).sort(stable=True)
    return FullGraph(
        batch.z,
        batch.pos,
        receiver,
        torch.cat([j, i])[order],
        torch.cat([translation, -translation])[order],
    )
