"""A moving average of the weights: what is validated, kept and used in place of the weights of the last step."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from eipnn.errors import InputError

RAW = "unaveraged"
"""Of a checkpoint: the weights themselves, from which a training goes on."""


class MovingAverage(Callback):
    """An exponential moving average over the gradient steps.

    Lightning's own callback copies the whole module, its data included, and averages buffers; this one averages
    parameters alone. The decay of step t is at most (1 + t) / (10 + t), so that the first steps are forgotten soon.

    Args:
        decay: share of the average that stays at a step, 0 to 1.

    Raises:
        InputError: `decay` is not between 0 and 1.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise InputError(
                f"ema must lie between 0 and 1, not {decay}: the share of the average that stays at a step"
            )
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        kept = self.average
        parameters = dict(pl_module.named_parameters())
        # a checkpoint is read on the CPU
        self.average = {n: kept.get(n, p.detach()).to(p.device, copy=True) for n, p in parameters.items()}
        self.steps = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self.steps:  # the first of several small batches
            return
        self.steps = step = trainer.global_step
        current: list[Any] = [p.detach() for p in pl_module.parameters()]
        get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))(list(self.average.values()), current, step)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module ends with the average."""
        self._swap(pl_module)
        self.average = {}

    def _swap(self, module: LightningModule) -> None:
        for name, parameter in module.named_parameters():
            if name in self.average:
                mean = self.average[name].clone()
                self.average[name].copy_(parameter.detach())
                parameter.data.copy_(mean)

    def put_into(self, checkpoint: dict[str, Any]) -> None:
        """The average in place of the weights; the module calls it for each kind of checkpoint."""
        if self.average:
            weights = checkpoint["state_dict"]
            checkpoint[RAW] = {name: weights[name] for name in self.average}
            checkpoint["state_dict"] = weights | {name: mean.clone() for name, mean in self.average.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if RAW in checkpoint and trainer.training:
            raw = checkpoint[RAW]
            self.average = {name: checkpoint["state_dict"][name].to(raw[name]).clone() for name in raw}
            pl_module.load_state_dict(checkpoint["state_dict"] | raw)
