"""How many configurations a second two processes train on, over those of one.

    python experiments/benchmarks/ddp.py --rounds 3

`eipnn fit` of a SchNet on the energies, forces and stress of si_mini, each process with one thread and batches of its
own; start, reading and validation are not counted. One and two take turns, so that other load meets both, and a ratio
is taken within a round; but two need two cores: beside other work the ratio says nothing of a quiet machine.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import yaml
from turns import as_they_come, faster_by, take_turns

from eipnn.structures import open_structures, random_split, split_text

DFT = "bundled:si_mini/dft.extxyz"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100, help="of one turn")
    parser.add_argument("--batch-size", type=int, default=16, help="of a process")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {options.rounds} rounds")
    with TemporaryDirectory() as folder:
        rows = as_they_come(rows_of(options, Path(folder)))
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3g"))


def rows_of(options: argparse.Namespace, folder: Path) -> Iterable[dict]:
    """A row of one process, and one of two."""
    split = random_split(list(open_structures(DFT).ids), [], 1)
    (folder / "split.csv").write_text(split_text(split))
    configs = {devices: config_of(devices, options, folder) for devices in (1, 2)}
    turns = {devices: partial(seconds, config, devices, options.batch_size) for devices, config in configs.items()}
    measured = take_turns(turns, options.rounds)
    for devices, times in measured.items():
        ratio = faster_by(times, measured[1], "faster by")
        yield {"processes": devices, "ms a configuration": 1e3 * min(times)} | ratio


def config_of(devices: int, options: argparse.Namespace, folder: Path) -> dict:
    """Of `eipnn fit`."""
    trainer = {"devices": devices, "strategy": "ddp" if devices > 1 else "auto", "accelerator": "cpu"}
    nothing = dict.fromkeys(("enable_checkpointing", "logger", "enable_progress_bar"), False)
    data = {"dft": DFT, "split": str(folder / "split.csv"), "energy_zero": "least_squares"}
    return {
        "trainer": trainer
        | nothing
        | {"max_steps": options.steps, "max_epochs": -1, "limit_val_batches": 0, "default_root_dir": str(folder)},
        "model": {
            "class_path": "eipnn.FinetuneModule",
            "init_args": {"representation": {"class_path": "eipnn.representations.SchNet"}, "scheduler": None},
        },
        "data": {"class_path": "eipnn.FinetuneDataModule", "init_args": data | {"batch_size": options.batch_size}},
    }


def seconds(config: dict, devices: int, batch_size: int) -> float:
    """Seconds that a training takes a configuration."""
    folder = Path(config["trainer"]["default_root_dir"])
    (folder / "given.yaml").write_text(yaml.safe_dump(config))
    fit(folder / "given.yaml")
    done = json.loads((folder / "fit.json").read_text())
    return done["seconds"] / (done["gradient_steps"] * devices * batch_size)


def fit(file: Path) -> None:
    """`eipnn fit` in processes of its own."""
    command = [sys.executable, "-m", "eipnn", "fit", "--config", str(file)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
