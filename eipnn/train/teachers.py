"""The label sources that teach: those that are named, or the OpenKIM models that are closest to DFT."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eipnn.eips import EIP, EIPError, load_eips, named_sets
from eipnn.eips.eip import SETS
from eipnn.eips.installed import covering
from eipnn.errors import InputError
from eipnn.files import read_yaml
from eipnn.labels.engine import label_structures
from eipnn.labels.layout import INDEX, describe, read_index
from eipnn.metrics import ATOM, FORCE
from eipnn.progress import progress_bar
from eipnn.reference import fit_composition
from eipnn.run.execute import say
from eipnn.structures import StructureStore
from eipnn.structures.paths import id_prefixes

KEPT = 8
"""Teachers that are taken of many."""
JUDGED = 100
"""DFT frames by which these are judged."""
TIMEOUT = 10.0
"""s for one label of them."""
SAME = 0.1
"""Two potentials whose distance is at most this share of their distance to DFT teach the same."""
NONE = "none"
CHECKPOINTS = (".ckpt", ".pt")
OTHERS = (
    f"or give --teachers: sets ({', '.join(named_sets())}), YAML files or checkpoints of eipnn; --teachers {NONE} "
    "trains on DFT alone"
)


def named_teachers(names: Sequence[str], elements: Sequence[str]) -> list[dict[str, Any]]:
    """Entries of an EIP set for what the user names.

    Args:
        names: sets, YAML files, and checkpoints of eipnn (`CHECKPOINTS`), which are called by their file's name and, as
            far as needed to tell them apart, by the folders above.
        elements: of the DFT frames.

    Raises:
        InputError: one is none of these, or cannot be used; two of one name; none covers the elements.
    """
    checkpoints = [Path(name) for name in names if name.endswith(CHECKPOINTS)]
    if lost := [file for file in checkpoints if not file.is_file()]:
        raise InputError(f"--teachers: {lost[0]}: no such checkpoint; check the path")
    sets = [SETS / f"{name}.yaml" if name in named_sets() else Path(name) for name in names]
    entries = [entry for file in sets if file not in checkpoints for entry in _listed(file)]
    entries += [{"name": name, "eipnn": str(file)} for file, name in id_prefixes(checkpoints).items()]
    eips = load_eips(entries)
    fitting = [covers(eip, elements) for eip in eips]
    for eip, fits in zip(eips, fitting, strict=True):
        if not fits:
            say(f"{eip.name} is no teacher here: it does not cover all of {', '.join(elements)}")
    if not any(fitting):
        raise InputError(f"--teachers {' '.join(names)}: none covers {', '.join(elements)}; name others, or {NONE}")
    return [entry for entry, fits in zip(entries, fitting, strict=True) if fits]


def _listed(file: Path) -> list[dict[str, Any]]:
    """The entries of an EIP set."""
    if not file.is_file():
        known = f"a set ({', '.join(named_sets())}), a YAML file, a checkpoint ({', '.join(CHECKPOINTS)})"
        raise InputError(f"--teachers: {file} is none of these: {known}, and {NONE}")
    load_eips(file)  # what is wrong with it is said with its name
    return list(read_yaml(file))


def covers(eip: EIP, elements: Sequence[str]) -> bool:
    """Whether a potential has all the elements, as far as it tells."""
    known = eip.elements()
    return known is None or set(elements) <= known


def found_teachers(frames: StructureStore, folder: Path, workers: int) -> list[dict[str, Any]]:
    """Entries for the OpenKIM models that cover all elements; of many the `closest` to DFT.

    Args:
        frames: with DFT energies.
        folder: for labels of the candidates.
        workers: processes that label.

    Raises:
        InputError: there are none, or all fail.
    """
    elements = frames.elements()
    try:
        names = [model.name for model in covering(elements)[0]]
    except EIPError as error:
        raise InputError(f"{error},\n{OTHERS}") from None
    if not names:
        install = "install one (`kim-api-collections-management install user NAME`)"
        raise InputError(f"no installed OpenKIM model covers {', '.join(elements)}: {install},\n{OTHERS}")
    short = [name.partition("__")[0] for name in names]
    entries = [
        {"name": one if short.count(one) == 1 else name, "kim": name} for one, name in zip(short, names, strict=True)
    ]
    if len(entries) <= 1:
        return entries
    say(f"{len(entries)} OpenKIM models cover {', '.join(elements)}: each labels DFT frames, the closest teach")
    return closest(entries, frames, folder, workers)


def judging(frames: StructureStore) -> StructureStore:
    """Those of the DFT frames by which potentials are judged."""
    return frames.take(np.unique(np.linspace(0, len(frames) - 1, JUDGED).round().astype(int)))


def judges_of(frames: StructureStore) -> dict[str, Any]:
    """What the choice of the `found_teachers` depends on beside what is installed, as plain values."""
    by = judging(frames)
    labels = b"".join(array.tobytes() for array in (by.checksums, by.energies, by.forces))
    return {"elements": frames.elements(), "judged_by": hashlib.sha256(labels).hexdigest()}


class Labels(NamedTuple):
    """What a potential, or DFT, says of some frames; NaN where it says nothing."""

    energies: np.ndarray
    """(N,), eV"""
    forces: np.ndarray
    """(atoms, 3), eV/A"""


def closest(
    entries: Sequence[dict[str, Any]], frames: StructureStore, folder: Path, workers: int
) -> list[dict[str, Any]]:
    """Those of the entries that are closest to DFT on some of its frames, up to `KEPT`; says which, and how close.

    What counts is the `score` of the distance to DFT. One that repeats a closer one is left out (of a published
    potential OpenKIM may hold several forms, and alloys that share an element's), as is one that fails on half of the
    frames, or at its start.
    """
    frames = judging(frames)
    eips = load_eips(entries)
    dft = Labels(frames.energies, frames.forces)
    with progress_bar("candidates", len(eips), "models", True) as advance:
        labels = {}
        for k, eip in enumerate(eips):
            if made := labels_of(eip, frames, folder / eip.name, workers):
                labels[k] = made
            advance(1)
    errors = {k: distance(frames, mine, dft) for k, mine in labels.items()}
    best: list[int] = []
    repeating = 0
    for k in sorted(errors, key=lambda k: score(errors[k])):
        if any(score(distance(frames, labels[k], labels[j])) <= SAME * score(errors[k]) for j in best):
            repeating += 1
        elif len(best) < KEPT:
            best.append(k)
    if not best:
        raise InputError(f"all {len(entries)} OpenKIM models fail on the DFT frames: install others,\n{OTHERS}")
    for k in best:
        found = [metric.with_unit(e) for metric, e in zip((ATOM, FORCE), errors[k], strict=True) if np.isfinite(e)]
        say(f"  {entries[k]['name']}: {', '.join(found)}")
    if repeating:
        say(f"  left out, as one of these says nearly the same: {repeating} more")
    return [entries[k] for k in sorted(best)]  # so that the order of a label store is not of scores


def labels_of(eip: EIP, frames: StructureStore, folder: Path, workers: int) -> Labels | None:
    """The labels of a potential, of forces where DFT has them; None where it fails on more than half of the frames."""
    try:
        if (folder / INDEX).exists() and read_index(folder) != describe(frames, [eip]):
            shutil.rmtree(folder)  # of the frames of before
        store = label_structures(frames, [eip], folder, workers, TIMEOUT)
    except EIPError:  # it cannot be made, or ends its process
        return None
    energies = store.energies_of(frames.ids, [eip.name])[:, 0]
    forces = np.where(np.isnan(frames.forces), np.nan, store.forces_of(frames.ids, [eip.name])[:, 0])
    return Labels(energies, forces) if 2 * np.isfinite(energies).sum() >= len(frames) else None


def distance(frames: StructureStore, one: Labels, other: Labels) -> tuple[float, float]:
    """MAEs between two: of energies, eV/atom, after one energy an element was fitted to the difference, and of force
    components, eV/A; NaN where no frame has both."""
    difference = one.energies - other.energies
    known = np.flatnonzero(np.isfinite(difference))
    if not len(known):
        return np.nan, np.nan
    left = fit_composition(frames.take(known).composition()[1], difference[known]).left
    sums = np.add.reduceat(np.abs(one.forces - other.forces).mean(axis=1), frames.offsets[:-1])
    forces = sums / frames.sizes
    mean = float(np.nanmean(forces)) if np.isfinite(forces).any() else np.nan
    return float(np.abs(left / frames.sizes[known]).mean()), mean


def score(distance: tuple[float, float]) -> float:
    """One number of a `distance`: the geometric mean, or energies alone where no forces are known."""
    energy, force = distance
    return float(np.sqrt(energy * force)) if np.isfinite(force) else energy
