"""What the page "Bring your own backbone" shows, done in its order."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from backbones import find_backbones, small
from tiny import in_process, read_json

from eipnn.run import execute

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "experiments" / "base" / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


BACKBONE, CALCULATOR = blocks("python")
(EXPERIMENT,) = blocks("yaml")
RUN, CONTRACT = blocks("bash")


@pytest.fixture
def folder(tmp_path, tiny, monkeypatch) -> Path:
    """The working directory of a user with my_backbone.py and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_backbone.py").write_text(BACKBONE)
    for name in ("dft.extxyz", "pool.extxyz"):
        shutil.copy(tiny.folder / name, name)
    shutil.copytree(tiny.folder / "labels", "labels")
    yield tmp_path
    sys.modules.pop("my_backbone", None)


def test_the_experiment_and_the_calculator(folder, monkeypatch, capsys):
    experiment = yaml.safe_load(EXPERIMENT)
    experiment["trainer"] = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    (folder / "my_experiment.yaml").write_text(yaml.safe_dump(experiment))
    monkeypatch.setattr(execute, "call", in_process)
    command = shlex.split(RUN)
    assert command[0] == "eipnn"
    assert in_process(command[1:]) == 0
    fold = folder / "runs" / "mine" / "split-1" / "seed-0"
    for strategy in ("baseline", "la", "mp", "mp+la"):
        assert read_json(fold / f"result-{strategy}.json")["result"]["test_atom_mae"] < 10
    capsys.readouterr()
    seen: dict = {}
    exec(CALCULATOR, seen)
    assert np.isfinite(seen["atoms"].get_forces()).all()
    assert capsys.readouterr().out


def test_the_contract_finds_it(folder, monkeypatch):
    assignment, path, command, *files = shlex.split(CONTRACT)
    assert (path, command) == ("PYTHONPATH=.", "pytest")
    assert all((ROOT / file).is_file() for file in files)
    monkeypatch.setenv(*assignment.split("="))
    monkeypatch.syspath_prepend(folder)
    (found,) = find_backbones()
    assert found.__name__ == "MyNet"
    assert small(found).dim == 8


@pytest.mark.slow
def test_it_keeps_the_contract(folder):
    assignment, _, _, *files = shlex.split(CONTRACT)
    name, _, value = assignment.partition("=")
    environment = os.environ | {name: value, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", *files]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
