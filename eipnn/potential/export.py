"""A fine-tuned potential as a `torch.export` program, which runs without eipnn.

    energy, forces, stress = torch.export.load("potential.pt2").module()(z, pos, cell, edge_index, edge_shift, batch)

The arguments describe N atoms with P pairs in B configurations; ``float`` is the precision that was exported:

=========== ========= ======= ==================================================================
argument    shape     dtype   what
=========== ========= ======= ==================================================================
z           (N,)      int64   atomic numbers
pos         (N, 3)    float   positions, A
cell        (B, 3, 3) float   lattice vectors as rows, A; zero along open axes
edge_index  (2, P)    int64   atoms i and j of each pair closer than the cutoff, j-i not again
edge_shift  (P, 3)    float   lattice translation of j, in whole cells
batch       (N,)      int64   the configuration that an atom belongs to, 0 ... B - 1, ascending
=========== ========= ======= ==================================================================

Pairs beyond the cutoff, as of a list with a skin, change nothing. An atom whose own image lies within the cutoff forms
pairs i-i, each of both directions once. The results are those of `EIPNNCalculator`, on the zero of the DFT data:

=========== ========= ======= ==================================================================
energy      (B,)      float64 total energies, eV
forces      (N, 3)    float   eV/A
stress      (B, 3, 3) float   eV/A^3, positive under tension; NaN where an axis is open
=========== ========= ======= ==================================================================

All three of a configuration are NaN where one of its atoms is of an element that the training data did not hold. The
cutoff (A), the elements, units, the version of eipnn and the rest of the checkpoint's record stand as JSON in the extra
file `RECORD` of the program.
"""

import json
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.proxy_tensor import make_fx
from torch_geometric.data import Batch

from eipnn.errors import InputError
from eipnn.files import check_not_read
from eipnn.inputs.base import AtomicGraph, graph_of, vectors_between
from eipnn.potential.compiled import example_batch, exported
from eipnn.potential.potential import Potential, differentiable

RECORD = "eipnn.json"
FIELDS = ("z", "pos", "cell", "edge_index", "edge_shift", "batch")


class PlainPotential(nn.Module):
    """A potential that takes and gives tensors (see the head of this file)."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(
        self, z: Tensor, pos: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """-> energies (B,), forces (N, 3) and stress (B, 3, 3)."""
        vectors = vectors_between(pos, cell, edge_index, edge_shift, batch)
        graph = AtomicGraph(z, edge_index, vectors, batch, cell.shape[0], cell=cell)
        energy, forces, stress = self.potential.predict(graph, ("forces", "stress"))[1:]
        assert forces is not None
        assert stress is not None
        known = (0 * energy).to(forces)  # NaN where an element is unknown
        return energy, forces + known[batch, None], stress + known[:, None, None]


def export_potential(checkpoint: str | Path, dtype: Literal["float32", "float64"] = "float32") -> ExportedProgram:
    """The program of a fine-tuned potential, for any number of atoms, pairs and configurations.

    Args:
        checkpoint: of the fine-tuning stage.
        dtype: precision of positions and of the network.

    Raises:
        CheckpointError: the checkpoint is of another stage.
        InputError: the representation cannot be exported, or the potential needs an EIP beside it.
    """
    potential = Potential.load(checkpoint)
    if potential.eip:
        raise InputError(
            f"{checkpoint}: gives DFT less the EIP {potential.delta_eip}, which a program cannot hold; use "
            "EIPNNCalculator in ASE"
        )
    precision = getattr(torch, dtype)
    potential.requires_grad_(False).to(precision)
    for tensor in (*potential.parameters(), *potential.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # no views in files
    try:
        return traced(potential, example_batch(potential.representation, potential.elements, precision))
    except InputError:
        raise
    except Exception as error:  # torch has many kinds
        name = type(potential.representation).__name__
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"{checkpoint}: torch.export cannot take the representation {name}: {reason}") from error


def traced(potential: Potential, batch: Batch) -> ExportedProgram:
    """The program of a potential, whose representation becomes its own program; `batch` is an example.

    In three steps: `torch.export` has the representation take plain operations, but cannot follow the slope of the
    energy (torch 2.13); `make_fx` can, with sizes that stay free; `torch.export` again makes what can be saved.
    """
    atoms, pairs, configurations = ({0: Dim(name)} for name in ("atoms", "pairs", "configurations"))
    graph = differentiable(graph_of(batch))
    potential.representation = exported(potential.representation, graph)  # type: ignore[assignment]
    example = tuple(batch[name] for name in FIELDS)
    plain = make_fx(PlainPotential(potential), tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)
    dynamic = (atoms, atoms, configurations, {1: pairs[0]}, pairs, atoms)
    return torch.export.export(plain, example, dynamic_shapes=dynamic, strict=False)


def export(
    checkpoint: Path, *, output: Path = Path("potential.pt2"), dtype: Literal["float32", "float64"] = "float32"
) -> None:
    """Write a fine-tuned potential as a torch.export program, which runs without eipnn.

    It leads from positions, cell and neighbour pairs to energies, forces and stress.

    Args:
        checkpoint: of the fine-tuning stage.
        output: what torch.export.load reads.
        dtype: precision of positions and of the network.
    """
    check_not_read(output, [checkpoint])
    program = export_potential(checkpoint, dtype)
    record = Potential.load(checkpoint).record() | {"dtype": dtype}
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, output, extra_files={RECORD: json.dumps(record)})
    print(f"{output}: {', '.join(FIELDS)} -> energy, forces, stress; see the head of eipnn.potential.export")
