"""What is likely to be wrong in a set of labelled structures as a whole."""

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eipnn.errors import InputError
from eipnn.structures.store import StructureStore
from eipnn.structures.twins import first_twins

SPREADS = 30  # of the energies per atom; ...
LEAST = 10.0  # eV/atom; ... and no chemistry goes so far
ROUNDS = 30


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


def outlier_note(structures: StructureStore) -> str | None:
    """What is to be said of `outlying_energies` among the frames with an energy that are no free atoms."""
    rows = np.flatnonzero(~structures.isolated & np.isfinite(structures.energies))
    if not len(rows) or not (far := outlying_energies(structures.take(rows), structures.energies[rows])):
        return None
    row, deviation = int(rows[far[0][0]]), far[0][1]
    return (
        f"{structures.place(row)}: its DFT energy, {structures.energies[row]:g} eV, is {deviation:+.0f} eV/atom from "
        f"the others of its composition; {len(far)} of {len(rows)} frames are so far off: correct or remove them"
    )


def outlying_sizes(sizes: np.ndarray, least: float) -> np.ndarray:
    """Rows whose size (n,) is more than `SPREADS` times the median and `least`, the largest first; NaN is left out."""
    known = sizes[np.isfinite(sizes)]
    far = np.flatnonzero(sizes > max(SPREADS * np.median(known), least)) if len(known) else np.arange(0)
    return far[np.argsort(-sizes[far], kind="stable")]


def same_structures(first: Sequence[Atoms], second: Sequence[Atoms]) -> list[tuple[str, str]]:
    """Ids of the structures of `second` that are in `first` too, see `first_twins`, each after its first twin's."""
    one, other = StructureStore.of(first), StructureStore.of(second)
    twins = first_twins(one, other)
    return [(one.ids[twins[row]], other.ids[row]) for row in np.flatnonzero(twins >= 0)]


def repeated_structures(frames: Sequence[Atoms]) -> list[tuple[int, int]]:
    """Rows of the structures that stand among the earlier ones too, see `first_twins`, each after its first twin's."""
    store = StructureStore.of(frames)
    twins = first_twins(store, store, earlier=True)
    return [(int(twins[row]), int(row)) for row in np.flatnonzero(twins >= 0)]


def check_repeated(frames: StructureStore, where: str, known: int = 0) -> None:
    """Raise `InputError` where a frame after the first `known` stands among the earlier ones too."""
    repeated = [(earlier, row) for earlier, row in repeated_structures(frames) if row >= known]
    if repeated:
        earlier, row = repeated[0]
        raise InputError(
            f"{where}: {frames.ids[row]} is {frames.ids[earlier]} again, atom by atom ({len(repeated)} such frames); "
            "validation would know it from training: keep one"
        )
