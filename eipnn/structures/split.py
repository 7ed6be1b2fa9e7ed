"""Splits of a DFT set into train, validation and test, beside the pool that has no DFT.

A split file is a CSV with the header `configs,mark`; a mark is one of `pretrain` (the pool), `train`,
`val`, `test`. This is the authors' format.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.structures.paths import StructureError, resolve

HEADER = ["configs", "mark"]
MARKS = {"train": "train", "val": "val", "test": "test", "pretrain": "pool"}
TEST_SHARE = 0.2  # of the DFT set
VAL_SHARE = 0.2  # of what the test set leaves


class SplitError(InputError):
    """A split file that cannot be used; the message names file, line and mend."""


@dataclass(frozen=True)
class Split:
    """The config ids of each part; `pool` are the structures with EIP labels only."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    pool: tuple[str, ...]

    def check(self, dft_ids: Sequence[str], pool_ids: Sequence[str], source: str | Path) -> None:
        """Raise `SplitError` where an id of this split, read from `source`, is in neither set.

        `train`, `val` and `test` are looked up in `dft_ids`, `pool` in `pool_ids`.
        """
        dft, pool = set(dft_ids), set(pool_ids)
        for part, ids, known, kind in (
            ("train", self.train, dft, "DFT"),
            ("val", self.val, dft, "DFT"),
            ("test", self.test, dft, "DFT"),
            ("pretrain", self.pool, pool, "pool"),
        ):
            missing = [name for name in ids if name not in known]
            if missing:
                raise SplitError(
                    f"{source}: {part} id {missing[0]!r} is in no {kind} structure file"
                    f" ({len(missing)} such ids); give the file that holds it, or another split"
                )


def read_split(path: str | Path) -> Split:
    """Read a split file, `bundled:NAME` included.

    Raises `SplitError` for an absent file, another header, an unknown mark or an id given twice.
    """
    try:
        found = resolve(path)
    except StructureError as error:
        raise SplitError(str(error)) from None
    parts: dict[str, list[str]] = {part: [] for part in MARKS.values()}
    seen: dict[str, int] = {}
    with found.open(newline="", encoding="utf-8") as stream:
        rows = csv.reader(stream)
        header = next(rows, [])
        if header != HEADER:
            raise SplitError(f"{path}: line 1 is {','.join(header)!r}; the header must be 'configs,mark'")
        for line, row in enumerate(rows, start=2):
            if not row:
                continue
            name, mark = _entry(row, path, line)
            if name in seen:
                raise SplitError(f"{path}: line {line}: id {name!r} is on line {seen[name]} already; keep one")
            seen[name] = line
            parts[MARKS[mark]].append(name)
    return Split(**{part: tuple(ids) for part, ids in parts.items()})


def _entry(row: list[str], path: str | Path, line: int) -> tuple[str, str]:
    if len(row) != 2:
        raise SplitError(f"{path}: line {line} has {len(row)} columns; it must be 'id,mark'")
    name, mark = row
    if mark not in MARKS:
        raise SplitError(f"{path}: line {line}: unknown mark {mark!r}; use one of {', '.join(MARKS)}")
    return name, mark


def random_split(dft_ids: Sequence[str], pool_ids: Sequence[str], seed: int) -> Split:
    """The paper's rule: 20 % of the DFT set is the test set, 20 % of the rest validation (both rounded down).

    The split is a function of the order of the ids and the seed. Raises `SplitError` where a part
    would be empty.
    """
    n_test = int(len(dft_ids) * TEST_SHARE)
    n_val = int((len(dft_ids) - n_test) * VAL_SHARE)
    if n_val == 0:
        raise SplitError(f"{len(dft_ids)} DFT frames are too few for a train/val/test split; give at least 6")
    order = np.random.default_rng(seed).permutation(len(dft_ids))
    test, val, train = np.split(order, [n_test, n_test + n_val])

    def names(rows: np.ndarray) -> tuple[str, ...]:
        return tuple(dft_ids[row] for row in sorted(rows))

    return Split(names(train), names(val), names(test), tuple(pool_ids))


def fewer_frames(split: Split, frames: int, seed: int) -> Split:
    """A split with `frames` DFT structures for training and validation together; the test set stays.

    Both parts shrink alike; of one seed, a smaller split is within each larger one. What is left out joins the pool, as
    structures whose DFT energy is not known.

    Raises `SplitError` where the split has fewer frames, or a part would be empty.
    """
    there = len(split.train) + len(split.val)
    n_val = round(frames * len(split.val) / there) if there else 0
    n_train = frames - n_val
    if n_train > len(split.train) or n_val > len(split.val) or min(n_train, n_val) < 1:
        raise SplitError(
            f"{frames} DFT frames of a split with {len(split.train)} for training and {len(split.val)} for validation: "
            f"give at most {there}, and enough for one of each"
        )
    rng = np.random.default_rng(seed)
    parts = [[ids[k] for k in rng.permutation(len(ids))] for ids in (split.train, split.val)]
    kept = tuple(sorted(parts[0][:n_train])), tuple(sorted(parts[1][:n_val]))
    left = sorted(parts[0][n_train:] + parts[1][n_val:])
    return Split(kept[0], kept[1], split.test, (*split.pool, *left))


def write_split(split: Split, path: str | Path) -> None:
    """Write `split` in the authors' format; the file appears whole or not at all."""
    write_atomically(Path(path), split_text(split))


def split_text(split: Split) -> str:
    """The content of its file."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    for mark, field in MARKS.items():
        writer.writerows((name, mark) for name in getattr(split, field))
    return text.getvalue()
