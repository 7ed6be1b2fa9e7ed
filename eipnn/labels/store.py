"""The label store: a folder of flat arrays, read by memory map.

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
sums.json        text                        CRC-32 of the other files but these two, looked at as it is opened
===============  ==========================  ====================================================

The last two are written when all labels are there; a store of an older version has none. Layout version 1 has no
stress; it is read as NaN.

Nothing in it depends on time, machine or order of work: two runs on the same input give the same bytes.
Labels are those of the frames wrapped into the cell along their periodic axes. A store that was made of
published energies has no forces and no stress: they are NaN.
"""

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.files import DiskFullError, check_room, json_text, told_when_full, write_atomically, write_json
from eipnn.structures import StructureError, StructureStore, resolve
from eipnn.structures.ids import Ids, as_slice, places_of
from eipnn.structures.paths import fetch_hint

log = logging.getLogger("eipnn")

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


class LabelStore(Arrays):
    """A finished store, read-only. `LabelStore.open(path)` makes one."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.ids = read_ids(folder)
        self.eips = tuple(entry["name"] for entry in self.index["eips"])
        sealed = (folder / SUMS).exists()
        self._force_sums = np.load(folder / FORCE_SUMS) if sealed else None  # (n_frames,)

    @classmethod
    def open(cls, path: str | Path) -> "LabelStore":
        """Open the finished store in the folder `path` (or `bundled:NAME`).

        Raises `LabelError` where there is none, where it is damaged, and where labels are pending.
        """
        try:
            folder = resolve(path)
        except StructureError:
            raise LabelError(f"{path}: no such label store; {fetch_hint(path) or MAKE}") from None
        read_index(folder)
        verify(folder)
        store = cls(folder)
        if len(store.ids) != store.index["n_frames"]:
            raise _damaged(folder, f"{IDS} has {len(store.ids)} ids, not {store.index['n_frames']}")
        if not store.complete:
            left = int((~store.finished()).sum())
            raise LabelError(
                f"{path}: incomplete, {left} of {store.status.size} labels are missing; run the same `eipnn label` "
                "command again, it goes on from here"
            )
        return store

    @cached_property
    def zeros(self) -> dict[str, str]:
        """The mode of the energy zero of each EIP, see `EIP.zero`. Raises `LabelError` where they cannot be read."""
        try:
            named = json.loads((self.folder / ZEROS).read_text(encoding="utf-8"))
            return {name: named.get(name, "none") for name in self.eips}
        except FileNotFoundError:
            return dict.fromkeys(self.eips, "none")
        except (ValueError, AttributeError):
            raise _damaged(self.folder, f"{ZEROS} is no mapping") from None

    @property
    def complete(self) -> bool:
        """Whether every label is there or has failed."""
        return bool(self.finished().all())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the index, the energies, the sums of the forces and the stress."""
        digest = hashlib.sha256((self.folder / INDEX).read_bytes())
        sums = self.force_sums() if self._force_sums is None else self._force_sums
        for array in (self.energies, sums, self._stress):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def _stress(self) -> np.ndarray:
        """`stress`; once it is said where there is none."""
        if self.index["version"] == WITHOUT_STRESS:
            log.warning("%s: holds no stress, as stores of older versions; label into a new folder for it", self.folder)
        return self.stress

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of these configurations (n,). Raises `LabelError` with the first that the store lacks."""
        rows = self.ids.find(ids)
        if (rows < 0).any():
            name = ids[int(rows.argmin())]
            raise LabelError(
                f"{self.folder}: has no labels of the configuration {name!r}; label the file that holds it"
            )
        return rows

    def check(self, structures: Sequence[Atoms]) -> None:
        """Raise `LabelError` where one of the structures is not what was labelled under its ``config_id``."""
        given = StructureStore.of(structures)
        rows = self.rows(given.ids)
        others = np.flatnonzero(self.checksums[rows] != given.checksums)
        if len(others) == 0:
            return
        row, size = rows[others[0]], given.sizes[others[0]]
        labelled = self.offsets[row + 1] - self.offsets[row]
        sizes = f"{labelled} atoms, and yours has {size}"
        difference = "other species, positions, cell or periodicity" if labelled == size else sizes
        raise LabelError(
            f"{self.folder}: has labels of another structure {self.ids[row]!r} with {difference}; label the present "
            "files into a new folder"
        )

    def forces(self, config_id: str) -> np.ndarray:
        """`forces_of` one configuration under all EIPs."""
        return self.forces_of([config_id], self.eips)

    def forces_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Forces (N, len(eips), 3) in eV/A of the N atoms of these configurations, NaN where a label is missing.

        Of rows that stand one after another under all EIPs a view of the file: changes in it are the caller's own.

        Raises `LabelError` naming the first configuration or EIP that the store lacks, and where forces are not as
        they were written.
        """
        rows, columns = self.rows(ids), self._columns(eips)
        if self._force_sums is not None:
            bounds = zip(self.offsets[rows].tolist(), self.offsets[rows + 1].tolist(), strict=True)
            sums = np.fromiter((zlib.crc32(self.all_forces[a:b].data) for a, b in bounds), np.uint32, len(rows))
            if len(wrong := np.flatnonzero(sums != self._force_sums[rows])):
                raise _damaged(self.folder, f"the forces of {ids[wrong[0]]} are not as they were written")
        if run := self._run(rows, eips):
            return self._private("forces")[self.offsets[run.start] : self.offsets[run.stop]]
        return self.all_forces[places_of(self.offsets, rows)[:, None], columns]

    def stress_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Stress (len(ids), len(eips), 6) in eV/A^3, ASE's order and sign, NaN where there is none; a view as in
        `forces_of`.

        Raises `LabelError` naming the first configuration or EIP that the store lacks.
        """
        rows, columns = self.rows(ids), self._columns(eips)
        if self.index["version"] != WITHOUT_STRESS and (run := self._run(rows, eips)):
            return self._private("stress")[run]
        return self._stress[rows[:, None], columns]

    def energies_of(self, ids: Sequence[str], eips: Sequence[str]) -> np.ndarray:
        """Energies (len(ids), len(eips)) in eV, NaN where a label is missing.

        Raises `LabelError` naming the first configuration or EIP that the store lacks.
        """
        return np.asarray(self.energies[self.rows(ids)[:, None], self._columns(eips)])

    def _run(self, rows: np.ndarray, eips: Sequence[str]) -> slice | None:
        """The slice of rows under all EIPs that need not be copied: they may be more than the memory holds."""
        return as_slice(rows) if tuple(eips) == self.eips else None

    def _private(self, name: str) -> np.ndarray:
        """One of the arrays, in which changes are the caller's own."""
        return open_array(self.folder, name, self.index, "c")

    def _columns(self, eips: Sequence[str]) -> np.ndarray:
        for name in eips:
            if name not in self.eips:
                raise LabelError(f"{self.folder}: has no labels of the EIP {name!r}; it has {', '.join(self.eips)}")
        return np.array([self.eips.index(name) for name in eips], dtype=np.int64)


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
    write_json(folder / SUMS, {name: _sum(folder / name) for name in SUMMED})


def unseal(folder: Path) -> None:
    """Make a store ready for other labels. Raises `LabelError` where it is not as it was sealed."""
    verify(folder)
    if (folder / SUMS).exists():
        if (Arrays(folder).force_sums() != np.load(folder / FORCE_SUMS)).any():
            raise _damaged(folder, "forces.npy is not as it was written")
        (folder / SUMS).unlink()


def verify(folder: Path) -> None:
    """Raise `LabelError` where a file of a sealed store, but for its forces, is not as it was written."""
    if not (folder / SUMS).exists():
        return
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        wrong = next((name for name in SUMMED if sums.get(name) != _sum(folder / name)), None)
    except (ValueError, AttributeError):
        wrong = SUMS
    if wrong:
        raise _damaged(folder, f"{wrong} is not as it was written")


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
        raise _damaged(folder, f"{INDEX} is not an index") from None
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
        raise _damaged(folder, f"{IDS} is missing or no text") from None


def open_array(folder: Path, name: str, index: dict[str, Any], mode: Any) -> np.ndarray:
    """One of `ARRAYS` by memory map, checked against the index; `mode` as in `numpy.load`."""
    shape, dtype = _shapes(index)[name]
    if name == "stress" and index["version"] == WITHOUT_STRESS:
        return np.broadcast_to(np.nan, shape)
    try:
        array = np.load(folder / f"{name}.npy", mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError:
        raise _damaged(folder, f"{name}.npy is missing") from None
    except (ValueError, OSError, EOFError):
        raise _damaged(folder, f"{name}.npy is cut short or no array") from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise _damaged(folder, f"{name}.npy is {array.dtype} {array.shape}, not {dtype} {shape}")
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


def _damaged(folder: Path, what: str) -> LabelError:
    return LabelError(f"{folder}: damaged label store, {what}; remove the folder and label again")
