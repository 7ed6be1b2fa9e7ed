"""Cells of 15 to 32 atoms with the DFT settings of `dft_mini.py`: a test set that nothing trains on.

The frames of si_mini and al_mini have 1 to 8 atoms. Whether a potential that was trained on them holds in larger
cells, which leave room for vacancies, disorder and longer waves, these show:

    OMP_NUM_THREADS=1 python3 dft_large.py Si large.extxyz --stop 60 --seconds 6000

takes 1-5 minutes a cell on one core, with a Python that has GPAW (see `dft_mini.py`). A run goes on from where it was;
configuration i is a function of (system, i) alone. The sixty cells of silicon are `si_large.extxyz`
beside this file; `al_large.extxyz`, with its `.next`, holds the aluminium cells made so far: give it as OUT to make the
rest.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from dft_mini import distort, generate, random_packing

KINDS = {"crystal": 0.45, "vacancy": 0.25, "random": 0.30}
CRYSTALS = {
    "Si": [
        ("diamond", 5.47, False, (2, 2, 2)),  # 16 atoms
        ("diamond", 5.47, True, (2, 1, 1)),  # 16
        ("diamond", 5.47, True, (3, 1, 1)),  # 24
        ("diamond", 5.47, True, (2, 2, 1)),  # 32
        ("bcc", 3.09, True, (2, 2, 2)),  # 16
        ("fcc", 3.87, True, (2, 2, 1)),  # 16
    ],
    "Al": [
        ("fcc", 4.05, True, (2, 2, 1)),  # 16
        ("fcc", 4.05, False, (3, 3, 2)),  # 18
        ("fcc", 4.05, True, (2, 2, 2)),  # 32
        ("bcc", 3.22, True, (2, 2, 2)),  # 16
    ],
}
SHORTEST = {"Si": 1.95, "Al": 2.2}  # A
PACKING = {"Si": (17, 24), "Al": (16.6, 22)}  # A^3 an atom


def configuration(system: str, index: int) -> tuple[Atoms | None, str]:
    """Structure `index` of a system and its family; None where no structure could be drawn."""
    rng = np.random.default_rng([sum(map(ord, system + "large")), index])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "random":
        atoms = random_packing(rng, system, int(rng.integers(16, 25)), PACKING[system], SHORTEST[system] + 0.1)
        return distort(rng, atoms, 0.03, 0.01, (0.97, 1.05), SHORTEST[system]), kind
    structure, a, cubic, repeats = CRYSTALS[system][rng.integers(len(CRYSTALS[system]))]
    atoms = bulk(system, structure, a, cubic=cubic).repeat(repeats)
    if kind == "vacancy":
        del atoms[int(rng.integers(len(atoms)))]
    return distort(rng, atoms, 0.03, 0.20, (0.88, 1.15), SHORTEST[system]), f"{structure}-{kind}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", choices=list(CRYSTALS))
    parser.add_argument("out", type=Path)
    parser.add_argument("--start", type=int, default=0, help="first configuration (default: 0)")
    parser.add_argument("--stop", type=int, default=60, help="end of the range (default: 60)")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--no-dft", action="store_true", help="structures only, without GPAW")
    options = parser.parse_args()
    made, skipped = generate(
        f"{options.system}large", options.out, options.start, options.stop, options.seconds,
        not options.no_dft, lambda _, index: configuration(options.system, index),
    )  # fmt: skip
    print(f"{made} made, {skipped} skipped")


if __name__ == "__main__":
    main()
