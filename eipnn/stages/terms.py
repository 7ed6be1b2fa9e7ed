"""Terms of the stages' losses, each a small module.

The loss of a stage is the sum of its terms, each times its `weight`; a term gives this process's share of the mean over
all processes (`share_of_mean`). A further one is a class here, with a test in `tests/test_losses.py`. It names the
property that it `needs` of the prediction and of `Targets`, which the data module then reads. A stage uses it once its
constructor makes it an attribute.
"""

import logging
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eipnn.collectives import gathered, share_of_mean
from eipnn.losses import TUNING, tukey_biweight, tukey_scale
from eipnn.targets import Targets

log = logging.getLogger("eipnn")


class Term(nn.Module):
    """A part of a loss, without parameters.

    Args:
        weight: its factor in the loss.
        dft: of the labels of DFT alone, or of EIPs alone; None: of all.
    """

    needs: ClassVar[str]
    """Name of the property that it is a function of, see `Targets`."""
    parts = 1
    """Small batches that make a gradient step (``trainer.accumulate_grad_batches``)."""

    def __init__(self, weight: float = 1.0, dft: bool | None = None) -> None:
        super().__init__()
        self.weight, self.dft = weight, dft
        self.earlier: list[Tensor] = []
        """What it keeps of the step's earlier batches; a checkpoint holds it."""

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        """This process's share of the mean, a scalar without the weight; 0 where there is no target of it."""
        raise NotImplementedError


class SquaredError(Term):
    """Mean over the labels of the squared residual, of vectors that of its length."""

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        weight = targets.counts(self.needs, self.dft)
        squares = targets.error(self.needs, prediction).square().reshape(*weight.shape, -1).sum(dim=-1)
        return share_of_mean(weight * squares, weight.sum())


class EnergyMSE(SquaredError):
    """Mean squared residual of energies, eV^2."""

    needs = "energy"


class EnergyTukey(Term):
    """Mean of Tukey's biweight of the residuals of EIP labels, one a configuration (Eq. 4), eV^2.

    Its constant k is estimated on the residuals of the whole batch: of DFT and EIP configurations, of all processes,
    and of the step's earlier small batches, `parts` in all.

    Args:
        weight: see `Term`.
        per: ``configuration``, or ``atom``: k of residuals an atom, times the number of atoms.
        normalised: over sigma^2, the square of k / 4.685, as in the authors' code; without unit.
    """

    needs = "energy"

    def __init__(
        self, weight: float = 1.0, per: Literal["configuration", "atom"] = "configuration", normalised: bool = False
    ) -> None:
        super().__init__(weight, dft=False)
        self.per, self.normalised = per, normalised
        self.k = torch.empty(0)
        """Of the last batch (B,), eV."""
        self._said_rejected = False

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        residual = targets.error(self.needs, prediction).squeeze(1)  # (B,)
        weight = targets.counts(self.needs, self.dft).squeeze(1)
        self.k = self.rejection(residual, targets.n_atoms)
        mine = weight > 0
        return share_of_mean(weight[mine] * self._biweight(residual[mine], self.k[mine]), weight.sum())

    def rejection(self, residual: Tensor, n_atoms: Tensor) -> Tensor:
        """Beyond which size each residual (B,) of a batch is rejected: k of Eq. 4 (B,), eV."""
        size = n_atoms if self.per == "atom" else torch.ones_like(n_atoms)
        own = gathered(residual / size)
        known = [*(earlier.to(own) for earlier in self.earlier), own]
        # with the next batch's own, as many as make a gradient step
        others = self.parts - 1
        self.earlier = known[-others:] if others else []
        return tukey_scale(torch.cat(known)) * size

    def _biweight(self, residual: Tensor, k: Tensor) -> Tensor:
        """The loss of each EIP configuration, residual and k (n,) -> (n,)."""
        if (k == 0).any() and not self._said_rejected:
            log.warning("more than half of a batch's residuals are exactly 0: its EIP labels are all rejected")
            self._said_rejected = True
        loss = tukey_biweight(residual, k)
        return loss / (k / TUNING).square().clamp(min=1e-12) if self.normalised else loss


class CrossEntropy(Term):
    """Mean cross entropy of logits (B, classes) with the class that is right."""

    needs = "label"

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        weight = targets.counts(self.needs).squeeze(1)
        return share_of_mean(weight * cross_entropy(prediction, targets), weight.sum())


def cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Of each configuration, logits (B, classes) -> (B,)."""
    return F.cross_entropy(logits, targets.values["label"].squeeze(1), reduction="none")
