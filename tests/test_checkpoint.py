"""Checkpoints: what they hold, what they refuse."""

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tiny import EIPS, FREE, SMALL, attached, best, eipnn_stage, stage_config

import eipnn
from eipnn.errors import InputError
from eipnn.potential.checkpoints import CheckpointError, read_checkpoint
from eipnn.representations import SchNet
from eipnn.stages.keeping import moved
from eipnn.stages.source import EnergyZero

NAMES = {"Classifier": "classify", "Pretrain": "pretrain", "Finetune": "finetune"}


@pytest.mark.parametrize("stage", NAMES)
def test_best_and_last_hold_plain_values_and_tensors(trained, stage):
    for name in ("best", "last"):
        file = trained[stage] / "checkpoints" / f"{name}.ckpt"
        content = torch.load(file, weights_only=True)
        record = content["eipnn"]
        assert record["stage"] == NAMES[stage]
        assert record["representation"]["class_path"] == "eipnn.representations.schnet.SchNet"
        assert SMALL.items() <= record["representation"]["init_args"].items()
        assert record["elements"] == ["Au", "Cu"]
        assert record["cutoff"] == 3.5
        assert record["units"]["energy"] == "eV"
        assert record["zeros"]["dft"] == {"mode": "isolated_atoms", "energies": FREE}
        assert record["version"] == eipnn.__version__
    assert sorted(p.name for p in file.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


@pytest.mark.parametrize("stage", NAMES)
def test_load_gives_the_trained_module(trained, stage):
    file = best(trained[stage])
    module = getattr(eipnn, f"{stage}Module").load_from_checkpoint(file)
    assert module.stage == NAMES[stage]
    assert module.elements == ["Au", "Cu"]
    assert module.cutoff == 3.5
    assert module.eips == ([] if stage == "Finetune" else list(EIPS))
    assert module.units == {
        "energy": "eV",
        "length": "Angstrom",
        "forces": "eV/Angstrom",
        "stress": "eV/Angstrom^3",
    }
    assert set(module.zeros) == {"dft", *module.eips}
    assert not module.training
    state = torch.load(file, weights_only=True)["state_dict"]
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "module",
    [
        eipnn.ClassifierModule(SchNet(**SMALL), ["sw", "edip"], judge="forces", c=0.37, c_forces=0.4),
        eipnn.PretrainModule(SchNet(**SMALL), ["sw-1.0", "edip"], outlier=17.0, weights={"energy": 2.0}, core="zbl"),
        eipnn.FinetuneModule(SchNet(**SMALL), alpha=3.0, eip_loss="mse", energy_per="atom", huber=0.1),
    ],
    ids=lambda module: module.stage,
)
def test_settings_of_the_stage_come_back(module, tmp_path):
    file = tmp_path / "settings.ckpt"
    torch.save({"state_dict": module.state_dict(), "eipnn": module.record()}, file)
    assert type(module).load_from_checkpoint(file).settings() == module.settings()
    assert len(module.settings()) == {"classify": 4, "pretrain": 7, "finetune": 9}[module.stage]


def test_fine_tunings_of_0_2_0_are_read(tiny, trained, tmp_path):
    """They hold residuals of energies alone and a setting that is gone, and were trained on energies alone."""
    file = best(trained["Finetune"])
    content = torch.load(file, weights_only=True)
    content["residuals"] = [torch.ones(3)]
    content["eipnn"]["settings"] = {"alpha": 0.1, "eip_loss": "tukey", "tukey_per": "configuration"}
    torch.save(content, tmp_path / "old.ckpt")
    assert eipnn.FinetuneModule.load_from_checkpoint(tmp_path / "old.ckpt").weights == {"energy": 1.0}
    net = start(tiny, None)
    net.on_load_checkpoint(content)
    assert net.eip_terms["energy"].earlier == content["residuals"]


def refuse(command: str, config: dict, *arguments: str) -> str:
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        eipnn_stage(command, config, *arguments)
    message = str(stop.value)
    assert message.startswith(f"eipnn {command}: ")
    return message


def start(tiny, file, representation: dict = SMALL, **settings) -> eipnn.FinetuneModule:
    """A fine-tuning as it is before its first step."""
    torch.manual_seed(1)
    net = eipnn.FinetuneModule(SchNet(**representation), init_from=file and str(file), **settings)
    attached(eipnn.FinetuneDataModule(**tiny.arguments), net)
    return net


def test_init_from_takes_the_representation_alone(tiny, trained):
    file = best(trained["Pretrain"])
    pretrained = eipnn.PretrainModule.load_from_checkpoint(file).representation.state_dict()
    fresh, begun = start(tiny, None), start(tiny, file)
    weights = begun.representation.state_dict()
    assert weights.keys() == pretrained.keys()
    for name, value in pretrained.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)
    assert not torch.equal(fresh.representation.embedding.weight, weights["embedding.weight"])
    for name, value in fresh.head.state_dict().items():
        torch.testing.assert_close(begun.head.state_dict()[name], value, rtol=0, atol=0)


def test_init_from_refuses_what_does_not_fit(tiny, trained, tmp_path):
    pretrained, classifier = best(trained["Pretrain"]), best(trained["Classifier"])
    absent, text, foreign, weights = (tmp_path / f"{n}.ckpt" for n in ("absent", "text", "foreign", "w"))
    text.write_text("weights")
    torch.save({"state_dict": {}}, foreign)
    torch.save({"embedding": torch.zeros(3)}, weights)
    for file, message in {
        classifier: f"{classifier}: of stage 'classify', but a 'pretrain' checkpoint is due here",
        absent: f"{absent}: no such checkpoint",
        text: f"{text}: not a checkpoint that torch can read",
        foreign: f"{foreign}: not written by eipnn",
        weights: f"{weights}: holds no state_dict, so it is no Lightning checkpoint",
    }.items():
        with pytest.raises(CheckpointError) as error:
            start(tiny, file)
        assert message in str(error.value)
    with pytest.raises(CheckpointError) as error:
        start(tiny, pretrained, {**SMALL, "features": 16})
    assert f"init_from={pretrained} holds" in str(error.value)
    assert "use the same representation in both stages" in str(error.value)
    content = read_checkpoint(pretrained)
    content["eipnn"]["settings"]["core"] = "zbl"
    torch.save(content, tmp_path / "zbl.ckpt")
    start(tiny, tmp_path / "zbl.ckpt", core="zbl")
    for file, core, words in ((pretrained, "zbl", ("null", "zbl")), (tmp_path / "zbl.ckpt", None, ("zbl", "null"))):
        with pytest.raises(CheckpointError) as error:
            start(tiny, file, core=core)
        first, second = str(error.value).splitlines()
        assert first == "init_from={} was pretrained with core: {}, but this stage has core: {};".format(file, *words)
        assert second == "give model.core the same value in both stages"


def test_init_from_is_strict(tiny, trained, tmp_path):
    content = read_checkpoint(best(trained["Pretrain"]))
    del content["state_dict"]["representation.embedding.weight"]
    torch.save(content, tmp_path / "partial.ckpt")
    with pytest.raises(RuntimeError, match=r"Missing key.*embedding\.weight"):
        start(tiny, tmp_path / "partial.ckpt")


def test_commands_say_it_without_a_traceback(tiny, trained, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    message = refuse("test", config)
    assert "an untrained model: give --ckpt_path, a checkpoint of this stage" in message
    message = refuse("fit", config, "--ckpt_path", best(trained["Pretrain"]))
    assert "of stage 'pretrain', but a 'finetune' checkpoint is due here" in message
    config["model"]["init_args"]["init_from"] = str(tmp_path / "none.ckpt")
    assert "none.ckpt: no such checkpoint" in refuse("fit", config)


def evaluate(tiny, stage: str, file: str, representation: dict = SMALL, eips=EIPS, **data) -> None:
    """Load a checkpoint as `validate`, `test` and `predict` do."""
    arguments = {} if stage == "Finetune" else {"eips": list(eips)}
    net = getattr(eipnn, f"{stage}Module")(SchNet(**representation), **arguments)
    attached(getattr(eipnn, f"{stage}DataModule")(**tiny.arguments | data), net, "validate")
    net._trainer = SimpleNamespace(
        state=SimpleNamespace(fn="validate"),
        ckpt_path=file,
        checkpoint_callbacks=[],
    )
    net.on_load_checkpoint(read_checkpoint(file))
    assert net.elements == ["Au", "Cu"]


@pytest.mark.parametrize("stage", NAMES)
def test_a_checkpoint_is_evaluated_with_what_it_was_trained_with(tiny, trained, stage):
    evaluate(tiny, stage, best(trained[stage]))


def test_a_checkpoint_of_another_stage(tiny, trained):
    file = best(trained["Classifier"])
    with pytest.raises(CheckpointError, match="but a 'finetune' checkpoint is due here"):
        evaluate(tiny, "Finetune", file)
    with pytest.raises(CheckpointError, match="but a 'finetune' checkpoint is due here"):
        eipnn.FinetuneModule.load_from_checkpoint(file)


def test_a_checkpoint_of_another_eip_set(tiny, trained):
    message = r"with eips \['cu.1', 'au', 'far'\], this run has \['au', 'cu.1'\]; give it the same"
    for stage in ("Pretrain", "Classifier"):
        with pytest.raises(CheckpointError, match=message):
            evaluate(tiny, stage, best(trained[stage]), eips=("au", "cu.1"))


def test_a_checkpoint_of_another_representation(tiny, trained):
    with pytest.raises(CheckpointError, match=r"'cutoff': 3\.5.* this run has .*'cutoff': 3\.0"):
        evaluate(tiny, "Finetune", best(trained["Finetune"]), {**SMALL, "cutoff": 3.0})


@pytest.mark.parametrize(
    "zero",
    [
        EnergyZero("isolated_atoms", FREE | {"Au": -60.001}),
        EnergyZero("least_squares"),
        EnergyZero("none"),
    ],
    ids=lambda zero: zero.mode,
)
def test_a_checkpoint_of_other_zeros(tiny, trained, zero):
    with pytest.raises(CheckpointError) as error:
        evaluate(tiny, "Finetune", best(trained["Finetune"]), energy_zero=zero)
    message = str(error.value)
    assert "the checkpoint's energy zeros are" in message
    assert "'Au': -60.0," in message
    assert "use the energy_zero, labels and split that it was trained with" in message


def test_a_checkpoint_of_another_eip_zero(tiny, trained):
    with pytest.raises(CheckpointError, match="the checkpoint's energy zeros are"):
        evaluate(tiny, "Pretrain", best(trained["Pretrain"]), eip_energy_zero="least_squares")


def test_files_that_are_no_checkpoints(trained, tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.ckpt: no such checkpoint"):
        eipnn.load(tmp_path / "gone.ckpt")
    whole = (trained["Finetune"] / "checkpoints" / "best.ckpt").read_bytes()
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"torn\.ckpt: not a checkpoint that torch can read"):
        eipnn.load(torn)


def test_no_code_is_run_from_a_checkpoint(tmp_path):
    """A pickled module is refused: only plain values and tensors are read."""
    torch.save({"state_dict": {}, "module": SchNet(**SMALL)}, tmp_path / "pickled.ckpt")
    with pytest.raises(CheckpointError, match="not a checkpoint that torch can read"):
        eipnn.load(tmp_path / "pickled.ckpt")


def test_predictions_of_a_file(tiny, trained, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    config["data"]["init_args"]["structures"] = tiny.data["pool"]
    root = eipnn_stage("predict", config, "--ckpt_path", best(trained["Finetune"]))
    found = pd.read_csv(root / "predictions.csv")
    assert found["config_id"].tolist() == tiny.ids("pool")
    assert found.columns.tolist() == ["config_id", "n_atoms", "prediction"]


@pytest.mark.parametrize("stage", NAMES)
def test_predictions_of_unknown_elements_are_refused(tiny, trained, tmp_path, stage):
    file = tmp_path / "silver.extxyz"
    file.write_text('2\npbc="F F F"\nCu 0 0 0\nAg 0 0 2.5\n')
    net = getattr(eipnn, f"{stage}Module").load_from_checkpoint(best(trained[stage]))
    data = getattr(eipnn, f"{stage}DataModule")(**tiny.arguments, structures=str(file))
    if stage == "Finetune":  # the zero of an unknown element is unknown too
        data.config.energy_zero = EnergyZero("none")
    attached(data, net, "predict")
    with pytest.raises(InputError, match="was trained on Au, Cu, not on Ag"):
        net.on_predict_start()


def test_other_arguments_of_load_from_checkpoint_are_refused(trained):
    file = best(trained["Finetune"])
    with pytest.raises(TypeError, match=r"takes a path alone, not \['alpha'\]"):
        eipnn.FinetuneModule.load_from_checkpoint(file, alpha=3)


def test_what_commands_print_can_be_caught_as_a_value_error():
    assert issubclass(CheckpointError, InputError)
    assert issubclass(InputError, ValueError)


def test_a_moved_folder_takes_its_own_paths_alone():
    """`mp+la` begins with the letters of `mp`, and is another folder."""
    state = {
        "dirpath": "/runs/mp",
        "best_model_path": "/runs/mp/best.ckpt",
        "best_k_models": {"/runs/mp/best.ckpt": 0.5, "/runs/mp+la/best.ckpt": 0.25},
        "monitor": "val_loss",
        "last_model_path": "",
    }
    assert moved(state, Path("/runs/mp"), Path("/new")) == {
        "dirpath": "/new",
        "best_model_path": "/new/best.ckpt",
        "best_k_models": {"/new/best.ckpt": 0.5, "/runs/mp+la/best.ckpt": 0.25},
        "monitor": "val_loss",
        "last_model_path": "",
    }
