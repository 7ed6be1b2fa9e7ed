"""Several backbones and data sets side by side, as in Table 1 of Shui et al. 2022."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from eipnn.files import write_atomically
from eipnn.report import plots, tables
from eipnn.report.document import IMPROVEMENT, STEPS, Report
from eipnn.report.runs import Experiment
from eipnn.report.tables import ROWS, markdown
from eipnn.run.strategy import STRATEGIES


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
    """Table and picture of all data sets; nothing for one, or where a data set has two trainings of one backbone."""
    sets = _short_names([_data(report) for report in reports])
    names = [(_data(r), r.experiment.backbone) for r in reports]
    if len(sets) < 2 or len(set(names)) < len(names):
        return []
    table = pd.concat(
        [r.table.assign(data=sets[_data(r)], backbone=r.experiment.backbone) for r in reports],
        ignore_index=True,
    )
    eip = table["row"].str.startswith("Best EIP")
    strategies = [STRATEGIES[name].label for name in ROWS[1:]]
    plots.gains(table[~eip], strategies, folder / "data_sets.png")
    table.loc[eip, ["backbone", "row"]] = "-", "Best EIP"
    table = table.drop_duplicates(["data", "backbone", "row"])
    write_atomically(folder / "data_sets.csv", table.to_csv(index=False))
    return [
        "## All data sets",
        markdown(_side_by_side(table)),
        "![Improvement over DFT alone](data_sets.png)",
    ]


def _side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """A line a backbone and strategy; of each data set the two errors."""
    errors = ["config MAE (eV)", "atom MAE (eV/atom)"]
    shown = tables.readable(table)[errors].assign(**table[["data", "backbone", "row"]])
    lines = ["backbone", "row"]
    wide = shown.pivot(index=lines, columns="data", values=errors)
    wide = wide.reindex(shown.set_index(lines).index.unique()).fillna(tables.NOTHING)
    columns = {f"{s}: {e}": wide[e][s] for s in shown["data"].unique() for e in errors}
    return pd.DataFrame({"": wide.index.get_level_values("row")} | columns)


def _short_names(files: Sequence[str]) -> dict[str, str]:
    """A name for each file of DFT frames: its folder's where that tells them apart, else the whole path."""
    names = {file: Path(file.removeprefix("bundled:")).parent.name for file in files}
    return names if len(set(names.values())) == len(names) else {file: file for file in names}


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
