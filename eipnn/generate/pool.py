"""A pool file: made piece by piece, resumed after a kill, extended later, written whole or not at all."""

import io
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from ase.io import write
from ase.io.extxyz import key_val_str_to_dict
from joblib import delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from eipnn.errors import InputError
from eipnn.files import alone, replacing, told_when_full, write_atomically
from eipnn.generate.kinds import PICKS, make
from eipnn.generate.recipe import KINDS, Recipe
from eipnn.processes import parallel
from eipnn.progress import progress_bar

BLOCK = 20  # structures made in one go


def make_pool(recipe: Recipe, counts: Mapping[str, int], file: Path, workers: int = 1, shown: bool = False) -> int:
    """Write the first `counts[kind]` structures of each kind to `file` (extended XYZ).

    Structures that are in `file` already, or in what a killed run left beside it, are not made again. So a file grows
    when more are asked for, and the result is the same, byte for byte, as if it had been made at once.

    Returns:
        how many structures were made now.

    Raises:
        InputError: `file` holds other structures than these, one cannot be made, or there is no room for them.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    digests = {kind: recipe.digest(kind) for kind in KINDS if counts.get(kind)}
    wanted = [f"{kind}-{k:06d}" for kind in digests for k in range(counts[kind])]
    lock, journal = (file.with_name(f".{file.name}.{end}") for end in ("lock", "part"))
    with alone(lock, file, "eipnn generate"):
        try:
            texts = _existing(file, digests, set(wanted)) | _resumed(journal, set(digests.values()))
            groups = [(kind, group) for kind in digests for group in _missing(kind, counts[kind], texts)]
            jobs = [delayed(_texts)(recipe, kind, digests[kind], group) for kind, group in groups]
            made = _make_all(jobs, sum(len(group) for _, group in groups), journal, workers, shown)
            texts |= made
            with replacing(file) as part, part.open("w", encoding="utf-8") as stream:
                stream.writelines(texts[name] for name in wanted)
            journal.unlink(missing_ok=True)  # where structures are kept as they are made, until all are there
            return len(made)
        finally:
            lock.unlink(missing_ok=True)


def _split_frames(text: str) -> Iterator[tuple[str, str, str]]:
    """`config_id`, recipe and text of each whole frame; ends before one that was cut off.

    Raises ValueError or KeyError where the text is no such file.
    """
    lines = text.splitlines(keepends=True)
    start = 0
    while start + 1 < len(lines):
        stop = start + 2 + int(lines[start])
        if stop > len(lines) or not lines[stop - 1].endswith("\n"):
            return
        info = key_val_str_to_dict(lines[start + 1].strip())
        yield info["config_id"], info["recipe"], "".join(lines[start:stop])
        start = stop


def _existing(file: Path, digests: Mapping[str, str], wanted: Container[str]) -> dict[str, str]:
    """The frames of the file, all of which must be wanted."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    try:
        frames = list(_split_frames(text))
        ours = "".join(part for *_, part in frames) == text
    except (ValueError, KeyError):
        ours = False
    if not ours:
        raise InputError(f"{file}: is there already, and `eipnn generate` did not make it; name another file")
    for name, digest, _ in frames:
        kind = name.rpartition("-")[0]
        if name not in wanted:
            raise InputError(
                f"{file}: holds {name} already, which is not asked for now; ask for at least as many of each kind as "
                "there are, remove the file, or name another"
            )
        if digest != digests[kind]:
            raise InputError(
                f"{file}: its {kind} structures were made with other parents or settings; give those again to extend "
                "it, remove it, or name another file"
            )
    return {name: text for name, _, text in frames}


def _resumed(journal: Path, digests: Container[str]) -> dict[str, str]:
    """What a killed run of the same recipe made; the journal is left with that alone."""
    if not journal.exists():
        return {}
    frames = _split_frames(journal.read_text(encoding="utf-8"))
    texts = {name: text for name, digest, text in frames if digest in digests}
    write_atomically(journal, "".join(texts.values()))
    return texts


def _missing(kind: str, count: int, texts: Mapping[str, str]) -> Iterator[list[int]]:
    """The numbers still to be made, in the groups that are made in one go."""
    size = PICKS if kind == "md" else BLOCK
    for start in range(0, count, size):
        if group := [k for k in range(start, min(start + size, count)) if f"{kind}-{k:06d}" not in texts]:
            yield group


def _make_all(jobs: list[Any], total: int, journal: Path, workers: int, shown: bool) -> dict[str, str]:
    texts: dict[str, str] = {}
    if not jobs:
        return texts
    try:
        with (
            told_when_full(journal.parent),
            progress_bar("structures", total, "structures", shown) as advance,
            journal.open("a", encoding="utf-8") as stream,
        ):
            for made in parallel(workers, jobs):
                stream.write("".join(made.values()))
                stream.flush()
                texts |= made
                advance(len(made))
    except TerminatedWorkerError as error:
        raise InputError(
            f"{journal}: a worker process was ended from outside or by the potential ({error}); what was made is "
            "kept there, and the same command goes on from it. Name another --eip where it happens again"
        ) from None
    return texts


def _texts(recipe: Recipe, kind: str, digest: str, numbers: list[int]) -> dict[str, str]:
    """Structures as they stand in the file, with the recipe's digest, by `config_id`."""
    texts = {}
    for atoms in make(recipe, kind, numbers):
        atoms.info["recipe"] = digest
        stream = io.StringIO()
        write(stream, atoms, format="extxyz")
        texts[atoms.info["config_id"]] = stream.getvalue()
    return texts
