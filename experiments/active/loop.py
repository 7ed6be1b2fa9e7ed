"""Active learning by several choices: train, choose from a pool, label, train on. The same command goes on later."""

import json
import shlex
from pathlib import Path
from pydoc import locate
from typing import Any

import ase.io
import numpy as np
import pandas as pd
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from eipnn.command_line import Count, Seed, script
from eipnn.errors import InputError
from eipnn.metrics import ATOM, FORCE, STRESS
from eipnn.processes import call
from eipnn.select.command import By
from eipnn.structures import random_split, read_split, read_structures
from eipnn.structures.extxyz import write_extxyz


def loop(
    frames: list[str],
    *,
    output: Path,
    split: str | None = None,
    calculator: str | None = None,
    start: Count = 40,
    number: Count = 20,
    rounds: Count = 3,
    by: list[By] | None = None,
    seeds: list[Seed] | None = None,
    train: str = "",
    jobs: Count = 1,
) -> None:
    """Active learning: test errors by round and choice, as a table and OUTPUT/errors.csv.

    Args:
        frames: files of structures with DFT labels, which are hidden until a structure is chosen.
        output: folder of all that is written.
        split: CSV: what train and val name is chosen from, test is tested on (default: a fifth of all is).
        calculator: an ASE calculator that stands in for DFT, as ase.calculators.emt.EMT (default: labels of the files).
        start: frames of the first training, at random.
        number: of structures that a round chooses.
        rounds: after the first training, which all choices share.
        by: choices, see `eipnn select` (default: random spread distance).
        seeds: of the start frames, the trainings and the random choice (default: 0).
        train: options of the first `eipnn train`, in one text.
        jobs: trainings that run at once.
    """
    known = {atoms.info["config_id"]: atoms for atoms in read_structures(frames, labels=not calculator)}
    parts = read_split(split) if split else random_split(list(known), (), 0)
    test, rows = write(output / "test.extxyz", [known[name] for name in parts.test], calculator), []
    for seed in seeds or [0]:
        folder, always = output / f"seed-{seed}", ("--test", test, "--jobs", jobs)
        ids = np.random.default_rng(seed).permutation([*parts.train, *parts.val]).tolist()
        dft, pool = write(folder / "start.extxyz", [known[i] for i in ids[:start]], calculator), folder / "pool.extxyz"
        write_extxyz(pool, [bare(known[i], config_id=i) for i in ids[start:]])
        eipnn("train", dft, "--pool", pool, *always, "--seed", seed, "-o", folder / "start", *shlex.split(train))
        for choice in by or ["random", "spread", "distance"]:
            last, files = folder / "start", [dft]
            rows.append({"by": choice, "seed": seed, "round": 0, "frames": start} | errors(last))
            for turn in range(1, rounds + 1):
                here = folder / choice / f"round-{turn}"
                known_by = ("--by", choice, "--potential", last / "potential.pt", "--dft", *files, "--seed", seed)
                eipnn("select", pool, "-n", number, *known_by, "-o", here / "next.xyz")
                chosen = [known[atoms.info["pool_id"]] for atoms in ase.io.read(here / "next.xyz", ":")]
                files.append(write(here / "new.extxyz", chosen, calculator))
                eipnn("train", last, "--add", files[-1], *always, "-o", here)
                rows.append({"by": choice, "seed": seed, "round": turn, "frames": start + turn * number} | errors(here))
                last = here
    table = pd.DataFrame(rows)
    table.to_csv(output / "errors.csv", index=False)
    means = table.groupby(["by", "round", "frames"]).mean(numeric_only=True).drop(columns="seed").reset_index()
    print(means.to_markdown(index=False, floatfmt=".4g"))


def eipnn(*words: Any) -> None:
    """Run a command."""
    if call([str(word) for word in words]) != 0:
        raise InputError(f"`eipnn {' '.join(map(str, words))}` failed; its message stands above")


def write(file: Path, frames: list[Atoms], calculator: str | None) -> Path:
    """Write frames with their labels, or those of a calculator, and without their ids, which the pool has."""
    labelled = [bare(atoms) for atoms in frames]
    for atoms, given in zip(labelled, frames, strict=True):
        atoms.calc = locate(calculator)() if calculator else given.calc
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels |= {"stress": atoms.get_stress()} if atoms.pbc.all() else {}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    write_extxyz(file, labelled)
    return file


def bare(atoms: Atoms, **info: Any) -> Atoms:
    """A structure without labels."""
    return Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)


def errors(folder: Path) -> dict[str, Any]:
    """Test errors of the committee that a training left, and its recipe."""
    found = json.loads((folder / "choice.json").read_text())
    mine = found["test"][f"committee of {found['recipe']}"][0]
    errors = {m.heading: m.factor * mine[m.name] for m in (ATOM, FORCE, STRESS) if mine[m.name] is not None}
    return {"recipe": found["recipe"]} | errors


if __name__ == "__main__":
    raise SystemExit(script(loop))
