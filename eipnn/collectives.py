"""Sums and joined rows over the processes of a training; in a single one, what is given."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The number of this process among those that train together, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def total(x: Tensor) -> Tensor:
    """Sum of x over the processes, of the same shape in each; gradients flow to all of them."""
    return _Total.apply(x) if world_size() > 1 else x


class _Total(torch.autograd.Function):
    """``torch.distributed.nn.functional.all_reduce``, which torch 2.13 calls old without a public successor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        result = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return total(slope)


def gathered(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of these, without gradient.

    Args:
        rows: (n, ...), each process with its own n.

    Returns:
        (sum of n, ...), the same in each.
    """
    rows, world = rows.detach(), world_size()
    if world == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world)]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    lengths = [int(n) for n in counts]
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    every = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(every, padded)
    return torch.cat([part[:n] for part, n in zip(every, lengths, strict=True)])


def share_of_mean(terms: Tensor, count: Tensor | int) -> Tensor:
    """This process's share of the mean of all processes' terms; 0 where there are none at all.

    The mean of the shares over the processes is that mean, whatever number of terms each has. DDP averages the
    gradients of the processes, so that of the shares it makes the gradient of the mean.

    Args:
        terms: any shape.
        count: how many of them count, where some are zero because they are to be left out.
    """
    n = total(torch.as_tensor(count, dtype=terms.dtype, device=terms.device))
    return terms.sum() * world_size() / n.clamp(min=1)
