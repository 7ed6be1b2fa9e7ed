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

from eipnn.run.strategy import MAIN_AND_LONG

# Okabe & Ito's palette without its yellow, which is faint on white.
PALETTE = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00")
COLOURS = dict(zip(MAIN_AND_LONG, PALETTE, strict=True))
BLUE = "#0072B2"
COLOURS |= dict.fromkeys(("delta", "delta-long"), BLUE)
COLOURS |= dict.fromkeys(("mp+delta", "mp+delta-long"), "#888888")
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


def log_ticks(axis: Axes) -> None:
    """Few numbers without powers of ten on the vertical axis, which is made logarithmic."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())


def legend_aside(figure: Figure, axis: Axes, title: str | None = None) -> None:
    """One legend, that of `axis`, to the right of all panels."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, title=title)


def parity(file: Path, panels: Mapping[str, pd.DataFrame], title: str) -> None:
    """Predicted against DFT energy per atom, a panel a name: ``n_atoms``, total ``energy`` and ``prediction`` (eV)."""
    columns = len(panels) if len(panels) < 4 else -(-len(panels) // 2)
    rows = -(-len(panels) // columns)
    per_atom = {name: t[["energy", "prediction"]].div(t["n_atoms"], axis=0) for name, t in panels.items()}
    everything = np.concatenate([t.to_numpy().ravel() for t in per_atom.values()])
    margin = 0.04 * np.ptp(everything) + 1e-3
    limits = everything.min() - margin, everything.max() + margin
    size = 0.9 + 3.2 * columns, 1.1 + 3.2 * rows
    with canvas(file, *size, rows, columns, sharex=True, sharey=True, squeeze=False) as (figure, axes):
        for axis, (name, energies) in zip(axes.flat, per_atom.items(), strict=False):
            axis.plot(limits, limits, color="0.6", linewidth=1)
            axis.scatter(*energies.to_numpy().T, s=16, color=BLUE, alpha=0.5, linewidths=0, zorder=2)
            axis.set(xlim=limits, ylim=limits, aspect="equal", title=f"{name} (n = {len(energies)})")
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            error = (panels[name]["prediction"] - panels[name]["energy"]).abs()
            text = f"{error.mean():.3f} eV\n{(error / panels[name]['n_atoms']).mean():.4f} eV/atom"
            axis.text(0.04, 0.96, text, transform=axis.transAxes, va="top")
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        figure.supxlabel("DFT energy (eV/atom)")
        figure.supylabel("predicted energy (eV/atom)")
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
    """Validation config MAE by epoch and by gradient step: tables of `folds.learning_curve` thin, their mean thick."""
    with canvas(file, 10.5, 4.4, columns=2, sharey=True) as (figure, axes):
        for axis, by in zip(axes, ("epoch", "step"), strict=True):
            for strategy, tables in curves.items():
                for table in map(_smooth, tables if len(tables) > 1 else []):
                    axis.plot(table[by], table["val_config_mae"], color=COLOURS[strategy], linewidth=0.6, alpha=0.4)
                mean = _mean(tables)
                look: dict[str, Any] = {"color": COLOURS[strategy], "linewidth": 1.8, "label": names[strategy]}
                axis.plot(mean[by], mean["val_config_mae"], **look)
            axis.grid()
            axis.set(xlabel=by if by == "epoch" else "gradient step")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            log_ticks(axis)
        axes[0].set_ylabel("validation config MAE (eV)")
        figure.suptitle(title)
        legend_aside(figure, axes[1])


def _mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Folds differ by a few steps an epoch, and in length: the mean is over the epochs that all have."""
    joined = pd.concat(tables).groupby("epoch").filter(lambda rows: len(rows) == len(tables))
    return _smooth(joined.groupby("epoch")[["step", "val_config_mae"]].mean().reset_index())


def _smooth(table: pd.DataFrame) -> pd.DataFrame:
    """Running means over a hundredth of the epochs: single epochs of a long training hide its course."""
    window = max(len(table) // 100, 1)
    return table.rolling(window, center=True, min_periods=1).mean()


def errors_by_frames(file: Path, table: pd.DataFrame, strategies: Sequence[str], names: Mapping[str, str]) -> None:
    """A table of `frames.errors_by_frames`: mean and sample deviation over the folds, of these strategies."""
    kinds = {"config_mae": ("_eV", "config MAE (eV)"), "atom_mae": ("_eV_per_atom", "atom MAE (eV/atom)")}
    with canvas(file, 10.5, 4.4, columns=2) as (figure, axes):
        for axis, (kind, (unit, label)) in zip(axes, kinds.items(), strict=True):
            for number, name in enumerate(strategies):
                curve = table[table["strategy"] == name].sort_values("frames")
                x = curve["frames"] * (1 + 0.015 * (number - len(strategies) / 2))  # error bars side by side
                look: dict[str, Any] = {"color": COLOURS[name], "marker": "os^Dvp"[number % 6], "capsize": 3}
                axis.errorbar(x, curve[kind + unit], curve[f"{kind}_sd"], label=names[name], **look)
            axis.set(xscale="log", xlabel="DFT frames (training + validation)", ylabel=f"test {label}")
            axis.xaxis.set_major_locator(FixedLocator(sorted(set(table["frames"]))))
            axis.xaxis.set_major_formatter("{x:.0f}")
            axis.xaxis.set_minor_locator(NullLocator())
            log_ticks(axis)
            axis.grid()
        legend_aside(figure, axes[1])
