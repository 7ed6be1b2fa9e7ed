"""Equation of state: energies of a crystal from 90 to 110 % of its volume, its atoms relaxed."""

import warnings
from collections.abc import Mapping
from math import nan
from pathlib import Path

import numpy as np
from ase.eos import EquationOfState
from ase.units import GPa

from eipnn.check.case import Case
from eipnn.check.crystals import Crystal, placed, relax
from eipnn.check.figures import Figure, Found, Limits
from eipnn.report.plots import PALETTE, panel_row

RANGE, POINTS = 0.1, 11
MODULUS = Limits(1.0, 0.0)
"""GPa: below 0 the crystal collapses."""
MODULUS_APART = Limits(2.0, 30.0)
ROUGH = Limits(1.0, 10.0)
"""meV/atom between energies and the smooth curve."""
DIPS = Limits(1, 2)


def measure(case: Case) -> Found:
    """Volume, bulk modulus, distance from a smooth curve and number of minima of each crystal."""
    figures, curves = [], {}
    for name, crystal in case.crystals.items():
        volumes, energies = energies_of(case, crystal)
        volume, modulus, rest = fitted(volumes, energies)
        curves[name] = volumes, 1000 * (energies - energies.min())
        inner = energies[1:-1]
        dips = int(((inner < energies[:-2]) & (inner < energies[2:])).sum())
        figures += [
            Figure("volume", name, volume, "A^3/atom", against=Limits(0.01 * volume, 0.05 * volume)),
            Figure("bulk_modulus", name, modulus, "GPa", MODULUS, MODULUS_APART),
            Figure("eos_roughness", name, 1000 * rest, "meV/atom", ROUGH),
            Figure("eos_minima", name, dips or nan, limits=DIPS, note="" if dips else "none from 90 to 110 %"),
        ]
    return Found(figures, curves)


def energies_of(case: Case, crystal: Crystal) -> tuple[np.ndarray, np.ndarray]:
    """Volumes (A^3/atom) and energies (eV/atom); the shape of the cell is kept."""
    scales = np.linspace(1 - RANGE, 1 + RANGE, POINTS)
    n = len(crystal.atoms)
    energies = []
    for scale in scales:
        atoms = placed(crystal.atoms, case.calculator)
        atoms.set_cell(atoms.cell * scale ** (1 / 3), scale_atoms=True)
        relax(atoms, steps=50)
        energies.append(atoms.get_potential_energy() / n)
    return scales * crystal.atoms.get_volume() / n, np.array(energies)


def fitted(volumes: np.ndarray, energies: np.ndarray) -> tuple[float, float, float]:
    """Volume (A^3/atom), bulk modulus (GPa) and largest rest (eV/atom) of Birch's and Murnaghan's curve; else NaN."""
    curve = EquationOfState(volumes, energies, eos="birchmurnaghan")
    try:
        with warnings.catch_warnings(action="ignore"):  # what is no curve of that kind is told by NaN
            volume, _, modulus = curve.fit(warn=False)
    except (RuntimeError, ValueError):
        return nan, nan, nan
    if not volumes[0] < volume < volumes[-1]:
        return nan, nan, nan
    rest = energies - curve.func(volumes, *curve.eos_parameters)
    return float(volume), float(modulus / GPa), float(np.abs(rest).max())


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """Energies over volume, a panel a crystal."""
    names = list(next(iter(founds.values())).curves)
    with panel_row(file, names, 3.8, 3.8, "energy above the lowest (meV/atom)") as panels:
        for axis, name in panels:
            for (who, found), colour in zip(founds.items(), PALETTE, strict=False):
                if name in found.curves:
                    axis.plot(*found.curves[name], "o-", label=who, color=colour, markersize=4)
            axis.set(xlabel="volume (A$^3$/atom)")
            axis.grid()
