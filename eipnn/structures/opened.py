"""Structure files, read once: later calls and other processes map the arrays that the first one left in the cache.

They are known by the content of the files, how they are read and the code that reads them.
"""

import hashlib
import logging
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Unpack

import ase
import numpy as np
from ase import Atoms
from filelock import FileLock

from eipnn.cache import cache_folder, cache_limit, keep, kept
from eipnn.files import digest_file
from eipnn.structures.paths import Paths, StructureError, check_different, id_prefixes, resolve_all
from eipnn.structures.read import Options, iterate
from eipnn.structures.store import ARRAYS, StructureStore

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


def open_with_types(files: Paths, **options: Unpack[Options]) -> tuple[StructureStore, np.ndarray]:
    """As `open_structures`, with the ``config_type`` of each frame, "" without one; stores keep none: read anew."""
    store, types = _read(id_prefixes(resolve_all(files)), options)
    return store, np.array(types)


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
        return _read(prefixes, options)[0]
    cache_limit()  # a wrong one is said before the work
    file = cache_folder() / f"structures-{_digest(prefixes, options)}.pt"
    lock = FileLock(file.with_suffix(".lock"))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()  # of several processes one reads
    except OSError as error:
        log.warning("structures are not kept: %s", error)
        return _read(prefixes, options)[0]
    try:
        if content := kept(file, ("ids", "frames", *ARRAYS)):
            return StructureStore.from_tensors(content, list(prefixes))
        store, _ = _read(prefixes, options)
        keep(file, store.to_tensors(), "structures")
        return store
    finally:
        lock.release()


def _read(prefixes: dict[Path, str], options: Options) -> tuple[StructureStore, list[str]]:
    """The frames, and the ``config_type`` of each."""
    counts = dict.fromkeys(prefixes, 0)
    types: list[str] = []

    def frames() -> Iterator[Atoms]:
        for path, atoms in iterate(prefixes, options):
            counts[path] += 1
            types.append(sys.intern(str(atoms.info.get("config_type", ""))))  # many frames have the same
            yield atoms

    store = StructureStore.of(frames())
    store.files = list(counts.items())
    return store, types


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
