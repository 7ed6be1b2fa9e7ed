"""The tables of a report: one row a strategy, in the shape of Table 1 of Shui et al. 2022."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eipnn.report.runs import Experiment, Training

LONG_ROWS = ("baseline-long", "la", "mp-long", "mp+la")
NOTHING = "-"


@dataclass(frozen=True)
class Measured:
    """Test errors of one row of the table over n places (split and seed).

    Args:
        name: of the row.
        places: split and seed of each value; an EIP has no seed.
        errors: (n, 2), config MAE in eV and atom MAE in eV/atom.
        steps: gradient steps of each training; empty for an EIP.
        epochs: of each training.
        alphas: of each training that has one.
        pretraining: gradient steps of the pretraining before each training that has one.
    """

    name: str
    places: tuple[tuple[int, int], ...]
    errors: np.ndarray
    steps: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    pretraining: tuple[int, ...] = ()


def measure(name: str, trainings: Sequence[Training]) -> Measured:
    """The row of some trainings of one strategy."""
    results = [t.result for t in trainings]
    return Measured(
        name,
        tuple(t.place for t in trainings),
        np.array([[r["test_config_mae"], r["test_atom_mae"]] for r in results]).reshape(-1, 2),
        tuple(int(r["gradient_steps"]) for r in results),
        tuple(int(r["epochs"]) for r in results),
        tuple(t.alpha for t in trainings if t.alpha is not None),
        tuple(t.pretraining_steps for t in trainings if t.pretraining_steps is not None),
    )


def rows(experiment: Experiment, strategies: Iterable[str]) -> dict[str, Measured]:
    """Strategy -> its row, of those that were trained."""
    found = {strategy: experiment.row(strategy) for strategy in strategies}
    return {s: measure(experiment.label(s), given) for s, given in found.items() if given}


def improvements(row: Measured, baseline: Measured) -> tuple[float, np.ndarray]:
    """Improvement of a row over the baseline, as a fraction, over the places that both have.

    The paper's: the mean of the relative gains in config MAE and in atom MAE, each of the means over the
    places. NaN where no place is shared.

    Returns:
        the improvement, and that of each shared place alone (n,).
    """
    shared = [place for place in row.places if place in baseline.places]
    if not shared:
        return float("nan"), np.empty(0)
    mine = row.errors[[row.places.index(p) for p in shared]]  # (n, 2)
    theirs = baseline.errors[[baseline.places.index(p) for p in shared]]  # (n, 2)
    each = 1 - (mine / theirs).mean(axis=1)
    return float(1 - (mine.mean(axis=0) / theirs.mean(axis=0)).mean()), each


def summary(rows: Sequence[Measured], baseline: Measured | None) -> pd.DataFrame:
    """Means and sample standard deviations as numbers, one line a row; what does not apply is NaN."""
    return pd.DataFrame([_line(row, baseline) for row in rows])


def _line(row: Measured, baseline: Measured | None) -> dict[str, object]:
    mean, spread = row.errors.mean(axis=0), deviation(row.errors)
    gain, each = float("nan"), np.empty(0)
    if baseline is not None and row.steps and row.name != baseline.name:
        gain, each = improvements(row, baseline)
    return {
        "row": row.name,
        "n": len(row.errors),
        "config_mae_eV": mean[0],
        "config_mae_sd": spread[0],
        "atom_mae_eV_per_atom": mean[1],
        "atom_mae_sd": spread[1],
        "improvement_percent": 100 * gain,
        "improvement_sd": 100 * deviation(each),
        "improvement_n": len(each),
        "gradient_steps": _joined(row.steps),
        "epochs": _joined(row.epochs),
        "alpha": _joined(row.alphas),
        "pretraining_steps": _joined(row.pretraining),
    }


def deviation(values: np.ndarray) -> np.ndarray:
    """Sample standard deviation along the first axis; NaN for fewer than two values."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `summary` as people read it: mean ± spread, with units."""
    return pd.DataFrame(
        {
            "": table["row"],
            "config MAE (eV)": _with_spread(table, "config_mae_eV", "config_mae_sd", ".4f"),
            "atom MAE (eV/atom)": _with_spread(table, "atom_mae_eV_per_atom", "atom_mae_sd", ".4f"),
            "improvement (%)": _with_spread(table, "improvement_percent", "improvement_sd", ".1f"),
            "n": table["n"].astype(str),
            "gradient steps": _or_nothing(table["gradient_steps"]),
            "epochs": _or_nothing(table["epochs"]),
            "pretraining steps": _or_nothing(table["pretraining_steps"]),
            "alpha": _or_nothing(table["alpha"]),
        }
    )


def missing(experiment: Experiment, strategies: Sequence[str]) -> list[str]:
    """What the table lacks, in words: the strategies that are not finished on every split and seed."""
    places = sorted({t.place for t in experiment.trainings})
    notes = []
    for strategy in strategies:
        there = {t.place for t in experiment.row(strategy)}
        if absent := [p for p in places if p not in there]:
            where = ", ".join(f"split {split} seed {seed}" for split, seed in absent)
            name = experiment.label(strategy)
            notes.append(f"{name} (`{strategy}`) on {where}: no finished training")
    return notes


def alpha_search(experiment: Experiment) -> pd.DataFrame:
    """Validation config MAE (eV) for each alpha, where several were tried; one line a training."""
    searched = [t for s in experiment.strategies for t in experiment.row(s) if len(t.alphas) > 1]
    tried = sorted({float(alpha) for t in searched for alpha in t.alphas})
    lines = []
    for t in searched:
        scores = {float(alpha): score for alpha, score in t.alphas.items()}
        name = f"{experiment.label(t.strategy)}, split {t.fold.split} seed {t.fold.seed}"
        cells = [f"{scores[a]:.4f}" if a in scores else NOTHING for a in tried]
        lines.append([name, *cells, f"{t.alpha:g}"])
    return pd.DataFrame(lines, columns=["", *(f"alpha {a:g}" for a in tried), "taken"])


def trainings(experiment: Experiment) -> pd.DataFrame:
    """All trainings one by one, as numbers."""
    rows = [t for strategy in experiment.strategies for t in experiment.row(strategy)]
    return pd.DataFrame(
        {
            "strategy": t.strategy,
            "split": t.fold.split,
            "seed": t.fold.seed,
            "alpha": t.alpha,
            "config_mae_eV": t.result["test_config_mae"],
            "atom_mae_eV_per_atom": t.result["test_atom_mae"],
            "epochs": t.result["epochs"],
            "gradient_steps": t.result["gradient_steps"],
            "pretraining_steps": t.pretraining_steps,
            "seconds": t.result.get("seconds"),
            "run": str(t.fold.run),
        }
        for t in rows
    )


def rounded(table: pd.DataFrame, decimals: int = 4) -> pd.DataFrame:
    """The cells as text, nothing as `NOTHING`."""
    text = table.astype(object).map(lambda value: f"{value:.{decimals}f}" if isinstance(value, float) else str(value))
    return text.mask(table.isna(), NOTHING)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    align = ["left"] + ["right"] * (len(table.columns) - 1)
    # The cells are text by now: nothing is to be parsed as a number again.
    return table.to_markdown(index=False, colalign=align, disable_numparse=True)


def _joined(values: Sequence[float]) -> str:
    """The different values in order; of many counts the range."""
    unique = sorted(set(values))
    if len(unique) > 2 and all(isinstance(v, int) for v in unique):
        return f"{unique[0]} to {unique[-1]}"
    return ", ".join(str(v) if isinstance(v, int) else f"{v:g}" for v in unique)


def _with_spread(table: pd.DataFrame, mean: str, spread: str, form: str) -> list[str]:
    return [
        NOTHING if np.isnan(m) else f"{m:{form}}" if np.isnan(s) else f"{m:{form}} ± {s:{form}}"
        for m, s in zip(table[mean], table[spread], strict=True)
    ]


def _or_nothing(column: pd.Series) -> list[str]:
    return [value or NOTHING for value in column]
