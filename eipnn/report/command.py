"""The command `eipnn report`."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eipnn.files import write_atomically
from eipnn.metrics import STRESS
from eipnn.report import tables
from eipnn.report.document import Report
from eipnn.report.page import Output, html_page
from eipnn.report.runs import read_experiments

HEAD = "# Report\n\nStrategies: +LA label augmentation, +MP multi-task pretraining (Shui et al., NeurIPS 2022)."


def report(runs: list[Path], *, output: Path | None = None) -> None:
    """Tables and pictures of finished runs.

    Test errors in the shape of the paper's Table 1, parity plots, learning curves, the classifier and what it chose,
    the EIPs against DFT, near-duplicates between pool and test. Call it from the folder where `eipnn run` was called,
    so that the paths hold.

    Args:
        runs: folder of a run, or of a run of several experiments; runs of one backbone and data set make one table.
        output: where report.md, report.html, PNG and CSV files go (default: report in the first of RUNS).
    """
    output = output or runs[0] / "report"
    console, errors = Console(), Console(stderr=True)
    for made in write_report(runs, output):
        console.print(printed(made))
        for warning in made.warnings:
            errors.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    console.print(f"{output / 'report.md'}, {output / 'report.html'}: written", soft_wrap=True)


def write_report(runs: Sequence[Path], output: Path) -> list[Report]:
    """Write ``report.md``, ``report.html``, pictures and CSV tables into `output`: a section a backbone and data set.

    What belongs to the data alone is told with the first backbone.

    Raises:
        ReportError: a run folder is absent, has nothing finished, or is damaged.
    """
    experiments = read_experiments(runs)
    reports, sections, told = [], [HEAD], set()
    for number, experiment in enumerate(experiments, start=1):
        name = f"{number}-{experiment.backbone}/" if len(experiments) > 1 else ""
        (output / name).mkdir(parents=True, exist_ok=True)
        reports.append(Report(experiment, Output(output / name, name)))
        data = experiment.dft, tuple(experiment.splits)
        sections.append(reports[-1].markdown(with_data=data not in told))
        told.add(data)
    text = "\n\n".join(sections) + "\n"
    write_atomically(output / "report.md", text)
    write_atomically(output / "report.html", html_page(text, output))
    return reports


def printed(report: Report) -> Table:
    """The main table, narrow enough for a terminal of 80 columns."""
    left_out = ["time (s)", "epochs", "pretraining steps", "alpha", STRESS.heading, "force improvement (%)"]
    shown = tables.readable(report.table).drop(columns=left_out, errors="ignore")
    title = f"{report.experiment.backbone} on {report.experiment.dft}: {report.experiment.part} errors"
    table = Table(title=Text(title), box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for name in shown.columns:
        heading = name.replace(" (", "\n(").replace("gradient ", "gradient\n")
        table.add_column(heading, justify="right" if name else "left")
    for row, *cells in shown.itertuples(index=False):
        table.add_row(Text(row.replace(" (", "\n(")), *cells)
    return table
