"""Make the small DFT sets (GPAW, PBE, plane waves): Si for si_mini, and Al and AgAu in the same way.

The structures need ASE alone; the labels need a Python with GPAW and its PAW data sets (Debian: the
packages `gpaw` and `gpaw-data` with the system's Python; GPAW 22.8 and ASE 3.22 made the shipped set):

    OMP_NUM_THREADS=1 python3 dft_mini.py Si dft.extxyz --start 0 --stop 1000 --seconds 6000
    python3 dft_mini.py Si pool.extxyz --start 100000 --stop 103000 --no-dft
    python3 dft_mini.py --isolated isolated_atoms.json

A bulk cell takes 3-15 s, a cluster 15-60 s on one core. A run notes its place in `dft.extxyz.next` and
goes on from there. Configuration i is a function of (system, i) alone, so a range can be split over
processes. Each frame carries GPAW's energy (eV, relative to its spin-paired reference atoms), forces
(eV/A) and, for periodic cells, stress (eV/A^3), all of one converged calculation; frames that do not
converge are skipped and counted. The isolated atoms are spin-polarised: subtracted, they turn energies
into cohesive energies that can be compared with OpenKIM's.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

ENERGY_CUTOFF = 300  # eV
K_DENSITY = 2.5  # k-points per 1/A
VACUUM = 3.75  # A, on each side of a cluster
ISOLATED = {"Si": 2, "Al": 1, "Ag": 1, "Au": 1}  # magnetic moments by Hund's rule
SI_KINDS = {
    "diamond2": 0.22,
    "diamond8": 0.20,
    "betatin": 0.08,
    "sc": 0.07,
    "fcc": 0.07,
    "bcc": 0.06,
    "hcp": 0.05,
    "lonsdaleite": 0.08,
    "silicene": 0.05,
    "random": 0.12,
}
METAL_KINDS = {
    "fcc4": 0.30,
    "fcc1x": 0.16,
    "bcc": 0.12,
    "hcp": 0.14,
    "sc": 0.08,
    "diamond": 0.06,
    "random": 0.14,
}


def configuration(system: str, index: int) -> tuple[Atoms | None, str]:
    """Structure `index` of a system and its family; None where no structure could be drawn."""
    rng = np.random.default_rng([sum(map(ord, system)), index])
    if system == "Si":
        if rng.random() < 0.30:
            return random_cluster(rng, ["Si"] * int(rng.integers(2, 7)), 2.05, 2.9), "cluster"
        return silicon(rng)
    if system == "Al":
        if rng.random() < 0.15:
            return random_cluster(rng, ["Al"] * int(rng.integers(2, 6)), 2.35, 3.2), "cluster"
        return metal(rng, ["Al"], 4.05, 2.25)
    return metal(rng, ["Ag", "Au"], 4.13, 2.4)


def random_cluster(rng: np.random.Generator, symbols: list[str], shortest: float, longest: float) -> Atoms:
    """Atoms added one by one at a bond's length (A) from an earlier one, none too close to another."""
    positions = [np.zeros(3)]
    while len(positions) < len(symbols):
        step = rng.normal(size=3)
        neighbour = positions[rng.integers(len(positions))]
        trial = neighbour + step / np.linalg.norm(step) * rng.uniform(shortest, longest)
        if min(np.linalg.norm(trial - p) for p in positions) >= shortest:
            positions.append(trial)
    atoms = Atoms(symbols, positions=positions)
    atoms.center(vacuum=VACUUM)
    atoms.pbc = False
    return atoms


def distort(
    rng: np.random.Generator,
    atoms: Atoms,
    strain: float,
    rattle: float,
    volumes: tuple[float, float],
    shortest: float,
) -> Atoms | None:
    """Scale the volume, strain the cell and rattle; drawn again while a pair is closer than `shortest` (A)."""
    for _ in range(200):
        trial = atoms.copy()
        eps = rng.normal(0, strain, (3, 3))
        eps = (eps + eps.T) / 2
        scale = rng.uniform(*volumes) ** (1 / 3)
        trial.set_cell(trial.cell.array @ (np.eye(3) + eps) * scale, scale_atoms=True)
        trial.positions += rng.normal(0, rng.uniform(0, rattle), trial.positions.shape)
        if closest(trial) >= shortest:
            return trial
    return None


def closest(atoms: Atoms) -> float:
    """The shortest distance (A) between two atoms, images in the 26 cells around included."""
    big = atoms.repeat([3 if periodic else 1 for periodic in atoms.pbc])
    distances = big.get_all_distances(mic=False)
    return float(distances[distances > 1e-8].min()) if len(big) > 1 else float("inf")


def random_packing(
    rng: np.random.Generator, symbol: str, n: int, volumes: tuple[float, float], shortest: float
) -> Atoms:
    """n atoms dropped into a cubic cell (`volumes`: A^3 an atom), none closer than `shortest` (A)."""
    while True:
        side = (n * rng.uniform(*volumes)) ** (1 / 3)
        points: list[np.ndarray] = []
        for _ in range(400):
            trial = rng.random(3)
            apart = [(trial - p + 0.5) % 1 - 0.5 for p in points]
            if side >= shortest and all(np.linalg.norm(d) * side >= shortest for d in apart):
                points.append(trial)
            if len(points) == n:
                cell = side * np.eye(3)
                return Atoms(f"{symbol}{n}", scaled_positions=points, cell=cell, pbc=True)


def silicon(rng: np.random.Generator) -> tuple[Atoms | None, str]:
    """A distorted periodic cell of silicon."""
    kind = str(rng.choice(list(SI_KINDS), p=list(SI_KINDS.values())))
    if kind == "random":
        atoms = random_packing(rng, "Si", int(rng.integers(3, 9)), (15, 24), 2.05)
        return distort(rng, atoms, 0.04, 0.01, (0.95, 1.05), 1.95), kind
    atoms = silicon_crystal(rng, kind)
    if kind == "silicene":
        return distort(rng, atoms, 0.03, 0.15, (0.95, 1.1), 1.95), kind
    return distort(rng, atoms, 0.05, 0.30, (0.80, 1.30), 1.95), kind


def silicon_crystal(rng: np.random.Generator, kind: str) -> Atoms:
    """The undistorted cell of one kind."""
    match kind:
        case "diamond2":
            return bulk("Si", "diamond", 5.47)
        case "diamond8":
            return bulk("Si", "diamond", 5.47, cubic=True)
        case "betatin":
            cell = np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) * np.array([4.8, 4.8, 2.65]) / 2
            return Atoms("Si2", scaled_positions=[[0, 0, 0], [0.25, 0.75, 0.5]], cell=cell, pbc=True)
        case "sc":
            return bulk("Si", "sc", 2.53).repeat([(1, 1, 2), (1, 2, 2)][rng.integers(2)])
        case "fcc":
            return bulk("Si", "fcc", 3.87, cubic=True)
        case "bcc":
            return bulk("Si", "bcc", 3.09, cubic=True)
        case "hcp":
            return bulk("Si", "hcp", 2.71, c=4.5)
        case "lonsdaleite":
            x, c, u = 3.86, 6.34, 0.0625
            return Atoms(
                "Si4",
                cell=[[x, 0, 0], [-x / 2, x * 3**0.5 / 2, 0], [0, 0, c]],
                pbc=True,
                scaled_positions=[
                    [1 / 3, 2 / 3, u],
                    [2 / 3, 1 / 3, 0.5 + u],
                    [1 / 3, 2 / 3, 0.5 - u],
                    [2 / 3, 1 / 3, -u],
                ],
            )
    return Atoms(
        "Si2",
        cell=[[3.87, 0, 0], [-1.935, 3.3515, 0], [0, 0, 7.5]],
        pbc=True,
        scaled_positions=[[1 / 3, 2 / 3, 0.47], [2 / 3, 1 / 3, 0.53]],
    )


def metal(rng: np.random.Generator, symbols: list[str], a_fcc: float, shortest: float) -> tuple[Atoms | None, str]:
    """A distorted periodic cell of a metal or an alloy; lengths in A."""
    kind = str(rng.choice(list(METAL_KINDS), p=list(METAL_KINDS.values())))
    if kind == "random":
        volumes = (a_fcc**3 / 4, a_fcc**3 / 4 * 1.6)
        atoms = random_packing(rng, symbols[0], int(rng.integers(3, 7)), volumes, shortest)
    else:
        atoms = metal_crystal(rng, kind, symbols[0], a_fcc)
    atoms.set_chemical_symbols(list(rng.choice(symbols, len(atoms))))
    if kind == "random":
        return distort(rng, atoms, 0.04, 0.01, (0.97, 1.05), shortest * 0.97), kind
    return distort(rng, atoms, 0.05, 0.30, (0.78, 1.35), shortest), kind


def metal_crystal(rng: np.random.Generator, kind: str, symbol: str, a_fcc: float) -> Atoms:
    """The undistorted cell of one kind."""
    match kind:
        case "fcc4":
            return bulk(symbol, "fcc", a_fcc, cubic=True)
        case "fcc1x":
            return bulk(symbol, "fcc", a_fcc).repeat([(1, 1, 2), (1, 1, 3)][rng.integers(2)])
        case "bcc":
            return bulk(symbol, "bcc", a_fcc * 0.795, cubic=True)
        case "hcp":
            return bulk(symbol, "hcp", a_fcc * 0.707, c=a_fcc * 1.155)
        case "sc":
            return bulk(symbol, "sc", a_fcc * 0.67).repeat((1, 1, 2))
    return bulk(symbol, "diamond", a_fcc * 1.48)


def dft_label(atoms: Atoms, family: str) -> None:
    """Attach energy, forces and (for cells) stress. Raises what GPAW raises where it does not converge."""
    from gpaw import GPAW, PW

    settings = {
        "mode": PW(ENERGY_CUTOFF),
        "xc": "PBE",
        "txt": None,
        "maxiter": 150,
        "occupations": {"name": "fermi-dirac", "width": 0.1},
        "convergence": {"energy": 2e-4, "density": 5e-4, "eigenstates": 5e-5},
    }
    work = atoms.copy()
    if family == "cluster":
        work.set_initial_magnetic_moments([1.0 if i % 2 == 0 else 0.6 for i in range(len(work))])
        work.pbc = True
        work.calc = GPAW(spinpol=True, symmetry="off", **settings)
    else:
        work.calc = GPAW(kpts={"density": K_DENSITY, "gamma": False}, **settings)
    results = {"energy": float(work.get_potential_energy()), "forces": work.get_forces()}
    if family != "cluster":
        results["stress"] = work.get_stress()
    atoms.calc = SinglePointCalculator(atoms, **results)


def isolated_atoms() -> dict[str, float]:
    """Spin-polarised energies (eV) of the free atoms."""
    from gpaw import GPAW, PW

    energies = {}
    for element in ISOLATED:
        atoms = Atoms(element, cell=[10, 10.1, 10.2], pbc=True)
        atoms.center()
        atoms.calc = GPAW(
            mode=PW(ENERGY_CUTOFF),
            xc="PBE",
            txt=None,
            hund=True,
            symmetry="off",
            maxiter=300,
            occupations={"name": "fermi-dirac", "width": 0.0, "fixmagmom": True},
        )
        energies[element] = float(atoms.get_potential_energy())
        moment = atoms.calc.get_magnetic_moment()
        print(f"{element} {energies[element]:.6f} eV, moment {moment} ({ISOLATED[element]} by Hund)")
    return energies


def generate(
    system: str,
    out: Path,
    start: int,
    stop: int,
    seconds: float,
    dft: bool,
    draw: Callable[[str, int], tuple[Atoms | None, str]] = configuration,
) -> tuple[int, int]:
    """Append configurations to `out` until `stop` or until the time is over; how many were made and skipped."""
    begin, made, skipped = time.monotonic(), 0, 0
    place = out.with_name(out.name + ".next")
    first = int(place.read_text()) if place.exists() else start
    digits = 5 if dft else 6
    for index in range(first, stop):
        if time.monotonic() - begin > seconds:
            break
        atoms, family = draw(system, index)
        try:
            if atoms is None:
                raise RuntimeError("no structure could be drawn")
            if dft:
                dft_label(atoms, family)
            atoms.info.update(config_id=f"{system}_{index:0{digits}d}", family=family)
            write(out, atoms, format="extxyz", append=True)
            made += 1
        except Exception as error:  # not converged: this frame is left out, the run goes on
            skipped += 1
            print(f"{index} {family}: skipped ({error!r:.120})", flush=True)
        place.write_text(str(index + 1))
    return made, skipped


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", nargs="?", choices=["Si", "Al", "AgAu"])
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--start", type=int, default=0, help="first configuration (default: 0)")
    parser.add_argument("--stop", type=int, default=1000, help="end of the range (default: 1000)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--no-dft", action="store_true", help="structures only, without GPAW")
    parser.add_argument("--isolated", type=Path, metavar="FILE.json", help="make isolated atoms")
    options = parser.parse_args()
    if options.isolated:
        options.isolated.write_text(json.dumps(isolated_atoms(), indent=1) + "\n")
        return
    if options.system is None or options.out is None:
        parser.error("give SYSTEM and OUT, or --isolated FILE.json")
    made, skipped = generate(
        options.system,
        options.out,
        options.start,
        options.stop,
        options.seconds,
        not options.no_dft,
    )
    print(f"{made} made, {skipped} skipped")


if __name__ == "__main__":
    main()
