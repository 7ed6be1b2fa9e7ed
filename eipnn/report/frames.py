"""Test errors by number of DFT frames, and how many of them a strategy saves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from eipnn.report.plots import COLOURS, STYLE, legend_aside, log_ticks
from eipnn.report.runs import Experiment
from eipnn.report.tables import deviation, improvements, rows
from eipnn.run.strategy import DELTA, MAIN

REFERENCES = ("baseline-long", "baseline")
"""What a strategy is compared with: DFT alone, at equal gradient steps where that was trained."""


def errors_by_frames(experiments: Mapping[int, Experiment]) -> pd.DataFrame:
    """One line a number of frames and strategy: n folds, mean and sample deviation of both test errors, steps."""
    lines = []
    for frames, experiment in experiments.items():
        for name, row in rows(experiment, experiment.strategies).items():
            mean, spread = row.errors.mean(axis=0), deviation(row.errors)
            lines.append(
                {
                    "frames": frames,
                    "strategy": name,
                    "n": len(row.errors),
                    "config_mae_eV": mean[0],
                    "config_mae_sd": spread[0],
                    "atom_mae_eV_per_atom": mean[1],
                    "atom_mae_sd": spread[1],
                    "gradient_steps": float(np.mean(row.steps)),
                }
            )
    return pd.DataFrame(lines)


def reference(table: pd.DataFrame) -> str | None:
    """The strategy to compare with: the first of `REFERENCES` that was trained with every number of frames."""
    numbers = set(table["frames"])
    for name in REFERENCES:
        if set(table.loc[table["strategy"] == name, "frames"]) == numbers:
            return name
    return None


def frames_saved(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """How many DFT frames the reference needs for the error that a strategy reaches with fewer.

    The reference's mean config MAE is interpolated between its numbers of frames, linearly in both logarithms, where it
    falls; beyond its ends there is no number, only a bound.

    Args:
        table: of `errors_by_frames`.
        against: the strategy to compare with.

    Returns:
        ``frames``, ``strategy``, ``config_mae_eV``, ``frames_needed`` (NaN outside of the curve), ``bound`` (``more``
        or ``fewer`` where it is), ``ratio`` = frames_needed / frames.
    """
    curve = table[table["strategy"] == against].sort_values("frames")
    numbers, errors = curve["frames"].to_numpy(float), curve["config_mae_eV"].to_numpy(float)
    errors = np.minimum.accumulate(errors)  # with more frames one could always have taken fewer
    lines = []
    for row in table[table["strategy"] != against].itertuples():
        needed, bound = _needed(numbers, errors, row.config_mae_eV)
        lines.append((row.frames, row.strategy, row.config_mae_eV, needed, bound))
    names = ["frames", "strategy", "config_mae_eV", "frames_needed", "bound"]
    found = pd.DataFrame(lines, columns=names)
    return found.assign(ratio=found["frames_needed"] / found["frames"])


def _needed(numbers: np.ndarray, errors: np.ndarray, error: float) -> tuple[float, str]:
    """Frames at which a falling curve reaches an error; outside of it NaN and on which side."""
    if error < errors[-1]:
        return float("nan"), "more"
    if error > errors[0]:
        return float("nan"), "fewer"
    # the last place where the curve is still above, so that flat parts count with their fewest frames
    place = int(np.argmax(errors <= error))
    if place == 0 or errors[place] == error:
        return float(numbers[place]), ""
    x, y = np.log(numbers[place - 1 : place + 1]), np.log(errors[place - 1 : place + 1])
    return float(np.exp(np.interp(-np.log(error), -y, x))), ""


def negative_transfer(experiments: Mapping[int, Experiment]) -> pd.DataFrame:
    """Where a strategy loses to DFT alone.

    Returns:
        One line a number of frames and strategy: ``against`` (``baseline-long`` where it was trained, at equal steps),
        ``n`` folds, ``lost`` of them, ``gain_percent`` (the paper's improvement), ``worst_percent`` of one fold,
        ``steps`` and ``steps_against``, the mean gradient steps of both.
    """
    lines = []
    for frames, experiment in experiments.items():
        found = rows(experiment, experiment.strategies)
        against = next((name for name in REFERENCES if name in found), None)
        for name, row in found.items():
            if against is None or name in REFERENCES:
                continue
            fair = "baseline" if experiment.strategies[name].short and "baseline" in found else against
            gain, each = improvements(row, found[fair])
            if len(each):
                lines.append(
                    {
                        "frames": frames,
                        "strategy": name,
                        "against": fair,
                        "n": len(each),
                        "lost": int((each < 0).sum()),
                        "gain_percent": 100 * gain,
                        "worst_percent": 100 * each.min(),
                        "steps": round(np.mean(row.steps)),
                        "steps_against": round(np.mean(found[fair].steps)),
                    }
                )
    return pd.DataFrame(lines)


def plot_frames(table: pd.DataFrame, strategies: Sequence[str], names: Mapping[str, str], file: Path) -> None:
    """Config and atom MAE on test by number of DFT frames: mean and sample deviation over the folds.

    Args:
        table: of `errors_by_frames`.
        strategies: which to draw.
        names: strategy -> name in the legend.
        file: PNG to write.
    """
    kinds = {
        "config_mae": ("config_mae_eV", "test config MAE (eV)"),
        "atom_mae": ("atom_mae_eV_per_atom", "test atom MAE (eV/atom)"),
    }
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.4))
        for axis, (kind, (column, label)) in zip(figure.subplots(1, 2), kinds.items(), strict=True):
            for number, name in enumerate(strategies):
                curve = table[table["strategy"] == name].sort_values("frames")
                aside = 1 + 0.015 * (number - len(strategies) / 2)  # error bars side by side
                axis.errorbar(
                    curve["frames"] * aside,
                    curve[column],
                    curve[f"{kind}_sd"],
                    color=COLOURS[name],
                    marker="os^Dvp"[number % 6],
                    capsize=3,
                    label=names[name],
                )
            axis.set(xscale="log", yscale="log", xlabel="DFT frames (training + validation)")
            axis.set_ylabel(label)
            axis.xaxis.set_major_locator(FixedLocator(sorted(set(table["frames"]))))
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.xaxis.set_minor_locator(NullLocator())
            log_ticks(axis)
            axis.grid()
        legend_aside(figure, axis)
        figure.savefig(file)


def drawn(table: pd.DataFrame) -> list[str]:
    """The strategies of the picture: Table 1's and delta learning.

    In their -long forms where `reference` is long and these were trained with all numbers of frames that the short ones
    were.
    """
    numbers = {name: set(part["frames"]) for name, part in table.groupby("strategy")}
    fair = reference(table) == "baseline-long"
    chosen = []
    for name in (*MAIN, *DELTA):
        long = f"{name}-long"
        enough = numbers.get(name, set()) <= numbers.get(long, set())
        if fair and long in numbers and enough:
            chosen.append(long)
        elif name in numbers:
            chosen.append(name)
    return chosen
