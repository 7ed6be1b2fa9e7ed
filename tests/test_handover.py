"""What a module and its data module tell each other, without a trainer between them."""

import re
import sys
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch import Trainer
from tiny import EIPS, SMALL, attached, stage_config

import eipnn
from eipnn.cli import EipnnCLI
from eipnn.errors import InputError
from eipnn.representations import SchNet

STAGES = ("Classifier", "Pretrain", "Finetune")


def module(stage: str, **arguments):
    torch.manual_seed(0)
    names = {} if stage == "Finetune" else {"eips": list(EIPS)}
    return getattr(eipnn, f"{stage}Module")(SchNet(**SMALL), **names, **arguments)


def data_of(stage: str, tiny, **arguments):
    return getattr(eipnn, f"{stage}DataModule")(**tiny.arguments, **arguments)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_set_up_and_stepped_without_a_trainer(tiny, stage):
    net = module(stage)
    data = data_of(stage, tiny, handover=net.handover)
    data.setup("fit")
    net.setup("fit")
    assert net.elements == ["Au", "Cu"]
    assert net.zeros["dft"]["energies"] == {"Cu": -40.0, "Au": -60.0}
    assert data.trainer is None
    batch = next(iter(data.train_dataloader()))
    net.training_step(batch, 0)["loss"].backward()
    assert max(p.grad.abs().max() for p in net.parameters() if p.grad is not None) > 0
    net.validation_step(next(iter(data.val_dataloader())), 0)
    net.on_validation_start()


@pytest.mark.parametrize("stage", STAGES)
def test_without_the_handover_it_is_said_how(tiny, stage, tmp_path):
    mend = rf"{stage}DataModule\(\.\.\., handover=module\.handover\)"
    with pytest.raises(InputError, match=mend):
        data_of(stage, tiny).setup("fit")
    with pytest.raises(InputError, match=r"give it handover=module\.handover"):
        module(stage).setup("fit")
    net = module(stage)
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, default_root_dir=tmp_path)
    with pytest.raises(InputError, match=mend):
        trainer.fit(net, data_of(stage, tiny))
    attached(data_of(stage, tiny), net, "validate")
    with pytest.raises(InputError, match="without its training configurations"):
        net.setup("fit")


@pytest.mark.parametrize("stage", STAGES)
def test_the_commands_hand_it_over_and_write_it_nowhere(tiny, stage, tmp_path, capsys):
    config = stage_config(tiny, stage, tmp_path)
    made = EipnnCLI(config, run=False)
    assert made.datamodule.handover is made.model.handover
    assert "handover" not in made.parser.dump(made.config, skip_none=False)
    classes = [f"--{kind}=eipnn.{stage}{name}" for kind, name in (("model", "Module"), ("data", "DataModule"))]
    with (
        patch.object(sys, "argv", ["eipnn", "fit", *classes, "--print_config"]),
        pytest.raises(SystemExit),
    ):
        EipnnCLI()
    assert "handover" not in capsys.readouterr().out


def test_limits_are_those_of_the_module(tiny):
    given = {"c": 0.02, "c_forces": 0.7}
    limits = {"energy": {"energy": 0.02}, "forces": {"forces": 0.7}, "both": {"energy": 0.02, "forces": 0.7}}
    for judge, expected in limits.items():
        handover = module("Classifier", judge=judge, **given).handover
        assert (handover.limits, handover.optional) == (expected, ())
    handover = module("Classifier", **given).handover
    assert (handover.limits, handover.optional) == (limits["both"], ("forces",))
    assert module("Pretrain", outlier=17.0).handover.limits == {"energy": 17.0}
    assert module("Finetune").handover.limits == {}


def test_elements_of_an_evaluation_are_told_with_their_first_configuration(tiny):
    net = module("Finetune")
    attached(data_of("Finetune", tiny), net, "test")
    expected = {}
    for name in tiny.ids("test"):
        for symbol in sorted(set(tiny.frames[name].symbols)):
            expected.setdefault(symbol, f"{tiny.data['dft']}: {name}")
    assert net.handover.facts.evaluated == expected
    assert list(net.handover.facts.evaluated) == list(expected)
    net.elements = ["Cu"]
    with pytest.raises(InputError, match=f"{re.escape(str(expected['Au']))}: the potential was trained on Cu, not"):
        net.on_test_start()
