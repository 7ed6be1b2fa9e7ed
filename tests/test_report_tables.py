"""The numbers of the tables."""

import numpy as np
import pandas as pd
import pytest

from eipnn.report.tables import Measured, improvements, markdown, readable, summary


def row(name, *errors, steps=10):
    places = tuple((split, 0) for split in range(1, len(errors) + 1))
    return Measured(name, places, np.array(errors), (steps,) * len(errors))


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
    assert each == pytest.approx([gain])


def test_improvement_is_of_the_means_over_shared_places():
    baseline = row("b", (1.0, 0.1), (3.0, 0.3), (100.0, 100.0))
    gain, each = improvements(row("+X", (0.5, 0.05), (3.0, 0.3)), baseline)
    assert gain == pytest.approx(1 - 3.5 / 4)
    assert each == pytest.approx([0.5, 0.0])


def test_improvement_without_shared_places_is_not_a_number():
    other = Measured("+X", ((7, 0),), np.ones((1, 2)), (1,))
    gain, each = improvements(other, row("b", (1.0, 1.0)))
    assert np.isnan(gain)
    assert len(each) == 0


def test_summary_has_means_sample_deviations_and_counts():
    rows = [row("SchNet", (1.0, 0.1), (2.0, 0.3)), row("+LA", (0.5, 0.05), (1.5, 0.15))]
    table = summary(rows, rows[0])
    assert table["config_mae_eV"].tolist() == [1.5, 1.0]
    assert table["atom_mae_sd"][0] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert np.isnan(table["improvement_percent"][0])
    assert table["improvement_percent"][1] == pytest.approx(100 * (1 - (1 / 1.5 + 0.1 / 0.2) / 2))
    assert table["n"].tolist() == [2, 2]


def test_summary_without_a_baseline_invents_no_improvement():
    assert np.isnan(summary([row("+LA", (0.5, 0.05))], None)["improvement_percent"][0])


def test_an_eip_has_no_steps_and_no_improvement():
    eip = Measured("Best EIP (sw)", ((1, 0),), np.array([[1.0, 0.1]]))
    text = readable(summary([eip, row("SchNet", (1.0, 0.1))], row("SchNet", (1.0, 0.1))))
    assert text.iloc[0].tolist() == ["Best EIP (sw)", "1.0000", "0.1000", "-", "1", *("-" * 4)]


def test_counts_that_differ_are_a_range():
    three = row("+LA", *[(0.5, 0.05)] * 3)
    three = Measured(three.name, three.places, three.errors, (30, 10, 20), (5, 5, 5), (0.1, 1.0, 0.1))
    line = summary([three], None).iloc[0]
    assert (line["gradient_steps"], line["epochs"], line["alpha"]) == ("10 to 30", "5", "0.1, 1")


def test_markdown_leaves_text_as_it_is():
    text = markdown(pd.DataFrame({"": ["a"], "b": ["1.10"]}))
    assert "| 1.10 |" in " ".join(text.split())
