"""Stage 1: which EIP is closest to DFT, per configuration (Shui et al. 2022, Sec. 4.2)."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Adam
from torch_geometric.data import Batch
from torchmetrics import MeanMetric

from eipnn.eips import NONE
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential.heads import ClassHead
from eipnn.representations.base import Representation
from eipnn.stages.data import Configurations, StageDataModule
from eipnn.stages.module import SchedulerCallable, StageModule, require_positive
from eipnn.stages.schedules import SlantedTriangular
from eipnn.stages.terms import CrossEntropy

log = logging.getLogger("eipnn")


def best_eip_class(dft: np.ndarray, eip: np.ndarray, n_atoms: np.ndarray, c: float) -> np.ndarray:
    """The class of each configuration: the EIP closest to DFT, or |P| (p_0) where none is within c.

    Args:
        dft: aligned DFT energies (n,), eV.
        eip: aligned EIP energies (n, |P|), eV; NaN is never the closest.
        n_atoms: (n,).
        c: threshold in eV/atom.

    Returns:
        (n,) int64, 0 .. |P|.
    """
    error = np.abs(eip - dft[:, None])
    error = np.where(np.isfinite(error), error, np.inf)
    best = error.argmin(axis=1)
    far = error.min(axis=1) / n_atoms > c
    return np.where(far, eip.shape[1], best).astype(np.int64)


class ClassifierModule(StageModule):
    """Predicts the distribution over the EIPs and p_0 (none) for a configuration.

    Args:
        representation: f_rep.
        eips: names of the EIPs, columns of the label store.
        c: p_0 where no EIP is within c of DFT, eV/atom.
        init_from: pretrained checkpoint whose representation is the start.
        optimizer: made from the parameters.
        scheduler: made from the optimiser, stepped once an epoch; null: a constant rate. A `ReduceLROnPlateau`
            without a ``monitor`` watches the metric that selects the best epoch.
    """

    stage = "classify"
    monitor = "val_accuracy"
    mode = "max"
    predictions = "selection.csv"

    def __init__(
        self,
        representation: Representation,
        eips: list[str],
        c: float = 0.1,
        init_from: str | None = None,
        optimizer: OptimizerCallable = Adam,
        scheduler: SchedulerCallable | None = SlantedTriangular,
    ) -> None:
        super().__init__(representation, eips, optimizer, scheduler, init_from)
        if not eips:
            raise InputError("the classifier needs at least one EIP")
        require_positive("c", c, "eV/atom")
        self.c = self.handover.limit = c
        self.head = ClassHead(representation.dim, len(self.eips) + 1)
        self.loss_term = CrossEntropy()
        self.accuracy = MeanMetric()
        self.cross_entropy = MeanMetric()

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the EIPs, then ``none``."""
        return [*self.eips, NONE]

    @property
    def metrics(self) -> list[str]:
        return ["val_accuracy", "val_loss"]

    def settings(self) -> dict[str, Any]:
        return {"eips": self.eips, "c": self.c}

    def forward(self, batch: Batch) -> Tensor:
        """A batch of B configurations -> logits (B, |P| + 1)."""
        graph = graph_of(batch)
        return self.head(self.representation(graph), graph.batch, graph.size)

    def predicted(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self(batch)}

    def outputs(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """``class`` (B,) and ``probability`` (B,) of the most likely class."""
        probability, chosen = output.softmax(dim=-1).max(dim=-1)
        return {"class": chosen, "probability": probability}

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        return {"label": batch.label}

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        names = np.array(self.classes)
        columns = {
            "eip": names[outputs["class"].numpy()],
            "probability": outputs["probability"].numpy(),
        }
        if "label" in outputs:
            columns["best_eip"] = names[outputs["label"].numpy()]
        return columns

    def assess(self, batch: Batch, output: Tensor, split: str) -> None:
        self.accuracy.update((output.argmax(dim=-1) == batch.label).float(), batch.weight)
        self.cross_entropy.update(F.cross_entropy(output, batch.label, reduction="none"), batch.weight)
        size = batch.num_graphs
        self.log(f"{split}_accuracy", self.accuracy, batch_size=size, prog_bar=True)
        self.log(f"{split}_loss", self.cross_entropy, batch_size=size)


class ClassifierDataModule(StageDataModule):
    """DFT configurations with their best EIP as target; the pool for prediction. See `StageDataModule`."""

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.source.split.train, ()

    def make_train(self) -> Configurations:
        return self.labelled(self.source.split.train)

    def make_evaluation(self, ids: Sequence[str]) -> Configurations:
        return self.labelled(ids)

    def labelled(self, ids: Sequence[str]) -> Configurations:
        source, eips = self.source, self.handover.eips
        frames = source.structures(ids)
        n_atoms = frames.sizes
        energies = source.eip_energies(ids, eips)
        label = best_eip_class(source.dft_energies(ids), energies, n_atoms, self.handover.limit)
        counts = np.bincount(label, minlength=len(eips) + 1)
        log.info(
            "classes: %s",
            ", ".join(f"{n} {c}" for n, c in zip([*eips, NONE], counts, strict=True)),
        )
        return self.configurations(frames, {"label": torch.from_numpy(label)})
