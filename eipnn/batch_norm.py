"""Batch normalisation that also trains on a single sample."""

import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d``; a single row in training, which has no variance, is normalised as in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, F) -> (N, F)."""
        if self.training and len(x) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
