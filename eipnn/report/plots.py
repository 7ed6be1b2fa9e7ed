"""The pictures of a report. No display is needed; the colours are told apart by colour-blind readers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import ConfusionMatrixDisplay

from eipnn.metrics import CONFIG, FORCE, METRICS, Metric
from eipnn.run.strategy import MAIN_AND_LONG

# Okabe & Ito's palette without its yellow, which is faint on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
COLOURS = dict(zip(MAIN_AND_LONG, PALETTE, strict=True))
BLUE = "#0072B2"
COLOURS |= dict.fromkeys(("delta", "delta-long"), BLUE)
COLOURS |= dict.fromkeys(("mp+delta", "mp+delta-long"), "#888888")
COLOURS["energies"] = "#8C564B"
CURVES = (CONFIG, FORCE)
"""Of the learning curves."""
CROWD = 1000
"""Points of a panel that are drawn small and faint, so that many show how dense they lie."""
DOTS: dict[str, Any] = {"color": "white", "markeredgecolor": "black"}
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "figure.labelsize": 11,
    "figure.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.hspace": 0.06,
}


@contextmanager
def canvas(
    file: Path, width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> Iterator[tuple[Figure, Any]]:
    """A figure of that size in inches and its panels (one, or an array), saved at the end; `shared` as for subplots."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        yield figure, figure.subplots(rows, columns, **shared)
        figure.savefig(file)


@contextmanager
def panel_row(file: Path, names: Sequence[str], width: float, height: float, label: str) -> Iterator[Iterator[Any]]:
    """A panel of that size in inches for each name, side by side: pairs of panel and name. The first one has the
    legend, and the label of the vertical axis."""
    with canvas(file, 1.0 + width * len(names), height, columns=len(names), squeeze=False) as (_, axes):
        for axis, name in zip(axes[0], names, strict=True):
            axis.set_title(name)
        yield zip(axes[0], names, strict=True)
        axes[0, 0].set_ylabel(label)
        axes[0, 0].legend(frameon=False)


def log_ticks(axis: Axes) -> None:
    """Few numbers without powers of ten on the vertical axis, which is made logarithmic; call it when all is drawn."""
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5) if high > 5 * low else (1, 1.5, 2, 3, 4, 5, 6, 8)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def legend_aside(figure: Figure, axis: Axes, title: str | None = None) -> None:
    """One legend, that of `axis`, to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, title=title)


def parity(file: Path, panels: Mapping[str, tuple[np.ndarray, str]], quantity: str, title: str) -> None:
    """Predicted against DFT values, a panel a name: pairs (n, 2), DFT first, and a text for its corner.

    `quantity` is what they are, with its unit.
    """
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    everything = np.concatenate([pairs for pairs, _ in panels.values()])
    margin = 0.04 * np.ptp(everything) + 1e-3
    limits = everything.min() - margin, everything.max() + margin
    size = 0.9 + 3.2 * columns, 1.1 + 3.2 * rows
    with canvas(file, *size, rows, columns, sharex=True, sharey=True, squeeze=False) as (figure, axes):
        for axis, (name, (pairs, text)) in zip(axes.flat, panels.items(), strict=False):
            many = len(pairs) > CROWD
            look: dict[str, Any] = {"s": 4, "alpha": 0.15} if many else {"s": 16, "alpha": 0.5}
            axis.plot(limits, limits, color="0.6", linewidth=1)
            axis.scatter(*pairs.T, color=BLUE, linewidths=0, zorder=2, **look)
            axis.set(xlim=limits, ylim=limits, aspect="equal", title=f"{name} (n = {len(pairs):,})")
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top")
        for place in range(len(panels), axes.size):
            axes.flat[place].set_visible(False)
            axes.flat[place - columns].tick_params(labelbottom=True)
        figure.supxlabel(f"DFT {quantity}")
        figure.supylabel(f"predicted {quantity}")
        figure.suptitle(title)


def spread(file: Path, panels: Mapping[str, tuple[np.ndarray, np.ndarray, str]], title: str) -> None:
    """The absolute error over the spread of a committee, both logarithmic, a panel a quantity with its unit.

    Args:
        file: of the picture.
        panels: spreads and errors (n,) each, positive, and a text that says what the spreads are.
        title: above all panels.
    """
    with canvas(file, 0.9 + 3.6 * len(panels), 4.6, columns=len(panels), squeeze=False) as (figure, axes):
        for axis, (name, (spreads, errors, text)) in zip(axes.flat, panels.items(), strict=True):
            look: dict[str, Any] = {"s": 4, "alpha": 0.25} if len(spreads) > CROWD else {"s": 16, "alpha": 0.5}
            low, high = np.percentile(spreads, (0, 100))
            floor = low / 30  # errors below are drawn there
            axis.scatter(spreads, np.maximum(errors, floor), color=BLUE, linewidths=0, **look)
            axis.plot((low, high), (low, high), color="0.4", linewidth=1, label="error = spread")
            bins = np.array_split(np.argsort(spreads), min(10, max(len(spreads) // 10, 1)))
            means = [[np.sqrt(np.mean(values[b] ** 2)) for values in (spreads, errors)] for b in bins]
            axis.plot(*np.transpose(means), "o", **DOTS, markersize=6, label="root mean squares of a bin")
            axis.set(xscale="log", yscale="log", xlabel=f"spread, {text}", ylabel="absolute error", title=name)
            axis.grid()
        axes[0, 0].legend(frameon=False, loc="lower right")
        figure.suptitle(title)


def bars(file: Path, values: Mapping[str, Sequence[float]], label: str, form: str = ".3f", title: str = "") -> None:
    """Name -> one value a fold: their mean as a bar with its number in this form, each fold as a dot."""
    places = np.arange(len(values))
    with canvas(file, 7.5, 1.4 + 0.42 * len(values)) as (_, axis):
        axis.barh(places, [np.mean(row) for row in values.values()], color=BLUE, alpha=0.6)
        for place, row in zip(places, values.values(), strict=True):
            axis.plot(row, [place] * len(row), "o", **DOTS, markersize=5, clip_on=False)
            aside: dict[str, Any] = {"xytext": (7, 0), "textcoords": "offset points", "va": "center"}
            axis.annotate(f"{np.mean(row):{form}}", (np.max(row), place), **aside)
        axis.set_yticks(places, list(values))
        axis.invert_yaxis()
        axis.grid(axis="x")
        axis.margins(x=0.1)
        axis.set_xlim(left=0)
        axis.set(xlabel=label, title=title)


def confusion(file: Path, table: pd.DataFrame, classes: Sequence[str], title: str) -> None:
    """How often each class was ``eip`` (chosen) where it was ``best_eip`` (true)."""
    n = len(classes)
    with canvas(file, 3.6 + 0.55 * n, 2.6 + 0.5 * n) as (_, axis):
        look: dict[str, Any] = {"labels": list(classes), "cmap": "Blues", "colorbar": False}
        ConfusionMatrixDisplay.from_predictions(table["best_eip"], table["eip"], ax=axis, **look)
        axis.set_xticks(range(n), classes, rotation=45, ha="right", rotation_mode="anchor")
        axis.set(xlabel="chosen by the classifier", ylabel="closest to DFT", title=title)


def learning_curves(
    file: Path, curves: Mapping[str, Sequence[pd.DataFrame]], names: Mapping[str, str], title: str
) -> None:
    """Validation errors by epoch and by gradient step, a row of panels each.

    Tables of `folds.learning_curve` are thin lines, their mean is a thick one.
    """
    shown = [m for m in CURVES if any(table[m.validation].notna().any() for all_ in curves.values() for table in all_)]
    height = 1.2 + 3.2 * len(shown)
    with canvas(file, 10.5, height, len(shown), 2, sharex="col", sharey="row", squeeze=False) as (figure, axes):
        for row, metric in zip(axes, shown, strict=True):
            for axis, by in zip(row, ("epoch", "step"), strict=True):
                for strategy, tables in curves.items():
                    colour = COLOURS[strategy]
                    for table in map(_smooth, tables if len(tables) > 1 else []):
                        axis.plot(table[by], _scaled(table, metric), color=colour, linewidth=0.6, alpha=0.4)
                    mean = _mean(tables)
                    axis.plot(mean[by], _scaled(mean, metric), color=colour, linewidth=1.8, label=names[strategy])
                axis.grid()
                axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
                log_ticks(axis)
            row[0].set_ylabel(f"validation {metric.heading}")
        axes[-1, 0].set_xlabel("epoch")
        axes[-1, 1].set_xlabel("gradient step")
        figure.suptitle(title)
        legend_aside(figure, axes[0, 1])


def _scaled(table: pd.DataFrame, metric: Metric) -> pd.Series:
    return metric.factor * table[metric.validation]


def _mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Folds differ by a few steps an epoch, and in length: the mean is over the epochs that all have."""
    joined = pd.concat(tables).groupby("epoch").filter(lambda rows: len(rows) == len(tables))
    return _smooth(joined.groupby("epoch").mean().reset_index())


def _smooth(table: pd.DataFrame) -> pd.DataFrame:
    """Running means over a hundredth of the epochs: single epochs of a long training hide its course."""
    window = max(len(table) // 100, 1)
    return table.rolling(window, center=True, min_periods=1).mean()


def errors_by_frames(file: Path, table: pd.DataFrame, strategies: Sequence[str], names: Mapping[str, str]) -> None:
    """A table of `frames.errors_by_frames`: mean and sample deviation over the folds, of these strategies.

    A panel an error; where there are forces, energies are shown an atom alone.
    """
    metrics = [metric for metric in METRICS if table[metric.column].notna().any()]
    metrics = metrics[1:] if FORCE in metrics else metrics
    with canvas(file, 2.1 + 4.2 * len(metrics), 4.4, columns=len(metrics)) as (figure, axes):
        for axis, metric in zip(axes, metrics, strict=True):
            for number, name in enumerate(strategies):
                curve = table[table["strategy"] == name].sort_values("frames")
                x = curve["frames"] * (1 + 0.015 * (number - len(strategies) / 2))  # error bars side by side
                mean, spread = (metric.factor * curve[column] for column in (metric.column, metric.deviation))
                look: dict[str, Any] = {"color": COLOURS[name], "marker": "os^Dvp*"[number % 7], "capsize": 3}
                axis.errorbar(x, mean, spread, label=names[name], **look)
            axis.set(xscale="log", xlabel="DFT frames (training + validation)", ylabel=f"test {metric.heading}")
            axis.xaxis.set_major_locator(FixedLocator(sorted(set(table["frames"]))))
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.xaxis.set_minor_locator(NullLocator())
            log_ticks(axis)
            axis.grid()
        legend_aside(figure, axes[-1])
