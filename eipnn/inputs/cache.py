"""Model inputs of many configurations: each made when it is asked for, costly ones made once and kept on disk."""

import hashlib
import logging
import zipfile
from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from joblib import cpu_count, delayed
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.data.collate import collate
from torch_geometric.data.separate import separate

from eipnn.cache import cache_folder, cache_limit, keep, kept
from eipnn.files import alone
from eipnn.inputs.base import Inputs
from eipnn.processes import parallel
from eipnn.progress import progress_bar
from eipnn.structures.store import StructureStore

log = logging.getLogger("eipnn")

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
    kind = hashlib.sha256(inputs.key().encode()).hexdigest()[:16]
    rows = {checksum: row for row, checksum in enumerate(structures.checksums.tolist())}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f"{kind}.lock", folder, "model inputs"):  # of several that train together one makes them
            return _Kept(structures, inputs, _blocks(structures, inputs, rows, folder / kind))
    except PermissionError as error:
        log.warning("model inputs are not kept: %s", error)
        return _Kept(structures, inputs, list(_make(structures.take(_array(rows.values())), inputs)))


def _blocks(structures: StructureStore, inputs: Inputs, rows: dict[int, int], prefix: Path) -> list[_Block]:
    """Blocks that hold the structures of these checksums: those of the cache, and what is missing there."""
    files = [file for file in prefix.parent.glob(f"{prefix.name}-*.pt") if _may_hold(file, rows.keys())]
    blocks = [_Block(**content) for file in files if (content := kept(file, _Block._fields))]
    known = {checksum for block in blocks for checksum in block.checksums}
    room = True
    for block in _make(structures.take(_array(row for c, row in rows.items() if c not in known)), inputs):
        blocks.append(block)
        file = prefix.with_name(f"{prefix.name}-{block.checksums[0]:016x}.pt")
        room = room and keep(file, block._asdict(), "model inputs")
    return blocks


def _may_hold(file: Path, checksums: Set[int]) -> bool:
    """Whether a block's file holds any of the structures, by a look at its head; of a damaged one `kept` tells."""
    try:
        with zipfile.ZipFile(file) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    archive.read(name)  # it compares the checksum
        return not checksums.isdisjoint(torch.load(file, weights_only=True, mmap=True)["checksums"])
    except Exception:  # zipfile and torch raise many kinds
        return True


def _array(rows: Iterable[int]) -> np.ndarray:
    return np.array(list(rows), dtype=np.int64)


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
