"""Run one stage in processes of its own: skipped when done, resumed when cut off."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from eipnn.errors import InputError
from eipnn.files import write_atomically, write_json
from eipnn.potential.checkpoints import CheckpointError, read_checkpoint
from eipnn.processes import call

console = Console()


COMMANDS = "commands.txt"
"""In the folder of a run: the commands that were given for it."""

OUTPUTS = {"test": "test.json", "predict": "selection.csv"}
"""What a command after the training leaves in the folder of the stage; only the classifier predicts."""


class StageError(InputError):
    """The process of a stage failed."""


@dataclass(frozen=True)
class Stage:
    """A training and what follows it.

    Args:
        folder: everything that the stage writes.
        config: of the LightningCLI, plain values.
        inputs: name -> digest of what the stage reads.
        after: commands with the best checkpoint: ``test``, ``predict``.
        about: goes into the result as it is.
    """

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, str]
    after: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def fit_file(self) -> Path:
        """Written when the training has come to its end."""
        return self.folder / "fit.json"

    @property
    def done_file(self) -> Path:
        """Written when all is there."""
        return self.folder / "done.json"

    def missing(self) -> list[Path]:
        """What a finished stage should have left and is not there."""
        due = [self.best, *(self.folder / OUTPUTS[command] for command in self.after)]
        return [file for file in due if not file.exists()]

    def fingerprint(self) -> str:
        """Digest of the settings and of what is read; where files lie does not enter."""
        config = _without(self.config, {*self.inputs, "default_root_dir"})
        content = {"config": config, "inputs": self.inputs, "after": self.after}
        return digest_text(json.dumps(content, sort_keys=True))


def run_stage(stage: Stage, threads: int | None = None) -> dict[str, Any]:
    """Bring a stage to its end and return its result (the content of ``done.json``).

    A stage that is done with the same settings and inputs is skipped; one that was cut off goes on from its last
    epoch; an older one with other settings is moved aside, not overwritten. Where a file of a finished stage is gone,
    it is made again.

    Raises:
        StageError: a process of the stage failed; what it had reached stays and is resumed by the next call.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    with _alone(stage):
        _move_outdated_aside(stage)
        if stage.done_file.exists():
            if not stage.missing():
                say(f"{stage.folder}: done before, skipped")
                return json.loads(stage.done_file.read_text())
            _reopen(stage)
        write_json(stage.folder / "begun.json", {"fingerprint": stage.fingerprint()})
        config = stage.folder / "config.yaml"
        write_atomically(config, yaml.safe_dump(stage.config, sort_keys=False))
        if not stage.fit_file.exists():
            resume = _whole_checkpoint(stage)
            say(f"{stage.folder}: {'resumed' if resume else 'training'}")
            _call(stage, ["fit", "--config", str(config), *resume], threads)
        _check_fit(stage)
        for command in stage.after:
            _call(
                stage, [command, "--config", str(config), "--ckpt_path", str(stage.best)], threads
            )
        result = stage.about | {"fingerprint": stage.fingerprint(), "result": _result(stage.folder)}
        write_json(stage.done_file, result)
        return result


@contextmanager
def _alone(stage: Stage) -> Iterator[None]:
    """Hold the lock of a stage; another `eipnn run` in the same folder is waited for."""
    lock = FileLock(stage.folder.with_name(f".{stage.folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{stage.folder}: another `eipnn run` is at work there; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _reopen(stage: Stage) -> None:
    """Let a finished stage be done again as far as its files are gone. `done.json` goes last: this may be cut off."""
    say(f"{stage.folder}: done before, but {stage.missing()[0].name} is gone: made again")
    if not stage.best.exists():
        stage.last.unlink(missing_ok=True)
        stage.fit_file.unlink(missing_ok=True)
    stage.done_file.unlink()


def _check_fit(stage: Stage) -> None:
    if not stage.fit_file.exists():
        raise StageError(
            f"{stage.folder}: the training was stopped before its last epoch and wrote no {stage.fit_file.name}; "
            "the same `eipnn run` goes on (but not with trainer.fast_dev_run: remove that)"
        )
    if not stage.best.exists():
        raise StageError(
            f"{stage.best}: the training left no such checkpoint; a ModelCheckpoint of your own needs "
            "filename: best, enable_version_counter: false and no dirpath"
        )


def record_command(run: Path, command: str) -> None:
    """Add a command to those of a run, once."""
    file = run / COMMANDS
    if not file.exists() or command not in file.read_text().splitlines():
        with file.open("a") as stream:
            stream.write(f"{command}\n")


def digest_file(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_files(files: Sequence[Path]) -> str:
    """SHA-256 of one file's content, or of several ones', in their order."""
    digests = [digest_file(file) for file in files]
    return digests[0] if len(digests) == 1 else digest_text(" ".join(digests))


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def say(text: str) -> None:
    """Print a line as it is: a path is no markup, and is not broken over lines."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _whole_checkpoint(stage: Stage) -> list[str]:
    """The argument of `fit` to go on from the last epoch, or from the best where the last was cut off in writing."""
    for file in (stage.last, stage.best):
        if file.exists():
            try:
                read_checkpoint(file)
                return ["--ckpt_path", str(file)]
            except CheckpointError as error:
                say(f"damaged, left out: {error}")
    return []


def _call(stage: Stage, arguments: list[str], threads: int | None) -> None:
    code = call(arguments, threads)
    if code != 0:
        raise StageError(
            f"{stage.folder}: `eipnn {' '.join(arguments)}` ended with status {code}; its message stands above. "
            "The same `eipnn run` goes on from the last complete epoch."
        )


def _result(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in ("fit.json", "test.json"):
        if (folder / name).exists():
            result |= json.loads((folder / name).read_text())
    result.pop("best_checkpoint", None)
    return result


def _move_outdated_aside(stage: Stage) -> None:
    begun = stage.folder / "begun.json"
    if not begun.exists() or json.loads(begun.read_text())["fingerprint"] == stage.fingerprint():
        return
    number = 1
    while (aside := stage.folder.with_name(f"{stage.folder.name}.old-{number}")).exists():
        number += 1
    stage.folder.rename(aside)
    stage.folder.mkdir()
    say(f"{stage.folder}: made with other settings or data; moved to {aside}")


def _without(content: Any, keys: set[str]) -> Any:
    """`content` without the values under `keys`, at any depth."""
    if isinstance(content, dict):
        return {k: _without(v, keys) for k, v in content.items() if k not in keys}
    if isinstance(content, list):
        return [_without(v, keys) for v in content]
    return content
