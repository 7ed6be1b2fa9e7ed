"""Terms of the stages' losses, each a small module.

The loss of a stage is the sum of its terms, each times its `weight`; a term gives this process's share of the mean over
all processes (`share_of_mean`). A further one is a class here, with a test in `tests/test_losses.py`. It names the
property that it `needs` of the prediction and of `Targets`, which the data module then reads. A stage uses it once its
constructor makes it an attribute.

Squares of vectors are means over their components, so that weights are those of MACE and its like.
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

Per = Literal["configuration", "atom"]


class Term(nn.Module):
    """A part of a loss, without parameters.

    Args:
        weight: its factor in the loss.
        dft: of the labels of DFT alone, or of EIPs alone; None: of all.
        per: residuals of energies are totals, or an atom.
    """

    needs: ClassVar[str]
    """Name of the property that it is a function of, see `Targets`."""
    parts = 1
    """Small batches that make a gradient step (``trainer.accumulate_grad_batches``)."""

    def __init__(self, weight: float = 1.0, dft: bool | None = None, per: Per = "configuration") -> None:
        super().__init__()
        self.weight, self.dft, self.per = weight, dft, per
        self.factor = 1.0
        """What the weights of all phases are multiplied by."""
        self.earlier: list[Tensor] = []
        """What it keeps of the step's earlier batches; a checkpoint holds it."""

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        """This process's share of the mean, a scalar without the weight; 0 where there is no target of it."""
        raise NotImplementedError

    def residual(self, prediction: Tensor, targets: Targets) -> Tensor:
        """The prediction less the labels (n, S, components): of B configurations or N atoms; 0 where not known."""
        error = targets.error(self.needs, prediction)
        error = error.reshape(*error.shape[:2], -1)
        return error / targets.n_atoms[:, None, None] if self.per == "atom" else error


class SquaredError(Term):
    """Mean over the labels and their components of the squared residual.

    Args:
        weight, dft, per: see `Term`.
        huber: from this root mean square of a label's components on, the loss is linear in it (Huber); in the unit of
            the residual.
    """

    def __init__(
        self, weight: float = 1.0, dft: bool | None = None, per: Per = "configuration", huber: float | None = None
    ) -> None:
        super().__init__(weight, dft, per)
        self.huber = huber

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        weight = targets.counts(self.needs, self.dft)
        squares = self.residual(prediction, targets).square().mean(dim=-1)
        if self.huber is not None:
            bend = self.huber**2
            linear = 2 * self.huber * squares.clamp(min=bend).sqrt() - bend
            squares = torch.where(squares > bend, linear, squares)
        return share_of_mean(weight * squares, weight.sum())


class EnergyError(SquaredError):
    """Mean squared residual of energies, eV^2, or (eV/atom)^2."""

    needs = "energy"


class ForceError(SquaredError):
    """Mean squared residual of force components, (eV/A)^2."""

    needs = "forces"


class StressError(SquaredError):
    """Mean squared residual of stress components, (eV/A^3)^2."""

    needs = "stress"


class Tukey(Term):
    """Mean over EIP labels of Tukey's biweight of the residual's length, over its components (Eq. 4).

    Its constant k is estimated on the residuals of the whole batch: of DFT and EIP labels, of all processes, and of
    the step's earlier small batches, `parts` in all. Of vectors it is that of a component.

    Args:
        weight, per: see `Term`.
        normalised: over sigma^2, the square of k / 4.685, as in the authors' code; without unit.
    """

    def __init__(self, weight: float = 1.0, per: Per = "configuration", normalised: bool = False) -> None:
        super().__init__(weight, dft=False, per=per)
        self.normalised = normalised
        self.k = torch.empty(0)
        """Of the last batch, in the unit of the residual."""
        self._said_rejected = False

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        residual = self.residual(prediction, targets).squeeze(1)  # (n, components)
        known = targets.counts(self.needs).squeeze(1) > 0
        weight = targets.counts(self.needs, self.dft).squeeze(1)
        mine = weight > 0
        self.k = self.rejection(residual[known])
        length = torch.linalg.vector_norm(residual[mine], dim=-1)
        return share_of_mean(weight[mine] * self._biweight(length) / residual.shape[-1], weight.sum())

    def rejection(self, residual: Tensor) -> Tensor:
        """Beyond which length residuals like these of a batch (any shape) are rejected: k of Eq. 4, a scalar."""
        own = gathered(residual.flatten())
        known = [*(earlier.to(own) for earlier in self.earlier), own]
        # with the next batch's own, as many as make a gradient step
        others = self.parts - 1
        self.earlier = known[-others:] if others else []
        every = torch.cat(known)
        return tukey_scale(every) if every.numel() else every.new_zeros(())

    def _biweight(self, length: Tensor) -> Tensor:
        """The loss of each EIP label, (n,) -> (n,)."""
        if self.k == 0 and len(length) and not self._said_rejected:
            log.warning(
                "more than half of a batch's residuals are exactly 0 (%s): its EIP labels are all rejected", self.needs
            )
            self._said_rejected = True
        loss = tukey_biweight(length, self.k)
        return loss / (self.k / TUNING).square().clamp(min=1e-12) if self.normalised else loss


class EnergyTukey(Tukey):
    """Of energies (Eq. 4), eV^2, or (eV/atom)^2."""

    needs = "energy"


class ForceTukey(Tukey):
    """Of the force on each atom, (eV/A)^2."""

    needs = "forces"


class CrossEntropy(Term):
    """Mean cross entropy of logits (B, classes) with the class that is right."""

    needs = "label"

    def forward(self, prediction: Tensor, targets: Targets) -> Tensor:
        weight = targets.counts(self.needs).squeeze(1)
        return share_of_mean(weight * cross_entropy(prediction, targets), weight.sum())


def cross_entropy(logits: Tensor, targets: Targets) -> Tensor:
    """Of each configuration, logits (B, classes) -> (B,)."""
    return F.cross_entropy(logits, targets.values["label"].squeeze(1), reduction="none")
