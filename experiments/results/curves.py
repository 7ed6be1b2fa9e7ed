"""Errors by number of DFT frames, silicon with forces: small cells as in the training, and larger ones.

python experiments/results/curves.py

draws forces/curves.png and teachers/curves.png from the tables beside them, and prints how many DFT frames DFT alone
needs for the errors of the other lines (414: that many or more).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator

from eipnn.report.plots import PALETTE, canvas

HERE = Path(__file__).parent
ALL = 414  # frames for training and validation
TITLES = {"si_mini": "cells of 1 to 8 atoms", "si_large": "cells of 15 to 32 atoms"}
COLUMNS = {"atom_mae_eV_per_atom": ("energy MAE (meV/atom)", 1000), "force_mae_eV_per_A": ("force MAE (eV/Å)", 1)}


class Line(NamedTuple):
    """Rows of a table with these values in two of its columns."""

    label: str
    colour: int
    dashes: str
    of: dict[str, str]


PICTURES = {
    "forces": [
        Line(f"{network}, {label}", colour, dashes, {"network": network, "row": row})
        for network, colour in (("SchNet", 0), ("MACE", 5))
        for label, dashes, row in (("DFT alone", "--", "baseline"), ("+MP", "-", "mp"))
    ],
    "teachers": [
        Line(label, colour, dashes, {"teacher": teacher})
        for label, colour, dashes, teacher in (
            ("DFT alone", 0, "--", "none"),
            ("+MP on the EIPs", 1, "-", "EIPs"),
            ("+MP on SevenNet-0", 5, "-", "SevenNet-0"),
        )
    ],
}


def errors(name: str) -> pd.DataFrame:
    """The errors of a picture, on both kinds of cells (column ``data``)."""
    files = {"forces": ("trainings.csv", "larger_cells.csv"), "teachers": ("frames.csv",)}[name]
    tables = [pd.read_csv(HERE / name / file) for file in files]
    return pd.concat([table.rename(columns=lambda column: column.removeprefix("test_")) for table in tables])


def means(table: pd.DataFrame, line: Line, column: str) -> pd.DataFrame:
    """Mean and standard deviation over the splits (``mean``, ``std``) by number of frames."""
    mine = table[(table[list(line.of)] == list(line.of.values())).all(axis=1)]
    return mine.groupby(mine.dft_frames.replace("all", ALL).astype(int))[column].agg(["mean", "std"])


def worth(table: pd.DataFrame, lines: list[Line], column: str) -> pd.DataFrame:
    """Frames that DFT alone needs for the mean errors of each other line, between those trained by straight lines in
    the logarithms; a line is compared with the dashed one before it."""
    found = {}
    for line in lines:
        mean = means(table, line, column)["mean"]
        if line.dashes == "--":
            alone = mean
        else:
            logarithms = np.interp(-np.log(mean), -np.log(alone), np.log(alone.index))
            found[line.label] = pd.Series(np.exp(logarithms).round().astype(int), mean.index)
    return pd.DataFrame(found).T


def draw(panel: Axes, table: pd.DataFrame, lines: list[Line], column: str, factor: float) -> None:
    """Mean and standard deviation over the splits for each line."""
    for k, line in enumerate(lines):
        found = means(table, line, column) * factor
        style = {"color": PALETTE[line.colour], "linestyle": line.dashes, "label": line.label}
        shift = 0.97 + 0.02 * k  # bars of two lines stay apart
        panel.errorbar(found.index * shift, found["mean"], found["std"], marker="o", markersize=4, capsize=2, **style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.xaxis.set_major_locator(FixedLocator([25, 50, 100, 200, ALL]))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FormatStrFormatter("%g"))
    panel.grid()


def main() -> None:
    for name, lines in PICTURES.items():
        table = errors(name)
        with canvas(HERE / name / "curves.png", 9.5, 7.5, 2, 2, sharex=True) as (figure, panels):
            for row, (data, title) in zip(panels, TITLES.items(), strict=True):
                for panel, (column, (label, factor)) in zip(row, COLUMNS.items(), strict=True):
                    draw(panel, table[table.data == data], lines, column, factor)
                    print(f"DFT alone needs, {name}, {title}, {label}:")
                    print(worth(table[table.data == data], lines, column).to_markdown())
                    panel.set_title(title)
                    panel.set_ylabel(label)
            panels[0][0].legend(fontsize=9)
            figure.supxlabel("DFT frames for training and validation")


if __name__ == "__main__":
    main()
