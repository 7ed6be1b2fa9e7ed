"""A potential: representation, energy head, the energies of elements, and what a file holds of it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool

from eipnn.eips.in_cell import wrapped
from eipnn.eips.recorded import name_of
from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, graph_of
from eipnn.potential.checkpoints import CheckpointError, build_representation, read_checkpoint, read_record
from eipnn.potential.core import ZBL, core_of
from eipnn.potential.heads import EnergyHead
from eipnn.representations.base import MAX_Z, Representation
from eipnn.tensor_files import write_tensors
from eipnn.version import __version__

UNITS = {"energy": "eV", "length": "Angstrom", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"}


class Properties(NamedTuple):
    """What a potential says of B configurations with N atoms; None what was not asked for."""

    atom_energies: Tensor
    """(N,), eV, float64."""
    energy: Tensor
    """Their sum for each configuration (B,), eV, float64."""
    forces: Tensor | None = None
    """``-dE/dr`` (N, 3), eV/A."""
    stress: Tensor | None = None
    """``dE/d(strain) / volume`` (B, 3, 3), eV/A^3, symmetric, positive under tension (ASE's sign); NaN where a
    configuration is not periodic along all axes."""


class Potential(nn.Module):
    """Energies per atom, energies, forces and stress, on the zero of the DFT data that the potential was trained on.

    With delta learning (`eip` is set) it gives DFT less that EIP: the EIP's own part, which `eipnn.eips.recorded`
    restores, is to be added.

    Args:
        representation: f_rep.
        head: f_pred, of one energy.
        elements: symbols of all elements in the training data.
        zeros: by source (``dft``, names of EIPs): ``mode`` and ``energies`` (eV an element); under ``dft`` also ``eip``
            (`eipnn.eips.recorded`) with delta learning.
        core: base term at short range (`core_of`), to which the network adds.
        seen: what its training saw (`eipnn.potential.seen`).
    """

    def __init__(
        self,
        representation: Representation,
        head: EnergyHead,
        elements: list[str],
        zeros: dict[str, dict[str, Any]],
        core: ZBL | None = None,
        seen: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.representation, self.head, self.core = representation, head, core
        self.elements, self.zeros, self.seen = elements, zeros, seen or {}
        energies = zeros.get("dft", {}).get("energies", {})
        zero = torch.full((MAX_Z + 1,), torch.nan, dtype=torch.float64)
        for symbol in elements:
            zero[atomic_numbers[symbol]] = energies.get(symbol, 0.0)
        # by atomic number, eV; NaN for elements that were not trained on. No buffer: it stays float64.
        self.zero = zero

    @property
    def cutoff(self) -> float:
        """Neighbour cutoff in A."""
        return self.representation.cutoff

    @property
    def eip(self) -> dict[str, Any] | str | None:
        """The record of the EIP on top of which it was trained (delta learning)."""
        return self.zeros.get("dft", {}).get("eip")

    @property
    def delta_eip(self) -> str | None:
        """The name of that EIP."""
        return name_of(self.eip) if self.eip else None

    @property
    def units(self) -> dict[str, str]:
        return dict(UNITS)

    def graph(self, frames: Sequence[Atoms]) -> AtomicGraph:
        """What `predict` takes, of these structures, in the precision and on the device of the weights.

        Raises `InputError` where the training data did not hold one of their elements.
        """
        self.check_elements({symbol for atoms in frames for symbol in set(atoms.symbols)})
        weight = self.head.scale
        # in the cell, as float32 loses digits of an atom that is a long way out
        items = [self.representation.inputs(wrapped(atoms), weight.dtype) for atoms in frames]
        return graph_of(Batch.from_data_list(items).to(weight.device))

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Energies of the atoms on the aligned zero, without that of their elements (N,), eV, float64."""
        return atom_energies(graph, self.representation, self.head, self.core).squeeze(-1)

    def predict(
        self,
        graph: AtomicGraph,
        wanted: Collection[str] = ("energy",),
        *,
        cohesive: bool = False,
        create_graph: bool = False,
    ) -> Properties:
        """Energies and, if ``forces`` or ``stress`` are wanted, both of these.

        Args:
            graph: N atoms of B configurations; `AtomicGraph.cell` is needed for the stress alone.
            wanted: names of `Properties`.
            cohesive: leave energies on the aligned zero: free atoms at 0 eV with ``isolated_atoms``.
            create_graph: whether forces and stress are to be differentiated again, in training.
        """
        derive = not {"forces", "stress"}.isdisjoint(wanted)
        if derive:
            graph = differentiable(graph)
        with torch.set_grad_enabled(torch.is_grad_enabled() or derive):
            learned = self(graph)
            forces, stress = None, None
            if derive:
                forces, virial = derivatives(learned.sum(), graph, create_graph)
                stress = stress_of(virial, graph.cell) if graph.cell is not None else None
        if derive and not create_graph:
            learned = learned.detach()
        atoms = learned if cohesive else learned + self.zero.to(learned.device)[graph.z]
        energy = global_add_pool(atoms, graph.batch, graph.size)
        return Properties(atoms, energy, forces, stress)

    def eip_zero(self, symbols: Sequence[str]) -> float:
        """The zero of the EIP of delta learning (eV), to be taken off the energy of these atoms as the EIP is added."""
        zero = self.zeros[self.delta_eip]["energies"] if self.delta_eip else {}
        return float(sum(zero.get(symbol, 0.0) for symbol in symbols))

    def check_elements(self, symbols: Collection[str]) -> None:
        """Raise `InputError` where the training data did not hold one of the elements."""
        if strangers := set(symbols) - set(self.elements):
            raise InputError(f"the potential was trained on {', '.join(self.elements)}, not on {min(strangers)}")

    def record(self) -> dict[str, Any]:
        """What a file says of the potential, plain values; `load` reads it."""
        return {
            "version": __version__,
            "stage": "finetune",
            "representation": self.representation.config(),
            "eips": [],
            "settings": {"core": self.core.name} if self.core else {},
            "elements": self.elements,
            "cutoff": self.cutoff,
            "zeros": self.zeros,
            "units": self.units,
            "seen": self.seen,
        }

    def same_weights(self, other: "Potential") -> bool:
        """Whether another has the same weights, number by number."""
        mine, others = self.state_dict(), other.state_dict()
        return mine.keys() == others.keys() and all(torch.equal(mine[key], others[key]) for key in mine)

    def save(self, file: str | Path) -> None:
        """Write a file that `load` reads: plain values and tensors, whole or not at all."""
        write_tensors(Path(file), self.content())

    def content(self) -> dict[str, Any]:
        """What `save` writes."""
        return {"eipnn": self.record(), "state_dict": self.state_dict()}

    @classmethod
    def load(cls, file: str | Path) -> Self:
        """The potential of a local file of `save` or checkpoint of fine-tuning, on the CPU, for evaluation.

        No code in the file is run. A module of your own that it names for the representation is imported if its source
        names eipnn and the class.

        Raises:
            CheckpointError: the file is absent, damaged, not eipnn's, of another stage, or does not fit the code.
        """
        return cls.of(read_checkpoint(file), file)

    @classmethod
    def of(cls, content: dict[str, Any], file: str | Path) -> Self:
        """The potential of what was read from a file, see `load`."""
        record = read_record(content, file)
        if record["stage"] != "finetune":
            raise CheckpointError(f"{file}: of stage {record['stage']!r}; a potential is a fine-tuned checkpoint")
        representation = build_representation(record["representation"])
        core, seen = record["settings"].get("core"), record.get("seen")
        if core == "wall" and not seen:
            raise CheckpointError(f"{file}: has a wall, and does not say what its training saw; save it with `seen`")
        potential = cls(
            representation,
            EnergyHead(representation.dim),
            record["elements"],
            record["zeros"],
            core_of(core, representation.cutoff, seen),
            seen,
        )
        weights = {k: v for k, v in content["state_dict"].items() if k.startswith(("representation.", "head."))}
        try:
            potential.load_state_dict(weights)
        except Exception as error:
            raise CheckpointError(
                f"{file}: does not fit the code ({type(error).__name__}: {error}); use the version of eipnn, and the "
                "backbone, that it was trained with"
            ) from error
        return potential.eval()


def atom_energies(graph: AtomicGraph, representation: nn.Module, head: EnergyHead, core: ZBL | None) -> Tensor:
    """The head's K energies of the N atoms with the base term, which is in each of them: (N, K), eV, float64."""
    energies = head(representation(graph), graph.z)
    return energies if core is None else energies + core(graph).unsqueeze(-1)


def check_device(device: str) -> None:
    """Raise `InputError` where torch knows no device of this name, or it is a GPU that is not there."""
    try:
        given = torch.device(device)
    except RuntimeError:
        raise InputError(f"--device {device}: torch knows no such device; give cpu, cuda, cuda:1 or mps") from None
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(given.type)
    if count == 0:
        raise InputError(f"--device {device}: torch finds no GPU here; leave it out for the CPU")
    if count is not None and (given.index or 0) >= count:
        raise InputError(f"--device {device}: torch finds {count} of these; the first is {given.type}:0")


def differentiable(graph: AtomicGraph) -> AtomicGraph:
    """The same, for `derivatives`. Features that were computed beforehand know no gradients: they are left out."""
    return graph._replace(vectors=graph.vectors.detach().requires_grad_(), features=None, curvature=False)


def derivatives(
    energy: Tensor, graph: AtomicGraph, create_graph: bool = False, retain_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Forces (N, 3) in eV/A and virials ``dE/d(strain)`` (B, 3, 3) in eV, from the slope in the pairs' vectors.

    A pair's vector v is r_j - r_i and a lattice translation: it pulls i with dE/dv and j with -dE/dv, and a strain
    changes it by ``strain v``.

    Args:
        energy: of all configurations together, a scalar in eV.
        graph: of `differentiable`.
        create_graph: whether the results are to be differentiated again. After that, other energies of a `graph`
            without `curvature` have wrong slopes.
        retain_graph: whether another energy of the same graph follows.
    """
    return pulled(slope_of(energy, graph, create_graph, retain_graph), graph, create_graph)


def slope_of(energy: Tensor, graph: AtomicGraph, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    """That of an energy in the pairs' vectors (P, 3), eV/A; arguments as of `derivatives`."""
    vectors = graph.vectors
    # outside of autocast, which would round products of a backward pass as well
    with torch.autocast(vectors.device.type, enabled=False):
        (slope,) = torch.autograd.grad(
            energy, vectors, create_graph=create_graph, retain_graph=create_graph or retain_graph, allow_unused=True
        )
    return torch.zeros_like(vectors) if slope is None else slope


def slopes(
    graph: AtomicGraph, factors: Tensor, representation: nn.Module, head: EnergyHead, core: ZBL | None
) -> tuple[Tensor, Tensor]:
    """Energies, and the slope of their sum with some factors, both differentiable in the weights.

    Args:
        graph: of `differentiable`.
        factors: of the K energies of each configuration (B, K).
        representation: f_rep.
        head: with K energies.
        core: base term, if there is one.

    Returns:
        energies of the atoms (N, K), eV, float64, and the slope in the pairs' vectors (P, 3), eV/A.
    """
    atoms = atom_energies(graph, representation, head, core)
    return atoms, slope_of((atoms * factors[graph.batch]).sum(), graph, create_graph=True)


def pulled(slope: Tensor, graph: AtomicGraph, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Forces and virials of a slope (P, 3), see `derivatives`."""
    vectors, (i, j) = graph.vectors, graph.edge_index
    forces = vectors.new_zeros(graph.z.shape[0], 3).index_add(0, i, slope).index_add(0, j, -slope)
    vectors = vectors if create_graph else vectors.detach()
    pair = vectors.unsqueeze(-1) * slope.unsqueeze(-2)  # (P, 3, 3)
    virial = vectors.new_zeros(graph.size, 3, 3).index_add(0, graph.batch[i], pair)
    return forces, (virial + virial.mT) / 2


def stress_of(virial: Tensor, cell: Tensor) -> Tensor:
    """Virials (B, 3, 3) in eV over the volumes of the cells (B, 3, 3), eV/A^3; NaN, without gradient, on open axes."""
    volume = volumes(cell)[:, None, None]
    return torch.where(volume.isnan(), torch.nan, virial / volume.nan_to_num(1.0))


def volumes(cell: Tensor) -> Tensor:
    """Of lattice vectors (B, 3, 3), A -> (B,), A^3; NaN where an axis is open."""
    volume = torch.linalg.det(cell).abs()
    return torch.where(volume > 0, volume, torch.nan)
