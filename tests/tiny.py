"""A tiny labelled data set, and helpers that run commands on it in this process.

Copper-gold: 30 DFT frames (EMT stands in for DFT), 40 pool frames and three invented EIPs. ``cu.1`` is right for
copper-rich frames, ``au`` for gold-rich ones, ``far`` for none.
"""

import io
import json
import os
import sys
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from unittest.mock import patch

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from filelock import FileLock

from eipnn.eips import EIP
from eipnn.labels.layout import DONE, FAILED, create, describe, open_array, read_index

EIPS = ("cu.1", "au", "far")
N_TRAIN, N_VAL, N_TEST, N_POOL = 18, 5, 7, 40
N_DFT = N_TRAIN + N_VAL + N_TEST
FREE = {"Cu": -40.0, "Au": -60.0}
"""Energies of free atoms in the DFT file, eV."""
MISSING, OUTLIER = "pool_000003", "pool_000007"
"""The pool frame that ``au`` gave no label for, and the one that ``far`` puts at 300 eV/atom."""
SCHNET = "eipnn.representations.SchNet"
SMALL = {"cutoff": 3.5, "features": 8, "filters": 8, "gaussians": 8, "interactions": 1}
REPRESENTATION = {"class_path": SCHNET, "init_args": SMALL}


@dataclass(frozen=True)
class Tiny:
    """Where the files are, and what is in them by id."""

    folder: Path
    frames: dict[str, Atoms]
    cohesive: dict[str, float]  # eV, on the zero of free atoms
    eip: dict[str, np.ndarray]  # (3,) eV, on the same zero

    @property
    def data(self) -> dict:
        """Arguments of every data module, as in YAML."""
        return {
            "dft": str(self.folder / "dft.extxyz"),
            "pool": str(self.folder / "pool.extxyz"),
            "labels": str(self.folder / "labels"),
            "split": str(self.folder / "split.csv"),
            "energy_zero": {"mode": "isolated_atoms", "energies": dict(FREE)},
            "batch_size": 4,
            "eval_batch_size": 4,
        }

    @property
    def arguments(self) -> dict:
        """The same in Python."""
        from eipnn.stages.source import EnergyZero

        return self.data | {"energy_zero": EnergyZero("isolated_atoms", dict(FREE))}

    def ids(self, part: str) -> list[str]:
        """Ids of train, val, test or pool."""
        dft, pool = list(self.frames)[:N_DFT], list(self.frames)[N_DFT:]
        ends = {"train": (0, N_TRAIN), "val": (N_TRAIN, N_TRAIN + N_VAL)}
        start, end = ends.get(part, (N_TRAIN + N_VAL, N_DFT))
        return pool if part == "pool" else dft[start:end]

    def select(self, file: Path, chosen: dict[str, str]) -> Path:
        """A selection file: the EIP of each of these pool frames, none for the others."""
        rows = [f"{name},{chosen.get(name, 'none')},0.9\n" for name in self.ids("pool")]
        file.write_text("config_id,eip,probability\n" + "".join(rows))
        return file


def random_frame(rng: np.random.Generator) -> Atoms:
    """Four atoms of a copper-gold crystal, or now and then a trimer in free space."""
    atoms = bulk("Cu", "fcc", a=rng.uniform(3.6, 4.1), cubic=True)
    atoms.symbols[:] = rng.choice(["Cu", "Au"], 4, p=rng.permutation([0.2, 0.8]))
    if rng.random() < 0.1:
        del atoms[0]
        atoms.pbc = False
    atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
    atoms.positions = atoms.positions.round(8)  # as many digits as extended XYZ keeps
    return atoms


def cohesive_energy(atoms: Atoms) -> float:
    """EMT on the zero of free atoms, eV."""
    free = {s: EMT().get_potential_energy(Atoms(s)) for s in set(atoms.symbols)}
    return EMT().get_potential_energy(atoms) - sum(free[s] for s in atoms.symbols)


def mostly_gold(atoms: Atoms) -> bool:
    return np.mean(atoms.symbols == "Au") >= 0.5


def eip_energies(atoms: Atoms, cohesive: float, rng: np.random.Generator) -> np.ndarray:
    """What the three EIPs say (3,), eV."""
    error = [0.6, 0.02, 3.0] if mostly_gold(atoms) else [0.02, 0.6, 3.0]
    return cohesive + len(atoms) * (np.array(error) + rng.normal(0, 0.01, 3))


def write_labels(folder: Path, frames: list[Atoms], energies: np.ndarray, eips=EIPS) -> Path:
    """A finished label store; NaN is a failed label."""
    index = describe(frames, [EIP(name, "ase", f"invented.{name}") for name in eips])
    create(folder, frames, index)
    open_array(folder, "energies", index, "r+")[:] = energies
    open_array(folder, "stress", index, "r+")[:] = np.nan
    open_array(folder, "status", index, "r+")[:] = np.where(np.isnan(energies), FAILED, DONE)
    return folder


def write_dft(file: Path, frames: list[Atoms], energies: list[float]) -> Path:
    """An extended XYZ file with these total energies, eV."""
    labelled = [atoms.copy() for atoms in frames]
    for atoms, energy in zip(labelled, energies, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    ase.io.write(file, labelled, format="extxyz")
    return file


def total_energy(atoms: Atoms, cohesive: float, free: dict[str, float] = FREE) -> float:
    return cohesive + sum(free[symbol] for symbol in atoms.symbols)


def make_tiny(folder: Path) -> Tiny:
    rng = np.random.default_rng(0)
    ids = [f"dft_{i:06d}" for i in range(N_DFT)] + [f"pool_{i:06d}" for i in range(N_POOL)]
    frames = {name: random_frame(rng) for name in ids}
    for name, atoms in frames.items():
        atoms.info["config_id"] = name
    cohesive = {name: cohesive_energy(atoms) for name, atoms in frames.items()}
    eip = {name: eip_energies(frames[name], cohesive[name], rng) for name in ids}
    eip[MISSING][1] = np.nan
    eip[OUTLIER][2] = 300.0 * len(frames[OUTLIER])
    dft, pool = ids[:N_DFT], ids[N_DFT:]
    totals = [total_energy(frames[name], cohesive[name]) for name in dft]
    write_dft(folder / "dft.extxyz", [frames[name] for name in dft], totals)
    ase.io.write(folder / "pool.extxyz", [frames[name] for name in pool], format="extxyz")
    write_labels(folder / "labels", list(frames.values()), np.array([eip[name] for name in ids]))
    marks = ["train"] * N_TRAIN + ["val"] * N_VAL + ["test"] * N_TEST + ["pretrain"] * N_POOL
    rows = [f"{name},{mark}\n" for name, mark in zip(ids, marks, strict=True)]
    (folder / "split.csv").write_text("configs,mark\n" + "".join(rows))
    return Tiny(folder, frames, cohesive, eip)


def make_forced(folder: Path) -> Tiny:
    """The tiny set with EMT's forces, and its stress where a frame is periodic; EIPs have these with an error."""
    tiny = make_tiny(folder)
    frames = ase.io.read(tiny.data["dft"], ":")
    for atoms in frames:
        energy, emt = atoms.get_potential_energy(), EMT()
        more = {"stress": emt.get_stress(atoms)} if atoms.pbc.all() else {}
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=emt.get_forces(atoms), **more)
    ase.io.write(tiny.data["dft"], frames, format="extxyz")
    store, rng = Path(tiny.data["labels"]), np.random.default_rng(1)
    index = read_index(store)
    arrays = {name: open_array(store, name, index, "r+") for name in ("forces", "stress", "energies", "offsets")}
    for row, atoms in enumerate(tiny.frames.values()):
        part, emt, missing = slice(*arrays["offsets"][row : row + 2]), EMT(), np.isnan(arrays["energies"][row])
        error = rng.normal(0, [[[0.05], [0.3], [1.0]]], (len(atoms), 3, 3))
        arrays["forces"][part] = emt.get_forces(atoms)[:, None] + error
        arrays["forces"][part, missing] = np.nan
        if atoms.pbc.all():
            arrays["stress"][row] = emt.get_stress(atoms) + rng.normal(0, 0.002, (3, 6))
            arrays["stress"][row, missing] = np.nan
    return tiny


def give_forces(tiny: Tiny, eips: tuple[float, ...], without: Collection[str] = ()) -> Tiny:
    """The same files with DFT forces of zero, but for some frames, and EIPs that are off by this in every component."""
    frames = ase.io.read(tiny.data["dft"], ":")
    for atoms in frames:
        forces = {} if atoms.info["config_id"] in without else {"forces": np.zeros((len(atoms), 3))}
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), **forces)
    ase.io.write(tiny.data["dft"], frames, format="extxyz")
    labels = Path(tiny.data["labels"])
    open_array(labels, "forces", read_index(labels), "r+")[:] = np.array(eips)[:, None]
    return tiny


def stage_config(tiny: Tiny, stage: str, root: Path, **trainer) -> dict:
    """A LightningCLI configuration of one stage: ``Classifier``, ``Pretrain`` or ``Finetune``."""
    model: dict = {"representation": REPRESENTATION}
    if stage != "Finetune":
        model["eips"] = list(EIPS)
    return {
        "seed_everything": 0,
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "default_root_dir": str(root),
            **trainer,
        },
        "model": {"class_path": f"eipnn.{stage}Module", "init_args": model},
        "data": {"class_path": f"eipnn.{stage}DataModule", "init_args": dict(tiny.data)},
    }


def targets_of(energy, is_dft, n_atoms=None, label=None):
    """Targets of configurations with these energies (B,) or (B, S), NaN where unknown; of one atom each by default."""
    import torch
    from torch_geometric.data import Data

    from eipnn.targets import Targets

    energy = energy.reshape(len(energy), -1)
    batch = Data(
        energy=energy,
        is_dft=is_dft,
        n_atoms=torch.ones(len(energy), dtype=torch.long) if n_atoms is None else n_atoms,
        weight=torch.ones(len(energy)),
    )
    if label is not None:
        batch["label"] = label[:, None]
    return Targets.of(batch)


def attached(datamodule, module, stage: str = "fit"):
    """The data module, both set up."""
    datamodule.handover = module.handover
    datamodule.setup(stage)
    module.setup(stage)
    return datamodule


def exit_code(*arguments: object) -> int:
    """Run ``eipnn ARGUMENTS`` in this process; its exit code."""
    from eipnn.__main__ import main

    environment = dict(os.environ)
    try:
        with patch.object(sys, "argv", ["eipnn", *map(str, arguments)]):
            return main()
    finally:
        os.environ.clear()  # Lightning notes the seed there
        os.environ.update(environment)


def eipnn(*arguments: str) -> None:
    """Run ``eipnn ARGUMENTS`` in this process; raises `SystemExit` with its exit code and what it told of an error."""
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            code = exit_code(*arguments)
    finally:
        sys.stderr.write(told.getvalue())
    if code:
        stop = SystemExit(told.getvalue())
        stop.code = code
        raise stop


def in_process(arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
    """In place of `eipnn.processes.call`: a command in this process, which is many times quicker to start."""
    return exit_code(*arguments)


def eipnn_stage(command: str, config: dict, *arguments: str) -> Path:
    """Run ``eipnn COMMAND --config CONFIG ...`` in this process; the root folder of what it writes."""
    root = Path(config["trainer"]["default_root_dir"])
    root.mkdir(parents=True, exist_ok=True)
    file = root / "given.yaml"
    file.write_text(yaml.safe_dump(config))
    eipnn(command, "--config", str(file), *arguments)
    return root


def read_json(file: Path) -> dict:
    return json.loads(file.read_text())


def best(root: Path) -> str:
    """Path of the best checkpoint below a root folder."""
    return str(root / "checkpoints" / "best.ckpt")


def flipped(file: Path, folder: Path, n: int, first: int = 0) -> Iterator[Path]:
    """Copies of a file with one bit flipped each, at random places from byte `first` on."""
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for place, bit in zip(rng.integers(first, len(whole), n), rng.integers(0, 8, n), strict=True):
        content = bytearray(whole)
        content[place] ^= 1 << bit
        copy = folder / f"flipped-{file.name}"
        copy.write_bytes(content)
        yield copy


@contextmanager
def held_for(lock: Path, seconds: float) -> Iterator[None]:
    """Another process at work, whose lock is held for a while."""
    held = Event()

    def work() -> None:
        with FileLock(lock):
            held.set()
            time.sleep(seconds)

    worker = Thread(target=work)
    worker.start()
    held.wait()
    yield
    worker.join()
