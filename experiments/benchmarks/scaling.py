"""Time and memory of the commands over the number of structures: what grows faster than it shows by its ratio.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py
    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py 1000 10000 100000 --only read open pretrain

A pool of four copper atoms each, made by numpy, beside 100 frames with invented DFT energies. Each command runs in a
process of its own, after what it needs was made by those before it. Seconds are processor time, of this process and of
those that it starts, which other load on the machine does not run up; imports are not counted. MiB are the peak of the
resident memory less what there was after the imports, of the process alone, or of the largest one that it starts where
that is larger (`generate`). A ratio is the time of a structure over that at the smallest size: 1 where time is
proportional to the number, below where something of fixed length is in it, above where something grows faster.

read      structures of an extended XYZ file that no process has read before
open      the same again: from the cache
split     drawn, written, read, checked against the ids
inspect   repeated structures and wild energies among all
label     energy, forces and stress of a calculator that does no work, one worker
again     the same command once more: nothing is left to do
pretrain  one gradient step of a small SchNet on energies and forces: all that comes before a training
predict   energies of the pool by that network's heads, written as a table
evaluate  energies, forces and stress of the pool by a small potential, written as extended XYZ
generate  rattled crystals, one worker
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from ase import Atoms
from ase.calculators.calculator import Calculator
from turns import as_they_come

DFT = 100
"""Frames with DFT energies."""
NETWORK = {"cutoff": 4.0, "features": 8, "filters": 8, "gaussians": 8, "interactions": 1}
HEAD = 'Lattice="{0} 0 0 0 {0} 0 0 0 {0}" Properties=species:S:1:pos:R:3 config_id={1}{2} pbc="T T T"\n'
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.one:
        seconds, mib = measured(COMMANDS[options.one], options.folder, options.sizes[0])
        print(f"measured {seconds} {mib}")
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        rows = as_they_come(rows_of(options.sizes, options.only, Path(folder)))
    print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=(",", "", ".2f", ".0f", ".0f", ".2f"), intfmt=","))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000], help="of the pool")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--one", choices=COMMANDS, help=argparse.SUPPRESS)  # a child of this script
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def rows_of(sizes: list[int], only: list[str], folder: Path) -> Iterable[dict]:
    """A row of each command and size, in the order of the commands."""
    first: dict[str, float] = {}
    for size in sizes:
        place = folder / str(size)
        make_files(place, size)
        for command in COMMANDS:
            if command not in {*only, *(earlier for name in only for earlier in NEEDS.get(name, ()))}:
                continue
            seconds, mib = in_own_process(command, size, place)
            each = seconds / size * 1e6
            ratio = each / first.setdefault(command, each)
            if command in only:
                row = {"structures": size, "command": command, "seconds": seconds, "microseconds each": each}
                yield row | {"MiB": mib, "ratio": ratio}


def make_files(folder: Path, size: int) -> None:
    """The pool, the DFT frames and an experiment's split."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, number in (("pool", size), ("dft", DFT)):
        with (folder / f"{name}.extxyz").open("w") as stream:
            for k in range(number):
                cell = rng.uniform(3.6, 4.1)
                positions = FCC * cell + rng.normal(0, 0.1, (4, 3))
                energy = f"energy={rng.normal(-14, 1):.6f} " if name == "dft" else ""
                stream.write(f"4\n{energy}{HEAD.format(f'{cell:.8f}', name, k)}")
                stream.writelines(f"Cu {x:.8f} {y:.8f} {z:.8f}\n" for x, y, z in positions)


def in_own_process(command: str, size: int, folder: Path) -> tuple[float, float]:
    """`measured` in a process of its own."""
    arguments = [sys.executable, "-W", "ignore", __file__, str(size), "--one", command, "--folder", str(folder)]
    environment = os.environ | {"EIPNN_CACHE": str(folder / "cache"), "WANDB_MODE": "disabled"}
    found = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    if found.returncode != 0:
        raise SystemExit(f"{command} of {size} structures failed:\n{found.stderr}")
    line = next(line for line in found.stdout.splitlines() if line.startswith("measured"))
    seconds, mib = map(float, line.split()[1:])
    return seconds, mib


def measured(prepare: Callable[[Path, int], Callable[[], object]], folder: Path, size: int) -> tuple[float, float]:
    """Seconds of processor time and MiB of what `prepare` returns; what it does itself does not count."""
    run = prepare(folder, size)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, processor_time()
    run()
    seconds = processor_time() - start
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def processor_time() -> float:
    """Seconds of this process and of those that it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


class Quick(Calculator):
    """A potential whose labels cost nothing: harmonic around the origin, -3.5 eV an atom."""

    implemented_properties = ("energy", "forces", "stress")

    def calculate(self, atoms: Atoms, *_: object) -> None:
        x = atoms.positions
        self.results = {"energy": -3.5 * len(x) + 0.005 * (x**2).sum(), "forces": -0.01 * x, "stress": np.zeros(6)}


def read(folder: Path, size: int) -> Callable[[], object]:
    import torch  # noqa: F401  # the cache imports it

    from eipnn.structures import open_structures

    return lambda: open_structures(str(folder / "pool.extxyz"), labels=False, beside=str(folder / "dft.extxyz"))


def split(folder: Path, size: int) -> Callable[[], object]:
    from eipnn.structures import open_dft_and_pool, random_split, read_split, write_split

    dft, pool = open_dft_and_pool(str(folder / "dft.extxyz"), str(folder / "pool.extxyz"))

    def run() -> None:
        write_split(random_split(dft.ids, pool.ids, 0), folder / "split.csv")
        read_split(folder / "split.csv").check(dft.ids, pool.ids, "split.csv")

    return run


def inspect(folder: Path, size: int) -> Callable[[], object]:
    from eipnn.structures import open_structures
    from eipnn.structures.suspects import outlier_note, repeated_structures

    store = open_structures(str(folder / "pool.extxyz"), labels=False, beside=str(folder / "dft.extxyz"))
    return lambda: (repeated_structures(store), outlier_note(store))


def label(folder: Path, size: int) -> Callable[[], object]:
    from eipnn.eips import EIP
    from eipnn.labels import label_structures
    from eipnn.structures import StructureStore, open_dft_and_pool

    parts = open_dft_and_pool(str(folder / "dft.extxyz"), str(folder / "pool.extxyz"))
    eip = EIP("quick", "ase", "scaling.Quick")
    return lambda: label_structures(StructureStore.joined(parts), [eip], folder / "labels")


def stage(folder: Path) -> tuple:
    """Module, data module and trainer of a pretraining."""
    from lightning.pytorch import Trainer

    from eipnn import PretrainDataModule, PretrainModule
    from eipnn.predictions import PredictionWriter
    from eipnn.representations import SchNet

    module = PretrainModule(SchNet(**NETWORK), ["quick"])
    files = {name: str(folder / f"{name}.extxyz") for name in ("dft", "pool")}
    places = {"split": str(folder / "split.csv"), "labels": str(folder / "labels")}
    data = PretrainDataModule(**files, **places, energy_zero="none", handover=module.handover)
    one = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 0}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**one, default_root_dir=folder, **quiet, callbacks=[PredictionWriter()])
    return module, data, trainer


def pretrain(folder: Path, size: int) -> Callable[[], object]:
    module, data, trainer = stage(folder)

    def run() -> None:
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(folder / "pretrained.ckpt")

    return run


def predict(folder: Path, size: int) -> Callable[[], object]:
    module, data, trainer = stage(folder)
    checkpoint = str(folder / "pretrained.ckpt")
    return lambda: trainer.predict(module, data, return_predictions=False, ckpt_path=checkpoint, weights_only=False)


def evaluate(folder: Path, size: int) -> Callable[[], object]:
    from eipnn.evaluate.command import evaluate as command
    from eipnn.potential import Potential
    from eipnn.potential.heads import EnergyHead
    from eipnn.representations import SchNet

    representation = SchNet(**NETWORK)
    zeros = {"dft": {"mode": "none", "energies": {"Cu": 0.0}}}
    file = folder / "potential.pt"
    Potential(representation, EnergyHead(representation.dim), ["Cu"], zeros).save(file)
    return lambda: command(file, [str(folder / "pool.extxyz")], output=folder / "evaluation")


def generate(folder: Path, size: int) -> Callable[[], object]:
    from eipnn.generate.command import generate as command

    return lambda: command(output=folder / "generated.extxyz", elements=["Cu"], rattle=size, max_atoms=4)


COMMANDS = {
    "read": read,
    "open": read,
    "split": split,
    "inspect": inspect,
    "label": label,
    "again": label,
    "pretrain": pretrain,
    "predict": predict,
    "evaluate": evaluate,
    "generate": generate,
}
NEEDS = {
    "open": ["read"],
    "split": ["read"],
    "inspect": ["read"],
    "label": ["read"],
    "again": ["read", "label"],
    "pretrain": ["read", "split", "label"],
    "predict": ["read", "split", "label", "pretrain"],
}
"""What must have run before in the same folder."""


if __name__ == "__main__":
    main()
