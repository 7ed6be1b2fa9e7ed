"""Terms of the stages' losses, each a small module.

The loss of a stage is the sum of its terms, each times its `weight`; a term gives this process's share of the mean over
all processes (`share_of_mean`). A further one is a class here, with a test in `tests/test_losses.py`: it names the
property that it `needs`, which the stage module's `predicted` gives (energy, forces or stress of `Properties` in
fine-tuning), and reads its targets from the batch. A stage uses it once its constructor makes it an attribute.
"""

import logging
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch

from eipnn.collectives import gathered, share_of_mean
from eipnn.losses import TUNING, tukey_biweight, tukey_scale

log = logging.getLogger("eipnn")


class Term(nn.Module):
    """A part of a loss, without parameters.

    Args:
        weight: its factor in the loss.
    """

    needs: ClassVar[str]
    """Name of the property that it is a function of."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        """This process's share of the mean, a scalar without the weight; 0 where the batch has no target of it."""
        raise NotImplementedError


class EnergyTerm(Term):
    """Of residuals of energies: prediction and ``batch.energy`` (B,), eV; which are DFT's: ``batch.is_dft`` (B,)."""

    needs = "energy"
    parts = 1
    """Small batches that make a gradient step (``trainer.accumulate_grad_batches``)."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)
        self.earlier: list[Tensor] = []
        """What it keeps of the step's earlier batches; a checkpoint holds it."""

    def used(self, residual: Tensor) -> Tensor:
        """Which residuals (B,) of the last batch would get gradient as EIP labels (B,)."""
        return torch.ones_like(residual, dtype=torch.bool)


class EnergyMSE(EnergyTerm):
    """Mean squared residual, eV^2, of DFT energies or of EIP labels.

    Args:
        weight: see `Term`.
        dft: whether of DFT energies.
    """

    def __init__(self, weight: float = 1.0, dft: bool = True) -> None:
        super().__init__(weight)
        self.dft = dft

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        mine = batch.is_dft == self.dft
        return share_of_mean((prediction - batch.energy)[mine].square(), mine.sum())


class EnergyTukey(EnergyTerm):
    """Mean of Tukey's biweight of the EIP labels' residuals (Eq. 4), eV^2.

    Its constant k is estimated on the residuals of the whole batch: of DFT and EIP configurations, of all processes,
    and of the step's earlier small batches, `parts` in all.

    Args:
        weight: see `Term`.
        per: ``configuration``, or ``atom``: k of residuals an atom, times the number of atoms.
        normalised: over sigma^2, the square of k / 4.685, as in the authors' code; without unit.
    """

    def __init__(
        self,
        weight: float = 1.0,
        per: Literal["configuration", "atom"] = "configuration",
        normalised: bool = False,
    ) -> None:
        super().__init__(weight)
        self.per, self.normalised = per, normalised
        self.k = torch.empty(0)
        """Of the last batch (B,), eV."""
        self._said_rejected = False

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        residual, eip = prediction - batch.energy, ~batch.is_dft
        self.k = self.rejection(residual, batch.n_atoms)
        terms = self._biweight(residual[eip], self.k[eip])
        return share_of_mean(terms, len(terms))

    def rejection(self, residual: Tensor, n_atoms: Tensor) -> Tensor:
        """Beyond which size each residual (B,) of a batch is rejected: k of Eq. 4 (B,), eV."""
        size = n_atoms if self.per == "atom" else torch.ones_like(n_atoms)
        own = gathered(residual / size)
        known = [*(earlier.to(own) for earlier in self.earlier), own]
        # with the next batch's own, as many as make a gradient step
        others = self.parts - 1
        self.earlier = known[-others:] if others else []
        return tukey_scale(torch.cat(known)) * size

    def used(self, residual: Tensor) -> Tensor:
        return (residual.abs() <= self.k) & (self.k > 0)

    def _biweight(self, residual: Tensor, k: Tensor) -> Tensor:
        """The loss of each EIP configuration, residual and k (n,) -> (n,)."""
        if (k == 0).any() and not self._said_rejected:
            log.warning("more than half of a batch's residuals are exactly 0: its EIP labels are all rejected")
            self._said_rejected = True
        loss = tukey_biweight(residual, k)
        return loss / (k / TUNING).square().clamp(min=1e-12) if self.normalised else loss


class MultiEnergyMSE(Term):
    """Mean squared residual, eV^2, over the energies of all EIPs (B, |P|) that are known, ``batch.known`` (B, |P|)."""

    needs = "energies"

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        residual = torch.where(batch.known, prediction - batch.energies, 0.0)
        return share_of_mean(residual.square(), batch.known.sum())


class CrossEntropy(Term):
    """Mean cross entropy of logits (B, classes) with the classes ``batch.label`` (B,)."""

    needs = "logits"

    def forward(self, prediction: Tensor, batch: Batch) -> Tensor:
        terms = F.cross_entropy(prediction, batch.label, reduction="none")  # (B,)
        return share_of_mean(terms, len(terms))
