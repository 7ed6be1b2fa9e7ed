"""Stage 1: which EIP is closest to DFT, per configuration (Shui et al. 2022, Sec. 4.2)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch_geometric.data import Batch

from eipnn.eips import NONE
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential.heads import ClassHead
from eipnn.representations.base import Representation
from eipnn.stages.data import StageDataModule
from eipnn.stages.module import StageModule, require_positive
from eipnn.stages.source import DFT
from eipnn.stages.terms import CrossEntropy, cross_entropy
from eipnn.structures import StructureStore
from eipnn.targets import Targets

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
        **kwargs: see `StageModule`.
    """

    stage = "classify"
    monitor = "val_accuracy"
    mode = "max"
    output = "label"
    predictions = "selection.csv"
    measures = ("accuracy", "loss")

    def __init__(self, representation: Representation, eips: list[str], c: float = 0.1, **kwargs: Any) -> None:
        super().__init__(representation, eips, **kwargs)
        if not eips:
            raise InputError("the classifier needs at least one EIP")
        require_positive("c", c, "eV/atom")
        self.c = self.limit = c
        self.head = ClassHead(representation.dim, len(self.eips) + 1)
        self.loss_term = CrossEntropy()

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the EIPs, then ``none``."""
        return [*self.eips, NONE]

    def settings(self) -> dict[str, Any]:
        return {"eips": self.eips, "c": self.c}

    def properties(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        """``label``: logits (B, |P| + 1)."""
        graph = graph_of(batch)
        return {"label": self.head(self.representation(graph), graph.batch, graph.size)}

    def errors(self, predicted: Mapping[str, Tensor], targets: Targets) -> list[tuple[Tensor, Tensor]]:
        logits, weight = predicted["label"], targets.counts("label")
        right = logits.argmax(dim=-1, keepdim=True) == targets.values["label"]
        return [(right.float(), weight), (cross_entropy(logits, targets)[:, None], weight)]

    def outputs(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        """``class`` (B,) and ``probability`` (B,) of the most likely class."""
        probability, chosen = predicted["label"].softmax(dim=-1).max(dim=-1)
        return {"class": chosen, "probability": probability}

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        return {"label": batch.label.squeeze(1)}

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        names = np.array(self.classes)
        columns = {"eip": names[outputs["class"].numpy()], "probability": outputs["probability"].numpy()}
        if "label" in outputs:
            columns["best_eip"] = names[outputs["label"].numpy()]
        return columns


class ClassifierDataModule(StageDataModule):
    """DFT configurations with their best EIP as target; the pool for prediction. See `StageDataModule`."""

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.source.split.train, ()

    def targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        eips = self.handover.eips
        energies = self.source.targets(frames, [DFT, *eips])["energy"]
        label = best_eip_class(energies[:, 0], energies[:, 1:], frames.sizes, self.handover.limit)
        counts = zip([*eips, NONE], np.bincount(label, minlength=len(eips) + 1), strict=True)
        log.info("classes: %s", ", ".join(f"{name} {count}" for name, count in counts))
        return {"label": label[:, None]}
