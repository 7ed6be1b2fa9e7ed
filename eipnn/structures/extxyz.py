"""Extended XYZ: the frames of a file, each read by ASE with a header in ASE's own spelling.

ASE's reader stops without a word at an empty line, takes a cell whose key it does not spell like this (`lattice`, as
GPUMD and NEP write it) for a cluster in vacuum, boundaries that it does not spell like this (`PBC`, as KLIFF does) for
periodic ones, and the id 007 for 7. Here keys are read in any case, ids as written, every frame is found, and what
remains unclear is an error.

Format: https://github.com/libAtoms/extxyz. `VEC` lines, as ADF writes them, are cell vectors after the atoms.
"""

import re
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from eipnn.structures.check import PBC_LIKE
from eipnn.structures.paths import StructureError

SPELLING = {"lattice": "Lattice", "pbc": "pbc", "properties": "Properties", "stress": "stress"}
COLUMNS = {"species": "species", "pos": "pos", "z": "Z"}
BOOLEAN = {"t": True, "true": True, "1": True, "f": False, "false": False, "0": False}

_QUOTED = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:\\.|[^\]\\])*\]"""
_PIECE = re.compile(rf"({_QUOTED})|\\.")
_ENTRY = re.compile(rf"((?:{_QUOTED}|\\.|[^\s=])+)(?:\s*=\s*((?:{_QUOTED}|\\.|\S)+))?")
_LATTICE = re.compile(r"(?i)lattice\s*=")
_END = (0, "")


def read_extxyz(stream: TextIO) -> Iterator[Atoms]:
    """The frames of an open file, one after the other; empty lines between them are skipped.

    Raises `StructureError` with the line at which a frame is not what its first two lines announce.
    """
    lines = enumerate(stream, start=1)
    number, line = next(lines, _END)
    while line:
        if not line.strip():
            number, line = next(lines, _END)
            continue
        if not line.strip().isdecimal():
            raise StructureError(
                f"line {number}: the number of atoms of a frame is due, and it is {_short(line)}; correct or remove it"
            )
        n_atoms = int(line)
        frame = [line, *(text for _, text in islice(lines, n_atoms + 1))]
        if len(frame) < n_atoms + 2:
            raise StructureError(
                f"line {number}: the file ends within this frame of {n_atoms} atoms; complete or remove it"
            )
        following = next(lines, _END)
        while following[1].lstrip().startswith("VEC"):
            frame.append(following[1])
            following = next(lines, _END)
        yield _frame(frame, n_atoms, number)
        number, line = following


def _frame(lines: list[str], n_atoms: int, number: int) -> Atoms:
    try:
        info = parse_header(lines[1])
    except ValueError as error:
        raise StructureError(f"line {number + 1}: {error}") from None
    n_columns = sum(map(int, info["Properties"].split(":")[2::3])) if "Properties" in info else None
    for place, row in enumerate(lines[2 : n_atoms + 2], start=number + 2):
        found = len(row.split())
        if found < 4 if n_columns is None else found != n_columns:
            raise StructureError(
                f"line {place}: an atom with {n_columns or 4} columns is due, and it is {_short(row)}; "
                f"correct this line, or the header in line {number + 1}"
            )
    (atoms,) = read_xyz(StringIO("".join(lines)), index=0, properties_parser=lambda _: info)
    return atoms


def parse_header(line: str) -> dict[str, Any]:
    """The entries of a frame's second line, `key=value key="several values" flag ...`.

    Values are converted as ASE does, but for `config_id`, which stays the text that it is. `Lattice`, `pbc`, `stress`
    and `Properties` are recognised in any case and have the form that ASE's reader takes.

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
    info: dict[str, Any] = {key: text if key == "config_id" else _value(text) for key, text in texts.items()}
    if "Lattice" in texts:
        info["Lattice"] = _lattice(texts["Lattice"])
    elif _LATTICE.search(line):
        raise ValueError("a lattice stands within the value of another key; check the quotes")
    if "pbc" in texts:
        info["pbc"] = _pbc(texts["pbc"])
    elif "Lattice" in texts and (other := [key for key in texts if PBC_LIKE.fullmatch(key)]):
        raise ValueError(f'the key {other[0]!r} is not read; write the boundaries as pbc="T T F"')
    for key in ("stress", "virial"):
        if np.size(info.get(key, 0)) == 9:
            info[key] = np.reshape(info[key], (3, 3), order="F")
    if "Properties" in texts:
        info["Properties"] = _properties(texts["Properties"])
    return info


def _plain(text: str) -> str:
    """Without quotes, brackets and escapes."""
    return _PIECE.sub(lambda piece: re.sub(r"\\(.)", r"\1", piece[0][1:-1] if piece[1] else piece[0]), text)


def _value(text: str) -> Any:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return key_val_str_to_dict(f'_="{escaped}"')["_"]


def _lattice(text: str) -> np.ndarray:
    """Cell vectors (3, 3) as columns, A."""
    try:
        return np.array(re.findall(r"[^\s,]+", text), float).reshape((3, 3), order="F")
    except ValueError:
        raise ValueError(f"Lattice is {_short(text)}; it must be the nine numbers of three cell vectors") from None


def _pbc(text: str) -> list[bool]:
    words = re.findall(r"[^\s,]+", text)
    words = list(words[0]) if len(words) == 1 and len(words[0]) == 3 else words
    try:
        first, second, third = (BOOLEAN[word.lower()] for word in words * (3 // len(words) or 1))
    except (KeyError, ValueError, ZeroDivisionError):
        raise ValueError(f'pbc is {_short(text)}; write pbc="T T F"') from None
    return [first, second, third]


def _properties(text: str) -> str:
    fields = text.split(":")
    names = [COLUMNS.get(name.lower(), name) for name in fields[::3]]
    if len(fields) % 3 or not all(count.isdecimal() for count in fields[2::3]):
        raise ValueError(f"Properties is {_short(text)}; write name:type:columns of each, as in species:S:1:pos:R:3")
    if len(set(names)) < len(names):
        raise ValueError(f"Properties is {_short(text)}, with one name twice; rename one of them")
    fields[::3] = names
    return ":".join(fields)


def _short(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 40 else f"{text[:37]}...")
