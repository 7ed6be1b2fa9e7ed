"""The cache folder: what was made once and can be made again, up to a size."""

import math
import os
import shutil
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

import platformdirs

from eipnn.errors import InputError

STRUCTURES = "structures-"
"""What the names of folders of structures begin with."""


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


def prune(folder: Path) -> None:
    """Remove what was not used for longest until the rest is within the limit; the last one stays in any case."""
    found = []
    # killed runs leave parts
    for entry in (*folder.glob("*.pt"), *folder.glob("*.part"), *folder.glob(f"{STRUCTURES}*/")):
        with suppress(FileNotFoundError):
            found.append((entry.stat().st_mtime_ns, _size(entry), entry))
    found.sort(reverse=True)
    sizes = accumulate(size for _, size, _ in found)
    for (_, _, entry), total in list(zip(found, sizes, strict=True))[1:]:
        if total > cache_limit():
            remove(entry)


def remove(entry: Path) -> None:
    """Remove a file or folder of the cache, in the presence of others who read it or remove it too."""
    if entry.is_dir():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink(missing_ok=True)


def _size(entry: Path) -> int:
    return sum(file.stat().st_size for file in (entry.iterdir() if entry.is_dir() else [entry]))
