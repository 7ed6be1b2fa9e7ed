"""Two atoms alone, from 0.9 covalent to 3.1 van der Waals radii: the curve of a pair has one minimum and no hole."""

from collections.abc import Mapping
from itertools import combinations_with_replacement
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import atomic_numbers, covalent_radii
from ase.data.vdw_alvarez import vdw_radii

from eipnn.check.case import Case
from eipnn.check.crystals import placed
from eipnn.check.figures import Figure, Found, Limits
from eipnn.report.plots import PALETTE, panel_row

STEP = 0.01
FLAT = 0.01
"""eV/A: smaller forces have no sign, nor have changes of the force below ten times that (eV/A^2)."""
LIMITS = Limits(1, 5)
CLOSE = 0.6
"""Of the sum of the covalent radii: nothing comes closer but under extreme pressure (see `eipnn inspect`)."""
HOLE = Limits(0.0, CLOSE)


def grid(first: str, second: str) -> np.ndarray:
    """Distances (A) of a pair, by means of its radii; without a van der Waals radius 2 A stand for it."""
    numbers = [atomic_numbers[first], atomic_numbers[second]]
    return np.arange(
        0.9 * np.mean(covalent_radii[numbers]), 3.1 * np.mean(np.nan_to_num(vdw_radii[numbers], nan=2.0)), STEP
    )


def pairs(elements: tuple[str, ...]) -> list[tuple[str, str]]:
    """All of the elements."""
    return list(combinations_with_replacement(elements, 2))


def measure(case: Case) -> Found:
    """Sign changes of force, minima, inflections, and the hole at short range of all pairs."""
    figures, curves = [], {}
    for first, second in pairs(case.elements):
        name, r = f"{first}-{second}", grid(first, second)
        energy, force = curve(case.calculator, first, second, r)
        curves[name] = r, energy - energy[-1]
        slope = np.gradient(force, r)
        unit = covalent_radii[atomic_numbers[first]] + covalent_radii[atomic_numbers[second]]
        depth = hole(r / unit, energy, force)
        figures += [
            Figure("force_flips", name, sign_changes(force, FLAT), limits=LIMITS),
            Figure("minima", name, minima(force), limits=LIMITS),
            Figure("inflections", name, sign_changes(slope, 10 * FLAT), limits=LIMITS),
            Figure("hole", name, depth, "covalent radii", HOLE, note=f"below {depth * unit:.2f} A" if depth else ""),
        ]
    return Found(figures, curves)


def curve(calculator: Calculator, first: str, second: str, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV) and force (eV/A, positive where the atoms repel) at each distance."""
    atoms = placed(Atoms([first, second], [[0, 0, 0], [1, 0, 0]]), calculator)
    energy, force = np.empty(len(r)), np.empty(len(r))
    for k, distance in enumerate(r):
        atoms.positions[1, 0] = distance
        energy[k], force[k] = atoms.get_potential_energy(), atoms.get_forces()[1, 0]
    return energy, force


def sign_changes(values: np.ndarray, flat: float) -> int:
    """How often the sign changes, where values below `flat` have none."""
    signs = np.sign(values[np.abs(values) > flat])
    return int((signs[1:] != signs[:-1]).sum())


def minima(force: np.ndarray) -> int:
    """Changes from repulsion to attraction as the atoms part."""
    signs = np.sign(force[np.abs(force) > FLAT])
    return int(((signs[:-1] > 0) & (signs[1:] < 0)).sum())


def hole(r: np.ndarray, energy: np.ndarray, force: np.ndarray) -> float:
    """The distance below which the atoms attract each other again, in the unit of r; 0 where they always repel.

    It is sought inwards from the lowest energy beyond 0.8 (in sums of covalent radii), where bonds are.
    """
    bond = np.argmin(np.where(r >= 0.8, energy, np.inf))
    inside = np.flatnonzero(force[:bond] < -FLAT)
    # next to the minimum itself the sign is that of rounding or of the grid
    inside = inside[inside < bond - 1]
    return float(r[inside[-1]]) if len(inside) else 0.0


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """Energies of each pair, a line a calculator."""
    names = list(next(iter(founds.values())).curves)
    with panel_row(file, names, 4.0, 3.8, "energy (eV)") as panels:
        for axis, name in panels:
            for (who, found), colour in zip(founds.items(), PALETTE, strict=False):
                axis.plot(*found.curves[name], label=who, color=colour, linewidth=1.8)
            energy = next(iter(founds.values())).curves[name][1]
            low = min(energy[len(energy) // 6 :].min(), -0.5)  # a hole at the shortest distances may leave the panel
            axis.set(xlabel="distance (A)", ylim=(1.6 * low, -4 * low))
            axis.grid()
