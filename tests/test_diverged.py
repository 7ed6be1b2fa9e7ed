"""A training whose weights have become NaN ends with a message, and no error is averaged away."""

import pytest
import torch
from tiny import best, eipnn_stage, stage_config


@pytest.mark.parametrize("stage", ["Classifier", "Pretrain", "Finetune"])
def test_a_diverged_training_is_said(tiny, tmp_path, stage):
    config = stage_config(tiny, stage, tmp_path)
    config["model"]["init_args"]["optimizer"] = {
        "class_path": "torch.optim.SGD",
        "init_args": {"lr": 1e30},
    }
    with pytest.raises(SystemExit, match=r"training has diverged; lower the learning rate \(model"):
        eipnn_stage("fit", config)
    assert not (tmp_path / "fit.json").exists()


@pytest.mark.parametrize("command", ["test", "predict"])
def test_a_broken_checkpoint_gives_no_numbers(tiny, trained, tmp_path, command):
    content = torch.load(best(trained["Finetune"]), weights_only=True)
    content["state_dict"]["head.mlp.0.weight"][0, 0] = torch.nan
    torch.save(content, tmp_path / "broken.ckpt")
    config = stage_config(tiny, "Finetune", tmp_path)
    with pytest.raises(SystemExit, match="the network gives NaN or infinite values"):
        eipnn_stage(command, config, "--ckpt_path", str(tmp_path / "broken.ckpt"))
