"""Processes that train together end together: SIGTERM, an error in one of them, a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch import Callback, Trainer
from test_ddp import command_of
from test_processes import of_session, start, wait_for
from tiny import read_json, stage_config

from eipnn.errors import InputError, sigterm_said

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
pytestmark = LINUX


class Fails(Callback):
    """Ends the second process with an error in its second epoch."""

    def on_train_epoch_start(self, trainer: Trainer, module) -> None:
        if trainer.global_rank == 1 and trainer.current_epoch == 1:
            raise InputError("the second process alone does not like this")


class Slow(Callback):
    """A batch takes a while."""

    def on_train_batch_end(self, *_) -> None:
        time.sleep(0.02)


def children(parent: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def long_training(tiny, root: Path, callback: str = "Slow", epochs: int = 100_000) -> list[str]:
    config = stage_config(tiny, "Finetune", root, max_epochs=epochs)
    config["trainer"]["callbacks"] = [{"class_path": f"test_ddp_ends.{callback}"}]
    return command_of("fit", config)


def ended(run: subprocess.Popen, since: float) -> tuple[int, str, float]:
    """Code, what was said, and the seconds that it took; nothing is left then."""
    _, said = run.communicate(timeout=60)
    seconds = time.monotonic() - since
    wait_for(lambda: not of_session(run.pid), 5)
    return run.returncode, said, seconds


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_sigterm_to_either_process_ends_both(tiny, tmp_path, rank):
    run = start(tmp_path, *long_training(tiny, tmp_path))
    wait_for((tmp_path / "checkpoints" / "last.ckpt").exists)
    target = children(run.pid)[0] if rank else run.pid
    now = time.monotonic()
    os.kill(target, signal.SIGTERM)
    code, said, seconds = ended(run, now)
    assert code == 143
    assert seconds < 10
    assert "Traceback" not in said
    assert said.count("ended by SIGTERM") == 1
    assert said.splitlines()[-1] == f"eipnn fit: {sigterm_said('fit')}"


@pytest.mark.slow
def test_an_error_of_one_process_ends_both_with_its_message(tiny, tmp_path):
    run = start(tmp_path, *long_training(tiny, tmp_path, "Fails"))
    code, said, _ = ended(run, 0)
    assert code == 1
    assert said.splitlines()[-1] == "eipnn fit: the second process alone does not like this"
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("trial", range(2))
def test_random_moments_and_the_same_command_goes_on(tiny, tmp_path, how, rank, trial):
    rng = np.random.default_rng([int(how), rank, trial])
    command = long_training(tiny, tmp_path, epochs=30)
    run = start(tmp_path, *command)
    # in half of the trials while they start
    if trial:
        wait_for((tmp_path / "checkpoints" / "last.ckpt").exists)
    else:
        wait_for(lambda: children(run.pid))
    time.sleep(rng.uniform(0, 3))
    if run.poll() is None:
        target = children(run.pid)[0] if rank else run.pid
        now = time.monotonic()
        os.kill(target, how)
        code, _, seconds = ended(run, now)
        assert code == (-how if how == signal.SIGKILL and rank == 0 else 128 + how)
        assert seconds < 10
    last = tmp_path / "checkpoints" / "last.ckpt"
    again = start(tmp_path, *command, *(["--ckpt_path", str(last)] if last.exists() else []))
    assert ended(again, 0)[0] == 0
    assert read_json(tmp_path / "fit.json")["epochs"] == 30
