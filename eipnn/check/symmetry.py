"""What an energy must not depend on: cells that are repeated, rotations, translations, the order of atoms."""

import numpy as np
from ase import Atoms

from eipnn.check.case import Case
from eipnn.check.crystals import placed
from eipnn.check.figures import Figure, Found, Limits

EXTENSIVE = Limits(0.1, 10.0)
"""meV of the cell that is repeated; the good end leaves room for rounding."""
INVARIANT = Limits(0.1, 1.0)
"""meV, and meV/A."""


def measure(case: Case) -> Found:
    """The cell of 2 x 2 x 2 against 8 cells, and a displaced crystal turned, moved and reordered at random."""
    figures, rng = [], np.random.default_rng(case.seed)
    for name, crystal in case.crystals.items():
        atoms = placed(crystal.atoms, case.calculator)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        eight = placed(atoms.repeat(2), case.calculator).get_potential_energy()
        turned, order, rotation = moved(atoms, rng)
        other = placed(turned, case.calculator)
        energy_off = abs(other.get_potential_energy() - energy)
        force_off = np.abs(other.get_forces() - forces[order] @ rotation.T).max()
        figures += [
            Figure("extensivity", name, 1000 * abs(eight - 8 * energy), "meV", EXTENSIVE),
            Figure("energy_invariance", name, 1000 * energy_off, "meV", INVARIANT),
            Figure("force_invariance", name, 1000 * force_off, "meV/A", INVARIANT),
        ]
    return Found(figures)


def moved(atoms: Atoms, rng: np.random.Generator) -> tuple[Atoms, np.ndarray, np.ndarray]:
    """Atoms in another order, place and orientation; the order, and the rotation (3, 3) of column vectors."""
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.linalg.det(rotation)  # no reflection
    order = rng.permutation(len(atoms))
    turned = atoms[order]
    turned.set_cell(atoms.cell.array @ rotation.T)
    turned.positions = atoms.positions[order] @ rotation.T + rng.normal(0, 5, 3)
    return turned, order, rotation
