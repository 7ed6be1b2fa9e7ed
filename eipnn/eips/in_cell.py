"""Potentials as all of eipnn calls them: for labels, in molecular dynamics and under a network of delta learning."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from eipnn.structures.check import value_problem


class InCell(Calculator):
    """Energy (eV), forces (eV/A) and, of fully periodic atoms, stress (eV/A^3) of a potential for wrapped atoms.

    KIM gives silently wrong energies for atoms outside the cell, and every trajectory has such. Here results do not
    depend on which periodic image of an atom is given, nor on what was computed before.

    Args:
        calculator: any ASE calculator of energies and forces. Where it has no stress, neither has this one.

    Raises:
        ValueError: (when calculating) positions or cell cannot be used, or a result is NaN, infinite or not there for
            all atoms.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (ASE's own form)

    def __init__(self, calculator: Calculator) -> None:
        super().__init__()
        self.calculator = calculator

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        self.evaluate(wrapped(self.atoms), properties)  # type: ignore[arg-type]

    def evaluate(self, inside: Atoms, properties: Sequence[str] = ("energy",)) -> None:
        """Put the `results` of atoms that `wrapped` gave: those who ask several potentials wrap once."""
        wanted = ["energy", "forces"]
        if "stress" in properties and inside.pbc.all() and "stress" in self.calculator.implemented_properties:
            wanted.append("stress")
        self.calculator.reset()
        self.calculator.calculate(inside, wanted, all_changes)
        self.results = {name: self.calculator.results[name] for name in wanted}
        if np.shape(self.results.get("stress", ())) == (3, 3):  # ASE allows both forms
            self.results["stress"] = full_3x3_to_voigt_6_stress(self.results["stress"])
        self._check(len(inside))
        self.results["free_energy"] = self.results["energy"] = float(self.results["energy"])

    def _check(self, atoms: int) -> None:
        energy, forces, stress = (
            np.asarray(self.results.get(name, np.zeros(6)), dtype=np.float64) for name in ("energy", "forces", "stress")
        )
        problems = {
            "the energy is NaN or infinite": not np.isfinite(energy),
            f"forces for {len(forces) if forces.ndim else 0} of {atoms} atoms": forces.shape != (atoms, 3),
            "a force is NaN or infinite": not np.isfinite(forces).all(),
            f"a stress of shape {stress.shape}, not (6,)": stress.shape != (6,),
            "the stress is NaN or infinite": not np.isfinite(stress).all(),
        }
        for problem, found in problems.items():
            if found:
                raise ValueError(problem)


def wrapped(atoms: Atoms) -> Atoms:
    """Species, positions, cell and periodicity alone, wrapped into the cell along the periodic axes.

    KIM needs a full cell where an axis is periodic, and CHGNet always: open axes without a vector get a unit vector,
    which changes no energy.

    Raises ValueError where positions or cell cannot be used: with such, potentials end their process.
    """
    if problem := value_problem(atoms):
        raise ValueError(problem)
    inside = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.complete(), pbc=atoms.pbc)
    if atoms.pbc.any():
        inside.wrap()
    return inside
