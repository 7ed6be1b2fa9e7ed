"""Run folders as `eipnn run` leaves them, with invented predictions on a part of the bundled silicon."""

import re
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import yaml
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from paper import FOLDER as PAPER

from eipnn.files import write_json
from eipnn.labels import LabelStore
from eipnn.predictions import predicted
from eipnn.run.strategy import STRATEGIES, own_strategies
from eipnn.structures import StructureStore, energy, resolve

N_DFT, N_POOL = 60, 40
ZERO = -0.8499664305825116  # eV, isolated silicon atom
LABELS = "bundled:si_mini/labels"
ERRORS = {
    "baseline": 0.4,
    "la": 0.3,
    "mp": 0.2,
    "mp+la": 0.1,
    "baseline-long": 0.35,
    "mp-long": 0.15,
}
"""Size of the invented errors, eV."""
BEYOND = {
    "la-best": 0.25,
    "la-dft": 0.15,
    "taught": 0.22,
    "la-mse": 0.5,
    "mp+la-mse": 0.45,
    "la-single": 0.6,
    "mp-single": 0.3,
    "delta": 0.2,
    "mp+delta": 0.12,
    "delta-long": 0.18,
    "mp+delta-long": 0.11,
}
"""The same for the rows beyond Table 1."""
ALONE = {"energies": 0.7, "mp-energies": 0.56}
"""The same for rows that learn energies alone."""
OWN = yaml.safe_load((PAPER / "strategies.yaml").read_text())
OWN["mp-energies"] = {"label": "+MP (energies alone)", "pretraining": "all", "energies_only": True}
"""Those of these that the experiment defines."""
KINDS = STRATEGIES | own_strategies(OWN, "strategies.yaml")
STEPS = {name: 90 for name, kind in KINDS.items() if not kind.short}


@dataclass(frozen=True)
class Silicon:
    """60 DFT frames, 40 structures of the pool, and two splits."""

    folder: Path
    dft: dict[str, Atoms]
    pool: dict[str, Atoms]

    def split(self, number: int) -> dict[str, list[str]]:
        """The ids of each mark."""
        ids = np.random.default_rng(number).permutation(list(self.dft)).tolist()
        return {"test": ids[:12], "val": ids[12:20], "train": ids[20:], "pretrain": [*self.pool]}

    def data(self, number: int) -> dict:
        """Arguments of the data modules."""
        return {
            "dft": str(self.folder / "dft.extxyz"),
            "pool": str(self.folder / "pool.extxyz"),
            "labels": LABELS,
            "energy_zero": {"mode": "isolated_atoms", "energies": {"Si": ZERO}},
            "eip_energy_zero": "none",
            "split": str(self.folder / f"split_{number}.csv"),
        }


def write_silicon(folder: Path) -> Silicon:
    """Write structures and splits; the first structure of the pool is the first test frame of split 1, doubled."""
    files = {"dft": N_DFT, "pool": N_POOL}
    dft, pool = (
        {a.info["config_id"]: a for a in ase.io.read(resolve(f"bundled:si_mini/{name}.extxyz"), f":{n}")}
        for name, n in files.items()
    )
    silicon = Silicon(folder, dft, pool)
    first, twin = silicon.split(1)["test"][0], next(iter(pool))
    doubled = dft[first].repeat((1, 1, 2)) if dft[first].pbc.all() else dft[first].copy()
    doubled.info = {"config_id": twin}
    pool[twin] = doubled
    ase.io.write(folder / "dft.extxyz", list(dft.values()))
    ase.io.write(folder / "pool.extxyz", list(pool.values()))
    for number in (1, 2):
        lines = [f"{i},{mark}\n" for mark, ids in silicon.split(number).items() for i in ids]
        (folder / f"split_{number}.csv").write_text("configs,mark\n" + "".join(lines))
    return silicon


def write_run(
    run: Path,
    silicon: Silicon,
    strategies=tuple(ERRORS),
    splits=(1, 2),
    seed=0,
    frames=None,
    larger=1.0,
    forces=False,
) -> Path:
    """A finished run; the errors of a strategy are `ERRORS`, times `larger`, somewhat larger on later splits."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "experiment.yaml").write_text(yaml.safe_dump({"strategies": OWN}))
    for split in splits:
        fold = run / f"split-{split}" / f"seed-{seed}"
        if frames is not None:
            for strategy in strategies:
                write_training(fold / f"frames-{frames}", silicon, strategy, split, seed, frames, larger, forces)
            continue
        if any("la" in s for s in strategies):
            write_classifier(fold, silicon, split, seed)
        if "mp-single" in strategies:
            done = {"fingerprint": "p", "result": {"gradient_steps": 20}}
            write_json(fold / "pretrain-single" / "done.json", done)
        if any(s.startswith("mp") for s in strategies):
            about = {"stage": "pretrain", "split": split, "seed": seed, "fingerprint": "p"}
            write_config(fold / "pretrain", silicon.data(split), {"eips": []})
            write_json(fold / "pretrain" / "done.json", about | {"result": {"gradient_steps": 50}})
        for strategy in strategies:
            write_training(fold, silicon, strategy, split, seed, forces=forces)
    return run


def write_training(
    fold: Path,
    silicon: Silicon,
    strategy: str,
    split: int,
    seed: int,
    frames: int | None = None,
    larger: float = 1.0,
    forces: bool = False,
) -> None:
    """One fine-tuned strategy: predictions, logs and result; with `forces` also off by as much in eV/A and GPa."""
    alpha = 0.1 if "la" in re.split(r"[+-]", strategy) else None
    size = (ERRORS | BEYOND | ALONE)[strategy] * larger
    folder = fold / strategy if alpha is None else fold / strategy / f"alpha-{alpha:g}"
    write_config(folder, silicon.data(split), {})
    rng = np.random.default_rng([split, seed])
    ids = silicon.split(split)["test"]
    n = np.array([len(silicon.dft[i]) for i in ids])
    true = np.array([energy(silicon.dft[i]) for i in ids])
    error = size * rng.normal(size=len(ids)) * (1 + split / 10)
    off = size * (1 + split / 10)
    table = {"config_id": ids, "n_atoms": n, "energy": true, "prediction": true + error}
    pd.DataFrame(table).to_csv(folder / "predictions_test.csv", index=False)
    steps = STEPS.get(strategy, 30)
    write_metrics(folder / "logs" / "version_0", range(6), steps // 10, size, forces)
    write_metrics(folder / "logs" / "version_1", range(5, 10), steps // 10, size, forces)
    result = {
        "test_config_mae": float(np.abs(error).mean()),
        "test_atom_mae": float(np.abs(error / n).mean()),
        "best_score": size,
        "monitor": "val_config_mae",
        "epochs": 10,
        "gradient_steps": steps,
        "seconds": 1.5,
        "versions": {"eipnn": "0.1.0", "torch": "2.13.0"},
    }
    if forces:
        write_forces(folder / "predictions_test.extxyz", [silicon.dft[i] for i in ids], true + error, off)
        result |= {"test_force_mae": off, "test_stress_mae": off}
    about = {"stage": "finetune", "strategy": strategy, "split": split, "seed": seed}
    about |= {"frames": frames} if frames else {}
    about |= {"single_eip": "sw"} if KINDS[strategy].single else {}
    done = about | {"alpha": alpha, "fingerprint": f"{strategy}{split}", "result": result}
    write_json(folder / "done.json", done)
    alphas = {str(alpha): size} | ({"1.0": 0.7} if strategy == "mp+la" else {})
    write_json(fold / f"result-{strategy}.json", done | {"alphas": alphas})


def write_forces(file: Path, frames: list[Atoms], energies: np.ndarray, off: float) -> None:
    """Predictions whose forces are off by so much in eV/A, and stresses in GPa from a DFT that says 0."""
    labelled = []
    for atoms in frames:
        labelled.append(atoms.copy())
        labels = {"energy": energy(atoms), "forces": atoms.get_forces(), "stress": np.zeros(6)}
        labelled[-1].calc = SinglePointCalculator(labelled[-1], **labels)
    store = StructureStore.of(labelled)
    stress = np.full((len(store), 3, 3), off * units.GPa)
    ase.io.write(file, list(predicted(store, energies, store.forces + off, stress)))


def write_metrics(folder: Path, epochs: range, steps: int, scale: float, forces: bool = False) -> None:
    """What Lightning's CSV logger writes: training and validation on rows of their own."""
    folder.mkdir(parents=True)
    rows = []
    for epoch in epochs:
        at = {"epoch": epoch, "step": (epoch + 1) * steps - 1}
        found = dict.fromkeys(["val_config_mae", *(["val_force_mae"] if forces else [])], scale * (1 + 1 / (epoch + 1)))
        rows += [at | found, at | {"train_loss": 1.0}]
    pd.DataFrame(rows).to_csv(folder / "metrics.csv", index=False)


def write_classifier(fold: Path, silicon: Silicon, split: int, seed: int) -> None:
    """A classifier that is right on every other test frame, and finds none for most of the pool."""
    folder, eips = fold / "classify", LabelStore.open(LABELS).eips
    write_config(folder, silicon.data(split), {"eips": list(eips)})
    write_json(folder / "done.json", {"stage": "classify", "split": split, "seed": seed})
    ids = silicon.split(split)["test"]
    true = [[*eips, "none"][i % (len(eips) + 1)] for i in range(len(ids))]
    chosen = [name if i % 2 else "none" for i, name in enumerate(true)]
    table = {"config_id": ids, "eip": chosen, "probability": 0.5, "best_eip": true}
    pd.DataFrame(table).to_csv(folder / "predictions_test.csv", index=False)
    chosen = [eips[0] if i < 10 + split else "none" for i in range(N_POOL)]
    table = {"config_id": [*silicon.pool], "eip": chosen, "probability": 0.9}
    pd.DataFrame(table).to_csv(folder / "selection.csv", index=False)


def write_config(folder: Path, data: dict, model: dict) -> None:
    """The LightningCLI configuration of a stage, as far as it matters here."""
    folder.mkdir(parents=True)
    representation = {"class_path": "eipnn.representations.SchNet", "init_args": {"cutoff": 5.0}}
    config = {
        "trainer": {"default_root_dir": str(folder)},
        "model": {"init_args": {"representation": representation, **model}},
        "data": {"init_args": data},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
