"""Table 1 of Shui et al. 2022: all networks on all data sets side by side.

    python experiments/paper/table_1.py RUN... -o DIR    # from the folder where `eipnn run` was called

DIR gets the report of these runs, as by `eipnn report`, and beside it `table_1.md`, `data_sets.csv`, `data_sets.png`
and, for data sets with several networks, `overview.md` with `overview.csv` and `overview.png` (`overview_2.csv`, ...).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import cycle, product
from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd

from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.metrics import CONFIG
from eipnn.report import tables
from eipnn.report.command import write_report
from eipnn.report.document import IMPROVEMENT, STEPS, Report
from eipnn.report.plots import COLOURS, DOTS, PALETTE, canvas, legend_aside
from eipnn.report.runs import ReportError
from eipnn.report.tables import NOTHING, markdown
from eipnn.run.strategy import MAIN, STRATEGIES

DFT_ALONE = "DFT alone"
GAINS = {"improvement": "improvement over DFT alone (%)", "force_improvement": "the same in forces (%)"}
MARKS = [*zip("os^Dvp", PALETTE, strict=True)]
"""Marker and colour of each backbone."""


def write_table(reports: Sequence[Report], folder: Path) -> None:
    """Write ``table_1.md`` with its table and picture.

    Args:
        reports: a backbone and data set each.
        folder: to write into.

    Raises:
        ReportError: a backbone was trained on one data set with two kinds of settings.
    """
    sets = _short_names([r.experiment.dft for r in reports])
    names = [(r.experiment.dft, r.experiment.backbone) for r in reports]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ReportError(
            f"{twice[1]} was trained on {twice[0]} with two kinds of settings; give the runs of one of them"
        )
    table = pd.concat(
        [r.table.assign(data=sets[r.experiment.dft], backbone=r.experiment.backbone) for r in reports],
        ignore_index=True,
    )
    eip = table["row"].str.startswith("Best EIP")
    table.loc[~eip, "row"] = [*map(_without_backbone, table["row"][~eip], table["backbone"][~eip])]
    gains(table[~eip], folder / "data_sets.png")
    best = table[eip].sort_values("n", ascending=False, kind="stable").drop_duplicates("data")
    table = pd.concat([best.assign(backbone=NOTHING, row="Best EIP"), table[~eip]])
    write_atomically(folder / "data_sets.csv", table.to_csv(index=False))
    parts = [
        "# All data sets",
        markdown(side_by_side(table)),
        "![Improvement over DFT alone](data_sets.png)",
        "Gradient steps, and what else the rows of a data set differ in, stand in its own table ([report](report.md)).",
        IMPROVEMENT,
        STEPS,
    ]
    write_atomically(folder / "table_1.md", "\n\n".join(parts) + "\n")
    if sections := [*overviews(reports, folder)]:
        write_atomically(folder / "overview.md", "\n\n".join([*sections, IMPROVEMENT, STEPS]) + "\n")


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A line a backbone and strategy; of each data set the test errors, with n where others have more."""
    shown = pd.DataFrame(tables.readable_errors(table), index=table.index)
    errors = list(shown.columns)
    shown = shown.assign(**table[["data", "backbone", "row"]])
    fewer = table["n"] < table["n"].max()
    shown.loc[fewer, errors[0]] += " (n = " + table.loc[fewer, "n"].astype(str) + ")"
    wide = shown.pivot(index=["backbone", "row"], columns="data", values=errors)
    backbones = [b for b in table["backbone"].unique() if b != NOTHING]
    lines = [(NOTHING, "Best EIP"), *product(backbones, dict.fromkeys(table["row"]))]
    wide = wide.reindex([line for line in lines if line in wide.index]).fillna(NOTHING)
    names = {"": wide.index.get_level_values("backbone"), "row": wide.index.get_level_values("row")}
    sets = table["data"].unique()
    return pd.DataFrame(names | {f"{d}: {e}": wide[e][d].to_numpy() for d in sets for e in errors})


def overviews(reports: Sequence[Report], folder: Path) -> Iterator[str]:
    """Markdown of a table and a picture, which go into `folder`, for each data set that has several backbones."""
    by_data: dict[str, list[Report]] = {}
    for report in reports:
        by_data.setdefault(report.experiment.dft, []).append(report)
    several = {dft: found for dft, found in sorted(by_data.items()) if len(found) > 1}
    for number, (dft, found) in enumerate(several.items(), start=1):
        table = pd.concat([r.table.assign(backbone=r.experiment.backbone) for r in found], ignore_index=True)
        eip = table["row"].str.startswith("Best EIP")
        table.loc[eip, "backbone"] = NOTHING
        table = pd.concat([table[eip].drop_duplicates(), table[~eip]], ignore_index=True)
        name = f"overview_{number}" if number > 1 else "overview"
        write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
        picture_errors(found, folder / f"{name}.png")
        yield f"## All backbones on `{dft}`"
        yield markdown(tables.readable(table))
        yield f"![Test errors of all backbones]({name}.png)"


def picture_errors(reports: Sequence[Report], file: Path) -> None:
    """Test errors of several backbones on one data set: the mean over the folds as a bar, each fold as a dot."""
    measured = pd.concat([r.measured.assign(backbone=n) for n, r in enumerate(reports)], ignore_index=True)
    there = [s for s in MAIN if s in set(measured["strategy"])]
    width = 0.8 / len(there)
    with canvas(file, 2.6 + 1.7 * len(reports), 4.2) as (figure, axis):
        for number, strategy in enumerate(there):
            mine = measured[measured["strategy"] == strategy]
            shift = (number - (len(there) - 1) / 2) * width
            mean = CONFIG.factor * mine.groupby("backbone")[CONFIG.column].mean()
            look = {"color": COLOURS[strategy], "alpha": 0.75, "label": STRATEGIES[strategy].label or DFT_ALONE}
            axis.bar(mean.index + shift, mean, 0.9 * width, **look)
            axis.plot(mine["backbone"] + shift, CONFIG.factor * mine[CONFIG.column], "o", **DOTS, markersize=4)
        axis.set_xticks(range(len(reports)), [r.experiment.backbone for r in reports])
        axis.grid(axis="y")
        axis.set(ylabel=f"test {CONFIG.heading}")
        legend_aside(figure, axis)


def _without_backbone(row: str, backbone: str) -> str:
    return row.replace(f"{backbone} on", "on").replace(backbone, DFT_ALONE)


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """A name for each file of DFT frames: its folder's where that tells them apart, else the whole path."""
    names = {file: Path(file.removeprefix("bundled:")).parent.name for file in files}
    told_apart = len(set(names.values())) == len(names) and all(names.values())
    return names if told_apart else {file: file for file in names}


def gains(table: pd.DataFrame, file: Path) -> None:
    """Improvement of each strategy over DFT alone, in forces too where they were measured.

    A column of panels a data set, a mark a backbone.

    Args:
        table: ``data``, ``backbone``, ``row`` and the improvements, as of `tables.summary`.
        file: PNG to write.
    """
    sets, backbones = (list(dict.fromkeys(table[name])) for name in ("data", "backbone"))
    rows = [row for row in dict.fromkeys(table["row"]) if not row.startswith(DFT_ALONE)]
    kinds = [kind for kind in GAINS if table[f"{kind}_percent"].notna().any()] or list(GAINS)[:1]
    marks = dict(zip(backbones, cycle(MARKS), strict=False))
    size = 2.4 + max(3.2, 0.8 * len(rows)) * len(sets), 1.0 + 3.2 * len(kinds)
    shared = {"sharex": True, "sharey": "row", "squeeze": False}
    with canvas(file, *size, len(kinds), len(sets), **shared) as (figure, axes):
        for (line, kind), (column, data) in product(enumerate(kinds), enumerate(sets)):
            axis = axes[line, column]
            for number, name in enumerate(backbones):
                mine = table[(table["data"] == data) & (table["backbone"] == name)]
                mine = mine.set_index("row").reindex(rows)
                shift = 0.13 * (number - (len(backbones) - 1) / 2)
                marker, colour = marks[name]
                axis.errorbar(
                    np.arange(len(rows)) + shift,
                    mine[f"{kind}_percent"],
                    mine[f"{kind}_sd"],
                    fmt=marker,
                    color=colour,
                    capsize=3,
                    label=name,
                )
            axis.axhline(0, color="black", linewidth=1)
            axis.set_xticks(range(len(rows)), [fill(row, 10) for row in rows])
            axis.set_xlim(-0.5, max(len(rows), 1) - 0.5)
            axis.grid(axis="y")
            axis.set_title(data if line == 0 else "")
            axis.set_ylabel(GAINS[kind] if column == 0 else "")
        legend_aside(figure, axes[0, 0])


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="Table 1 of Shui et al. 2022 on several data sets.")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="as for `eipnn report`")
    p.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="where the files go")
    options = p.parse_args()
    try:
        write_table(write_report(options.runs, options.output), options.output)
    except (InputError, OSError) as error:
        sys.exit(f"table_1.py: {error}")
    print(f"{options.output / 'table_1.md'}: written")


if __name__ == "__main__":
    main()
