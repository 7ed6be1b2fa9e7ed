"""Small data sets in the three published layouts, with invented energies."""

import json
import sys
from pathlib import Path
from unittest.mock import patch

import fetch as command
import h5py
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.io import write

EIPS = ("edip", "sw", "CF_MOD", "Tersoff_T3")
CLUSTERS, CRYSTALS = 30, 12
"""KIM-Si: clusters are those with DFT, crystals the pool."""


def fetch(name: str, folder: Path, *archives: Path) -> int:
    """`fetch.py NAME -o FOLDER --archive ...`."""
    given = ["--archive", *map(str, archives)] if archives else []
    with patch.object(sys, "argv", [command.__file__, name, "-o", str(folder), *given]):
        return command.main()


def rattled(rng: np.random.Generator, symbol: str, a: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 4, 3) and cells (n, 3, 3) of disturbed fcc crystals, A."""
    frames = [bulk(symbol, "fcc", a=a * rng.uniform(0.95, 1.1), cubic=True) for _ in range(n)]
    positions = np.array([atoms.positions for atoms in frames]) + rng.normal(0, 0.1, (n, 4, 3))
    return positions, np.array([atoms.cell.array for atoms in frames])


def ani_al(folder: Path, groups: int = 3, n: int = 14) -> dict[str, np.ndarray]:
    """`data-1.h5` and `data-2.h5` in `folder`; the arrays of one group."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for number in (1, 2):
        with h5py.File(folder / f"data-{number}.h5", "w") as content:
            for index in range(groups):
                positions, cells = rattled(rng, "Al", 4.05, n)
                arrays = {
                    "coordinates": positions,
                    "cell": cells,
                    "energy": rng.normal(-14.0, 0.3, n),
                    "force": rng.normal(0, 0.5, positions.shape),
                    "fermi": np.zeros(n),
                    "species": np.array([b"Al"] * 4),
                }
                group = content.create_group(f"steps/group_{index}")
                for name, values in arrays.items():
                    group.create_dataset(name, data=values, compression="gzip")
    return arrays


def agau(folder: Path, n: int = 12) -> None:
    """Four DeePMD systems of different composition in `folder`, of two sets each."""
    rng = np.random.default_rng(1)
    for gold in range(4):
        system = folder / f"init/Ag{4 - gold}Au{gold}"
        system.mkdir(parents=True)
        (system / "type_map.raw").write_text("Ag\nAu\n")
        types = [0] * (4 - gold) + [1] * gold
        (system / "type.raw").write_text("".join(f"{t}\n" for t in types))
        for number in range(2):
            part = system / f"set.{number:03d}"
            part.mkdir()
            positions, cells = rattled(rng, "Ag", 4.1, n)
            np.save(part / "coord.npy", positions.reshape(n, 12).astype(np.float32))
            np.save(part / "box.npy", cells.reshape(n, 9))
            np.save(part / "energy.npy", rng.normal(-11 - gold, 0.3, n))
            np.save(part / "force.npy", rng.normal(0, 0.5, (n, 12)))


def kim_si(folder: Path) -> dict[str, dict[str, float]]:
    """`NAME/NAME.xyz` and the folds in `folder`; the energies (eV) by id and key."""
    rng = np.random.default_rng(2)
    energies = {}
    for index in range(CLUSTERS + CRYSTALS):
        if index < CLUSTERS:
            name, atoms = (
                f"cluster_{index}",
                Atoms("Si3", np.eye(3) * 2.2 + rng.normal(0, 0.1, (3, 3))),
            )
        else:
            name, atoms = f"diamond_{index - CLUSTERS}", bulk("Si", a=5.43)
            atoms.rattle(0.05, rng=rng)
        about = {f"energy_{eip}": float(rng.normal(-4, 0.3) * len(atoms)) for eip in EIPS}
        if index < CLUSTERS:
            about["energy_reference"] = about["energy_sw"] + 0.05 * float(rng.normal())
        energies[name] = about
        atoms.info.update(about)
        (folder / name).mkdir(parents=True)
        write(folder / name / f"{name}.xyz", atoms, format="extxyz")
    write_folds(folder, folds())
    return energies


def folds() -> dict[str, dict[str, list[str]]]:
    """Five folds of the clusters; the last two of them are in no fold."""
    names = [f"cluster_{index}" for index in range(CLUSTERS - 2)]
    return {
        f"fold_{k + 1}": {
            "training": [n for n in names if n not in names[k::5]],
            "test": names[k::5],
        }
        for k in range(5)
    }


def write_folds(folder: Path, content: object) -> Path:
    """`all_folds.json` in its place."""
    file = folder / "cross_validation" / "random_five_fold" / "folds" / "all_folds.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file
