"""What a training will take: gradient steps, and minutes by a few real steps on this machine."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch_geometric.data import Batch

from eipnn.inputs import prepare
from eipnn.potential.checkpoints import build_representation
from eipnn.run.dry_run import DONE, TRAINED, gradient_steps, outlook
from eipnn.run.plan import Row, Stage, in_order
from eipnn.stages import ClassifierModule, FinetuneModule, PretrainModule
from eipnn.stages.data import Configurations
from eipnn.stages.module import StageModule
from eipnn.stages.source import of_dft
from eipnn.structures import StructureStore
from eipnn.targets import PROPERTIES
from eipnn.train.settings import takes_gpu

SECONDS = 1.5
"""For which steps of a kind of stage are measured."""
STEPS = 5
"""At most."""


class Cost(NamedTuple):
    """Stages of one kind."""

    stages: int
    steps: float
    """That are still to be made, of all of them."""
    seconds: float
    """A step."""


def costs(rows: Sequence[Row], labelled: bool, threads: int | None) -> dict[str, Cost]:
    """By kind of stage: classify, pretrain, ..., and the rows' own trainings.

    Args:
        rows: of one experiment.
        labelled: whether all labels are made.
        threads: CPU threads of each training.
    """
    stages: dict[Path, Stage] = {s.folder: s for s in in_order([stage for row in rows for stage in row.stages])}
    kinds: dict[str, list[Stage]] = {}
    for stage in stages.values():
        kinds.setdefault(str(stage.about.get("strategy", stage.folder.name)), []).append(stage)
    speed: dict[str, float] = {}
    found = {}
    for kind, mine in kinds.items():
        left = sum(steps_left(stage, labelled) for stage in mine)
        name = str(mine[0].about["stage"])
        if left and name not in speed:
            speed[name] = seconds_a_step(mine[0], _trained_on(rows[0], mine[0]), threads)
        found[kind] = Cost(len(mine), left, speed.get(name, 0.0))
    return found


def steps_left(stage: Stage, labelled: bool) -> float:
    """Gradient steps that a stage would still make."""
    state, now, taken = outlook(stage, labelled)
    return 0 if state.startswith((DONE, TRAINED)) else gradient_steps(stage, now)[0] - taken


def _trained_on(row: Row, stage: Stage) -> StructureStore:
    """Structures like those of a batch of a stage, in random order."""
    frames = StructureStore.joined(row.plan.experiment.structures)
    ids = stage.split.pool if stage.about["stage"] == "pretrain" else stage.split.train
    size = stage.data.get("batch_size", 32)
    chosen = np.random.default_rng(0).permutation(len(ids))[:size]
    return frames.take(frames.rows([ids[k] for k in chosen]))


def seconds_a_step(stage: Stage, frames: StructureStore, threads: int | None) -> float:
    """Seconds of one gradient step of a stage on a batch of these structures, whose labels are made up.

    The first step, which is slower, is not counted.
    """
    module = _module(stage, frames)
    device = "cuda" if takes_gpu(stage.config["trainer"]) else "cpu"
    batch = _batch(module, frames, len(stage.model.get("eips", [1]))).to(device)
    optimizer = torch.optim.Adam(module.to(device).parameters(), lr=1e-6)
    before = torch.get_num_threads()
    spent: list[float] = []
    torch.set_num_threads(threads or before)
    while len(spent) < 2 or (len(spent) <= STEPS and sum(spent) < SECONDS):
        start = perf_counter()
        optimizer.zero_grad()
        module.backward(module.training_step(batch, 0)["loss"])
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(perf_counter() - start)
    torch.set_num_threads(before)
    return float(np.median(spent[1:]))


def _module(stage: Stage, frames: StructureStore) -> StageModule:
    """The module of a stage without its settings, which cost no time."""
    representation = build_representation(stage.model["representation"])
    module: StageModule
    match stage.about["stage"]:
        case "classify":
            module = ClassifierModule(representation, stage.model["eips"])
        case "pretrain":
            module = PretrainModule(representation, stage.model["eips"])
        case _:
            module = FinetuneModule(representation)
    module.elements = frames.elements()
    return module


def _batch(module: StageModule, frames: StructureStore, sources: int) -> Batch:
    """A batch with labels of 0 of all that the module may learn and, in fine-tuning, the frames have."""
    n, known = len(frames), frames.labelled()
    labels = {"label": torch.zeros(n, 1, dtype=torch.long)}
    for name in PROPERTIES:
        if name == "energy" or module.stage == "pretrain" or known[name].any():
            shape = of_dft(name, frames).shape
            labels[name] = torch.zeros(shape[0], sources, *shape[1:])
    if module.stage == "finetune":
        labels["is_dft"] = torch.ones(n, dtype=torch.bool)
    data = Configurations(prepare(frames, module.handover.inputs), labels)
    return Batch.from_data_list([data[row] for row in range(n)])


def table(found: Mapping[str, Cost]) -> Table:
    """The stages with what they will take."""
    made = Table(title="To be trained (minutes: an estimate)", box=SIMPLE_HEAD)
    made.add_column("stage")
    for heading in ("trainings", "gradient steps", "s a step", "minutes"):
        made.add_column(heading, justify="right", no_wrap=True)
    for kind, cost in found.items():
        speed = f"{cost.seconds:.2g}" if cost.steps else ""
        made.add_row(kind, str(cost.stages), f"{cost.steps:,.0f}", speed, _minutes(cost.steps * cost.seconds))
    total = sum(cost.steps for cost in found.values())
    seconds = sum(cost.steps * cost.seconds for cost in found.values())
    made.add_row("all", str(sum(cost.stages for cost in found.values())), f"{total:,.0f}", "", _minutes(seconds))
    return made


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f}" if seconds >= 600 else f"{seconds / 60:.1f}"
