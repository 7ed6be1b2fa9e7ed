"""Test errors by number of DFT frames, silicon with forces: small cells as in the training, and larger ones.

python experiments/results/forces/curves.py        # draws curves.png from trainings.csv and larger_cells.csv
"""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FormatStrFormatter, LogLocator, NullLocator

from eipnn.report.plots import PALETTE, canvas

HERE = Path(__file__).parent
ALL = 414  # frames for training and validation
LINES = [(network, row) for network in ("SchNet", "MACE") for row in ("baseline", "mp")]
COLUMNS = {"atom_mae_eV_per_atom": ("energy MAE (meV/atom)", 1000), "force_mae_eV_per_A": ("force MAE (eV/Å)", 1)}


def errors() -> dict[str, pd.DataFrame]:
    """Errors of silicon by title of the row of panels."""
    small, large = (pd.read_csv(HERE / name) for name in ("trainings.csv", "larger_cells.csv"))
    small = small[small.data == "si_mini"].rename(columns=lambda name: name.removeprefix("test_"))
    return {"cells of 1 to 8 atoms": small, "cells of 15 to 32 atoms": large[large.data == "si_large"]}


def draw(panel: Axes, table: pd.DataFrame, column: str, factor: float) -> None:
    """Mean and standard deviation over the splits for each network and row."""
    for k, (network, row) in enumerate(LINES):
        mine = table[(table.network == network) & (table.row == row)]
        frames = mine.dft_frames.replace("all", ALL).astype(int)
        mean, spread = (getattr(mine.groupby(frames)[column], kind)() * factor for kind in ("mean", "std"))
        style = {"color": PALETTE[0 if network == "SchNet" else 5], "linestyle": "--" if row == "baseline" else "-"}
        label = f"{network}, {'DFT alone' if row == 'baseline' else '+MP'}"
        shift = 0.97 + 0.02 * k  # bars of two lines stay apart
        panel.errorbar(mean.index * shift, mean, spread, marker="o", markersize=4, capsize=2, label=label, **style)
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.xaxis.set_major_locator(FixedLocator([25, 50, 100, 200, ALL]))
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FormatStrFormatter("%g"))
    panel.grid()


def main() -> None:
    with canvas(HERE / "curves.png", 9.5, 7.5, 2, 2, sharex=True) as (figure, panels):
        for line, (title, table) in zip(panels, errors().items(), strict=True):
            for panel, (column, (label, factor)) in zip(line, COLUMNS.items(), strict=True):
                draw(panel, table, column, factor)
                panel.set_title(title)
                panel.set_ylabel(label)
        panels[0][0].legend(fontsize=9)
        figure.supxlabel("DFT frames for training and validation")


if __name__ == "__main__":
    main()
