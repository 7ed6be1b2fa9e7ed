"""Force and stress errors in the report, and rows that learn energies alone."""

import json
import shutil

import ase.io
import numpy as np
import pandas as pd
import pytest
from paper import call, script
from run_folders import write_run, write_silicon
from tiny import exit_code

from eipnn.report.folds import components, force_errors, predicted_frames
from eipnn.report.runs import read_run

ROWS = ("energies", "mp-energies", "baseline", "la", "mp")
TOTAL = 48
"""DFT frames for training and validation in the invented splits."""


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return write_silicon(tmp_path_factory.mktemp("silicon"))


@pytest.fixture(scope="module")
def run(silicon, tmp_path_factory):
    """A run whose strategy s is off by ERRORS[s] x 1.1 (split 1) and x 1.2 (split 2), in eV/A and in GPa."""
    run = write_run(tmp_path_factory.mktemp("forces") / "run", silicon, ROWS, forces=True)
    for frames, larger in ((12, 4.0), (24, 2.0)):
        write_run(run, silicon, ("energies", "baseline", "mp"), frames=frames, larger=larger, forces=True)
    assert exit_code("report", str(run)) == 0
    return run


def table(run, name="table") -> pd.DataFrame:
    return pd.read_csv(run / "report" / f"{name}.csv").set_index("row", drop=False)


def test_force_and_stress_errors_stand_in_the_tables(run):
    rows = table(run)
    names = ["SchNet (energies alone)", "SchNet", "+LA", "+MP", "+MP (energies alone)"]
    assert rows["row"].tolist()[1:] == names
    for column in ("force_mae_eV_per_A", "stress_mae_GPa"):
        assert rows.loc[names, column].to_numpy() == pytest.approx(1.15 * np.array([0.7, 0.4, 0.3, 0.2, 0.56]))
    assert rows.loc["+MP", "force_mae_sd"] == pytest.approx(0.2 * np.std([1.1, 1.2], ddof=1))
    text = (run / "report" / "report.md").read_text()
    assert "| +MP " in text
    assert "0.230 ± 0.014" in text  # 0.2 x 1.15 eV/A
    trainings = pd.read_csv(run / "report" / "trainings.csv").set_index(["strategy", "split"])
    assert trainings.loc[("baseline", 1), "force_mae_eV_per_A"] == pytest.approx(0.44)


def test_the_best_eip_has_the_force_error_of_its_labels(run, silicon):
    from eipnn.labels import LabelStore

    best = table(run).iloc[0]
    store, errors = LabelStore.open("bundled:si_mini/labels"), []
    place = store.eips.index(best["row"].partition("(")[2].rstrip(")"))
    for split in (1, 2):
        frames = [silicon.dft[i] for i in silicon.split(split)["test"]]
        off = [np.abs(store.forces(a.info["config_id"])[:, place] - a.get_forces()).ravel() for a in frames]
        errors.append(np.concatenate(off).mean())
    assert best["force_mae_eV_per_A"] == pytest.approx(np.mean(errors))


def test_rows_of_energies_alone_are_compared_with_each_other(run):
    rows = table(run)
    assert rows.loc["+MP", "force_improvement_percent"] == pytest.approx(50)
    assert rows.loc["+MP (energies alone)", "force_improvement_percent"] == pytest.approx(20)
    assert rows.loc["+MP (energies alone)", "improvement_percent"] == pytest.approx(20, abs=1e-3)
    assert np.isnan(rows.loc["SchNet (energies alone)", "force_improvement_percent"])


def test_learning_curves_of_forces(run):
    curve = table_by_frames(run).loc["mp"]
    assert curve["force_mae_eV_per_A"].to_numpy() == pytest.approx(0.23 * np.array([4, 2, 1]))
    saved = pd.read_csv(run / "report" / "frames_saved_forces.csv").set_index(["strategy", "frames"])
    # errors fall as 1 / frames, +MP has half of those of DFT alone
    assert saved.loc[("mp", 12), "frames_needed"] == pytest.approx(24)
    assert saved.loc[("energies", 24), "frames_needed"] == pytest.approx(24 * 4 / 7)
    text = (run / "report" / "report.md").read_text()
    assert "| frames SchNet needs in forces" in " ".join(text.split())
    assert "24 (x 2.00)" in text
    assert "at equal force MAE by a factor of 2.00" in text
    section = text.partition("### How many DFT frames")[2]
    assert "gradient steps" in section.partition("|\n")[0]


def table_by_frames(run) -> pd.DataFrame:
    return pd.read_csv(run / "report" / "errors_by_frames.csv").set_index("strategy").sort_values("frames")


def test_parity_of_forces_and_stress(run):
    text = (run / "report" / "report.md").read_text()
    for name in ("parity", "parity_forces", "parity_stress", "learning_curves", "frames"):
        assert (run / "report" / f"{name}.png").stat().st_size > 10_000
        assert f"]({name}.png)" in text
    training = next(t for t in read_run(run) if t.strategy == "mp" and t.place == (1, 0))
    frames = predicted_frames(training)
    pairs = components(frames, "forces")
    assert len(pairs) == 3 * sum(map(len, frames))
    assert pairs[:, 1] - pairs[:, 0] == pytest.approx(0.22, abs=1e-6)
    assert set(force_errors(training)) == {a.info["config_id"] for a in frames}


def test_a_run_without_forces_among_those_with_them(run, silicon, tmp_path):
    """A run of an eipnn that knew none: what it lacks is empty, and no picture shows it."""
    old = write_run(tmp_path / "old", silicon, ("mp+la",))
    assert exit_code("report", str(run), str(old), "-o", str(tmp_path / "both")) == 0
    rows = pd.read_csv(tmp_path / "both" / "table.csv").set_index("row")
    assert np.isnan(rows.loc["+MP+LA", "force_mae_eV_per_A"])
    assert rows.loc["+MP", "force_mae_eV_per_A"] == pytest.approx(0.23)
    line = next(text for text in (tmp_path / "both" / "report.md").read_text().splitlines() if "| +MP+LA" in text)
    assert [cell.strip() for cell in line.split("|")][4:6] == ["-", "-"]


def test_damaged_predictions_are_named(run, tmp_path, capsys):
    run = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("report"))
    file = run / "split-1" / "seed-0" / "mp" / "predictions_test.extxyz"
    file.write_text(file.read_text()[:-100])
    assert exit_code("report", str(run)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{file}: damaged, line " in said
    result = run / "split-1" / "seed-0" / "result-mp.json"
    result.write_text(json.dumps(json.loads(result.read_text()) | {"result": None}))
    assert exit_code("report", str(run)) == 1


def test_ase_reads_what_was_predicted(run):
    file = run / "split-1" / "seed-0" / "mp" / "predictions_test.extxyz"
    for atoms in ase.io.read(file, ":"):
        assert atoms.get_forces() - atoms.arrays["dft_forces"] == pytest.approx(0.22, abs=1e-6)
        assert atoms.get_potential_energy() != atoms.info["dft_energy"]
        assert ("stress" in atoms.calc.results) == atoms.pbc.all()


def test_negative_transfer_in_forces(run, tmp_path):
    call(script("lost_ground"), str(run), "-o", str(tmp_path))
    lines = pd.read_csv(tmp_path / "negative_transfer.csv").set_index(["strategy", "frames"])
    assert lines.loc[("mp", TOTAL), "force_gain_percent"] == pytest.approx(50)
    assert lines.loc[("mp-energies", TOTAL), "against"] == "energies"
    assert lines.loc[("mp-energies", TOTAL), "force_gain_percent"] == pytest.approx(20)
    assert "energies" not in lines.index.get_level_values("strategy")
    quality = pd.read_csv(tmp_path / "label_quality.csv").set_index("row")
    # splits weigh as their chosen atoms do
    assert 0.44 < quality.loc["SchNet", "force_mae_eV_per_A"] < 0.48
    assert 0 < quality.loc["chosen EIP labels", "force_mae_eV_per_A"] < 10
    assert "force MAE (eV/Å)" in (tmp_path / "lost_ground.md").read_text()
