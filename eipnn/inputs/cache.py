"""Model inputs of many configurations, built once and kept on disk."""

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import platformdirs
import torch
from ase import Atoms
from rich.progress import track
from torch.utils.data import Dataset
from torch_geometric.data import Data
from torch_geometric.data.collate import collate
from torch_geometric.data.separate import separate

from eipnn.inputs.base import Inputs

log = logging.getLogger("eipnn")


def cache_folder() -> Path:
    """``$EIPNN_CACHE``, or the user's cache folder. Safe to delete at any time."""
    return Path(os.environ.get("EIPNN_CACHE") or platformdirs.user_cache_dir("eipnn"))


class InputSet(Dataset[Data]):
    """Inputs of many configurations in a few flat tensors (so that 10^6 configurations are no 10^6 objects)."""

    def __init__(self, data: Data, slices: dict[str, torch.Tensor]) -> None:
        self.data, self.slices = data, slices

    def __len__(self) -> int:
        return len(self.slices["n_atoms"]) - 1

    def __getitem__(self, index: int) -> Data:
        return separate(Data, self.data, index, self.slices, decrement=False)


def prepare(structures: Sequence[Atoms], inputs: Inputs, folder: Path | None = None) -> InputSet:
    """Inputs of the structures, in their order; from the cache where the same were built before.

    Args:
        structures: not empty.
        inputs: the kind of input and its settings.
        folder: of the cache; `cache_folder()` where none is given.
    """
    file = (folder or cache_folder()) / f"{_digest(structures, inputs)}.pt"
    if file.exists():
        try:
            return _read(file)
        except Exception as error:  # torch and pickle raise many kinds
            log.warning("%s: damaged file of the input cache (%s): built again", file, error)
    items = [
        inputs(atoms)
        for atoms in track(structures, description="model inputs", disable=len(structures) < 1000)
    ]
    data, slices, _ = collate(Data, items, increment=False, add_batch=False)
    _write(file, {"data": data.to_dict(), "slices": dict(slices)})
    return InputSet(data, slices)


def _digest(structures: Sequence[Atoms], inputs: Inputs) -> str:
    digest = hashlib.sha256(inputs.key().encode())
    for atoms in structures:
        for array in (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc):
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _read(file: Path) -> InputSet:
    content = torch.load(file, weights_only=True)
    return InputSet(Data.from_dict(content["data"]), content["slices"])


def _write(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    torch.save(content, part)
    part.replace(file)
