"""`eipnn run --dry-run`: what is done, what would run, and how many gradient steps that takes."""

import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from math import inf
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eipnn.eips import load_eips
from eipnn.labels.layout import IN_WORK, INDEX, PENDING, describe, open_array, other_labels, read_index
from eipnn.potential.checkpoints import read_checkpoint
from eipnn.run.execute import (
    console,
    has_ended,
    holds,
    labelled_of,
    labelled_with,
    mapping_in,
    say,
    settled,
    whole_checkpoint,
)
from eipnn.run.experiment import Experiment
from eipnn.run.plan import Row, Stage, in_order, lates
from eipnn.stages.source import selected
from eipnn.structures import StructureStore

DONE, TRAINED = "done", "trained"


class NotYetError(Exception):
    """A value is known only when a stage before is done, or labels are made."""


def show_plan(root: Path, rows: Sequence[Row]) -> None:
    """Print the labels to make and the stages, each with its state and gradient steps. Nothing is written."""
    missing, total = labels_to_make(rows[0].plan.experiment, root / "labels")
    if total:
        say(f"{root / 'labels'}: {missing:,} of {total:,} labels are to be made")
    shown: set[Path] = set()
    left, exact = 0.0, True
    for plan, group in groupby(rows, lambda row: row.plan):
        mine = list(group)
        frames = "" if plan.frames is None else f", {plan.frames} DFT frames"
        table = Table(title=f"split {plan.split}, seed {plan.seed}{frames}", box=SIMPLE_HEAD)
        for heading in ("stage", "for", "reads", "state"):
            table.add_column(heading, overflow="fold")
        table.add_column("gradient steps", justify="right", no_wrap=True)
        for stage in in_order([stage for row in mine for stage in row.stages]):
            if stage.folder in shown:  # numbers of DFT frames share a pretraining
                continue
            shown.add(stage.folder)
            name = os.path.relpath(stage.folder, plan.folder)
            users = [row.strategy for row in mine if stage.folder in [s.folder for s in in_order(row.stages)]]
            found = lates([stage.inputs, stage.config])
            reads = dict.fromkeys(late.of.folder.name if late.of else late.what for late in found)
            state, now, taken = outlook(stage, not missing)
            trained = state.startswith((DONE, TRAINED))
            steps, known = (taken, True) if trained else gradient_steps(stage, now)
            left, exact = left + steps - taken, exact and known
            table.add_row(name, ", ".join(users), ", ".join(reads), state, _number(steps, known))
        console.print(table)
    say(f"{root}: {_number(left, exact)} gradient steps to go; nothing was trained or written")


def labels_to_make(experiment: Experiment, folder: Path) -> tuple[int, int]:
    """How many labels `eipnn label` would make for this run, and how many there are to be.

    Raises `LabelError` where it would refuse: the store in the folder is of other structures or EIPs.
    """
    if experiment.eips is None:
        return 0, 0
    total = sum(map(len, experiment.structures)) * len(experiment.eip_names)
    if not (folder / INDEX).exists():
        return total, total
    found, eips = read_index(folder), load_eips(experiment.eips)
    status = open_array(folder, "status", found, "r")
    if found != (index := describe(StructureStore.joined(experiment.structures), eips)):
        if status.any():
            raise other_labels(folder, found, index)
        return total, total
    return int(np.isin(status, (PENDING, IN_WORK)).sum()), total


def outlook(stage: Stage, labelled: bool) -> tuple[str, Stage | None, int]:
    """What `eipnn run` would do with a stage; the stage itself, where all that it reads is known; its steps so far.

    Args:
        stage: of a plan.
        labelled: whether all labels are made.
    """

    def bring(before: Stage, what: str) -> str:
        state, there, _ = outlook(before, labelled)
        if there is None or (state != DONE and what not in ("fingerprint", "single_eip")):
            raise NotYetError
        if what == "taught" and not labelled_with(there):
            raise NotYetError
        return there.fingerprint()

    late = {late.what for late in lates([stage.inputs, stage.config, list(stage.written.values())])}
    written = all(holds(file, text) for file, text in stage.written.items() if isinstance(text, str))
    now = None
    if (labelled or "labels" not in late) and (written or not late & {"single_eip", "single", "best", "dft"}):
        with suppress(NotYetError):
            now = settled(stage, bring)
    begun = stage.folder / "begun.json"
    if not begun.exists():
        return "will run", now, 0
    if now is None:
        return "will be run again where what it reads changes", None, 0
    if (mapping_in(begun) or {}).get("fingerprint") != now.fingerprint():
        return "outdated, will be run again", now, 0
    done, fit = mapping_in(stage.done_file), mapping_in(stage.fit_file) or {}
    lost = now.lost(done.get("files", {})) if done else [file for file in now.outputs() if not file.is_file()]
    if done and not lost:
        return DONE, now, done["result"].get("gradient_steps", 0)
    if has_ended(stage) and stage.best not in lost:
        made = ", ".join(file.name for file in lost) or "its result"
        return f"{TRAINED}, {made} will be made", now, fit.get("gradient_steps", 0)
    if (checkpoint := whole_checkpoint(stage)) and not done:
        content = read_checkpoint(checkpoint)
        return f"resumes at epoch {content.get('epoch', -1) + 1}", now, content.get("global_step", 0)
    return "will run", now, 0


def gradient_steps(stage: Stage, now: Stage | None) -> tuple[float, bool]:
    """Gradient steps of a whole training, and whether these are exact; else they are the most that it can take.

    Args:
        stage: of a plan.
        now: the same, if all that it reads is known.
    """
    from eipnn.cli import MAX_EPOCHS  # here: it needs Lightning's parser

    trainer, data = stage.config["trainer"], (now or stage).data
    exact = "EarlyStopping" not in json.dumps(trainer.get("callbacks"))
    devices, pool = trainer.get("devices"), len(stage.split.pool)
    world = devices if isinstance(devices, int) and devices > 0 else 1
    if isinstance(fixed := data.get("epoch_steps"), int):
        batches = max(fixed // world, 1)
    elif now is None and data.keys() & {"selection", "epoch_steps"}:
        batches, exact = max(stage.batches(0, world), stage.batches(pool, world)), False
    elif now and "selection" in data:
        batches = stage.batches(labelled_of(_chosen(now), now.data["labels"]), world)
    else:
        batches = stage.batches(pool if stage.about["stage"] == "pretrain" else 0, world)
    limit = trainer.get("limit_train_batches") or 1.0
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    epochs, most = (inf if end == -1 else end for end in (trainer.get("max_epochs"), trainer.get("max_steps")))
    epochs = epochs or (inf if most else MAX_EPOCHS)
    return min(epochs * -(-batches // trainer.get("accumulate_grad_batches", 1)), most or inf), exact


def _chosen(stage: Stage) -> dict[str, str]:
    """The selection that a stage reads, which may not have been written yet."""
    file = Path(stage.data["selection"])
    return selected(io.StringIO(stage.written[file]) if file in stage.written else file)


def _number(steps: float, exact: bool) -> str:
    return "no end" if steps == inf else f"{'' if exact else '<= '}{steps:,.0f}"
