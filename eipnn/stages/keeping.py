"""Which checkpoints a training keeps, and what of their callbacks' state holds in a folder that was moved."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn


def keeping(trainer: Trainer, monitor: str, mode: str) -> list[Callback]:
    """Callbacks that keep the best epoch by `monitor`, and the last one.

    A `ModelCheckpoint` of the user's that monitors a metric takes the place of the first, another stands beside
    them; all write into ``checkpoints`` where they name no folder.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [c for c in callbacks if isinstance(c, ModelCheckpoint)]
    folder = str((Path(trainer.default_root_dir) / "checkpoints").resolve())
    given = [c for c in found if not is_lightnings_own(c)]
    for callback in given:
        callback.dirpath = callback.dirpath or folder
    if not found:  # trainer.enable_checkpointing is off
        return []
    best = ModelCheckpoint(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    # A callback of its own: save_last writes after improvements alone. Without a metric the mode means nothing,
    # but it tells this callback's state from that of another one in a checkpoint.
    last = ModelCheckpoint(dirpath=folder, filename="last", mode="max", enable_version_counter=False)
    selecting = any(c.monitor for c in given)
    return [*given, last] if selecting else [best, *given, last]


def forget_best(trainer: Trainer, monitor: str) -> None:
    """The epochs so far are no candidates any more: the next one is the best until a better one comes."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and (callback.filename, callback.monitor) == ("best", monitor):
            callback.best_k_models.clear()
            callback.kth_best_model_path, callback.best_model_score, callback.current_score = "", None, None
            callback.kth_value = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)


def is_lightnings_own(callback: ModelCheckpoint) -> bool:
    """Whether it has no settings, as the one that Lightning adds where there is none."""
    names = ("dirpath", "filename", "save_top_k", "save_last", "state_key")
    return all(getattr(callback, name) == getattr(ModelCheckpoint(), name) for name in names)


def adapt_states(states: dict[str, Any], trainer: Any) -> None:
    """Drop what callbacks noted where nothing is trained; in a run folder that was moved, follow it."""
    if trainer.state.fn != TrainerFn.FITTING:
        states.clear()
    folder = Path(trainer.ckpt_path).resolve().parent
    for callback in trainer.checkpoint_callbacks:
        key = callback.state_key
        if key in states and Path(callback.dirpath).resolve() == folder:
            states[key] = moved(states[key], Path(states[key]["dirpath"]), Path(callback.dirpath))


def moved(state: Any, old: Path, new: Path) -> Any:
    """The state of a checkpoint callback, with the paths in the folder `old` put into the folder `new`."""
    if isinstance(state, dict):
        return {moved(k, old, new): moved(v, old, new) for k, v in state.items()}
    if isinstance(state, str) and Path(state).is_relative_to(old):
        return str(new / Path(state).relative_to(old))
    return state
