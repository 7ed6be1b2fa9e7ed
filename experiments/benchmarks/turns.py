"""What the benchmarks of speed share: contenders that take turns, ratios within a round, and silicon for dynamics."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import TextIO

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

CELLS = {64: 2, 512: 4, 4096: 8}
"""Atoms of `silicon`, and the cubic cells of eight along each axis."""
THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *(f"{library}_{where}_OP_PARALLELISM_THREADS" for library in ("TF", "DP") for where in ("INTRA", "INTER")),
)
"""Their numbers in numpy and torch, and in TensorFlow and DeePMD-kit."""


def silicon(number: int) -> Atoms:
    """A rattled crystal of so many atoms."""
    atoms = bulk("Si", "diamond", 5.43, cubic=True).repeat(CELLS[number])
    assert len(atoms) == number
    atoms.rattle(0.1, seed=0)
    return atoms


def dynamics(number: int) -> VelocityVerlet:
    """Of atoms that have no calculator yet."""
    atoms = silicon(number)
    width = np.sqrt(units.kB * 300 * atoms.get_masses())[:, None]  # of Maxwell and Boltzmann
    atoms.set_momenta(width * np.random.default_rng(0).normal(size=(number, 3)))
    return VelocityVerlet(atoms, timestep=1.0 * units.fs)


def timed(run: Callable[[int], object], steps: int) -> float:
    """Seconds of processor time a step."""
    start = time.process_time()
    run(steps)
    return (time.process_time() - start) / steps


def take_turns(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The seconds of each contender in each round; other load on the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(contender())
    return seconds


class Server:
    """A process, on one thread, that `answer`s: a contender with an environment of its own."""

    def __init__(self, *words: str) -> None:
        one = dict.fromkeys(THREADS, "1")
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | one
        )

    def seconds(self, steps: int) -> float:
        """Processor time a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(steps, file=self.process.stdin, flush=True)
        if not (answer := self.process.stdout.readline()):
            raise SystemExit(f"{self.process.args}: ended with exit code {self.process.wait()}, see above")
        return float(answer)


def answer(run: Callable[[int], object], answers: TextIO) -> None:
    """Read numbers of steps from standard input, answer with seconds of processor time a step."""
    for line in sys.stdin:
        print(timed(run, int(line)), file=answers, flush=True)


def faster_by(mine: Iterable[float], theirs: Iterable[float], heading: str = "eipnn is faster by") -> dict[str, float]:
    """Columns of a table: their seconds over mine within a round, the median, the least and the most."""
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    return {heading: median(ratios), "least": min(ratios), "most": max(ratios)}


def as_they_come(rows: Iterable[dict]) -> list[dict]:
    """The rows, each printed as soon as it is measured."""
    found = []
    for row in rows:
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        found.append(row)
    return found
