"""The tables of a report: one row a strategy, in the shape of Table 1 of Shui et al. 2022."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from eipnn.report.runs import Experiment

NOTHING = "-"
PLACE = ["split", "seed"]
ERRORS = ["config_mae_eV", "atom_mae_eV_per_atom"]
MEANS = {
    "n": ("split", "size"),
    "config_mae_eV": (ERRORS[0], "mean"),
    "config_mae_sd": (ERRORS[0], "std"),
    "atom_mae_eV_per_atom": (ERRORS[1], "mean"),
    "atom_mae_sd": (ERRORS[1], "std"),
}
"""Of the lines of a strategy."""
TYPES = {"alpha": float} | dict.fromkeys(("epochs", "gradient_steps", "pretraining_steps"), "Int64")


def measured(experiment: Experiment, more: Iterable[Mapping[str, Any]] = ()) -> pd.DataFrame:
    """All trainings with all DFT frames, one a line: ``strategy``, `PLACE`, `ERRORS` on test, steps, ...

    `more` are lines of what was measured but not trained, such as EIPs; what they lack is empty.
    """
    trained = [
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
        for strategy in experiment.strategies
        for t in experiment.row(strategy)
    ]
    return pd.DataFrame([*trained, *more]).astype(TYPES)


def improvements(mine: pd.DataFrame, baseline: pd.DataFrame) -> tuple[float, pd.Series]:
    """Improvement of a strategy's lines over those of another, as a fraction, over the places that both have.

    The paper's: the mean of the relative gains in config MAE and in atom MAE, each of the means over the
    places. NaN where no place is shared.

    Returns:
        the improvement, and that of each shared place alone (n,).
    """
    a, b = (table.set_index(PLACE)[ERRORS] for table in (mine, baseline))
    shared = a.index.intersection(b.index)
    a, b = a.loc[shared], b.loc[shared]
    return float(1 - (a.mean() / b.mean()).mean()), 1 - (a / b).mean(axis=1)


def summary(table: pd.DataFrame, names: Mapping[str, str], baseline: str) -> pd.DataFrame:
    """Means and sample standard deviations as numbers, one line a row; what does not apply is NaN or empty.

    Args:
        table: of `measured`.
        names: strategy -> name of its row; strategies that are not in `table` have none.
        baseline: the strategy to improve upon.
    """
    groups = table.groupby("strategy")
    found, base = groups.agg(**MEANS), table[table["strategy"] == baseline]
    gains = {}
    for strategy, mine in groups:
        trained = mine.dropna(subset="gradient_steps")  # an EIP is not
        gain, each = improvements(trained, base if strategy != baseline else base[:0])
        gains[strategy] = 100 * gain, 100 * each.std(), len(each)
    columns = ["improvement_percent", "improvement_sd", "improvement_n"]
    found = found.join(pd.DataFrame.from_dict(gains, orient="index", columns=columns))
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


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """A `summary` as people read it: mean ± spread, with units."""

    def spread(mean: str, deviation: str, form: str) -> list[str]:
        pairs = zip(table[mean], table[deviation], strict=True)
        return [" ± ".join(f"{x:{form}}" for x in pair if pd.notna(x)) or NOTHING for pair in pairs]

    return pd.DataFrame(
        {
            "": table["row"],
            "config MAE (eV)": spread("config_mae_eV", "config_mae_sd", ".4f"),
            "atom MAE (eV/atom)": spread("atom_mae_eV_per_atom", "atom_mae_sd", ".4f"),
            "improvement (%)": spread("improvement_percent", "improvement_sd", ".1f"),
            "n": table["n"].astype(str),
            "gradient steps": table["gradient_steps"].replace("", NOTHING),
            "epochs": table["epochs"].replace("", NOTHING),
            "pretraining steps": table["pretraining_steps"].replace("", NOTHING),
            "alpha": table["alpha"].replace("", NOTHING),
        }
    )


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
    """Validation config MAE (eV) for each alpha, where several were tried; one line a training."""
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
