"""Structures with their labels as flat arrays: in memory, or in a folder that every process maps.

===============  =========================  =======================================================
index.json       text                       layout version, counts, CRC-32 of each other file
ids.txt          n lines                    the config ids, in the order of the rows
offsets.npy      (n + 1,) int64             atoms of row i are `offsets[i]:offsets[i + 1]`
numbers.npy      (n_atoms,) uint8           atomic numbers
positions.npy    (n_atoms, 3) f8            A, as in the file (not wrapped into the cell)
cells.npy        (n, 3, 3) f8               lattice vectors as rows, A
pbc.npy          (n, 3) bool                periodic axes
checksums.npy    (n,) uint64                of each structure, see `content`
isolated.npy     (n,) bool                  whether the file marks it as a free atom
energies.npy     (n,) f8                    eV; NaN where the file gives none
forces.npy       (n_atoms, 3) f8            eV/A; NaN where the file gives none
stresses.npy     (n, 3, 3) f8               eV/A^3, positive under tension (ASE's sign); NaN where none
===============  =========================  =======================================================

Of the last three there is no file where no structure has such a label. A folder appears whole or not at all. Rows are
numbered from 0; `ase.Atoms` are made of a row where one is asked for.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import overload

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from eipnn.errors import InputError
from eipnn.files import told_when_full

VERSION = 2
INDEX, IDS = "index.json", "ids.txt"
PER_ATOM = ("numbers", "positions", "forces")
PER_STRUCTURE = ("cells", "pbc", "checksums", "isolated", "energies", "stresses")
ARRAYS = ("offsets", *PER_ATOM, *PER_STRUCTURE)
LABELS = {"energies": (), "forces": (3,), "stresses": (3, 3)}
"""Arrays that may be all NaN, and their shapes for a structure or an atom."""
ISOLATED = "IsolatedAtom"
"""``config_type`` of a free atom."""


class StructureStore(Sequence[Atoms]):
    """n structures by row number; `of` makes one from atoms, `open` maps what `write` left.

    A sequence of the `Atoms` of its rows, each made anew.

    Args:
        ids: config ids, each once.
        arrays: by the names of `ARRAYS`, see the head of this file.
        files: where they are from, each file with its number of frames, for messages.
    """

    def __init__(
        self,
        ids: Sequence[str],
        arrays: dict[str, np.ndarray],
        files: Sequence[tuple[Path, int]] = (),
    ) -> None:
        self.ids, self.files = tuple(ids), files
        self.offsets, self.numbers, self.positions, self.forces = (arrays[name] for name in ("offsets", *PER_ATOM))
        self.cells, self.pbc, self.checksums, self.isolated, self.energies, self.stresses = (
            arrays[name] for name in PER_STRUCTURE
        )

    @classmethod
    def of(cls, frames: Sequence[Atoms]) -> "StructureStore":
        """In memory, with each frame's ``config_id`` (or place) and the labels of its calculator; a store as it is."""
        if isinstance(frames, StructureStore):
            return frames
        sizes = [len(atoms) for atoms in frames]
        results = [atoms.calc.results if atoms.calc is not None else {} for atoms in frames]
        forces = [r.get("forces", np.full((n, 3), np.nan)) for r, n in zip(results, sizes, strict=True)]
        arrays = {
            "offsets": _offsets(np.array(sizes, dtype=np.int64)),
            "numbers": _joined([atoms.numbers for atoms in frames], (), np.uint8),
            "positions": _joined([atoms.positions for atoms in frames], (3,), np.float64),
            "forces": _joined(forces, (3,), np.float64),
            "cells": _stacked([atoms.cell.array for atoms in frames], (3, 3), np.float64),
            "pbc": _stacked([atoms.pbc for atoms in frames], (3,), np.bool_),
            "checksums": _stacked([checksum(atoms) for atoms in frames], (), np.uint64),
            "isolated": _stacked([is_isolated_atom(atoms) for atoms in frames], (), np.bool_),
            "energies": _stacked([r.get("energy", np.nan) for r in results], (), np.float64),
            "stresses": _stacked([_stress(r) for r in results], (3, 3), np.float64),
        }
        for name, shape in LABELS.items():
            if np.isnan(arrays[name]).all():
                arrays[name] = _unknown(len(arrays[name]), shape)
        ids = [str(atoms.info.get("config_id", row)) for row, atoms in enumerate(frames)]
        return cls(ids, arrays)

    @classmethod
    def joined(cls, parts: Sequence["StructureStore"]) -> "StructureStore":
        """Several (at least one) as one, in their order."""
        arrays = {name: _together([getattr(part, name) for part in parts]) for name in (*PER_ATOM, *PER_STRUCTURE)}
        arrays["offsets"] = _offsets(np.concatenate([part.sizes for part in parts]))
        return cls([name for part in parts for name in part.ids], arrays)

    def take(self, rows: np.ndarray) -> "StructureStore":
        """These rows, in this order: a copy in memory."""
        atoms = self.atoms_of(rows)
        arrays = {name: _taken(getattr(self, name), atoms) for name in PER_ATOM}
        arrays |= {name: _taken(getattr(self, name), rows) for name in PER_STRUCTURE}
        arrays["offsets"] = _offsets(self.sizes[rows])
        return StructureStore([self.ids[row] for row in rows.tolist()], arrays)

    def write(self, folder: Path) -> None:
        """Write all into `folder`, which is not there yet; it appears whole or not at all.

        Raises:
            DiskFullError: there is no room for it.
        """
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        known = [name for name in ARRAYS if not _is_unknown(getattr(self, name))]
        try:
            with told_when_full(folder.parent):
                for name in known:
                    np.save(part / f"{name}.npy", getattr(self, name), allow_pickle=False)
                text = "".join(f"{name}\n" for name in self.ids)
                (part / IDS).write_text(text, encoding="utf-8")
                names = (IDS, *(f"{name}.npy" for name in known))
                index = {
                    "version": VERSION,
                    "structures": len(self),
                    "atoms": len(self.numbers),
                    "frames": [frames for _, frames in self.files],
                    "sums": {name: _sum(part / name) for name in names},
                }
                (part / INDEX).write_text(json.dumps(index) + "\n", encoding="utf-8")
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @classmethod
    def open(cls, folder: Path, paths: Sequence[Path] = ()) -> "StructureStore":
        """Map a folder that `write` left; `paths` are the files that its structures are from.

        Raises:
            InputError: there is none, it is of another version, or it is damaged.
        """
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            if index["version"] != VERSION:
                raise ValueError("another version")
            if any(_sum(folder / name) != crc for name, crc in index["sums"].items()):
                raise ValueError("a checksum does not fit")
            ids = (folder / IDS).read_text(encoding="utf-8").split("\n")[:-1]
            lengths = dict.fromkeys(PER_ATOM, index["atoms"])
            lengths |= dict.fromkeys(PER_STRUCTURE, index["structures"])
            files = list(zip(paths, index["frames"], strict=False))
            arrays = {}
            for name in ARRAYS:
                if f"{name}.npy" in index["sums"]:
                    loaded = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
                    # a plain view: indexing a memmap object costs several microseconds more
                    arrays[name] = loaded.view(np.ndarray)
                else:
                    arrays[name] = _unknown(lengths[name], LABELS[name])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
            raise InputError(f"{folder}: no whole store of structures; remove the folder") from None
        return cls(ids, arrays, files)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, row: int) -> Atoms: ...
    @overload
    def __getitem__(self, row: slice) -> "StructureStore": ...
    def __getitem__(self, row: int | slice) -> "Atoms | StructureStore":
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        return self.atoms(range(len(self))[row])

    @cached_property
    def sizes(self) -> np.ndarray:
        """Atoms of each structure (n,)."""
        return np.diff(self.offsets)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def __contains__(self, name: object) -> bool:
        """Whether a structure has this id."""
        return name in self._rows

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row numbers of these ids (len(ids),). Raises KeyError for one that is not there."""
        return np.array([self._rows[name] for name in ids], dtype=np.int64)

    def where(self, row: int) -> tuple[Path, int]:
        """The file of a row and the number of its frame there."""
        for file, frames in self.files:
            if row < frames:
                return file, row
            row -= frames
        raise KeyError(row)

    def contents(self) -> Iterator[bytes]:
        """`content` of each structure."""
        for row, (start, stop) in enumerate(pairwise(self.offsets.tolist())):
            numbers, positions = self.numbers[start:stop], self.positions[start:stop]
            yield content(numbers, positions, self.cells[row], self.pbc[row])

    def atoms_of(self, rows: np.ndarray) -> np.ndarray:
        """Places in the arrays of atoms that belong to these rows, row after row."""
        sizes = self.sizes[rows]
        starts = self.offsets[rows] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return np.repeat(starts, sizes) + np.arange(sizes.sum())

    def composition(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (k,) that occur in these rows (or all), ascending, and how often (len(rows), k)."""
        rows = np.arange(len(self)) if rows is None else rows
        numbers = self.numbers[self.atoms_of(rows)]
        present, column = np.unique(numbers, return_inverse=True)
        row = np.repeat(np.arange(len(rows)), self.sizes[rows])
        counts = np.bincount(row * len(present) + column, minlength=len(rows) * len(present))
        return present.astype(np.int64), counts.reshape(len(rows), len(present))

    def elements(self, rows: np.ndarray | None = None) -> list[str]:
        """Symbols of the elements in these rows (or all), sorted."""
        numbers = self.numbers if rows is None else self.numbers[self.atoms_of(rows)]
        return sorted(chemical_symbols[z] for z in np.unique(numbers))

    def element_sets(self) -> tuple[str, ...]:
        """The elements of each structure, sorted and joined as in "Ag-Au"."""
        numbers, counts = self.composition()
        symbols = np.array([chemical_symbols[z] for z in numbers])
        order = np.argsort(symbols)
        return tuple("-".join(symbols[order][found]) for found in counts[:, order] > 0)

    def atoms(self, row: int) -> Atoms:
        """One structure with its ``config_id`` and, where there are any, its labels in a calculator."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        atoms = Atoms(self.numbers[part], self.positions[part], cell=self.cells[row], pbc=self.pbc[row])
        atoms.info["config_id"] = self.ids[row]
        if self.isolated[row]:
            atoms.info["config_type"] = ISOLATED
        labels = {
            "energy": float(self.energies[row]),
            "forces": np.array(self.forces[part]),
            "stress": full_3x3_to_voigt_6_stress(self.stresses[row]),
        }
        known = {name: value for name, value in labels.items() if np.isfinite(value).all()}
        if known:
            atoms.calc = SinglePointCalculator(atoms, **known)
        return atoms


def _joined(parts: Sequence[np.ndarray], shape: tuple[int, ...], kind: type) -> np.ndarray:
    return np.concatenate([np.empty((0, *shape), kind), *parts]).astype(kind)


def _stacked(parts: Sequence[np.ndarray | float], shape: tuple[int, ...], kind: type) -> np.ndarray:
    return np.array(parts, dtype=kind).reshape(len(parts), *shape)


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether the file marks the frame as a free atom."""
    kind = str(atoms.info.get("config_type", "")).lower().replace("_", "")
    return kind == ISOLATED.lower()


def checksum(atoms: Atoms) -> int:
    """64 bits of a SHA-256 over species, positions, cell and periodicity of one structure."""
    whole = content(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return int.from_bytes(hashlib.sha256(whole).digest()[:8], "little")


def content(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bytes:
    """Species, positions, cell and periodicity of one structure."""
    lengths = positions.astype("<f8").tobytes() + cell.astype("<f8").tobytes()
    return numbers.astype("<i8").tobytes() + lengths + pbc.tobytes()


def _stress(results: dict[str, np.ndarray]) -> np.ndarray:
    stress = np.asarray(results.get("stress", np.full(6, np.nan)), dtype=np.float64)
    return stress if stress.shape == (3, 3) else voigt_6_to_full_3x3_stress(stress)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _unknown(n: int, shape: tuple[int, ...]) -> np.ndarray:
    """(n, *shape) of NaN, in the memory of one number."""
    return np.broadcast_to(np.float64(np.nan), (n, *shape))


def _is_unknown(array: np.ndarray) -> bool:
    return len(array) > 0 and array.strides[0] == 0


def _together(parts: Sequence[np.ndarray]) -> np.ndarray:
    if any(map(_is_unknown, parts)) and all(not len(p) or _is_unknown(p) for p in parts):
        return _unknown(sum(map(len, parts)), parts[0].shape[1:])
    return np.concatenate(parts)


def _taken(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _unknown(len(rows), array.shape[1:]) if _is_unknown(array) else array[rows]


def _sum(file: Path) -> int:
    """CRC-32 of a file."""
    return zlib.crc32(np.memmap(file, mode="r").data) if file.stat().st_size else 0
