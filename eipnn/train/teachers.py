"""The label sources that teach: those that are named, or the OpenKIM models that are closest to DFT."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eipnn.eips import EIP, EIPError, load_eips, named_sets
from eipnn.eips.eip import SETS
from eipnn.eips.installed import covering
from eipnn.errors import InputError
from eipnn.files import read_yaml
from eipnn.labels.engine import label_structures
from eipnn.labels.leaderboard import derivative_errors
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
    """Entries for the OpenKIM models that cover all elements; of many the `KEPT` that are closest to DFT.

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
    say(f"{len(entries)} OpenKIM models cover {', '.join(elements)}: each labels DFT frames, and the closest are taken")
    return closest(entries, frames, folder, workers)


def closest(
    entries: Sequence[dict[str, Any]], frames: StructureStore, folder: Path, workers: int
) -> list[dict[str, Any]]:
    """Those of the entries that are closest to DFT on some of its frames, up to `KEPT`; says which, and how close.

    What counts is the geometric mean of the MAEs of energies an atom, after one energy an element was fitted to the
    difference, and of forces; of energies alone where DFT has no forces. One that fails on half of the frames, or at
    its start, is left out.
    """
    frames = frames.take(np.unique(np.linspace(0, len(frames) - 1, JUDGED).round().astype(int)))
    eips = load_eips(entries)
    with progress_bar("candidates", len(eips), "models", True) as advance:
        errors = []
        for eip in eips:
            errors.append(judge(eip, frames, folder / eip.name, workers))
            advance(1)
    scores = [np.sqrt(energy * force) if np.isfinite(force) else energy for energy, force in errors]
    best = [k for k in np.argsort(scores, kind="stable").tolist() if np.isfinite(scores[k])][:KEPT]
    if not best:
        raise InputError(f"all {len(entries)} OpenKIM models fail on the DFT frames: install others,\n{OTHERS}")
    for k in best:
        found = [metric.with_unit(e) for metric, e in zip((ATOM, FORCE), errors[k], strict=True) if np.isfinite(e)]
        say(f"  {entries[k]['name']}: {', '.join(found)}")
    return [entries[k] for k in best]


def judge(eip: EIP, frames: StructureStore, folder: Path, workers: int) -> tuple[float, float]:
    """MAEs of a potential against DFT: of energies, eV/atom, after one energy an element was fitted, and of force
    components, eV/A; NaN where not known, both where it fails on more than half of the frames."""
    try:
        store = label_structures(frames, [eip], folder, workers, TIMEOUT)
    except EIPError:  # it cannot be made, or ends its process
        return np.nan, np.nan
    energies = store.energies_of(frames.ids, [eip.name])[:, 0]
    known = np.flatnonzero(np.isfinite(energies))
    if 2 * len(known) < len(frames):
        return np.nan, np.nan
    labelled = frames.take(known)
    left = fit_composition(labelled.composition()[1], energies[known] - labelled.energies).left
    forces = derivative_errors(labelled, store)["forces"][:, 0]
    mean = float(np.nanmean(forces)) if np.isfinite(forces).any() else np.nan
    return float(np.abs(left / labelled.sizes).mean()), mean
