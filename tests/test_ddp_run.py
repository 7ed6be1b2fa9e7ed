"""Data-parallel trainings by `eipnn run`, and stages that torchrun starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from run_stages import fold
from test_ddp import PAIR
from test_ddp_ends import LINUX, children, long_training
from test_processes import of_session, wait_for
from tiny import exit_code, in_process, read_json, stage_config

from eipnn.cli import check_config
from eipnn.errors import InputError
from eipnn.processes import TORCHRUN
from eipnn.run import execute


def started_by_torchrun(folder: Path, *arguments: str) -> subprocess.Popen:
    """As `test_processes.start`; what is said goes to a file, which processes that are left over do not hold open."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with (folder / "said.txt").open("w") as said:
        return subprocess.Popen(
            [*PAIR, "-m", "eipnn", *arguments],
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
            stdout=said,
            stderr=said,
        )


@pytest.fixture
def of_two(monkeypatch):
    """The environment of a process that torchrun started beside another."""
    for name, value in {TORCHRUN: "none", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)


def test_processes_that_would_train_alone_are_refused(tiny, tmp_path, of_two):
    """Each would write the files of the others."""
    config = stage_config(tiny, "Finetune", tmp_path)
    with pytest.raises(InputError, match="is 1 x 1, and torchrun or srun started 2 processes: set both"):
        check_config(config)


def test_torchrun_is_not_for_commands_that_start_processes_themselves(tmp_path, of_two, monkeypatch, capsys):
    monkeypatch.setattr("eipnn.__main__.die_with_caller", lambda: None)
    assert exit_code("run", "experiment.yaml", "-o", tmp_path) == 2
    assert "start `eipnn run` without it" in capsys.readouterr().err


@LINUX
@pytest.mark.slow
def test_torchrun_that_is_killed_leaves_nothing(tiny, tmp_path):
    command = long_training(tiny, tmp_path)
    run = started_by_torchrun(tmp_path, *command)
    wait_for((tmp_path / "checkpoints" / "last.ckpt").exists, 300)
    workers = children(run.pid)
    assert len(workers) == 2
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    wait_for(lambda: not any(of_session(worker) for worker in workers), 10)  # each has a session of its own


@LINUX
@pytest.mark.slow
def test_an_error_of_one_of_torchruns_processes_ends_both_with_its_message(tiny, tmp_path):
    run = started_by_torchrun(tmp_path, *long_training(tiny, tmp_path, "Fails"))
    assert run.wait(300) == 1
    said = (tmp_path / "said.txt").read_text()
    assert "eipnn fit: the second process alone does not like this" in said


@pytest.mark.slow
def test_a_run_of_two_processes_comes_to_what_one_comes_to(experiment, run, monkeypatch, tmp_path):
    """Every stage, in a batch job of one task; one process has batches of twice the size."""
    experiment["trainer"]["precision"] = "64-true"
    rows = ("--strategy", "mp+la", "--split", "1", "--seed", "0")
    stages = ("classify", "pretrain", "mp+la/alpha-0.1")

    def results(batch_size: int, **trainer: object) -> tuple[list[dict], pd.DataFrame]:
        both = {"trainer": experiment["trainer"] | trainer, "data": experiment["data"] | {"batch_size": batch_size}}
        run(experiment | both, *rows)
        done = [read_json(fold(tmp_path) / stage / "done.json")["result"] for stage in stages]
        kept = [{k: v for k, v in one.items() if isinstance(v, int | float) and k != "seconds"} for one in done]
        return kept, pd.read_csv(fold(tmp_path) / "classify" / "selection.csv")

    with monkeypatch.context() as patch:
        patch.setattr(execute, "call", in_process)
        one, selected = results(8)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_JOB_NAME", "train")
    two, selected_by_two = results(4, devices=2, strategy="ddp")
    assert one[-1]["gradient_steps"] > 2
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-5)
    pd.testing.assert_frame_equal(selected_by_two, selected, rtol=1e-5)
