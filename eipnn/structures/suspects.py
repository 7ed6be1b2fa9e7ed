"""What is likely to be wrong in a set of labelled structures as a whole."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eipnn.structures.store import StructureStore

SPREADS = 30  # of the energies per atom; ...
LEAST = 10.0  # eV/atom; ... and no chemistry goes so far
ROUNDS = 30
SAME_PLACE = 5  # decimals of A


def outlying_energies(frames: Sequence[Atoms], energies: np.ndarray) -> list[tuple[int, float]]:
    """Frames whose energy is beyond any doubt not of the others' kind: a slipped digit, another unit or code.

    What the composition explains is taken off by least absolute deviations (iteratively reweighted least squares), on
    which a few wild energies have no hold.

    Args:
        frames: n configurations.
        energies: (n,), eV.

    Returns:
        index and deviation (eV/atom) of each frame that is more than `SPREADS` robust standard deviations and `LEAST`
        from the others, the largest first.
    """
    counts = StructureStore.of(frames).composition()[1].astype(np.float64)
    n_atoms = counts.sum(axis=1)
    shares, per_atom = counts / n_atoms[:, None], energies / n_atoms
    left = per_atom - np.median(per_atom)
    for _ in range(ROUNDS):
        weights = 1 / np.sqrt(np.maximum(np.abs(left), 1e-3))
        fit = np.linalg.lstsq(shares * weights[:, None], per_atom * weights, rcond=None)[0]
        left = per_atom - shares @ fit
    left -= np.median(left)
    spread = 1.4826 * np.median(np.abs(left))
    far = np.flatnonzero(np.abs(left) > max(SPREADS * spread, LEAST))
    return [(int(k), float(left[k])) for k in far[np.argsort(-np.abs(left[far]), kind="stable")]]


def same_structures(first: Sequence[Atoms], second: Sequence[Atoms]) -> list[tuple[str, str]]:
    """Ids of the structures of `second` that are in `first` too, atom by atom, each with its twin's."""
    known = {_geometry(atoms): atoms.info["config_id"] for atoms in first}
    return [(known[key], atoms.info["config_id"]) for atoms in second if (key := _geometry(atoms)) in known]


def _geometry(atoms: Atoms) -> tuple[bytes, ...]:
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    lengths = [np.round(values, SAME_PLACE) + 0.0 for values in (atoms.positions, cell)]
    return tuple(array.tobytes() for array in (atoms.numbers, atoms.pbc, *lengths))
