"""Several backbones and data sets side by side, as in Table 1 of Shui et al. 2022."""

from collections.abc import Sequence
from itertools import groupby, product
from pathlib import Path

import pandas as pd

from eipnn.files import write_atomically
from eipnn.report import plots, tables
from eipnn.report.document import IMPROVEMENT, STEPS, Report
from eipnn.report.runs import Experiment
from eipnn.report.tables import NOTHING, ROWS, markdown
from eipnn.run.strategy import STRATEGIES

DFT_ALONE = "DFT alone"
LABELS = (DFT_ALONE, *(STRATEGIES[name].label for name in ROWS[1:]))
"""The rows of the table of all data sets."""


def overview(reports: Sequence[Report], folder: Path) -> str:
    """Markdown of the tables and pictures, which go into `folder`.

    One table of all data sets, where there are several; then one of each that has several backbones, with a picture.
    """
    parts = _data_sets(reports, folder)
    several = len(parts)
    for dft, group in groupby(sorted(reports, key=_data), key=_data):
        if len(found := list(group)) > 1:
            number = "" if len(parts) == several else f"_{len(parts) - several + 1}"
            parts.append(_section(dft, found, folder, number))
    return "\n\n".join([*parts, IMPROVEMENT, STEPS]) if parts else ""


def _data(report: Report) -> str:
    return report.experiment.dft


def _data_sets(reports: Sequence[Report], folder: Path) -> list[str]:
    """Table and picture of all data sets; nothing for one."""
    sets = _short_names([_data(report) for report in reports])
    if len(sets) < 2:
        return []
    names = [(_data(r), r.experiment.backbone) for r in reports]
    if twice := next((name for name in names if names.count(name) > 1), None):
        return [
            f"No table of all data sets: {twice[1]} was trained on `{twice[0]}` with two kinds of settings. Report "
            "these runs apart for one."
        ]
    table = pd.concat(
        [r.table.assign(data=sets[_data(r)], backbone=r.experiment.backbone) for r in reports],
        ignore_index=True,
    )
    table.loc[table["row"] == table["backbone"], "row"] = DFT_ALONE
    eip = table["row"].str.startswith("Best EIP")
    plots.gains(table[~eip], list(LABELS[1:]), folder / "data_sets.png")
    best = table[eip].sort_values("n", ascending=False, kind="stable").drop_duplicates("data")
    table = pd.concat([best.assign(backbone=NOTHING, row="Best EIP"), table[~eip]])
    write_atomically(folder / "data_sets.csv", table.to_csv(index=False))
    return [
        "## All data sets",
        markdown(_side_by_side(table)),
        "![Improvement over DFT alone](data_sets.png)",
        "Gradient steps, and what else the rows of a data set differ in, stand in its own table.",
    ]


def _side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A line a backbone and strategy; of each data set the two errors, with n where others have more."""
    errors = ["config MAE (eV)", "atom MAE (eV/atom)"]
    shown = tables.readable(table)[errors].assign(**table[["data", "backbone", "row"]])
    fewer = table["n"] < table["n"].max()
    shown.loc[fewer, errors[0]] += " (n = " + table.loc[fewer, "n"].astype(str) + ")"
    wide = shown.pivot(index=["backbone", "row"], columns="data", values=errors)
    backbones = [b for b in table["backbone"].unique() if b != NOTHING]
    lines = [(NOTHING, "Best EIP"), *product(backbones, LABELS)]
    wide = wide.reindex([line for line in lines if line in wide.index]).fillna(NOTHING)
    names = {"": wide.index.get_level_values("backbone"), "row": wide.index.get_level_values("row")}
    sets = table["data"].unique()
    return pd.DataFrame(names | {f"{d}: {e}": wide[e][d].to_numpy() for d in sets for e in errors})


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """A name for each file of DFT frames: its folder's where that tells them apart, else the whole path."""
    names = {file: Path(file.removeprefix("bundled:")).parent.name for file in files}
    told_apart = len(set(names.values())) == len(names) and all(names.values())
    return names if told_apart else {file: file for file in names}


def _section(dft: str, reports: Sequence[Report], folder: Path, number: str) -> str:
    table = pd.concat(
        [r.table.assign(backbone=r.experiment.backbone) for r in reports], ignore_index=True
    )
    eip = table["row"].str.startswith("Best EIP")
    table.loc[eip, "backbone"] = "-"
    table = pd.concat([table[eip].drop_duplicates(), table[~eip]], ignore_index=True)
    name = f"overview{number}"
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
    plots.overview(
        {r.experiment.backbone: _errors(r.experiment) for r in reports}, folder / f"{name}.png"
    )
    return "\n\n".join(
        [
            f"## All backbones on `{dft}`",
            markdown(tables.readable(table)),
            f"![Test errors of all backbones]({name}.png)",
        ]
    )


def _errors(experiment: Experiment) -> dict[str, list[float]]:
    """Strategy -> test config MAE (eV) of each split and seed."""
    rows = {strategy: experiment.row(strategy) for strategy in ROWS}
    return {s: [t.result["test_config_mae"] for t in found] for s, found in rows.items() if found}
