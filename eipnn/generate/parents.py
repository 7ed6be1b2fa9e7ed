"""What structures are made from: the user's own frames, and crystals of given elements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii, reference_states

from eipnn.errors import InputError
from eipnn.neighbours import heights
from eipnn.structures import Split, StructureStore, open_structures, random_split, read_split, without_isolated_atoms
from eipnn.structures.store import checksum

COORDINATION = {"fcc": 12, "bcc": 8, "hcp": 12, "sc": 6, "diamond": 4}
PAULING = 0.6
"""A: bonds grow by this times the logarithm (base 10) of the coordination (Pauling, J. Am. Chem. Soc. 69, 542
(1947)). It gives 2.68 A for simple cubic aluminium from 2.86 A in fcc."""
VACUUM = 4.0, 8.0
"""A: a layer without atoms that is wider than three bonds is vacuum; between crystals of hydrogen and of caesium."""


def digest(checksum: int) -> str:
    """A text, which no reader takes for a number, of a structure's `checksum`."""
    return f"d{checksum:016x}"


@dataclass(frozen=True)
class Frame:
    """A structure of the user's: positions, cell and elements alone."""

    name: str
    atoms: Atoms

    @cached_property
    def dense(self) -> bool:
        """Whether its volume per atom is that of matter: periodic along all axes, and without a layer of vacuum."""
        bonds = 6 * covalent_radii[self.atoms.numbers].max()
        return bool(self.atoms.pbc.all()) and widest_gap(self.atoms) < np.clip(bonds, *VACUUM)

    def draw(self, rng: np.random.Generator) -> Atoms:
        """A copy; nothing is drawn."""
        return self.atoms.copy()

    def told(self) -> dict[str, str]:
        """What its children have in their ``info``: its id, and what tells it where ids have changed since."""
        return {"parent": self.name, "parent_digest": digest(checksum(self.atoms))}

    def description(self) -> list[Any]:
        """Plain values that say what it is."""
        atoms = self.atoms
        arrays = (atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)
        return [self.name, *(a.tolist() for a in arrays)]


def widest_gap(atoms: Atoms) -> float:
    """The widest layer (A) along a lattice plane of a periodic cell that holds the centre of no atom."""
    sites = np.sort(atoms.get_scaled_positions(), axis=0)  # within the cell
    gaps = np.diff(np.vstack([sites, sites[:1] + 1]), axis=0).max(axis=0)
    return float((gaps * heights(atoms)).max())


@dataclass(frozen=True)
class Prototype:
    """A crystal whose sites are occupied at random.

    Args:
        structure: a key of `COORDINATION`.
        repeats: conventional cells along each axis.
        spacing: for each element the distance (A) of neighbours where there are 12 of them.
    """

    structure: str
    repeats: tuple[int, int, int]
    spacing: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.structure}-{len(self.sites)}"

    def told(self) -> dict[str, str]:
        """What its children have in their ``info``."""
        return {"parent": self.name}

    @cached_property
    def sites(self) -> Atoms:
        """The crystal with neighbours 1 A apart."""
        return unit_crystal(self.structure).repeat(self.repeats)

    def draw(self, rng: np.random.Generator) -> Atoms:
        """Every composition, the pure ones included, is as likely as any other; cells have the mean spacing."""
        atoms = self.sites.copy()
        atoms.symbols[:] = _occupation(rng, sorted(self.spacing), len(atoms))
        mean = float(np.mean([self.spacing[symbol] for symbol in atoms.symbols]))
        atoms.set_cell(atoms.cell * (mean - _shorter(self.structure)), scale_atoms=True)
        return atoms

    def shortest(self) -> float:
        """The shortest distance (A) that `draw` can give."""
        return min(self.spacing.values()) - _shorter(self.structure)

    def description(self) -> list[Any]:
        """Plain values that say what it is."""
        return [self.structure, list(self.repeats), dict(self.spacing)]


def _occupation(rng: np.random.Generator, elements: list[str], n: int) -> np.ndarray:
    """Elements of n sites: bars at random among n stars, then in random order."""
    places = rng.choice(n + len(elements) - 1, len(elements) - 1, replace=False)
    edges = np.concatenate([[-1], np.sort(places), [n + len(elements) - 1]])
    return rng.permutation(np.repeat(elements, np.diff(edges) - 1))


def _shorter(structure: str) -> float:
    """How much closer (A) neighbours are in a structure than at coordination 12."""
    return PAULING * float(np.log10(12 / COORDINATION[structure]))


def unit_crystal(structure: str) -> Atoms:
    """A conventional cell with neighbours 1 A apart; the atoms are placeholders."""
    lengths = {"fcc": 2**0.5, "bcc": 2 / 3**0.5, "diamond": 4 / 3**0.5}
    shape = {"orthorhombic": structure == "hcp", "cubic": structure in lengths}
    return bulk("H", structure, a=lengths.get(structure, 1.0), **shape)


def read_parents(files: Sequence[str], split: str | None) -> tuple[list[Frame], int, Split | None]:
    """The user's frames; with a split (a CSV file, or `random:K`) those of its training part alone.

    Children of validation frames would spoil the choice of the best epoch, as those of test frames would the test.

    Returns:
        the frames but for free atoms, the number of frames in the files, and the split.

    Raises:
        InputError: a file is bad, an id stands twice, or no frame is left.
    """
    found = open_structures(files, labels=False) if files else StructureStore.of([])
    structures = without_isolated_atoms(found)
    ids = structures.ids
    chosen = _split(split, ids) if split else None
    if chosen:
        replace(chosen, val=(), test=(), pool=()).check(ids, (), str(split))
    train = set(chosen.train if chosen else ids)
    frames = [
        Frame(name, Atoms(a.numbers, a.positions, cell=a.cell, pbc=a.pbc))
        for name, a in zip(ids, structures, strict=True)
        if name in train and (len(a) > 1 or a.pbc.any())
    ]
    if files and not frames:
        raise InputError(
            f"{', '.join(files)}: no frame to start from (free atoms and what is not in the training part do not "
            "count); give other frames, another split, or --elements"
        )
    return frames, len(found), chosen


def _split(text: str, ids: Sequence[str]) -> Split:
    kind, _, number = text.partition(":")
    if kind != "random":
        return read_split(text)
    if not number.isdecimal():
        raise InputError(f"--split {text}: write random:1 for the first random split of `eipnn run`")
    return random_split(ids, (), int(number))


def make_prototypes(
    elements: Sequence[str],
    structures: Sequence[str],
    lattice_constant: float | None,
    frames: Sequence[Frame],
    max_atoms: int,
) -> list[Prototype]:
    """Crystals of the elements, each in cells of several sizes up to `max_atoms`.

    Neighbours are as far apart as `lattice_constant` (A, of the first structure) says, else as the median volume per
    atom of the `dense` frames says, again for the first structure, else as in the elements' own crystals.
    """
    for element in elements:
        if element not in atomic_numbers or element == "X":
            raise InputError(f"--elements: {element!r} is no chemical symbol; write Al or Ag Au")
    if not elements:
        return []
    order = structures or sorted(COORDINATION, key=lambda structure: structure != _own_crystal(elements[0])[0])
    spacing = _spacings(elements, order[0], lattice_constant, frames)
    repeats = ((1, 1, 1), (1, 1, 2), (1, 2, 2), (2, 2, 2), (2, 2, 3), (2, 3, 3), (3, 3, 3))
    crystals = [Prototype(structure, cells, spacing) for structure in order for cells in repeats]
    small = [c for c in crystals if len(c.sites) <= max_atoms]
    if not small:
        raise InputError(f"--max-atoms {max_atoms}: no cell of {order[0]} is as small; raise it")
    return small


def _own_crystal(element: str) -> tuple[str, float]:
    """Structure and lattice constant (A) in ASE's table of the elements' crystals."""
    state: dict[str, Any] = reference_states[atomic_numbers[element]] or {}
    return state.get("symmetry", ""), state.get("a", np.nan)


def _spacings(elements: Sequence[str], first: str, constant: float | None, frames: Sequence[Frame]) -> dict[str, float]:
    """For each element the distance (A) of neighbours at coordination 12."""
    unit = unit_crystal(first)
    volumes = [f.atoms.get_volume() / len(f.atoms) for f in frames if f.dense]
    if constant is not None:
        bond = constant / unit.cell.lengths()[0]
    elif volumes:
        bond = float(np.median(volumes) / (unit.get_volume() / len(unit))) ** (1 / 3)
    else:
        return {element: _own_spacing(element) for element in elements}
    return dict.fromkeys(elements, bond + _shorter(first))


def _own_spacing(element: str) -> float:
    structure, constant = _own_crystal(element)
    if structure not in COORDINATION:
        raise InputError(
            f"--elements {element}: the crystal of the element is none of {', '.join(COORDINATION)}; give "
            "--lattice-constant, of the first of --prototypes"
        )
    return constant / unit_crystal(structure).cell.lengths()[0] + _shorter(structure)
