"""Tables that the stages of a run wrote: predictions, selections, learning curves."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from eipnn.eips import NONE
from eipnn.report.runs import Fold, ReportError, Training, damaged, read_config


def predictions(training: Training) -> pd.DataFrame:
    """Test predictions: ``config_id``, ``n_atoms``, and total ``energy`` and ``prediction`` in eV."""
    columns = ("config_id", "n_atoms", "energy", "prediction")
    return read_table(training.folder / "predictions_test.csv", columns)


def classified(folds: Sequence[Fold]) -> list[Fold]:
    """The folds that have a finished classifier."""
    return [fold for fold in folds if (fold.folder / "classify" / "done.json").exists()]


def classes(fold: Fold) -> list[str]:
    """The classifier's classes: the EIPs in the order of the label store, then ``none``."""
    stage = fold.folder / "classify"
    try:
        return [*read_config(stage)["model"]["init_args"]["eips"], NONE]
    except KeyError:
        raise damaged(stage / "config.yaml", "no model.init_args.eips") from None


def classification(folds: Sequence[Fold]) -> pd.DataFrame:
    """The classifiers' test predictions, ``best_eip`` (true) and ``eip`` (chosen), one below the other."""
    columns = ("config_id", "eip", "best_eip")
    files = [fold.folder / "classify" / "predictions_test.csv" for fold in folds]
    return pd.concat([read_table(file, columns) for file in files], ignore_index=True)


def selection_counts(folds: Sequence[Fold]) -> pd.DataFrame:
    """How many structures of the pool each class got: one row a class, one column a fold."""
    order = classes(folds[0])
    counts = {}
    for fold in folds:
        table = read_table(fold.folder / "classify" / "selection.csv", ("config_id", "eip"))
        counts[f"split {fold.split} seed {fold.seed}"] = table["eip"].value_counts()
    return pd.DataFrame(counts).reindex(order).fillna(0).astype(int)


def learning_curve(training: Training) -> pd.DataFrame | None:
    """``epoch``, ``step`` and ``val_config_mae`` (eV) of a training; None where it logged no CSV.

    A training that was cut off has one log for each part; what was trained again counts.
    """
    logs = (training.folder / "logs").glob("version_*/metrics.csv")
    files = [file for file in logs if file.stat().st_size]
    files.sort(key=lambda file: int(file.parent.name.removeprefix("version_")))
    columns = ("epoch", "step", "val_config_mae")
    # A part that was cut off before its first validation has not got the column.
    parts = [t for t in map(_read_csv, files) if set(columns) <= set(t.columns)]
    if not parts:
        return None
    curve = pd.concat(parts)[list(columns)].dropna()
    return curve.drop_duplicates("epoch", keep="last").sort_values("epoch", ignore_index=True)


def read_table(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV table of a stage.

    Raises:
        ReportError: it is absent, damaged, empty or lacks a column.
    """
    if not file.exists():
        raise ReportError(f"{file}: missing; remove {file.parent} and give the same `eipnn run` again")
    table = _read_csv(file)
    if absent := [name for name in columns if name not in table.columns]:
        raise damaged(file, f"no column {absent[0]!r}")
    if table.empty or table[list(columns)].isna().any(axis=None):
        raise damaged(file, "empty or with gaps")
    return table


def _read_csv(file: Path) -> pd.DataFrame:
    try:
        # "none" is a class, not a gap, and ids are text even where they look like numbers, or like a gap.
        columns = pd.read_csv(file, nrows=0).columns.drop("config_id", errors="ignore")
        gaps = {name: ["", "nan"] for name in columns}
        return pd.read_csv(file, dtype={"config_id": str}, keep_default_na=False, na_values=gaps)
    except (ValueError, OSError) as error:
        raise damaged(file, f"{type(error).__name__}: {error}") from error
