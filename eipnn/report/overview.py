"""Several backbones side by side: the whole of Table 1 of Shui et al. 2022 for each data set."""

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
    """Markdown of the table and picture of each data set, which go into `folder`; empty for a single backbone each."""
    parts: list[str] = []
    for dft, group in groupby(sorted(reports, key=_data), key=_data):
        if len(found := list(group)) > 1:
            number = "" if not parts else f"_{len(parts) + 1}"
            parts.append(_section(dft, found, folder, number))
    return "\n\n".join([*parts, IMPROVEMENT, STEPS]) if parts else ""


def _data(report: Report) -> str:
    return report.experiment.dft


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
