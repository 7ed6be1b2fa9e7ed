"""Stage 2: multi-task pretraining on the energies of all EIPs (Shui et al. 2022, Sec. 4.3)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool

from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential.heads import EnergyHead
from eipnn.representations.base import Representation
from eipnn.stages.data import StageDataModule
from eipnn.stages.module import StageModule, require_positive
from eipnn.stages.terms import EnergyMSE
from eipnn.structures import StructureStore
from eipnn.targets import Targets

log = logging.getLogger("eipnn")


class PretrainModule(StageModule):
    """f_rep with one energy head an EIP, fitted to the EIPs' energies by mean squared error.

    The mean is over the labels that a batch has, those of all processes together. With
    ``trainer.accumulate_grad_batches`` it is that of each of the small batches, and the step is their mean.

    Args:
        representation: f_rep, kept for fine-tuning.
        eips: names of the EIPs, columns of the label store.
        outlier: a label further from zero than this, eV/atom, is left out of the loss; the other EIPs' labels
            of the configuration stay.
        **kwargs: see `StageModule`.
    """

    stage = "pretrain"
    monitor = "val_eip_mae"
    mode = "min"

    def __init__(self, representation: Representation, eips: list[str], outlier: float = 200.0, **kwargs: Any) -> None:
        super().__init__(representation, eips, **kwargs)
        if not eips:
            raise InputError("pretraining needs at least one EIP")
        require_positive("outlier", outlier, "eV/atom")
        self.outlier = self.limit = outlier
        self.head = EnergyHead(representation.dim, len(self.eips))
        self.loss_term = EnergyMSE()

    def settings(self) -> dict[str, Any]:
        return {"eips": self.eips, "outlier": self.outlier}

    @property
    def measures(self) -> list[str]:
        return [f"mae_{name}" for name in self.eips]

    def properties(self, batch: Batch, wanted: Collection[str]) -> dict[str, Tensor]:
        """``energy`` (B, |P|), eV, on each EIP's zero."""
        graph = graph_of(batch)
        atoms = self.head(self.representation(graph), graph.z)  # (N, |P|)
        return {"energy": global_add_pool(atoms, graph.batch, graph.size)}

    def errors(self, predicted: Mapping[str, Tensor], targets: Targets) -> list[tuple[Tensor, Tensor]]:
        errors, weights = targets.error("energy", predicted["energy"]).abs(), targets.counts("energy")
        return list(zip(errors.unbind(dim=1), weights.unbind(dim=1), strict=True))

    def scores(self, means: list[Tensor]) -> dict[str, Tensor]:
        return {"eip_mae": torch.stack(means).nanmean()} | super().scores(means)

    def outputs(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """``prediction`` (B, |P|), eV."""
        return {"prediction": output}

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        return {name: outputs["prediction"][:, k].numpy() for k, name in enumerate(self.eips)}


class PretrainDataModule(StageDataModule):
    """The pool with the labels of every EIP; the DFT splits, with EIP labels, for selection and test.

    See `StageDataModule`.
    """

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return (), self.source.split.pool

    def targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        targets = self.source.targets(frames, self.handover.eips, self.handover.wanted)
        energy = targets["energy"]  # (n, |P|)
        energy[np.abs(energy) / frames.sizes[:, None] > self.handover.limit] = np.nan
        if (dropped := np.isnan(energy).sum(axis=0)).any():
            counts = ", ".join(f"{n} {d}" for n, d in zip(self.handover.eips, dropped, strict=True) if d)
            log.warning("of %d configurations, labels left out as missing or outliers: %s", len(frames), counts)
        return targets
