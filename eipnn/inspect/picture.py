"""The picture of `eipnn inspect`."""

from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from matplotlib.axes import Axes

from eipnn.inspect.survey import Survey
from eipnn.report.plots import BLUE, PALETTE, canvas, log_ticks

BINS = 50
BEYOND = 5.0
"""Spreads (5 to 95 %) from the median to which an axis reaches; what is beyond is counted at its end."""


def picture(file: Path, survey: Survey, title: str) -> None:
    """Histograms: energies, lengths of forces, stress and shortest distances."""
    with canvas(file, 10.5, 7.5, 2, 2) as (figure, axes):
        energies, forces, stress, distances = axes.flat
        _histogram(energies, {"": survey.left}, "energy less a fit by composition (eV/atom)", "frames")
        _histogram(forces, {"": survey.forces}, "force on an atom (eV/A)", "atoms")
        parts = {"mean normal": survey.tension, "shear": survey.shear.ravel()}
        _histogram(stress, parts, "stress (GPa), positive under tension", "components")
        _histogram(distances, _pairs(survey), "shortest distance in a frame (A)", "frames")
        figure.suptitle(title)


def _pairs(survey: Survey) -> dict[str, np.ndarray]:
    """Shortest distances of the pairs of elements that most frames have, and of all others."""
    d = survey.distances
    names = np.array([f"{chemical_symbols[a]}-{chemical_symbols[b]}" for a, b in zip(d.first, d.second, strict=True)])
    pairs, counts = np.unique(names, return_counts=True)
    shown = pairs[np.argsort(-counts, kind="stable")][: len(PALETTE) - 1]
    parts = {name: d.lengths[names == name] for name in shown.tolist()}
    others = d.lengths[~np.isin(names, shown)]
    return parts | ({"others": others} if len(others) else {})


def _histogram(axis: Axes, parts: dict[str, np.ndarray], label: str, what: str) -> None:
    """One or several on common bins, with a logarithmic number: a few outliers are to be seen too."""
    known = {name: values[np.isfinite(values)] for name, values in parts.items()}
    everything = np.concatenate([np.zeros(0), *known.values()])
    axis.set(xlabel=label, ylabel=what)
    if not len(everything):
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", va="center")
        axis.set(xticks=[], yticks=[])
        return
    low, middle, high = np.percentile(everything, (5, 50, 95))
    reach = BEYOND * max(high - low, 1e-6)
    ends = max(everything.min(), middle - reach), min(everything.max(), middle + reach)
    bins = np.linspace(ends[0], max(ends[1], ends[0] + 1e-6), BINS + 1).tolist()
    colours = PALETTE if len(known) > 1 else (BLUE,)
    look: dict[str, Any] = {"histtype": "step", "linewidth": 1.6} if len(known) > 1 else {"alpha": 0.6}
    for (name, values), colour in zip(known.items(), colours, strict=False):
        axis.hist(np.clip(values, *ends), bins, label=name, color=colour, **look)
    if beyond := int(((everything < ends[0]) | (everything > ends[1])).sum()):
        axis.set_xlabel(f"{label}; {beyond} beyond the axis")
    if len(known) > 1:
        axis.legend(frameon=False)
    log_ticks(axis)
    axis.grid(axis="y")
