"""The step of a training with forces as one compiled function (torch.compile with Inductor).

`torch.compile` cannot follow a derivative that is differentiated again. So the representation becomes plain operations
by `torch.export`, energies and their slope become one graph by `make_fx`, and Inductor compiles that, with sizes that
stay free; its own backward pass gives the gradients of the weights.
"""

import logging
import time
import warnings
from collections.abc import Callable
from itertools import cycle, islice

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch_geometric.data import Batch

from eipnn.errors import InputError
from eipnn.inputs.base import AtomicGraph, graph_of
from eipnn.potential.core import ZBL
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import differentiable, slopes
from eipnn.representations.base import Representation

log = logging.getLogger("eipnn")

Slopes = Callable[[AtomicGraph, Tensor], tuple[Tensor, Tensor]]
"""`slopes` of a graph with these factors."""


class PlainRepresentation(nn.Module):
    """A representation that takes tensors."""

    def __init__(self, representation: nn.Module) -> None:
        super().__init__()
        self.representation = representation

    def forward(self, z: Tensor, edge_index: Tensor, vectors: Tensor, batch: Tensor, cell: Tensor) -> Tensor:
        """-> features (N, dim)."""
        return self.representation(AtomicGraph(z, edge_index, vectors, batch, cell.shape[0]))


class ExportedRepresentation(nn.Module):
    """The program of a `PlainRepresentation`, which shares the weights."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        return self.program(graph.z, graph.edge_index, graph.vectors, graph.batch, graph.cell)


def exported(representation: nn.Module, graph: AtomicGraph) -> ExportedRepresentation:
    """A representation as plain operations, for any number of atoms, pairs and configurations; `graph`: an example."""
    atoms, pairs, configurations = ({0: Dim(name)} for name in ("atoms", "pairs", "configurations"))
    return ExportedRepresentation(
        torch.export.export(
            PlainRepresentation(representation),
            (graph.z, graph.edge_index, graph.vectors, graph.batch, graph.cell),
            dynamic_shapes=(atoms, {1: pairs[0]}, pairs, atoms, configurations),
            strict=False,
        ).module()
    )


def example_batch(representation: Representation, elements: list[str], dtype: torch.dtype) -> Batch:
    """Crystals of all elements: eleven of them, with 132 atoms, as an axis of a length that another one has too, of a
    weight or of as many energies, would be fixed."""
    lattice = bulk("X", "fcc", a=0.9 * representation.cutoff)  # 12 neighbours and more
    frames = []
    for repeats in range(7, 18):
        atoms: Atoms = lattice.repeat((repeats, 1, 1))
        atoms.symbols[:] = list(islice(cycle(elements), len(atoms)))
        atoms.rattle(0.01, seed=repeats)
        frames.append(representation.inputs(atoms, dtype))
    return Batch.from_data_list(frames)


class Step(nn.Module):
    """Energies and their slope, of tensors."""

    def __init__(self, representation: nn.Module, head: EnergyHead, core: ZBL | None) -> None:
        super().__init__()
        self.representation, self.head, self.core = representation, head, core

    def forward(
        self,
        z: Tensor,
        edge_index: Tensor,
        vectors: Tensor,
        batch: Tensor,
        cell: Tensor,
        factors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """See `slopes`."""
        graph = differentiable(AtomicGraph(z, edge_index, vectors, batch, cell.shape[0], cell=cell))
        return slopes(graph, factors, self.representation, self.head, self.core)


def compiled(
    representation: Representation,
    head: EnergyHead,
    core: ZBL | None,
    elements: list[str],
    dtype: torch.dtype = torch.float32,
) -> Slopes:
    """`slopes` with these weights, which go on to be trained, as one compiled function.

    Graphs with a single atom, pair or configuration, whose lengths torch would fix, go the plain way.

    Args:
        representation: f_rep, where and in the precision in which it is trained.
        head: with K energies.
        core: base term, if there is one.
        elements: of the training configurations.
        dtype: of their vectors, which may be less precise than the weights.

    Raises:
        InputError: the representation cannot be exported, or there is no compiler.
    """
    weight = head.scale
    graph = graph_of(example_batch(representation, elements, dtype).to(weight.device))
    assert graph.cell is not None
    factors = weight.new_ones(graph.size, len(weight), dtype=torch.float64)
    example = (graph.z, graph.edge_index, graph.vectors, graph.batch, graph.cell, factors)
    log.info("compiling the step with forces: minutes the first time, later seconds, as torch keeps what it compiled")
    begun = time.monotonic()
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of its own code
            run, weights = inductor(Step(exported(representation, differentiable(graph)), head, core), example)
    except Exception as error:  # torch has many kinds
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        name = type(representation).__name__
        raise InputError(
            f"model.compiled: torch cannot compile {name} here ({reason});\nleave it out (eipnn train: set CXX=none)"
        ) from error
    log.info("compiled in %.0f s", time.monotonic() - begun)

    def step_of(graph: AtomicGraph, factors: Tensor) -> tuple[Tensor, Tensor]:
        if min(len(graph.z), graph.edge_index.shape[1], graph.size) < 2:
            return slopes(graph, factors, representation, head, core)
        tensors = (graph.z, graph.edge_index, graph.vectors.detach(), graph.batch, graph.cell, factors)
        return run(weights, *tensors)

    return step_of


def inductor(step: Step, example: tuple[Tensor, ...]) -> tuple[Callable[..., tuple[Tensor, Tensor]], list[Tensor]]:
    """What Inductor makes of a `Step`, forward and backward: a function of its weights and tensors; and the weights."""
    names, weights = zip(*step.named_parameters(), strict=True)

    def plain(weights: list[Tensor], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        return functional_call(step, dict(zip(names, weights, strict=True)), tensors)

    traced = make_fx(plain, tracing_mode="symbolic", _allow_non_fake_inputs=True)(list(weights), *example)
    run = torch.compile(traced, fullgraph=True)
    for tensor, axis in zip(example, (0, 1, 0, 0, 0, 0), strict=True):
        torch._dynamo.mark_dynamic(tensor, axis)
    atoms, slope = run(list(weights), *example)
    torch.autograd.grad(atoms.sum() + slope.square().sum(), weights, allow_unused=True)
    return run, list(weights)
