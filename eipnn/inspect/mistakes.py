"""What is likely to be a mistake in labelled structures, in words."""

from collections.abc import Callable, Iterator

import numpy as np
from ase.data import chemical_symbols

from eipnn.generate.distance import RADII
from eipnn.inspect.survey import Survey
from eipnn.structures import StructureError, StructureStore, isolated_atoms
from eipnn.structures.suspects import outlier_note, outlying_sizes, repeated_structures
from eipnn.units import (
    FEW,
    References,
    energy_warning,
    force_warning,
    sample,
    stress_warning,
    yardstick_references,
    zeros_warning,
)

LEAST = {"force": (50.0, "eV/A"), "stress": (2.0, "eV/A^3")}
"""What is smaller may be."""
NET_FORCE = 0.1
"""eV/A an atom, and share of the forces: grids of plane waves leave a quarter of it."""
CLOSE = 0.6
"""Of the sum of the covalent radii: nothing is closer but under extreme pressure."""
FAR = 1.5
"""The same: no neighbours are so far apart, but for those of noble gases."""
NOBLE_GASES = (2, 10, 18, 36, 54, 86)
DIFFERENT = 1e-3
"""eV/atom by which the energies of one structure differ."""


def mistakes(survey: Survey, file: str) -> Iterator[str]:
    """Each in one or two lines, with file and frame.

    Args:
        survey: of the structures.
        file: the files that they are from.
    """
    yield from _missing(survey, file)
    if text := _length_unit(survey, file):
        yield text  # nothing can be said of the other units
    else:
        yield from _units(survey, file)
        yield from _close(survey)
    if text := outlier_note(survey.store):
        yield text
    yield from _outliers(survey)
    yield from _repeated(survey)
    yield from _alone(survey)


def _units(survey: Survey, file: str) -> Iterator[str]:
    train = survey.store.take(np.flatnonzero(~survey.store.isolated))
    said = {
        "energy": _beside_yardstick(energy_warning, sample(train, "energies"), file),
        "force": _beside_yardstick(force_warning, sample(train, "forces"), file),
        "stress": stress_warning(train, file),
    }
    for name, (least, unit) in LEAST.items():
        largest = survey.largest[name][np.isfinite(survey.largest[name])]
        if not said[name] and len(largest) and np.median(largest) > least:
            said[name] = f"{file}: half of the frames have a {name} beyond {least:g} {unit}: another unit? Convert it"
    yield from filter(None, [*said.values(), zeros_warning(train, file)])


def _beside_yardstick(
    warning: Callable[[StructureStore, References, str], str | None], frames: StructureStore, file: str
) -> str | None:
    return warning(frames, yardstick_references(frames), file) if len(frames) >= FEW else None


def _missing(survey: Survey, file: str) -> Iterator[str]:
    store, known = survey.store, survey.labelled
    lone = store.sizes == 1
    if not known["energies"].any():
        yield f"{file}: no frame has an energy: right for a pool; of DFT frames name the key with --energy-key"
    elif not store.energies[known["energies"] & ~lone].any() and not lone.all():
        yield f"{file}: all energies are 0 eV, which stands for none; name their key with --energy-key"
    may = {"energies": np.ones_like(lone), "forces": np.ones_like(lone), "stress": survey.periodic}
    for name, expected in may.items():
        lost = np.flatnonzero(expected & ~store.isolated & ~known[name])
        if len(lost) and known[name].any():
            how = "DFT frames need one" if name == "energies" else "they are trained on for what they have"
            of = f"{len(lost)} of {expected.sum()} {'periodic frames' if name == 'stress' else 'frames'}"
            yield f"{store.place(lost[0])}: {name} missing ({of}); {how}"


def _outliers(survey: Survey) -> Iterator[str]:
    store = survey.store
    for name, (least, unit) in LEAST.items():
        sizes = survey.largest[name]
        if len(far := outlying_sizes(sizes, least)):
            text = f"{store.place(far[0])}: its largest {name}, {sizes[far[0]]:.3g} {unit}, is far above the others'"
            yield f"{text} ({len(far)} of {len(store)} frames); correct or remove them"
    rows = np.repeat(np.arange(len(store)), store.sizes)
    net = np.stack([np.bincount(rows, store.forces[:, k], len(store)) for k in range(3)], axis=1)
    sums = np.linalg.norm(net, axis=1) / store.sizes
    mean = np.sqrt(np.bincount(rows, survey.forces**2, len(store)) / store.sizes)
    if len(pushed := np.flatnonzero((sums > NET_FORCE * np.maximum(mean, 1)) & (store.sizes > 1))):
        text = f"{store.place(pushed[0])}: its forces add up to {sums[pushed[0]]:.3g} eV/A an atom"
        yield f"{text} ({len(pushed)} of {len(store)} frames), and to 0 without outer fields. Constraints? Another key?"


def _length_unit(survey: Survey, file: str) -> str | None:
    shares = survey.closest_share[np.isfinite(survey.closest_share)]
    middle = float(np.median(shares)) if len(shares) else 1.0
    far = np.inf if np.isin(survey.store.numbers, NOBLE_GASES).any() else FAR
    if CLOSE <= middle <= far:
        return None
    text = f"{file}: neighbours are {middle:.2g} times the sum of their covalent radii apart"
    return f"{text}: {'nm' if middle < CLOSE else 'bohr'}? Positions and cells in A are due; convert the file"


def _close(survey: Survey) -> Iterator[str]:
    d = survey.distances
    shares = d.lengths / RADII[d.first, d.second]
    if (shares < CLOSE).any():
        k = int(np.argmin(shares))
        pair = f"{chemical_symbols[d.first[k]]}-{chemical_symbols[d.second[k]]} {d.lengths[k]:.2f} A"
        text = f"{survey.store.place(d.rows[k])}: {pair} apart, {shares[k]:.2f} of the sum of their covalent radii"
        yield f"{text} ({(survey.closest_share < CLOSE).sum()} of {len(survey.store)} frames are below {CLOSE})"


def _repeated(survey: Survey) -> Iterator[str]:
    store = survey.store
    repeated = repeated_structures(store)
    energies = store.energies / store.sizes
    other = [(a, b) for a, b in repeated if abs(energies[a] - energies[b]) > DIFFERENT]
    if other:
        first, again = other[0]
        text = f"{store.place(again)}: is {store.ids[first]} again, atom by atom, with {energies[again]:.4f} eV/atom"
        yield f"{text} in place of {energies[first]:.4f} ({len(other)} such frames); keep the right one"
    elif repeated:
        first, again = repeated[0]
        text = f"{store.place(again)}: is {store.ids[first]} again, atom by atom ({len(repeated)} of {len(store)}"
        yield f"{text} frames are such); a test set would know them from training: keep one"


def _alone(survey: Survey) -> Iterator[str]:
    store = survey.store
    alone = np.flatnonzero((store.sizes == 1) & np.isinf(survey.closest_share) & ~store.isolated)
    if len(alone):
        how = "mark free atoms with config_type=IsolatedAtom: they are the energy zero then, and are not trained on"
        yield f"{store.place(alone[0])}: one atom in vacuum ({len(alone)} such frames); {how}"
    try:
        isolated_atoms(store)
    except StructureError as error:
        yield str(error)
