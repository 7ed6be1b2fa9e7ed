"""`eipnn fit | validate | test | predict`: every key of a configuration does what it says."""

import csv
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from tiny import (
    N_POOL,
    N_TRAIN,
    REPRESENTATION,
    best,
    eipnn,
    eipnn_stage,
    read_json,
    stage_config,
)

import eipnn as package
from eipnn.cli import EipnnCLI
from eipnn.errors import UsageError
from eipnn.predictions import PredictionWriter
from eipnn.stages.source import EnergyZero

STAGES = ("Classifier", "Pretrain", "Finetune")


def objects(config: dict, tmp_path, *arguments: str) -> EipnnCLI:
    """What a configuration makes, without running it."""
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump(config))
    with patch.object(sys, "argv", ["eipnn"]):
        return EipnnCLI(["--config", str(file), *arguments], run=False)


@pytest.mark.parametrize("stage", STAGES)
def test_fit_leaves_checkpoints_metrics_and_configuration(trained, stage):
    root = trained[stage]
    fit = read_json(root / "fit.json")
    assert fit["epochs"] == 2
    per_epoch = (N_POOL if stage == "Pretrain" else N_TRAIN) // 4
    assert fit["gradient_steps"] == 2 * per_epoch
    monitor = getattr(package, f"{stage}Module").monitor
    assert fit["monitor"] == monitor
    assert fit["best_checkpoint"] == best(root)
    assert fit["versions"]["torch"] == torch.__version__
    (file,) = (root / "logs").glob("version_*/metrics.csv")
    with file.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    values = [float(row[monitor]) for row in rows if row[monitor]]
    assert len(values) == 2
    assert fit["best_score"] == pytest.approx((max if stage == "Classifier" else min)(values))
    assert len([row for row in rows if row["train_loss"]]) == 2
    assert fit["seconds"] > 0


def test_the_configuration_that_is_left_trains_the_same(tiny, trained, tmp_path):
    config = yaml.safe_load((trained["Finetune"] / "fit.yaml").read_text())
    assert config["trainer"]["gradient_clip_val"] == 5.0
    assert config["trainer"]["max_epochs"] == 2
    config["trainer"]["default_root_dir"] = str(tmp_path)
    root = eipnn_stage("fit", config)
    weights = [torch.load(best(r), weights_only=True)["state_dict"] for r in (root, trained["Finetune"])]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=0, atol=0)


def test_validate_gives_what_training_found(tiny, trained, tmp_path, capsys):
    config = stage_config(tiny, "Finetune", tmp_path)
    eipnn_stage("validate", config, "--ckpt_path", best(trained["Finetune"]))
    score = read_json(trained["Finetune"] / "fit.json")["best_score"]
    assert f"{score:.5f}"[:6] in capsys.readouterr().out


# Every argument of every stage, with a value that is not its default.
EVERY = {"ema": 0.9, "patience": 3}
WEIGHED = {
    "ema": 0.9,
    "patience": None,  # which does not go with a second phase
    "weights": {"energy": 2.0, "forces": 3.0},
    "energy_per": "atom",
    "second_weights": {"energy": 20.0, "forces": 0.3},
    "second_from": 0.6,
    "core": "zbl",
    "compiled": True,
}
MODEL = {
    "Classifier": EVERY | {"eips": ["au"], "judge": "forces", "c": 0.2, "c_forces": 0.3},
    "Pretrain": WEIGHED | {"eips": ["au"], "outlier": 50.0},
    "Finetune": WEIGHED | {"alpha": 0.7, "eip_loss": "mse", "huber": 0.5, "representation_rate": 0.3},
}
DATA = {
    "energy_key": "dft_energy",
    "forces_key": "dft_forces",
    "stress_key": "dft_virial",
    "batch_size": 3,
    "eval_batch_size": 5,
    "seed": 9,
    "stratified": True,
    "structures": "some.extxyz",
    "num_workers": 1,
    "cache": "somewhere",
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_reaches_its_object(tiny, tmp_path, stage):
    config = stage_config(tiny, stage, tmp_path)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model |= MODEL[stage] | {
        "init_from": "pretrained.ckpt",
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": 0.5, "weight_decay": 0.25},
        },
        "scheduler": {
            "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "init_args": {"T_max": 17, "eta_min": 0.125},
        },
    }
    data |= DATA | {
        "energy_zero": {"mode": "least_squares"},
        "eip_energy_zero": {
            "au": {"mode": "isolated_atoms", "energies": {"Cu": 1.0}},
            "*": {"mode": "none"},
        },
    }
    if stage == "Finetune":
        data |= {
            "dft_fraction": 0.5,
            "epoch_steps": 7,
            "energies_only": True,
            "delta_eip": None,  # has DFT labels alone
            "selection": str(tiny.select(tmp_path / "s.csv", {"pool_000001": "au"})),
        }
    made = objects(config, tmp_path)
    for kind, given in (("model", model), ("data", data)):
        arguments = set(vars(made.config[kind]["init_args"])) - {"handover"}
        assert arguments == set(given), "a new argument: give it a value above"

    net = made.model
    assert type(net).__name__ == f"{stage}Module"
    assert net.init_from == "pretrained.ckpt"
    assert REPRESENTATION["init_args"].items() <= dict(net.representation.hparams).items()
    for name, value in MODEL[stage].items():
        assert getattr(net, name) == value
    optimizer = net.optimizer(net.parameters())
    assert type(optimizer) is torch.optim.AdamW
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.25
    scheduler = net.scheduler(optimizer)
    assert type(scheduler) is torch.optim.lr_scheduler.CosineAnnealingLR
    assert (scheduler.T_max, scheduler.eta_min) == (17, 0.125)

    source = made.datamodule.config
    for name in ("dft", "split", "pool", "labels"):
        assert getattr(source, name) == tiny.data[name]
    for name in ("energy_key", "forces_key", "stress_key"):
        assert getattr(source, name) == DATA[name]
    assert source.energy_zero == EnergyZero("least_squares")
    assert source.eip_energy_zero == {
        "au": EnergyZero("isolated_atoms", {"Cu": 1.0}),
        "*": EnergyZero("none"),
    }
    for name in ("batch_size", "eval_batch_size", "seed", "stratified", "structures", "num_workers"):
        assert getattr(made.datamodule, name) == DATA[name]
    assert str(made.datamodule.cache) == "somewhere"
    if stage == "Finetune":
        assert made.datamodule.dft_fraction == 0.5
        assert made.datamodule.epoch_steps == 7
        assert made.datamodule.energies_only is True
        assert made.datamodule.chosen == {"pool_000001": "au"}


def test_defaults_are_those_of_the_paper(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    config["model"]["init_args"]["representation"] = {"class_path": REPRESENTATION["class_path"]}
    del config["data"]["init_args"]["batch_size"], config["trainer"]["max_epochs"]
    made = objects(config, tmp_path)
    assert made.trainer.max_epochs == 100
    assert made.trainer.gradient_clip_val == 5.0
    assert made.datamodule.batch_size == 32
    sizes = dict(made.model.representation.hparams)
    assert {sizes[k] for k in ("features", "filters", "gaussians")} == {128}
    assert (sizes["interactions"], sizes["cutoff"]) == (5, 5.0)
    optimizer = made.model.optimizer(made.model.parameters())
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert optimizer.param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(
    "place",
    [
        ("trainer", "max_epoch"),
        ("model", "init_args", "alhpa"),
        ("model", "init_args", "representation", "init_args", "fetures"),
        ("data", "init_args", "batchsize"),
        ("data", "init_args", "energy_zero", "energy"),
        ("learning_rate",),
    ],
    ids=".".join,
)
def test_unknown_keys_are_errors(tiny, tmp_path, place):
    config = stage_config(tiny, "Finetune", tmp_path)
    config["model"]["init_args"]["representation"] = yaml.safe_load(yaml.safe_dump(REPRESENTATION))
    inner = config
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = 1
    with pytest.raises(UsageError, match=rf"there is no setting (trainer\.)?{place[-1]}") as told:
        objects(config, tmp_path)
    assert told.value.code == 2
    assert "\n" not in str(told.value)


def test_an_optimiser_and_schedule_of_the_user_train(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path, max_epochs=3, gradient_clip_val=0.5)
    config["model"]["init_args"] |= {
        "optimizer": {
            "class_path": "torch.optim.AdamW",
            "init_args": {"lr": 0.02, "weight_decay": 0.3},
        },
        "scheduler": {
            "class_path": "torch.optim.lr_scheduler.CosineAnnealingLR",
            "init_args": {"T_max": 3},
        },
    }
    root = eipnn_stage("fit", config)
    content = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    (group,) = content["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.3
    assert group["initial_lr"] == 0.02
    (schedule,) = content["lr_schedulers"]
    assert schedule["T_max"] == 3
    assert group["lr"] == pytest.approx(0, abs=1e-9)


class Stop(Callback):
    """Breaks a training off in the middle of an epoch, as a kill does."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch and trainer.global_step % 2:
            raise RuntimeError("broken off")


def broken_off(config: dict, epoch: int) -> None:
    """Run a `fit` up to the middle of an epoch (counted from 0)."""
    callback = {"class_path": "test_cli.Stop", "init_args": {"epoch": epoch}}
    config = config | {"trainer": config["trainer"] | {"callbacks": [callback]}}
    with pytest.raises(RuntimeError, match="broken off"):
        eipnn_stage("fit", config)


def test_the_last_epoch_is_kept_although_an_earlier_one_is_the_best(tiny, tmp_path):
    config = stage_config(tiny, "Classifier", tmp_path, max_epochs=4)  # its accuracy does not rise
    root = eipnn_stage("fit", config)
    epochs = {
        name: torch.load(root / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    }
    assert epochs["best"] < epochs["last"] == 3


def assert_same_training(one, other) -> None:
    """The same weights, optimiser and best epoch, bit for bit."""
    a, b = (read_json(root / "fit.json") for root in (one, other))
    for name in ("epochs", "gradient_steps", "monitor", "best_score"):
        assert a[name] == b[name], name
    for name in ("best", "last"):
        first, second = (torch.load(root / "checkpoints" / f"{name}.ckpt", weights_only=True) for root in (one, other))
        assert first["epoch"] == second["epoch"]
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_training_ends_as_an_uninterrupted_one(tiny, tmp_path, stage):
    whole = eipnn_stage("fit", stage_config(tiny, stage, tmp_path / "whole", max_epochs=4))
    config = stage_config(tiny, stage, tmp_path / "cut", max_epochs=4)
    broken_off(config, 2)
    assert not (tmp_path / "cut" / "fit.json").exists()
    last = str(tmp_path / "cut" / "checkpoints" / "last.ckpt")
    assert torch.load(last, weights_only=True)["epoch"] == 1
    cut = eipnn_stage("fit", config, "--ckpt_path", last)
    assert_same_training(cut, whole)
    # killed between the last epoch and fit.json: nothing is left to train
    (cut / "fit.json").unlink()
    assert_same_training(eipnn_stage("fit", config, "--ckpt_path", last), whole)


def test_a_run_folder_that_was_moved_is_resumed(tiny, tmp_path):
    """With a rate that grows, so that the best epoch lies before the break."""
    grow = {
        "class_path": "eipnn.stages.schedules.SlantedTriangular",
        "init_args": {"rise": 1.0, "ratio": 1e6},
    }

    def growing(root) -> dict:
        made = stage_config(tiny, "Finetune", root, max_epochs=4)
        made["model"]["init_args"] |= {
            "scheduler": grow,
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 3.0}},
        }
        return made

    whole = eipnn_stage("fit", growing(tmp_path / "whole"))
    broken_off(growing(tmp_path / "before"), 3)
    (tmp_path / "before").rename(tmp_path / "after")
    last = tmp_path / "after" / "checkpoints" / "last.ckpt"
    after = eipnn_stage("fit", growing(tmp_path / "after"), "--ckpt_path", str(last))
    assert torch.load(best(whole), weights_only=True)["epoch"] < 3
    assert_same_training(after, whole)
    assert read_json(after / "fit.json")["best_checkpoint"] == best(after)


def test_a_schedule_of_the_stage_spans_the_training(trained):
    for stage, start in (("Finetune", 1.0), ("Pretrain", 1 / 32)):
        content = torch.load(trained[stage] / "checkpoints" / "last.ckpt", weights_only=True)
        (schedule,) = content["lr_schedulers"]
        assert schedule["last_epoch"] == 2
        (group,) = content["optimizer_states"][0]["param_groups"]
        assert group["initial_lr"] == 1e-3
        assert group["lr"] == pytest.approx(1e-5 if start == 1.0 else 1e-3 / 32)


def test_a_training_without_end_is_refused(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path, max_epochs=-1)
    with pytest.raises(SystemExit, match=r"trainer\.max_epochs must be at least 1"):
        eipnn_stage("fit", config)


def checkpoint(**arguments) -> dict:
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": arguments}


def names(root) -> list[str]:
    return sorted(p.name for p in (root / "checkpoints").iterdir())


def test_a_checkpoint_callback_of_the_user_selects(tiny, tmp_path):
    callback = checkpoint(monitor="val_atom_mae", filename="{epoch}", save_top_k=1)
    root = eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path, callbacks=callback))
    fit = read_json(root / "fit.json")
    assert fit["monitor"] == "val_atom_mae"
    name, last = names(root)  # in place of best, in the folder of the run
    assert name.startswith("epoch=")
    assert last == "last.ckpt"
    assert fit["best_checkpoint"].endswith(name)
    torch.load(fit["best_checkpoint"], weights_only=True)


def test_a_checkpoint_callback_without_a_metric_stands_beside(tiny, tmp_path):
    callback = checkpoint(filename="every-{epoch}", save_top_k=-1)
    root = eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path, callbacks=[callback]))
    assert names(root) == ["best.ckpt", "every-epoch=0.ckpt", "every-epoch=1.ckpt", "last.ckpt"]
    assert read_json(root / "fit.json")["monitor"] == "val_error"


def test_checkpoints_can_be_switched_off(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path, enable_checkpointing=False)
    root = eipnn_stage("fit", config)
    assert not (root / "checkpoints").exists()
    assert read_json(root / "fit.json")["best_score"] is None


def test_callbacks_of_the_user_take_the_place_of_ours(tiny, tmp_path):
    bar = {"class_path": "lightning.pytorch.callbacks.TQDMProgressBar"}
    writer = {"class_path": "eipnn.predictions.PredictionWriter", "init_args": {"folder": "there"}}
    trainer = {"callbacks": [bar, writer], "enable_progress_bar": True}
    callbacks = objects(stage_config(tiny, "Finetune", tmp_path, **trainer), tmp_path).trainer.callbacks
    kinds = [type(c).__name__ for c in callbacks]
    assert kinds.count("TQDMProgressBar") == kinds.count("PredictionWriter") == 1
    assert "ProgressBar" not in kinds
    assert next(c for c in callbacks if isinstance(c, PredictionWriter)).folder == "there"


def test_max_time_is_honoured(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path, max_time="00:00:00:01", max_epochs=100000)
    root = eipnn_stage("fit", config)
    fit = read_json(root / "fit.json")
    assert 0 < fit["epochs"] < 100000
    assert fit["seconds"] == pytest.approx(1, abs=2)
    assert fit["ended"] == "max_time"


def test_a_training_that_max_time_ends_goes_on_as_if_it_had_not(tiny, tmp_path):
    whole = eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path / "whole", max_epochs=3))
    limited = stage_config(tiny, "Finetune", tmp_path / "cut", max_epochs=3, max_time="00:00:00:00")
    ends, resume = [], []
    for _ in range(3):
        cut = eipnn_stage("fit", limited, *resume)
        ends.append(read_json(cut / "fit.json")["ended"])
        resume = ["--ckpt_path", str(cut / "checkpoints" / "last.ckpt")]
    assert ends == ["max_time", "max_time", "max_epochs"]
    assert_same_training(cut, whole)


@pytest.mark.parametrize(
    ("trainer", "ended"),
    [
        ({"max_epochs": 1}, "max_epochs"),
        ({"max_epochs": 9, "max_steps": 8}, "max_steps"),
        (
            {
                "max_epochs": 9,
                "callbacks": [
                    {
                        "class_path": "EarlyStopping",
                        "init_args": {"monitor": "val_config_mae", "stopping_threshold": 1e6},
                    }
                ],
            },
            "early_stopping",
        ),
    ],
)
def test_what_ended_a_training_is_recorded(tiny, tmp_path, trainer, ended):
    fit = read_json(eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path, **trainer)) / "fit.json")
    assert (fit["ended"], fit["mode"]) == (ended, "min")


def test_progress_is_shown_by_rich(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    del config["trainer"]["enable_progress_bar"]
    bars = [c for c in objects(config, tmp_path).trainer.callbacks if isinstance(c, RichProgressBar)]
    assert [type(bar).__name__ for bar in bars] == ["ProgressBar"]


def test_a_logger_can_be_switched_off(tiny, tmp_path):
    root = eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path, logger=False, max_epochs=1))
    assert not (root / "logs").exists()
    assert (root / "fit.json").exists()


def test_a_fast_dev_run_leaves_no_result(tiny, tmp_path):
    root = eipnn_stage("fit", stage_config(tiny, "Finetune", tmp_path, fast_dev_run=True))
    assert [p.name for p in root.rglob("*") if p.is_file()] == ["given.yaml"]


def test_weights_and_biases_offline(tiny, tmp_path, monkeypatch):
    """One line of YAML; nothing is written outside the run's folder."""
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "tests", "offline": True},
    }
    config = stage_config(tiny, "Finetune", tmp_path / "run", logger=logger)
    (tmp_path / "run").mkdir()
    (tmp_path / "given.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "config.yaml").write_text("mine")
    monkeypatch.chdir(tmp_path)
    eipnn("fit", "--config", "given.yaml")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "given.yaml", "run"]
    assert (tmp_path / "config.yaml").read_text() == "mine"
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "fit.yaml").exists()
    assert read_json(tmp_path / "run" / "fit.json")["epochs"] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_print_config_is_a_configuration(tiny, tmp_path, capsys, stage):
    file = tmp_path / "given.yaml"
    file.write_text(yaml.safe_dump(stage_config(tiny, stage, tmp_path)))
    with pytest.raises(SystemExit) as stop:
        eipnn("fit", "--config", str(file), "--print_config")
    assert stop.value.code in (0, None)
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"].endswith(f"{stage}Module")
    assert config["trainer"]["gradient_clip_val"] == 5.0
    assert set(config["data"]["init_args"]) > set(tiny.data)


def test_arguments_of_the_command_line_win(tiny, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    made = objects(config, tmp_path, "--model.alpha", "0.25", "--data.batch_size=7")
    assert made.model.alpha == 0.25
    assert made.datamodule.batch_size == 7


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_every_stage_command(capsys, command):
    with pytest.raises(SystemExit) as stop:
        eipnn(command, "--help")
    assert stop.value.code in (0, None)
    text = capsys.readouterr().out
    assert "--trainer.max_epochs" in text
    assert "--model" in text


def test_usage(capsys):
    eipnn("--help")
    usage = capsys.readouterr().out
    for command in ("label", "eips", "run", "report", "fit", "validate", "test", "predict"):
        assert command in usage
    eipnn("--version")
    assert capsys.readouterr().out.strip() == package.__version__
    with pytest.raises(SystemExit, match="eipnn lable: there is no such command; label\\?"):
        eipnn("lable")


def test_commands_without_a_network_start_without_torch():
    code = (
        "import sys; from eipnn.__main__ import main\n"
        "for command in ('label', 'eips', 'generate', 'inspect', 'report'):\n"
        "    sys.argv = ['eipnn', command, '--help']\n"
        "    try: main()\n    except SystemExit: pass\n"
        "    print(command, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ends = [line.split() for line in done.stdout.splitlines() if line.endswith((" True", " False"))]
    assert ends == [[command, "False"] for command in ("label", "eips", "generate", "inspect", "report")]
