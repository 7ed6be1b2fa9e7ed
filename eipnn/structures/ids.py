"""Ids of very many configurations, in a few bytes each."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import SupportsIndex, overload

import numpy as np

from eipnn.errors import InputError

BREAK = ord("\n")
BLOCK = 10_000
"""Ids that are Python's own at a time."""


class Ids(Sequence[str]):
    """Ids, in order: each takes its letters and 5 bytes, where a list of them takes its letters and 58.

    Equal to any sequence of the same ids.

    Args:
        text: UTF-8 (m,), a line break behind each id.
    """

    def __init__(self, text: np.ndarray) -> None:
        self.text = text
        self._offsets = _short(np.concatenate([[0], np.flatnonzero(text == BREAK) + 1]), len(text))

    @classmethod
    def of(cls, names: Iterable[str]) -> "Ids":
        """Of these; ids as they are. Raises `InputError` where one holds a line break."""
        if isinstance(names, cls):
            return names
        text, given, count = bytearray(), iter(names), 0
        while block := list(islice(given, BLOCK)):
            text += "".join(f"{name}\n" for name in block).encode()
            count += len(block)
        found = cls(np.frombuffer(text, np.uint8))
        if len(found) != count:
            raise InputError(f"a config_id holds no line break, and one of {count} does; correct it")
        return found

    @classmethod
    def joined(cls, parts: Iterable[Sequence[str]]) -> "Ids":
        """Several as one, in their order."""
        return cls(np.concatenate([np.empty(0, np.uint8), *(cls.of(part).text for part in parts)]))

    def __reduce__(self) -> tuple:
        return Ids, (self.text,)  # without the hashes, which another process makes otherwise

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, row: SupportsIndex) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> "Ids": ...
    def __getitem__(self, row: SupportsIndex | slice) -> "str | Ids":
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        place = range(len(self))[row]
        return self.text[self._offsets[place] : self._offsets[place + 1] - 1].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BLOCK):
            stop = min(start + BLOCK, len(self))
            yield from self.text[self._offsets[start] : self._offsets[stop]].tobytes().decode().split("\n")[:-1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.find([name])[0] >= 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of a list

    def __repr__(self) -> str:
        return f"Ids({[*self[:3], *['...'] * (len(self) > 3)]}, {len(self)})"

    def take(self, rows: np.ndarray) -> "Ids":
        """Those in these rows, in this order."""
        if (run := as_slice(rows)) is not None:
            return Ids(self.text[self._offsets[run.start] : self._offsets[run.stop]])
        parts = np.split(rows, range(BLOCK, len(rows), BLOCK))
        return Ids(np.concatenate([self.text[places_of(self._offsets, part)] for part in parts]))

    def find(self, names: Sequence[str]) -> np.ndarray:
        """The row of each of these ids (len(names),), of several rows with it the first; -1 where there is none."""
        wanted = Ids.of(names)
        known, order = self._by_hash
        if not len(known):
            return np.full(len(wanted), -1)
        hashes = wanted._hashes()
        places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        rows = np.where(known[places] == hashes, order[places], -1).astype(np.int64)
        found = np.flatnonzero(rows >= 0)
        if np.array_equal(self.take(rows[found]).text, wanted.take(found).text):
            return rows
        exact: dict[str, int] = {}  # two ids have one hash
        for row, name in enumerate(self):
            exact.setdefault(name, row)
        return np.array([exact.get(name, -1) for name in wanted], dtype=np.int64)

    def repeated(self) -> str | None:
        """The first id that stands before already; None where each stands once."""
        rows = self.twice()
        return self[rows[0]] if rows else None

    def twice(self) -> tuple[int, int] | None:
        """The first row whose id stands before already, and the row where it does; None where each stands once."""
        first = self.find(self)
        again = np.flatnonzero(first != np.arange(len(self)))
        return (int(again[0]), int(first[again[0]])) if len(again) else None

    @cached_property
    def _by_hash(self) -> tuple[np.ndarray, np.ndarray]:
        """Hashes, ascending, and their rows, of equal ones the first row first."""
        hashes = self._hashes()
        order = np.argsort(hashes, kind="stable")
        return hashes[order], _short(order, len(order))

    def _hashes(self) -> np.ndarray:
        return np.fromiter(map(hash, self), np.int64, len(self))


def _short(numbers: np.ndarray, largest: int) -> np.ndarray:
    """Integers up to this one, in half the memory where they are below 2^31."""
    return numbers.astype(np.int32 if largest < 2**31 else np.int64)


def places_of(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places in flat arrays that belong to these rows, row after row: of row i `offsets[i]:offsets[i + 1]`."""
    sizes = offsets[rows + 1] - offsets[rows]
    starts = offsets[rows] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
    return np.repeat(starts, sizes) + np.arange(sizes.sum())


def as_slice(rows: np.ndarray) -> slice | None:
    """The slice of rows that stand one after another, at least one; None of others."""
    if not len(rows) or rows[-1] - rows[0] != len(rows) - 1 or (np.diff(rows) != 1).any():
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1)
