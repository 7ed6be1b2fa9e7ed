"""AgAu: silver, gold and their alloys (Wang et al., Modelling Simul. Mater. Sci. Eng. 30, 025003, 2021).

Made with DP-GEN and published in DeePMD's layout. Every folder with a `type.raw` is a system of N atoms:

==================  ===========  ============================================
`type.raw`          N numbers    index of each atom's element in `type_map.raw`
`type_map.raw`      symbols
`set.*/coord.npy`   (n, 3 N)     A
`set.*/box.npy`     (n, 9)       A, lattice vectors as rows; periodic in all directions
`set.*/energy.npy`  (n,)         eV; (n, 1) is read too
`set.*/force.npy`   (n, 3 N)     eV/A
==================  ===========  ============================================

The id of a configuration is SYSTEM/SET/FRAME.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers

from eipnn.structures import Split
from sets.base import (
    LayoutError,
    PublishedFrame,
    PublishedSet,
    RemoteFile,
    UnreachableError,
    common_folder,
    found_below,
    hidden_pool_splits,
)

OTHER_LAYOUTS = {
    "nopbc": "marks open boundaries, and this set is periodic",
    "set.*/real_atom_types.npy": "belongs to DeePMD's mixed layout, which is not read",
}


class AgAu(PublishedSet):
    """See the module."""

    name = "agau"
    title = "AgAu, silver, gold and alloys with DFT energies and forces"
    page = "https://www.aissquare.com/datasets/detail?pageType=datasets&name=AgAu-nanoalloy"

    def remote_files(self) -> list[RemoteFile]:
        """Always raises: the publisher's page has a download button, but no address that stays the same."""
        raise UnreachableError(f"{self.page} publishes no fixed address of a file")

    def frames(self, folders: Sequence[Path]) -> tuple[int, Iterator[PublishedFrame]]:
        """All configurations of all systems."""
        systems = [file.parent for file in found_below(folders, "type.raw")]
        if not systems:
            raise LayoutError(
                f"{folders[0]}: no DeePMD system (a folder with type.raw) in it; give the published archive"
            )
        top = common_folder(systems)
        sets = [(system, part) for system in systems for part in _sets(system)]
        total = sum(len(_load(part / "energy.npy")) for _, part in sets)
        return total, (frame for system, part in sets for frame in _frames(system, part, top))

    def splits(self, folders: Sequence[Path], dft: Sequence[str], pool: Sequence[str]) -> dict[str, Split]:
        """Every configuration has DFT, so the pool is hidden among them as in ANI-Al: see `hidden_pool_splits`."""
        return hidden_pool_splits(dft)


def _sets(system: Path) -> list[Path]:
    for pattern, what in OTHER_LAYOUTS.items():
        for file in system.glob(pattern):
            raise LayoutError(f"{file}: {what}")
    sets = sorted(path for path in system.glob("set.*") if path.is_dir())
    if not sets:
        raise LayoutError(f"{system}: has type.raw, but no folder set.*")
    return sets


def _frames(system: Path, part: Path, top: Path) -> Iterator[PublishedFrame]:
    numbers = _numbers(system)
    n_atoms = len(numbers)
    energies = _array(part / "energy.npy", (len(_load(part / "energy.npy")),))
    n = len(energies)
    positions = _array(part / "coord.npy", (n, n_atoms, 3))
    cells = _array(part / "box.npy", (n, 3, 3))
    forces = _array(part / "force.npy", (n, n_atoms, 3))
    for index in range(n):
        name = f"{part.relative_to(top).as_posix()}/{index:06d}"
        atoms = Atoms(numbers, positions[index], cell=cells[index], pbc=True, info={"config_id": name})
        atoms.calc = SinglePointCalculator(atoms, energy=energies[index], forces=forces[index])
        yield PublishedFrame(f"{part}: frame {index}", atoms)


def _numbers(system: Path) -> np.ndarray:
    """Atomic numbers (N,)."""
    symbols = _words(system / "type_map.raw")
    if wrong := [symbol for symbol in symbols if symbol not in atomic_numbers]:
        raise LayoutError(f"{system / 'type_map.raw'}: {wrong[0]!r} is no chemical symbol")
    types = _words(system / "type.raw")
    for word in types:
        if not word.isdecimal() or int(word) >= len(symbols):
            raise LayoutError(
                f"{system / 'type.raw'}: {word!r} is no index into the {len(symbols)} elements of type_map.raw"
            )
    return np.array([atomic_numbers[symbols[int(word)]] for word in types])


def _words(file: Path) -> list[str]:
    try:
        words = file.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        raise LayoutError(f"{file}: is missing; without it the elements are not known") from None
    if not words:
        raise LayoutError(f"{file}: is empty")
    return words


def _load(file: Path) -> np.ndarray:
    """An array by memory map."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise LayoutError(f"{file}: is missing; every set.* folder has one") from None
    except (ValueError, OSError, EOFError) as error:
        raise LayoutError(f"{file}: no NumPy array, or cut short ({error}); get it again") from None
    if array.ndim == 0 or array.dtype.kind != "f":
        raise LayoutError(f"{file}: holds {array.dtype} {array.shape}, not a list of numbers")
    return array


def _array(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of one row a configuration, in float64 and this shape."""
    array = _load(file)
    if len(array) != shape[0] or array.size != np.prod(shape):
        raise LayoutError(
            f"{file}: has the shape {array.shape}, and {shape[0]} configurations in energy.npy"
            + (f" of {shape[1]} atoms in type.raw" if shape[1:2] != (3,) and shape[1:] else "")
            + f" ask for {shape}"
        )
    return np.asarray(array, dtype=np.float64).reshape(shape)
