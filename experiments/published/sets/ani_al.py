"""ANI-Al: aluminium, crystals and melts (Smith et al., Nat. Commun. 12, 1257, 2021).

HDF5 files. Each group that holds datasets is a set of n configurations with N atoms each, periodic in all directions:

=============  =============  =========================================
`energy`       (n,)           eV
`cell`         (n, 3, 3)      A, lattice vectors as rows
`species`      (N,)           chemical symbols; (n, N) is read too
`coordinates`  (n, N, 3)      A
`force`        (n, N, 3)      eV/A
=============  =============  =========================================

`fermi` and what else there may be is left out. The id of a configuration is FILE/GROUP/FRAME.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from eipnn.errors import InputError
from eipnn.structures import Split
from sets.base import (
    LayoutError,
    PublishedFrame,
    PublishedSet,
    RemoteFile,
    common_folder,
    found_below,
    hidden_pool_splits,
)

try:
    import h5py
except ModuleNotFoundError:  # no other set needs it; `AniAl.frames` says so
    h5py = None

NEEDED = ("energy", "cell", "species", "coordinates", "force")
DAMAGE = (OSError, RuntimeError, KeyError)  # what h5py raises for a file that is cut short


class AniAl(PublishedSet):
    """See the module."""

    name = "ani-al"
    title = "ANI-Al, aluminium with DFT energies and forces"
    page = "https://github.com/atomistic-ml/ani-al"

    def remote_files(self) -> list[RemoteFile]:
        """The archive in the authors' repository; no checksum of it is published."""
        return [RemoteFile("Al-data.tgz", f"{self.page}/raw/master/data/Al-data.tgz")]

    def frames(self, folders: Sequence[Path]) -> tuple[int, Iterator[PublishedFrame]]:
        """All configurations of all HDF5 files (`.h5`)."""
        if h5py is None:
            raise InputError("ani-al is in HDF5 files, which h5py reads: pip install h5py")
        files = found_below(folders, "*.h5")
        if not files:
            raise LayoutError(f"{folders[0]}: no HDF5 file (.h5) in it; give Al-data.tgz or what it holds")
        total = sum(_count(file) for file in files)
        top = common_folder(files)
        return total, (frame for file in files for frame in _frames(file, top))

    def splits(self, folders: Sequence[Path], dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
        """Every configuration has DFT, so the pool is hidden among them: see `hidden_pool_splits`."""
        return hidden_pool_splits(dft)


def _count(file: Path) -> int:
    """Number of configurations; every group's shapes are checked."""
    try:
        with h5py.File(file, "r") as content:
            return sum(_checked_length(group, file) for group in _groups(content))
    except DAMAGE as error:
        raise _unreadable(file, error) from error


def _frames(file: Path, top: Path) -> Iterator[PublishedFrame]:
    stem = file.relative_to(top).with_suffix("").as_posix()
    try:
        with h5py.File(file, "r") as content:
            for group in _groups(content):
                yield from _group_frames(group, stem, f"{file}: group {group.name}")
    except DAMAGE as error:
        raise _unreadable(file, error) from error


def _group_frames(group: h5py.Group, stem: str, where: str) -> Iterator[PublishedFrame]:
    numbers = _numbers(group, where)  # (n, N)
    energies, cells, positions, forces = (
        np.asarray(group[name], dtype=np.float64) for name in ("energy", "cell", "coordinates", "force")
    )
    for index in range(len(numbers)):
        name = f"{stem}{group.name.rstrip('/')}/{index:06d}"
        atoms = Atoms(numbers[index], positions[index], cell=cells[index], pbc=True, info={"config_id": name})
        atoms.calc = SinglePointCalculator(atoms, energy=float(energies[index]), forces=forces[index])
        yield PublishedFrame(f"{where}: frame {index}", atoms)


def _groups(content: h5py.Group) -> Iterator[h5py.Group]:
    """The group itself and all below it, those with datasets alone, in order of their names."""
    if any(isinstance(item, h5py.Dataset) for item in content.values()):
        yield content
    for name in sorted(content):
        if isinstance(content[name], h5py.Group):
            yield from _groups(content[name])


def _checked_length(group: h5py.Group, file: Path) -> int:
    where = f"{file}: group {group.name}"
    for name in NEEDED:
        if not isinstance(group.get(name), h5py.Dataset):
            raise LayoutError(f"{where}: the dataset {name!r} is missing; it holds {', '.join(sorted(group))}")
    shape = group["coordinates"].shape
    if len(shape) != 3 or shape[2] != 3:
        raise LayoutError(f"{where}: coordinates have the shape {shape}, not (n, N, 3)")
    for name, due in (("energy", shape[:1]), ("cell", (shape[0], 3, 3)), ("force", shape)):
        if group[name].shape != due:
            raise LayoutError(
                f"{where}: {name} has the shape {group[name].shape}, and the coordinates, of {shape}, ask for {due}"
            )
        if group[name].dtype.kind != "f":
            raise LayoutError(f"{where}: {name} holds {group[name].dtype}, not numbers")
    if group["species"].shape not in (shape[1:2], shape[:2]):
        raise LayoutError(
            f"{where}: species have the shape {group['species'].shape}, and the coordinates, of {shape}, ask for "
            f"{shape[1:2]}"
        )
    return int(shape[0])


def _numbers(group: h5py.Group, where: str) -> np.ndarray:
    """Atomic numbers (n, N)."""
    species = group["species"]
    try:
        symbols = species.asstr()[()]
        known = {symbol: atomic_numbers[symbol] for symbol in np.unique(symbols)}
    except TypeError:
        raise LayoutError(f"{where}: species holds {species.dtype}, not symbols") from None
    except KeyError as error:
        raise LayoutError(f"{where}: species {error.args[0]!r} is no chemical symbol") from None
    numbers = np.array([known[symbol] for symbol in symbols.flat]).reshape(symbols.shape)
    return np.broadcast_to(numbers, group["coordinates"].shape[:2])


def _unreadable(file: Path, error: Exception) -> LayoutError:
    reason = " ".join(str(error).split())
    return LayoutError(f"{file}: no HDF5 file, or cut short ({reason}); get it again")
