"""Time of a step of molecular dynamics with eipnn's ASE calculator, against those of public libraries.

    python experiments/benchmarks/md_speed.py
    python experiments/benchmarks/md_speed.py --networks SchNet --atoms 64 --rounds 15

Velocity Verlet of ASE, steps of 1 fs, silicon rattled by 0.1 A at 300 K, cutoff 5 A, float32, one thread. Weights are
random: the crystal moves under each network's own forces, and the table has how far the farthest atom came. A step is
all that ASE does for it, the neighbour list among it. The calculators take turns in every round, a ratio is taken
within a round, and the table shows medians; the clock is the process's own processor time, which other processes do not
run up. Denormal numbers are flushed to zero for all, as in `training_speed.py`.

The peers are no dependencies of eipnn; one that is not installed is named and left out; `training_speed.py` says how to
have them.
"""

import argparse
import os
from collections.abc import Iterable
from functools import partial
from itertools import product
from statistics import median

import numpy as np
import pandas as pd
import torch
from contenders.calculators import CALCULATORS
from turns import CELLS, as_they_come, dynamics, faster_by, silicon, take_turns, timed

from eipnn.errors import InputError

WARM_UP = 3
"""Steps before the clock starts."""


def main() -> None:
    """Print the table."""
    options = arguments()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    print(
        f"torch {torch.__version__}, {options.rounds} rounds of {options.seconds} s a calculator, "
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    cases = product(options.networks, options.atoms)
    rows = as_they_come(row for network, atoms in cases for row in compare(network, atoms, options))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=CALCULATORS, default=list(CALCULATORS))
    parser.add_argument("--atoms", nargs="+", type=int, choices=CELLS, default=[64, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one turn, about")
    return parser.parse_args()


def compare(network: str, number: int, options: argparse.Namespace) -> Iterable[dict]:
    """The rows of one network; ours is the first."""
    runs, steps = {}, {}
    for name, calculator in CALCULATORS[network].items():
        torch.manual_seed(0)
        try:
            runs[name] = dynamics(number)
            runs[name].atoms.calc = calculator()
        except (ImportError, InputError) as error:
            del runs[name]
            print(f"{network}: {name} is left out: {error}")
            continue
        timed(runs[name].run, WARM_UP)
        steps[name] = max(1, round(options.seconds / timed(runs[name].run, WARM_UP)))
    if not runs:  # the extra of this network is not installed
        return
    seconds = take_turns({name: partial(timed, run.run, steps[name]) for name, run in runs.items()}, options.rounds)
    own, start = next(iter(runs)), silicon(number)
    for name, times in seconds.items():
        yield {
            "network": network,
            "atoms": number,
            "calculator": name,
            "ms/step": 1000 * median(times),
            **faster_by(seconds[own], times),
            "steps": runs[name].nsteps,
            "moved by A": np.linalg.norm(runs[name].atoms.positions - start.positions, axis=1).max(),
        }


if __name__ == "__main__":
    main()
