"""Learning-rate schedules, stepped once an epoch. Their first two arguments are the optimiser and the number
of epochs; `torch.optim.lr_scheduler.CosineAnnealingLR` fits the same place."""

from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class LinearDecay(LambdaLR):
    """Linear from the initial rate in the first epoch to `final_lr` after the last.

    Args:
        optimizer: whose rate changes.
        epochs: length of the training.
        final_lr: rate at the end.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, final_lr: float = 1e-5) -> None:
        def factor(base: float) -> Callable[[int], float]:
            last = final_lr / base
            return lambda epoch: 1 + (last - 1) * min(epoch / max(epochs, 1), 1)

        super().__init__(optimizer, [factor(group["lr"]) for group in optimizer.param_groups])


class SlantedTriangular(LambdaLR):
    """Slanted triangular (Howard & Ruder 2018): up over the first part of the epochs, then down, both linear.

    Args:
        optimizer: whose rate changes.
        epochs: length of the training.
        rise: share of the epochs in which the rate rises.
        ratio: largest over smallest rate.
    """

    def __init__(
        self, optimizer: Optimizer, epochs: int, rise: float = 0.2, ratio: float = 32.0
    ) -> None:
        peak = max(int(epochs * rise), 1)

        def factor(epoch: int) -> float:
            done = (
                epoch / peak if epoch < peak else max(1 - (epoch - peak) / max(epochs - peak, 1), 0)
            )
            return (1 + done * (ratio - 1)) / ratio

        super().__init__(optimizer, factor)
