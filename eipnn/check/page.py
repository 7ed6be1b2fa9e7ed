"""The page of a check, its CSV table, and the summary in the terminal."""

from collections.abc import Callable, Sequence
from math import isnan
from pathlib import Path

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from eipnn.check.figures import VERDICTS, Figure
from eipnn.check.sections import Outcome
from eipnn.files import write_atomically
from eipnn.report.page import Output, html_page

Given = Callable[[Figure], float]
COLOURS = {"good": "green", "fair": "yellow", "bad": "bold red"}


def write_page(folder: Path, name: str, outcomes: Sequence[Outcome], given: Given) -> pd.DataFrame:
    """Write check.md, check.html, check.csv and the pictures into the folder; the table of all figures."""
    folder.mkdir(parents=True, exist_ok=True)
    output = Output(folder)
    table = figures_table(outcomes, given)
    output.csv("check", table)
    summary = pd.DataFrame([_row(outcome, given) for outcome in outcomes])
    parts = [f"# Check of {name}", _counted(table, outcomes), summary.to_markdown(index=False)]
    for outcome in outcomes:
        section = outcome.section
        parts += [f"## {section.name}", section.about]
        if outcome.problem:
            parts.append(f"**{'Failed' if outcome.failed else 'Not run'}**: {outcome.problem}")
        if outcome.founds:
            parts.append(
                _shown(table[table["section"] == section.name]).to_markdown(index=False, disable_numparse=True)
            )
        parts += [f"Not beside it: {note}" for note in outcome.notes]
        if outcome.founds and section.draw:
            parts.append(output.picture(section.name, section.name, section.draw, outcome.founds))
    text = "\n\n".join(parts) + "\n"
    write_atomically(folder / "check.md", text)
    write_atomically(folder / "check.html", html_page(text, folder, "eipnn check"))
    return table


def figures_table(outcomes: Sequence[Outcome], given: Given) -> pd.DataFrame:
    """A row a figure, with its value by each calculator, the given one, limits and verdict."""
    rows = []
    others = list(dict.fromkeys(name for outcome in outcomes for name in list(outcome.founds)[1:]))
    for outcome in outcomes:
        for figure in outcome.figures:
            beside = {name: outcome.founds[name].value(figure) if name in outcome.founds else None for name in others}
            known = {"section": outcome.section.name, "figure": figure.key, "of": figure.of, "value": figure.value}
            known |= {"unit": figure.unit, "given": given(figure), **beside}
            limits = {"limits": str(figure.limits or ""), "limits_to_given": str(figure.against or "")}
            rows.append(known | limits | {"verdict": figure.verdict(given(figure)), "note": figure.note})
    return pd.DataFrame(rows)


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """For people: rounded, without columns in which nothing stands."""
    shown = table.drop(columns="section")
    for name in shown.columns:
        if shown[name].dtype.kind == "f":
            shown[name] = [cell(value) for value in shown[name]]
    kept = [name for name in shown.columns if name in ("figure", "value", "verdict") or (shown[name] != "").any()]
    shown = shown[kept].rename(columns={"limits": "good / bad", "limits_to_given": "off given: good / bad"})
    return shown.assign(figure=[key.replace("_", " ") for key in shown["figure"]])


def cell(value: float) -> str:
    """Four digits; nothing for NaN."""
    return "" if isnan(value) else f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _row(outcome: Outcome, given: Given) -> dict[str, str]:
    """One of the summary: a section, its verdict, and what is worst in it."""
    verdict = outcome.verdict(given)
    told = [_said(f, given(f)) for f in outcome.figures if verdict in VERDICTS[1:] and f.verdict(given(f)) == verdict]
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    reason = outcome.problem or "; ".join(told[:3]) + more
    status = verdict or ("not run" if outcome.problem else "no limits")
    return {"section": outcome.section.name, "verdict": status, "why": reason, "s": f"{outcome.seconds:.0f}"}


def _said(figure: Figure, given: float) -> str:
    value = "none" if isnan(figure.value) else " ".join(filter(None, [cell(figure.value), figure.unit]))
    notes = [figure.note] if figure.note else []
    notes += [] if isnan(given) else [f"given {cell(given)}"]
    note = f" ({', '.join(notes)})" if notes else ""
    return f"{figure.key.replace('_', ' ')} of {figure.of} {value}{note}"


def bad_ones(outcomes: Sequence[Outcome], given: Given) -> list[str]:
    """The sections in which something is bad."""
    return [outcome.section.name for outcome in outcomes if outcome.verdict(given) == "bad"]


def _counted(table: pd.DataFrame, outcomes: Sequence[Outcome]) -> str:
    counts = [f"{(table['verdict'] == verdict).sum()} {verdict}" for verdict in VERDICTS] if len(table) else []
    failed = sum(outcome.failed for outcome in outcomes)
    skipped = sum(bool(outcome.problem) and not outcome.failed for outcome in outcomes)
    sections = [f"{n} sections {what}" for n, what in ((failed, "failed"), (skipped, "not run")) if n]
    return f"Figures: {', '.join([*counts, *sections])}."


def summary(outcomes: Sequence[Outcome], given: Given) -> Table:
    """For the terminal."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for name, ends in (("section", "left"), ("verdict", "left"), ("why", "left"), ("s", "right")):
        table.add_column(name, justify=ends)  # type: ignore[arg-type]
    for outcome in outcomes:
        row = _row(outcome, given)
        cells = [Text(row["section"]), Text(row["verdict"], COLOURS.get(row["verdict"], "")), Text(row["why"])]
        table.add_row(*cells, row["s"])
    return table
