"""The rows beyond Table 1 and fewer DFT frames: what `eipnn run` gives the stages for each."""

import re
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from paper import FOLDER as PAPER
from run_stages import fold
from tiny import (
    EIPS,
    N_POOL,
    N_TEST,
    N_TRAIN,
    N_VAL,
    eipnn_stage,
    give_forces,
    in_process,
    make_tiny,
    read_json,
    stage_config,
)

from eipnn.errors import InputError
from eipnn.labels import LabelStore
from eipnn.potential import Potential
from eipnn.report.runs import defined
from eipnn.run import execute
from eipnn.run.experiment import ExperimentError, read_experiment
from eipnn.run.plan import Plan
from eipnn.run.strategy import STRATEGIES, Strategy
from eipnn.stages.finetune import FinetuneModule
from eipnn.stages.source import selected, source_of
from eipnn.structures import Split, StructureError, fewer_frames, read_split, write_split


def config(tmp_path: Path, stage: str) -> dict:
    return yaml.safe_load((fold(tmp_path) / stage / "config.yaml").read_text())


@pytest.fixture
def studied(experiment) -> dict:
    """The experiment with the rows of the paper's figures."""
    return experiment | {"strategies": str(PAPER / "strategies.yaml")}


@pytest.fixture
def hidden(studied, tiny, tmp_path, fake):
    """The experiment with a pool of twelve DFT frames whose energies are hidden; the classifier says `au` for nine."""
    train = tiny.ids("train")
    split = Split(tuple(train[:6]), tuple(tiny.ids("val")), tuple(tiny.ids("test")), tuple(train[6:]))
    write_split(split, tmp_path / "split_1.csv")
    fake.selection = "config_id,eip,probability\n" + "".join(
        f"{name},{'au' if k < 9 else 'none'},0.9\n" for k, name in enumerate(split.pool)
    )
    del studied["data"]["pool"]
    return studied


def test_labels_of_the_true_best_eip_and_of_dft(hidden, run, tmp_path, tiny):
    run(hidden, "--strategy", "la", "la-best", "la-dft")
    ids = tiny.ids("train")[6:15]
    found = {
        name: pd.read_csv(fold(tmp_path) / file).set_index("config_id")["eip"]
        for name, file in {"best": "selection-best.csv", "dft": "selection-dft.csv"}.items()
    }
    assert list(found["best"].index) == list(found["dft"].index) == ids
    assert set(found["dft"]) == {"dft"}
    for name in ids:
        error = np.abs(tiny.eip[name] - tiny.cohesive[name])
        assert found["best"][name] == EIPS[int(np.nanargmin(error))]
    assert set(found["best"]) == {"cu.1", "au"}  # the classifier's answer was not copied
    models = [config(tmp_path, f"{row}/alpha-0.1")["model"] for row in ("la", "la-best", "la-dft")]
    assert models[0] == models[1] == models[2]


def test_the_true_best_eip_is_that_of_the_classifiers_judge(hidden, run, tmp_path):
    tiny = give_forces(make_tiny(tmp_path), (0.01, 0.3, 0.2))
    hidden["data"] |= {name: tiny.data[name] for name in ("dft", "labels")}
    found = {}
    for judge in (None, "energy", "forces"):
        hidden["classify"] = {"model": {"judge": judge, "c_forces": 0.02}}  # a tenth of an eV/atom is 0.02 eV/A
        run(hidden, "--strategy", "la-best")
        found[judge] = pd.read_csv(fold(tmp_path) / "selection-best.csv")["eip"].tolist()
    assert set(found["energy"]) == {"cu.1", "au"}
    assert set(found["forces"]) == {"cu.1"}
    assert set(found[None]) == {"cu.1"}  # 0.6 / 0.1 + 0.01 / 0.02 against 0.02 / 0.1 + 0.3 / 0.02
    give_forces(tiny, (0.01, 0.3, 0.2), without=tiny.ids("train")[8:9])
    said = run(hidden, "--strategy", "la-best", status=1)
    assert "dft_000008: eip_labels best needs its hidden DFT forces" in said


def test_rows_of_energies_alone_have_a_classifier_of_their_own(experiment, run, fake, tmp_path):
    experiment["strategies"] = {
        "la-energies": {"label": "+LA (energies alone)", "eip_labels": "predicted", "energies_only": True},
        "long-energies": {"label": "long (energies alone)", "long": True, "energies_only": True},
        "dft-energies": {"label": "+LA (DFT energies)", "eip_labels": "dft", "energies_only": True},
    }
    experiment["classify"] = {"model": {"judge": "both"}}
    run(experiment, "--strategy", "long-energies", "la-energies", "la")
    judges = {name: config(tmp_path, name)["model"]["init_args"]["judge"] for name in ("classify", "classify-energies")}
    assert judges == {"classify": "both", "classify-energies": "energy"}
    read = {
        row: config(tmp_path, f"{row}/alpha-0.1")["data"]["init_args"]["selection"] for row in ("la", "la-energies")
    }
    assert read["la"] == str(fold(tmp_path) / "classify" / "selection.csv")
    assert read["la-energies"] == str(fold(tmp_path) / "classify-energies" / "selection.csv")
    assert [stage for stage, _ in fake.commands][:3] == ["classify-energies"] * 3  # for the steps of the long row
    augmented, long = config(tmp_path, "la-energies/alpha-0.1"), config(tmp_path, "long-energies")
    assert augmented["data"]["init_args"]["energies_only"] is True  # the EIP labels keep their forces
    assert "weights" not in augmented["model"]["init_args"]
    assert long["model"]["init_args"]["weights"] == {"energy": 1.0}
    plan = Plan(read_experiment(tmp_path / "experiment.yaml"), tmp_path, 1, 0)
    dft = plan.finetune("dft-energies", 0.1)  # its labels are DFT's, whose forces are left aside
    assert dft.model["weights"] == {"energy": 1.0}


def test_pretraining_on_energies_alone(experiment, run, fake, tmp_path):
    experiment["strategies"] = {"mp-alone": {"label": "+MP (energies of EIPs)", "pretraining": "energies"}}
    experiment["pretrain"] = {"model": {"weights": {"energy": 2.0, "forces": 5.0}, "second_weights": {"forces": 9.0}}}
    run(experiment, "--strategy", "mp", "mp-alone", "--frames", "10")
    models = {name: config(tmp_path, name)["model"]["init_args"] for name in ("pretrain", "pretrain-energies")}
    assert models["pretrain-energies"] == models["pretrain"] | {"weights": {"energy": 1.0}, "second_weights": None}
    start = config(tmp_path, "frames-10/mp-alone")["model"]["init_args"]["init_from"]
    assert start == str(fold(tmp_path) / "pretrain-energies" / "checkpoints" / "best.ckpt")


def test_hidden_dft_is_needed_for_them(studied, run, fake):
    said = run(studied, "--strategy", "la-best", status=1)
    assert "pool_000000: strategies with eip_labels best or dft need the hidden DFT energies of the pool" in said


def test_dft_labels_of_a_selection_are_the_dft_energies(tiny, tmp_path):
    from eipnn import FinetuneDataModule

    train = tiny.ids("train")
    split = Split(tuple(train[:6]), tuple(tiny.ids("val")), tuple(tiny.ids("test")), tuple(train[6:]))
    write_split(split, tmp_path / "split.csv")
    chosen = "config_id,eip\n" + "".join(f"{i},{'dft' if k % 2 else 'au'}\n" for k, i in enumerate(train[6:]))
    (tmp_path / "chosen.csv").write_text(chosen)
    arguments = tiny.arguments | {"split": str(tmp_path / "split.csv"), "pool": None}
    module = FinetuneDataModule(**arguments, selection=str(tmp_path / "chosen.csv"))
    expected = [tiny.cohesive[i] if k % 2 else tiny.eip[i][EIPS.index("au")] for k, i in enumerate(train[6:])]
    assert module.source.chosen(module.chosen)["energy"][:, 0] == pytest.approx(expected, abs=1e-6)


def test_mse_changes_the_loss_alone(studied, run, fake, tmp_path):
    run(studied, "--strategy", "la", "la-mse", "mp+la", "mp+la-mse")
    for row in ("la", "mp+la"):
        tukey, mse = (config(tmp_path, f"{name}/alpha-0.1")["model"]["init_args"] for name in (row, f"{row}-mse"))
        assert mse.pop("eip_loss") == "mse"
        assert tukey == mse


def test_one_eip_labels_the_whole_pool_and_pretrains(studied, run, fake, tmp_path, tiny):
    run(studied, "--strategy", "la-single", "mp-single", "delta")
    ids = [*tiny.ids("train"), *tiny.ids("val")]
    errors = np.abs([tiny.eip[i] - tiny.cohesive[i] for i in ids])
    best = EIPS[int(np.nanmean(errors, axis=0).argmin())]
    chosen = pd.read_csv(fold(tmp_path) / "selection-single.csv")
    assert list(chosen["config_id"]) == tiny.ids("pool")
    assert set(chosen["eip"]) == {best}
    assert config(tmp_path, "pretrain-single")["model"]["init_args"]["eips"] == [best]
    assert config(tmp_path, "mp-single")["model"]["init_args"]["init_from"].endswith(
        "pretrain-single/checkpoints/best.ckpt"
    )
    assert config(tmp_path, "delta")["data"]["init_args"]["delta_eip"] == best
    assert read_json(fold(tmp_path) / "result-delta.json")["single_eip"] == best
    assert ("classify", "fit") not in fake.commands


def test_delta_learning_starts_from_the_pretraining_on_all_eips(experiment, run, fake, tmp_path):
    run(experiment, "--strategy", "delta", "mp+delta", "delta-long", "mp+delta-long")
    for row in ("delta", "delta-long"):
        short, pretrained = (config(tmp_path, name) for name in (row, f"mp+{row}"))
        assert pretrained["model"]["init_args"].pop("init_from").endswith("pretrain/checkpoints/best.ckpt")
        assert short["model"] == pretrained["model"]
        assert short["data"] == pretrained["data"]
    long, short = (config(tmp_path, name)["data"]["init_args"] for name in ("delta-long", "delta"))
    assert long.pop("epoch_steps") > 0
    assert long == short


def test_the_row_that_is_best_on_validation_is_named(experiment, run, fake, tmp_path):
    fake.scores = {"baseline": 0.3, "mp": 0.2, "frames-10/baseline": 0.1, "frames-10/mp": 0.4}
    said = run(experiment, "--strategy", "baseline", "mp", "--frames", "10", "all")
    file = fold(tmp_path) / "mp" / "checkpoints" / "potential.pt"
    assert f"Of these 2 strategies mp has the lowest {FinetuneModule.monitor}, 0.2000 (n = 1, all" in said
    assert f"Its potential of split 1, seed 0: {file}" in said
    assert "potential" not in read_json(fold(tmp_path) / "result-mp.json")


def test_a_run_keeps_the_commands_that_were_given_for_it(experiment, run, fake, tmp_path):
    for rows in (["baseline"], ["mp"], ["baseline"]):
        run(experiment, "--strategy", *rows)
    lines = (tmp_path / "run" / "commands.txt").read_text().splitlines()
    assert [line.split()[-2:] for line in lines] == [
        ["--strategy", "baseline"],
        ["--strategy", "mp"],
    ]
    assert lines[0].startswith("eipnn run ")


def test_fewer_frames_have_folders_and_splits_of_their_own(experiment, run, fake, tmp_path, tiny):
    run(experiment, "--strategy", "baseline", "mp", "--frames", "10", "all")
    small, whole = (
        read_split(fold(tmp_path) / part / "split.csv") if part else read_split(tiny.data["split"])
        for part in ("frames-10", "")
    )
    assert len(small.train) + len(small.val) == 10
    assert small.test == whole.test
    assert set(small.pool) == {*whole.pool, *whole.train, *whole.val} - {*small.train, *small.val}
    assert read_json(fold(tmp_path) / "frames-10" / "result-mp.json")["frames"] == 10
    # pretraining needs no DFT, and is shared
    assert [stage for stage, command in fake.commands].count("pretrain") == 1
    assert config(tmp_path, "frames-10/mp")["model"]["init_args"]["init_from"] == str(
        fold(tmp_path) / "pretrain/checkpoints/best.ckpt"
    )


def test_pretraining_is_not_shared_where_eip_zeros_are_fitted_to_dft(experiment, run, fake):
    experiment["data"]["eip_energy_zero"] = "least_squares"
    run(experiment, "--strategy", "mp", "--frames", "10", "all")
    assert [stage for stage, _ in fake.commands if "pretrain" in stage] == [
        "frames-10/pretrain",
        "pretrain",
    ]


@given(st.integers(8, 60), st.integers(2, 20), st.integers(0, 5), st.data())
def test_smaller_splits_are_within_larger_ones(n_train, n_val, seed, data):
    names = iter(map(str, range(200)))
    parts = [tuple(next(names) for _ in range(n)) for n in (n_train, n_val, 5, 3)]
    split = Split(*parts)
    low = n_train + n_val - min(n_train, n_val) + 2
    sizes = sorted(data.draw(st.lists(st.integers(min(low, n_train + n_val), n_train + n_val), min_size=2, max_size=2)))
    try:
        small, large = (fewer_frames(split, n, seed) for n in sizes)
    except StructureError:
        return
    for split_part in ("train", "val"):
        assert set(getattr(small, split_part)) <= set(getattr(large, split_part))
    assert sorted((*small.train, *small.val, *small.test, *small.pool)) == sorted(sum(parts, ()))
    assert len(small.train) + len(small.val) == sizes[0]
    assert small.test == split.test


@pytest.mark.parametrize("frames", [24, 1])
def test_numbers_of_frames_that_the_split_does_not_have(experiment, run, fake, frames):
    assert f"{frames} DFT frames of a split with {N_TRAIN} for training and {N_VAL}" in run(
        experiment, "--strategy", "baseline", "--frames", str(frames), status=1
    )


def test_an_experiment_file_may_say_what_to_run(experiment, run, fake):
    experiment["run"] = {"strategy": "baseline", "seed": [0, 3], "frames": [10, "all"]}
    run(experiment)
    assert [stage for stage, command in fake.taken() if command == "fit"][:2] == [
        "frames-10/baseline",
        "baseline",
    ]
    run(experiment, "--frames", "all", "--seed", "0")
    assert fake.taken() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rows": 1}, "run.rows is unknown; the options are strategy, split, seed, frames"),
        ({"strategy": ["la", "best"]}, "run.strategy: 'best' is not one of"),
        ({"frames": [0]}, "run.frames cannot be 0"),
        ({"seed": [True]}, "run.seed cannot be True"),
    ],
)
def test_what_an_experiment_file_may_not_say(experiment, tmp_path, given, said):
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment | {"run": given}))
    with pytest.raises(ExperimentError, match=said):
        read_experiment(file)


def test_rows_of_ones_own_are_trained_and_reported(experiment, run, fake, tmp_path):
    """By a file beside the experiment's; the run's folder keeps what they are."""
    row = {"label": "+MP, one EIP as label", "pretraining": "all", "eip_labels": "single"}
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump({"mine": row}))
    experiment |= {"strategies": "rows.yaml", "run": {"strategy": ["baseline", "mine"]}}
    assert "mine" in run(experiment)
    model = config(tmp_path, "mine/alpha-0.1")["model"]["init_args"]
    assert model["init_from"].endswith("pretrain/checkpoints/best.ckpt")
    assert defined(tmp_path / "run") == {"mine": Strategy(**row)}
    said = run(experiment, "--strategy", "yours", status=2)
    known = ", ".join([*STRATEGIES, "mine"])
    assert f"--strategy, with {tmp_path / 'experiment.yaml'}: 'yours' is not one of {known}" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("la: {label: x}", "la is a strategy of eipnn's own; take another name"),
        ("a/b: {label: x}", "a/b can be no strategy's name"),
        ("pretrain: {label: x}", "pretrain can be no strategy's name"),
        ("a: {eip_labels: best}", "a: must be a mapping with a label"),
        ("a: best", "a: must be a mapping with a label"),
        ("a: {label: x, labels: best}", "a.labels is unknown; the fields are label, eip_labels,"),
        ("a: {label: x, loss: huber}", "a.loss must be one of tukey, mse, not 'huber'"),
        ("a: {label: x, long: 1}", "a.long must be one of true, false, not 1"),
        (
            "a: {label: x, pretraining: [all]}",
            "a.pretraining must be one of all, single, energies, null, not ['all']",
        ),
        ("a: {label: x, loss: mse}", "a: loss is that on labels of the pool, and there are none"),
        (
            "a: {label: x, delta: true, eip_labels: dft}",
            "a: long and delta rows are trained on DFT labels alone",
        ),
        ("a: {label: +LA}", "a has the label '+LA' of another strategy"),
        ("[a]", "must be a mapping with the keys names and their fields"),
    ],
)
def test_rows_that_cannot_be(experiment, tmp_path, given, said):
    (tmp_path / "rows.yaml").write_text(given)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(experiment | {"strategies": "rows.yaml"}))
    with pytest.raises(InputError, match=re.escape(said)) as error:
        read_experiment(tmp_path / "own.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["all", "few", "augmented"])
def test_epoch_steps_are_taken_whatever_the_data(tiny, tmp_path, kind):
    """With all frames, with fewer than a batch holds, and beside EIP labels."""
    made = stage_config(tiny, "Finetune", tmp_path, max_epochs=2)
    data = made["data"]["init_args"]
    data["epoch_steps"] = 11  # one pass has four batches
    if kind == "few":
        split = fewer_frames(read_split(tiny.data["split"]), 5, 0)
        write_split(split, tmp_path / "few.csv")
        data |= {"split": str(tmp_path / "few.csv"), "batch_size": 32}
    elif kind == "augmented":
        data["selection"] = str(tiny.select(tmp_path / "chosen.csv", dict.fromkeys(tiny.ids("pool")[10:15], "au")))
    root = eipnn_stage("fit", made)
    assert read_json(root / "fit.json")["gradient_steps"] == 22


def test_an_experiment_gives_every_row_its_steps(experiment, run, fake, tmp_path):
    experiment["finetune"] = {"data": {"epoch_steps": 11}}
    rows = ("baseline", "baseline-long", "la", "energies")
    run(experiment, "--strategy", *rows, "--frames", "10", "all")
    for row in ("baseline", "baseline-long", "la/alpha-0.1", "energies"):
        for folder in ("", "frames-10/"):
            assert config(tmp_path, folder + row)["data"]["init_args"]["epoch_steps"] == 11
    # the stages before take theirs, and long rows ask no classifier for it
    assert "epoch_steps" not in config(tmp_path, "classify")["data"]["init_args"]


def test_energies_alone_are_a_row_without_other_terms(experiment, run, fake, tmp_path):
    """It needs neither pool nor EIPs; other settings of the model hold for it too."""
    del experiment["data"]["labels"], experiment["data"]["pool"]
    both = {"weights": {"energy": 1.0, "forces": 10.0}, "second_weights": {"energy": 5.0, "forces": 1.0}}
    experiment["finetune"] = {"model": {"energy_per": "atom"} | both}
    run(experiment, "--strategy", "baseline", "energies")
    assert {stage for stage, _ in fake.taken()} == {"baseline", "energies"}
    baseline, energies = (config(tmp_path, row)["model"]["init_args"] for row in ("baseline", "energies"))
    assert baseline.pop("weights") == {"energy": 1.0, "forces": 10.0}
    assert energies.pop("weights") == {"energy": 1.0}
    assert baseline.pop("second_weights") == {"energy": 5.0, "forces": 1.0}
    assert energies.pop("second_weights") == {"energy": 5.0}
    assert baseline == energies


def test_source_of_plain_values(tiny):
    source = source_of(tiny.data)
    assert len(source.split.test) == N_TEST
    assert len(source.pool) == N_POOL
    ids = tiny.ids("train")[:3]
    assert source.energies(ids, ["dft"])[:, 0] == pytest.approx([tiny.cohesive[i] for i in ids], abs=1e-6)
    assert torch.is_tensor(torch.from_numpy(source.energies(ids, EIPS)))
    assert ase.io.read(tiny.data["dft"], 0).info["config_id"] == ids[0]


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"teacher": "nobody"}, "own.teacher is 'nobody'; the rows are baseline, "),
        ({"teacher": "own"}, "own is taught by own; name a row that does not need it"),
        ({"teacher": 3}, "own.teacher must be the name of a row, not 3"),
        ({"teacher": "mp", "eip_labels": "single"}, "own: eip_labels and teacher both say where"),
        ({"teacher": "mp", "delta": True}, "own: long and delta rows are trained on DFT labels alone; remove teacher"),
    ],
)
def test_teachers_that_cannot_be(experiment, run, given, problem):
    experiment["strategies"] = {"own": {"label": "own"} | given}
    assert problem in run(experiment, "--strategy", "own", status=1)


def test_a_row_learns_the_labels_of_another_ones_potential(experiment, tiny, tmp_path, monkeypatch, run):
    experiment["strategies"] = {"taught": {"label": "+LA (its own)", "teacher": "baseline"}}
    monkeypatch.setattr(execute, "call", in_process)
    said = run(experiment, "--strategy", "taught", "--dry-run")
    assert re.search(r"taught/alpha-0.1 +taught +.*baseline", said)
    run(experiment, "--strategy", "taught")
    teacher = fold(tmp_path) / "baseline"
    store = LabelStore.open(teacher / "labels")
    ids = tiny.ids("pool")
    potential = Potential.load(teacher / "checkpoints" / "potential.pt")
    expected = [potential.predict(potential.graph([tiny.frames[i]]), cohesive=True).energy.item() for i in ids]
    np.testing.assert_allclose(store.energies_of(ids, ["teacher"])[:, 0], expected, atol=1e-5)
    row = fold(tmp_path) / "taught" / "alpha-0.1"
    source = source_of(yaml.safe_load((row / "config.yaml").read_text())["data"]["init_args"])
    chosen = source.chosen(selected(fold(tmp_path) / "selection-taught.csv"))["energy"][:, 0]
    np.testing.assert_allclose(chosen, expected, atol=1e-5)  # no zero comes between
    assert read_json(row / "done.json")["result"]["gradient_steps"] > 0
    assert "taught/alpha-0.1: done before, skipped" in run(experiment, "--strategy", "taught")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "run", moved)
    shutil.rmtree(tmp_path / "run")
    moved.rename(tmp_path / "run")
    begun = read_json(row / "begun.json")
    assert "taught/alpha-0.1: done before, skipped" in run(experiment, "--strategy", "taught")
    assert read_json(row / "begun.json") == begun
    (teacher / "taught.json").unlink()  # as where the labels are of an older potential
    said = run(experiment, "--strategy", "taught", "--dry-run")
    assert re.search(r"<= [1-9]\d* gradient steps to go", said)  # not known before they are made
    assert "done before, skipped" in run(experiment, "--strategy", "taught")  # labels are made again, the same
