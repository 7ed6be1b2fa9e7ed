"""Structure files, read once: later calls and other processes map the arrays that the first one left in the cache.

They are known by the content of the files, how they are read and the code that reads them.
"""

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import Unpack

import ase
import numpy as np
from filelock import FileLock

from eipnn.cache import cache_folder, cache_limit, keep, kept
from eipnn.files import digest_file
from eipnn.structures.blocks import read_store
from eipnn.structures.paths import Paths, StructureError, check_different, id_prefixes, resolve_all
from eipnn.structures.read import Options
from eipnn.structures.store import CONTENT, StructureStore

log = logging.getLogger("eipnn")


def open_structures(files: Paths, beside: Paths | None = None, **options: Unpack[Options]) -> StructureStore:
    """The frames that `read_structures` reads, as a store.

    Args:
        files: see `read_structures`, as for the options.
        beside: more files: ids are those that `read_structures` gives when it reads all at once.
        options: see `Options`.

    Raises `StructureError` as `read_structures` does, and where a file is named twice.
    """
    paths = resolve_all(files)
    everything = [*paths, *(resolve_all(beside) if beside else [])]
    check_different(everything)
    prefixes = id_prefixes(everything)
    return _open({path: prefixes[path] for path in paths}, options)


def open_pool(pool: Paths | None, dft: Paths, known: StructureStore) -> StructureStore:
    """The frames of the pool's files without labels, where `known` are those of the DFT files.

    Raises `StructureError` as `open_structures` does, and where an id is in both.
    """
    if not pool:
        return StructureStore.of([])
    store = open_structures(pool, labels=False, beside=dft)
    if len(both := np.flatnonzero((rows := known.ids.find(store.ids)) >= 0)):
        row = int(both[0])
        name, (file, frame), (other, first) = store.ids[row], store.where(row), known.where(int(rows[row]))
        raise StructureError(
            f"{file}: frame {frame} ({name}): frame {first} of {other} has the same config_id; give every frame its own"
        )
    return store


def open_dft_and_pool(
    dft: Paths, pool: Paths | None, **options: Unpack[Options]
) -> tuple[StructureStore, StructureStore]:
    """The frames of the DFT files, with labels, and those of the pool files, without; no id is in both."""
    known = open_structures(dft, beside=pool or None, **options)
    return known, open_pool(pool, dft, known)


def _open(prefixes: dict[Path, str], options: Options) -> StructureStore:
    if not all(path.is_file() for path in prefixes):  # some formats are folders
        return read_store(prefixes, options)
    cache_limit()  # a wrong one is said before the work
    before = _states(prefixes)
    file = cache_folder() / f"structures-{_digest(prefixes, options)}.pt"
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # of several processes one reads
    except OSError as error:
        log.warning("structures are not kept: %s", error)
        return read_store(prefixes, options)
    try:
        if store := _mapped(file, prefixes):
            return store
        try:
            store = read_store(prefixes, options, file.with_suffix(""))
        except StructureError:  # the files must change, and nothing can go on from the parts
            _remove_parts(file)
            raise
        # else the name may be that of another content
        written = _states(prefixes) == before and keep(file, store.to_tensors(), "structures")
        _remove_parts(file)
        return (written and _mapped(file, prefixes)) or store
    finally:
        lock.release()


def _mapped(file: Path, prefixes: dict[Path, str]) -> StructureStore | None:
    """What the cache holds of these files, None where it does not."""
    content = kept(file, CONTENT)
    return StructureStore.from_tensors(content, list(prefixes)) if content else None


def _states(prefixes: dict[Path, str]) -> list[tuple[int, int, int]]:
    """What differs after a file was written anew."""
    return [(state.st_ino, state.st_mtime_ns, state.st_size) for state in (path.stat() for path in prefixes)]


def _remove_parts(file: Path) -> None:
    for part in file.parent.glob(f"{file.stem}-*.pt"):
        part.unlink(missing_ok=True)


def _digest(prefixes: dict[Path, str], options: Options) -> str:
    digest = hashlib.sha256(f"{_reader()} {sorted(options.items())}".encode())
    for path, prefix in prefixes.items():
        # a file's name may say its format
        digest.update(f"\n{path.name} {prefix} {digest_file(path)}".encode())
    return digest.hexdigest()


@cache
def _reader() -> str:
    """What reads them: ASE's version and the code of this package."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return f"{ase.__version__} {digest.hexdigest()}"
