"""A fine-tuned potential as a `torch.export` program, which runs without eipnn.

    energy = torch.export.load("potential.pt2").module()(z, pos, cell, edge_index, edge_shift, batch)
    forces = -torch.autograd.grad(energy.sum(), pos)[0]

The arguments describe N atoms with P pairs in B configurations; ``float`` is the precision that was exported:

=========== ========= ======= ==================================================================
argument    shape     dtype   what
=========== ========= ======= ==================================================================
z           (N,)      int64   atomic numbers
pos         (N, 3)    float   positions, A
cell        (B, 3, 3) float   lattice vectors as rows, A; zero where there is none
edge_index  (2, P)    int64   atoms i and j of each pair closer than the cutoff, j-i not again
edge_shift  (P, 3)    float   lattice translation of j, in whole cells
batch       (N,)      int64   the configuration that an atom belongs to, 0 ... B - 1, ascending
=========== ========= ======= ==================================================================

Pairs beyond the cutoff, as of a list with a skin, change nothing. An atom whose own image lies within the cutoff forms
pairs i-i, each of both directions once. The result is the total
energy of each configuration (B,), float64, in eV on the zero of the DFT data, as the ASE calculator gives it; NaN where
an atom is of an element that the training data did not hold. The stress of a configuration is ``(cell.T @ dE/dcell +
pos.T @ dE/dpos) / volume``, symmetrised. The cutoff (A), the elements and the rest of the checkpoint's record stand as
JSON in the extra file `RECORD` of the program.
"""

import json
from itertools import cycle, islice
from pathlib import Path
from typing import Literal

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool

from eipnn.errors import InputError
from eipnn.inputs.base import AtomicGraph, vectors_between
from eipnn.potential.potential import Potential

RECORD = "eipnn.json"
FIELDS = ("z", "pos", "cell", "edge_index", "edge_shift", "batch")


class PlainPotential(nn.Module):
    """A potential that takes tensors (see the head of this file)."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.register_buffer("zero", potential.zero)
        self.zero: Tensor

    def forward(
        self, z: Tensor, pos: Tensor, cell: Tensor, edge_index: Tensor, edge_shift: Tensor, batch: Tensor
    ) -> Tensor:
        """-> energies (B,) in eV, float64."""
        size = cell.shape[0]
        vectors = vectors_between(pos, cell, edge_index, edge_shift, batch)
        graph = AtomicGraph(z, edge_index, vectors, batch, size)
        energy = global_add_pool(self.potential(graph), batch, size)
        zero = energy.new_zeros(size).index_add(0, batch, self.zero[z])
        return energy * (1 + 0 * zero) + zero  # of an unknown element, the forces are NaN too


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
    plain = PlainPotential(potential).requires_grad_(False).eval()
    plain.potential.to(precision)
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # no views in files
    atoms, pairs, configurations = Dim("atoms"), Dim("pairs"), Dim("configurations")
    dynamic = {name: {0: atoms} for name in ("z", "pos", "batch")}
    dynamic |= {"cell": {0: configurations}, "edge_index": {1: pairs}, "edge_shift": {0: pairs}}
    try:
        example = [example_batch(potential, precision)[name] for name in FIELDS]
        return torch.export.export(plain, tuple(example), dynamic_shapes=dynamic, strict=False)
    except InputError:
        raise
    except Exception as error:  # torch has many kinds
        name = type(potential.representation).__name__
        reason = str(error).strip().splitlines()
        raise InputError(
            f"{checkpoint}: torch.export cannot take the representation {name}: {reason[0] if reason else error!r}"
        ) from error


def example_batch(potential: Potential, dtype: torch.dtype) -> Batch:
    """Three crystals of all elements; positions ask for gradients, as for forces."""
    lattice = bulk("X", "fcc", a=0.9 * potential.cutoff)  # 12 neighbours and more
    frames = []
    for repeats in (1, 2, 4):
        atoms: Atoms = lattice.repeat((repeats, 1, 1))
        atoms.symbols[:] = list(islice(cycle(potential.elements), len(atoms)))
        atoms.rattle(0.01, seed=repeats)
        frames.append(potential.representation.inputs(atoms, dtype))
    batch = Batch.from_data_list(frames)
    batch.pos.requires_grad_()
    return batch


def export(
    checkpoint: Path, *, output: Path = Path("potential.pt2"), dtype: Literal["float32", "float64"] = "float32"
) -> None:
    """Write a fine-tuned potential as a torch.export program, which runs without eipnn.

    It leads from positions, cell and neighbour pairs to energies, differentiable for forces and stress.

    Args:
        checkpoint: of the fine-tuning stage.
        output: what torch.export.load reads.
        dtype: precision of positions and of the network.
    """
    program = export_potential(checkpoint, dtype)
    record = Potential.load(checkpoint).record() | {"dtype": dtype}
    output.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(program, output, extra_files={RECORD: json.dumps(record)})
    print(f"{output}: takes {', '.join(FIELDS)}; see the head of eipnn.potential.export")
