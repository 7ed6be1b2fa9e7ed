"""The cache folder: what was made once and can be made again, up to a size."""

import logging
import math
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import platformdirs
from rich.filesize import decimal

from eipnn.errors import InputError
from eipnn.files import DiskFullError
from eipnn.tensor_files import read_tensors, write_tensors

log = logging.getLogger("eipnn")

KINDS = {
    "structures": f"structures-{'[0-9a-f]' * 64}.pt",
    "structures of files that are not read to their end": "structures-*-*.pt",
    "model inputs": f"{'[0-9a-f]' * 16}-*.pt",
    "left by commands that were ended": "*.part",
}
"""Files of the cache by their names."""


def cache_folder() -> Path:
    """``$EIPNN_CACHE``, or the user's cache folder. Safe to delete at any time."""
    return Path(os.environ.get("EIPNN_CACHE") or platformdirs.user_cache_dir("eipnn"))


def cache_limit() -> float:
    """Bytes that the cache may grow to: ``$EIPNN_CACHE_GB``, 10 GB where it is not set."""
    text = os.environ.get("EIPNN_CACHE_GB") or "10"
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise InputError(f"EIPNN_CACHE_GB={text}: must be a positive number of GB")
    return limit * 1e9


def cache(*, clear: bool = False) -> None:
    """What is kept of structure files and of model inputs (SOAP), so that it is made once: number and size, by kind.

    It lies in $EIPNN_CACHE or the user's cache folder and grows to $EIPNN_CACHE_GB (10); what was not used for longest
    goes first.

    Args:
        clear: remove it. Commands that are at work go on.
    """
    folder, limit = cache_folder(), cache_limit()
    kinds = {kind: sizes_of(folder.glob(name)) for kind, name in KINDS.items()}
    found = dict(file for files in kinds.values() for file in files)
    print(f"{folder}: {len(found)} files, {decimal(sum(found.values()))} of {decimal(int(limit))}")
    for kind, files in kinds.items():
        if files:
            print(f"  {kind}: {len(files)} files, {decimal(sum(size for _, size in files))}")
    if clear:
        for file in found:
            file.unlink(missing_ok=True)
        print("cleared")


def sizes_of(files: Iterable[Path]) -> list[tuple[Path, int]]:
    """Files and their bytes, without those that are gone meanwhile."""
    found = []
    for file in files:
        with suppress(FileNotFoundError):
            found.append((file, file.stat().st_size))
    return found


def kept(file: Path, names: Collection[str]) -> dict[str, Any] | None:
    """The entries of a file of the cache, its tensors mapped; None where there is none or it is damaged, which is said.

    Args:
        file: in the cache folder.
        names: of the entries that it must have.
    """
    if not file.exists():
        return None
    try:
        content: dict[str, Any] = read_tensors(file, mapped=True)
        if content.keys() != set(names):
            raise ValueError("another layout")
        with suppress(OSError):  # another user's
            os.utime(file)  # the time of its last use, for `_prune`
        return content
    except (ValueError, AttributeError, OSError) as error:
        log.warning("%s: damaged file of the cache (%s): what it held is made again", file, error)
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None


def keep(file: Path, content: dict[str, Any], what: str) -> bool:
    """Write plain values and tensors into the cache; where that cannot be, say so and return False."""
    try:
        write_tensors(file, content)
        _prune(file.parent)
    except (DiskFullError, OSError) as error:
        log.warning("%s are not kept: %s", what, error)
        return False
    return True


def _prune(folder: Path) -> None:
    """Remove what was not used for longest until the rest is within the limit; the last one stays in any case."""
    found = []
    for file in (*folder.glob("*.pt"), *folder.glob("*.part")):  # killed runs leave parts
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file.stat().st_size, file))
    found.sort(reverse=True)
    sizes = accumulate(size for _, size, _ in found)
    for (_, _, file), total in list(zip(found, sizes, strict=True))[1:]:
        if total > cache_limit():
            file.unlink(missing_ok=True)
