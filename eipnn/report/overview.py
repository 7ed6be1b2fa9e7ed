"""Several backbones on one data set side by side."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from eipnn.files import write_atomically
from eipnn.report import plots, tables
from eipnn.report.document import IMPROVEMENT, STEPS, Report
from eipnn.report.tables import NOTHING, markdown
from eipnn.run.strategy import MAIN


def overview(reports: Sequence[Report], folder: Path) -> str:
    """Markdown of a table and picture, which go into `folder`, for each data set that has several backbones."""
    parts: list[str] = []
    for dft, group in groupby(sorted(reports, key=_data), key=_data):
        if len(found := list(group)) > 1:
            parts.append(_section(dft, found, folder, f"_{len(parts) + 1}" if parts else ""))
    return "\n\n".join([*parts, IMPROVEMENT, STEPS]) if parts else ""


def _data(report: Report) -> str:
    return report.experiment.dft


def _section(dft: str, reports: Sequence[Report], folder: Path, number: str) -> str:
    table = pd.concat([r.table.assign(backbone=r.experiment.backbone) for r in reports], ignore_index=True)
    eip = table["row"].str.startswith("Best EIP")
    table.loc[eip, "backbone"] = NOTHING
    table = pd.concat([table[eip].drop_duplicates(), table[~eip]], ignore_index=True)
    name = f"overview{number}"
    write_atomically(folder / f"{name}.csv", table.to_csv(index=False))
    rows = {r.experiment.backbone: tables.rows(r.experiment, MAIN) for r in reports}
    plots.overview(rows, folder / f"{name}.png")
    return "\n\n".join(
        [
            f"## All backbones on `{dft}`",
            markdown(tables.readable(table)),
            f"![Test errors of all backbones]({name}.png)",
        ]
    )
