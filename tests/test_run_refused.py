"""`eipnn run` finds what any stage would refuse before the first one starts, and says it in one or two lines."""

from copy import deepcopy

import pytest
import torch
import yaml
from tiny import REPRESENTATION, exit_code

from eipnn.run import command, execute


@pytest.fixture
def refused(experiment, tmp_path, monkeypatch, capfd):
    """The message for a changed experiment; no process may be started."""

    def started(*arguments: object) -> int:
        raise AssertionError(f"started: {arguments}")

    def call(change: dict, *options: str) -> str:
        monkeypatch.setattr(execute, "call", started)
        monkeypatch.setattr(command, "call", started)
        content = deepcopy(experiment)
        for path, value in change.items():
            *way, last = path.split(".")
            inner = content
            for key in way:
                inner = inner.setdefault(key, {})
            inner[last] = value
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(content))
        assert exit_code("run", file, "-o", tmp_path / "run", *options) in (1, 2)
        said = capfd.readouterr().err.strip()
        assert len(said.splitlines()) <= 2, said
        return said

    return call


NET = REPRESENTATION["init_args"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data.dft": None}, "data.dft must be a file or a list of files, not None"),
        ({"data.dft": []}, "data.dft must be a file or a list of files, not []"),
        ({"data.dft": "no.extxyz"}, "no.extxyz: no such file"),
        ({"data.dft": ["no/*.extxyz"]}, "no/*.extxyz: matches no file"),
        ({"data.pool": "no.extxyz"}, "no.extxyz: no such file"),
        ({"data.labels": "no"}, "no: no such label store"),
        ({"data.batch_size": 0}, "batch_size and eval_batch_size must be at least 1"),
        ({"data.batch_sise": 4}, "batch_sise"),
        ({"finetune.data.dft_fraction": 0}, "dft_fraction must lie between 0 and 1, not 0"),
        ({"representation.init_args": NET | {"features": 0}}, "features"),
        ({"representation.init_args": NET | {"cutoff": 0}}, "cutoff"),
        ({"representation.class_path": "no_such.Net"}, "no_such"),
        (
            {"pretrain.model.optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": -1}}},
            "Invalid learning rate",
        ),
        ({"pretrain.model.outlier": -1.0}, "outlier must be positive"),
        ({"pretrain.model.eips": ["au", "au"]}, "pretrain.model.eips names 'au' twice"),
        ({"pretrain.model.eips": []}, "pretrain.model.eips must be a list of EIPs, not []"),
        ({"classify.model.eips": ["no"]}, "classify.model.eips names 'no'; the EIPs are cu.1, au"),
        ({"classify.model.init_from": "no.ckpt"}, "no.ckpt: no such checkpoint"),
        ({"trainer.max_epoch": 3}, "max_epoch"),
        ({"trainer.max_time": "soon"}, "max_time"),
        ({"trainer.strategy": "no_such"}, "trainer: You selected an invalid strategy name"),
        ({"trainer.fast_dev_run": True}, "trainer.fast_dev_run"),
        ({"trainer.enable_checkpointing": False}, "trainer.enable_checkpointing"),
        ({"splits": "no_{split}.csv"}, "no_1.csv: no such file"),
        ({"alpha": float("nan")}, "alpha must be a positive number or a list of them, not nan"),
        ({"alpha": [0.1, float("inf")]}, "not [0.1, inf]"),
        ({"run": {"seed": [-1]}}, "run.seed cannot be -1"),
        ({"run": {"seed": [2**32]}}, "run.seed cannot be 4294967296"),
        ({"run": {"split": []}}, "run.split is an empty list"),
    ],
)  # fmt: skip
def test_what_a_later_stage_would_refuse_is_said_first(refused, change, said):
    assert said in refused(change)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--split", "7"), "split_7.csv: no such file"),
        (("--frames", "1"), "1 DFT frames of a split"),
        (("--alpha", "nan"), "--alpha"),
        (("--threads", "0"), "--threads"),
        (("--seed", "-1"), "--seed"),
    ],
)
def test_options_that_no_stage_could_follow(refused, options, said):
    assert said in refused({}, *options)


def test_a_pretraining_elsewhere_is_read_first(refused, tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    said = refused({"classify.model.init_from": str(tmp_path / "other.ckpt")})
    assert "other.ckpt: not written by eipnn" in said


def test_a_split_that_names_strangers(refused, tmp_path):
    file = tmp_path / "split_1.csv"
    file.write_text(file.read_text() + "stranger,pretrain\n")
    assert "pretrain id 'stranger' is in no pool structure file" in refused({})


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\x80\xff\x00", "no text"), (None, "experiment.yaml"), (b"a: [1\nb: 2", "not YAML")],
)
def test_files_that_are_no_experiment(tmp_path, capfd, content, said):
    file = tmp_path / "experiment.yaml"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    assert exit_code("run", file, "-o", tmp_path / "run") == 1
    err = capfd.readouterr().err
    assert said in err
    assert len(err.splitlines()) <= 2
