"""What a published data set is: where its files are, how they are read, and how the paper splits it."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms

from eipnn.errors import InputError
from eipnn.structures import Split, StructureError, random_split
from eipnn.structures.split import VAL_SHARE

NUMBERS = (1, 2, 3)
POOL, TRAIN, VAL = 80, 12, 4  # percent of all configurations; the rest is the test set


class LayoutError(InputError):
    """A published file is not as published; the message names file, frame and what is wrong."""


class UnreachableError(InputError):
    """A published file cannot be had from here."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download. `size` in bytes and `md5` are None where the publisher states none."""

    name: str
    url: str
    size: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class PublishedFrame:
    """One configuration as published.

    Args:
        where: file and frame, for messages.
        atoms: positions and cell in A, `info["config_id"]`, and a calculator with the DFT energy (eV) and forces
            (eV/A); without one it belongs to the pool.
        eips: total energies in eV by EIP, where the set comes with them.
    """

    where: str
    atoms: Atoms
    eips: Mapping[str, float] = field(default_factory=dict)


class PublishedSet(ABC):
    """A published data set: the reader of its layout and the paper's splits of it."""

    name: ClassVar[str]
    title: ClassVar[str]
    page: ClassVar[str]
    """Where a person finds it."""

    @abstractmethod
    def remote_files(self) -> list[RemoteFile]:
        """What to download. Raises `UnreachableError` where that cannot be found out."""

    @abstractmethod
    def frames(self, folders: Sequence[Path]) -> tuple[int, Iterator[PublishedFrame]]:
        """The number of configurations below these folders, and one after another in an order that is always the same.

        Raises `LayoutError` for what is not as published.
        """

    @abstractmethod
    def splits(self, folders: Sequence[Path], dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
        """Splits by file name (`random_1`, ...) of the configurations with these ids."""


def found_below(folders: Iterable[Path], pattern: str) -> list[Path]:
    """All files of this name pattern below the folders, in order; what archivers of macOS add (`._NAME`) is no file."""
    paths = (path for folder in folders for path in folder.rglob(pattern))
    return sorted(path for path in paths if not path.name.startswith("._"))


def common_folder(paths: Sequence[Path]) -> Path:
    """The folder that holds all of `paths`: names relative to it are the same wherever a set was unpacked."""
    return Path(os.path.commonpath([path.parent for path in paths]))


def random_splits(dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
    """Three splits by the paper's rule, see `random_split`."""
    return {f"random_{number}": random_split(dft, pool, number) for number in NUMBERS}


def hidden_pool_splits(ids: Sequence[str]) -> dict[str, Split]:
    """Three splits of a set in which every configuration has DFT.

    80 % of the configurations are the pool: their DFT energies are in the file, but no stage reads them. It is the same
    pool in all three; of the rest each split draws anew 12 % / 4 % / 4 % (of all) for training, validation and test.
    """
    n_pool, n_train, n_val = (len(ids) * percent // 100 for percent in (POOL, TRAIN, VAL))
    if n_val == 0:
        raise StructureError(f"{len(ids)} configurations are too few for a split; 25 is the least")
    order = np.random.default_rng(0).permutation(len(ids))
    pool, rest = order[:n_pool], order[n_pool:]
    splits = {}
    for number in NUMBERS:
        shuffled = np.random.default_rng(number).permutation(rest)
        parts = np.split(shuffled, [n_train, n_train + n_val])
        train, val, test = (tuple(ids[row] for row in sorted(part)) for part in parts)
        splits[f"random_{number}"] = Split(train, val, test, tuple(ids[row] for row in sorted(pool)))
    return splits


def fold_split(training: Sequence[str], test: Sequence[str], everything: Sequence[str], seed: int) -> Split:
    """The split of a fold: 20 % of its training part is validation, and what is in neither part is the pool."""
    order = np.random.default_rng(seed).permutation(len(training))
    n_val = int(len(training) * VAL_SHARE)
    val, train = (tuple(training[row] for row in sorted(rows)) for rows in (order[:n_val], order[n_val:]))
    named = {*training, *test}
    return Split(train, val, tuple(test), tuple(i for i in everything if i not in named))
