"""Tables that the stages of a run wrote, and the structures, splits and labels behind them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms

from eipnn.eips import NONE
from eipnn.errors import InputError
from eipnn.labels.leaderboard import Comparison
from eipnn.metrics import CONFIG, METRICS
from eipnn.report.runs import AGAIN, Fold, ReportError, Training, damaged, read_config, stage_data, usable
from eipnn.structures import LABEL_KEYS, StructureError
from eipnn.structures.extxyz import read_extxyz

if TYPE_CHECKING:
    from eipnn.stages.source import Source

OF_EIPS = ("labels", "eip_energy_zero")
KEYS = ("dft", "split", "energy_zero", "pool", *OF_EIPS, *LABEL_KEYS)


def predictions(training: Training) -> pd.DataFrame:
    """Test predictions: ``config_id``, ``n_atoms``, and total ``energy`` and ``prediction`` in eV."""
    return read_table(training.folder / "predictions_test.csv", ("config_id", "n_atoms", "energy", "prediction"))


def check_tested(trainings: Iterable[Training]) -> None:
    """Raise `ReportError` where two trainings of a split were tested on other frames, or other DFT energies of them."""
    first: dict[Any, tuple[Training, pd.Series]] = {}
    for training in trainings:
        found = predictions(training).set_index("config_id")["energy"]
        fold = training.fold
        # fewer frames, drawn by the seed, are fewer for validation too
        tested = fold.split if training.part == "test" else (fold.split, fold.frames, fold.frames and fold.seed)
        kin, theirs = first.setdefault(tested, (training, found))
        if not (found.index.equals(theirs.index) and np.allclose(found, theirs, rtol=0, atol=1e-6)):
            raise ReportError(
                f"{kin.folder} and {training.folder}: split {fold.split} of both, and tested on other frames "
                f"or other DFT energies, so that they cannot be compared; {AGAIN} with one experiment, or report the "
                "runs apart"
            )


def predicted_frames(training: Training) -> list[Atoms]:
    """Its test frames with what was predicted and DFT's own (see `PredictionWriter`); none of a run before 0.3."""
    file = training.folder / "predictions_test.extxyz"
    if not file.exists():
        return []
    with usable(file), file.open(encoding="utf-8") as stream:
        try:
            return list(read_extxyz(stream))
        except StructureError as error:
            raise damaged(file, str(error)) from error


def components(frames: Iterable[Atoms], name: str) -> np.ndarray:
    """DFT and predicted components (n, 2) of ``forces`` (eV/A) or ``stress`` (eV/A^3), of frames that have both."""
    entries = [atoms.info | atoms.arrays for atoms in frames]
    both = [[e[f"dft_{name}"], e[name]] for e in entries if e.keys() >= {name, f"dft_{name}"}]
    return np.concatenate([np.empty((0, 2)), *(np.reshape(pair, (2, -1)).T for pair in both)])


def force_errors(training: Training) -> dict[str, float]:
    """Config id -> mean of |F - F_DFT| over the components, eV/A, of the test frames that have both."""
    errors = {a.info["config_id"]: np.diff(components([a], "forces")) for a in predicted_frames(training)}
    return {name: float(np.abs(error).mean()) for name, error in errors.items() if len(error)}


def classified(folds: Sequence[Fold]) -> list[Fold]:
    """The folds that have a finished classifier."""
    return [fold for fold in folds if (fold.folder / "classify" / "done.json").exists()]


def classes(fold: Fold) -> list[str]:
    """The classifier's classes: the EIPs in the order of the label store, then ``none``."""
    stage = fold.folder / "classify"
    with usable(stage / "config.yaml"):
        return [*read_config(stage)["model"]["init_args"]["eips"], NONE]


def classification(folds: Sequence[Fold]) -> pd.DataFrame:
    """The classifiers' test predictions, ``best_eip`` (true) and ``eip`` (chosen), one below the other."""
    files = [fold.folder / "classify" / "predictions_test.csv" for fold in folds]
    return pd.concat([read_table(file, ("config_id", "eip", "best_eip")) for file in files], ignore_index=True)


def selection_counts(folds: Sequence[Fold]) -> pd.DataFrame:
    """How many structures of the pool each class got: one row a class, one column a fold."""
    counts = {}
    for fold in folds:
        table = read_table(fold.folder / "classify" / "selection.csv", ("config_id", "eip"))
        counts[f"split {fold.split} seed {fold.seed}"] = table["eip"].value_counts()
    return pd.DataFrame(counts).reindex(classes(folds[0])).fillna(0).astype(int)


def learning_curve(training: Training) -> pd.DataFrame | None:
    """``epoch``, ``step`` and the validation errors of a training, NaN where it has none; None where it logged no CSV.

    A training that was cut off has one log for each part; what was trained again counts.
    """
    files = [file for file in (training.folder / "logs").glob("version_*/metrics.csv") if file.stat().st_size]
    files.sort(key=lambda file: int(file.parent.name.removeprefix("version_")))
    # A part that was cut off before its first validation has not got the column.
    parts = [t for t in map(_read_csv, files) if {"epoch", "step", CONFIG.validation} <= set(t.columns)]
    if not parts:
        return None
    columns = ["epoch", "step", *(metric.validation for metric in METRICS)]
    curve = pd.concat(parts).reindex(columns=columns).dropna(subset=CONFIG.validation)
    return curve.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)


def read_table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV table of a stage.

    Raises:
        ReportError: it is absent, damaged, empty or lacks a column.
    """
    if not file.exists():
        raise ReportError(f"{file}: missing; {AGAIN}")
    table = _read_csv(file)
    if absent := [name for name in columns if name not in table.columns]:
        raise damaged(file, f"no column {absent[0]!r}")
    if table.empty or table[list(columns)].isna().any(axis=None):
        raise damaged(file, "empty or with gaps")
    return table


def _read_csv(file: Path) -> pd.DataFrame:
    with usable(file):
        # "none" is a class, not a gap, and ids are text even where they look like numbers, or like a gap.
        columns = pd.read_csv(file, nrows=0).columns.drop("config_id", errors="ignore")
        gaps = {name: ["", "nan"] for name in columns}
        return pd.read_csv(file, dtype={"config_id": str}, keep_default_na=False, na_values=gaps)


def fold_settings(trainings: Sequence[Training]) -> dict[str, Any]:
    """The data arguments of one fold.

    Labels and their zeros are those of the EIPs, not of a potential that teaches a row. Where no training reads them,
    those of a pretraining or classifier on the same frames are taken.
    """
    settings: dict[str, Any] = {}
    for training in trainings:
        keys = [key for key in KEYS if training.kind.teacher is None or key not in OF_EIPS]
        settings |= {key: training.data[key] for key in keys if training.data.get(key) is not None}
    fold = trainings[0].fold
    for stage in (fold.folder / name for name in ("pretrain", "classify")):
        if "labels" in settings or not (stage / "done.json").exists():
            continue
        given = stage_data(stage, fold.run)
        if all(given.get(key) == settings.get(key) for key in ("dft", "split", "energy_zero")):
            settings |= {key: given[key] for key in ("pool", *OF_EIPS) if given.get(key) is not None}
    return settings


@dataclass(frozen=True)
class FoldData:
    """What one fold was trained and tested on."""

    fold: Fold
    source: "Source"  # structures, split and aligned energies
    comparison: Comparison | None  # of all DFT frames; None where no label store is named


def read_data(trainings: Sequence[Training]) -> FoldData:
    """The data of one fold, read again with the settings and on the energy zeros of its trainings.

    Raises:
        ReportError: a file is not there any more or cannot be read.
    """
    fold = trainings[0].fold
    try:
        # Imports torch, which the tables of a run do not need.
        from eipnn.stages.source import compare, source_of

        source = source_of(fold_settings(trainings))
        return FoldData(fold, source, compare(source) if source.config.labels else None)
    except (InputError, OSError) as error:
        raise ReportError(
            f"{fold.folder}: its structures, split or labels cannot be read ({error}); relative paths hold "
            "from the folder where `eipnn run` was called, so call `eipnn report` there"
        ) from error


def energy_zeros(data: Sequence[FoldData]) -> pd.DataFrame:
    """The zeros of DFT and of the EIPs as text: ``of``, ``mode``, ``energies`` (eV an atom), ``splits``.

    Lines that differ in their splits alone are one, and so are EIPs with the same zero.
    """
    rows = []
    for d in data:
        zeros = {"DFT": d.source.zero}
        if d.comparison is not None:
            eips = d.source.references(d.comparison.eips)
            same = len({str(zero) for zero in eips.values()}) == 1
            zeros |= {"all EIPs": next(iter(eips.values()))} if same else eips
        for name, zero in zeros.items():
            energies = ", ".join(f"{el} {e:.5f}" for el, e in sorted(zero.energies.items()))
            rows.append((name, zero.mode, energies, str(d.fold.split)))
    table = pd.DataFrame(rows, columns=["of", "mode", "energies", "splits"])
    return table.groupby(["of", "mode", "energies"], sort=False)["splits"].agg(", ".join).reset_index()
