"""What a published data set is: where its files are, how they are read, and how it is split."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from ase import Atoms

from eipnn.errors import InputError
from eipnn.structures import Split


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
