"""A pool file: made piece by piece, resumed after a kill, extended later, written whole or not at all."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ase.io import write
from ase.io.extxyz import key_val_str_to_dict
from joblib import delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from eipnn.errors import InputError
from eipnn.files import alone, replacing, told_when_full
from eipnn.generate.kinds import PICKS, make
from eipnn.generate.recipe import KINDS, Recipe
from eipnn.processes import parallel
from eipnn.progress import progress_bar

BLOCK = 20  # structures made in one go
FILE, JOURNAL = 1, 2
Places = Mapping[str, np.ndarray]
"""By kind, of each structure: where its text stands (`FILE`, `JOURNAL`; 0: it is to be made), its first byte and how
many there are (n, 3)."""


def make_pool(recipe: Recipe, counts: Mapping[str, int], file: Path, workers: int = 1, shown: bool = False) -> int:
    """Write the first `counts[kind]` structures of each kind to `file` (extended XYZ).

    Structures that are in `file` already, or in what a killed run left beside it, are not made again. So a file grows
    when more are asked for, and the result is the same, byte for byte, as if it had been made at once by one version.

    Returns:
        how many structures were made now.

    Raises:
        InputError: `file` holds other structures than these, one cannot be made, or there is no room for them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    digests = {kind: recipe.digest(kind) for kind in KINDS if counts.get(kind)}
    places = {kind: np.zeros((counts[kind], 3), dtype=np.int64) for kind in digests}
    lock, journal = (file.with_name(f".{file.name}.{end}") for end in ("lock", "part"))
    with alone(lock, file, "eipnn generate"):
        try:
            if file.exists():
                _find_existing(file, digests, places)
            if journal.exists():
                _find_resumed(journal, digests, places)
            groups = [(kind, group) for kind in digests for group in _missing(kind, places[kind])]
            jobs = (delayed(_texts)(recipe, kind, digests[kind], group) for kind, group in groups)
            new = sum(len(group) for _, group in groups)
            if new:
                _make_all(jobs, new, places, journal, workers, shown)
            _write(file, [file, journal], places)
            journal.unlink(missing_ok=True)  # where structures are kept as they are made, until all are there
            return new
        finally:
            lock.unlink(missing_ok=True)


def _frames(stream: BinaryIO) -> Iterator[tuple[str, str, int, int]]:
    """`config_id`, recipe, first byte and bytes of each whole frame; ends before one that was cut off.

    Raises ValueError or KeyError where the file is no such file.
    """
    start = 0
    while head := stream.readline():
        lines = [head, *islice(stream, int(head) + 1)]
        if len(lines) < int(head) + 2 or not lines[-1].endswith(b"\n"):
            return
        info, size = key_val_str_to_dict(lines[1].decode().strip()), sum(map(len, lines))
        yield info["config_id"], info["recipe"], start, size
        start += size


def _find_existing(file: Path, digests: Mapping[str, str], places: Places) -> None:
    """Note where the frames of the file stand, all of which must be wanted."""
    end, problem = 0, ""
    try:
        with file.open("rb") as stream:
            for name, digest, start, size in _frames(stream):
                end = start + size
                if (place := _place(name, places)) is None:
                    problem = problem or (
                        f"holds {name} already, which is not asked for now; ask for at least as many of each kind as "
                        "there are, remove the file, or name another"
                    )
                    continue
                kind, number = place
                if digest != digests[kind]:
                    problem = problem or (
                        f"its {kind} structures were made with other parents or settings; give those again to extend "
                        "it, remove it, or name another file"
                    )
                places[kind][number] = FILE, start, size
        ours = end == file.stat().st_size
    except (ValueError, KeyError):
        ours = False
    if not ours:
        raise InputError(f"{file}: is there already, and `eipnn generate` did not make it; name another file")
    if problem:
        raise InputError(f"{file}: {problem}")


def _find_resumed(journal: Path, digests: Mapping[str, str], places: Places) -> None:
    """Note where that stands which a killed run of the same recipe made; cut off what was written in part."""
    end = 0
    with journal.open("rb") as stream:
        for name, digest, start, size in _frames(stream):
            end = start + size
            place = _place(name, places)
            if place and digest == digests[place[0]]:
                places[place[0]][place[1]] = JOURNAL, start, size
    os.truncate(journal, end)


def _place(name: str, places: Places) -> tuple[str, int] | None:
    """Kind and number of a structure; None of one that is not wanted."""
    kind, _, number = name.rpartition("-")
    if kind not in places or not number.isdecimal() or name != f"{kind}-{int(number):06d}":
        return None
    return (kind, int(number)) if int(number) < len(places[kind]) else None


def _missing(kind: str, places: np.ndarray) -> Iterator[list[int]]:
    """The numbers still to be made, in the groups that are made in one go."""
    size = PICKS if kind == "md" else BLOCK
    for start in range(0, len(places), size):
        if group := (start + np.flatnonzero(places[start : start + size, 0] == 0)).tolist():
            yield group


def _make_all(jobs: Iterable[Any], total: int, places: Places, journal: Path, workers: int, shown: bool) -> None:
    """Write what the jobs make to the journal, and note where."""
    try:
        with (
            told_when_full(journal.parent),
            progress_bar("structures", total, "structures", shown) as advance,
            journal.open("ab") as stream,
        ):
            end = stream.tell()
            for made in parallel(workers, jobs):
                for name, text in made.items():
                    kind, number = name.rsplit("-", 1)
                    size = stream.write(text.encode())
                    places[kind][int(number)] = JOURNAL, end, size
                    end += size
                stream.flush()
                advance(len(made))
    except TerminatedWorkerError as error:
        raise InputError(
            f"{journal}: a worker process was ended from outside or by the potential ({error}); what was made is "
            "kept there, and the same command goes on from it. Name another --eip where it happens again"
        ) from None


def _write(file: Path, sources: Sequence[Path], places: Places) -> None:
    """Write all structures in their order; `sources` are `FILE` and `JOURNAL`."""
    with replacing(file) as part, part.open("wb") as stream, ExitStack() as opened:
        streams = [opened.enter_context(path.open("rb")) if path.exists() else None for path in sources]
        for source, start, size in chain.from_iterable(places.values()):
            given = streams[source - 1]
            assert given is not None
            given.seek(start)
            stream.write(given.read(size))


def _texts(recipe: Recipe, kind: str, digest: str, numbers: list[int]) -> dict[str, str]:
    """Structures as they stand in the file, with the recipe's digest, by `config_id`."""
    texts = {}
    for atoms in make(recipe, kind, numbers):
        atoms.info["recipe"] = digest
        stream = io.StringIO()
        write(stream, atoms, format="extxyz")
        texts[atoms.info["config_id"]] = stream.getvalue()
    return texts
