"""A fine-tuned potential, or a committee of them, in ASE."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, Graph
from eipnn.inputs.soap import Soap
from eipnn.neighbours import NeighbourList, complete_cell
from eipnn.potential.committee import Committee
from eipnn.potential.guard import Mode, guard_of
from eipnn.potential.potential import Potential, check_device
from eipnn.structures.check import value_problem

SKIN = 1.0
"""A by which the neighbour list reaches further, to be kept until an atom has moved by half of it."""


class EIPNNCalculator(Calculator):
    """Energy (eV), forces (eV/A) and, for fully periodic cells, stress (eV/A^3) of a fine-tuned potential.

    Energies are on the zero of the DFT data that the potential was trained on; ``cohesive=True`` leaves them on the
    aligned zero (free atoms at 0 eV with ``isolated_atoms``).

    Of a committee the results are means, and beside them stand the sample standard deviations of its members:
    ``energy_std`` (eV, of totals on the zero of the DFT data), ``forces_std`` (N,), for each atom the norm of those of
    its force's components (eV/A), and ``stress_std`` (6,), in Voigt's order (eV/A^3). They are multiplied by the
    factors of the committee's file, where it has some (`eipnn evaluate --calibrate`), and are raw else.

    Args:
        checkpoint: of the fine-tuning stage, or a file of `Potential.save` or `Committee.save`; a list of them is a
            committee without factors.
        device: of torch.
        dtype: ``float32``, as trained, or ``float64`` for tight relaxations and vibrations.
        cohesive: see above.
        eip: ASE calculator of the EIP on top of which the potential was trained, with delta learning only; by default
            made as the checkpoint records it. It must give the energies that the checkpoint holds of that EIP.
        tabulate: read the functions of the distance alone from tables, see `SchNet.tabulate`; about twice as quick.
        guard: what happens when atoms come closer than in any training frame, or the density of a crystal leaves the
            range of these: a warning, once for each pair of elements (``warn``), an error, or nothing (``off``). By
            default a warning, if the file says what its training saw; those of before do not.

    Raises:
        CheckpointError: the checkpoint is of another stage.
        InputError: no checkpoint, or members of a committee with other elements, another mode of the energy zero or
            another EIP under them than the first one; `tabulate` with a representation that has no such tables; `eip`
            where the potential needs none, or another one than it was trained on; none where it cannot be made here.
        InputError: `guard` is asked for, and a file does not say what its training saw.
        InputError: (when calculating) an element that the training data did not hold, positions or a cell that cannot
            be used, NaN from the network.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012 (ASE's own form)

    def __init__(
        self,
        checkpoint: str | Path | Sequence[str | Path],
        device: str = "cpu",
        dtype: str = "float32",
        cohesive: bool = False,
        tabulate: bool = False,
        eip: Calculator | None = None,
        guard: Mode | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, not {dtype!r}")
        check_device(device)
        self.committee = Committee.load(checkpoint)
        self.potentials = self.committee.potentials
        self.potential = self.potentials[0]
        self.eip = self.committee.eip(eip)
        self.guard = guard_of(self.committee, guard)
        self.guard_volume = True
        self.cohesive = cohesive
        for potential in self.potentials:
            potential.to(device=device, dtype=getattr(torch, dtype)).requires_grad_(False)
            if tabulate:
                potential.representation = potential.representation.tabulate()
        # One list for all members of one cutoff: after the first of them it costs little.
        self.neighbours = {p.cutoff: NeighbourList(p.cutoff, SKIN) for p in self.potentials}
        if len(self.potentials) > 1:
            self.implemented_properties = [*self.implemented_properties, "energy_std", "forces_std", "stress_std"]

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
        members = [self._of_member(potential, current) for potential in self.potentials]
        found = {name: np.array([member[name] for member in members]) for name in members[0]}
        results = {name: values.mean(axis=0) for name, values in found.items()}
        if self.cohesive:
            zero = np.mean([potential.zero.numpy()[current.numbers] for potential in self.potentials], axis=0)
            results["energies"] -= zero
            results["energy"] -= zero.sum()
        if self.eip is not None:  # where it has no stress, there is none, and it knows no energies of atoms
            self.eip.calculate(current, ["stress"])
            results = {k: v + self.eip.results[k] for k, v in results.items() if k in self.eip.results}
        results["free_energy"] = results["energy"] = float(results["energy"])
        self.results = results
        if len(members) > 1:
            self.results |= self.committee.spread(found)
            self.results["energy_std"] = float(self.results["energy_std"])

    def _of_member(self, potential: Potential, atoms: Atoms) -> dict[str, Any]:
        """What one potential says, on the zero of its DFT data; of the EIP of delta learning the zero alone."""
        # The stress comes with the forces at little cost; molecular dynamics at constant pressure asks for it later.
        graph = self._graph(potential, atoms)
        if self.guard is not None and potential is self.potential:
            self.guard.check([atoms], graph, self.guard_volume)
        found = potential.predict(graph, ("forces", "stress"))
        assert found.forces is not None
        assert found.stress is not None
        if not (found.energy.isfinite().all() and found.forces.isfinite().all()):
            raise InputError(
                "the potential gives NaN or infinite values: atoms are at the same place, or its training diverged"
            )
        results = {
            "energy": found.energy.item(),
            "energies": found.atom_energies.cpu().numpy(),
            "forces": found.forces.cpu().double().numpy(),
        }
        if atoms.pbc.all():
            stress = found.stress[0].cpu().double().numpy()
            results["stress"] = full_3x3_to_voigt_6_stress(stress)
        results["energy"] -= potential.eip_zero(atoms.symbols)
        return results

    def _graph(self, potential: Potential, atoms: Atoms) -> AtomicGraph:
        """What `Potential.graph` gives, from the list that is kept, without features, which know no gradients.

        The vectors are found in float64: float32 would lose digits of an atom that is a long way out of the cell. A
        network with inputs of its own has those.
        """
        if type(potential.representation.inputs) not in (Graph, Soap):
            return potential.graph([atoms])
        potential.check_elements(set(atoms.symbols))
        index, vectors = self.neighbours[potential.cutoff].vectors(atoms)
        z = torch.from_numpy(atoms.numbers.astype(np.int64))
        cell = torch.from_numpy(complete_cell(atoms)).unsqueeze(0)
        weight = potential.head.scale
        return AtomicGraph(
            z=z.to(weight.device),
            edge_index=torch.from_numpy(index).to(weight.device),
            vectors=torch.from_numpy(vectors).to(weight),
            batch=torch.zeros_like(z, device=weight.device),
            size=1,
            cell=cell.to(weight),
        )
