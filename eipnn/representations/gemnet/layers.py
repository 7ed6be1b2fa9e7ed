"""Dense layers, residual layers and scaling factors of GemNet (arXiv 2106.08903, section 6 and appendix)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT_HALF = math.sqrt(0.5)
"""Weight of a sum of two, which keeps its variance that of its terms."""
SILU_SCALE = 1 / 0.6
"""Brings the variance of silu(x) for standard normal x back to about 1."""


def he_orthogonal_(weight: Tensor) -> Tensor:
    """Fill (out, in) with a random semi-orthogonal matrix whose rows have mean 0 and variance 1 / in."""
    with torch.no_grad():
        nn.init.orthogonal_(weight)
        variance, mean = torch.var_mean(weight, dim=1, keepdim=True)
        weight.sub_(mean).div_((variance + 1e-6).sqrt() * math.sqrt(weight.shape[1]))
    return weight


def dense(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer without bias: a message of zero stays zero, as smoothness at the cutoff needs it."""
    layer = nn.Linear(inputs, outputs, bias=False)
    he_orthogonal_(layer.weight)
    return layer


def scaled_silu(x: Tensor) -> Tensor:
    """``silu(x) / 0.6``."""
    return F.silu(x).mul_(SILU_SCALE)


def add(x: Tensor, y: Tensor) -> Tensor:
    """``(x + y) / sqrt(2)``, in the memory of x: no layer needs what its output was before it is added."""
    return x.add_(y).mul_(ROOT_HALF)


class Residual(nn.Module):
    """``(x + f(W_2 f(W_1 x))) / sqrt(2)`` with the scaled silu f."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = dense(width, width), dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return add(scaled_silu(self.second(scaled_silu(self.first(x)))), x)


class ScalingFactor(nn.Module):
    """A constant that brings the variance of a layer's output to that of its input (section 6, "Scaling factors").

    Found by a forward pass over training configurations while `fitting` is set: each factor is fixed as the pass
    comes to it, with all those before it in place. Where nothing passes (no pairs, no triplets) it stays 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.ones(()))
        self.factor: Tensor
        self.fitting = False

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """``factor * x``; x (..., F) and reference (..., G), samples in rows, are compared while fitting."""
        if self.fitting:
            ratio = (variance(reference) / variance(x)).sqrt()
            if ratio.isfinite() and ratio > 0:
                self.factor.copy_(ratio)
        return x * self.factor


def variance(x: Tensor) -> Tensor:
    """Variance over the rows of (..., F), averaged over its columns; NaN for fewer than two rows."""
    rows = x.flatten(0, -2)
    if len(rows) < 2:
        return x.new_tensor(torch.nan)
    return rows.var(dim=0).mean()
