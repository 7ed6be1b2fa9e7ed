"""Time and memory of the commands over the number of structures: what grows faster than it shows by its ratio.

    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py
    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py 1000 10000 100000 --only read open pretrain
    OMP_NUM_THREADS=1 python experiments/benchmarks/scaling.py 10000 1000000 --only read split label epoch predict \
        --eips experiments/benchmarks/copper.yaml --folder FOLDER

A pool of copper, four atoms each or `--atoms`, made by numpy, beside 100 frames with invented DFT energies. Each
command runs in a process of its own, after what it needs was made by those before it. Seconds are processor time, of
this process and of those that it starts, which other load on the machine does not run up; imports are not counted.
"grown MiB" is the peak of the resident memory less what there was after the imports, "peak MiB" all of it (pages of
mapped files with it), "workers" that of the largest process that it starts. A ratio is the time of a structure over
that at the smallest size: 1 where time is proportional to the number, below where something of fixed length is in it,
above where something grows faster. "first step s" are seconds on the clock from the start of a training to its first
gradient step, "held bytes" what Python's objects and arrays hold there for each structure.

With `--folder` all that was made and measured stays there, and what is there is not done again: a run that was cut goes
on with the same line. A command that goes on within (`read`, `label`) then shows the time of the rest: `again` is true.

read      structures of an extended XYZ file that no process has read before
open      the same again: from the cache
split     drawn, written, read, checked against the ids
inspect   repeated structures and wild energies among all
label     energy, forces and stress of calculators that do no work, or of `--eips`, one worker
again     the same command once more: nothing is left to do
pretrain  one gradient step of a small SchNet on energies, forces and stress of all EIPs: what comes before a training
held      the same under `tracemalloc`, which is slow: for "held bytes"
epoch     one pass of that training over the pool
predict   energies of the pool by that network's heads, written as a table
evaluate  energies, forces and stress of the pool by a small potential, written as extended XYZ
generate  rattled crystals, one worker
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.calculators.calculator import Calculator
from turns import as_they_come

DFT = 100
"""Frames with DFT energies."""
NETWORK = {"cutoff": 4.0, "features": 8, "filters": 8, "gaussians": 8, "interactions": 1}
HEAD = 'Lattice="{0} 0 0 0 {1} 0 0 0 {2}" Properties=species:S:1:pos:R:3 config_id={3}{4} pbc="T T T"\n'
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
CELLS = {4: (1, 1, 1), 64: (4, 2, 2)}
"""Cubic cells of copper along each axis, by atoms."""
NO_WORK = [{"name": name, "ase": "scaling.Quick"} for name in ("quick", "twin")]
MEASURED = "measured.jsonl"
FLOATS = {"seconds": ",.2f", "wall s": ",.2f", "microseconds each": ",.0f", "ratio": ".2f", "first step s": ".1f"}


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.one:
        print(json.dumps(measured(options.one, options)))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder:
        rows = as_they_come(rows_of(options, options.folder or Path(folder)))
    table = pd.DataFrame(rows)
    formats = [FLOATS.get(column, ",.0f") for column in table]
    print(table.to_markdown(index=False, floatfmt=formats, intfmt=",", missingval=""))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", type=int, default=[1000, 10_000], help="of the pool")
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=[name for name in COMMANDS if name != "epoch"])
    parser.add_argument("--atoms", type=int, choices=CELLS, default=4, help="of a structure")
    parser.add_argument("--eips", help="a set that labels, or its YAML file")
    parser.add_argument("--folder", type=lambda text: Path(text).absolute(), help="for all that is made; kept")
    parser.add_argument("--one", choices=COMMANDS, help=argparse.SUPPRESS)  # a child of this script
    return parser.parse_args()


def rows_of(options: argparse.Namespace, folder: Path) -> Iterable[dict]:
    """A row of each command and size, in the order of the commands."""
    first: dict[str, float] = {}
    for size in options.sizes:
        place = folder / "-".join([f"{size}x{options.atoms}", *([Path(options.eips).stem] if options.eips else [])])
        make_files(place, size, options.atoms)
        known = [json.loads(line) for line in (place / MEASURED).read_text().splitlines()]
        for command in COMMANDS:
            if command not in {*options.only, *(name for asked in options.only for name in NEEDS.get(asked, ()))}:
                continue
            found = next((row for row in known if row["command"] == command), None) or in_own_process(
                command, size, place, options
            )
            each = found["seconds"] / size * 1e6
            ratio = each / first.setdefault(command, each)
            if command in options.only:
                yield {"structures": size, **found, "microseconds each": each, "ratio": ratio}


def make_files(folder: Path, size: int, atoms: int) -> None:
    """The pool, the DFT frames and, when these are whole, a file for what is measured."""
    if (folder / MEASURED).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    cells = np.array(CELLS[atoms])
    sites = (np.indices(cells).reshape(3, -1).T[:, None] + FCC).reshape(-1, 3)
    for name, number in (("pool", size), ("dft", DFT)):
        with (folder / f"{name}.extxyz").open("w") as stream:
            for k in range(number):
                edge = rng.uniform(3.6, 4.1)
                positions = sites * edge + rng.normal(0, 0.1, sites.shape)
                energy = f"energy={rng.normal(-3.5 * atoms, 1):.6f} " if name == "dft" else ""
                lengths = (f"{length:.8f}" for length in edge * cells)
                stream.write(f"{atoms}\n{energy}{HEAD.format(*lengths, name, k)}")
                stream.writelines(f"Cu {x:.8f} {y:.8f} {z:.8f}\n" for x, y, z in positions)
    (folder / MEASURED).touch()


def in_own_process(command: str, size: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """`measured` in a process of its own, and kept."""
    given = ["--one", command, "--folder", str(folder), *(["--eips", options.eips] if options.eips else [])]
    environment = os.environ | {"EIPNN_CACHE": str(folder / "cache"), "WANDB_MODE": "disabled"}
    begun = folder / f"{command}.begun"
    again = begun.exists()
    begun.touch()
    child = [sys.executable, "-W", "ignore", __file__, str(size), *given]
    found = subprocess.run(child, capture_output=True, text=True, env=environment, check=False)
    if found.returncode != 0:
        raise SystemExit(f"{command} of {size} structures failed:\n{found.stderr}")
    row = json.loads(found.stdout.splitlines()[-1]) | {"again": again}
    with (folder / MEASURED).open("a") as stream:
        stream.write(f"{json.dumps(row)}\n")
    return row


def measured(command: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the table says of a command; what is prepared for it does not count."""
    run = COMMANDS[command](options)
    before, start, clock = peak(resource.RUSAGE_SELF), processor_time(), time.perf_counter()
    more = run()
    found = {"command": command, "seconds": processor_time() - start, "wall s": time.perf_counter() - clock}
    own = peak(resource.RUSAGE_SELF)
    found |= {"grown MiB": own - before, "peak MiB": own, "workers MiB": peak(resource.RUSAGE_CHILDREN)}
    return found | (more if isinstance(more, dict) else {})


def peak(whose: int) -> float:
    """MiB of resident memory, of this process or of the largest that it has waited for."""
    return resource.getrusage(whose).ru_maxrss / 1024


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


def read(options: argparse.Namespace) -> Callable[[], object]:
    import torch  # noqa: F401  # the cache imports it

    from eipnn.structures import open_structures

    folder = options.folder
    return lambda: open_structures(str(folder / "pool.extxyz"), labels=False, beside=str(folder / "dft.extxyz"))


def split(options: argparse.Namespace) -> Callable[[], object]:
    from eipnn.structures import open_dft_and_pool, random_split, read_split, write_split

    folder = options.folder
    dft, pool = open_dft_and_pool(str(folder / "dft.extxyz"), str(folder / "pool.extxyz"))

    def run() -> None:
        write_split(random_split(dft.ids, pool.ids, 0), folder / "split.csv")
        read_split(folder / "split.csv").check(dft.ids, pool.ids, "split.csv")

    return run


def inspect(options: argparse.Namespace) -> Callable[[], object]:
    from eipnn.structures import open_structures
    from eipnn.structures.suspects import outlier_note, repeated_structures

    folder = options.folder
    store = open_structures(str(folder / "pool.extxyz"), labels=False, beside=str(folder / "dft.extxyz"))
    return lambda: (repeated_structures(store), outlier_note(store))


def label(options: argparse.Namespace) -> Callable[[], object]:
    from eipnn.eips import load_eips
    from eipnn.labels import label_structures
    from eipnn.structures import StructureStore, open_dft_and_pool

    folder, eips = options.folder, load_eips(options.eips or NO_WORK)

    def run() -> None:
        parts = open_dft_and_pool(str(folder / "dft.extxyz"), str(folder / "pool.extxyz"))
        label_structures(StructureStore.joined(parts), eips, folder / "labels")

    return run


def stage(options: argparse.Namespace, **limits: int) -> tuple:
    """Module, data module and trainer of a pretraining, and what it has found by its end: of its first step."""
    from lightning.pytorch import Callback, Trainer

    from eipnn import PretrainDataModule, PretrainModule
    from eipnn.eips import load_eips
    from eipnn.predictions import PredictionWriter
    from eipnn.representations import SchNet

    found: dict[str, float] = {}

    class FirstStep(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            if not found:
                found["first step s"] = time.perf_counter()
                if tracemalloc.is_tracing():
                    found["held bytes"] = tracemalloc.get_traced_memory()[0] / options.sizes[0]

    folder = options.folder
    module = PretrainModule(SchNet(**NETWORK), [eip.name for eip in load_eips(options.eips or NO_WORK)])
    files = {name: str(folder / f"{name}.extxyz") for name in ("dft", "pool")}
    places = {"split": str(folder / "split.csv"), "labels": str(folder / "labels")}
    zeros = {"energy_zero": "none", "eip_energy_zero": "none"}
    data = PretrainDataModule(**files, **places, **zeros, handover=module.handover)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    limits = {"max_epochs": 1, "limit_val_batches": 0} | limits
    trainer = Trainer(**limits, default_root_dir=folder, **quiet, callbacks=[FirstStep(), PredictionWriter()])
    return module, data, trainer, found


def epoch(options: argparse.Namespace, **limits: int) -> Callable[[], object]:
    module, data, trainer, found = stage(options, **limits)

    def run() -> dict[str, float]:
        start = time.perf_counter()
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(options.folder / "pretrained.ckpt")
        return found | {"first step s": found["first step s"] - start}

    return run


def pretrain(options: argparse.Namespace) -> Callable[[], object]:
    return epoch(options, limit_train_batches=1)


def held(options: argparse.Namespace) -> Callable[[], object]:
    run = pretrain(options)
    tracemalloc.start()
    return run


def predict(options: argparse.Namespace) -> Callable[[], object]:
    module, data, trainer, _ = stage(options)
    checkpoint = str(options.folder / "pretrained.ckpt")
    return lambda: trainer.predict(module, data, return_predictions=False, ckpt_path=checkpoint, weights_only=False)


def evaluate(options: argparse.Namespace) -> Callable[[], object]:
    from eipnn.evaluate.command import evaluate as command
    from eipnn.potential import Potential
    from eipnn.potential.heads import EnergyHead
    from eipnn.representations import SchNet

    folder, representation = options.folder, SchNet(**NETWORK)
    zeros = {"dft": {"mode": "none", "energies": {"Cu": 0.0}}}
    file = folder / "potential.pt"
    Potential(representation, EnergyHead(representation.dim), ["Cu"], zeros).save(file)
    return lambda: command(file, [str(folder / "pool.extxyz")], output=folder / "evaluation")


def generate(options: argparse.Namespace) -> Callable[[], object]:
    from eipnn.generate.command import generate as command

    return lambda: command(
        output=options.folder / "generated.extxyz", elements=["Cu"], rattle=options.sizes[0], max_atoms=4
    )


COMMANDS = {
    "read": read,
    "open": read,
    "split": split,
    "inspect": inspect,
    "label": label,
    "again": label,
    "pretrain": pretrain,
    "held": held,
    "epoch": epoch,
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
    "held": ["read", "split", "label"],
    "epoch": ["read", "split", "label"],
    "predict": ["read", "split", "label", "pretrain"],
}
"""What must have run before in the same folder."""


if __name__ == "__main__":
    main()
