"""Training steps a second and peak memory of each backbone, against the same network in public libraries.

    python experiments/benchmarks/training_speed.py
    python experiments/benchmarks/training_speed.py --backbones SchNet --systems Si64 --rounds 15

A step is: energies and forces from the positions on a prepared neighbour list, mean squared errors, backward pass,
Adam; with ``--energies`` no forces. float32, one thread by default. All contenders have the same readout, optimiser,
frames, the same pairs within the cutoff (eipnn lists each once, the peers both directions) and denormal numbers flushed
to zero, which otherwise slow down a library whose Gaussians have tails. Gradients are those of the weights alone. The
contenders take turns in every round, so that other load on the machine meets all of them; a ratio is taken within a
round, and the table shows medians over the rounds. With one thread the clock is the process's own processor time, which
other processes do not run up; with more it is the wall clock.

Peak memory is the largest resident set of a process of its own over four steps, less the resident
set before the first (Linux only): activations, gradients and the optimiser's state, not weights, inputs and libraries.

The peers are no dependencies of eipnn; one that is not installed is named and left out. To have them all, in an
environment of their own on top of eipnn's:

    pip install --no-deps dgl==1.1.3 schnetpack==2.1.1 graph-pes==1.0.2 fairchem-core==1.10.0
    pip install 'eipnn[mace]'

and what their imports ask for (matscipy, dirsync, hydra-core, huggingface_hub ...).
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from ase import Atoms
from ase.build import bulk
from contenders import CONTENDERS, Contender, Prepared
from torch import nn
from turns import as_they_come, faster_by, take_turns

from eipnn.errors import InputError

WARM_UP = 3
"""Steps before the clock starts: allocators, kernel choices, the optimiser's state."""


@dataclass(frozen=True)
class System:
    """Frames of one batch."""

    atoms: Atoms
    """The ideal crystal; its copies are rattled by 0.1 A."""
    cutoff: float
    batch_size: int

    def frames(self) -> list[Atoms]:
        frames = [self.atoms.copy() for _ in range(self.batch_size)]
        for seed, atoms in enumerate(frames):
            atoms.rattle(0.1, seed=seed)
        return frames


SILICON = bulk("Si", "diamond", 5.43)
ALUMINIUM = bulk("Al", "fcc", 4.05, cubic=True)
SYSTEMS = {
    "Si4": System(SILICON.repeat((2, 1, 1)), 5.0, 32),
    "Si64": System(bulk("Si", "diamond", 5.43, cubic=True).repeat(2), 5.0, 8),
    "Al108": System(ALUMINIUM.repeat(3), 7.0, 4),
}
SMALLER_BATCHES = {("GemNet", "Al108"): 1, ("MACE", "Al108"): 1}
"""Whose networks take several seconds and GiB a frame there."""


def main() -> None:
    """Print the table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    if options.peak_memory:
        backbone, name, system = options.peak_memory
        step, _ = training_step(find(backbone, name), system_for(backbone, system), options.energies)
        print(peak_memory(step))
        return
    print(
        f"torch {torch.__version__}, energies {'alone' if options.energies else 'and forces'}, {options.threads} "
        f"thread(s), {options.rounds} rounds of {options.seconds} s a contender, load {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores"
    )
    cases = product(options.backbones, options.systems)
    rows = as_they_come(row for backbone, system in cases for row in compare(backbone, system, options))
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g", intfmt=","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--energies", action="store_true", help="train on energies alone")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one turn, about")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak-memory", nargs=3, help=argparse.SUPPRESS)  # a child of this script
    return parser.parse_args()


def compare(backbone: str, system: str, options: argparse.Namespace) -> Iterable[dict]:
    """The rows of one backbone on one system; ours is the first contender."""
    chosen = system_for(backbone, system)
    steps, weights = {}, {}
    for contender in CONTENDERS[backbone]:
        if not (options.energies or contender.forces):
            continue
        try:
            steps[contender.name], weights[contender.name] = training_step(contender, chosen, options.energies)
        except (ImportError, InputError) as error:
            print(f"{backbone}: {contender.name} is left out: {error}")
    if not steps:  # the extra of this backbone is not installed
        return
    counts = {name: turns(step, options.seconds) for name, step in steps.items()}
    seconds = take_turns({name: partial(timed, step, counts[name]) for name, step in steps.items()}, options.rounds)
    own = next(iter(steps))
    for name, times in seconds.items():
        yield {
            "backbone": backbone,
            "system": f"{chosen.batch_size} x {system}, {chosen.cutoff} A",
            "network": name,
            "weights": weights[name],
            "steps/s": 1 / median(times),
            **faster_by(seconds[own], times),
            "peak MiB": measured_memory(backbone, name, system, options),
        }


def system_for(backbone: str, name: str) -> System:
    """The frames that a backbone is timed on."""
    system = SYSTEMS[name]
    size = SMALLER_BATCHES.get((backbone, name), system.batch_size)
    return replace(system, batch_size=size)


def training_step(contender: Contender, system: System, energies: bool) -> tuple[Callable[[], None], int]:
    """One step of training, on a batch that is prepared once, and the number of weights."""
    torch.manual_seed(0)
    frames = system.frames()
    prepared = contender.prepare(frames, system.cutoff)
    count = sum(weight.numel() for weight in prepared.network.parameters())
    return step_of(prepared, [len(atoms) for atoms in frames], energies), count


def step_of(prepared: Prepared, sizes: list[int], energies: bool) -> Callable[[], None]:
    """Energies with a readout, forces unless `energies` alone are trained, loss, gradients and Adam."""
    head = nn.Sequential(nn.Linear(prepared.dim, prepared.dim), nn.SiLU(), nn.Linear(prepared.dim, 1))
    weights = [*prepared.network.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-4)
    frame = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))  # (N,)
    target, pull = torch.randn(len(sizes)), torch.randn(sum(sizes), 3)
    positions = prepared.positions.requires_grad_(not energies)

    def step() -> None:
        optimizer.zero_grad()
        atomic = head(prepared.features()).squeeze(-1)  # (N,)
        energy = torch.zeros(len(sizes)).index_add(0, frame, atomic)
        loss = (energy - target).square().mean()
        if not energies:
            (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
            loss = loss + (slope + pull).square().mean()
        loss.backward(inputs=weights)
        optimizer.step()

    return step


def timed(step: Callable[[], None], number: int) -> float:
    """Seconds a step, the mean of `number`."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    for _ in range(number):
        step()
    return (clock() - start) / number


def turns(step: Callable[[], None], seconds: float) -> int:
    """Steps that take about that long, found after warming up."""
    timed(step, WARM_UP)
    return max(1, round(seconds / timed(step, 2)))


def measured_memory(backbone: str, name: str, system: str, options: argparse.Namespace) -> float:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--threads", str(options.threads)]
    command += ["--energies"] * options.energies + ["--peak-memory", backbone, name, system]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_memory(step: Callable[[], None]) -> float:
    """MiB that training takes at most beyond what is there before its first step."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from the present
    before = status("VmRSS")
    timed(step, WARM_UP + 1)
    return (status("VmHWM") - before) / 1024


def status(field: str) -> int:
    """A field of Linux's account of this process, KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def find(backbone: str, name: str) -> Contender:
    return next(contender for contender in CONTENDERS[backbone] if contender.name == name)


if __name__ == "__main__":
    main()
