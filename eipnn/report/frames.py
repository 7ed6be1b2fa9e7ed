"""Test errors by number of DFT frames, and how many of them a strategy saves."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from eipnn.metrics import CONFIG, FORCE, Metric
from eipnn.report import plots
from eipnn.report.page import Output
from eipnn.report.runs import Experiment
from eipnn.report.tables import MEANS, NOTHING, markdown, measured, readable_errors
from eipnn.run.strategy import DELTA, MAIN

REFERENCES = ("baseline-long", "baseline")
"""What a strategy is compared with: DFT alone, at equal gradient steps where that was trained."""
SAVED_FILES = {CONFIG: "frames_saved", FORCE: "frames_saved_forces"}
SAVED = (
    "**Frames needed** is the number of DFT frames with which the row that is compared with reaches the same mean "
    "config MAE (in forces: force MAE), interpolated linearly in both logarithms, and its ratio to the number that "
    "the row had; `>` and `<` mark errors beyond the ends of its curve."
)
ENOUGH = (
    "Few frames need as many gradient steps as many do: compare rows at steps that were enough for each. "
    "`finetune: {data: {epoch_steps: N}}` in the experiment gives every training N steps an epoch."
)


def fewer_frames(experiment: Experiment, output: Output, total: int | None) -> Iterator[str]:
    """The section of a report; `total`: all DFT frames for training and validation, None where that is not known."""
    if total is None or not experiment.reduced:
        return
    table = errors_by_frames(dict(experiment.reduced) | {total: experiment})
    output.csv("errors_by_frames", table)
    names = {name: experiment.label(name) for name in set(table["strategy"])}
    shown = drawn(table)
    yield "### How many DFT frames"
    text = "Test errors by number of DFT frames"
    yield output.picture("frames", text, plots.errors_by_frames, table, shown, names)
    low, high = table["n"].min(), table["n"].max()
    yield (
        f"Mean and sample standard deviation over {low if low == high else f'{low} to {high}'} splits and seeds. A "
        "smaller set is part of each larger one; frames that are left out join the pool, without their DFT labels. All "
        "rows of the picture take the gradient steps of +LA in fine-tuning where their name ends in long or +LA."
    )
    against = reference(table)
    saved = {}
    for metric, name in SAVED_FILES.items():
        if against and table.loc[table["strategy"] == against, metric.column].notna().all():
            found = frames_saved(table, against, metric.column)
            output.csv(name, found)
            saved[metric] = found[found["strategy"].isin(shown)]
    table = table.set_index("strategy").loc[shown].reset_index().sort_values("frames", kind="stable")
    cells = {"DFT frames": table["frames"].astype(str), "row": table["strategy"].map(names)} | readable_errors(table)
    cells["gradient steps"] = table["gradient_steps"].map("{:.0f}".format)
    for metric, found in saved.items():
        heading = f"frames {names[str(against)]} needs{' in forces' if metric is FORCE else ''}"
        cells[heading] = _cells(table[["frames", "strategy"]].merge(found, how="left"))
    yield markdown(pd.DataFrame(cells))
    yield ENOUGH
    if against and saved:
        yield SAVED
        for metric, found in saved.items():
            yield _best(found[found["bound"] == ""], names, against, metric)


def _cells(saved: pd.DataFrame) -> list[str]:
    """The frames that are needed, and their ratio to those that were there."""
    bounds = {"more": "> all", "fewer": "< fewest", "": None}
    return [
        bounds.get(row.bound, NOTHING) or f"{row.frames_needed:.0f} (x {row.ratio:.2f})" for row in saved.itertuples()
    ]


def errors_by_frames(experiments: Mapping[int, Experiment]) -> pd.DataFrame:
    """One line a number of frames and strategy: n folds, mean and sample deviation of the test errors, steps."""
    table = pd.concat([measured(experiment).assign(frames=frames) for frames, experiment in experiments.items()])
    groups = table.groupby(["frames", "strategy"], sort=False)
    return groups.agg(**MEANS, gradient_steps=("gradient_steps", "mean")).reset_index()


def reference(table: pd.DataFrame) -> str | None:
    """The strategy to compare with: the first of `REFERENCES` that was trained with every number of frames."""
    numbers = table.groupby("strategy")["frames"].nunique()
    return next((name for name in REFERENCES if numbers.get(name) == table["frames"].nunique()), None)


def frames_saved(table: pd.DataFrame, against: str, error: str = CONFIG.column) -> pd.DataFrame:
    """How many DFT frames the reference needs for the error that a strategy reaches with fewer.

    The reference's mean error is interpolated between its numbers of frames, linearly in both logarithms, where it
    falls; beyond its ends ``frames_needed`` is NaN and ``bound`` says ``more`` or ``fewer``.

    Args:
        table: of `errors_by_frames`.
        against: the reference.
        error: the column of the errors.
    """
    curve = table[table["strategy"] == against].sort_values("frames")
    numbers, errors = curve["frames"].to_numpy(float), curve[error].to_numpy(float)
    errors = np.minimum.accumulate(errors)  # with more frames one could always have taken fewer
    others = table.loc[table["strategy"] != against, ["frames", "strategy", error]]
    found = others.dropna().reset_index(drop=True)
    needed = [_needed(numbers, errors, value) for value in found[error]]
    found[["frames_needed", "bound"]] = pd.DataFrame(needed, columns=["frames_needed", "bound"])
    return found.assign(ratio=found["frames_needed"] / found["frames"])


def _needed(numbers: np.ndarray, errors: np.ndarray, error: float) -> tuple[float, str]:
    """Frames at which a falling curve reaches an error; outside of it NaN and on which side."""
    if not errors[-1] <= error <= errors[0]:
        return float("nan"), "more" if error < errors[-1] else "fewer"
    # flat parts count with their fewest frames
    errors, first = np.unique(errors, return_index=True)
    return float(np.exp(np.interp(np.log(error), np.log(errors), np.log(numbers[first])))), ""


def drawn(table: pd.DataFrame) -> list[str]:
    """The strategies of the picture: energies alone, Table 1's and delta learning.

    In their -long forms where `reference` is long and these were trained with all numbers of frames that the short ones
    were.
    """
    numbers = {name: set(part["frames"]) for name, part in table.groupby("strategy")}
    fair = reference(table) == "baseline-long"
    chosen = []
    for name in ("energies", *MAIN, *DELTA):
        long = f"{name}-long"
        if fair and long in numbers and numbers.get(name, set()) <= numbers[long]:
            chosen.append(long)
        elif name in numbers:
            chosen.append(name)
    return chosen


def _best(known: pd.DataFrame, names: Mapping[str, str], against: str, metric: Metric) -> str:
    """What a user wants to know, for the strategy that saves most."""
    error = metric.heading.partition(" (")[0]
    if known.empty:
        return f"No row's {error} lies within the compared curve, so no number of saved frames can be given."
    mean = np.exp(np.log(known["ratio"]).groupby(known["strategy"]).mean())
    best = str(mean.idxmax())
    rows = known[known["strategy"] == best]
    each = ", ".join(f"{row.frames} in place of {row.frames_needed:.0f}" for row in rows.itertuples())
    verdict = "saves" if mean[best] > 1 else "saves no frames: it costs"
    return (
        f"**{names[best]} {verdict} DFT frames at equal {error} by a factor of {mean[best]:.2f}** (geometric mean over "
        f"the numbers of frames where it can be told, against {names[against]}): {each}."
    )
