"""An epoch of GemNet on 108-atom aluminium cells, with edges up to 7 A and a batch of 32 in micro-batches.

    OMP_NUM_THREADS=1 python experiments/aluminium/gemnet_108.py -o runs/gemnet_108 [--frames 96] [--energies]

The frames are fcc cells (3 x 3 x 3 cubic cells, lattice constants from 3.9 to 4.2 A) with atoms displaced by 0.05 to
0.2 A. There is no DFT here: ASE's effective-medium potential (EMT) is the teacher, in the place of the labels of
energies, forces and stress. Two thirds of the frames are for training. The network is experiments/base/gemnet.yaml with
a cutoff of 7 A, trained by `eipnn fit` and tested by `eipnn test`; the result, its time and the largest memory of the
processes go to ``gemnet_108.csv``.
"""

import argparse
import csv
import json
import resource
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from eipnn.structures import Split, write_split

BATCH = 32
BASE = Path(__file__).parents[1] / "base" / "gemnet.yaml"


def main() -> None:
    """Make the frames, train, test, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", type=Path, dest="output", required=True, help="folder")
    parser.add_argument("--energies", action="store_true", help="train on energies alone")
    parser.add_argument("--frames", type=int, default=96, help="number of frames (default: 96)")
    parser.add_argument("--micro-batch", type=int, default=2, help="frames at once (default: 2)")
    parser.add_argument("--triplet-cutoff", type=float, default=4.0, help="A (default: 4.0)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    make_data(options.output, options.frames)
    arguments = stage_arguments(options)
    training = [
        f"--trainer.max_epochs={options.epochs}",
        f"--trainer.accumulate_grad_batches={BATCH // options.micro_batch}",
        *["--data.energies_only=true"] * options.energies,
    ]
    eipnn("fit", *arguments, *training)
    fit = json.loads((options.output / "fit.json").read_text())
    eipnn("test", *arguments, f"--ckpt_path={options.output / 'checkpoints' / 'best.ckpt'}")
    test = json.loads((options.output / "test.json").read_text())
    write_table(options, fit, test)


def make_data(folder: Path, number: int) -> None:
    """``frames.extxyz`` with the teacher's labels, and ``split.csv``."""
    rng = np.random.default_rng(0)
    frames = [labelled(rng) for _ in range(number)]
    ids = tuple(f"al_{k:06d}" for k in range(number))
    for name, atoms in zip(ids, frames, strict=True):
        atoms.info["config_id"] = name
    ase.io.write(folder / "frames.extxyz", frames, format="extxyz")
    train, val = number * 2 // 3, number // 6
    split = Split(ids[:train], ids[train : train + val], ids[train + val :], ())
    write_split(split, folder / "split.csv")


def labelled(rng: np.random.Generator) -> Atoms:
    """108 atoms of aluminium with what the teacher, EMT, gives them."""
    atoms = bulk("Al", cubic=True, a=rng.uniform(3.9, 4.2)) * (3, 3, 3)
    atoms.positions += rng.normal(0, rng.uniform(0.05, 0.2), atoms.positions.shape)
    atoms.positions = atoms.positions.round(8)  # as many digits as extended XYZ keeps
    copy = atoms.copy()
    copy.calc = EMT()
    energy, forces, stress = copy.get_potential_energy(), copy.get_forces(), copy.get_stress()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    return atoms


def stage_arguments(options: argparse.Namespace) -> list[str]:
    """Model and data of both commands."""
    model = f"--model.representation={BASE}"
    return [
        "--model=eipnn.FinetuneModule",
        model,
        "--model.representation.init_args.cutoff=7.0",
        f"--model.representation.init_args.triplet_cutoff={options.triplet_cutoff}",
        "--data=eipnn.FinetuneDataModule",
        f"--data.dft={options.output / 'frames.extxyz'}",
        f"--data.split={options.output / 'split.csv'}",
        "--data.energy_zero=least_squares",
        f"--data.batch_size={options.micro_batch}",
        f"--data.eval_batch_size={2 * options.micro_batch}",
        f"--trainer.accelerator={options.accelerator}",
        f"--trainer.default_root_dir={options.output}",
    ]


def eipnn(*arguments: str) -> None:
    """Run ``eipnn ARGUMENTS`` in a process of its own."""
    subprocess.run([sys.executable, "-m", "eipnn", *arguments], check=True)


def write_table(options: argparse.Namespace, fit: dict, test: dict) -> None:
    """``gemnet_108.csv``: one row."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    row = {
        "frames": options.frames,
        "atoms": 108,
        "cutoff": 7.0,
        "triplet_cutoff": options.triplet_cutoff,
        "micro_batch": options.micro_batch,
        "accumulated_batch": BATCH,
        "forces": not options.energies,
        "epochs": fit["epochs"],
        "gradient_steps": fit["gradient_steps"],
        "seconds": fit["seconds"],
        "peak_gib": round(peak, 2),
        "val_error": fit["best_score"],
        "test_config_mae": test["test_config_mae"],
        "test_atom_mae": test["test_atom_mae"],
        "test_force_mae": test["test_force_mae"],
        "test_stress_mae": test["test_stress_mae"],
    }
    with (options.output / "gemnet_108.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    print(*(f"{key} {value}" for key, value in row.items()), sep="; ")


if __name__ == "__main__":
    main()
