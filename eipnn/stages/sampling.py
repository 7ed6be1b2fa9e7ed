"""Which configurations a batch holds: a function of seed, epoch and rank alone, so that a resumed run sees
what an uninterrupted one sees.

The batches of several processes at a step are, put together, the batch of one process with as many times the
batch size.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DistributedSampler, TensorDataset

from eipnn.errors import InputError


@dataclass(frozen=True)
class BatchPlan:
    """How many configurations of each kind a batch of all processes holds, and how many batches an epoch has."""

    dft: int
    eip: int
    batches: int
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.dft + self.eip


def plan_batches(n_dft: int, n_eip: int, batch_size: int, dft_fraction: float, world_size: int = 1) -> BatchPlan:
    """The batches of an epoch: one pass over the EIP configurations, over DFT where there are none.

    The last partial batch is dropped, except where it is the only one: an epoch has a step, always.

    Args:
        n_dft: DFT configurations.
        n_eip: EIP configurations, may be 0.
        batch_size: configurations a batch and process.
        dft_fraction: share of DFT configurations in a mixed batch; both kinds get at least one place.
        world_size: number of processes.

    Raises:
        ValueError: there is no configuration, or fewer than processes.
    """
    notes = []
    size = batch_size * world_size
    if n_dft and n_eip:
        if size < 2:
            raise InputError("batch_size must be at least 2: a mixed batch holds both DFT and EIP configurations")
        dft = min(max(round(size * dft_fraction), 1), size - 1)
        eip = size - dft
        if n_dft < dft:
            notes.append(f"{n_dft} DFT configurations for {dft} places a batch: they repeat within a batch")
    else:
        dft, eip = (size, 0) if n_dft else (0, size)
    counted, share, kind = (n_eip, eip, "EIP") if n_eip else (n_dft, dft, "DFT")
    if counted < world_size:
        raise InputError(f"{counted} {kind} configurations for training with {world_size} processes: at least one each")
    if counted < share:
        share = counted
        notes.append(f"{counted} {kind} configurations fill no batch: each step takes all of them")
        dft, eip = (dft, share) if n_eip else (share, 0)
    return BatchPlan(dft, eip, counted // share, tuple(notes))


class MixedSampler(DistributedSampler):
    """Indices into [DFT configurations | EIP configurations], in blocks of one batch.

    Each block holds `plan.dft` DFT and `plan.eip` EIP configurations, and is dealt over the processes one by one,
    so that the kinds are shared out evenly. The kind that the epoch counts is drawn without replacement; DFT beside
    EIP is shuffled anew for each pass and cycled. Meant for a loader with ``batch_size=sampler.size``. Lightning
    calls `set_epoch` and leaves the sampler in place under DDP.

    With `sizes`, the atoms of each configuration, what an epoch holds is stratified by these: every batch has one
    configuration of each class of size. Of either kind the atoms of two batches, and those of two processes at a step,
    then differ by no more than its largest configuration has above the smallest.
    """

    def __init__(
        self,
        n_dft: int,
        n_eip: int,
        plan: BatchPlan,
        seed: int,
        world_size: int,
        rank: int,
        sizes: np.ndarray | None = None,
    ) -> None:
        super().__init__(TensorDataset(torch.empty(n_dft + n_eip)), num_replicas=world_size, rank=rank, seed=seed)
        self.n_dft, self.n_eip, self.plan, self.sizes = n_dft, n_eip, plan, sizes
        self.size = len(range(rank, plan.size, world_size))
        """Configurations of a batch that this process holds."""

    def __len__(self) -> int:
        return self.plan.batches * self.size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        dft = self._batches(rng, 0, self.n_dft, self.plan.dft)
        eip = self._batches(rng, self.n_dft, self.n_eip, self.plan.eip)
        mine = np.concatenate([dft, eip], axis=1)[:, self.rank :: self.num_replicas]
        return map(int, mine.flatten())

    def _batches(self, rng: np.random.Generator, first: int, n: int, share: int) -> np.ndarray:
        """The configurations of a kind, `n` from index `first` on, that each batch holds (batches, share)."""
        batches = self.plan.batches
        rows = first + _cycle(rng, n, batches * share)
        if self.sizes is None:
            return rows.reshape(batches, share)
        # those of a size stay in the order in which they were drawn
        classes = rows[np.argsort(self.sizes[rows], kind="stable")].reshape(share, batches)
        return rng.permuted(classes, axis=1).T


def _cycle(rng: np.random.Generator, n: int, length: int) -> np.ndarray:
    """`length` indices below n: permutation after permutation."""
    order = [rng.permutation(n) for _ in range(0, length, max(n, 1))]
    return np.concatenate([np.empty(0, dtype=int), *order])[:length]


class EvaluationSampler(DistributedSampler):
    """All indices in order, dealt over the processes; what pads the last round lies beyond the data.

    `Configurations` answers an index beyond its end with a configuration of weight 0, so that metrics over
    several processes equal those of one.
    """

    def __init__(self, n: int, world_size: int, rank: int) -> None:
        super().__init__(TensorDataset(torch.empty(n)), num_replicas=world_size, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.num_samples * self.num_replicas, self.num_replicas))
