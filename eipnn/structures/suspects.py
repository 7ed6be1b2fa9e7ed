"""What is likely to be wrong in a set of labelled structures as a whole."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell

from eipnn.errors import InputError
from eipnn.structures.store import StructureStore

SPREADS = 30  # of the energies per atom; ...
LEAST = 10.0  # eV/atom; ... and no chemistry goes so far
ROUNDS = 30
SAME_PLACE = 5  # decimals of A
EVEN = 240  # has many divisors


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
    """Ids of the structures of `second` that are in `first` too, atom by atom, each with its twin's."""
    one, other = StructureStore.of(first), StructureStore.of(second)
    known = dict(zip(_geometries(one), one.ids, strict=True))
    return [(known[key], name) for key, name in zip(_geometries(other), other.ids, strict=True) if key in known]


def repeated_structures(frames: Sequence[Atoms]) -> list[tuple[int, int]]:
    """Rows of the structures that stand among the earlier ones too, atom by atom, each after its first twin's."""
    first: dict[tuple[bytes, ...], int] = {}
    found = [(first.setdefault(key, row), row) for row, key in enumerate(_geometries(frames))]
    return [(earlier, row) for earlier, row in found if earlier != row]


def check_repeated(frames: StructureStore, where: str, known: int = 0) -> None:
    """Raise `InputError` where a frame after the first `known` stands among the earlier ones too."""
    repeated = [(earlier, row) for earlier, row in repeated_structures(frames) if row >= known]
    if repeated:
        earlier, row = repeated[0]
        raise InputError(
            f"{where}: {frames.ids[row]} is {frames.ids[earlier]} again, atom by atom ({len(repeated)} such frames); "
            "validation would know it from training: keep one"
        )


def _geometries(frames: Sequence[Atoms]) -> Iterator[tuple[bytes, ...]]:
    """What is the same of the same structures, whichever periodic image of an atom a file gives."""
    store = StructureStore.of(frames)
    cells = np.where(store.pbc[:, :, None], store.cells, 0.0)
    rounded = np.round(cells, SAME_PLACE) + 0.0
    for k in np.flatnonzero((np.abs(cells).sum(axis=2) == 0).any(axis=1)).tolist():
        cells[k] = complete_cell(cells[k])  # axes that are not periodic: of 1 A, at right angles
    # along each lattice vector; places of symmetry are whole numbers, on which noise has no hold
    places = EVEN * np.ceil(np.linalg.norm(cells, axis=2) * 10**SAME_PLACE / EVEN)
    inverse = np.linalg.pinv(cells) * places[:, None, :]
    for row, (start, stop) in enumerate(pairwise(store.offsets.tolist())):
        # rounded first: an atom a hair below a cell's end is at its beginning
        at = np.rint(store.positions[start:stop] @ inverse[row])
        inside = np.where(store.pbc[row], np.mod(at, places[row]), at) + 0.0
        arrays = store.numbers[start:stop], store.pbc[row], inside, rounded[row]
        yield tuple(array.tobytes() for array in arrays)
