"""Sections of a report beyond Table 1: one EIP alone and delta learning, fewer DFT frames, lost ground."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from eipnn.report import frames, plots, tables
from eipnn.report.page import Output
from eipnn.report.runs import Experiment, read_json
from eipnn.report.tables import markdown
from eipnn.run.strategy import MAIN_AND_LONG

SAVED = (
    "**Frames needed** is the number of DFT frames with which the row that is compared with reaches the same mean "
    "config MAE, interpolated linearly in both logarithms; `>` and `<` mark errors beyond the ends of its curve."
)


def one_eip(experiment: Experiment, output: Output) -> Iterator[str]:
    """What the rows that need the single best EIP reach."""
    singles = {name: kind for name, kind in experiment.strategies.items() if kind.single}
    on_one = sorted(singles, key=lambda name: singles[name].delta)
    trained = [t for name in on_one for t in experiment.row(name)]
    if not trained:
        return
    rows = tables.rows(experiment, (*MAIN_AND_LONG, *on_one))
    table = tables.summary([*rows.values()], rows.get("baseline"))
    output.csv("one_eip", table)
    plots.bars(rows.values(), output.folder / "one_eip.png")
    eips = {str(read_json(t.folder / "done.json").get("single_eip")) for t in trained}
    yield "### One EIP alone, and delta learning"
    yield (
        "What one would do with the EIP that has the lowest config MAE on train and validation: label the "
        "whole pool with it (+LA), pretrain on it (+MP), or learn the difference to DFT (delta learning); +MP on "
        "DFT - EIP is delta learning after pretraining on all EIPs. The improvement is over "
        f"{experiment.backbone}; rows with EIP labels and long ones take more gradient steps. "
        f"That EIP is {', '.join(sorted(eips))}."
    )
    yield markdown(tables.readable(table))
    yield output.picture("one_eip", "One EIP alone, and delta learning: test config MAE")


def fewer_frames(experiment: Experiment, output: Output, total: int | None) -> Iterator[str]:
    """Errors by number of DFT frames, the frames that are saved, and where strategies lose to DFT alone.

    Args:
        experiment: with its trainings on fewer frames.
        output: of the report.
        total: number of DFT frames for training and validation; None where the split cannot be read.
    """
    if total is None:
        return
    experiments = dict(experiment.reduced) | {total: experiment}
    if len(experiments) > 1:
        yield from _learning(experiment, output, frames.errors_by_frames(experiments))
    transfer = frames.negative_transfer(experiments)
    if transfer.empty:
        return
    output.csv("negative_transfer", transfer)
    yield "### Negative transfer"
    losing = transfer[transfer["gain_percent"] < 0]
    where = [f"{experiment.label(r.strategy)} with {r.frames} frames" for r in losing.itertuples()]
    yield (
        f"{len(losing)} of {len(transfer)} rows lose to DFT alone on average"
        + (f": {', '.join(where)}." if where else ".")
        + " Gains are the paper's improvement; `lost` counts splits and seeds, `worst` is the worst of them. Rows "
        "with EIP labels and long ones stand against the long training on DFT alone, where there is one; the last "
        "two columns are the gradient steps of both."
    )
    names = {name: transfer[name].map(experiment.label) for name in ("strategy", "against")}
    yield markdown(tables.rounded(transfer.assign(**names), decimals=1))


def _learning(experiment: Experiment, output: Output, table: pd.DataFrame) -> Iterator[str]:
    output.csv("errors_by_frames", table)
    names = {name: experiment.label(name) for name in set(table["strategy"])}
    frames.plot_frames(table, frames.drawn(table), names, output.folder / "frames.png")
    yield "### How many DFT frames"
    yield output.picture("frames", "Test errors by number of DFT frames")
    low, high = table["n"].min(), table["n"].max()
    yield (
        f"Mean and sample standard deviation over {low if low == high else f'{low} to {high}'} splits and seeds. A "
        "smaller set is part of each larger one; frames that are left out join the pool, without their DFT energy. All "
        "rows of the picture take the gradient steps of +LA in fine-tuning where their name ends in long or +LA."
    )
    against = frames.reference(table)
    if against is None:
        return
    saved = frames.frames_saved(table, against)
    output.csv("frames_saved", saved)
    shown = saved[saved["strategy"].isin(frames.drawn(table))]
    yield markdown(_saved_text(shown, names, f"frames {names[against]} needs"))
    yield SAVED
    yield _sentence(shown, names, against)


def _saved_text(saved: pd.DataFrame, names: Mapping[str, str], needed: str) -> pd.DataFrame:
    lines = []
    for row in saved.itertuples():
        text = {"more": "> all", "fewer": "< fewest"}.get(row.bound, f"{row.frames_needed:.0f}")
        ratio = "-" if row.bound else f"{row.ratio:.2f}"
        lines.append((str(row.frames), names[row.strategy], f"{row.config_mae_eV:.4f}", text, ratio))
    return pd.DataFrame(lines, columns=["DFT frames", "row", "config MAE (eV)", needed, "ratio"])


def _sentence(saved: pd.DataFrame, names: Mapping[str, str], against: str) -> str:
    """What a user wants to know, for the strategy that saves most."""
    known = saved[saved["bound"] == ""]
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
