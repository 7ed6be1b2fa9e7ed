"""Experiments on the tiny data set, and a stand-in for the processes of their stages."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from tiny import REPRESENTATION, exit_code, in_process

from eipnn import cli
from eipnn.files import digest_file
from eipnn.run import execute
from eipnn.run.plan import Stage
from eipnn.stages.finetune import FinetuneModule


@pytest.fixture
def experiment(tiny, tmp_path) -> dict:
    """The content of an experiment file on the tiny data set."""
    data = {k: v for k, v in tiny.data.items() if k != "split"}
    (tmp_path / "split_1.csv").write_text(Path(tiny.data["split"]).read_text())
    return {
        "data": data,
        "splits": str(tmp_path / "split_{split}.csv"),
        "representation": REPRESENTATION,
        "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
    }


@pytest.fixture
def run(tmp_path, capfd):
    """Run an experiment; what it printed."""

    def call(experiment: dict, *arguments: str, status: int = 0) -> str:
        file = tmp_path / "experiment.yaml"
        file.write_text(yaml.safe_dump(experiment))
        assert exit_code("run", str(file), "-o", str(tmp_path / "run"), *arguments) == status
        out, err = capfd.readouterr()
        return out + err

    return call


def fold(tmp_path: Path, seed: int = 0) -> Path:
    return tmp_path / "run" / "split-1" / f"seed-{seed}"


def plain_stage(folder: Path, *after: str, **about: str) -> Stage:
    """A stage with a split and next to nothing else."""
    split = folder.with_name("split.csv")
    split.write_text("configs,mark\n")
    config = {"model": 1, "data": {"init_args": {"split": str(split)}}}
    return Stage(folder, config, {"split": digest_file(split)}, after, about)


class Fake:
    """In place of the stages' processes: notes the commands and leaves files like theirs."""

    def __init__(self, selection: str) -> None:
        self.commands: list[tuple[str, str]] = []
        self.scores: dict[str, float] = {}
        self.failing: tuple[str, str] | None = None
        self.arguments: list[str] = []
        self.threads: int | None = None
        self.leaves_best = True
        self.mode, self.ended = "min", "max_epochs"
        self.selection = selection

    def __call__(self, arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
        command, config = arguments[0], yaml.safe_load(Path(arguments[2]).read_text())
        root = Path(config["trainer"]["default_root_dir"])
        stage = str(root).partition("seed-0/")[2]
        self.commands.append((stage, command))
        self.arguments, self.threads = arguments, threads
        if self.failing == (stage, command):
            return 7
        (root / "checkpoints").mkdir(exist_ok=True)
        if command == "fit":
            if self.leaves_best:
                torch.save({"state_dict": {}}, root / "checkpoints" / "best.ckpt")
            torch.save({"state_dict": {}}, root / "checkpoints" / "last.ckpt")
            fit = {"best_score": self.scores.get(stage, 1.0), "epochs": 2, "gradient_steps": 8}
            fit |= {"monitor": FinetuneModule.monitor, "mode": self.mode, "ended": self.ended}
            (root / "fit.json").write_text(json.dumps(fit))
        elif command == "test":
            (root / "test.json").write_text('{"test_config_mae": 0.5, "test_atom_mae": 0.25}')
            (root / "predictions_test.csv").write_text("config_id,n_atoms,energy,prediction\n")
        elif command == "predict":
            (root / "selection.csv").write_text(self.selection)
        return 0

    def taken(self) -> list[tuple[str, str]]:
        """The commands since the last look."""
        commands, self.commands = self.commands, []
        return commands


@pytest.fixture
def fake(monkeypatch, tiny, tmp_path) -> Fake:
    chosen = dict.fromkeys(tiny.ids("pool")[:20], "au")
    text = tiny.select(tmp_path / "chosen.csv", chosen).read_text()
    made = Fake(text)
    monkeypatch.setattr(execute, "call", made)
    monkeypatch.setattr(execute, "write_potential", lambda best, file: file.write_bytes(best.read_bytes()))
    monkeypatch.setattr(cli, "check_config", lambda config: None)  # its tests are elsewhere
    return made


def finish(folder: Path, experiment: Path, monkeypatch, *strategies: str) -> None:
    """Bring a run to its end, with the stages in this process."""
    with monkeypatch.context() as patch:
        patch.setattr(execute, "call", in_process)
        assert exit_code("run", str(experiment), "-o", str(folder), "--strategy", *strategies) == 0


def assert_same_results(one: Path, other: Path) -> None:
    """The same table, predictions, logs of residuals and weights, to the last digit; only times and places differ."""
    names = sorted(str(p.relative_to(one)) for p in one.rglob("result-*.json"))
    assert names
    assert names == sorted(str(p.relative_to(other)) for p in other.rglob("result-*.json"))
    for name in names:
        a, b = (json.loads((folder / name).read_text()) for folder in (one, other))
        for content in (a, b):
            del (
                content["result"]["seconds"],
                content["files"],
            )  # checkpoints hold the places of their files
        assert a == b
    for file in one.rglob("best.ckpt"):
        weights = [torch.load(f, weights_only=True)["state_dict"] for f in (file, other / file.relative_to(one))]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items()), file
    for file in one.rglob("*.csv"):
        if file.name.startswith(("predictions", "selection", "residuals")):
            assert file.read_bytes() == (other / file.relative_to(one)).read_bytes(), file
