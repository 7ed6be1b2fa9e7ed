"""Trained modules from checkpoints."""

from pathlib import Path

from eipnn.stages.checkpoints import (
    CheckpointError,
    build_representation,
    read_checkpoint,
    read_record,
)
from eipnn.stages.classify import ClassifierModule
from eipnn.stages.finetune import FinetuneModule
from eipnn.stages.module import StageModule
from eipnn.stages.pretrain import PretrainModule


def load(checkpoint: str | Path) -> StageModule:
    """The trained module of a checkpoint, on the CPU, in evaluation mode.

    It knows its ``stage``, ``elements`` (symbols), ``cutoff`` (A), ``eips``, ``zeros`` (eV an element, of DFT and of
    each EIP) and ``units``.

    Args:
        checkpoint: ``best.ckpt`` or ``last.ckpt`` of any stage, a local file. No code in it is run. A module of your
            own that it names for the representation is imported if its source names eipnn and the class.

    Raises:
        CheckpointError: the file is absent, unreadable, damaged or not eipnn's, or does not fit the code.
    """
    content = read_checkpoint(checkpoint)
    record = read_record(content, checkpoint)
    representation = build_representation(record["representation"])
    cls = {c.stage: c for c in (ClassifierModule, PretrainModule, FinetuneModule)}[record["stage"]]
    try:
        module: StageModule = cls(representation, **record["settings"])
        module.load_state_dict(content["state_dict"])
    except Exception as error:
        raise CheckpointError(
            f"{checkpoint}: does not fit the code ({type(error).__name__}: {error}); "
            "use the version of eipnn, and the backbone, that it was trained with"
        ) from error
    module.elements, module.zeros = record["elements"], record["zeros"]
    return module.eval()
