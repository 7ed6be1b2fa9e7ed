"""Model inputs of many configurations: each made when it is asked for, costly ones made once and kept on disk."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from filelock import FileLock
from joblib import cpu_count, delayed
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.data.collate import collate
from torch_geometric.data.separate import separate

from eipnn.cache import cache_folder, cache_limit, keep, kept
from eipnn.inputs.base import Inputs
from eipnn.processes import parallel
from eipnn.progress import progress_bar
from eipnn.structures.store import StructureStore

MANY = 1000
"""Structures from which on there is a progress bar."""
MANY_ATOMS = 50_000
"""Atoms from which on inputs are made by several processes; for fewer it takes as long to start them."""
BLOCK = 200
"""Structures that a process takes on in one go, and of one file of the cache."""


class InputSet(Dataset[Data]):
    """Inputs of many configurations, each made when it is asked for."""

    def __init__(self, structures: StructureStore, inputs: Inputs) -> None:
        self.structures, self.inputs = structures, inputs

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, row: int) -> Data:
        return self.inputs(self.structures[row])


class _Block(NamedTuple):
    """Inputs of several structures in a few flat tensors: no object for each."""

    checksums: list[int]
    data: dict[str, Any]
    slices: dict[str, torch.Tensor]


class _Kept(InputSet):
    """Inputs that were made before."""

    def __init__(self, structures: StructureStore, inputs: Inputs, blocks: Sequence[_Block]) -> None:
        super().__init__(structures, inputs)
        self._places = {c: (block, place) for block in blocks for place, c in enumerate(block.checksums)}

    def __getitem__(self, row: int) -> Data:
        block, place = self._places[int(self.structures.checksums[row])]
        return separate(Data, Data.from_dict(block.data), place, block.slices, decrement=False)


def prepare(structures: Sequence[Atoms], inputs: Inputs, folder: Path | None = None) -> InputSet:
    """Inputs of the structures, in their order; costly ones from the cache where they were made before.

    Args:
        structures: not empty.
        inputs: the kind of input and its settings.
        folder: of the cache; `cache_folder()` where none is given.
    """
    structures = StructureStore.of(structures)
    if not inputs.costly:
        return InputSet(structures, inputs)
    cache_limit()  # a wrong one is said before the work
    folder = folder or cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    kind = hashlib.sha256(inputs.key().encode()).hexdigest()[:16]
    rows = {checksum: row for row, checksum in enumerate(structures.checksums.tolist())}
    with FileLock(folder / f"{kind}.lock"):  # of several processes that train together one makes them
        found = (kept(file, _Block._fields) for file in folder.glob(f"{kind}-*.pt"))
        blocks = [_Block(**content) for content in found if content]
        known = {checksum for block in blocks for checksum in block.checksums}
        missing = structures.take(np.array([row for c, row in rows.items() if c not in known], dtype=np.int64))
        room = True
        for block in _make(missing, inputs):
            blocks.append(block)
            room = room and keep(folder / f"{kind}-{block.checksums[0]:016x}.pt", block._asdict(), "model inputs")
    return _Kept(structures, inputs, blocks)


def _make(structures: StructureStore, inputs: Inputs) -> Iterator[_Block]:
    """The inputs of all structures, by several processes and with a progress bar where it takes a while."""
    workers = cpu_count() if len(structures.numbers) >= MANY_ATOMS else 1
    jobs = (delayed(_block)(structures[k : k + BLOCK], inputs) for k in range(0, len(structures), BLOCK))
    shown = bool(structures) and (workers > 1 or len(structures) >= MANY)
    with progress_bar("model inputs", len(structures), "structures", shown) as advance:
        for block in parallel(workers, jobs):
            yield block
            advance(len(block.checksums))


def _block(structures: StructureStore, inputs: Inputs) -> _Block:
    data, slices, _ = collate(Data, [inputs(atoms) for atoms in structures], increment=False, add_batch=False)
    return _Block(structures.checksums.tolist(), data.to_dict(), dict(slices))
