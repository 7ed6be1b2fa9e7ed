"""Rate of `eipnn label` against a plain ASE loop, and of two workers against one.

    OMP_NUM_THREADS=1 python experiments/benchmarks/label_rate.py [--rounds 3] [--frames 6000]

Labels the pool of si_mini (twice over: 6,000 frames) with the eight potentials of the set `silicon`:
48,000 labels, energy, forces and stress each. The plain loop has its frames wrapped beforehand, uses the same
calculators (no neighbour skin) and one process; its time holds the labels alone. The time of a run of
the engine holds everything: store, worker start, labels, files on disk. The three take turns in every
round, so that other load on the machine meets all of them; a ratio is taken within a round.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from ase import Atoms

from eipnn.eips import EIP, load_eips
from eipnn.labels import LabelStore, label_structures
from eipnn.structures import read_structures


def main() -> None:
    """Print the rates and ratios of each round and their medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="turns of the three (default: 3)")
    parser.add_argument("--frames", type=int, default=6000, help="frames (default: 6000)")
    options = parser.parse_args()
    structures, eips = frames(options.frames), load_eips("silicon")
    labels = len(structures) * len(eips)
    print(f"{len(structures)} frames x {len(eips)} EIPs = {labels} labels; load {os.getloadavg()[0]:.1f}")
    rounds = []
    for number in range(1, options.rounds + 1):
        plain, energies = plain_loop(structures, eips)
        one, store = engine(structures, eips, 1)
        difference = np.abs(store - energies).max()
        two, store = engine(structures, eips, 2)
        difference = max(difference, np.abs(store - energies).max())
        rounds.append((plain / one, one / two))
        print(
            f"round {number}: plain loop {labels / plain:.0f} labels/s, one worker {labels / one:.0f}, "
            f"two workers {labels / two:.0f}; one / plain {plain / one:.2f}, two / one {one / two:.2f}; "
            f"largest difference {difference:.1e} eV; load {os.getloadavg()[0]:.1f}",
            flush=True,
        )
    print(f"median: one worker / plain loop {median(r[0] for r in rounds):.2f} (aim: 0.9)")
    print(f"median: two workers / one worker {median(r[1] for r in rounds):.2f} (aim: 1.6)")


def frames(number: int) -> list[Atoms]:
    """`number` frames of the pool, wrapped, with ids of their own where the pool comes again."""
    pool = read_structures("bundled:si_mini/pool.extxyz")
    structures = [pool[index % len(pool)].copy() for index in range(number)]
    for index, atoms in enumerate(structures):
        atoms.info["config_id"] += f"-{index // len(pool)}"
        atoms.wrap()
    return structures


def plain_loop(structures: Sequence[Atoms], eips: Sequence[EIP]) -> tuple[float, np.ndarray]:
    """Seconds and energies of the loop that anyone would write."""
    calculators = [eip.calculator().calculator for eip in eips]  # frames are wrapped already
    energies = np.empty((len(structures), len(eips)))
    start = time.perf_counter()
    for column, calculator in enumerate(calculators):
        for row, atoms in enumerate(structures):
            atoms.calc = calculator
            energies[row, column] = atoms.get_potential_energy()
            atoms.get_forces()
    seconds = time.perf_counter() - start
    for atoms in structures:
        atoms.calc = None
    return seconds, energies


def engine(structures: Sequence[Atoms], eips: Sequence[EIP], workers: int) -> tuple[float, np.ndarray]:
    """Seconds and energies of one run of the engine into a new store."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        store: LabelStore = label_structures(structures, eips, Path(folder) / "store", workers=workers)
        seconds = time.perf_counter() - start
        return seconds, np.array(store.energies)


if __name__ == "__main__":
    main()
