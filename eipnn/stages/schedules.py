"""Learning-rate schedules that span the training, stepped once an epoch."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from eipnn.errors import InputError, require_positive


class SpanningSchedule(LambdaLR):
    """A rate that is a function of the epoch and of the number of epochs.

    The state that a checkpoint keeps is the epoch alone: a training that is resumed with another number of epochs, or
    another rate, has from there on the rates of a training that began with these.

    Args:
        optimizer: whose rate changes.
        factors: one for each of its parameter groups: (epoch, epochs) -> rate over initial rate, with epoch > 0.
        start: the same at epoch 0.
        epochs: length of the training; a stage module fills in the trainer's ``max_epochs`` where it is None.

    Raises:
        InputError: there is not one epoch, or an initial rate is not positive and finite.
    """

    def __init__(
        self, optimizer: Optimizer, factors: Sequence[Callable[[int, int], float]], start: float, epochs: int | None
    ) -> None:
        if epochs is not None and epochs < 1:
            raise InputError(f"epochs must be at least 1, not {epochs}")
        for group in optimizer.param_groups:
            require_positive("lr", group["lr"])
        self.epochs = epochs

        def bound(factor: Callable[[int, int], float]) -> Callable[[int], float]:
            def rate(epoch: int) -> float:
                if epoch and self.epochs is None:
                    raise ValueError(f"{type(self).__name__} needs the number of epochs: set epochs")
                return factor(epoch, self.epochs or 1) if epoch else start

            return rate

        super().__init__(optimizer, [bound(factor) for factor in factors])

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "_step_count": self._step_count}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.last_epoch, self._step_count = state_dict["last_epoch"], state_dict["_step_count"]
        factors = [factor(self.last_epoch) for factor in self.lr_lambdas]
        self._last_lr = [base * f for base, f in zip(self.base_lrs, factors, strict=True)]
        for group, rate in zip(self.optimizer.param_groups, self._last_lr, strict=True):
            group["lr"] = rate


class LinearDecay(SpanningSchedule):
    """Linear from the initial rate in the first epoch to `final_lr` after the last.

    Args:
        optimizer: whose rate changes.
        final_lr: rate at the end.
        epochs: length of the training; the trainer's ``max_epochs`` if none is given.
    """

    def __init__(self, optimizer: Optimizer, final_lr: float = 1e-5, epochs: int | None = None) -> None:
        if not 0 <= final_lr < float("inf"):
            raise InputError(f"final_lr must not be negative, not {final_lr}")

        def decay(base: float) -> Callable[[int, int], float]:
            return lambda epoch, epochs: 1 + (final_lr / base - 1) * min(epoch / epochs, 1)

        factors = [decay(group["lr"]) for group in optimizer.param_groups]
        super().__init__(optimizer, factors, 1.0, epochs)


class SlantedTriangular(SpanningSchedule):
    """Slanted triangular (Howard & Ruder 2018): up over the first part of the epochs, then down, both linear.

    Args:
        optimizer: whose rate changes.
        rise: share of the epochs in which the rate rises.
        ratio: largest over smallest rate.
        epochs: length of the training; the trainer's ``max_epochs`` if none is given.
    """

    def __init__(self, optimizer: Optimizer, rise: float = 0.2, ratio: float = 32.0, epochs: int | None = None) -> None:
        if not (0 < rise <= 1 and 1 <= ratio < float("inf")):
            raise InputError(f"rise must lie between 0 and 1 and ratio be at least 1, not {rise} and {ratio}")

        def factor(epoch: int, epochs: int) -> float:
            peak = max(int(epochs * rise), 1)
            fall = max(1 - (epoch - peak) / max(epochs - peak, 1), 0)
            return (1 + (epoch / peak if epoch < peak else fall) * (ratio - 1)) / ratio

        super().__init__(optimizer, [factor] * len(optimizer.param_groups), 1 / ratio, epochs)
