"""Trained modules from checkpoints."""

from pathlib import Path

from eipnn.stages.classify import ClassifierModule
from eipnn.stages.finetune import FinetuneModule
from eipnn.stages.module import (
    StageModule,
    build_representation,
    read_checkpoint,
    read_record,
)
from eipnn.stages.pretrain import PretrainModule


def load(checkpoint: str | Path) -> StageModule:
    """The trained module of a checkpoint, on the CPU, in evaluation mode.

    It knows its ``stage``, ``elements`` (symbols), ``cutoff`` (A), ``eips``, ``zeros`` (eV an element, of DFT and of
    each EIP) and ``units``.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of any stage.

    Raises:
        CheckpointError: the file is absent, unreadable, or not eipnn's.
    """
    content = read_checkpoint(checkpoint)
    record = read_record(content, checkpoint)
    representation = build_representation(record["representation"])
    cls = {c.stage: c for c in (ClassifierModule, PretrainModule, FinetuneModule)}[record["stage"]]
    module: StageModule = cls(representation, **record["settings"])
    module.load_state_dict(content["state_dict"])
    module.elements, module.zeros = record["elements"], record["zeros"]
    return module.eval()
