"""The files of a label store: a folder of flat arrays, read by memory map.

===============  ==========================  ====================================================
index.json       text                        layout version, EIPs with resolved ids, counts,
                                             units, content hash of the structures
ids.txt          n_frames lines              the config ids, in the order of the rows
checksums.npy    (n_frames,) uint64          of each structure, so that an id that has come to mean another
                                             one is found out
offsets.npy      (n_frames + 1,) int64       atoms of row i are `offsets[i]:offsets[i + 1]`
energies.npy     (n_frames, n_eips) f8       eV, each EIP's own zero; NaN where there is no label
forces.npy       (n_atoms, n_eips, 3) f8     eV/A, NaN where there is no label
stress.npy       (n_frames, n_eips, 6) f8    eV/A^3, xx yy zz yz xz xy, positive under tension (ASE's order and
                                             sign); NaN where there is no label, an axis is not periodic or the
                                             EIP gives none; infinite where no label was begun
status.npy       (n_frames, n_eips) int8     `PENDING`, `DONE`, `FAILED` or `IN_WORK`
failures.csv     text                        config_id, eip, reason of each `FAILED` label
zeros.json       text                        the zero that an EIP names as its own, by EIP; absent where none does
force_sums.npy   (n_frames,) uint32          CRC-32 of each row's forces, looked at when they are read
sums.json        text                        CRC-32 of the other files but these two and failures.csv, looked at
                                             as it is opened
===============  ==========================  ====================================================

The last two are written when all labels are there; a store of an older version has none. Layout version 1 has no
stress; it is read as NaN.

Nothing in it depends on time, machine or order of work: two runs on the same input give the same bytes.
Labels are those of the frames wrapped into the cell along their periodic axes. A store that was made of
published energies has no forces and no stress: they are NaN.
"""

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.files import DiskFullError, check_room, json_text, told_when_full, write_atomically, write_json
from eipnn.structures import StructureStore
from eipnn.structures.ids import Ids

VERSION, WITHOUT_STRESS = 2, 1
PENDING, DONE, FAILED, IN_WORK = 0, 1, 2, 3
INDEX, IDS, LEDGER = "index.json", "ids.txt", "failures.csv"
ZEROS = "zeros.json"
LEDGER_HEAD = "config_id,eip,reason\n"
EMPTY = {"energies": np.nan, "forces": np.nan, "stress": np.inf, "status": PENDING}
ARRAYS = ("checksums", "offsets", *EMPTY)
FORCE_SUMS, SUMS = "force_sums.npy", "sums.json"
SUMMED = (INDEX, IDS, *(f"{name}.npy" for name in ARRAYS if name != "forces"), FORCE_SUMS)
FILL_ROWS = 1 << 16  # rows of an array that are filled at a time
MAKE = "make one with `eipnn label STRUCTURES --eips NAME -o DIR`"


class LabelError(InputError):
    """A label store that cannot be used; the message names the folder, what is wrong and the mend."""


class Arrays:
    """The arrays of the store in a folder by memory map; `mode` as in `numpy.load`.

    Raises `LabelError` where they are absent or damaged.
    """

    def __init__(self, folder: Path, mode: Any = "r") -> None:
        self.folder, self.index = folder, read_index(folder)
        self.checksums, self.offsets, self.energies, self.all_forces, self.stress, self.status = (
            open_array(folder, name, self.index, mode) for name in ARRAYS
        )

    def atoms(self, row: int) -> slice:
        """The atoms of a row in `all_forces`."""
        return slice(self.offsets[row], self.offsets[row + 1])

    def finished(self) -> np.ndarray:
        """Whether a label is there or has failed (n_frames, n_eips); workers may write at the same time."""
        return (self.status == DONE) | (self.status == FAILED)

    def force_sums(self) -> np.ndarray:
        """CRC-32 of the forces of each row (n_frames,)."""
        rows = pairwise(self.offsets.tolist())
        return np.array([zlib.crc32(self.all_forces[start:stop].data) for start, stop in rows], dtype=np.uint32)

    def flush(self) -> None:
        """Write all to the disk."""
        for array in (self.energies, self.all_forces, self.stress, self.status):
            if array.base is not None:
                array.base.flush()  # type: ignore[attr-defined]


def describe(structures: Sequence[Atoms], eips: Sequence[EIP]) -> dict[str, Any]:
    """The index of the store that holds these labels: plain values only."""
    structures = StructureStore.of(structures)
    return {
        "version": VERSION,
        "eips": [eip.description() for eip in eips],
        "n_frames": len(structures),
        "n_atoms": len(structures.numbers),
        "units": {"energy": "eV", "forces": "eV/Angstrom", "stress": "eV/Angstrom^3"},
        "structures": _content_hash(structures),
    }


def other_labels(folder: Path, found: dict[str, Any], index: dict[str, Any]) -> LabelError:
    """What to raise where the store in `folder`, with the index `found`, is not the one that is asked for."""
    if found["version"] != index["version"]:
        return LabelError(
            f"{folder}: has labels of an older version, without stress; remove it to label again, or name it as "
            "data.labels in an experiment to read it as it is"
        )
    there = ", ".join(f"{e['name']} ({e['target']})" for e in found["eips"])
    what = f"EIPs: {there}; give another folder, or the same EIPs, arguments and files"
    if found["eips"] == index["eips"]:
        counts = f"{found['n_frames']} frames, here {index['n_frames']}"
        what = f"structures ({counts}); give another folder, or the same files in the same order"
    return LabelError(f"{folder}: holds labels of other {what}")


def write_zeros(folder: Path, eips: Sequence[EIP]) -> None:
    """Keep the zeros that EIPs name, as they name them now."""
    if named := {eip.name: eip.zero for eip in eips if eip.zero != "none"}:
        write_json(folder / ZEROS, named)
    else:
        (folder / ZEROS).unlink(missing_ok=True)


def _content_hash(structures: StructureStore) -> str:
    """SHA-256 over ids, species, positions, cells and periodicity, in order."""
    digest = hashlib.sha256()
    for name, size, content in zip(structures.ids, structures.sizes.tolist(), structures.contents(), strict=True):
        digest.update(f"{name}\n{size}\n".encode() + content)
    return digest.hexdigest()


def create(folder: Path, structures: Sequence[Atoms], index: dict[str, Any], lasting: bool = True) -> None:
    """Write an empty store; the index comes last, so a folder with an index is whole.

    Arrays are written out to their full length, so that labels find the space that they need. What is not `lasting`,
    and need not outlive a power cut, is not waited for until it is on the disk.

    Raises:
        DiskFullError: there is not so much.
    """
    structures = StructureStore.of(structures)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = _shapes(index)
    check_room(folder, sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in shapes.values()))
    write: Callable[[Path, bytes], Any] = write_atomically if lasting else Path.write_bytes
    write(folder / IDS, structures.ids.text.tobytes())
    values = {"offsets": structures.offsets, "checksums": structures.checksums, **EMPTY}
    try:
        with told_when_full(folder):
            for name in ARRAYS:
                _write_array(folder / f"{name}.npy", *shapes[name], values[name], lasting)
    except DiskFullError:
        for name in ARRAYS:
            (folder / f"{name}.npy").unlink(missing_ok=True)
        raise
    write(folder / LEDGER, LEDGER_HEAD.encode())
    write(folder / INDEX, json_text(index).encode())


def _write_array(file: Path, shape: tuple[int, ...], dtype: str, values: Any, lasting: bool = True) -> None:
    """Write an array of `values` (an array, or one number), piece by piece and not by memory map: a full disk is an
    error then, and no signal that ends the process."""
    values = np.broadcast_to(values, shape)
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
        for start in range(0, shape[0], FILL_ROWS):
            stream.write(values[start : start + FILL_ROWS].astype(dtype).tobytes())
        stream.flush()
        if lasting:
            os.fsync(stream.fileno())


def seal(folder: Path) -> None:
    """Write the checksums of a store in which all labels are."""
    sums = Arrays(folder).force_sums()
    _write_array(folder / FORCE_SUMS, sums.shape, "<u4", sums)
    write_json(folder / SUMS, {name: _sum(folder / name) for name in (*SUMMED, ZEROS)})


def unseal(folder: Path) -> None:
    """Make a store ready for other labels. Raises `LabelError` where it is not as it was sealed."""
    verify(folder)
    if (folder / SUMS).exists():
        if (Arrays(folder).force_sums() != np.load(folder / FORCE_SUMS)).any():
            raise damaged(folder, "forces.npy is not as it was written")
        (folder / SUMS).unlink()


def verify(folder: Path) -> None:
    """Raise `LabelError` where a file of a sealed store, but for its forces, is not as it was written."""
    if not (folder / SUMS).exists():
        return
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        names = (*SUMMED, ZEROS) if ZEROS in sums else SUMMED  # older stores have no sum of their zeros
        wrong = next((name for name in names if sums.get(name) != _sum(folder / name)), None)
    except (ValueError, AttributeError):
        wrong = SUMS
    if wrong:
        raise damaged(folder, f"{wrong} is not as it was written")


def _sum(file: Path) -> int | None:
    """CRC-32 of a file, None where there is none."""
    return zlib.crc32(np.memmap(file, mode="r").data) if file.is_file() else None


def read_index(folder: Path) -> dict[str, Any]:
    """The index of the store in `folder`. Raises `LabelError` where it is absent or damaged."""
    if not (folder / INDEX).is_file():
        raise LabelError(f"{folder}: no label store here ({INDEX} is missing); {MAKE}")
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        version = index["version"]
        _shapes(index)
    except (ValueError, KeyError, TypeError):
        raise damaged(folder, f"{INDEX} is not an index") from None
    if version not in (VERSION, WITHOUT_STRESS):
        raise LabelError(f"{folder}: layout version {version}, and this eipnn reads {VERSION}; label again")
    return index


def read_ids(folder: Path) -> Ids:
    """The config ids in the order of the rows."""
    try:
        text = np.memmap(folder / IDS, np.uint8, mode="r").view(np.ndarray)
        text.tobytes().decode()
        return Ids(text)
    except (OSError, ValueError):  # an empty one cannot be mapped
        raise damaged(folder, f"{IDS} is missing or no text") from None


def open_array(folder: Path, name: str, index: dict[str, Any], mode: Any) -> np.ndarray:
    """One of `ARRAYS` by memory map, checked against the index; `mode` as in `numpy.load`."""
    shape, dtype = _shapes(index)[name]
    if name == "stress" and index["version"] == WITHOUT_STRESS:
        return np.broadcast_to(np.nan, shape)
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise damaged(folder, f"{name}.npy is missing") from None
    except (ValueError, OSError, EOFError):
        raise damaged(folder, f"{name}.npy is cut short or no array") from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise damaged(folder, f"{name}.npy is {array.dtype} {array.shape}, not {dtype} {shape}")
    # A plain view: indexing a memmap object costs several microseconds more.
    return array.view(np.ndarray)


def _shapes(index: dict[str, Any]) -> dict[str, tuple[tuple[int, ...], str]]:
    frames, atoms, eips = index["n_frames"], index["n_atoms"], len(index["eips"])
    return {
        "checksums": ((frames,), "<u8"),
        "offsets": ((frames + 1,), "<i8"),
        "energies": ((frames, eips), "<f8"),
        "forces": ((atoms, eips, 3), "<f8"),
        "stress": ((frames, eips, 6), "<f8"),
        "status": ((frames, eips), "|i1"),
    }


def damaged(folder: Path, what: str) -> LabelError:
    """What to raise where the store in `folder` cannot be read."""
    return LabelError(f"{folder}: damaged label store, {what}; remove the folder and label again")
