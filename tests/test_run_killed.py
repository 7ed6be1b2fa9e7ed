"""`eipnn run` is killed, and the same command ends with the same weights, predictions and tables."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from run_stages import assert_same_results, finish

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the stages on Linux alone")


def alive(pid: int) -> bool:
    """Whether a process runs (one that has ended and was not fetched does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def started(folder: Path, experiment: Path, *strategies: str) -> subprocess.Popen:
    """`eipnn run` in a process of its own."""
    command = [sys.executable, "-m", "eipnn", "run", str(experiment), "-o", str(folder)]
    return subprocess.Popen([*command, "--strategy", *strategies], stdout=subprocess.DEVNULL, start_new_session=True)


def wait_for(file: Path, process: subprocess.Popen, limit: float = 300) -> None:
    end = time.monotonic() + limit
    while not file.exists():
        assert process.poll() is None, f"the run ended before {file}"
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.01)


def kill(process: subprocess.Popen, how: signal.Signals = signal.SIGKILL) -> None:
    """End `eipnn run` alone; its stage must end with it."""
    stages = children(process.pid)
    process.send_signal(how)
    process.wait()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in stages):
        assert time.monotonic() < end, "a stage outlived its run"
        time.sleep(0.01)


def test_a_killed_run_ends_with_the_same_results(experiment, tmp_path, monkeypatch, capfd):
    experiment["trainer"]["max_epochs"] = 60
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = started(cut, file, "baseline")
    wait_for(cut / "split-1" / "seed-0" / "baseline" / "checkpoints" / "last.ckpt", process)
    time.sleep(0.2)
    kill(process)
    stage = cut / "split-1" / "seed-0" / "baseline"
    assert not (stage / "fit.json").exists(), "the kill came too late: more epochs are needed"
    capfd.readouterr()
    finish(cut, file, monkeypatch, "baseline")
    assert f"{stage}: resumed" in capfd.readouterr().out
    finish(whole, file, monkeypatch, "baseline")
    assert_same_results(cut, whole)
    assert len(list((stage / "logs").iterdir())) >= 3  # begun, resumed, tested


MOMENTS = (
    "pretrain/begun.json",
    "pretrain/checkpoints/last.ckpt",
    "classify/begun.json",
    "classify/checkpoints/last.ckpt",
    "classify/fit.json",
    "classify/test.json",
    "mp+la/alpha-0.1/begun.json",
    "mp+la/alpha-0.1/checkpoints/last.ckpt",
    "mp+la/alpha-0.1/fit.json",
    "la/alpha-0.1/checkpoints/last.ckpt",
)
"""Files, in the order in which they appear; each is waited for and the run is killed some moments later."""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_run_killed_in_every_stage_ends_with_the_same_results(experiment, tmp_path, monkeypatch, how):
    experiment["trainer"]["max_epochs"] = 40
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    finish(whole, file, monkeypatch, "mp+la", "la")
    rng = np.random.default_rng(int(how))
    for moment in MOMENTS:
        process = started(cut, file, "mp+la", "la")
        wait_for(cut / "split-1" / "seed-0" / moment, process)
        time.sleep(rng.uniform(0, 1.5))
        kill(process, how)
    assert started(cut, file, "mp+la", "la").wait() == 0
    assert_same_results(cut, whole)


TRAININGS = ("pretrain", "mp", "classify", "la/alpha-0.1")


@pytest.mark.slow
def test_trainings_killed_at_ten_random_moments_leave_the_same_weights(experiment, tmp_path, monkeypatch):
    """All processes at once and without a warning, while epochs go by: within them, or as checkpoints are written."""
    experiment["trainer"]["max_epochs"] = 60
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    finish(whole, file, monkeypatch, "mp", "la")
    rng = np.random.default_rng(0)
    for name in sorted([*TRAININGS, *TRAININGS, "mp", "la/alpha-0.1"], key=TRAININGS.index):
        stage = cut / "split-1" / "seed-0" / name
        last = stage / "checkpoints" / "last.ckpt"
        process = started(cut, file, "mp", "la")
        try:
            for _ in range(rng.integers(1, 15)):  # epochs
                wait_for_another(last, process)
            time.sleep(rng.uniform(0, 0.1))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert not (stage / "fit.json").exists(), "the kill came too late: more epochs are needed"
    finish(cut, file, monkeypatch, "mp", "la")
    assert_same_results(cut, whole)


def wait_for_another(file: Path, process: subprocess.Popen) -> None:
    """Wait until a file is written, or written again."""

    def written() -> int:
        return file.stat().st_mtime_ns if file.exists() else 0

    before = written()
    while written() == before:
        assert process.poll() is None, f"the run ended before {file}"
        time.sleep(0.002)
