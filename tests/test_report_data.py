"""Which structures, split and labels a report reads again: those that its rows were trained with."""

from pathlib import Path

import pytest
import yaml
from run_folders import LABELS, write_classifier, write_run, write_silicon

from eipnn.report.folds import fold_settings
from eipnn.report.runs import read_run


@pytest.fixture(scope="module")
def silicon(tmp_path_factory):
    return write_silicon(tmp_path_factory.mktemp("silicon"))


def rewrite(stage: Path, **data) -> None:
    """Other data arguments in the configuration of a stage; None removes one."""
    config = yaml.safe_load((stage / "config.yaml").read_text())
    given = config["data"]["init_args"] | data
    config["data"]["init_args"] = {key: value for key, value in given.items() if value is not None}
    (stage / "config.yaml").write_text(yaml.safe_dump(config))


def test_files_of_an_earlier_experiment_in_the_folder_of_the_run_are_not_read(silicon, tmp_path):
    """It had random splits and labels of its own; now both are named."""
    run = write_run(tmp_path / "run", silicon, ("baseline",), splits=(1,))
    (run / "labels").mkdir()
    (run / "split-1" / "seed-0" / "split.csv").write_text("configs,mark\n")
    settings = fold_settings(read_run(run))
    assert (settings["split"], settings["labels"]) == (silicon.data(1)["split"], LABELS)


@pytest.mark.parametrize("frames", [None, 12])
def test_what_was_made_in_the_folder_of_the_run_moves_with_it(silicon, tmp_path, frames):
    run = write_run(tmp_path / "run", silicon, ("la",), splits=(1,), frames=frames)
    fold = run / "split-1" / "seed-0" / ("" if frames is None else f"frames-{frames}")
    rewrite(fold / "la" / "alpha-0.1", split=str(fold / "split.csv"), labels=str(run / "labels"))
    settings = fold_settings(read_run(run.rename(tmp_path / "moved")))
    assert settings["labels"] == str(tmp_path / "moved" / "labels")
    assert settings["split"] == str(tmp_path / "moved" / (fold / "split.csv").relative_to(run))
    assert settings["dft"] == silicon.data(1)["dft"]


def test_a_run_in_the_folder_where_it_was_called(silicon, tmp_path):
    """`-o .`: all relative paths are in it, what is bundled is not."""
    run = write_run(tmp_path / "run", silicon, ("baseline",), splits=(1,))
    stage = run / "split-1" / "seed-0" / "baseline"
    rewrite(stage, split="splits/1.csv")
    text = (stage / "config.yaml").read_text()
    (stage / "config.yaml").write_text(text.replace(str(stage), "split-1/seed-0/baseline"))
    settings = fold_settings(read_run(run))
    assert (settings["split"], settings["labels"]) == (str(run / "splits" / "1.csv"), LABELS)


def test_the_labels_of_a_teacher_are_not_the_eips(silicon, tmp_path):
    run = write_run(tmp_path / "run", silicon, ("baseline", "taught"), splits=(1,))
    fold = run / "split-1" / "seed-0"
    rewrite(fold / "baseline", eip_energy_zero="least_squares")
    rewrite(fold / "taught", labels=str(fold / "baseline" / "labels"), eip_energy_zero="none")
    for trainings in (read_run(run), read_run(run)[::-1]):
        settings = fold_settings(trainings)
        assert (settings["labels"], settings["eip_energy_zero"]) == (LABELS, "least_squares")
    (taught,) = (t for t in read_run(run) if t.strategy == "taught")
    assert "labels" not in fold_settings([taught])


@pytest.mark.parametrize("split", [None, "older.csv"])
def test_labels_of_a_classifier_count_where_its_frames_are_those_of_the_rows(silicon, tmp_path, split):
    run = write_run(tmp_path / "run", silicon, ("baseline",), splits=(1,))
    fold = run / "split-1" / "seed-0"
    rewrite(fold / "baseline", labels=None, eip_energy_zero=None)
    write_classifier(fold, silicon, 1, 0)
    rewrite(fold / "classify", **({"split": split} if split else {}))
    settings = fold_settings(read_run(run))
    assert settings.get("labels") == (None if split else LABELS)
    assert settings["split"] == silicon.data(1)["split"]
