"""Free atoms among the frames of a file, marked as GAP, ACE and MACE want it.

A frame with `config_type=IsolatedAtom` or `isolated_atom` gives the energy zero of its element. It is no frame to
train or to test on.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from ase import Atoms

from eipnn.structures.paths import StructureError
from eipnn.structures.read import SAME_ENERGY
from eipnn.structures.store import StructureStore

GIVEN = 1e-3  # eV; an energy in a configuration is often rounded


def isolated_atoms(frames: Sequence[Atoms]) -> dict[str, float]:
    """Energies (eV) of the free atoms that are marked as such, by element.

    Raises `StructureError` where a marked frame holds several atoms, and where two of one element differ.
    """
    found: dict[str, float] = {}
    structures = StructureStore.of(frames)
    for row in np.flatnonzero(structures.isolated & np.isfinite(structures.energies)).tolist():
        name, symbols, value = structures.ids[row], structures[row].symbols, float(structures.energies[row])
        if len(symbols) > 1:
            problem = f"is marked as an isolated atom and holds {len(symbols)} atoms; correct its config_type"
            raise StructureError(f"{name}: {problem}")
        symbol = symbols[0]
        if abs(found.setdefault(symbol, value) - value) > SAME_ENERGY:
            problem = f"this isolated atom of {symbol} has {value} eV, another one {found[symbol]} eV"
            raise StructureError(f"{name}: {problem}; keep the right one")
    return found


def isolated_energies(frames: Sequence[Atoms], given: Mapping[str, float] | None) -> dict[str, float] | None:
    """Energies (eV) of free atoms by element: those that are given, and those that the frames hold; None without any.

    Raises `StructureError` where both say something else of an element.
    """
    found = isolated_atoms(frames)
    for symbol, value in (given or {}).items():
        if abs(found.get(symbol, value) - value) > GIVEN:
            raise StructureError(
                f"the isolated atom of {symbol} has {value} eV as given, and {found[symbol]} eV in the structure "
                "files (config_type=IsolatedAtom); correct one, or remove it"
            )
    return found | dict(given or {}) or None


def without_isolated_atoms(frames: Sequence[Atoms]) -> StructureStore:
    """The frames to train and to test on."""
    structures = StructureStore.of(frames)
    return structures.take(np.flatnonzero(~structures.isolated))
