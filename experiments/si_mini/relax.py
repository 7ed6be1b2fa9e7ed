"""Relax distorted silicon with the potential of a finished run: positions and cell.

    python experiments/si_mini/relax.py RUN [--fmax 0.01] [--steps 300] [--seed 0]

The potential with the lowest validation error is taken, as `eipnn run` names it; delta learning, whose potentials need
an EIP too, is left out. The start is the cubic cell of 8 atoms, each displaced by 0.1 A (standard deviation), the cell
strained by some per cent. Energy, lattice constant and number of steps are printed; the path goes to
RUN/relax/relax.extxyz, its end to RUN/relax/relaxed.extxyz. The exit code is 0 only where the forces on atoms and cell
have converged.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.optimize import BFGS

from eipnn import EIPNNCalculator
from eipnn.errors import InputError
from eipnn.report.runs import Training, read_run

PBE = 5.47  # A, lattice constant of diamond silicon
RATTLE = 0.1  # A
STRAIN = 0.02  # standard deviation of the components
MAX_STEP = 0.1  # A; small, so that a poor potential is not thrown out of what it knows


def main() -> int:
    options = parser().parse_args()
    atoms = distorted(options.seed)
    try:
        training = choose(read_run(options.run))
        checkpoint = training.folder / "checkpoints" / "best.ckpt"
        atoms.calc = EIPNNCalculator(checkpoint, dtype="float64")
    except InputError as error:
        print(f"relax.py: {error}", file=sys.stderr)
        return 1
    describe("distorted", atoms)
    path, converged = relax(atoms, options.fmax, options.steps)
    describe("relaxed", atoms)
    folder = options.run / "relax"
    folder.mkdir(exist_ok=True)
    write(folder / "relax.extxyz", path)
    write(folder / "relaxed.extxyz", path[-1])
    print(f"{len(path) - 1} steps; path in {folder / 'relax.extxyz'}")
    return verdict(atoms, converged, options.fmax)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("run", type=Path, metavar="RUN", help="folder of `eipnn run`")
    p.add_argument("--fmax", type=float, default=0.01, help="largest force, also on the cell, eV/A (0.01)")
    p.add_argument("--steps", type=int, default=300, help="most steps (300)")
    p.add_argument("--seed", type=int, default=0, help="of the distortion (0)")
    return p


def choose(trainings: list[Training]) -> Training:
    """The potential with the lowest validation error.

    Raises:
        InputError: the run has none that works without an EIP.
    """
    # forces enter the validation error where they are trained on: those of energies alone are no fewer
    alone = [t for t in trainings if not t.kind.delta and not t.kind.energies_only]
    if not alone:
        raise InputError("all potentials of this run need an EIP beside them; train one of baseline, la, mp")
    chosen = min(alone, key=lambda t: t.result["best_score"])
    print(f"potential: {chosen.folder} ({chosen.result['monitor']} {chosen.result['best_score']:.3f})")
    return chosen


def distorted(seed: int) -> Atoms:
    """Diamond silicon, 8 atoms, strained and rattled."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Si", "diamond", a=PBE, cubic=True)
    strain = rng.normal(scale=STRAIN, size=(3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.normal(scale=RATTLE, size=(8, 3))
    return atoms


def relax(atoms: Atoms, fmax: float, steps: int) -> tuple[list[Atoms], bool]:
    """Relax positions and cell in place; the path, and whether all forces fell below `fmax`."""
    path: list[Atoms] = []

    def keep() -> None:
        frame = atoms.copy()
        frame.calc = SinglePointCalculator(frame, energy=atoms.get_potential_energy(), forces=atoms.get_forces())
        path.append(frame)

    optimizer = BFGS(FrechetCellFilter(atoms), logfile=None, maxstep=MAX_STEP)
    optimizer.attach(keep)
    return path, bool(optimizer.run(fmax=fmax, steps=steps))


def lattice_constant(atoms: Atoms) -> float:
    """Of the cubic cell with the same volume, A."""
    return float(atoms.get_volume() ** (1 / 3))


def describe(name: str, atoms: Atoms) -> None:
    """Print energy, largest force, pressure and cell."""
    force = np.linalg.norm(atoms.get_forces(), axis=1).max()
    pressure = -atoms.get_stress()[:3].mean() * 160.21766  # GPa
    a, b, c, *angles = atoms.cell.cellpar()
    print(
        f"{name:>9}: {atoms.get_potential_energy() / len(atoms):9.4f} eV/atom, largest force {force:.4f} eV/A, "
        f"pressure {pressure:6.2f} GPa, cell {a:.3f} {b:.3f} {c:.3f} A, {' '.join(f'{x:.1f}' for x in angles)} degrees"
    )


def bonds(atoms: Atoms) -> np.ndarray:
    """Distances of each atom's four nearest neighbours (N, 4), A."""
    image = atoms.repeat(3)
    middle = range(13 * len(atoms), 14 * len(atoms))
    return np.array([np.sort(image.get_distances(i, range(len(image))))[1:5] for i in middle])


def cubic(atoms: Atoms) -> bool:
    """Whether lengths and angles are those of a cube to 1 % and 1 degree."""
    lengths, angles = atoms.cell.cellpar()[:3], atoms.cell.cellpar()[3:]
    return bool(np.ptp(lengths) < 0.01 * lengths.mean() and np.abs(angles - 90).max() < 1)


def verdict(atoms: Atoms, converged: bool, fmax: float) -> int:
    """Say what came out; the exit code."""
    if not converged:
        print(f"NOT converged: forces on atoms or cell stay above {fmax:g} eV/A")
        return 1
    constant, lengths = lattice_constant(atoms), bonds(atoms)
    print(f"converged: forces on atoms and cell below {fmax:g} eV/A")
    if not cubic(atoms):
        print("the cell is not cubic: the potential is poor at shear; the lattice constant is that of its volume")
    print(f"lattice constant {constant:.3f} A (PBE: {PBE}, {100 * (constant / PBE - 1):+.1f} %)")
    print(f"bonds {lengths.min():.3f} to {lengths.max():.3f} A (diamond: all {constant * 3**0.5 / 4:.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
