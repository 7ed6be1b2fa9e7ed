"""Batch normalisation over all processes that also trains on a single sample."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eipnn.collectives import total, world_size


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over the rows of all processes, which may hold unequal numbers of them.

    Unlike ``torch.nn.SyncBatchNorm`` it works on CPUs too. A single row in training, which has no variance, is
    normalised as in evaluation.
    """

    # never None here
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any
    momentum: Any

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) -> (N, F)."""
        if not self.training:
            return super().forward(x)
        several = world_size() > 1
        rows = int(total(torch.tensor(len(x), device=x.device))) if several else len(x)
        if rows == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return self._over_processes(x, rows) if several else super().forward(x)

    def _over_processes(self, x: Tensor, rows: int) -> Tensor:
        """x (N, F), one of the parts of a batch of `rows` rows in all -> (N, F)."""
        wide = x.to(self.running_mean.dtype)  # of mixed precision
        mean = total(wide.sum(dim=0)) / rows  # (F,)
        centred = wide - mean
        variance = total(centred.square().sum(dim=0)) / rows  # (F,)
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)
        return (centred * (variance + self.eps).rsqrt() * self.weight + self.bias).to(x.dtype)
