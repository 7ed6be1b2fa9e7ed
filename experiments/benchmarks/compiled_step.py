"""A training step with forces, compiled (`compiled: true`) against plain.

    OMP_NUM_THREADS=1 python experiments/benchmarks/compiled_step.py

SchNet at the paper's sizes and MACE at those of experiments/si_mini/mace.yaml, rattled silicon, float32, one thread. A
step is energies and forces, squared errors and gradients of the weights. Both take turns on the processor's time; a
ratio is taken within a round. Compiling takes minutes where torch has not kept it.
"""

import argparse
import os
import time
from collections.abc import Callable

import pandas as pd
import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch_geometric.data import Batch
from turns import as_they_come, faster_by, silicon, take_turns, timed

from eipnn.inputs import AtomicGraph, graph_of
from eipnn.potential.compiled import compiled
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import differentiable, slopes
from eipnn.representations import MACE, Representation, SchNet

SYSTEMS = {"8 x Si4": (4, 8), "32 x Si4": (4, 32), "8 x Si64": (64, 8)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="of a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    mace = MACE(["Si"], channels=32, max_ell=3, correlation=3)
    networks: dict[str, Representation] = {"SchNet": SchNet(), "MACE": mace}
    print(f"torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    rows = as_they_come(row for name, network in networks.items() for row in compare(name, network, options))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def compare(name: str, network: Representation, options: argparse.Namespace) -> list[dict]:
    """The rows of one network."""
    head = EnergyHead(network.dim)
    begun = time.process_time()
    quick = compiled(network, head, None, ["Si"])
    seconds = time.process_time() - begun
    weights = [*network.parameters(), *head.parameters()]
    rows = []
    for system in options.systems:
        graph = graph_of(Batch.from_data_list([network.inputs(atoms) for atoms in frames(*SYSTEMS[system])]))
        steps = {
            "compiled": steps_of(quick, graph, weights),
            "plain": steps_of(lambda g, f: slopes(g, f, network, head, None), graph, weights),
        }
        for run in steps.values():
            run(2)
        turns = {which: lambda run=run: timed(run, options.steps) for which, run in steps.items()}
        found = take_turns(turns, options.rounds)
        milliseconds = {f"{which}, ms": 1000 * sorted(t)[len(t) // 2] for which, t in found.items()}
        ratio = faster_by(found["compiled"], found["plain"], "compiled is faster by")
        rows.append({"network": name, "system": system, **milliseconds, **ratio, "compiling, s": seconds})
    return rows


def steps_of(step: Callable, graph: AtomicGraph, weights: list[Tensor]) -> Callable[[int], None]:
    """What takes so many steps."""
    factors = torch.ones(graph.size, 1, dtype=torch.float64)

    def run(number: int) -> None:
        for _ in range(number):
            energies, slope = step(differentiable(graph), factors)
            loss = energies.square().mean() + slope.square().mean()
            torch.autograd.grad(loss, weights, allow_unused=True)

    return run


def frames(atoms: int, number: int) -> list[Atoms]:
    """Rattled crystals of so many atoms."""
    crystal = bulk("Si", "diamond", 5.43).repeat((2, 1, 1)) if atoms == 4 else silicon(atoms)
    found = [crystal.copy() for _ in range(number)]
    for seed, one in enumerate(found):
        one.rattle(0.1, seed=seed)
    return found


if __name__ == "__main__":
    main()
