"""One stage of `eipnn run`: what makes it another stage, what damage does to it, when it is at its end."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from run_stages import plain_stage

from eipnn import EIPNNCalculator, load
from eipnn.run import execute
from eipnn.run.execute import Stage, StageError, run_stage
from eipnn.run.plan import PREDICTIONS

CONFIG = {
    "trainer": {"default_root_dir": "here", "max_time": "00:01:00:00", "max_epochs": 3},
    "model": {
        "init_args": {
            "init_from": "pretrain/best.ckpt",
            "representation": {"init_args": {"pool": "mean", "labels": 1}},
            "eips": ["sw"],
        }
    },
    "data": {"init_args": {"dft": "a", "pool": "b", "split": "c", "labels": "d", "selection": "e"}},
}


def changed(path: str, value: object) -> dict:
    """`CONFIG` with one value replaced."""
    config = json.loads(json.dumps(CONFIG))
    *way, last = path.split(".")
    inner = config
    for key in way:
        inner = inner[key]
    inner[last] = value
    return config


def fingerprint(config: dict, inputs=None) -> str:
    return Stage(Path("folder"), config, inputs or {"dft": "1"}, ("test",)).fingerprint()


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("trainer.default_root_dir", True),
        ("trainer.max_time", True),
        ("trainer.max_epochs", False),
        ("model.init_args.init_from", True),
        ("model.init_args.compiled", True),
        ("model.init_args.eips", False),
        ("model.init_args.representation.init_args.pool", False),
        ("model.init_args.representation.init_args.labels", False),
        *((f"data.init_args.{name}", True) for name in CONFIG["data"]["init_args"]),
    ],
)
def test_only_places_of_files_do_not_count(path, same):
    assert (fingerprint(changed(path, "other")) == fingerprint(CONFIG)) == same
    assert fingerprint(CONFIG, {"dft": "2"}) != fingerprint(CONFIG)


def test_an_edited_class_of_the_users_is_another_stage(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_backbone.py"
    config = changed("model.init_args.representation", {"class_path": "edited_backbone.Net"})
    found = []
    for text in ("class Net: layers = 1\n", "class Net: layers = 2\n", "class Net: layers = 1\n"):
        file.write_text(text)
        found.append(fingerprint(config))
    assert found[0] == found[2] != found[1]


class Processes:
    """In place of a stage's processes: notes the commands and leaves their files."""

    def __init__(self, *ends: str) -> None:
        self.ends = list(ends)
        self.commands: list[str] = []

    def __call__(self, arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
        command, folder = arguments[0], Path(arguments[2]).parent
        resumed = Path(arguments[4]).stem if command == "fit" and len(arguments) > 3 else ""
        self.commands.append(f"{command} {resumed}".strip())
        if command == "fit":
            (folder / "checkpoints").mkdir(exist_ok=True)
            if not resumed:  # no later epoch is better
                torch.save({"state_dict": {}, "epoch": 1}, folder / "checkpoints" / "best.ckpt")
            torch.save({"state_dict": {}, "epoch": 2}, folder / "checkpoints" / "last.ckpt")
            end = self.ends.pop(0) if self.ends else "max_epochs"
            (folder / "fit.json").write_text(json.dumps({"ended": end, "epochs": 3}))
        elif command == "test":
            (folder / "test.json").write_text('{"test_config_mae": 0.5}')
            for name in PREDICTIONS:
                (folder / name).write_text("config_id,prediction\n")
        else:
            (folder / "selection.csv").write_text("config_id,eip\n")
        return 0

    def taken(self) -> list[str]:
        commands, self.commands = self.commands, []
        return commands


@pytest.fixture
def processes(monkeypatch) -> Processes:
    made = Processes()
    monkeypatch.setattr(execute, "call", made)
    return made


@pytest.fixture
def stage(tmp_path) -> Stage:
    return plain_stage(tmp_path / "classify", "test", "predict")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """One bit, in the middle of a file of the same length."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, flip])
@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("checkpoints/best.ckpt", ["fit", "test", "predict"]),
        ("selection.csv", ["test", "predict"]),
        ("test.json", ["test", "predict"]),
        ("predictions_test.csv", ["test", "predict"]),
        ("predictions_test.extxyz", ["test", "predict"]),
        ("checkpoints/last.ckpt", []),
    ],
)
def test_a_finished_stage_with_a_damaged_file_is_made_again(stage, processes, capfd, damage, name, commands):
    first = run_stage(stage)
    processes.taken()
    damage(stage.folder / name)
    assert run_stage(stage) == first
    assert processes.taken() == commands
    said = capfd.readouterr().out
    whole = "done before, skipped"
    assert (f"but {Path(name).name} is damaged: made again" if commands else whole) in said
    assert run_stage(stage) == first
    assert processes.taken() == []


@pytest.mark.parametrize("there", [True, False])
def test_predictions_of_a_version_that_kept_no_digest_of_them(stage, processes, there):
    """They are as they are; where they are gone, the test is made again, the training never."""
    run_stage(stage)
    done = json.loads(stage.done_file.read_text())
    digests = {name: done["files"].pop(name) for name in PREDICTIONS}
    stage.done_file.write_text(json.dumps(done))
    processes.taken()
    if not there:
        (stage.folder / PREDICTIONS[0]).unlink()
    again = run_stage(stage)
    assert processes.taken() == ([] if there else ["test", "predict"])
    assert again["files"] == done["files"] | ({} if there else digests)


def test_a_lost_configuration_is_written_again(stage, processes):
    run_stage(stage)
    processes.taken()
    (stage.folder / "config.yaml").unlink()
    run_stage(stage)
    assert processes.taken() == []
    assert yaml.safe_load((stage.folder / "config.yaml").read_text()) == stage.config


@pytest.mark.parametrize(
    ("damaged", "commands"),
    [
        ((), ["fit last"]),
        (("last",), ["fit best"]),
        (("last", "best"), ["fit"]),
        (("best",), ["fit last", "fit"]),
    ],
)
def test_damaged_checkpoints_of_a_training_that_was_cut_off(stage, processes, capfd, damaged, commands):
    first = run_stage(stage)
    stage.done_file.unlink()
    stage.fit_file.unlink()
    processes.taken()
    for name in damaged:
        cut(stage.folder / "checkpoints" / f"{name}.ckpt")
    assert run_stage(stage) == first
    assert processes.taken() == [*commands, "test", "predict"]
    assert capfd.readouterr().out.count("damaged, left out") == len(damaged)


def test_a_damaged_best_checkpoint_between_training_and_test(stage, processes):
    run_stage(stage)
    stage.done_file.unlink()
    processes.taken()
    cut(stage.best)
    run_stage(stage)
    assert processes.taken() == ["fit", "test", "predict"]


@pytest.fixture
def tuned(trained, tmp_path, processes, monkeypatch) -> Stage:
    """A finished fine-tuning with the checkpoints of a real one."""

    def call(arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
        code = processes(arguments, threads)
        if arguments[0] == "fit":
            shutil.copytree(trained["Finetune"] / "checkpoints", tmp_path / "mp" / "checkpoints", dirs_exist_ok=True)
        return code

    monkeypatch.setattr(execute, "call", call)
    made = plain_stage(tmp_path / "mp", "test", stage="finetune")
    run_stage(made)
    assert processes.taken() == ["fit", "test"]
    return made


def test_a_fine_tuning_leaves_its_potential(tuned, tiny):
    (ours, theirs) = (load(file) for file in (tuned.potential, tuned.best))
    assert ours.record() == theirs.record()
    weights = ours.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in theirs.state_dict().items())
    atoms = tiny.frames["dft_000000"].copy()
    energies = [EIPNNCalculator(file).get_potential_energy(atoms) for file in (tuned.potential, tuned.best)]
    assert energies[0] == energies[1]


def of_an_earlier_version(file: Path) -> None:
    """No potential was left, and nothing tells of one."""
    file.unlink()
    note = file.parents[1] / "done.json"
    content = json.loads(note.read_text())
    del content["files"]["potential.pt"]
    note.write_text(json.dumps(content))


@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, of_an_earlier_version])
def test_a_potential_is_made_again_without_training(tuned, processes, capfd, damage):
    first, weights = json.loads(tuned.done_file.read_text()), load(tuned.potential).state_dict()
    damage(tuned.potential)
    capfd.readouterr()
    again = run_stage(tuned)
    assert processes.taken() == []
    assert "potential.pt is" in (said := capfd.readouterr().out)
    assert "made again" in said
    assert {k: v for k, v in again.items() if k != "files"} == {k: v for k, v in first.items() if k != "files"}
    assert all(torch.equal(value, weights[name]) for name, value in load(tuned.potential).state_dict().items())
    assert run_stage(tuned) == again
    assert "done before, skipped" in capfd.readouterr().out


def test_a_lost_checkpoint_is_trained_for_although_its_potential_is_there(tuned, processes):
    tuned.best.unlink()
    run_stage(tuned)
    assert processes.taken() == ["fit", "test"]


@pytest.mark.parametrize("content", [b"", b'{"fingerprint": "1', b"\x80\xff", b"[1]"])
@pytest.mark.parametrize(
    ("name", "commands"),
    [
        ("done.json", ["test", "predict"]),
        ("begun.json", ["fit", "test", "predict"]),
        ("fit.json", []),
    ],
)
def test_damaged_notes_are_no_traceback(stage, processes, capfd, name, content, commands):
    first = run_stage(stage)
    processes.taken()
    (stage.folder / name).write_bytes(content)
    assert run_stage(stage) == first
    assert processes.taken() == commands
    said = capfd.readouterr().out
    assert (f"{stage.folder / name}: damaged, left out" in said) == bool(commands)
    # of a begun.json that cannot be read nobody knows the settings
    assert stage.folder.with_name("classify.old-1").exists() == (name == "begun.json")


def test_what_max_time_ended_goes_on(stage, processes):
    processes.ends = ["max_time", "max_time", "early_stopping"]
    for _ in range(2):
        with pytest.raises(StageError, match=r"max_time ended the training after 3 epochs.*goes on"):
            run_stage(stage)
        assert not stage.done_file.exists()
    run_stage(stage)
    assert processes.taken() == ["fit", "fit last", "fit last", "test", "predict"]


def test_two_runs_at_once_make_a_shared_stage_once(stage, processes, monkeypatch, caplog):
    def slow(arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
        time.sleep(0.2)
        return processes(arguments, threads)

    monkeypatch.setattr(execute, "call", slow)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(run_stage, [stage, stage]))
    assert results[0] == results[1]
    assert processes.taken() == ["fit", "test", "predict"]
    assert "another `eipnn run` is at work there; waiting for it" in caplog.text
