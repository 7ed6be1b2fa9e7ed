"""The sections beyond Table 1: one EIP, fewer DFT frames, negative transfer, the HTML page."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_folders import BEYOND, ERRORS, write_run, write_silicon
from tiny import exit_code

from eipnn.report.frames import drawn, frames_saved
from eipnn.report.page import html_page

TOTAL = 48
"""DFT frames for training and validation in the invented splits."""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run with every strategy, and with two smaller numbers of frames."""
    silicon = write_silicon(tmp_path_factory.mktemp("silicon"))
    run = tmp_path_factory.mktemp("all") / "run"
    write_run(run, silicon, strategies=(*ERRORS, *BEYOND))
    few = ("baseline", "baseline-long", "la", "mp", "mp-long", "mp+la", "delta", "delta-long")
    write_run(run, silicon, few, frames=12, larger=4.0)
    write_run(run, silicon, few, frames=24, larger=2.0)
    (run / "commands.txt").write_text("eipnn run invented.yaml\n")
    assert exit_code("report", str(run)) == 0
    return run / "report"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The report of a run with the rows of Table 1 alone."""
    silicon = write_silicon(tmp_path_factory.mktemp("silicon"))
    run = write_run(tmp_path_factory.mktemp("plain") / "run", silicon, ("baseline", "la"))
    assert exit_code("report", str(run)) == 0
    return (run / "report" / "report.md").read_text()


def test_the_report_says_how_it_was_made(report):
    _, _, text = (report / "report.md").read_text().partition("### How it was made")
    count = 2 * (len((*ERRORS, *BEYOND)) + 2 * 8)
    assert "    eipnn run invented.yaml" in text
    made = f"{count} fine-tuned potentials in the tables (splits 1, 2; seed 0), trained with eipnn"
    assert f"{made} 0.1.0 torch 2.13.0." in text
    assert "did not record" not in text


def test_runs_without_commands_say_so(tmp_path):
    silicon = write_silicon(tmp_path)
    run = write_run(tmp_path / "run", silicon, ("baseline", "mp"))
    assert exit_code("report", str(run)) == 0
    text = (run / "report" / "report.md").read_text()
    assert "did not record commands" in text
    assert "4 fine-tuned potentials" in text


def test_nothing_is_told_of_what_was_not_trained(plain):
    for title in ("on DFT - EIP", "How many DFT frames"):
        assert title not in plain


def test_delta_learning_stands_in_the_tables_of_its_steps(report):
    rows = pd.read_csv(report / "table.csv")["row"].tolist()
    assert rows[5:7] == ["SchNet on DFT - EIP", "+MP on DFT - EIP"]
    rows = pd.read_csv(report / "table_equal_steps.csv")["row"].tolist()
    assert rows[4:] == ["SchNet on DFT - EIP, long", "+MP on DFT - EIP, long"]


def test_rows_that_lose_to_dft_alone_are_named(report):
    text = (report / "report.md").read_text()
    assert "On average +LA (MSE), +LA (one EIP), +MP+LA (MSE) lose to DFT alone." in text


def test_errors_by_frames(report):
    table = pd.read_csv(report / "errors_by_frames.csv")
    assert sorted(set(table["frames"])) == [12, 24, TOTAL]
    errors = table[table["strategy"] == "mp"].set_index("frames")["config_mae_eV"]
    assert errors[12] / errors[TOTAL] == pytest.approx(4.0)
    assert (table["n"] == 2).all()
    main = pd.read_csv(report / "table.csv").set_index("row")
    assert errors[TOTAL] == pytest.approx(main.loc["+MP", "config_mae_eV"])


def test_saved_frames_of_a_power_law(report):
    """Errors fall as 1 / frames; mp-long has 3/7 of the error of baseline-long: as with 7/3 of the frames."""
    saved = pd.read_csv(report / "frames_saved.csv").set_index(["strategy", "frames"])
    assert saved.loc[("mp-long", 12), "frames_needed"] == pytest.approx(12 * 7 / 3)
    assert saved.loc[("mp-long", 12), "ratio"] == pytest.approx(7 / 3)
    assert saved.loc[("mp+la", TOTAL), "bound"] == "more"
    assert np.isnan(saved.loc[("mp+la", TOTAL), "frames_needed"])
    text = (report / "report.md").read_text()
    assert "saves DFT frames at equal config MAE by a factor of" in text


@given(st.floats(0.3, 1.5), st.floats(0.2, 0.95))
def test_the_power_of_the_curve_does_not_matter(power, share):
    """A strategy that needs `share` of the frames of a power-law baseline saves 1 / share."""
    numbers = [20, 40, 80, 160]
    lines = [(n, "baseline-long", n**-power) for n in numbers]
    lines += [(n, "la", (n / share) ** -power) for n in numbers if n / share <= 160]
    table = pd.DataFrame(lines, columns=["frames", "strategy", "config_mae_eV"])
    saved = frames_saved(table, "baseline-long")
    assert saved["ratio"].to_numpy() == pytest.approx(1 / share, rel=1e-6)


def test_a_worse_strategy_than_the_fewest_frames_gives():
    table = pd.DataFrame(
        {
            "frames": [10, 20, 20],
            "strategy": ["baseline", "baseline", "la"],
            "config_mae_eV": [1, 0.5, 2.0],
        }
    )
    assert frames_saved(table, "baseline")["bound"].tolist() == ["fewer"]


def test_the_page_holds_its_pictures(report):
    page = (report / "report.html").read_text()
    sources = re.findall(r'<img[^>]* src="([^"]{0,30})', page)
    assert len(sources) == len(re.findall(r"!\[", (report / "report.md").read_text())) == 5
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "<table>" in page
    assert "http" not in re.sub(r"data:image[^\"]+", "", page)


def test_a_picture_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        html_page("![x](gone.png)", tmp_path)


def test_only_fewer_frames_is_an_error(tmp_path, capsys):
    silicon = write_silicon(tmp_path)
    run = write_run(tmp_path / "run", silicon, ("baseline",), frames=12)
    assert exit_code("report", str(run)) == 1
    assert "with --frames all" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("trained", "shown"),
    [
        ({"baseline": [1, 2], "mp": [1, 2]}, ["baseline", "mp"]),
        ({"baseline": [1, 2], "mp": [1, 2], "mp-long": [1, 2]}, ["baseline", "mp"]),
        (
            {"baseline": [1, 2], "baseline-long": [1, 2], "mp": [1, 2], "mp-long": [1, 2]},
            ["baseline-long", "mp-long"],
        ),
        (
            {"baseline-long": [1, 2], "delta": [1, 2], "delta-long": [2]},
            ["baseline-long", "delta"],
        ),
        ({"baseline": [1, 2], "baseline-long": [2], "la": [1, 2]}, ["baseline", "la"]),
    ],
)
def test_long_rows_are_drawn_where_they_are_fair_and_whole(trained, shown):
    table = pd.DataFrame([{"strategy": name, "frames": n} for name, numbers in trained.items() for n in numbers])
    assert drawn(table) == shown
