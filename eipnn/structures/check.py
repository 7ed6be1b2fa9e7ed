"""Checks of one structure's geometry."""

import re

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell as with_full_rank
from scipy.spatial import cKDTree

from eipnn.neighbours import complete_cell

FLAT = 1e-6  # smallest span of the periodic cell vectors, relative to their lengths
COINCIDENT = 1e-3  # A; no two atoms of a real structure come this close

CELL_LIKE = re.compile(r"(?i)((unit|super)_?)?(lattice|cell|box)(_?(vectors?|par|parameters|matrix))?")
PBC_LIKE = re.compile(r"(?i)pbc\w*|bc|periodic\w*|boundar\w*")


def geometry_problem(atoms: Atoms) -> str | None:
    """What is wrong with positions, cell or species of `atoms` and how to mend it; None if nothing is."""
    problem = value_problem(atoms)
    if problem is None and (pair := coincident_pair(atoms)):
        return f"atoms {pair[0]} and {pair[1]} are at the same place; remove one of them"
    return problem


def value_problem(atoms: Atoms) -> str | None:
    """The same without a look at distances, in a few microseconds."""
    if len(atoms) == 0:
        return "holds no atoms; remove this frame"
    if not np.isfinite(atoms.positions).all():
        return "positions are NaN or infinite; correct or remove this frame"
    if not np.isfinite(atoms.cell.array).all():
        return "the cell is NaN or infinite; correct or remove this frame"
    if (atoms.numbers < 1).any():
        return "an atom has no element (X); give every atom a chemical symbol"
    if _flat(atoms):
        return "the cell has no volume along its periodic axes; correct the cell, or set pbc to false on these axes"
    return None


def lost_cell(atoms: Atoms) -> str | None:
    """Which entry of `atoms.info` may be the cell or the boundaries that these atoms lack; None if none is."""
    if atoms.pbc.any() or atoms.cell.any():
        return None
    for key, value in atoms.info.items():
        array = np.asarray(value)
        numeric = array.dtype.kind in "if" and array.size in (1, 3, 6, 9)
        said = array.dtype.kind not in "bif" or array.any()
        if (CELL_LIKE.fullmatch(key) and numeric) or (PBC_LIKE.fullmatch(key) and said):
            return (
                f"has neither cell nor periodic axes, and its key {key!r} is not read; "
                "write them as ASE does (Lattice and pbc), or remove the key"
            )
    return None


def _flat(atoms: Atoms) -> bool:
    periodic = atoms.cell.array[atoms.pbc]  # (n_periodic, 3)
    squares = np.square(periodic).sum(axis=1).prod()
    # the determinant is the square of the length, area or volume that the vectors span
    return bool(np.linalg.det(periodic @ periodic.T) <= FLAT**2 * squares)


def coincident_pair(atoms: Atoms) -> tuple[int, int] | None:
    """Two atoms (or an atom and another's periodic image) closer than `COINCIDENT`, None if there are none."""
    if len(atoms) < 2:
        return None
    cell = with_full_rank(complete_cell(atoms))
    inverse = np.linalg.inv(cell)
    scaled = atoms.positions @ inverse  # (n_atoms, 3)
    # Twice: the first one turns -1e-20 into 1.0, which the tree takes for outside.
    scaled = np.where(atoms.pbc, scaled % 1.0 % 1.0, scaled)
    reach = COINCIDENT * float(np.linalg.norm(inverse))
    if reach >= 0.5:
        return None
    # The tree's distance is in units of the cell vectors, so the true one is checked. A period of 0 is an open axis.
    for i, j in sorted(cKDTree(scaled, boxsize=atoms.pbc.astype(float)).query_pairs(reach)):
        delta = scaled[i] - scaled[j]
        delta[atoms.pbc] -= np.round(delta[atoms.pbc])
        if np.linalg.norm(delta @ cell) < COINCIDENT:
            return i, j
    return None
