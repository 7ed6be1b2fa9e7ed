"""Learning rates over a training."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ReduceLROnPlateau as LightningPlateau
from tiny import EIPS, SMALL, eipnn_stage, stage_config
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau as Plateau

from eipnn import ClassifierModule, FinetuneModule, PretrainModule
from eipnn.errors import InputError
from eipnn.representations import SchNet
from eipnn.stages.schedules import LinearDecay, SlantedTriangular


def optimizer(lr: float = 1e-3) -> Optimizer:
    return Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(kind, epochs: int, lr: float = 1e-3, **arguments) -> list[float]:
    """The rate in each epoch, and what it would be after the last."""
    opt = optimizer(lr)
    schedule = kind(opt, epochs=epochs, **arguments)
    found = []
    for _ in range(epochs):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return [*found, opt.param_groups[0]["lr"]]


def test_linear_decay_ends_at_its_final_rate():
    found = rates(LinearDecay, 100)
    assert found[0] == pytest.approx(1e-3)
    assert found[50] == pytest.approx((1e-3 + 1e-5) / 2)
    assert found[-1] == pytest.approx(1e-5)
    steps = torch.tensor(found).double().diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -(1e-3 - 1e-5) / 100))


def test_linear_decay_of_several_groups():
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r} for r in (1e-2, 1e-4)]
    opt = Adam(parameters)
    schedule = LinearDecay(opt, final_lr=1e-6, epochs=2)
    for _ in range(5):  # beyond its end it stays
        opt.step()
        schedule.step()
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([1e-6, 1e-6])


def test_slanted_triangular_rises_for_a_fifth_then_falls():
    found = rates(SlantedTriangular, 100)
    assert found[0] == pytest.approx(1e-3 / 32)
    assert max(found) == found[20] == pytest.approx(1e-3)
    assert found[-1] == pytest.approx(1e-3 / 32)
    assert found[:21] == sorted(found[:21])
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[10] == pytest.approx(1e-3 * (1 + 0.5 * 31) / 32)
    assert found[60] == pytest.approx(1e-3 * (1 + 0.5 * 31) / 32)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_short_trainings_have_positive_rates_and_reach_the_full_one(make, epochs):
    found = rates(make, epochs)
    assert all(0 < rate <= 1e-3 * (1 + 1e-12) for rate in found)
    if epochs > 1:
        assert max(found[:epochs]) == pytest.approx(1e-3)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
def test_a_resumed_schedule_goes_on(make):
    whole = rates(make, 10)
    first = optimizer()
    schedule = make(first, epochs=10)
    for _ in range(4):
        first.step()
        schedule.step()
    second = optimizer()
    again = make(second, epochs=10)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(schedule.state_dict())
    for epoch in range(4, 10):
        assert second.param_groups[0]["lr"] == pytest.approx(whole[epoch], rel=1e-12)
        second.step()
        again.step()


@pytest.mark.parametrize("epochs", [1, 7, 50])
def test_the_arguments_change_the_shape(epochs):
    high = rates(SlantedTriangular, epochs, rise=0.5, ratio=10)
    assert high[0] == pytest.approx(1e-4)
    if epochs > 1:
        assert high.index(max(high)) == max(epochs // 2, 1)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
def test_the_number_of_epochs_is_needed(make):
    opt = optimizer()
    schedule = make(opt)
    opt.step()
    with pytest.raises(ValueError, match=f"{make.__name__} needs the number of epochs"):
        schedule.step()


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
@pytest.mark.parametrize("longer", [6, 10, 25])
def test_a_resumed_schedule_spans_the_new_number_of_epochs(make, longer):
    """From the epoch of the resumption on the rates are those of a training that began with that number."""
    whole = rates(make, longer)
    first = optimizer()
    schedule = make(first, epochs=6)
    for _ in range(6):
        first.step()
        schedule.step()
    second = optimizer()
    again = make(second, epochs=longer)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    again.load_state_dict(schedule.state_dict())
    for epoch in range(6, longer + 1):
        assert second.param_groups[0]["lr"] == pytest.approx(whole[epoch], rel=1e-12)
        assert again.get_last_lr() == pytest.approx([whole[epoch]], rel=1e-12)
        second.step()
        again.step()


class Rates(Callback):
    """Notes the rate of each epoch in a file of the root folder."""

    def on_train_epoch_start(self, trainer: Trainer, module) -> None:
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        with (Path(trainer.default_root_dir) / "rates.txt").open("a") as stream:
            stream.write(f"{rate}\n")


def fitted_rates(tiny, folder: Path, stage: str, *resume: str, scheduler=..., **trainer) -> list[float]:
    config = stage_config(tiny, stage, folder, limit_val_batches=1, **trainer)
    config["trainer"]["callbacks"] = [{"class_path": "test_schedules.Rates"}]
    if scheduler is not ...:
        config["model"]["init_args"]["scheduler"] = scheduler
    eipnn_stage("fit", config, *resume)
    return [float(line) for line in (folder / "rates.txt").read_text().split()]


def test_a_training_that_is_resumed_with_more_epochs_goes_on_with_their_rates(tiny, tmp_path):
    fitted_rates(tiny, tmp_path, "Finetune", max_epochs=2)
    last = str(tmp_path / "checkpoints" / "last.ckpt")
    found = fitted_rates(tiny, tmp_path, "Finetune", "--ckpt_path", last, max_epochs=5)
    assert found[:2] == pytest.approx(rates(LinearDecay, 2)[:2])
    assert found[2:] == pytest.approx(rates(LinearDecay, 5)[2:5])


TORCH = "torch.optim.lr_scheduler.ReduceLROnPlateau"
LIGHTNING = "lightning.pytorch.cli.ReduceLROnPlateau"


@pytest.mark.parametrize("stage", ["Classifier", "Pretrain", "Finetune"])
@pytest.mark.parametrize("kind", [TORCH, LIGHTNING, None])
def test_the_rate_of_a_plateau_and_a_constant_one(tiny, tmp_path, stage, kind):
    """Nothing is ever better by 1e9, so that each epoch but the first is one of no improvement."""
    mode = "max" if stage == "Classifier" else "min"
    arguments = {
        "mode": mode,
        "factor": 0.5,
        "patience": 0,
        "threshold": 1e9,
        "threshold_mode": "abs",
    }
    if kind == LIGHTNING:
        arguments["monitor"] = {"Classifier": "val_loss", "Pretrain": "val_mae_au"}.get(stage, "val_atom_mae")
        arguments["mode"] = "min"
    scheduler = kind and {"class_path": kind, "init_args": arguments}
    found = fitted_rates(tiny, tmp_path, stage, scheduler=scheduler, max_epochs=3)
    assert found == pytest.approx([1e-3, 1e-3, 5e-4] if kind else [1e-3] * 3)


@pytest.mark.parametrize(
    ("cls", "optimizer", "scheduler", "message"),
    [
        (FinetuneModule, {"lr": -1}, LinearDecay, "finetune stage: Invalid learning rate: -1"),
        (FinetuneModule, {"lr": 0.0}, LinearDecay, "lr must be positive, not 0.0"),
        (FinetuneModule, {"lr": float("inf")}, LinearDecay, "lr must be positive, not inf"),
        (PretrainModule, {"betas": (0.9, 2.0)}, None, "Invalid beta parameter at index 1: 2.0"),
        (PretrainModule, {"rate": 1.0}, None, "unexpected keyword argument 'rate'"),
        (FinetuneModule, {}, (LinearDecay, {"final_lr": -1}), "final_lr must not be negative"),
        (PretrainModule, {}, (SlantedTriangular, {"rise": 2}), "rise must lie between 0 and 1"),
        (
            PretrainModule,
            {},
            (SlantedTriangular, {"ratio": 0}),
            "ratio be at least 1, not 0.2 and 0",
        ),
        (
            PretrainModule,
            {},
            (SlantedTriangular, {"epochs": 0}),
            "epochs must be at least 1, not 0",
        ),
        (ClassifierModule, {}, Plateau, "watches val_accuracy: give it mode: max"),
        (
            FinetuneModule,
            {},
            (LightningPlateau, {"monitor": "val_loss"}),
            "the finetune stage has no metric 'val_loss'; it has train_loss, val_config_mae, val_atom_mae",
        ),
    ],
)
def test_settings_of_the_optimisation_that_cannot_be(cls, optimizer, scheduler, message):
    """They are refused when the module is made, before any data are read."""
    kind, more = scheduler if isinstance(scheduler, tuple) else (scheduler, {})
    arguments = {} if cls is FinetuneModule else {"eips": list(EIPS)}
    with pytest.raises(InputError) as error:
        cls(
            SchNet(**SMALL),
            optimizer=partial(Adam, **optimizer),
            scheduler=kind and partial(kind, **more),
            **arguments,
        )
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["EarlyStopping", "ModelCheckpoint"])
def test_a_callback_that_watches_no_metric_is_refused_before_the_training(tiny, tmp_path, kind, capsys):
    config = stage_config(tiny, "Finetune", tmp_path)
    callback = {
        "class_path": f"lightning.pytorch.callbacks.{kind}",
        "init_args": {"monitor": "mae"},
    }
    config["trainer"]["callbacks"] = [callback]
    with pytest.raises(SystemExit) as ending:
        eipnn_stage("fit", config)
    assert f"{kind}: the finetune stage has no metric 'mae'" in str(ending.value)
