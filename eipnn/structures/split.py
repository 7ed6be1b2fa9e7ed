"""Splits of a DFT set into train, validation and test, beside the pool that has no DFT.

A split file is a CSV with the header `configs,mark`; a mark is one of `pretrain` (the pool), `train`,
`val`, `test`. This is the authors' format.
"""

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eipnn.files import write_atomically
from eipnn.structures.ids import Ids
from eipnn.structures.paths import StructureError, resolve

HEADER = ["configs", "mark"]
MARKS = {"train": "train", "val": "val", "test": "test", "pretrain": "pool"}
TEST_SHARE = 0.2  # of the DFT set
VAL_SHARE = 0.2  # of what the test set leaves


@dataclass(frozen=True)
class Split:
    """The config ids of each part; `pool` are the structures with EIP labels only."""

    train: Sequence[str]
    val: Sequence[str]
    test: Sequence[str]
    pool: Sequence[str]

    @property
    def tested(self) -> Sequence[str]:
        """What errors are measured on in the end: the test part or, where there is none, validation."""
        return self.test or self.val

    @property
    def tested_on(self) -> str:
        """The name of that part: test or validation."""
        return "test" if self.test else "validation"

    def check(self, dft_ids: Sequence[str], pool_ids: Sequence[str] | None, source: str | Path) -> None:
        """Raise `StructureError` where an id of this split, read from `source`, is in neither set.

        `train`, `val` and `test` are looked up in `dft_ids`, `pool` in `pool_ids` (None: it is not).
        """
        for mark, part in MARKS.items():
            kind, known = ("pool", pool_ids) if part == "pool" else ("DFT", dft_ids)
            if known is None:
                continue
            names = getattr(self, part)
            if len(missing := np.flatnonzero(Ids.of(known).find(names) < 0)):
                raise StructureError(
                    f"{source}: {mark} id {names[int(missing[0])]!r} is in no {kind} structure file"
                    f" ({len(missing)} such ids); give the file that holds it, or another split"
                )


def read_split(path: str | Path) -> Split:
    """Read a split file, `bundled:NAME` included.

    Raises `StructureError` for an absent file, one that is not in UTF-8, another header, an unknown mark or an id given
    twice.
    """
    marks, lines, parts = array("B"), array("L"), list(MARKS)

    def names(rows: Iterator[list[str]]) -> Iterator[str]:
        if (header := next(rows, [])) != HEADER:
            raise StructureError(f"{path}: line 1 is {','.join(header)!r}; the header must be 'configs,mark'")
        for line, row in enumerate(rows, start=2):
            if not row:
                continue
            where = f"{path}: line {line}"
            if len(row) != 2:
                raise StructureError(f"{where} has {len(row)} columns; it must be 'id,mark'")
            name, mark = row
            if mark not in MARKS:
                raise StructureError(f"{where}: unknown mark {mark!r}; use one of {', '.join(MARKS)}")
            marks.append(parts.index(mark))
            lines.append(line)
            yield name

    with resolve(path).open(newline="", encoding="utf-8-sig") as stream:  # a spreadsheet may write a mark of UTF-8
        try:
            ids = Ids.of(names(csv.reader(stream)))
        except UnicodeDecodeError:
            raise StructureError(f"{path}: is no text in UTF-8; save it as CSV in UTF-8") from None
    if len(again := np.flatnonzero((first := ids.find(ids)) != np.arange(len(ids)))):
        row = int(again[0])
        known = f"id {ids[row]!r} is on line {lines[int(first[row])]} already; keep one"
        raise StructureError(f"{path}: line {lines[row]}: {known}")
    return Split(*(ids.take(np.flatnonzero(np.asarray(marks) == part)) for part in range(len(parts))))


def random_split(dft_ids: Sequence[str], pool_ids: Sequence[str], seed: int) -> Split:
    """The paper's rule: 20 % of the DFT set is the test set, 20 % of the rest validation (both rounded down).

    The split is a function of the order of the ids and the seed. Raises `StructureError` where a part
    would be empty.
    """
    n_test = int(len(dft_ids) * TEST_SHARE)
    n_val = int((len(dft_ids) - n_test) * VAL_SHARE)
    if n_val == 0:
        raise StructureError(f"{len(dft_ids)} DFT frames are too few for a train/val/test split; give at least 6")
    order = np.random.default_rng(seed).permutation(len(dft_ids))
    parts = np.split(order, [n_test, n_test + n_val])
    test, val, train = (tuple(dft_ids[row] for row in sorted(rows)) for rows in parts)
    return Split(train, val, test, Ids.of(pool_ids))


def fewer_frames(split: Split, frames: int, seed: int) -> Split:
    """A split with `frames` DFT structures for training and validation together; the test set stays.

    Both parts shrink alike; of one seed, a smaller split is within each larger one. What is left out joins the pool, as
    structures whose DFT energy is not known.

    Raises `StructureError` where the split has fewer frames, or a part would be empty.
    """
    there = len(split.train) + len(split.val)
    n_val = round(frames * len(split.val) / there) if there else 0
    n_train = frames - n_val
    if n_train > len(split.train) or n_val > len(split.val) or min(n_train, n_val) < 1:
        raise StructureError(
            f"{frames} DFT frames of a split with {len(split.train)} for training and {len(split.val)} for validation: "
            f"give at most {there}, and enough for one of each"
        )
    rng = np.random.default_rng(seed)
    parts = [[ids[k] for k in rng.permutation(len(ids))] for ids in (split.train, split.val)]
    kept = tuple(sorted(parts[0][:n_train])), tuple(sorted(parts[1][:n_val]))
    left = sorted(parts[0][n_train:] + parts[1][n_val:])
    return Split(kept[0], kept[1], split.test, Ids.joined([split.pool, left]))


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
