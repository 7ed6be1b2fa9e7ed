"""The numbers of the tables."""

import io
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from eipnn.metrics import METRICS
from eipnn.report.command import printed
from eipnn.report.tables import TYPES, improvements, markdown, readable, summary

ERRORS = [metric.column for metric in METRICS]


def row(name, *errors, steps=10, **given):
    places = [{"split": split, "seed": 0} for split in range(1, len(errors) + 1)]
    filled = [(*each, *[None] * (len(ERRORS) - len(each))) for each in errors]
    measured = [place | dict(zip(ERRORS, each, strict=True)) for place, each in zip(places, filled, strict=True)]
    numbers = {
        "gradient_steps": steps,
        "epochs": None,
        "alpha": None,
        "pretraining_steps": None,
        "seconds": np.nan,
    } | given
    return pd.DataFrame(measured).assign(strategy=name, **numbers).astype(TYPES)


def lines(*rows, baseline="none"):
    """The summary of some rows."""
    table = pd.concat(rows)
    names = {name: name for name in table["strategy"]}
    return summary(table, names, dict.fromkeys(names, baseline))


@pytest.mark.parametrize(
    ("baseline", "improved", "percent"),
    [  # Table 1 of the paper: SchNet on KIM-Si and on AgAu, GemNet on KIM-Si
        ((0.4805, 0.0718), (0.3719, 0.0490), 27.17),
        ((0.4805, 0.0718), (0.4015, 0.0549), 19.99),
        ((0.7290, 0.0290), (0.3353, 0.0130), 54.65),
        ((0.5138, 0.0546), (0.4651, 0.0476), 11.12),
    ],
)
def test_improvement_is_the_papers(baseline, improved, percent):
    gain, each = improvements(row("+X", improved), row("b", baseline))
    assert 100 * gain == pytest.approx(percent, abs=0.1)  # the paper's errors are rounded
    assert each.to_numpy() == pytest.approx([gain])


def test_improvement_is_of_the_means_over_shared_places():
    baseline = row("b", (1.0, 0.1), (3.0, 0.3), (100.0, 100.0))
    gain, each = improvements(row("+X", (0.5, 0.05), (3.0, 0.3)), baseline)
    assert gain == pytest.approx(1 - 3.5 / 4)
    assert each.to_numpy() == pytest.approx([0.5, 0.0])


def test_improvement_without_shared_places_is_not_a_number():
    other = row("+X", (1.0, 1.0)).assign(split=7)
    gain, each = improvements(other, row("b", (1.0, 1.0)))
    assert np.isnan(gain)
    assert len(each) == 0


def test_summary_has_means_sample_deviations_and_counts():
    rows = [row("SchNet", (1.0, 0.1), (2.0, 0.3)), row("+LA", (0.5, 0.05), (1.5, 0.15))]
    table = lines(*rows, baseline="SchNet")
    assert table["config_mae_eV"].tolist() == [1.5, 1.0]
    assert table["atom_mae_sd"][0] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert np.isnan(table["improvement_percent"][0])
    assert table["improvement_percent"][1] == pytest.approx(100 * (1 - (1 / 1.5 + 0.1 / 0.2) / 2))
    assert table["n"].tolist() == [2, 2]


def test_summary_has_the_mean_time():
    table = lines(row("SchNet", (1.0, 0.1), (2.0, 0.3)).assign(seconds=[100.0, 301.0]))
    assert readable(table)["time (s)"].tolist() == ["200"]


def test_summary_without_a_baseline_invents_no_improvement():
    assert np.isnan(lines(row("+LA", (0.5, 0.05)))["improvement_percent"][0])


def test_an_eip_has_no_steps_and_no_improvement():
    eip = row("Best EIP (sw)", (1.0, 0.1), steps=None)
    text = readable(lines(eip, row("SchNet", (1.0, 0.1)), baseline="SchNet"))
    assert text.iloc[0].tolist() == ["Best EIP (sw)", "1000.0", "100.00", "-", "1", *("-" * 5)]


def test_counts_that_differ_are_a_range():
    three = row("+LA", *[(0.5, 0.05)] * 3, steps=[30, 10, 20], epochs=5, alpha=[0.1, 1.0, 0.1])
    line = lines(three).iloc[0]
    assert (line["gradient_steps"], line["epochs"], line["alpha"]) == ("10 to 30", "5", "0.1, 1")


def test_markdown_leaves_text_as_it_is():
    text = markdown(pd.DataFrame({"": ["a"], "b": ["1.10"]}))
    assert "| 1.10 |" in " ".join(text.split())


def test_the_printed_table_fits_a_terminal():
    errors = [(0.1234, 0.0345, 0.161, 1.28)] * 3
    rows = [row(name, *errors, steps=24600, seconds=95.0) for name in ("SchNet", "SchNet+MP", "SchNet+MP+LA")]
    report = SimpleNamespace(
        table=lines(*rows, baseline="SchNet"),
        experiment=SimpleNamespace(backbone="SchNet", dft="dft.extxyz", part="test"),
    )
    console = Console(width=80, file=io.StringIO())
    console.print(printed(report))
    assert "…" not in console.file.getvalue()
    assert "SchNet+MP+LA" in console.file.getvalue()
