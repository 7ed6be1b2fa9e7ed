"""Extended XYZ (https://github.com/libAtoms/extxyz), as many codes write it.

ASE's reader stops without a word at an empty line, takes a cell whose key it does not spell like this (`lattice`, as
GPUMD and NEP write it) for a cluster in vacuum, boundaries that it does not spell like this (`PBC`, as KLIFF does) for
periodic ones, and the id 007 for 7. Here keys are read in any case, ids as written, every frame is found, and what
remains unclear is an error. `VEC` lines, as ADF writes them, are cell vectors after the atoms.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, write_xyz

from eipnn.files import replacing
from eipnn.structures.check import PBC_LIKE
from eipnn.structures.paths import StructureError

SPELLING = {"lattice": "Lattice", "pbc": "pbc", "properties": "Properties", "stress": "stress"}
COLUMNS = {"species": "symbols", "pos": "positions", "z": "numbers"}
KINDS = {"R": float, "I": int, "S": str, "L": bool}
BOOLEAN = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}

_QUOTED = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:\\.|[^\]\\])*\]"""
_PIECE = re.compile(rf"({_QUOTED})|\\.")
_ENTRY = re.compile(rf"((?:{_QUOTED}|\\.|[^\s=])+)(?:\s*=\s*((?:{_QUOTED}|\\.|\S)+))?")
_ESCAPED = re.compile(r"\\(.)")
_LATTICE = re.compile(r"(?i)lattice\s*=")
_END = (0, "")
LONGEST = 18
"""Characters that the line of a number of atoms has less than."""


class Piece(NamedTuple):
    """Some frames of a file as text."""

    frame: int
    """The number of the first, from 0."""
    line: int
    """That of its first line, from 1."""
    text: str


def pieces(stream: TextIO, size: int) -> Iterator[Piece]:
    """An open file in pieces of so many frames; from what is none on, all is in the last one.

    What an open file raises comes after the frames before it.
    """
    text: list[str] = []
    frames, number, first = 0, 0, (0, 1)
    try:
        for line in stream:
            number += 1
            if not line.strip() or line.lstrip().startswith("VEC"):
                text.append(line)
                continue
            if frames - first[0] == size:
                yield Piece(*first, "".join(text))
                text, first = [], (frames, number)
            countable = line.strip().isdecimal() and len(line) < LONGEST
            rest = list(islice(stream, int(line) + 1 if countable else None))
            text += [line, *rest]
            frames, number = frames + 1, number + len(rest)
    except (OSError, EOFError, ValueError):  # no text, or a damaged archive
        yield Piece(*first, "".join(text))
        raise
    yield Piece(*first, "".join(text))


def read_extxyz(stream: TextIO, line: int = 1) -> Iterator[Atoms]:
    """The frames of an open file, labels in `info` and `arrays`; empty lines between them are skipped.

    Raises `StructureError` with the line at which a frame is not what its first two lines announce; the first is
    `line`.
    """
    lines = enumerate(stream, start=line)
    number, head = next(lines, _END)
    while head:
        if not head.strip():
            number, head = next(lines, _END)
            continue
        if not head.strip().isdecimal() or len(head) >= LONGEST:
            raise StructureError(
                f"line {number}: the number of atoms of a frame is due, and it is {_short(head)}; correct or remove it"
            )
        n_atoms = int(head)
        frame = [text for _, text in islice(lines, n_atoms + 1)]
        if len(frame) <= n_atoms:
            raise StructureError(
                f"line {number}: the file ends within this frame of {n_atoms} atoms; complete or remove it"
            )
        vectors = []
        after = next(lines, _END)
        while after[1].lstrip().startswith("VEC"):
            vectors.append(after[1].split()[1:])
            after = next(lines, _END)
        yield _frame(frame[0], [row.split() for row in frame[1:]], vectors, number + 1)
        number, head = after


def _frame(header: str, rows: list[list[str]], vectors: list[list[str]], number: int) -> Atoms:
    """The frame whose header is the line `number`."""
    try:
        info = parse_header(header)
    except ValueError as error:
        raise StructureError(f"line {number}: {error}") from None
    exact = "Properties" in info
    fields = info.pop("Properties", PLAIN)
    width = fields[-1][-1]
    for place, row in enumerate(rows, start=number + 1):
        if len(row) != width if exact else len(row) < width:
            raise StructureError(
                f"line {place}: an atom with {width} columns is due, and it is {_short(' '.join(row))}; "
                f"correct this line, or the header in line {number}"
            )
    table = np.array([row[:width] for row in rows]).reshape(len(rows), width)
    arrays = {}
    for name, kind, start, end in fields:
        values = table[:, start] if end - start == 1 else table[:, start:end]
        arrays[name] = np.isin(values, ["T", "True"]) if kind == "L" else values.astype(KINDS[kind])
    pbc, cell = info.pop("pbc", "Lattice" in info), info.pop("Lattice", None)
    if vectors:
        cell, pbc = np.zeros((3, 3)), np.arange(3) < len(vectors)
        cell[pbc] = vectors
    species = [symbol.capitalize() for symbol in arrays.pop("symbols", ())] or None
    atoms = Atoms(arrays.pop("numbers", species), arrays.pop("positions", None), cell=cell, pbc=pbc, info=info)
    for name, values in arrays.items():
        atoms.set_array(name, values)
    return atoms


def parse_header(line: str) -> dict[str, Any]:
    """The entries of a frame's second line, `key=value key="several values" flag ...`.

    Values are converted as ASE does, but for `config_id`, which stays the text that it is. `Lattice`, `pbc`, `stress`
    and `Properties` are recognised in any case; of the last one there are ASE's names, kinds, first and last columns.

    Raises:
        ValueError: an entry is not what its key says, or a key is given twice with different values.
    """
    texts: dict[str, str] = {}
    for entry in _ENTRY.finditer(line):
        key = _plain(entry[1])
        key = SPELLING.get(key.lower(), key)
        text = "T" if entry[2] is None else _plain(entry[2])
        if texts.setdefault(key, text) != text:
            raise ValueError(f"the key {key!r} is given twice, with different values; keep one")
    if "Lattice" not in texts and _LATTICE.search(line):
        raise ValueError("a lattice stands within the value of another key; check the quotes")
    if "Lattice" in texts and "pbc" not in texts and (other := [key for key in texts if PBC_LIKE.fullmatch(key)]):
        raise ValueError(f'the key {other[0]!r} is not read; write the boundaries as pbc="T T F"')
    return {key: SPECIAL.get(key, _value)(text) for key, text in texts.items()}


def _plain(text: str) -> str:
    """Without quotes, brackets and escapes."""
    return _PIECE.sub(lambda piece: _ESCAPED.sub(r"\1", piece[0][1:-1] if piece[1] else piece[0]), text)


def _value(text: str) -> Any:
    try:
        return np.float64(text) if "." in text else np.int64(text)  # many times as fast as ASE
    except (ValueError, OverflowError):
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return key_val_str_to_dict(f'_="{escaped}"')["_"]


def _lattice(text: str) -> np.ndarray:
    """Cell vectors as rows (3, 3), A."""
    try:
        return np.array(text.replace(",", " ").split(), float).reshape(3, 3)
    except ValueError:
        raise ValueError(f"Lattice is {_short(text)}; it must be the nine numbers of three cell vectors") from None


def _pbc(text: str) -> list[bool]:
    words = text.replace(",", " ").split()
    words = list(words[0]) if len(words) == 1 and len(words[0]) == 3 else words
    try:
        first, second, third = (BOOLEAN[word.lower()] for word in words * (3 // len(words) or 1))
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(f'pbc is {_short(text)}; write pbc="T T F"') from None
    return [first, second, third]


@cache
def _properties(text: str) -> list[tuple[str, str, int, int]]:
    fields = text.split(":")
    names = [COLUMNS.get(name.lower(), name) for name in fields[::3]]
    kinds, counts = fields[1::3], fields[2::3]
    if len(fields) % 3 or not KINDS.keys() >= set(kinds) or not all(count.isdecimal() for count in counts):
        raise ValueError(f"Properties is {_short(text)}; write name:type:columns of each, as in species:S:1:pos:R:3")
    if len(set(names)) < len(names):
        raise ValueError(f"Properties is {_short(text)}, with one name twice; rename one of them")
    ends = list(accumulate(map(int, counts)))
    return list(zip(names, kinds, [0, *ends[:-1]], ends, strict=True))


SPECIAL: dict[str, Callable[[str], Any]] = {
    "config_id": str,
    "Lattice": _lattice,
    "pbc": _pbc,
    "Properties": _properties,
}
PLAIN = _properties("species:S:1:pos:R:3")


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def write_extxyz(file: Path, frames: Iterable[Atoms]) -> None:
    """Write extended XYZ, whole or not at all; frames may be made as they are asked for."""
    with replacing(file) as part, part.open("w", encoding="utf-8") as stream:
        write_xyz(stream, iter(frames))
