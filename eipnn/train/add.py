"""`eipnn train FOLDER --add FILE...`: a training goes on with more DFT frames; what does not depend on them is kept."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from eipnn.eips import load_eips
from eipnn.errors import InputError
from eipnn.labels.engine import take_labels
from eipnn.run.execute import say
from eipnn.run.experiment import Experiment, listed, read_experiment
from eipnn.structures import Paths, Split, StructureStore, read_split, read_structures, without_isolated_atoms
from eipnn.structures.suspects import same_structures
from eipnn.train.folds import with_new
from eipnn.train.settings import EXPERIMENT


def extended(folder: Path, added: list[str], output: Path) -> tuple[dict[str, Any], list[Split], StructureStore]:
    """The experiment, the folds and the DFT frames of a training with more frames.

    Teachers, pool, settings and pretrainings are those of before, and labels of structures of before are taken over
    into ``output/labels``. The frames of before keep their folds.

    Args:
        folder: of the training of before; nothing is written there.
        added: files of frames with DFT energies.
        output: folder of the new training.

    Raises:
        InputError: no such training; its files have changed; an added frame is one of before, or holds an element that
            none of before does.
    """
    if not (folder / EXPERIMENT).is_file():
        raise InputError(f"{folder}: no training to add frames to; name the folder that `eipnn train -o` wrote")
    if output.resolve() == folder.resolve():
        raise InputError(f"--output {output}: keeps the training of before; name another folder")
    old = read_experiment(folder / EXPERIMENT)
    rows = [old.rows[name] for name in old.run["strategy"]]
    new = replace(
        old,
        data=old.data | {"dft": [*listed(old.data["dft"]), *added]},
        splits=str(output / "splits" / "fold_{split}.csv"),
        pretrained=old.pretrained or (str(folder) if any(row.pretraining for row in rows) else None),
    )
    structures, count = new.structures[0], len(old.structures[0])
    known, more = (
        without_isolated_atoms(structures.take(part)) for part in np.split(np.arange(len(structures)), [count])
    )
    _check(known, more, ", ".join(added))
    folds = _folds(old, new, folder)
    in_pool = seen_in(new.structures[1], new.data["pool"], more) if new.data.get("pool") else {}
    if new.eips:
        everything = StructureStore.joined(new.structures)
        if taken := take_labels(folder / "labels", everything, load_eips(new.eips), output / "labels"):
            say(f"Labels: those of {folder} for {taken} of {len(everything)} structures")
    if new.pretrained:
        say(f"Pretraining: that of {new.pretrained}, whose energy zeros of EIPs were fitted to the DFT frames of then")
    return asdict(new), with_new(folds, more, in_pool, new.run["seed"][0]), StructureStore.joined([known, more])


def _check(known: StructureStore, more: StructureStore, where: str) -> None:
    """Raise what is wrong with added frames."""
    if not more:
        raise InputError(f"--add {where}: holds isolated atoms alone; give frames to train on")
    if strangers := set(more.elements()) - set(known.elements()):
        raise InputError(
            f"--add {where}: {min(strangers)} is in no frame of before; train on all frames anew, without --add"
        )
    if same := same_structures(known, more):
        raise InputError(
            f"--add {where}: {same[0][1]} is the frame {same[0][0]} of before ({len(same)} such frames): leave them out"
        )


def seen_in(pool: StructureStore, files: Paths, more: StructureStore) -> dict[str, set[str]]:
    """Id of each structure of a pool -> those of further frames that are this structure, or its parent."""
    twins = {name: {frame} for frame, name in same_structures(more, pool)}
    parents = [str(atoms.info.get("parent", "")) for atoms in read_structures(files, labels=False)]
    ids = set(more.ids)
    return {name: twins.get(name, set()) | ({parent} & ids) for name, parent in zip(pool.ids, parents, strict=True)}


def _folds(old: Experiment, new: Experiment, folder: Path) -> list[Split]:
    """The folds of before, with the ids that the structures have beside the added files."""
    given, now = ([*dft.ids[: len(old.structures[0])], *pool.ids] for dft, pool in (old.structures, new.structures))
    names = dict(zip(given, now, strict=True))
    frames = set(without_isolated_atoms(old.structures[0]).ids)
    found = []
    for number in old.run["split"]:
        split = read_split(folder / "splits" / f"fold_{number}.csv")
        if {*split.train, *split.val} != frames or not names.keys() >= set(split.pool):
            raise InputError(f"{folder}: its DFT frames or pool have changed since: put them back, or train anew")
        train, val, pool = ([names[name] for name in part] for part in (split.train, split.val, split.pool))
        found.append(Split(tuple(train), tuple(val), (), tuple(pool)))
    return found
