"""How good the labels are that the classifier chooses, beside the networks' own errors.

Label augmentation can only teach what the labels know: where a network trained on DFT alone is closer to DFT than
the chosen EIPs, they have little left to add.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from eipnn.eips import NONE
from eipnn.report import folds
from eipnn.report.runs import Experiment, Fold
from eipnn.report.sources import FoldData

LABELS = "chosen EIP labels"


def label_quality(experiment: Experiment, data: Sequence[FoldData]) -> pd.DataFrame:
    """Errors on the test configurations for which the classifier chose an EIP, pooled over splits and seeds.

    One row for the chosen labels, one for each strategy: ``row``, ``n``, ``config_mae_eV``,
    ``atom_mae_eV_per_atom``. Empty where no classifier was trained or it chose no EIP.
    """
    by_split = {d.fold.split: d for d in data if d.comparison is not None}
    there = [f for f in folds.classified(experiment.folds) if f.split in by_split]
    chosen = {(f.split, f.seed): _chosen(f, by_split[f.split]) for f in there}
    if not sum(map(len, chosen.values())):
        return pd.DataFrame()
    rows = [_row(LABELS, list(chosen.values()))]
    for strategy in experiment.strategies:
        parts = []
        for training in experiment.row(strategy):
            if training.place in chosen:
                table = folds.predictions(training)
                picked = table["config_id"].isin(chosen[training.place]["config_id"])
                error = table["prediction"] - table["energy"]
                parts.append(table.assign(error=error)[picked])
        if parts:
            rows.append(_row(experiment.label(strategy), parts))
    return pd.DataFrame(rows)


def _chosen(fold: Fold, data: FoldData) -> pd.DataFrame:
    """``config_id``, ``n_atoms`` and ``error`` (eV) of the labels that the classifier chose on test."""
    assert data.comparison is not None
    table = folds.classification([fold])
    table = table[table["eip"] != NONE]
    place = {name: i for i, name in enumerate(data.comparison.ids)}
    # of nothing chosen, `map` would make floats
    rows = np.array([place[name] for name in table["config_id"]], int)
    columns = np.array([data.comparison.eips.index(name) for name in table["eip"]], int)
    error = data.comparison.labels[rows, columns] - data.comparison.dft[rows]
    found = pd.DataFrame(
        {
            "config_id": table["config_id"].to_numpy(),
            "n_atoms": data.comparison.n_atoms[rows],
            "error": error,
        }
    )
    return found[np.isfinite(found["error"])]


def _row(name: str, parts: Sequence[pd.DataFrame]) -> dict[str, object]:
    table = pd.concat(parts, ignore_index=True)
    error = table["error"].abs()
    return {
        "row": name,
        "n": len(table),
        "config_mae_eV": error.mean(),
        "atom_mae_eV_per_atom": (error / table["n_atoms"]).mean(),
    }
