"""Processes of the commands: how they end, what they leave, where they look for modules."""

import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from eipnn import processes
from eipnn.labels import LabelStore

SLOW = "- {name: slow, ase: label_calculators.Springs, arguments: {seconds: 0.1}}\n"


@pytest.fixture
def folder(tmp_path, tiny) -> Path:
    (tmp_path / "slow.yaml").write_text(SLOW)
    for name in ("dft.extxyz", "pool.extxyz"):
        (tmp_path / name).write_bytes((tiny.folder / name).read_bytes())
    return tmp_path


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """`python -m eipnn ...` in `folder`, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "eipnn", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def of_session(session: int) -> list[str]:
    """The processes of a session that run, by their command lines."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append((stat.parent / "cmdline").read_text().replace("\0", " "))
    return found


def wait_for(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def working(session: int, name: str) -> int:
    return sum(name in line for line in of_session(session))


def test_sigterm_is_told_and_labelling_goes_on_from_there(folder):
    """As batch systems end a job."""
    label = ("label", "pool.extxyz", "--eips", "slow.yaml", "-o", "labels", "--workers", "2")
    run = start(folder, *label)
    wait_for((folder / "labels" / "index.json").exists)
    wait_for(lambda: working(run.pid, "labels.worker") == 2)
    run.terminate()
    _, said = run.communicate(timeout=60)
    assert run.returncode == 143
    assert said.strip().splitlines()[-1] == "eipnn label: ended by SIGTERM; the same command goes on from here"
    wait_for(lambda: of_session(run.pid) == [])
    assert not (folder / "labels" / ".scratch").exists()
    again = start(folder, *label)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert LabelStore.open(folder / "labels").complete


def experiment(folder: Path) -> Path:
    content = {
        "data": {"dft": "dft.extxyz", "pool": "pool.extxyz", "energy_zero": "least_squares"},
        "eips": "slow.yaml",
        "representation": {"class_path": "eipnn.representations.SchNet", "init_args": {}},
    }
    (folder / "experiment.yaml").write_text(yaml.safe_dump(content))
    return folder / "experiment.yaml"


def test_a_killed_run_leaves_no_process(folder):
    """Neither the labelling that it called nor the workers of that."""
    experiment(folder)
    run = start(folder, "run", "experiment.yaml", "--workers", "2", "-o", "runs")
    wait_for(lambda: working(run.pid, "labels.worker") == 2)
    assert len(of_session(run.pid)) == 4
    run.kill()
    run.wait()
    run.stderr.close()
    wait_for(lambda: not of_session(run.pid), 10)


def test_a_killed_generation_leaves_no_process(folder):
    wanted = ("--elements", "Cu", "--md", "200", "--md-steps", "2000", "--eip", "slow.yaml")
    run = start(folder, "generate", *wanted, "--workers", "2", "-o", "pool2.extxyz")
    wait_for(lambda: working(run.pid, "loky") >= 3)  # two workers, and what tracks their resources
    time.sleep(2)
    run.kill()
    run.wait()
    run.stderr.close()
    wait_for(lambda: not of_session(run.pid), 10)


def test_sigterm_reaches_the_process_that_is_called(folder, monkeypatch):
    """`call` ends it, and does not return before it has ended."""
    started = []

    class Popen(subprocess.Popen):
        def wait(self, timeout=None):
            started.append(self)
            if len(started) == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(processes.subprocess, "Popen", Popen)
    with pytest.raises(KeyboardInterrupt):
        processes.call(["--version"])
    assert started[0].poll() is not None


CALLED = "from eipnn.processes import call; raise SystemExit(call(['eips', '--help']))"


@pytest.mark.parametrize("how", [["-P", "-c", CALLED], ["-m", "eipnn", "eips", "--help"]])
def test_files_of_the_user_are_not_taken_for_libraries(folder, how):
    for name in ("pandas", "mace", "numpy", "yaml"):
        (folder / f"{name}.py").write_text("raise SystemExit('imported from the data folder')\n")
    done = subprocess.run([sys.executable, *how], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "eips" in done.stdout


def test_a_class_path_names_a_module_of_the_working_directory(folder):
    (folder / "my_potential.py").write_text("from label_calculators import Springs as Mine\n")
    (folder / "mine.yaml").write_text("- {name: mine, ase: my_potential.Mine}\n")
    run = start(folder, "label", "pool.extxyz", "--eips", "mine.yaml", "-o", "labels")
    _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said
