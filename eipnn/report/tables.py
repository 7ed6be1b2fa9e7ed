"""The tables of a report: one row a strategy, in the shape of Table 1 of Shui et al. 2022."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from eipnn.metrics import ATOM, CONFIG, FORCE, METRICS
from eipnn.report.runs import Experiment

NOTHING = "-"
PLACE = ["split", "seed"]
ENERGIES = [CONFIG.column, ATOM.column]
"""The errors of which the paper's improvement is."""
IMPROVED = {"improvement": ENERGIES, "force_improvement": [FORCE.column]}
MEANS = {"n": ("split", "size"), "seconds": ("seconds", "mean")}
for metric in METRICS:
    MEANS |= {metric.column: (metric.column, "mean"), metric.deviation: (metric.column, "std")}
"""Of the lines of a strategy."""
TYPES = dict.fromkeys(("alpha", *(metric.column for metric in METRICS)), "float64") | dict.fromkeys(
    ("epochs", "gradient_steps", "pretraining_steps"), "Int64"
)


def measured(experiment: Experiment, more: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """All trainings with all DFT frames, one a line: ``strategy``, `PLACE`, the `METRICS` on test, steps, ...

    `more` are lines of what was measured but not trained, such as EIPs; what they lack is empty.
    """
    trained = [
        {
            "strategy": t.strategy,
            "split": t.fold.split,
            "seed": t.fold.seed,
            "alpha": t.alpha,
            **{metric.column: t.result.get(metric.result) for metric in METRICS},
            "epochs": t.result["epochs"],
            "gradient_steps": t.result["gradient_steps"],
            "pretraining_steps": t.pretraining_steps,
            "seconds": t.result.get("seconds"),
            "run": str(t.fold.run),
        }
        for strategy in experiment.strategies
        for t in experiment.row(strategy)
    ]
    return pd.DataFrame([*trained, *more]).astype(TYPES)


def improvements(
    mine: pd.DataFrame, baseline: pd.DataFrame, errors: Sequence[str] = ENERGIES
) -> tuple[float, pd.Series]:
    """Improvement of a strategy's lines over those of another, as a fraction, over the places that both have.

    The paper's: the mean of the relative gains in config MAE and in atom MAE, each of the means over the
    places. NaN where no place is shared.

    Args:
        mine: lines of `measured`.
        baseline: likewise.
        errors: the columns of which it is the mean.

    Returns:
        the improvement, and that of each shared place alone (n,).
    """
    a, b = (table.set_index(PLACE)[list(errors)].dropna() for table in (mine, baseline))
    shared = a.index.intersection(b.index)
    a, b = a.loc[shared], b.loc[shared]
    return float(1 - (a.mean() / b.mean()).mean()), 1 - (a / b).mean(axis=1)


def summary(table: pd.DataFrame, names: Mapping[str, str], baselines: Mapping[str, str]) -> pd.DataFrame:
    """Means and sample standard deviations as numbers, one line a row; what does not apply is NaN or empty.

    Args:
        table: of `measured`.
        names: strategy -> name of its row; strategies that are not in `table` have none.
        baselines: strategy -> the one that it is to improve upon.
    """
    groups = table.groupby("strategy")
    found = groups.agg(**MEANS)
    gains: dict[Any, dict[str, float]] = {}
    for strategy, mine in groups:
        against = baselines.get(strategy, strategy)
        base = table[(table["strategy"] == against) & (against != strategy)]
        trained = mine.dropna(subset="gradient_steps")  # an EIP is not
        gains[strategy] = {}
        for name, errors in IMPROVED.items():
            gain, each = improvements(trained, base, errors)
            gains[strategy] |= {f"{name}_percent": 100 * gain, f"{name}_sd": 100 * each.std(), f"{name}_n": len(each)}
    found = found.join(pd.DataFrame.from_dict(gains, orient="index"))
    for key in ("gradient_steps", "epochs", "alpha", "pretraining_steps"):
        found[key] = groups[key].agg(_joined)
    found = found.loc[[strategy for strategy in names if strategy in found.index]]
    found.insert(0, "row", found.index.map(names))
    return found.reset_index(drop=True)


def _joined(column: pd.Series) -> str:
    """The different values in order; of many counts the range."""
    unique = sorted(column.dropna().unique())
    if column.dtype == "Int64":
        return f"{unique[0]} to {unique[-1]}" if len(unique) > 2 else ", ".join(map(str, unique))
    return ", ".join(f"{value:g}" for value in unique)


def readable_errors(table: pd.DataFrame) -> dict[str, list[str]]:
    """The means and spreads of `MEANS` as people read them, by heading; of what no row has there is none."""
    shown = [metric for metric in METRICS if table[metric.column].notna().any()]
    return {m.heading: _spread(table, m.column, m.deviation, m.text) for m in shown}


def _spread(table: pd.DataFrame, mean: str, deviation: str, text: Callable[[float], str]) -> list[str]:
    pairs = zip(table[mean], table[deviation], strict=True)
    return [" ± ".join(text(x) for x in pair if pd.notna(x)) or NOTHING for pair in pairs]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `summary` as people read it: mean ± spread, with units."""
    columns: dict[str, Any] = {"": table["row"]} | readable_errors(table)
    for name in IMPROVED:
        if name == "improvement" or table[f"{name}_percent"].notna().any():
            heading = f"{name.replace('_', ' ')} (%)"
            columns[heading] = _spread(table, f"{name}_percent", f"{name}_sd", "{:.1f}".format)
    columns["n"] = table["n"].astype(str)
    columns["time (s)"] = [NOTHING if pd.isna(seconds) else f"{seconds:.0f}" for seconds in table["seconds"]]
    for name in ("gradient_steps", "epochs", "pretraining_steps", "alpha"):
        columns[name.replace("_", " ")] = table[name].replace("", NOTHING)
    return pd.DataFrame(columns)


def missing(experiment: Experiment, strategies: Sequence[str]) -> list[str]:
    """What the table lacks, in words: the strategies that are not finished on every split and seed."""
    places = {t.place for t in experiment.trainings}
    notes = []
    for strategy in strategies:
        if absent := sorted(places - {t.place for t in experiment.row(strategy)}):
            where = ", ".join(f"split {split} seed {seed}" for split, seed in absent)
            notes.append(f"{experiment.label(strategy)} (`{strategy}`) on {where}: no finished training")
    return notes


def alpha_search(experiment: Experiment) -> pd.DataFrame:
    """The validation error for each alpha, where several were tried; one line a training."""
    searched = [t for s in experiment.strategies for t in experiment.row(s) if len(t.alphas) > 1]
    scores = pd.DataFrame([{float(a): score for a, score in t.alphas.items()} for t in searched])
    scores = rounded(scores[sorted(scores.columns)]).rename(columns=lambda a: f"alpha {a:g}")
    names = [f"{experiment.label(t.strategy)}, split {t.fold.split} seed {t.fold.seed}" for t in searched]
    scores.insert(0, "", names)
    return scores.assign(taken=[f"{t.alpha:g}" for t in searched])


def rounded(table: pd.DataFrame, decimals: int = 4) -> pd.DataFrame:
    """The cells as text, nothing as `NOTHING`."""
    text = table.astype(object).map(lambda value: f"{value:.{decimals}f}" if isinstance(value, float) else str(value))
    return text.mask(table.isna(), NOTHING)


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    align = ["left"] + ["right"] * (len(table.columns) - 1)
    # The cells are text by now: nothing is to be parsed as a number again.
    return table.to_markdown(index=False, colalign=align, disable_numparse=True)
