"""The pictures of a report. No display is needed; the colours are told apart by colour-blind readers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import confusion_matrix

from eipnn.report.tables import Measured
from eipnn.run.strategy import MAIN, MAIN_AND_LONG, STRATEGIES

# Okabe & Ito's palette without its yellow, which is faint on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
COLOURS = dict(zip(MAIN_AND_LONG, PALETTE, strict=True))
BLUE = "#0072B2"
COLOURS |= dict.fromkeys(("delta", "delta-long"), BLUE)
COLOURS |= dict.fromkeys(("mp+delta", "mp+delta-long"), "#888888")
SKY = "#56B4E9"
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


def log_ticks(axis: Axes) -> None:
    """Few numbers without powers of ten on the vertical axis, which is logarithmic."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def legend_aside(figure: Figure, axis: Axes, title: str | None = None) -> None:
    """One legend, that of `axis`, to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, title=title)


def parity(panels: Mapping[str, pd.DataFrame], title: str, file: Path) -> None:
    """Predicted against DFT energy per atom, one panel a strategy.

    Args:
        panels: name -> table with ``n_atoms``, ``energy`` and ``prediction`` (total energies, eV).
        title: which configurations these are.
        file: PNG to write.
    """
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    per_atom = {name: t[["energy", "prediction"]].div(t["n_atoms"], axis=0) for name, t in panels.items()}
    everything = np.concatenate([t.to_numpy().ravel() for t in per_atom.values()])
    margin = 0.04 * np.ptp(everything) + 1e-3
    limits = everything.min() - margin, everything.max() + margin
    with rc_context(STYLE):
        figure = Figure(figsize=(0.9 + 3.2 * columns, 1.1 + 3.2 * rows))
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, (name, energies) in zip(axes, per_atom.items(), strict=False):
            axis.plot(limits, limits, color="0.6", linewidth=1)
            axis.scatter(*energies.to_numpy().T, s=16, color=BLUE, alpha=0.5, linewidths=0, zorder=2)
            axis.set(xlim=limits, ylim=limits, aspect="equal", title=f"{name} (n = {len(energies)})")
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.text(0.04, 0.96, _errors(panels[name]), transform=axis.transAxes, va="top")
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("DFT energy (eV/atom)")
        figure.supylabel("predicted energy (eV/atom)")
        figure.suptitle(title)
        figure.savefig(file)


def overview(rows: Mapping[str, Mapping[str, Measured]], file: Path) -> None:
    """Test errors of several backbones: the mean over the folds as a bar, each fold as a dot.

    Args:
        rows: backbone -> strategy -> its row.
        file: PNG to write.
    """
    there = [s for s in MAIN if any(s in found for found in rows.values())]
    width = 0.8 / len(there)
    with rc_context(STYLE):
        figure = Figure(figsize=(2.6 + 1.7 * len(rows), 4.2))
        axis = figure.subplots()
        for number, strategy in enumerate(there):
            shift = (number - (len(there) - 1) / 2) * width
            found = {n + shift: row[strategy].errors[:, 0] for n, row in enumerate(rows.values()) if strategy in row}
            heights = [values.mean() for values in found.values()]
            look: dict[str, Any] = {"color": COLOURS[strategy], "alpha": 0.75}
            name = STRATEGIES[strategy].label or "DFT alone"
            axis.bar([*found], heights, 0.9 * width, label=name, **look)
            for x, values in found.items():
                axis.plot([x] * len(values), values, "o", **DOTS, markersize=4)
        axis.set_xticks(range(len(rows)), list(rows))
        axis.grid(axis="y")
        axis.set(ylabel="test config MAE (eV)")
        legend_aside(figure, axis)
        figure.savefig(file)


def _errors(table: pd.DataFrame) -> str:
    error = (table["prediction"] - table["energy"]).abs()
    return f"{error.mean():.3f} eV\n{(error / table['n_atoms']).mean():.4f} eV/atom"


def bars(rows: Iterable[Measured], file: Path) -> None:
    """Test config MAE of some rows: the mean as a bar, each fold as a dot.

    Args:
        rows: of a table.
        file: PNG to write.
    """
    errors = {row.name: row.errors[:, 0] for row in rows}
    places = np.arange(len(errors))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.3 + 0.45 * len(errors)))
        axis = figure.subplots()
        axis.barh(places, [values.mean() for values in errors.values()], color=BLUE, alpha=0.6)
        for place, values in zip(places, errors.values(), strict=True):
            axis.plot(values, [place] * len(values), "o", **DOTS)
        axis.set_yticks(places, list(errors))
        axis.invert_yaxis()
        axis.grid(axis="x")
        axis.set(xlabel="test config MAE (eV)")
        figure.savefig(file)


def confusion(table: pd.DataFrame, classes: Sequence[str], title: str, file: Path) -> None:
    """The classifier's confusion matrix: counts, coloured by their share of the row.

    Args:
        table: with ``best_eip`` (true) and ``eip`` (predicted).
        classes: their order.
        title: which configurations these are.
        file: PNG to write.
    """
    counts = confusion_matrix(table["best_eip"], table["eip"], labels=list(classes))
    share = counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    n = len(classes)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 + 0.55 * n, 2.6 + 0.5 * n))
        axis = figure.subplots()
        image = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = str(counts[row, column])
            axis.text(column, row, text, ha="center", va="center", color=colour)
        axis.set_xticks(range(n), classes, rotation=45, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(n), classes)
        axis.spines[["top", "right"]].set_visible(True)
        axis.set(xlabel="chosen by the classifier", ylabel="closest to DFT", title=title)
        figure.colorbar(image, ax=axis, label="share of the row", shrink=0.8)
        figure.savefig(file)


def selection(counts: pd.DataFrame, title: str, file: Path) -> None:
    """What the classifier chose for the pool: the mean over the folds as a bar, each fold as a dot.

    Args:
        counts: one row a class, one column a fold.
        title: which configurations these are.
        file: PNG to write.
    """
    mean = counts.mean(axis=1)
    places = np.arange(len(counts))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.4 + 0.4 * len(counts)))
        axis = figure.subplots()
        axis.barh(places, mean, color=SKY)
        if counts.shape[1] > 1:
            for fold in counts:
                axis.plot(counts[fold], places, "o", color="black", markersize=4)
        for place, value, most in zip(places, mean, counts.max(axis=1), strict=True):
            axis.annotate(
                f"{value:.0f}",
                (max(value, most), place),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
            )
        axis.set_yticks(places, counts.index)
        axis.invert_yaxis()
        axis.grid(axis="x")
        axis.margins(x=0.1)
        axis.set(xlabel="structures of the pool", title=title)
        figure.savefig(file)


def learning_curves(
    curves: Mapping[str, Sequence[pd.DataFrame]],
    names: Mapping[str, str],
    title: str,
    file: Path,
) -> None:
    """Validation config MAE by epoch and by gradient step; each fold thin, their mean thick.

    Args:
        curves: strategy -> a table a fold with ``epoch``, ``step`` and ``val_config_mae`` (eV).
        names: strategy -> name in the legend.
        title: which folds these are.
        file: PNG to write.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.4))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, by in zip(axes, ("epoch", "step"), strict=True):
            for strategy, tables in curves.items():
                _curve(axis, tables, by, COLOURS[strategy], names[strategy])
            axis.grid()
            axis.set(yscale="log", xlabel=by if by == "epoch" else "gradient step")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            log_ticks(axis)
        axes[0].set_ylabel("validation config MAE (eV)")
        figure.suptitle(title)
        legend_aside(figure, axes[1])
        figure.savefig(file)


def _curve(axis: Axes, tables: Sequence[pd.DataFrame], by: str, colour: str, name: str) -> None:
    if len(tables) > 1:
        for table in map(_smooth, tables):
            axis.plot(table[by], table["val_config_mae"], color=colour, linewidth=0.6, alpha=0.4)
    # Folds differ by a few steps an epoch, and in length: the mean is over the epochs that all have.
    joined = pd.concat(tables).groupby("epoch").filter(lambda rows: len(rows) == len(tables))
    mean = _smooth(joined.groupby("epoch")[["step", "val_config_mae"]].mean().reset_index())
    axis.plot(mean[by], mean["val_config_mae"], color=colour, linewidth=1.8, label=name)


def _smooth(table: pd.DataFrame) -> pd.DataFrame:
    """Running means over a hundredth of the epochs: single epochs of a long training hide its course."""
    window = max(len(table) // 100, 1)
    return table.rolling(window, center=True, min_periods=1).mean()
