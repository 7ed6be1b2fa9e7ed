"""`eipnn run`: the stages in order, each skipped, resumed or begun anew as it should be."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from run_stages import finish, fold
from tiny import N_POOL, N_TRAIN, REPRESENTATION, exit_code, read_json

from eipnn.labels import LabelStore
from eipnn.run import execute
from eipnn.run.dry_run import gradient_steps, outlook
from eipnn.run.experiment import ExperimentError, read_experiment
from eipnn.run.plan import Plan, in_order
from eipnn.run.strategy import STRATEGIES
from eipnn.stages.sampling import plan_batches
from eipnn.structures import read_split


def test_several_experiments_have_a_folder_each(experiment, fake, tmp_path, capfd):
    files = [tmp_path / f"{name}.yaml" for name in ("small", "large")]
    for features, file in zip((4, 8), files, strict=True):
        sizes = REPRESENTATION["init_args"] | {"features": features}
        net = REPRESENTATION | {"init_args": sizes}
        file.write_text(yaml.safe_dump(experiment | {"representation": net}))
    root = tmp_path / "run"
    assert exit_code("run", *map(str, files), "--strategy", "baseline", "-o", str(root)) == 0
    for features, name in zip((4, 8), ("small", "large"), strict=True):
        done = root / name / "split-1" / "seed-0" / "baseline" / "config.yaml"
        net = yaml.safe_load(done.read_text())["model"]["init_args"]["representation"]
        assert net["init_args"]["features"] == features
        assert read_experiment(root / name / "experiment.yaml").representation == net
    out = capfd.readouterr().out
    assert "small" in out
    assert "large" in out


CLASSIFY = [("classify", "fit"), ("classify", "test"), ("classify", "predict")]
PRETRAIN = [("pretrain", "fit")]


def tuned(name: str) -> list[tuple[str, str]]:
    return [(name, "fit"), (name, "test")]


def test_stages_come_in_order_and_shared_ones_once(experiment, run, fake):
    run(experiment, "--strategy", "baseline", "la", "mp", "mp+la")
    assert fake.taken() == [
        *tuned("baseline"),
        *CLASSIFY,
        *tuned("la/alpha-0.1"),
        *PRETRAIN,
        *tuned("mp"),
        *tuned("mp+la/alpha-0.1"),
    ]


def test_what_is_done_is_skipped(experiment, run, fake, tmp_path):
    run(experiment, "--strategy", "mp+la")
    before = {p: p.stat().st_mtime_ns for p in fold(tmp_path).rglob("done.json")}
    fake.taken()
    said = run(experiment, "--strategy", "mp+la")
    assert fake.taken() == []
    assert said.count("done before, skipped") == 3
    assert {p: p.stat().st_mtime_ns for p in fold(tmp_path).rglob("done.json")} == before
    assert len(before) == 3


def test_other_settings_move_a_stage_aside(experiment, run, fake, tmp_path):
    run(experiment, "--strategy", "baseline", "mp")
    fake.taken()
    experiment["pretrain"] = {"model": {"outlier": 100.0}}
    said = run(experiment, "--strategy", "baseline", "mp")
    # the baseline does not depend on pretraining; mp does
    assert fake.taken() == [*PRETRAIN, *tuned("mp")]
    aside = fold(tmp_path) / "pretrain.old-1"
    assert f"{fold(tmp_path) / 'pretrain'}: made with other settings or data; moved to {aside}" in said
    assert (aside / "done.json").exists()
    assert (fold(tmp_path) / "mp.old-1").exists()
    run(experiment | {"pretrain": {}}, "--strategy", "mp")
    assert (fold(tmp_path) / "pretrain.old-2").exists()
    fingerprints = [
        read_json(fold(tmp_path) / name / "done.json")["fingerprint"]
        for name in ("pretrain", "pretrain.old-1", "pretrain.old-2")
    ]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_changed_data_is_trained_again_and_moved_data_is_not(experiment, run, fake, tmp_path):
    run(experiment, "--strategy", "mp")
    fake.taken()
    copy = tmp_path / "elsewhere.extxyz"
    copy.write_text(Path(experiment["data"]["dft"]).read_text())
    experiment["data"]["dft"] = str(copy)
    run(experiment, "--strategy", "mp")
    assert fake.taken() == []
    copy.write_text(copy.read_text().replace("config_id=dft_000000", "note=1 config_id=dft_000000"))
    run(experiment, "--strategy", "mp")
    assert fake.taken() == [*PRETRAIN, *tuned("mp")]


def test_another_selection_is_trained_on_again(experiment, run, fake):
    run(experiment, "--strategy", "la", "baseline")
    fake.taken()
    fake.selection = fake.selection.replace("pool_000000,au", "pool_000000,none")
    experiment["classify"] = {"model": {"c": 0.05}}
    run(experiment, "--strategy", "la", "baseline")
    assert fake.taken() == [*CLASSIFY, *tuned("la/alpha-0.1")]


def test_the_best_alpha_on_validation_is_the_rows(experiment, run, fake, tmp_path):
    fake.scores = {"la/alpha-0.01": 0.3, "la/alpha-0.1": 0.2, "la/alpha-1": 0.25}
    said = run(experiment, "--strategy", "la", "--alpha", "0.01", "0.1", "1")
    row = read_json(fold(tmp_path) / "result-la.json")
    assert row["alpha"] == 0.1
    assert row["alphas"] == {"0.01": 0.3, "0.1": 0.2, "1.0": 0.25}
    assert row["result"]["best_score"] == 0.2
    assert "Test errors" in said
    # the experiment's own alphas are taken without an option
    fake.taken()
    run(experiment | {"alpha": [0.01, 0.1, 1]}, "--strategy", "la")
    assert fake.taken() == []


def test_alphas_that_yaml_reads_as_text(experiment, tmp_path):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment) + "alpha: [1e-2, 1, 0.5]\n")
    assert read_experiment(file).alpha == (0.01, 1.0, 0.5)


def test_a_failed_stage_stops_the_run_and_the_next_goes_on(experiment, run, fake):
    fake.failing = ("mp", "test")
    said = run(experiment, "--strategy", "mp", "baseline", status=1)
    assert "`eipnn test --config" in said
    assert "ended with status 7; its message stands above" in said
    assert fake.taken() == [*PRETRAIN, *tuned("mp")]
    fake.failing = None
    run(experiment, "--strategy", "mp", "baseline")
    assert fake.taken() == [("mp", "test"), *tuned("baseline")]


@pytest.mark.parametrize("torn", [(), ("last",), ("last", "best")])
def test_a_cut_training_goes_on_from_the_last_whole_checkpoint(experiment, run, fake, tmp_path, torn):
    run(experiment, "--strategy", "baseline")
    stage = fold(tmp_path) / "baseline"
    for name in ("done", "fit"):
        (stage / f"{name}.json").unlink()
    for name in torn:
        file = stage / "checkpoints" / f"{name}.ckpt"
        file.write_bytes(file.read_bytes()[:100])
    seen = []
    call = execute.call
    execute.call = lambda a, *more: seen.append(a) or call(a, *more)
    try:
        said = run(experiment, "--strategy", "baseline")
    finally:
        execute.call = call
    used = {(): "last", ("last",): "best"}.get(torn)
    expected = ["--ckpt_path", str(stage / "checkpoints" / f"{used}.ckpt")] if used else []
    assert seen[0][3:] == expected
    assert said.count("damaged, left out:") == len(torn)
    assert ("resumed" in said) == bool(used)


def test_a_callback_that_leaves_no_best_checkpoint_is_said(experiment, run, fake):
    fake.leaves_best = False
    said = run(experiment, "--strategy", "baseline", status=1)
    assert "best.ckpt: the training left no such checkpoint" in said
    assert "filename: best" in said


def test_what_the_stages_are_told(experiment, run, fake, tmp_path):
    experiment["trainer"]["gradient_clip_val"] = 3.0
    experiment["finetune"] = {
        "trainer": {"max_epochs": 7},
        "data": {"batch_size": 2},
        "model": {"eip_loss": "mse"},
    }
    run(experiment, "--strategy", "mp+la", "--seed", "0", "--threads", "3")
    assert fake.threads == 3
    configs = {
        name: yaml.safe_load((fold(tmp_path) / name / "config.yaml").read_text())
        for name in ("classify", "pretrain", "mp+la/alpha-0.1")
    }
    epochs = {name: config["trainer"]["max_epochs"] for name, config in configs.items()}
    assert epochs == {"classify": 2, "pretrain": 2, "mp+la/alpha-0.1": 7}
    for name, config in configs.items():
        data = config["data"]["init_args"]
        assert config["trainer"]["gradient_clip_val"] == 3.0
        assert config["trainer"]["default_root_dir"] == str(fold(tmp_path) / name)
        assert config["seed_everything"] == data["seed"] == 0
        assert config["model"]["init_args"]["representation"] == REPRESENTATION
        assert data["split"] == str(tmp_path / "split_1.csv")
        assert data["batch_size"] == (2 if name.startswith("mp") else 4)
    assert configs["classify"]["model"]["init_args"]["eips"] == ["cu.1", "au", "far"]
    model = configs["mp+la/alpha-0.1"]["model"]["init_args"]
    assert model["init_from"] == str(fold(tmp_path) / "pretrain" / "checkpoints" / "best.ckpt")
    assert (model["alpha"], model["eip_loss"]) == (0.1, "mse")
    selection = configs["mp+la/alpha-0.1"]["data"]["init_args"]["selection"]
    assert selection == str(fold(tmp_path) / "classify" / "selection.csv")


def test_seeds_and_splits_have_their_own_folders(experiment, run, fake, tmp_path):
    (tmp_path / "split_2.csv").write_text((tmp_path / "split_1.csv").read_text())
    run(experiment, "--strategy", "baseline", "--split", "1", "2", "--seed", "0", "5")
    found = sorted(str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("done.json"))
    assert found == [f"split-{k}/seed-{s}/baseline/done.json" for k in (1, 2) for s in (0, 5)]
    config = yaml.safe_load((fold(tmp_path, 5) / "baseline" / "config.yaml").read_text())
    assert config["seed_everything"] == config["data"]["init_args"]["seed"] == 5


def test_random_splits_are_made_once(experiment, run, fake, tmp_path, tiny):
    del experiment["splits"]
    run(experiment, "--strategy", "baseline", "--split", "1", "2")
    first = (fold(tmp_path) / "split.csv").read_bytes()
    split = read_split(fold(tmp_path) / "split.csv")
    assert (len(split.test), len(split.val), len(split.train), len(split.pool)) == (
        6,
        4,
        20,
        N_POOL,
    )
    assert first != (tmp_path / "run" / "split-2" / "seed-0" / "split.csv").read_bytes()
    run(experiment, "--strategy", "baseline", "--split", "1", "--seed", "1")
    assert (fold(tmp_path, 1) / "split.csv").read_bytes() == first


def test_long_rows_take_the_gradient_steps_of_augmentation(experiment, run, fake, tmp_path):
    """The batch size stands among the data of all stages here."""
    experiment["data"]["batch_size"] = 6
    experiment["finetune"] = {"data": {"dft_fraction": 0.5}}
    run(experiment, "--strategy", "baseline-long")
    config = yaml.safe_load((fold(tmp_path) / "baseline-long" / "config.yaml").read_text())
    augmented = plan_batches(N_TRAIN, 20, 6, 0.5).batches  # 20 selected
    assert augmented == 6
    assert config["data"]["init_args"]["epoch_steps"] == augmented
    assert config["trainer"]["max_epochs"] == 2
    assert "selection" not in config["data"]["init_args"]


def test_the_steps_of_augmentation_leave_out_what_has_no_label(experiment, run, fake, tmp_path, tiny):
    labels = tmp_path / "labels"
    shutil.copytree(experiment["data"]["labels"], labels)
    (labels / "sums.json").unlink(missing_ok=True)
    store, column = LabelStore.open(labels), LabelStore.open(labels).eips.index("au")
    energies = np.load(labels / "energies.npy")
    energies[store.rows(tiny.ids("pool")[:14]), column] = np.nan
    np.save(labels / "energies.npy", energies)
    experiment["data"] |= {"labels": str(labels), "batch_size": 6}
    experiment["finetune"] = {"data": {"dft_fraction": 0.5}}
    run(experiment, "--strategy", "baseline-long")
    config = yaml.safe_load((fold(tmp_path) / "baseline-long" / "config.yaml").read_text())
    assert config["data"]["init_args"]["epoch_steps"] == plan_batches(N_TRAIN, 6, 6, 0.5).batches


def test_a_split_that_another_run_changes_is_no_result(experiment, run, fake, tmp_path, monkeypatch):
    del experiment["splits"]

    def call(arguments, *others):
        with (fold(tmp_path) / "split.csv").open("a") as stream:
            stream.write("another,test\n")
        return fake(arguments, *others)

    monkeypatch.setattr(execute, "call", call)
    said = run(experiment, "--strategy", "baseline", status=1)
    assert "split.csv: has changed while" in said
    assert not list(tmp_path.rglob("done.json"))
    monkeypatch.setattr(execute, "call", fake)
    run(experiment, "--strategy", "baseline")
    assert list(tmp_path.rglob("done.json"))


def test_a_split_file_may_have_other_braces(experiment, run, fake, tmp_path):
    file = tmp_path / "{a}_1.csv"
    file.write_bytes(Path(experiment["splits"].replace("{split}", "1")).read_bytes())
    experiment["splits"] = str(tmp_path / "{a}_{split}.csv")
    run(experiment, "--strategy", "baseline")


def test_a_baseline_needs_neither_pool_nor_labels(experiment, run, fake):
    del experiment["data"]["labels"], experiment["data"]["pool"]
    run(experiment, "--strategy", "baseline")
    assert fake.taken() == tuned("baseline")
    said = run(experiment, "--strategy", "la", status=1)
    assert "the experiment has neither data.labels nor eips" in said


def test_a_message_with_brackets_is_printed_as_it_is(experiment, run):
    experiment["data"]["labels"] = "/no/such/[red]folder[/]"
    said = run(experiment, "--strategy", "la", status=1)
    assert "/no/such/[red]folder[/]: no such label store" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 3}, "unknown key 'epochs'; the keys are data, representation, splits"),
        ({"data": None}, "data must be a mapping, not None"),
        ({"representation": "SchNet"}, "representation names .*/SchNet, and there is no such file"),
        ({"data": {"energy_zero": "none"}}, r"data\.dft is missing"),
        ({"data": {"dft": "a.xyz"}}, r"data\.energy_zero is missing"),
        ({"splits": "split.csv"}, r"splits must be 'random' or a path with \{split\} in it"),
        ({"pretrained": 3}, "pretrained must be the folder of a run, not 3"),
        ({"splits": 3}, r"splits must be 'random' or a path with \{split\} in it"),
        ({"classify": {"models": {}}}, r"classify\.models is unknown; use model, data or trainer"),
        ({"finetune": None}, "finetune must be a mapping, not None"),
        ({"finetune": {"trainer": 3}}, r"finetune\.trainer must be a mapping, not 3"),
        ({"trainer": [1]}, r"trainer must be a mapping, not \[1\]"),
        ({"alpha": "big"}, "alpha must be a positive number or a list of them, not 'big'"),
        (
            {"alpha": [0.1, -1]},
            r"alpha must be a positive number or a list of them, not \[0\.1, -1\]",
        ),
        ({"alpha": []}, r"alpha must be a positive number or a list of them, not \[\]"),
    ],
)
def test_experiments_that_cannot_be(experiment, tmp_path, change, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(yaml.safe_dump(experiment | change))
    with pytest.raises(ExperimentError, match=message) as error:
        read_experiment(file)
    assert str(error.value).startswith(f"{file}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such experiment file"),
        ("a: [", "not YAML"),
        ("- 1", "must be a mapping"),
        ("{}", "the mapping 'data' is missing"),
    ],
)
def test_files_that_are_no_experiments(tmp_path, text, message):
    file = tmp_path / "wrong.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ExperimentError, match=message):
        read_experiment(file)


def test_an_absent_split_is_said(experiment, run):
    said = run(experiment, "--strategy", "baseline", "--split", "4", status=1)
    assert "split_4.csv" in said


def test_four_rows_of_a_table(experiment, tmp_path, monkeypatch, tiny):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    finish(tmp_path / "run", file, monkeypatch, "baseline", "la", "mp", "mp+la")
    steps = {}
    for strategy in ("baseline", "la", "mp", "mp+la"):
        row = read_json(fold(tmp_path) / f"result-{strategy}.json")
        folder = fold(tmp_path) / strategy / ("alpha-0.1" if strategy.endswith("la") else "")
        table = pd.read_csv(folder / "predictions_test.csv")
        error = (table["prediction"] - table["energy"]).abs()
        assert row["result"]["test_config_mae"] == pytest.approx(error.mean(), rel=1e-4)
        assert table["config_id"].tolist() == tiny.ids("test")
        assert (row["strategy"], row["split"], row["seed"]) == (strategy, 1, 0)
        assert row["result"]["epochs"] == 2
        steps[strategy] = row["result"]["gradient_steps"]
    assert steps["baseline"] == steps["mp"] == 2 * (N_TRAIN // 4)
    selection = pd.read_csv(fold(tmp_path) / "classify" / "selection.csv", keep_default_na=False)
    assert steps["la"] == steps["mp+la"] == 2 * (np.sum(selection["eip"] != "none") // 3)
    pretrained = torch.load(fold(tmp_path) / "pretrain" / "checkpoints" / "best.ckpt", weights_only=True)
    assert pretrained["eipnn"]["stage"] == "pretrain"
    finish(tmp_path / "run", file, monkeypatch, "baseline", "la", "mp", "mp+la")  # nothing to do
    plan = Plan(read_experiment(file), fold(tmp_path), 1, 0, Path(experiment["data"]["labels"]))
    stages = in_order([stage for name in STRATEGIES for stage in plan.row(name, [0.1]).stages if name in steps])
    assert len(stages) == 6
    for stage in stages:  # what the dry run counts is what is taken
        state, now, taken = outlook(stage, labelled=True)
        assert state == "done"
        assert gradient_steps(stage, now) == (taken, True)
