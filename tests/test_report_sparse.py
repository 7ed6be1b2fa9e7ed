"""`eipnn report` where there is little to tell: nothing chosen, one test frame, labels that all failed."""

import numpy as np
import pandas as pd
import pytest
import yaml
from run_folders import write_run, write_silicon
from tiny import exit_code, write_labels

from eipnn.labels import LabelStore


@pytest.fixture
def silicon(tmp_path):
    return write_silicon(tmp_path)


def report(run) -> str:
    assert exit_code("report", run) == 0
    return (run / "report" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("of_test", [True, False])
def test_a_classifier_that_chose_no_eip(silicon, tmp_path, of_test):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la"), splits=(1,))
    classify = run / "split-1" / "seed-0" / "classify"
    for name in ("selection.csv", *(["predictions_test.csv"] if of_test else [])):
        table = pd.read_csv(classify / name, keep_default_na=False)
        table.assign(eip="none").to_csv(classify / name, index=False)
    text = report(run)
    assert "got an EIP label: split 1 seed 0: 0 of 40." in text
    assert "+LA rows are trained on DFT alone" in text
    assert ("It chose no EIP for any test configuration either" in text) == of_test


def test_one_test_frame(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la"), splits=(1,))
    for file in run.rglob("predictions_test.csv"):
        pd.read_csv(file, keep_default_na=False)[:1].to_csv(file, index=False)
    split = tmp_path / "split_1.csv"
    table = pd.read_csv(split)
    tests = table.index[table["mark"] == "test"]
    table.drop(tests[1:]).to_csv(split, index=False)
    text = report(run)
    assert "Accuracy on test: 0.00 over 1 predictions" in text
    assert "of 1** test configurations" in text


@pytest.mark.parametrize("failed", ["one", "all"])
def test_eips_whose_labels_all_failed(silicon, tmp_path, failed):
    run = write_run(tmp_path / "run", silicon, ("baseline", "la"), splits=(1,))
    frames = [*silicon.dft.values(), *silicon.pool.values()]
    bundled = LabelStore.open("bundled:si_mini/labels")
    ids = [*silicon.dft, *silicon.pool][:-40]  # the pool's first structure was doubled
    energies = np.zeros((len(frames), len(bundled.eips)))
    energies[: len(ids)] = bundled.energies_of(ids, bundled.eips)
    energies[:, 0 if failed == "one" else slice(None)] = np.nan
    store = write_labels(tmp_path / "labels", frames, energies, bundled.eips)
    for file in run.rglob("config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["data"]["init_args"]["labels"] = str(store)
        file.write_text(yaml.safe_dump(config))
    text = report(run)
    assert f"| {bundled.eips[0]} " in text.partition("### EIP leaderboard")[2]
    assert ("Best EIP: see the warnings" in text) == (failed == "all")
    assert ("no frame of train and validation has labels of all EIPs" in text) == (failed == "all")


def test_a_run_of_the_baseline_alone(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, ("baseline",), splits=(1,))
    for file in run.rglob("config.yaml"):
        config = yaml.safe_load(file.read_text())
        for name in ("pool", "labels"):
            del config["data"]["init_args"][name]
        file.write_text(yaml.safe_dump(config))
    text = report(run)
    assert "Best EIP: no stage of these runs reads labels" in text
    assert "Not looked for: these runs name no pool." in text
