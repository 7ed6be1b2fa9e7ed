"""SchNet with filters from tables (``EIPNNCalculator(..., tabulate=True)``): its error, and its speed in dynamics.

    python experiments/benchmarks/tabulated_filters.py --checkpoint runs/demo/split-1/seed-0/mp/checkpoints/best.ckpt

Without a checkpoint the weights are random and the sizes the default ones: the speed is that of a trained
network, the errors are not.

Errors are the largest over the DFT frames of si_mini, against the exact filters in float64: energy an atom, forces,
virial an atom. Speed is that of molecular dynamics of silicon, a velocity Verlet step with its neighbour list, on one
thread. The exact and the tabulated calculator take turns in every round; steps are counted by the
process's own processor time, which other processes do not run up, and a ratio is taken within a round.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pandas as pd
import torch
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from torch import Tensor
from torch_geometric.data import Batch
from turns import CELLS, faster_by, silicon, take_turns, timed

from eipnn import EIPNNCalculator, FinetuneModule, Potential
from eipnn.inputs import graph_of
from eipnn.potential.potential import volumes
from eipnn.representations import SchNet
from eipnn.structures import read_structures

POINTS = (250, 500, 1000, 2000, 4000)


def main() -> None:
    """Print both tables."""
    options = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = options.checkpoint or untrained(Path(folder) / "random.ckpt")
        print(f"weights: {options.checkpoint or 'random'}; torch {torch.__version__}, one thread")
        print(pd.DataFrame(errors(checkpoint)).to_markdown(index=False, floatfmt=".1e"))
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        rows = [speed(checkpoint, atoms, options) for atoms in options.atoms]
        print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="of a fine-tuned SchNet for silicon")
    parser.add_argument("--atoms", type=int, nargs="+", choices=CELLS, default=[64, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of dynamics in a round")
    return parser.parse_args()


def untrained(file: Path) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    module = FinetuneModule(SchNet())
    module.elements = ["Si"]
    module.zeros = {"dft": {"mode": "isolated_atoms", "energies": {"Si": 0.0}}}
    torch.save({"state_dict": module.state_dict(), "eipnn": module.record()}, file)
    return file


def errors(checkpoint: str | Path) -> list[dict]:
    """One row a table and precision."""
    frames = read_structures("bundled:si_mini/dft.extxyz")
    double = EIPNNCalculator(checkpoint, dtype="float64").potential
    single = EIPNNCalculator(checkpoint, dtype="float32").potential
    exact = properties(double, frames, torch.float64)
    rows = [row("none", "float32", properties(single, frames, torch.float32), exact)]
    for potential, dtype in ((double, torch.float64), (single, torch.float32)):
        network = potential.representation
        for points in POINTS:
            potential.representation = network.tabulate(points)
            found = properties(potential, frames, dtype)
            rows.append(row(str(points), str(dtype).removeprefix("torch."), found, exact))
    return rows


def properties(potential: Potential, frames: list[Atoms], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Energies an atom (B,), forces (N, 3) and virials an atom (B, 3, 3), in float64."""
    batch = Batch.from_data_list([potential.representation.inputs(a, dtype) for a in frames])
    found = potential.predict(graph_of(batch), ("forces", "stress"), cohesive=True)
    assert found.forces is not None
    assert found.stress is not None
    size = volumes(batch.cell.double()) / batch.n_atoms
    virial = found.stress.double() * size.view(-1, 1, 1)
    # of open boundaries there is none
    return found.energy / batch.n_atoms, found.forces.double(), virial.nan_to_num()


def row(points: str, dtype: str, found: tuple[Tensor, ...], exact: tuple[Tensor, ...]) -> dict:
    energy, forces, virial = ((a - b).abs().max().item() for a, b in zip(found, exact, strict=True))
    return {
        "points": points,
        "precision": dtype,
        "energy eV/atom": energy,
        "forces eV/A": forces,
        "virial eV/atom": virial,
    }


def speed(checkpoint: str | Path, atoms: int, options: argparse.Namespace) -> dict:
    """Steps a second with exact and tabulated filters."""
    runs = {name: dynamics(checkpoint, atoms, name == "tabulated") for name in ("exact", "tabulated")}
    seconds = take_turns({name: partial(timed, run, options.steps) for name, run in runs.items()}, options.rounds)
    return {
        "atoms": atoms,
        **{f"{name}, steps/s": 1 / median(times) for name, times in seconds.items()},
        **faster_by(seconds["tabulated"], seconds["exact"], "faster by"),
    }


def dynamics(checkpoint: str | Path, number: int, tabulate: bool) -> Callable[[int], None]:
    """A run of so many steps of 1 fs, goes on where it ended."""
    atoms = silicon(number)  # starts at rest
    atoms.calc = EIPNNCalculator(checkpoint, tabulate=tabulate)
    run = VelocityVerlet(atoms, timestep=1.0 * units.fs).run
    run(1)
    return run


if __name__ == "__main__":
    main()
