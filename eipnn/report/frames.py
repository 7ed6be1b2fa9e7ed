"""Test errors by number of DFT frames, and how many of them a strategy saves."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from eipnn.report import plots
from eipnn.report.page import Output
from eipnn.report.runs import Experiment
from eipnn.report.tables import MEANS, markdown, measured
from eipnn.run.strategy import DELTA, MAIN

REFERENCES = ("baseline-long", "baseline")
"""What a strategy is compared with: DFT alone, at equal gradient steps where that was trained."""
SAVED = (
    "**Frames needed** is the number of DFT frames with which the row that is compared with reaches the same mean "
    "config MAE, interpolated linearly in both logarithms; `>` and `<` mark errors beyond the ends of its curve."
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
        "smaller set is part of each larger one; frames that are left out join the pool, without their DFT energy. All "
        "rows of the picture take the gradient steps of +LA in fine-tuning where their name ends in long or +LA."
    )
    if against := reference(table):
        saved = frames_saved(table, against)
        output.csv("frames_saved", saved)
        saved = saved[saved["strategy"].isin(shown)]
        bounds = saved["bound"].map({"more": "> all", "fewer": "< fewest"})
        cells = {
            "DFT frames": saved["frames"].astype(str),
            "row": saved["strategy"].map(names),
            "config MAE (eV)": saved["config_mae_eV"].map("{:.4f}".format),
            f"frames {names[against]} needs": bounds.fillna(saved["frames_needed"].map("{:.0f}".format)),
            "ratio": saved["ratio"].map("{:.2f}".format).mask(bounds.notna(), "-"),
        }
        yield markdown(pd.DataFrame(cells))
        yield SAVED
        yield _best(saved[saved["bound"] == ""], names, against)


def errors_by_frames(experiments: Mapping[int, Experiment]) -> pd.DataFrame:
    """One line a number of frames and strategy: n folds, mean and sample deviation of both test errors, steps."""
    table = pd.concat([measured(experiment).assign(frames=frames) for frames, experiment in experiments.items()])
    groups = table.groupby(["frames", "strategy"], sort=False)
    return groups.agg(**MEANS, gradient_steps=("gradient_steps", "mean")).reset_index()


def reference(table: pd.DataFrame) -> str | None:
    """The strategy to compare with: the first of `REFERENCES` that was trained with every number of frames."""
    numbers = table.groupby("strategy")["frames"].nunique()
    return next((name for name in REFERENCES if numbers.get(name) == table["frames"].nunique()), None)


def frames_saved(table: pd.DataFrame, against: str) -> pd.DataFrame:
    """How many DFT frames the reference needs for the error that a strategy reaches with fewer.

    The reference's mean config MAE is interpolated between its numbers of frames, linearly in both logarithms, where it
    falls; beyond its ends ``frames_needed`` is NaN and ``bound`` says ``more`` or ``fewer``.
    """
    curve = table[table["strategy"] == against].sort_values("frames")
    numbers, errors = curve["frames"].to_numpy(float), curve["config_mae_eV"].to_numpy(float)
    errors = np.minimum.accumulate(errors)  # with more frames one could always have taken fewer
    found = table.loc[table["strategy"] != against, ["frames", "strategy", "config_mae_eV"]].reset_index(drop=True)
    needed = [_needed(numbers, errors, error) for error in found["config_mae_eV"]]
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
    """The strategies of the picture: Table 1's and delta learning.

    In their -long forms where `reference` is long and these were trained with all numbers of frames that the short ones
    were.
    """
    numbers = {name: set(part["frames"]) for name, part in table.groupby("strategy")}
    fair = reference(table) == "baseline-long"
    chosen = []
    for name in (*MAIN, *DELTA):
        long = f"{name}-long"
        if fair and long in numbers and numbers.get(name, set()) <= numbers[long]:
            chosen.append(long)
        elif name in numbers:
            chosen.append(name)
    return chosen


def _best(known: pd.DataFrame, names: Mapping[str, str], against: str) -> str:
    """What a user wants to know, for the strategy that saves most."""
    if known.empty:
        return "No row's error lies within the compared curve, so no number of saved frames can be given."
    mean = np.exp(np.log(known["ratio"]).groupby(known["strategy"]).mean())
    best = str(mean.idxmax())
    rows = known[known["strategy"] == best]
    each = ", ".join(f"{row.frames} in place of {row.frames_needed:.0f}" for row in rows.itertuples())
    verdict = "saves" if mean[best] > 1 else "saves no frames: it costs"
    return (
        f"**{names[best]} {verdict} DFT frames at equal error by a factor of {mean[best]:.2f}** (geometric mean over "
        f"the numbers of frames where it can be told, against {names[against]}): {each}."
    )
