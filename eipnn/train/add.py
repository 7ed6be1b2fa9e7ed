"""`eipnn train FOLDER --add FILE...`: a training goes on with more DFT frames; what does not depend on them is kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eipnn.eips import load_eips
from eipnn.errors import InputError
from eipnn.labels import LabelStore
from eipnn.labels.engine import take_labels
from eipnn.labels.layout import describe
from eipnn.run.command import make_rows
from eipnn.run.execute import mapping_in, say
from eipnn.run.experiment import ALL, Experiment, listed, read_experiment
from eipnn.run.plan import lates
from eipnn.structures import Split, StructureStore, read_split, read_structures, without_isolated_atoms
from eipnn.structures.suspects import check_repeated
from eipnn.train.folds import may_be, parents_of, with_new
from eipnn.train.settings import EXPERIMENT


def extended(folder: Path, added: list[str], output: Path) -> tuple[Experiment, list[Split], StructureStore]:
    """The experiment, the folds and the DFT frames of a training with more frames.

    Teachers, pool, settings and pretrainings are those of before. The frames of before keep their folds. Nothing is
    written.

    Args:
        folder: of the training of before.
        added: files of frames with DFT energies.
        output: folder of the new training.

    Raises:
        InputError: no such training; its files have changed; an added frame is one of before or stands twice, or holds
            an element that none of before does.
    """
    if not (folder / EXPERIMENT).is_file():
        raise InputError(f"{folder}: no training to add frames to; name the folder that `eipnn train -o` wrote")
    if output.resolve() == folder.resolve():
        raise InputError(f"--output {output}: keeps the training of before; name another folder")
    old = replace(read_experiment(folder / EXPERIMENT), splits=str(folder / "splits" / "fold_{split}.csv"))
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
    _check_unchanged(old, folder)
    folds = _folds(old, new, folder)
    in_pool = _in_pool(new, added, more) if new.data.get("pool") else {}
    if new.pretrained:
        say(f"Pretraining: that of {new.pretrained}, whose energy zeros of EIPs were fitted to the DFT frames of then")
    return new, with_new(folds, more, in_pool, new.run["seed"][0]), StructureStore.joined([known, more])


def keep_labels(folder: Path, new: Experiment, output: Path) -> None:
    """Take the labels that the training of before has of the same structures over into ``output/labels``.

    Raises:
        LabelError: they are of other EIPs, or without stress.
    """
    if new.eips:
        everything = StructureStore.joined(new.structures)
        if taken := take_labels(folder / "labels", everything, load_eips(new.eips), output / "labels"):
            say(f"Labels: those of {folder} for {taken} of {len(everything)} structures")


def _check(known: StructureStore, more: StructureStore, where: str) -> None:
    """Raise what is wrong with added frames."""
    if not more:
        raise InputError(f"--add {where}: holds isolated atoms alone; give frames to train on")
    if strangers := set(more.elements()) - set(known.elements()):
        raise InputError(
            f"--add {where}: {min(strangers)} is in no frame of before; train on all frames anew, without --add"
        )
    check_repeated(StructureStore.joined([known, more]), f"--add {where}", len(known))


def _check_unchanged(old: Experiment, folder: Path) -> None:
    """Raise where the files of before hold other structures: than were labelled or, without labels, trained on."""
    if old.eips:
        there = LabelStore.open(folder / "labels").index["structures"]
        same = there == describe(StructureStore.joined(old.structures), [])["structures"]
    else:
        rows = make_rows(old, folder, old.run | {"frames": [ALL], "alpha": old.alpha})
        stages = [stage for row in rows for stage in row.stages if not lates([stage.inputs, stage.config])]
        done = [(stage, found) for stage in stages if (found := mapping_in(stage.done_file))]
        same = all(found["fingerprint"] == stage.fingerprint() for stage, found in done)
    if not same:
        raise _changed(folder)


def _changed(folder: Path) -> InputError:
    return InputError(f"{folder}: its DFT frames or pool have changed since: put them back, or train anew")


def _in_pool(new: Experiment, added: Sequence[str], more: StructureStore) -> dict[str, set[str]]:
    """Id of each structure of the pool -> those of the added frames that are this structure, or may be its parent.

    A frame that `eipnn select` chose tells its ``pool_id``; others are known by their atoms.
    """
    frames = new.structures[0]
    told = [str(atoms.info.get("pool_id", "")) for atoms in read_structures(list(added), labels=False)]
    chosen = {i: name for i, name in zip(frames.ids[len(frames) - len(told) :], told, strict=True) if name}
    parents = parents_of(listed(new.data["pool"]), listed(new.data["dft"]), frames)
    ids = set(more.ids)
    return {
        name: (of | {i for i, pool_id in chosen.items() if may_be(pool_id, name)}) & ids for name, of in parents.items()
    }


def _folds(old: Experiment, new: Experiment, folder: Path) -> list[Split]:
    """The folds of before, with the ids that the structures have beside the added files."""
    given, now = ([*dft.ids[: len(old.structures[0])], *pool.ids] for dft, pool in (old.structures, new.structures))
    names = dict(zip(given, now, strict=True))
    frames = set(without_isolated_atoms(old.structures[0]).ids)
    found = []
    for number in old.run["split"]:
        split = read_split(folder / "splits" / f"fold_{number}.csv")
        if {*split.train, *split.val} != frames or not names.keys() >= set(split.pool):
            raise _changed(folder)
        train, val, pool = ([names[name] for name in part] for part in (split.train, split.val, split.pool))
        found.append(Split(tuple(train), tuple(val), (), tuple(pool)))
    return found
