"""Time of a step of molecular dynamics: potentials of eipnn against SevenNet-0, which needs an environment of its own.

    python experiments/benchmarks/sevennet_speed.py mace=potential.pt schnet=other.pt --sevennet sevennet/bin/python

experiments/teachers/README.md says how to make that environment. Velocity Verlet of ASE, steps of 1 fs, silicon
rattled by 0.1 A at 300 K, float32, one thread, each calculator as it comes, in a process of its own. In every round
each makes its steps while the others wait; a ratio is taken within a round, and the table shows medians. The clock is
the processor time of the process that is at work. Denormal numbers are flushed to zero for all.
"""

import argparse
import os
import sys
from contextlib import redirect_stdout
from functools import partial
from statistics import median

from turns import CELLS, Server, answer, as_they_come, dynamics, faster_by, take_turns

WARM_UP = 3
"""Steps before the clock starts."""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("potentials", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--sevennet", required=True, help="Python of the environment of SevenNet")
    parser.add_argument("--atoms", nargs="+", type=int, choices=CELLS, default=[64, 512])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn, about; two steps at least")
    options = parser.parse_args()
    import pandas as pd  # not in `serve`, as all that is eipnn's

    rows = as_they_come(row for atoms in options.atoms for row in compare(atoms, options))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def compare(atoms: int, options: argparse.Namespace) -> list[dict]:
    """The rows of one number of atoms; SevenNet-0 is the last."""
    files = dict(word.split("=", 1) for word in options.potentials)
    given = [(name, sys.executable, file) for name, file in files.items()]
    servers = {
        name: Server(python, __file__, "--serve", potential, str(atoms))
        for name, python, potential in (*given, ("SevenNet-0", options.sevennet, "7net-0"))
    }
    runs = {}
    for name, server in servers.items():
        server.seconds(WARM_UP)
        runs[name] = partial(server.seconds, max(2, round(options.seconds / server.seconds(WARM_UP))))
    seconds = take_turns(runs, options.rounds)
    for server in servers.values():
        server.process.communicate()
    theirs = seconds["SevenNet-0"]
    return [
        {
            "atoms": atoms,
            "potential": name,
            "ms/step": 1000 * median(times),
            "us/atom": 1e6 * median(times) / atoms,
            **faster_by(times, theirs, "faster than SevenNet-0 by"),
            "load": os.getloadavg()[0],
        }
        for name, times in seconds.items()
    ]


def serve(potential: str, atoms: int) -> None:
    """Read numbers of steps, answer with seconds a step; all else that is printed goes to standard error."""
    import torch

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        run = dynamics(atoms)
        if potential == "7net-0":
            from sevenn.calculator import SevenNetCalculator

            run.atoms.calc = SevenNetCalculator(potential, device="cpu")
        else:
            from eipnn import EIPNNCalculator

            run.atoms.calc = EIPNNCalculator(potential)
        answer(run.run, answers)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
