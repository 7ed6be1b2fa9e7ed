"""Model inputs of many configurations, built once and kept on disk."""

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from filelock import FileLock
from joblib import cpu_count, delayed
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.data.collate import collate
from torch_geometric.data.separate import separate

from eipnn.cache import cache_folder, cache_limit, prune
from eipnn.files import DiskFullError
from eipnn.inputs.base import Inputs
from eipnn.processes import parallel
from eipnn.progress import progress_bar
from eipnn.structures.store import StructureStore
from eipnn.tensor_files import read_tensors, write_tensors

log = logging.getLogger("eipnn")

MANY = 1000
"""Structures from which on there is a progress bar."""
MANY_ATOMS = 50_000
"""Atoms from which on costly inputs are built by several processes; for fewer it takes as long to start them."""
BLOCK = 32
"""Structures that a process builds in one go."""


class InputSet(Dataset[Data]):
    """Inputs of many configurations in a few flat tensors (so that 10^6 configurations are no 10^6 objects)."""

    def __init__(self, data: Data, slices: dict[str, torch.Tensor]) -> None:
        self.data, self.slices = data, slices

    def __len__(self) -> int:
        return len(self.slices["n_atoms"]) - 1

    def __getitem__(self, index: int) -> Data:
        return separate(Data, self.data, index, self.slices, decrement=False)


def prepare(
    structures: Sequence[Atoms],
    inputs: Inputs,
    folder: Path | None = None,
    workers: int | None = None,
) -> InputSet:
    """Inputs of the structures, in their order; from the cache where the same were built before.

    Args:
        structures: not empty.
        inputs: the kind of input and its settings.
        folder: of the cache; `cache_folder()` where none is given.
        workers: processes that build them; where none is given, one for each core if it is worth it.
    """
    cache_limit()  # a wrong one is said before the work
    structures = StructureStore.of(structures)
    file = (folder or cache_folder()) / f"{_digest(structures, inputs)}.pt"
    if (found := _read(file)) is not None:
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_suffix(".lock")):  # of several processes that train together one builds
        if (found := _read(file)) is not None:
            return found
        if workers is None:
            atoms = len(structures.numbers) if inputs.costly else 0
            workers = cpu_count() if atoms >= MANY_ATOMS else 1
        items = list(_build(structures, inputs, workers))
        data, slices = _flat(items)
        try:
            write_tensors(file, {"data": data.to_dict(), "slices": slices})
            prune(file.parent)
        except DiskFullError as error:
            log.warning("model inputs are not kept: %s", error)
    return InputSet(data, slices)


def _build(structures: Sequence[Atoms], inputs: Inputs, workers: int) -> Iterator[Data]:
    """The inputs of each structure, with a progress bar where it takes a while."""
    starts = range(0, len(structures), BLOCK)
    jobs = (delayed(_block)(structures[k : k + BLOCK], inputs) for k in starts)
    shown = workers > 1 or len(structures) >= MANY
    with progress_bar("model inputs", len(structures), "structures", shown) as advance:
        for data, slices in parallel(workers, jobs):
            block = InputSet(Data.from_dict(data), slices)
            yield from (block[k] for k in range(len(block)))
            advance(len(block))


def _block(structures: Sequence[Atoms], inputs: Inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of a few structures in flat tensors: few objects, which go from process to process in little time."""
    data, slices = _flat([inputs(atoms) for atoms in structures])
    return data.to_dict(), slices


def _flat(items: list[Data]) -> tuple[Data, dict[str, torch.Tensor]]:
    data, slices, _ = collate(Data, items, increment=False, add_batch=False)
    return data, dict(slices)


def _digest(structures: StructureStore, inputs: Inputs) -> str:
    digest = hashlib.sha256(inputs.key().encode())
    for name in ("sizes", "numbers", "positions", "cells", "pbc"):
        array = np.ascontiguousarray(getattr(structures, name))
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _read(file: Path) -> InputSet | None:
    """The inputs in the file, None where there is no such file or it is damaged."""
    if not file.exists():
        return None
    try:
        content = read_tensors(file)
        os.utime(file)  # the time of its last use, for `prune`
        return InputSet(Data.from_dict(content["data"]), content["slices"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: damaged file of the input cache (%s): built again", file, error)
        file.unlink(missing_ok=True)
        return None
