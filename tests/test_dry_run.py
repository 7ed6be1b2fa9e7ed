"""`eipnn run --dry-run`: it tells what `eipnn run` would do, and does nothing."""

import re
from pathlib import Path

import ase.io
import pytest
import torch
from run_stages import fold
from tiny import N_POOL, N_TRAIN, in_process

from eipnn.files import write_json
from eipnn.run import command


def told(said: str) -> dict[str, tuple[str, str]]:
    """Stage -> its state and gradient steps, of the printed tables."""
    rows: dict[str, tuple[str, str]] = {}
    for line in said.splitlines():
        cells = [cell.strip() for cell in re.split(r"  +", line.strip())]
        if len(cells) == 5 and cells[0] != "stage":
            rows[cells[0]] = (cells[3], cells[4])
    return rows


@pytest.fixture
def wide(monkeypatch):
    """A terminal in which no cell is broken."""
    monkeypatch.setattr(command.console, "width", 200)


@pytest.fixture
def dry(experiment, run, fake, wide, tmp_path):
    """Look at a run: stages with their states and steps, and all that was printed. Nothing may change."""

    def look(*options: str) -> tuple[dict[str, tuple[str, str]], str]:
        def there() -> dict[Path, tuple[bytes, int]]:
            files = (p for p in (tmp_path / "run").rglob("*") if p.is_file())
            return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}

        fake.taken()
        before, existed = there(), (tmp_path / "run").exists()
        said = run(experiment, *options, "--dry-run")
        assert fake.taken() == []
        assert (there(), (tmp_path / "run").exists()) == (before, existed)
        return told(said), said

    return look


ROWS = ("--strategy", "baseline", "la", "mp", "baseline-long")
BATCHES = N_TRAIN // 4
SELECTED = 20 // 3  # of a batch of four, three places are for EIP labels
AT_MOST = N_POOL // 3


def test_a_new_run(dry):
    rows, said = dry(*ROWS)
    assert rows == {
        "baseline": ("will run", str(2 * BATCHES)),
        "classify": ("will run", str(2 * BATCHES)),
        "la/alpha-0.1": ("will run", f"<= {2 * AT_MOST}"),
        "pretrain": ("will run", str(2 * (N_POOL // 4))),
        "mp": ("will run", str(2 * BATCHES)),
        "baseline-long": ("will run", f"<= {2 * AT_MOST}"),
    }
    assert re.search(r"baseline-long +baseline-long +labels, classify +will run", said)
    assert re.search(r"pretrain +mp +labels +will run", said)
    total = 2 * (3 * BATCHES + N_POOL // 4 + 2 * AT_MOST)
    assert f"<= {total} gradient steps to go; nothing was trained or written" in said


def test_a_finished_run(experiment, run, dry):
    run(experiment, *ROWS)
    rows, said = dry(*ROWS)
    assert set(rows.values()) == {("done", "8")}  # as the stages have noted
    assert "run: 0 gradient steps to go" in said


def test_what_the_classifier_chose_makes_the_steps_exact(experiment, run, dry):
    run(experiment, "--strategy", "la")
    rows, said = dry("--strategy", "la", "mp+la", "baseline-long")
    assert rows["mp+la/alpha-0.1"] == ("will run", str(2 * SELECTED))
    assert rows["baseline-long"] == ("will run", str(2 * SELECTED))
    assert f"run: {2 * (N_POOL // 4 + 2 * SELECTED)} gradient steps to go" in said


def test_a_training_that_was_cut_off(experiment, run, dry, tmp_path):
    run(experiment, "--strategy", "baseline")
    stage = fold(tmp_path) / "baseline"
    for name in ("done", "fit"):
        (stage / f"{name}.json").unlink()
    torch.save({"state_dict": {}, "epoch": 0, "global_step": BATCHES}, stage / "checkpoints" / "last.ckpt")
    rows, said = dry("--strategy", "baseline")
    assert rows == {"baseline": ("resumes at epoch 1", str(2 * BATCHES))}
    assert f"run: {BATCHES} gradient steps to go" in said


def test_other_settings(experiment, run, dry, tmp_path):
    run(experiment, *ROWS)
    experiment["pretrain"] = {"model": {"outlier": 100.0}}
    experiment["classify"] = {"model": {"c": 0.05}}
    states = {name: state for name, (state, _) in dry(*ROWS)[0].items()}
    assert states == {
        "baseline": "done",
        "classify": "outdated, will be run again",
        "la/alpha-0.1": "will be run again where what it reads changes",
        "pretrain": "outdated, will be run again",
        "mp": "outdated, will be run again",
        "baseline-long": "will be run again where what it reads changes",
    }
    assert not list(tmp_path.rglob("*.old-1"))


@pytest.mark.parametrize(
    ("gone", "state"),
    [
        ("test.json", "trained, test.json will be made"),
        ("done.json", "trained, its result will be made"),
        ("checkpoints/potential.pt", "trained, potential.pt will be made"),
        ("checkpoints/best.ckpt", "will run"),
    ],
)
def test_files_that_are_gone(experiment, run, dry, tmp_path, gone, state):
    run(experiment, "--strategy", "baseline")
    (fold(tmp_path) / "baseline" / gone).unlink()
    assert dry("--strategy", "baseline")[0]["baseline"][0] == state


def test_splits_that_are_drawn_and_fewer_frames(experiment, run, dry):
    experiment["splits"] = "random"
    rows, said = dry("--strategy", "mp", "delta", "--frames", "10", "all")
    titles = [line.strip() for line in said.splitlines() if line.strip().startswith("split 1")]
    assert titles == ["split 1, seed 0, 10 DFT frames", "split 1, seed 0"]
    assert rows["../pretrain"] == ("will run", str(2 * (N_POOL // 4)))
    run(experiment, "--strategy", "mp", "delta", "--frames", "10", "all")
    assert {state for state, _ in dry("--strategy", "mp", "delta", "--frames", "10", "all")[0].values()} == {"done"}


def test_labels_to_make(experiment, run, dry, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "call", in_process)
    del experiment["data"]["labels"]
    experiment["eips"] = [{"name": "emt", "ase": "ase.calculators.emt.EMT"}]
    rows, said = dry("--strategy", "delta")
    assert "70 of 70 labels are to be made" in said
    assert rows == {"delta": ("will run", str(2 * BATCHES))}
    run(experiment, "--strategy", "delta")
    rows, said = dry("--strategy", "delta")
    assert "0 of 70 labels are to be made" in said
    assert rows["delta"] == ("done", "8")
    pool = ase.io.read(experiment["data"]["pool"], ":")
    pool[3].positions += 0.1
    experiment["data"]["pool"] = str(tmp_path / Path(experiment["data"]["pool"]).name)
    ase.io.write(experiment["data"]["pool"], pool)
    said = run(experiment, "--strategy", "delta", "--dry-run", status=1)
    assert "labels: holds labels of other structures (70 frames, here 70); give another folder" in said


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"max_epochs": 5, "accumulate_grad_batches": 3}, str(5 * 2)),
        ({"max_epochs": 5, "max_steps": 7}, "7"),
        ({"max_epochs": 5, "limit_train_batches": 3}, "15"),
        ({"max_epochs": 5, "limit_train_batches": 0.5}, "10"),
        ({"max_epochs": -1}, "no end"),
        ({"max_epochs": None}, str(100 * BATCHES)),
        ({"max_epochs": 5, "callbacks": [{"class_path": "EarlyStopping"}]}, f"<= {5 * BATCHES}"),
    ],
)
def test_what_ends_a_training(experiment, dry, trainer, steps):
    experiment["trainer"] |= trainer
    assert dry("--strategy", "baseline")[0]["baseline"] == ("will run", steps)


def test_states_are_those_of_the_run(experiment, run, dry, tmp_path):
    """What is called done is skipped, all else is not."""
    run(experiment, *ROWS)
    write_json(fold(tmp_path) / "mp" / "begun.json", {"fingerprint": "another"})
    states = {name for name, (state, _) in dry(*ROWS)[0].items() if state != "done"}
    said = run(experiment, *ROWS)
    skipped = set(re.findall(r"seed-0/(\S+): done before, skipped", said))
    assert states == {"mp"}
    assert skipped == {"baseline", "classify", "la/alpha-0.1", "pretrain", "baseline-long"}
