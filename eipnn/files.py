"""Small files, written whole or not at all; disks that are full; work that one process does at a time."""

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.filesize import decimal

from eipnn.errors import InputError

log = logging.getLogger("eipnn")

FULL = {
    errno.ENOSPC: "the disk is full, or your share of it",
    errno.EDQUOT: "the disk is full, or your share of it",
    errno.EFBIG: "a file may not be so large there, or by your limits (ulimit -f)",
}


class DiskFullError(InputError):
    """There is no room for what has to be written; the message names folder and space."""


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """Give the body a path beside `file` to write to, and move that into place: a reader never meets half of it.

    Raises:
        DiskFullError: there is no room for it; what stood in `file` still does.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}-{threading.get_ident()}.part")
    with told_when_full(file.parent):
        try:
            yield part
            with part.open("rb") as stream:
                os.fsync(stream.fileno())  # else a power cut may leave the new name with nothing in it
            part.replace(file)
        finally:
            part.unlink(missing_ok=True)


def check_not_read(output: Path, read: Iterable[Path]) -> None:
    """Raise `InputError` where a file that a command is to write is one that it reads."""
    if output.resolve() in {file.resolve() for file in read}:
        raise InputError(f"--output: {output} is one of the files that are read; name another")


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write all of `content`, or nothing; see `replacing`."""
    with replacing(file) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def json_text(content: Any) -> str:
    """Indented JSON with sorted keys."""
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def write_json(file: Path, content: Any) -> None:
    """`write_atomically` of `json_text`."""
    write_atomically(file, json_text(content))


def read_yaml(file: str | Path) -> Any:
    """The content of a YAML file.

    Raises:
        InputError: it is absent, no text or not YAML.
    """
    try:
        return yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except UnicodeDecodeError:
        raise InputError(f"{file}: not YAML: it holds bytes that are no text (UTF-8)") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise InputError(f"{file}: not YAML{f' in line {mark.line + 1}' if mark else ''}: {problem}") from None


def digest_file(file: Path, algorithm: str = "sha256") -> str:
    """Checksum of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left of `replacing`. Only where no other process writes."""
    for part in folder.glob(".*.part"):
        part.unlink()


@contextmanager
def told_when_full(folder: Path) -> Iterator[None]:
    """Raise `DiskFullError` in place of the system's error where what the body writes into `folder` has no room."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        free = decimal(shutil.disk_usage(folder).free)
        raise DiskFullError(
            f"{folder}: {FULL[error.errno]} ({free} free); make room and give the same command again"
        ) from error


def check_room(folder: Path, needed: int) -> None:
    """Raise `DiskFullError` where the disk of `folder` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DiskFullError(
            f"{folder}: needs {decimal(needed)}, and the disk has {decimal(free)} left: {decimal(needed - free)} "
            "are missing; make room or name a folder on another disk"
        )


@contextmanager
def alone(lock: Path, place: Path, command: str) -> Iterator[None]:
    """Hold the lock of a place; where another process of `command` does, say so and wait for its end."""
    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        log.warning("%s: another `%s` is at work there; waiting for it", place, command)
        held.acquire()
    try:
        yield
    finally:
        held.release()
