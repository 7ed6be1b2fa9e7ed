"""A crude potential for any elements: the size of energies, forces and stress in eV and A, to a factor of a few.

The second-moment approximation of tight binding (Cleri and Rosato, Phys. Rev. B 48, 22 (1993), Eqs. 1 to 3),

    E = sum_i [A sum_j exp(-p (r_ij / r0 - 1)) - xi (sum_j exp(-2 q (r_ij / r0 - 1)))^(1/2)],

with one p, q and cohesive energy for all elements and r0 from covalent radii. It models nothing; it tells eV from
Hartree.
"""

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from eipnn.neighbours import pairs

P, Q = 10.0, 2.7  # as of the metals of Cleri and Rosato, Table II
COHESION = 3.0
"""eV/atom at twelve neighbours; most elements have 1 (sodium) to 9 (tungsten)."""
XI = COHESION / (np.sqrt(12) * (1 - Q / P))
A = XI * Q / (P * np.sqrt(12))  # twelve neighbours at r0 are at rest
REACH = 1.9
"""Of r0; the square of the hopping has fallen to 1 % there."""
STRETCHES = tuple(np.round(np.arange(0.9, 1.35, 0.05), 2).tolist())
"""r0 over the sum of the covalent radii: the shorter ones suit molecules, the longer ones metals."""


def yardstick(atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Energies (n_stretches,), eV, forces (n_atoms, n_stretches, 3), eV/A, and stress (n_stretches, 3, 3), eV/A^3.

    For each of `STRETCHES`. The stress is positive under tension, and NaN where an axis is open.
    """
    radii = covalent_radii[atoms.numbers]
    i, j, r, d = pairs(atoms, 2 * REACH * max(STRETCHES) * float(radii.max()))
    i, j, r, d = np.append(i, j), np.append(j, i), np.append(r, r), np.vstack([d, -d])  # both directions
    found = [_one(len(atoms), i, j, r, d, stretch * (radii[i] + radii[j])) for stretch in STRETCHES]
    energies, forces, strained = zip(*found, strict=True)
    volume = atoms.cell.volume if atoms.pbc.all() else np.nan
    return np.array(energies), np.stack(forces, axis=1), np.array(strained) / volume


def _one(
    n: int, i: np.ndarray, j: np.ndarray, r: np.ndarray, d: np.ndarray, r0: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces (n, 3) and derivative by the strain (3, 3), eV, of n atoms.

    Of the pairs i, j (both directions), r (P,) and d = r_j - r_i (P, 3).
    """
    near = r < REACH * r0
    i, j, r, d, r0 = i[near], j[near], r[near], d[near], r0[near]
    repulsion = A * np.exp(-P * (r / r0 - 1))
    hopping = XI**2 * np.exp(-2 * Q * (r / r0 - 1))
    band = np.sqrt(np.bincount(i, hopping, n))  # (n,)
    inverse = np.divide(0.5, band, out=np.zeros(n), where=band > 0)
    slope = -2 * P / r0 * repulsion + 2 * Q / r0 * hopping * (inverse[i] + inverse[j])  # dE/dr
    pull = (slope / r)[:, None] * d
    forces = np.stack([np.bincount(i, pull[:, k], n) for k in range(3)], axis=1)
    return float(repulsion.sum() - band.sum()), forces, pull.T @ d / 2
