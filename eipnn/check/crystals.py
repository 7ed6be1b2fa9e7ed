"""The crystals that a check looks at: those of files, or for each element the one that the potential likes best."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.data import atomic_numbers, covalent_radii, reference_states
from ase.filters import FrechetCellFilter
from ase.io import read
from ase.optimize import BFGS

from eipnn.errors import InputError, UsageError
from eipnn.neighbours import heights

SIMPLE: Mapping[str, Callable[[list[str], float], Atoms]] = {
    "fcc": lambda s, d: bulk(s[0], "fcc", a=d * 2**0.5, cubic=True),
    "bcc": lambda s, d: bulk(s[0], "bcc", a=d * 2 / 3**0.5, cubic=True),
    "hcp": lambda s, d: bulk(s[0], "hcp", a=d, c=d * (8 / 3) ** 0.5, orthorhombic=True),
    "diamond": lambda s, d: bulk(s[0], "diamond", a=d * 4 / 3**0.5, cubic=True),
    "sc": lambda s, d: bulk(s[0], "sc", a=d),
}
COMPOUNDS: Mapping[str, Callable[[list[str], float], Atoms]] = {
    "rocksalt": lambda s, d: bulk("".join(s), "rocksalt", a=2 * d, cubic=True),
    "zincblende": lambda s, d: bulk("".join(s), "zincblende", a=d * 4 / 3**0.5, cubic=True),
    "CsCl": lambda s, d: bulk("".join(s), "cesiumchloride", a=d * 2 / 3**0.5),
    "L1_0": lambda s, d: _layered(s, d),
}
"""Structure -> conventional cell of the elements with neighbours so far apart (A)."""
SPACINGS = np.linspace(0.85, 1.5, 27)
"""Distances of neighbours that are tried, in sums of covalent radii."""
FMAX = 2e-3
"""eV/A: what relaxed atoms and, times atoms, cells may have left."""


@dataclass(frozen=True)
class Crystal:
    """A conventional cell, relaxed where `relaxed_crystal` made it; `structure` is its name or file."""

    structure: str
    atoms: Atoms


def placed(atoms: Atoms, calculator: Calculator) -> Atoms:
    """A copy with this calculator."""
    atoms = atoms.copy()
    atoms.calc = calculator
    return atoms


def relax(atoms: Atoms, cell: bool = False, fmax: float = FMAX, steps: int = 100) -> bool:
    """Move atoms, and their cell too, to least energy; whether they came to rest."""
    moved: Any = FrechetCellFilter(atoms) if cell else atoms
    return bool(BFGS(moved, logfile=None).run(fmax=fmax, steps=steps))


def relaxed_crystal(crystal: Crystal, calculator: Calculator) -> Crystal:
    """Atoms and cell at least energy under this calculator; atoms alone where it has no stress.

    Raises:
        InputError: there is no rest for them within 25 to 300 % of the volume.
    """
    atoms = placed(crystal.atoms, calculator)
    rests = relax(atoms, cell=has_stress(atoms))
    if not (rests and 0.25 < atoms.get_volume() / crystal.atoms.get_volume() < 3):
        raise InputError(f"{crystal.structure}: does not come to rest under the potential")
    return Crystal(crystal.structure, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))


def has_stress(atoms: Atoms) -> bool:
    """Whether its calculator knows the stress."""
    try:
        atoms.get_stress()
    except PropertyNotImplementedError:
        return False
    return True


def relaxed_all(crystals: Mapping[str, Crystal], calculator: Calculator) -> tuple[dict[str, Crystal], dict[str, str]]:
    """Those that come to rest, relaxed, and why the others did not."""
    found, problems = {}, {}
    for name, crystal in crystals.items():
        try:
            found[name] = relaxed_crystal(crystal, calculator)
        except InputError as error:
            problems[name] = str(error)
        except Exception as error:  # each potential has its own kinds
            problems[name] = f"{crystal.structure}: {type(error).__name__}: {' '.join(str(error).split())}"
    return found, problems


def read_crystals(files: Sequence[Path], elements: Sequence[str]) -> dict[str, Crystal]:
    """Name of the file without its suffix -> the last frame of it.

    Raises:
        UsageError: one cannot be read, has open axes or an element that the potential does not know.
    """
    found = {}
    for file in files:
        try:
            atoms: Any = read(file, index=-1, do_not_split_by_at_sign=True)
        except Exception as error:  # ASE's readers have each their own
            raise UsageError(f"--crystal {file}: ASE cannot read it ({error})") from error
        if not atoms.pbc.all() or not atoms.get_volume():
            raise UsageError(f"--crystal {file}: a crystal is periodic along three axes; give its cell")
        if strange := set(atoms.symbols) - set(elements):
            raise UsageError(f"--crystal {file}: the potential does not know {' '.join(sorted(strange))}")
        if file.stem in found:
            raise UsageError(f"--crystal {file}: two files are called {file.stem}; rename one")
        found[file.stem] = Crystal(file.name, Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))
    return found


def find_crystals(elements: Sequence[str], calculator: Calculator) -> dict[str, Crystal]:
    """For each element, and two together, the simple structure of least energy per atom, relaxed.

    What holds together in no structure is not there.
    """
    wanted = [[symbol] for symbol in elements] + ([list(elements)] if len(elements) == 2 else [])
    found = {"".join(symbols): _best(symbols, calculator) for symbols in wanted}
    return {name: crystal for name, crystal in found.items() if crystal}


def _best(symbols: list[str], calculator: Calculator) -> Crystal | None:
    structures = SIMPLE if len(symbols) == 1 else COMPOUNDS
    spacings = SPACINGS * 2 * np.mean([covalent_radii[atomic_numbers[s]] for s in symbols])
    candidates = []
    for name, make in structures.items():
        energies = [energy_per_atom(make(symbols, d), calculator) for d in spacings]
        # the deepest minimum within: what falls towards shorter distances is a hole, no crystal
        inner = [k for k in range(1, len(energies) - 1) if energies[k] < min(energies[k - 1], energies[k + 1])]
        if inner:
            lowest = min(inner, key=energies.__getitem__)
            candidates.append((energies[lowest], Crystal(name, make(symbols, spacings[lowest]))))
    best = sorted(candidates, key=lambda candidate: candidate[0])[:2]
    relaxed, _ = relaxed_all({crystal.structure: crystal for _, crystal in best}, calculator)
    return min(relaxed.values(), key=lambda crystal: energy_per_atom(crystal.atoms, calculator), default=None)


def known_crystal(crystal: Crystal, calculator: Calculator) -> Crystal | None:
    """The structure that ASE's table has of this element, relaxed; None where it is the same or none of `SIMPLE`."""
    (symbol, *others) = sorted(set(crystal.atoms.symbols))
    table: dict[str, Any] = reference_states[atomic_numbers[symbol]] or {}
    structure = table.get("symmetry", "")
    if others or crystal.structure == structure or not {crystal.structure, structure} <= set(SIMPLE):
        return None
    atoms = SIMPLE[structure]([symbol], 1.0)
    volume = crystal.atoms.get_volume() / len(crystal.atoms) * len(atoms)
    atoms.set_cell(atoms.cell * (volume / atoms.get_volume()) ** (1 / 3), scale_atoms=True)
    return relaxed_all({symbol: Crystal(structure, atoms)}, calculator)[0].get(symbol)


def energy_per_atom(atoms: Atoms, calculator: Calculator) -> float:
    """eV/atom."""
    return placed(atoms, calculator).get_potential_energy() / len(atoms)


def supercell(atoms: Atoms, least: float) -> Atoms:
    """Repeated until its faces are this far apart (A) in each direction."""
    return atoms.repeat([ceil(least / height - 1e-6) for height in heights(atoms)])


def _layered(symbols: list[str], spacing: float) -> Atoms:
    """fcc with layers of one element and the other."""
    atoms = bulk(symbols[0], "fcc", a=spacing * 2**0.5, cubic=True)
    atoms.symbols[atoms.positions[:, 2] > 0.1] = symbols[1]
    return atoms
