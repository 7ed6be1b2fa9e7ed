"""Which checkpoints a training keeps, and what of their callbacks' state holds in a folder that was moved."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor


def keeping(trainer: Trainer, monitor: str, mode: str) -> list[Callback]:
    """Callbacks that keep the best epoch by `monitor`, and the last one.

    A `ModelCheckpoint` of the user's that monitors a metric takes the place of the first, and chooses among the epochs
    of all phases; another stands beside them; all write into ``checkpoints`` where they name no folder.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [c for c in callbacks if isinstance(c, ModelCheckpoint)]
    folder = str((Path(trainer.default_root_dir) / "checkpoints").resolve())
    given = [c for c in found if not is_lightnings_own(c)]
    for callback in given:
        callback.dirpath = callback.dirpath or folder
    if not found:  # trainer.enable_checkpointing is off
        return []
    best = BestEpoch(dirpath=folder, filename="best", monitor=monitor, mode=mode, enable_version_counter=False)
    # A callback of its own: save_last writes after improvements alone. Without a metric the mode means nothing,
    # but it tells this callback's state from that of another one in a checkpoint.
    last = ModelCheckpoint(dirpath=folder, filename="last", mode="max", enable_version_counter=False)
    selecting = any(c.monitor for c in given)
    return [*given, last] if selecting else [best, *given, last]


class BestEpoch(ModelCheckpoint):
    """Keeps the best epoch, which is one of the last phase that was validated (`StageModule.phase`)."""

    phase = 0

    @property
    def state_key(self) -> str:  # that of checkpoints of before
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        now = int(trainer.lightning_module.phase)  # type: ignore[arg-type]
        if now > self.phase and current is not None:
            self.phase = now
            self.best_k_models.clear()  # the file is written anew
        return now == self.phase and super().check_monitor_top_k(trainer, current)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"phase": self.phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.phase = state_dict.get("phase", 0)


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
