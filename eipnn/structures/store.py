"""Structures with their labels as flat arrays, in memory or mapped from a file of the cache.

===========  ===============  =====================================================================
offsets      (n + 1,) int64   atoms of row i are `offsets[i]:offsets[i + 1]`
numbers      (n_atoms,) u1    atomic numbers
positions    (n_atoms, 3) f8  A, as in the file (not wrapped into the cell)
forces       (n_atoms, 3) f8  eV/A; NaN where the file gives none
cells        (n, 3, 3) f8     lattice vectors as rows, A
pbc          (n, 3) bool      periodic axes
checksums    (n,) u8          of each structure, see `content`
isolated     (n,) bool        whether the file marks it as a free atom
energies     (n,) f8          eV; NaN where the file gives none
stresses     (n, 3, 3) f8     eV/A^3, positive under tension (ASE's sign); NaN where there is none
===========  ===============  =====================================================================

Rows are numbered from 0; `ase.Atoms` are made of a row where one is asked for.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import chemical_symbols
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from eipnn.structures.ids import Ids, as_slice, places_of

PER_ATOM: dict[str, tuple[type, tuple[int, ...]]] = {
    "numbers": (np.uint8, ()),
    "positions": (np.float64, (3,)),
    "forces": (np.float64, (3,)),
}
PER_STRUCTURE: dict[str, tuple[type, tuple[int, ...]]] = {
    "cells": (np.float64, (3, 3)),
    "pbc": (np.bool_, (3,)),
    "checksums": (np.uint64, ()),
    "isolated": (np.bool_, ()),
    "energies": (np.float64, ()),
    "stresses": (np.float64, (3, 3)),
}
ARRAYS = ("offsets", *PER_ATOM, *PER_STRUCTURE)
CONTENT = ("ids", "types", "frames", *ARRAYS)
"""What `to_tensors` gives."""
BLOCK = 1000
"""Frames that are in memory as `Atoms` at a time while a store is made of them."""
ISOLATED = "IsolatedAtom"
"""``config_type`` of a free atom."""


class StructureStore(Sequence[Atoms]):
    """n structures by row number: a sequence of their `Atoms`, each made anew; `of` makes one from atoms.

    Args:
        ids: config ids, each once.
        arrays: by the names of `ARRAYS`, see the head of this file.
        files: where they are from, each file with its number of frames, for messages.
        types: ``config_type`` of each, "" where it has none; None: none has one.
    """

    def __init__(
        self,
        ids: Sequence[str],
        arrays: Mapping[str, np.ndarray],
        files: Sequence[tuple[Path, int]] = (),
        types: Sequence[str] | None = None,
    ) -> None:
        self.ids, self.files, self.types = Ids.of(ids), files, None if types is None else Ids.of(types)
        self.offsets, self.numbers, self.positions = (arrays[name] for name in ("offsets", "numbers", "positions"))
        self.cells, self.pbc, self.checksums, self.isolated = (arrays[name] for name in list(PER_STRUCTURE)[:4])
        self.energies, self.forces, self.stresses = (_slim(arrays[name]) for name in ("energies", "forces", "stresses"))

    @classmethod
    def of(cls, frames: Iterable[Atoms]) -> "StructureStore":
        """In memory, with each frame's ``config_id`` (or place) and the labels of its calculator; a store as it is.

        Frames that are read or made as they are asked for are let go block by block.
        """
        if isinstance(frames, StructureStore):
            return frames
        numbered = enumerate(frames)
        blocks = iter(lambda: list(islice(numbered, BLOCK)), [])
        return cls.joined([cls._of([]), *map(cls._of, blocks)])

    @classmethod
    def _of(cls, frames: Sequence[tuple[int, Atoms]]) -> "StructureStore":
        """Of frames with their places."""
        entries = [_entries(atoms) for _, atoms in frames]
        arrays = {"offsets": _offsets(np.array([len(atoms) for _, atoms in frames], dtype=np.int64))}
        for name, (kind, shape) in PER_ATOM.items():
            parts = [np.empty((0, *shape)), *(entry[name] for entry in entries)]
            arrays[name] = np.concatenate(parts).astype(kind)
        for name, (kind, shape) in PER_STRUCTURE.items():
            arrays[name] = np.array([entry[name] for entry in entries], dtype=kind).reshape(-1, *shape)
        types = [" ".join(str(atoms.info.get("config_type", "")).split()) for _, atoms in frames]
        ids = [str(atoms.info.get("config_id", place)) for place, atoms in frames]
        return cls(ids, arrays, types=types if any(types) else None)

    @classmethod
    def joined(cls, parts: Sequence["StructureStore"]) -> "StructureStore":
        """Several (at least one) as one, in their order."""
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
        arrays["offsets"] = _offsets(np.concatenate([part.sizes for part in parts]))
        types = [[""] * len(part) if part.types is None else part.types for part in parts]
        some = any(part.types is not None for part in parts)
        return cls(Ids.joined(part.ids for part in parts), arrays, types=Ids.joined(types) if some else None)

    def take(self, rows: np.ndarray) -> "StructureStore":
        """These rows, in this order: a copy in memory, but for rows that stand one after another here."""
        run = as_slice(rows)
        if run == slice(0, len(self)):
            return self
        atoms = self.atoms_of(rows) if run is None else slice(self.offsets[run.start], self.offsets[run.stop])
        arrays = {name: getattr(self, name)[atoms] for name in PER_ATOM}
        arrays |= {name: getattr(self, name)[rows if run is None else run] for name in PER_STRUCTURE}
        arrays["offsets"] = _offsets(self.sizes[rows])
        return StructureStore(self.ids.take(rows), arrays, types=self.types and self.types.take(rows))

    def to_tensors(self) -> dict[str, Any]:
        """All as plain values and tensors, for a file."""
        import torch  # here: seconds that commands which read no structures need not wait for

        tensors = {name: torch.from_numpy(getattr(self, name)) for name in ARRAYS}
        texts = {"ids": self.ids, "types": self.types or Ids.of([])}
        tensors |= {name: torch.from_numpy(names.text) for name, names in texts.items()}
        return {"frames": [frames for _, frames in self.files]} | tensors

    @classmethod
    def from_tensors(cls, content: Mapping[str, Any], paths: Sequence[Path] = ()) -> "StructureStore":
        """What `to_tensors` gave, where `paths` are the files that it was read from."""
        ids, types = (Ids(content[name].numpy()) for name in ("ids", "types"))
        arrays = {name: content[name].numpy() for name in ARRAYS}
        return cls(ids, arrays, list(zip(paths, content["frames"], strict=False)), types or None)

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

    def __contains__(self, name: object) -> bool:
        """Whether a structure has this id."""
        return name in self.ids

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """The row numbers of these ids (len(ids),). Raises KeyError for one that is not there."""
        rows = self.ids.find(ids)
        if (rows < 0).any():
            raise KeyError(ids[int(rows.argmin())])
        return rows

    def where(self, row: int) -> tuple[Path, int]:
        """The file of a row and the number of its frame there."""
        for file, frames in self.files:
            if row < frames:
                return file, row
            row -= frames
        raise KeyError(row)

    def place(self, row: int) -> str:
        """File, frame and id of a row, for messages; of rows that were taken the id alone."""
        if not self.files:
            return self.ids[row]
        file, frame = self.where(row)
        return f"{file}: frame {frame} ({self.ids[row]})"

    def contents(self) -> Iterator[bytes]:
        """`content` of each structure."""
        for row, (start, stop) in enumerate(pairwise(self.offsets.tolist())):
            numbers, positions = self.numbers[start:stop], self.positions[start:stop]
            yield content(numbers, positions, self.cells[row], self.pbc[row])

    def atoms_of(self, rows: np.ndarray) -> np.ndarray:
        """Places in the arrays of atoms that belong to these rows, row after row."""
        return places_of(self.offsets, rows)

    def composition(self) -> tuple[np.ndarray, np.ndarray]:
        """Atomic numbers (k,) that occur, ascending, and how often in each structure (n, k)."""
        present, column = np.unique(self.numbers, return_inverse=True)
        row = np.repeat(np.arange(len(self)), self.sizes)
        counts = np.bincount(row * len(present) + column, minlength=len(self) * len(present))
        return present.astype(np.int64), counts.reshape(len(self), len(present))

    def labelled(self) -> dict[str, np.ndarray]:
        """Which structures (n,) have energies, forces and stress, by these names."""
        forces = np.isfinite(self.forces).all(axis=1)
        return {
            "energies": np.isfinite(self.energies),
            "forces": np.logical_and.reduceat(forces, self.offsets[:-1]) if len(self) else forces,
            "stress": np.isfinite(self.stresses).all(axis=(1, 2)),
        }

    def elements(self) -> list[str]:
        """Symbols of the elements that occur, sorted."""
        return sorted(chemical_symbols[z] for z in np.unique(self.numbers))

    def element_sets(self) -> tuple[str, ...]:
        """The elements of each structure, sorted and joined as in "Ag-Au"."""
        numbers, counts = self.composition()
        symbols = np.array([chemical_symbols[z] for z in numbers])
        order = np.argsort(symbols)
        return tuple("-".join(symbols[order][found]) for found in counts[:, order] > 0)

    def atoms(self, row: int) -> Atoms:
        """One structure with its ``config_id`` and, where there are any, its labels in a calculator."""
        part = slice(self.offsets[row], self.offsets[row + 1])
        info = {"config_id": self.ids[row]}
        if self.types and (kind := self.types[row]):
            info["config_type"] = kind
        atoms = Atoms(self.numbers[part], self.positions[part], cell=self.cells[row], pbc=self.pbc[row], info=info)
        labels = {
            "energy": float(self.energies[row]),
            "forces": np.array(self.forces[part]),
            "stress": full_3x3_to_voigt_6_stress(self.stresses[row]),
        }
        if known := {name: value for name, value in labels.items() if np.isfinite(value).all()}:
            atoms.calc = SinglePointCalculator(atoms, **known)
        return atoms


def is_isolated_atom(atoms: Atoms) -> bool:
    """Whether the file marks the frame as a free atom."""
    return str(atoms.info.get("config_type", "")).lower().replace("_", "") == ISOLATED.lower()


def checksum(atoms: Atoms) -> int:
    """64 bits of a SHA-256 over species, positions, cell and periodicity of one structure."""
    whole = content(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
    return int.from_bytes(hashlib.sha256(whole).digest()[:8], "little")


def content(numbers: np.ndarray, positions: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> bytes:
    """Species, positions, cell and periodicity of one structure."""
    lengths = positions.astype("<f8").tobytes() + cell.astype("<f8").tobytes()
    return numbers.astype("<i8").tobytes() + lengths + pbc.tobytes()


def _entries(atoms: Atoms) -> dict[str, Any]:
    """What the arrays hold of one structure."""
    results = atoms.calc.results if atoms.calc is not None else {}
    stress = np.asarray(results.get("stress", np.full(6, np.nan)), dtype=np.float64)
    return {
        "numbers": atoms.numbers,
        "positions": atoms.positions,
        "forces": results.get("forces", np.full((len(atoms), 3), np.nan)),
        "cells": atoms.cell.array,
        "pbc": atoms.pbc,
        "checksums": checksum(atoms),
        "isolated": is_isolated_atom(atoms),
        "energies": results.get("energy", np.nan),
        "stresses": stress if stress.shape == (3, 3) else voigt_6_to_full_3x3_stress(stress),
    }


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _slim(labels: np.ndarray) -> np.ndarray:
    """The same; where all are NaN, in the memory of one number."""
    if labels.strides[0] == 0 or not np.isnan(labels).all():
        return labels
    return np.lib.stride_tricks.as_strided(np.full(1, np.nan), labels.shape, (0,) * labels.ndim)
