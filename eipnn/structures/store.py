"""Structures with their labels as flat arrays: in memory, or in a folder that every process maps.

===============  =========================  =======================================================
index.json       text                       layout version, counts
ids.txt          n lines                    the config ids, in the order of the rows
offsets.npy      (n + 1,) int64             atoms of row i are `offsets[i]:offsets[i + 1]`
numbers.npy      (n_atoms,) uint8           atomic numbers
positions.npy    (n_atoms, 3) f8            A, as in the file (not wrapped into the cell)
cells.npy        (n, 3, 3) f8               lattice vectors as rows, A
pbc.npy          (n, 3) bool                periodic axes
energies.npy     (n,) f8                    eV; NaN where the file gives none
forces.npy       (n_atoms, 3) f8            eV/A; NaN where the file gives none
stresses.npy     (n, 3, 3) f8               eV/A^3, positive under tension (ASE's sign); NaN where none
===============  =========================  =======================================================

A folder appears whole or not at all. Rows are numbered from 0; `ase.Atoms` are made of a row where one is asked for.
"""

import json
import os
import shutil
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from eipnn.errors import InputError

VERSION = 1
INDEX, IDS = "index.json", "ids.txt"
PER_ATOM = ("numbers", "positions", "forces")
ARRAYS = ("offsets", *PER_ATOM, "cells", "pbc", "energies", "stresses")


class StructureStore:
    """n structures by row number; `of` makes one from atoms, `open` maps what `write` left.

    Args:
        ids: config ids, each once.
        arrays: by the names of `ARRAYS`, see the head of this file.
    """

    def __init__(self, ids: Sequence[str], arrays: dict[str, np.ndarray]) -> None:
        self.ids = ids
        self.offsets, self.numbers, self.positions, self.forces = (
            arrays[name] for name in ("offsets", *PER_ATOM)
        )
        self.cells, self.pbc, self.energies, self.stresses = (
            arrays[name] for name in ("cells", "pbc", "energies", "stresses")
        )

    @classmethod
    def of(cls, frames: Sequence[Atoms]) -> "StructureStore":
        """In memory. Every frame has a ``config_id``; labels are those of its calculator."""
        sizes = [len(atoms) for atoms in frames]
        results = [atoms.calc.results if atoms.calc is not None else {} for atoms in frames]
        unknown = np.full((3, 3), np.nan)
        arrays = {
            "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            "numbers": _joined([atoms.numbers for atoms in frames], (), np.uint8),
            "positions": _joined([atoms.positions for atoms in frames], (3,), np.float64),
            "forces": _joined(
                [
                    r.get("forces", np.full((n, 3), np.nan))
                    for r, n in zip(results, sizes, strict=True)
                ],
                (3,),
                np.float64,
            ),
            "cells": _stacked([atoms.cell.array for atoms in frames], (3, 3), np.float64),
            "pbc": _stacked([atoms.pbc for atoms in frames], (3,), np.bool_),
            "energies": _stacked([r.get("energy", np.nan) for r in results], (), np.float64),
            "stresses": _stacked(
                [
                    voigt_6_to_full_3x3_stress(r["stress"]) if "stress" in r else unknown
                    for r in results
                ],
                (3, 3),
                np.float64,
            ),
        }
        return cls(tuple(str(atoms.info["config_id"]) for atoms in frames), arrays)

    def write(self, folder: Path) -> None:
        """Write all into `folder`, which is not there yet; it appears whole or not at all."""
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        for name in ARRAYS:
            np.save(part / f"{name}.npy", getattr(self, name), allow_pickle=False)
        (part / IDS).write_text("".join(f"{name}\n" for name in self.ids), encoding="utf-8")
        counts = {"version": VERSION, "structures": len(self), "atoms": len(self.numbers)}
        (part / INDEX).write_text(json.dumps(counts) + "\n", encoding="utf-8")
        part.replace(folder)

    @classmethod
    def open(cls, folder: Path) -> "StructureStore":
        """Map a folder that `write` left.

        Raises:
            InputError: there is none, it is of another version, or it is damaged.
        """
        try:
            counts = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            ids = tuple((folder / IDS).read_text(encoding="utf-8").split("\n")[:-1])
            arrays = {
                # a plain view: indexing a memmap object costs several microseconds more
                name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False).view(
                    np.ndarray
                )
                for name in ARRAYS
            }
            whole = counts["version"] == VERSION and len(ids) == counts["structures"]
            whole &= all(
                len(arrays[name]) == counts["atoms" if name in PER_ATOM else "structures"]
                for name in ARRAYS[1:]
            )
            whole &= arrays["offsets"][-1] == counts["atoms"]
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            whole = False
        if not whole:
            raise InputError(f"{folder}: no whole store of structures; remove the folder")
        return cls(ids, arrays)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Atoms of each structure (n,)."""
        return np.diff(self.offsets)

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row numbers of these ids (len(ids),). Raises KeyError for one that is not there."""
        return np.array([self._rows[name] for name in ids], dtype=np.int64)

    def atoms_of(self, rows: np.ndarray) -> np.ndarray:
        """Places in the arrays of atoms that belong to these rows, row after row."""
        sizes = self.sizes[rows]
        starts = self.offsets[rows] - np.concatenate([[0], np.cumsum(sizes)[:-1]])
        return np.repeat(starts, sizes) + np.arange(sizes.sum())

    def composition(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (k,) that occur in these rows, ascending, and how often (len(rows), k)."""
        numbers = self.numbers[self.atoms_of(rows)]
        present, column = np.unique(numbers, return_inverse=True)
        row = np.repeat(np.arange(len(rows)), self.sizes[rows])
        counts = np.bincount(row * len(present) + column, minlength=len(rows) * len(present))
        return present.astype(np.int64), counts.reshape(len(rows), len(present))

    def elements(self, rows: np.ndarray) -> list[str]:
        """Symbols of the elements in these rows, sorted."""
        return sorted(chemical_symbols[z] for z in np.unique(self.numbers[self.atoms_of(rows)]))

    def atoms(self, row: int) -> Atoms:
        """One structure with its ``config_id`` and, where there are any, its labels in a calculator."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        atoms = Atoms(
            self.numbers[part], self.positions[part], cell=self.cells[row], pbc=self.pbc[row]
        )
        atoms.info["config_id"] = self.ids[row]
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
