"""Elastic constants of a crystal by finite strains, its atoms relaxed in each."""

import warnings

import numpy as np
from ase import Atoms
from ase.units import GPa
from scipy.linalg import polar

from eipnn.check.case import Case
from eipnn.check.crystals import placed, relax
from eipnn.check.eos import MODULUS, MODULUS_APART
from eipnn.check.figures import Figure, Found, Limits, NotRun

STRAIN = 0.005
CONSTANT_APART = Limits(5.0, 50.0)
STABLE = Limits(1.0, 0.0)
"""GPa, of the smallest eigenvalue: below 0 a strain lowers the energy."""
CUBIC = 1.0
"""GPa by which constants that are equal in a cubic crystal may differ."""
SYMPREC = 0.01
"""A by which sites of a relaxed crystal may miss its symmetry."""


class NoAxes(Exception):
    """The conventional axes of a crystal are not known; the message says why."""


def measure(case: Case) -> Found:
    """Elastic constants, bulk and shear modulus by Voigt, Reuss and Hill, and mechanical stability of each crystal.

    Single constants are those in the axes of the conventional cell. Where these are not known, those of the file are
    taken, the constants say so, and nothing judges them.

    Raises:
        NotRun: the calculator knows no stress.
    """
    if "stress" not in case.calculator.implemented_properties:
        raise NotRun("there is no stress")
    figures = []
    for name, crystal in case.crystals.items():
        atoms = crystal.atoms
        against: Limits | None = CONSTANT_APART
        try:
            atoms, group = in_standard_axes(atoms)
            note = f"axes of the conventional cell, {group}"
        except NoAxes as reason:
            against, note = None, f"axes of the file, not compared: {reason}"
        c = tensor(case, atoms)
        bulk, shear = hill(c)
        figures += [
            Figure("elastic_bulk_modulus", name, bulk, "GPa", MODULUS, MODULUS_APART),
            Figure("shear_modulus", name, shear, "GPa", MODULUS, MODULUS_APART),
            Figure("elastic_stability", name, float(np.linalg.eigvalsh(c)[0]), "GPa", STABLE, note="least eigenvalue"),
            *(Figure(key, name, value, "GPa", against=against, note=note) for key, value in constants(c).items()),
        ]
    return Found(figures)


def in_standard_axes(atoms: Atoms) -> tuple[Atoms, str]:
    """The crystal turned so that its standardised conventional cell (spglib's) lies along x, y and z: a along x, c
    along z where they are at right angles. And its space group.

    Raises:
        NoAxes: spglib is not installed, or finds no symmetry.
    """
    try:
        import spglib
    except ImportError:
        raise NoAxes("spglib is not installed: pip install 'eipnn[check]'") from None
    cell = atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of how spglib tells errors
        found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    if found is None:
        raise NoAxes("spglib finds no symmetry")
    turn, _ = polar(found.std_rotation_matrix)  # of a cell that is a little off, it strains too
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ turn.T, scale_atoms=True)
    return turned, found.international


def tensor(case: Case, crystal: Atoms) -> np.ndarray:
    """Stiffness (6, 6), GPa, in Voigt's order of strains (shear: twice the tensor's), along x, y and z."""
    columns = []
    for k in range(6):
        sides = []
        for sign in (1, -1):
            atoms = placed(crystal, case.calculator)
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + sign * STRAIN * strain(k)), scale_atoms=True)
            relax(atoms)
            sides.append(atoms.get_stress())
        columns.append((sides[0] - sides[1]) / (2 * STRAIN * GPa))
    c = np.array(columns)
    return (c + c.T) / 2


def strain(k: int) -> np.ndarray:
    """The k-th of Voigt's strains xx, yy, zz, yz, xz, xy as a symmetric tensor (3, 3)."""
    i, j = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))[k]
    e = np.zeros((3, 3))
    e[i, j] += 0.5
    e[j, i] += 0.5
    return e


def hill(c: np.ndarray) -> tuple[float, float]:
    """Bulk and shear modulus: the means of Voigt's and Reuss' (Hill, Proc. Phys. Soc. A 65, 349 (1952))."""
    s = np.linalg.inv(c)
    parts = [m[:3, :3].sum() for m in (c, s)]
    diagonal = [np.trace(m[:3, :3]) for m in (c, s)]
    shear = [np.trace(m[3:, 3:]) for m in (c, s)]
    voigt = parts[0] / 9, (diagonal[0] - (parts[0] - diagonal[0]) / 2 + 3 * shear[0]) / 15
    reuss = 1 / parts[1], 15 / (4 * diagonal[1] - 2 * (parts[1] - diagonal[1]) + 3 * shear[1])
    return float((voigt[0] + reuss[0]) / 2), float((voigt[1] + reuss[1]) / 2)


def constants(c: np.ndarray) -> dict[str, float]:
    """The three of a cubic crystal, or six of another one: GPa by name."""
    groups = (np.diag(c)[:3], np.diag(c)[3:], c[[0, 0, 1], [1, 2, 2]])
    if all(np.ptp(group) < CUBIC for group in groups):
        return {"C11": float(groups[0].mean()), "C12": float(groups[2].mean()), "C44": float(groups[1].mean())}
    return {f"C{i + 1}{j + 1}": float(c[i, j]) for i, j in ((0, 0), (0, 1), (0, 2), (2, 2), (3, 3), (5, 5))}
