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
    """The table of all data sets; nothing for one, or where a data set has two trainings of one backbone."""
    sets = list(dict.fromkeys(_data(report) for report in reports))
    names = [(_data(r), r.experiment.backbone) for r in reports]
    if len(sets) < 2 or len(set(names)) < len(names):
        return []
    table = pd.concat(
        [r.table.assign(data=_data(r), backbone=r.experiment.backbone) for r in reports]
    )
    eip = table["row"].str.startswith("Best EIP")
    table.loc[eip, ["backbone", "row"]] = "-", "Best EIP"
    table = table.drop_duplicates(["data", "backbone", "row"])
    write_atomically(folder / "data_sets.csv", table.to_csv(index=False))
    shown = tables.readable(table).rename(columns={"": "row"})
    shown = shown.assign(data=table["data"], backbone=table["backbone"])
    errors = ["config MAE (eV)", "atom MAE (eV/atom)"]
    wide = shown.pivot(index=["backbone", "row"], columns="data", values=errors)
    wide = wide.reindex(shown.set_index(["backbone", "row"]).index.unique()).fillna(tables.NOTHING)
    columns = {f"{_short(data)}: {error}": wide[error][data] for data in sets for error in errors}
    flat = pd.DataFrame({"": wide.index.get_level_values("row")} | columns)
    return ["## All data sets", markdown(flat)]


def _short(dft: str) -> str:
    """Name of a data set: the folder of its file, or the file's own name."""
    path = Path(dft.removeprefix("bundled:"))
    return path.parent.name or path.stem


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
