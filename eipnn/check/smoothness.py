"""Energy and forces along straight lines of displacements: no jumps, and forces that are the slope of the energy."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ase import Atoms

from eipnn.check.case import Case
from eipnn.check.crystals import placed, supercell
from eipnn.check.figures import Figure, Found, Limits
from eipnn.report.plots import PALETTE, panel_row

REACH, STEP = 0.2, 0.005
"""A that the farthest atom of a line moves either way, and between two points."""
SIZE = 5.0
"""A between faces of the cell."""
LINES = ("line 1", "line 2", "bond")
JUMP = Limits(10.0, 100.0)
"""meV/A: of a force against the mean of its neighbours."""
WORK = Limits(0.1, 1.0)
"""meV between two points: energy against the work of the forces."""


def measure(case: Case) -> Found:
    """Two random lines of all atoms and one of a bond, in each crystal."""
    figures, curves, rng = [], {}, np.random.default_rng(case.seed)
    for name, crystal in case.crystals.items():
        start = supercell(crystal.atoms, SIZE)
        lines = [random_line(start, rng), random_line(start, rng), bond_line(start)]
        jumps, works = [], []
        for line, direction in zip(LINES, lines, strict=True):
            s, energies, forces = along(placed(start, case.calculator), direction)
            bends = np.linalg.norm(forces[2:] - 2 * forces[1:-1] + forces[:-2], axis=2) / 2  # (n - 2, N)
            along_line = (forces * direction).sum(axis=(1, 2))
            work = STEP * (along_line[1:] + along_line[:-1]) / 2
            jumps.append(1000 * bends.max())
            works.append(1000 * np.abs(np.diff(energies) + work).max())
            curves[f"{name}, {line}"] = s, energies - energies.min(), along_line
        worst = int(np.argmax(jumps))
        figures += [
            Figure("force_jump", name, jumps[worst], "meV/A", JUMP, note=f"on {LINES[worst]}"),
            Figure("energy_and_work", name, max(works), "meV", WORK, note=f"on {LINES[int(np.argmax(works))]}"),
        ]
    return Found(figures, curves)


def random_line(atoms: Atoms, rng: np.random.Generator) -> np.ndarray:
    """A displacement of each atom (N, 3), the largest 1 A."""
    direction = rng.normal(size=(len(atoms), 3))
    return direction / np.linalg.norm(direction, axis=1).max()


def bond_line(atoms: Atoms) -> np.ndarray:
    """The first atom towards its nearest neighbour, by 1 A; along x where it is alone."""
    if len(atoms) == 1:
        return np.array([[1.0, 0, 0]])
    vectors = atoms.get_distances(0, range(1, len(atoms)), mic=True, vector=True)
    nearest = vectors[np.argmin(np.linalg.norm(vectors, axis=1))]
    direction = np.zeros((len(atoms), 3))
    direction[0] = nearest / np.linalg.norm(nearest)
    return direction


def along(atoms: Atoms, direction: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places s (A), energies (n,) and forces (n, N, 3) of atoms displaced by s times the direction."""
    start = atoms.positions.copy()
    places = np.arange(-REACH, REACH + STEP / 2, STEP)
    energies, forces = [], []
    for s in places:
        atoms.positions = start + s * direction
        energies.append(atoms.get_potential_energy())
        forces.append(atoms.get_forces())
    return places, np.array(energies), np.array(forces)


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """Force along each line, a panel a crystal."""
    curves = next(iter(founds.values())).curves
    names = list(dict.fromkeys(key.rpartition(", ")[0] for key in curves))
    with panel_row(file, names, 4.0, 3.6, "force along the line (eV/A)") as panels:
        for axis, name in panels:
            for line, colour in zip(LINES, PALETTE, strict=False):
                s, _, force = curves[f"{name}, {line}"]
                axis.plot(s, force, label=line, color=colour, linewidth=1.5)
            axis.set(xlabel="displacement (A)")
            axis.grid()
