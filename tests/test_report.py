"""`eipnn report` on invented run folders."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from run_folders import ERRORS, N_POOL, ZERO, write_run, write_silicon
from tiny import exit_code

from eipnn.labels import LabelStore
from eipnn.report.folds import check_tested, learning_curve, read_table
from eipnn.report.runs import ReportError, read_experiments, read_run
from eipnn.structures import energy

PICTURES = ("parity.png", "learning_curves.png", "confusion.png", "selection.png")


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return write_silicon(tmp_path_factory.mktemp("silicon"))


@pytest.fixture(scope="module")
def full(silicon, tmp_path_factory):
    """A run with all strategies on two splits, and its report."""
    run = write_run(tmp_path_factory.mktemp("full") / "run", silicon)
    assert exit_code("report", str(run)) == 0
    return run


@pytest.fixture
def run(full, tmp_path):
    """The same run without its report, to be damaged."""
    return shutil.copytree(full, tmp_path / "run", ignore=shutil.ignore_patterns("report"))


def text(run) -> str:
    return (run / "report" / "report.md").read_text(encoding="utf-8")


def table(run, name="table") -> pd.DataFrame:
    return pd.read_csv(run / "report" / f"{name}.csv").set_index("row", drop=False)


def result(run, split, strategy) -> dict:
    file = run / f"split-{split}" / "seed-0" / f"result-{strategy}.json"
    return json.loads(file.read_text())["result"]


def test_the_table_has_the_papers_rows(full):
    rows = table(full)
    assert rows["row"].tolist()[1:] == ["SchNet", "+LA", "+MP", "+MP+LA"]
    assert rows["row"].iloc[0].startswith("Best EIP (")
    assert (rows["n"] == 2).all()
    errors = [result(full, split, "mp")["test_config_mae"] for split in (1, 2)]
    assert rows.loc["+MP", "config_mae_eV"] == pytest.approx(np.mean(errors))
    assert rows.loc["+MP", "config_mae_sd"] == pytest.approx(np.std(errors, ddof=1))
    # The invented errors are the same but for their size.
    gain = 100 * (1 - ERRORS["mp+la"] / ERRORS["baseline"])
    assert rows.loc["+MP+LA", "improvement_percent"] == pytest.approx(gain, abs=1e-3)
    assert str(rows.loc["+MP+LA", "pretraining_steps"]).startswith("50")
    assert "| +MP+LA" in text(full)
    assert "Not in the table" not in text(full)


def test_the_energy_zeros_are_printed(full):
    lines = text(full).partition("### Energy zeros")[2].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:6]]
    assert cells[0] == ["of", "mode", "energies (eV)", "splits"]
    assert cells[2:] == [
        ["DFT", "isolated_atoms", f"Si {ZERO:.5f}", "1, 2"],
        ["all EIPs", "none", "", "1, 2"],
    ]


def test_best_eip_is_chosen_on_train_and_val_and_reported_on_test(full, silicon):
    expected, store = [], LabelStore.open("bundled:si_mini/labels")
    for number in (1, 2):
        split = silicon.split(number)

        def errors(ids):
            dft = np.array([energy(silicon.dft[i]) - ZERO * len(silicon.dft[i]) for i in ids])
            return np.abs(store.energies_of(ids, store.eips) - dft[:, None])

        best = errors(split["train"] + split["val"]).mean(axis=0).argmin()
        expected.append(errors(split["test"])[:, best].mean())
    assert table(full)["config_mae_eV"].iloc[0] == pytest.approx(np.mean(expected))


def test_equal_steps_are_a_table_of_their_own(full):
    rows = table(full, "table_equal_steps")
    assert rows["row"].tolist() == ["SchNet-long", "+LA", "+MP-long", "+MP+LA"]
    assert set(rows["gradient_steps"]) == {90}
    gain = 100 * (1 - ERRORS["la"] / ERRORS["baseline-long"])
    assert rows.loc["+LA", "improvement_percent"] == pytest.approx(gain, abs=1e-3)
    assert "+MP+LA over +MP-long: 33.3 %." in text(full)


def test_pictures_selection_and_alpha_search(full):
    for name in PICTURES:
        assert (full / "report" / name).stat().st_size > 10_000
        assert f"]({name})" in text(full)
    counts = pd.read_csv(full / "report" / "selection.csv", index_col="class", na_filter=False)
    assert counts["split 1 seed 0"].sum() == N_POOL
    assert counts.loc["none"].tolist() == [N_POOL - 11, N_POOL - 12]
    assert f"split 1 seed 0: 11 of {N_POOL}" in text(full)
    assert "Accuracy on test: 0.58" in text(full)  # 7 of 12
    assert "| +MP+LA, split 1 seed 0 |" in text(full)


def test_near_duplicates_are_named(full, silicon):
    pairs = pd.read_csv(full / "report" / "near_duplicates.csv")
    twin = pairs[(pairs["split"] == 1) & (pairs["test"] == silicon.split(1)["test"][0])].iloc[0]
    assert twin["pool"] == next(iter(silicon.pool))
    assert twin["distance_A"] == pytest.approx(0, abs=1e-6)
    assert twin["test"] in text(full)


def test_learning_curve_of_a_resumed_training_counts_each_epoch_once(full):
    curve = learning_curve(read_run(full)[0])
    assert curve["epoch"].tolist() == list(range(10))
    assert curve["step"].is_monotonic_increasing


def test_what_is_not_there_is_said(silicon, tmp_path, capsys):
    run = write_run(tmp_path / "run", silicon, ("baseline", "mp"), splits=(1,))
    write_run(run, silicon, ("baseline",), splits=(2,))
    assert exit_code("report", str(run), "-o", str(tmp_path / "run" / "report")) == 0
    assert table(run)["row"].tolist()[1:] == ["SchNet", "+MP"]
    assert "+LA (`la`) on split 1 seed 0, split 2 seed 0: no finished training" in text(run)
    assert "+MP (`mp`) on split 2 seed 0: no finished training" in text(run)
    assert "None was trained" in text(run)
    assert not (run / "report" / "confusion.png").exists()
    assert table(run).loc["+MP", "improvement_n"] == 1
    assert "SchNet" in capsys.readouterr().out


def test_data_that_moved_away_leaves_the_rest(run, capsys):
    for file in run.glob("**/config.yaml"):
        file.write_text(file.read_text().replace("dft.extxyz", "moved.extxyz"))
    assert exit_code("report", str(run)) == 0
    assert table(run)["row"].iloc[0] == "SchNet"
    assert "Best EIP: see the warnings" in text(run)
    assert "moved.extxyz: no such file" in " ".join(capsys.readouterr().err.split())


def test_two_backbones_have_a_section_each(run, silicon, tmp_path):
    other = write_run(tmp_path / "other", silicon, ("baseline",), splits=(1,))
    for file in other.glob("**/config.yaml"):
        file.write_text(file.read_text().replace("SchNet", "SOAPNet"))
    assert exit_code("report", str(run), str(other), "-o", str(tmp_path / "both")) == 0
    report = (tmp_path / "both" / "report.md").read_text()
    assert "## SchNet on" in report
    assert "## SOAPNet on" in report
    assert "](2-SOAPNet/parity.png)" in report
    assert (tmp_path / "both" / "2-SOAPNet" / "parity.png").exists()
    assert report.count("### Energy zeros") == 1 + 1  # the splits differ: each has zeros of its own


def test_a_run_of_several_experiments_is_reported_whole(full, silicon, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(full, root / "schnet", ignore=shutil.ignore_patterns("report"))
    write_run(root / "other", silicon, ("baseline", "mp"), splits=(1, 2))
    for file in root.glob("other/**/config.yaml"):
        file.write_text(file.read_text().replace("SchNet", "SOAPNet"))
    assert exit_code("report", str(root)) == 0
    report = (root / "report" / "report.md").read_text()
    assert report.count("### Energy zeros") == 1


def test_rows_of_ones_own_stand_in_the_table(silicon, tmp_path, capsys):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la-mse"))
    assert exit_code("report", str(run)) == 0
    assert table(run)["row"].tolist()[1:] == ["SchNet", "+LA (MSE)"]
    other = write_run(tmp_path / "other", silicon, ("la-mse",), seed=1)
    file = other / "experiment.yaml"
    file.write_text(file.read_text().replace("loss: mse", "loss: tukey"))
    assert exit_code("report", str(run), str(other)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"{run} and {other} define the strategy la-mse differently" in said
    file.unlink()
    assert exit_code("report", str(other)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert f"unknown strategy 'la-mse', which neither eipnn nor {file} defines" in said


def test_runs_of_other_seeds_are_pooled(run, silicon, tmp_path):
    more = write_run(tmp_path / "more", silicon, ("baseline",), splits=(1,), seed=1)
    assert exit_code("report", str(run), str(more)) == 0
    assert table(run).loc["SchNet", "n"] == 3


def remove_run(run):
    shutil.rmtree(run)


def remove_results(run):
    for file in run.glob("split-*/seed-*/result-*.json"):
        file.unlink()


def cut_json(run):
    file = run / "split-1/seed-0/result-la.json"
    file.write_text(file.read_text()[:50])


def json_list(run):
    (run / "split-1/seed-0/result-la.json").write_text("[]")


def forget_metric(run):
    change(run, lambda content: content["result"].pop("test_atom_mae"))


def not_finite(run):
    change(run, lambda content: content["result"].update(test_atom_mae=float("nan")))


def unknown_strategy(run):
    change(run, lambda content: content.update(strategy="ml"))


def begin_anew(run):
    change(run, lambda content: content.update(fingerprint="older"))


def change(run, how):
    file = run / "split-1/seed-0/result-la.json"
    content = json.loads(file.read_text())
    how(content)
    file.write_text(json.dumps(content))


def remove_predictions(run):
    (run / "split-1/seed-0/mp/predictions_test.csv").unlink()


def rename_column(run):
    file = run / "split-1/seed-0/mp/predictions_test.csv"
    file.write_text(file.read_text().replace("prediction", "guess"))


def other_frames(run):
    file = run / "split-1/seed-0/mp/predictions_test.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def other_energies(run):
    file = run / "split-1/seed-0/mp/predictions_test.csv"
    pd.read_csv(file).assign(energy=lambda table: table["energy"] + 0.01).to_csv(file, index=False)


def empty_predictions(run):
    (run / "split-1/seed-0/mp/predictions_test.csv").write_text("")


def remove_config(run):
    (run / "split-1/seed-0/mp/config.yaml").unlink()


def damage_pretraining(run):
    (run / "split-1/seed-0/pretrain/done.json").write_text("{}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_run, "no such run folder; give what `eipnn run -o` wrote"),
        (remove_results, "nothing finished in it (no split-K/seed-S/result-STRATEGY.json)"),
        (cut_json, "result-la.json: not readable JSON"),
        (json_list, "result-la.json: damaged, no mapping; remove it"),
        (forget_metric, "result-la.json: damaged, KeyError: 'test_atom_mae'; remove it"),
        (not_finite, "gradient_steps is no finite number"),
        (unknown_strategy, "unknown strategy 'ml'"),
        (begin_anew, "has been begun anew with other settings or data"),
        (remove_predictions, "mp/predictions_test.csv: missing; give the same `eipnn run` again"),
        (other_frames, "/split-1/seed-0/mp: split 1 of both, and tested on other frames or other DFT energies"),
        (other_energies, "report the runs apart"),
        (rename_column, "mp/predictions_test.csv: damaged, no column 'prediction'"),
        (empty_predictions, "mp/predictions_test.csv: damaged, EmptyDataError"),
        (remove_config, "mp/config.yaml: no stage configuration"),
        (damage_pretraining, "pretrain/done.json: damaged, KeyError"),
    ],
)
def test_damage_is_named_with_its_mend(run, capsys, damage, message):
    damage(run)
    assert exit_code("report", str(run)) == 1
    assert message in " ".join(capsys.readouterr().err.split())


def test_the_same_training_twice_is_an_error(run, tmp_path, capsys):
    again = shutil.copytree(run, tmp_path / "again")
    assert exit_code("report", str(run), str(again)) == 1
    assert "report these runs apart" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("part", ["validation", "test"])
def test_fewer_frames_validate_on_fewer(silicon, tmp_path, part):
    """Where no frames are held out, numbers of frames are compared on what each validates on."""
    run = tmp_path / "run"
    for frames in (None, 20):
        write_run(run, silicon, ("baseline", "mp"), (1,), frames=frames)
    for file in run.glob("split-1/seed-0/**/result-*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"tested_on": part}))
    for file in run.glob("split-1/seed-0/frames-20/*/predictions_test.csv"):
        pd.read_csv(file)[:4].to_csv(file, index=False)
    (experiment,) = read_experiments([run])
    with nullcontext() if part == "validation" else pytest.raises(ReportError, match="tested on other frames"):
        check_tested(experiment.everything)


def test_ids_in_tables_are_text(tmp_path):
    """Those too that look like numbers or gaps."""
    file = tmp_path / "predictions.csv"
    file.write_text("config_id,eip,error\nnan,none,1.5\n007,sw,2\nNA,none,3\n12E5,sw,4\n")
    table = read_table(file, ("config_id", "eip", "error"))
    assert list(table["config_id"]) == ["nan", "007", "NA", "12E5"]
    assert list(table["eip"]) == ["none", "sw", "none", "sw"]
    assert list(table["error"]) == [1.5, 2, 3, 4]
    for gap in ("", "nan"):
        file.write_text(f"config_id,error\na,{gap}\n")
        with pytest.raises(ReportError, match="empty or with gaps"):
            read_table(file, ("config_id", "error"))
