"""Fig. 3b, Fig. 3c and Table 6 of Shui et al. 2022: the outliers among the chosen labels, and what became of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from eipnn.report.folds import read_table
from eipnn.report.plots import STYLE
from eipnn.report.runs import ReportError
from eipnn.stages.residuals import COUNTS, FILE, THRESHOLDS
from eipnn.stages.source import Source

LOOKS = (("#0072B2", "-"), ("#E69F00", "--"), ("#D55E00", ":"))
"""Colour (of Okabe & Ito's palette) and dashes of each threshold: equal lines, one upon the other, are all seen."""
SPREAD_COLOURS = {"spread": "#000000", "spread_dft": "#0072B2", "spread_eip": "#E69F00"}
SPREAD_NAMES = {"spread": "whole batch", "spread_dft": "DFT labels", "spread_eip": "EIP labels"}
WINDOWS = 50
"""The running mean is over this part of the steps."""


def read_residuals(stage: Path) -> pd.DataFrame:
    """The log of a training with EIP labels, see `eipnn.stages.residuals`.

    Raises:
        ReportError: there is none, or it is damaged.
    """
    return read_table(stage / FILE, ("step", "epoch", "spread", *COUNTS))


def pooled(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The logs of several trainings as one: by step, counts are summed and spreads averaged.

    Steps that not all trainings have are left out.
    """
    joined = pd.concat(tables, ignore_index=True)
    joined = joined.groupby("step").filter(lambda rows: len(rows) == len(tables))
    how = dict.fromkeys(COUNTS, "sum") | dict.fromkeys(SPREAD_COLOURS, "mean")
    return joined.groupby("step").agg(how).reset_index()


def selection_table(source: Source, chosen: Mapping[str, str]) -> pd.DataFrame:
    """How many labels a selection brings and how many are outliers (Table 6).

    One line an EIP in the order of the label store, then the line ``all``: ``eip``, ``selected``, ``labelled`` (its EIP
    gave a label), ``known`` (labelled, and the DFT energy is known), ``outliers_C`` of these (error above C eV/atom).

    Args:
        source: structures, split and aligned energies.
        chosen: id -> EIP, see `selected`.
    """
    energies = source.chosen_energies(chosen)
    error = np.abs(source.errors_per_atom(list(chosen), energies))
    each = pd.DataFrame(
        {
            "eip": list(chosen.values()),
            "selected": True,
            "labelled": np.isfinite(energies),
            "known": np.isfinite(error),
        }
        | {f"outliers_{c:g}": error > c for c in THRESHOLDS}
    )
    counts = each.groupby("eip").sum().reindex(list(source.store.eips), fill_value=0)
    counts.loc["all"] = counts.sum()
    return counts.astype(int).reset_index()


def outliers(table: pd.DataFrame, title: str, file: Path) -> None:
    """Share of the outliers that still get gradient by gradient step, one line a threshold (Fig. 3b).

    Args:
        table: of `read_residuals`.
        title: which training this is.
        file: PNG to write.

    Raises:
        ReportError: the DFT energy of no chosen structure is known, so that no outlier is.
    """
    if not table["n_known"].any():
        raise ReportError(
            f"{title}: the DFT energy of no chosen structure is known; it is where the split marks frames of the DFT "
            "file as pretrain"
        )
    with rc_context(STYLE):
        figure, axis = _canvas("outliers that get gradient (%)", title)
        for threshold, look in zip(THRESHOLDS, LOOKS, strict=True):
            found, kept = table[f"outliers_{threshold:g}"], table[f"kept_{threshold:g}"]
            share = _running(kept, "sum") / _running(found, "sum")  # no outlier in the window: NaN
            colour, dashes = look
            name = f"> {threshold:g} eV/atom"
            # a batch has too few of them for a line of its own
            axis.plot(table["step"], 100 * share, dashes, color=colour, linewidth=1.8, label=name)
        axis.set_ylim(-2, 102)
        _finish(figure, axis, "EIP labels off DFT by", file)


def spreads(table: pd.DataFrame, title: str, file: Path) -> None:
    """Spread of the residuals, MAR / 0.6745, by gradient step (Fig. 3c).

    Args:
        table: of `read_residuals`.
        title: which training this is.
        file: PNG to write.
    """
    with rc_context(STYLE):
        figure, axis = _canvas("spread of the residuals (eV)", title)
        for column, colour in SPREAD_COLOURS.items():
            smooth = _running(table[column], "mean")
            _lines(axis, table["step"], table[column], smooth, (colour, "-"), SPREAD_NAMES[column])
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(NullLocator())
        _finish(figure, axis, "MAR / 0.6745 of", file)


def _canvas(ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.2))
    axis = figure.subplots()
    axis.set(xlabel="gradient step", ylabel=ylabel, title=title)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.grid()
    return figure, axis


def _lines(
    axis: Axes,
    step: pd.Series,
    raw: pd.Series,
    smooth: pd.Series,
    look: tuple[str, str],
    name: str,
) -> None:
    colour, dashes = look
    axis.plot(step, raw, color=colour, linewidth=0.5, alpha=0.2)
    axis.plot(step, smooth, dashes, color=colour, linewidth=1.8, label=name)


def _finish(figure: Figure, axis: Axes, legend: str, file: Path) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, title=legend)
    figure.savefig(file)


def _running(column: pd.Series, what: str) -> pd.Series:
    window = max(len(column) // WINDOWS, 1)
    return column.rolling(window, center=True, min_periods=1).agg(what)
