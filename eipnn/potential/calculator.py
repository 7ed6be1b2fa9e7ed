"""A fine-tuned potential in ASE."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from eipnn.eips.in_cell import InCell
from eipnn.eips.recorded import restore
from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, Graph
from eipnn.inputs.soap import Soap
from eipnn.neighbours import NeighbourList, complete_cell
from eipnn.potential.potential import Potential
from eipnn.structures.check import value_problem

SKIN = 1.0
"""A by which the neighbour list reaches further, to be kept until an atom has moved by half of it."""


class EIPNNCalculator(Calculator):
    """Energy (eV), forces (eV/A) and, for fully periodic cells, stress (eV/A^3) of a fine-tuned potential.

    Energies are on the zero of the DFT data that the potential was trained on; ``cohesive=True`` leaves them on the
    aligned zero (free atoms at 0 eV with ``isolated_atoms``).

    Args:
        checkpoint: of the fine-tuning stage, or a file of `Potential.save`.
        device: of torch.
        dtype: ``float32``, as trained, or ``float64`` for tight relaxations and vibrations.
        cohesive: see above.
        eip: ASE calculator of the EIP on top of which the potential was trained, with delta learning only; by default
            made as the checkpoint records it. It must give the energies that the checkpoint holds of that EIP.
        tabulate: read the functions of the distance alone from tables, see `SchNet.tabulate`; about twice as quick.

    Raises:
        CheckpointError: the checkpoint is of another stage.
        InputError: `tabulate` with a representation that has no such tables; `eip` where the potential needs none, or
            another one than it was trained on; none where it cannot be made here.
        InputError: (when calculating) an element that the training data did not hold, positions or a cell that cannot
            be used, NaN from the network.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's own form)

    def __init__(
        self,
        checkpoint: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        cohesive: bool = False,
        tabulate: bool = False,
        eip: Calculator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        potential = Potential.load(checkpoint)
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, not {dtype!r}")
        self.eip: InCell | None = None
        self.eip_zero: dict[str, float] = {}
        if potential.eip is not None:
            try:
                self.eip = restore(potential.eip, eip)
            except InputError as error:
                raise InputError(f"{checkpoint}: {error}") from error
            self.eip_zero = potential.zeros[str(potential.delta_eip)]["energies"]
        elif eip is not None:
            raise InputError(f"{checkpoint}: was not trained on top of an EIP: give none")
        self.cohesive = cohesive
        potential = potential.to(device=device, dtype=getattr(torch, dtype))
        self.potential = potential.requires_grad_(False)
        self.neighbours = NeighbourList(potential.cutoff, SKIN)
        if tabulate:
            self.potential.representation = self.potential.representation.tabulate()

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        current: Atoms = self.atoms  # type: ignore[assignment]
        if problem := value_problem(current):
            raise InputError(f"the potential has no energy of these atoms: {problem}")
        graph = self._graph(current)
        # The stress comes with the forces at little cost; molecular dynamics at constant pressure asks for it later.
        found = self.potential.predict(graph, ("forces", "stress"), cohesive=self.cohesive)
        assert found.forces is not None
        assert found.stress is not None
        if not (found.energy.isfinite().all() and found.forces.isfinite().all()):
            raise InputError(
                "the potential gives NaN or infinite values: atoms are at the same place, or its training diverged"
            )
        self.results = {
            "energy": found.energy.item(),
            "free_energy": found.energy.item(),
            "energies": found.atom_energies.cpu().numpy(),
            "forces": found.forces.cpu().double().numpy(),
        }
        if current.pbc.all():
            stress = found.stress[0].cpu().double().numpy()
            self.results["stress"] = full_3x3_to_voigt_6_stress(stress)
        if self.eip is not None:
            self._add_eip(current)

    def _graph(self, atoms: Atoms) -> AtomicGraph:
        """What `Potential.graph` gives, from the list that is kept, without features, which know no gradients.

        The vectors are found in float64: float32 would lose digits of an atom that is a long way out of the cell. A
        network with inputs of its own has those.
        """
        if type(self.potential.representation.inputs) not in (Graph, Soap):
            return self.potential.graph([atoms])
        self.potential.check_elements(set(atoms.symbols))
        index, vectors = self.neighbours.vectors(atoms)
        z = torch.from_numpy(atoms.numbers.astype(np.int64))
        cell = torch.from_numpy(complete_cell(atoms)).unsqueeze(0)
        weight = self.potential.head.scale
        return AtomicGraph(
            z=z.to(weight.device),
            edge_index=torch.from_numpy(index).to(weight.device),
            vectors=torch.from_numpy(vectors).to(weight),
            batch=torch.zeros_like(z, device=weight.device),
            size=1,
            cell=cell.to(weight),
        )

    def _add_eip(self, atoms: Atoms) -> None:
        """Add energy, forces and stress of the EIP, energies on the aligned zero. Without its stress there is none."""
        assert self.eip is not None
        self.eip.calculate(atoms, ["stress"])
        zero = sum(self.eip_zero.get(symbol, 0.0) for symbol in atoms.symbols)
        added = self.eip.results | {"energy": self.eip.results["energy"] - zero}
        added["free_energy"] = added["energy"]
        self.results = {k: v + added[k] for k, v in self.results.items() if k in added}
