"""Structure files -> stores, extended XYZ by several processes, and what a killed call had read is not read again."""

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

from ase import Atoms
from ase.io.formats import open_with_compression

from eipnn.cache import keep, kept
from eipnn.errors import InputError
from eipnn.processes import parallel
from eipnn.progress import progress_bar
from eipnn.structures.extxyz import Piece, pieces
from eipnn.structures.ids import Ids
from eipnn.structures.paths import StructureError
from eipnn.structures.read import (
    Options,
    check,
    check_file,
    check_keys,
    has_energy,
    is_extxyz,
    numbered,
    same_id,
    unreadable,
)
from eipnn.structures.store import CONTENT, StructureStore

PIECE = 2000
"""Frames that a process reads in one go, and that are kept for a call after one that was killed."""
LARGE = 8_000_000
"""Bytes of a file from which on several processes read it: seconds of one, and more than it takes to start them."""


class Block(NamedTuple):
    """Frames of one file, up to the first that cannot be used."""

    store: StructureStore
    carried: set[str]
    """Keys of them."""
    energies: set[bool]
    """What `has_energy` says of them."""
    problem: str = ""
    """Of the frame behind them."""
    of: str = ""
    """The id of that frame, where it has one."""


def read_store(prefixes: Mapping[Path, str], options: Options, parts: Path | None = None) -> StructureStore:
    """The frames that `iterate` gives, as a store.

    Args:
        prefixes: files, each with what its ids begin with.
        options: see `Options`.
        parts: what the names of the files begin with in which large files are kept as far as they are read; None: they
            are not.

    Raises:
        StructureError: as `iterate` does.
        InputError: a process that reads was ended from outside.
    """
    stores, counts, carried = [StructureStore.of([])], dict.fromkeys(prefixes, 0), set[str]()
    failed, last = None, ""
    try:
        for number, (path, prefix) in enumerate(prefixes.items()):
            energies: set[bool] = set()
            with closing(_blocks(path, prefix, options, parts and parts.with_name(f"{parts.name}-{number}"))) as blocks:
                for block in blocks:
                    stores.append(block.store)
                    counts[path] += len(block.store)
                    carried |= block.carried
                    energies |= block.energies
                    if block.problem:
                        last = block.of if "\n" not in block.of else ""  # which the problem tells of
                        counts[path] += bool(last)
                        raise StructureError(block.problem)
            check_file(path, counts[path], energies, options)
        check_keys(prefixes, carried, options)
    except StructureError as error:
        failed = error
    store = StructureStore.joined(stores)
    store.files = list(counts.items())
    _check_ids(store, last)
    if failed:
        raise failed
    return store


def _check_ids(store: StructureStore, last: str) -> None:
    """Raise where an id stands twice, that of the frame behind these (where it has one) among them."""
    ids = Ids.joined([store.ids, [last] if last else []])
    if rows := ids.twice():
        row, before = rows
        raise same_id(*store.where(row), ids[row], *store.where(before))


def _blocks(path: Path, prefix: str, options: Options, parts: Path | None) -> Generator[Block, None, None]:
    """A file block by block."""
    if not is_extxyz(path) or path.stat().st_size < LARGE:
        yield _block(path, prefix, options)
        return
    from joblib import cpu_count, delayed  # here: small files do without
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    failed: list[Exception] = []
    sizes: list[int] = []
    frames, room, total = 0, parts is not None, path.stat().st_size // 1000
    shown = path.suffix not in (".gz", ".bz2", ".xz")  # else what is left is not known
    with open_with_compression(str(path)) as stream, progress_bar(f"read {path.name}", total, "kB", shown) as advance:
        given = _until_failure(pieces(cast(TextIO, stream), PIECE), failed)
        if parts:
            for piece in given:
                if not (content := kept(_part(parts, frames), (*CONTENT, "carried", "energetic"))):
                    given = chain([piece], given)
                    break
                block = Block(StructureStore.from_tensors(content), {*content["carried"]}, {*content["energetic"]})
                frames += len(block.store)
                advance(len(piece.text) // 1000)
                yield block

        def jobs() -> Iterator[Any]:
            for piece in given:
                sizes.append(len(piece.text))
                yield delayed(_block)(path, prefix, options, piece)

        try:
            for place, block in enumerate(parallel(cpu_count(), jobs())):
                if room and parts and not block.problem:
                    found = {"carried": sorted(block.carried), "energetic": sorted(block.energies)}
                    room = keep(_part(parts, frames), block.store.to_tensors() | found, "structures")
                frames += len(block.store)
                advance(sizes[place] // 1000)
                yield block
        except TerminatedWorkerError as error:
            raise InputError(
                f"{path}: a process that reads it was ended from outside, perhaps for want of memory ({error}); the "
                "same command goes on from where it was"
            ) from None
    for reason in failed:
        yield Block(StructureStore.of([]), set(), set(), str(unreadable(path, frames, reason)))


def _part(parts: Path, frame: int) -> Path:
    return parts.with_name(f"{parts.name}-{frame:09d}.pt")


def _until_failure(given: Iterator[Piece], failed: list[Exception]) -> Iterator[Piece]:
    """The same, but for what it raises: that is put into `failed`."""
    try:
        yield from given
    except Exception as error:  # decoding, decompression, the disk
        failed.append(error)


def _block(path: Path, prefix: str, options: Options, piece: Piece | None = None) -> Block:
    """A file, or a piece of it, up to the first frame that cannot be used."""
    carried: set[str] = set()
    energies: set[bool] = set()
    problem, of = "", ""

    def usable() -> Iterator[Atoms]:
        nonlocal problem, of
        try:
            for index, atoms in numbered(path, prefix, piece):
                of = atoms.info["config_id"]
                carried.update(check(atoms, options, path, index))
                energies.update(has_energy(atoms))
                of = ""
                yield atoms
        except StructureError as error:
            problem = str(error)

    store = StructureStore.of(usable())
    return Block(store, carried, energies, problem, of)
