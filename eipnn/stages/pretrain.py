"""Stage 2: multi-task pretraining on the energies of all EIPs (Shui et al. 2022, Sec. 4.3)."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Adam
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool
from torchmetrics import MeanMetric

from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential.heads import EnergyHead
from eipnn.reference import Reference, scale_and_shift
from eipnn.representations.base import Representation
from eipnn.stages.data import Configurations, StageDataModule
from eipnn.stages.module import (
    SchedulerCallable,
    StageModule,
    require_positive,
)
from eipnn.stages.schedules import SlantedTriangular
from eipnn.stages.terms import MultiEnergyMSE

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
        init_from: pretrained checkpoint whose representation is the start.
        optimizer: made from the parameters.
        scheduler: made from the optimiser, stepped once an epoch; null: a constant rate. A `ReduceLROnPlateau`
            without a ``monitor`` watches the metric that selects the best epoch.
    """

    stage = "pretrain"
    monitor = "val_eip_mae"
    mode = "min"

    def __init__(
        self,
        representation: Representation,
        eips: list[str],
        outlier: float = 200.0,
        init_from: str | None = None,
        optimizer: OptimizerCallable = Adam,
        scheduler: SchedulerCallable | None = SlantedTriangular,
    ) -> None:
        super().__init__(representation, eips, optimizer, scheduler, init_from)
        if not eips:
            raise InputError("pretraining needs at least one EIP")
        require_positive("outlier", outlier, "eV/atom")
        self.outlier = self.handover.limit = outlier
        self.head = EnergyHead(representation.dim, len(self.eips))
        self.loss_term = MultiEnergyMSE()
        # a list: a name may hold a dot, which a ModuleDict refuses
        self.mae: Any = torch.nn.ModuleList(MeanMetric() for _ in self.eips)

    @property
    def metrics(self) -> list[str]:
        return ["val_eip_mae", *(f"val_mae_{name}" for name in self.eips)]

    def settings(self) -> dict[str, Any]:
        return {"eips": self.eips, "outlier": self.outlier}

    def forward(self, batch: Batch) -> Tensor:
        """A batch of B configurations -> energies (B, |P|), eV, on each EIP's zero."""
        graph = graph_of(batch)
        atoms = self.head(self.representation(graph), graph.z)  # (N, |P|)
        return global_add_pool(atoms, graph.batch, graph.size)

    def predicted(self, batch: Batch) -> dict[str, Tensor]:
        return {"energies": self(batch)}

    def outputs(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """``prediction`` (B, |P|), eV."""
        return {"prediction": output}

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        return {name: outputs["prediction"][:, k].numpy() for k, name in enumerate(self.eips)}

    def assess(self, batch: Batch, output: Tensor, split: str) -> None:
        error = (output - torch.nan_to_num(batch.energies)).abs()
        for k, metric in enumerate(self.mae):
            metric.update(error[:, k], batch.weight * batch.known[:, k])

    def on_validation_epoch_end(self) -> None:
        self._log_errors("val")

    def on_test_epoch_end(self) -> None:
        self._log_errors("test")

    def _log_errors(self, split: str) -> None:
        values = []
        for name, metric in zip(self.eips, self.mae, strict=True):
            values.append(metric.compute())
            self.log(f"{split}_mae_{name}", values[-1])
            metric.reset()
        self.log(f"{split}_eip_mae", torch.stack(values).nanmean(), prog_bar=True)


class PretrainDataModule(StageDataModule):
    """The pool with the energies of every EIP; the DFT splits, with EIP energies, for selection and test.

    See `StageDataModule`.
    """

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return (), self.source.split.pool

    def make_train(self) -> Configurations:
        return self.labelled(self.source.split.pool)

    def make_evaluation(self, ids: Sequence[str]) -> Configurations:
        return self.labelled(ids)

    def labelled(self, ids: Sequence[str]) -> Configurations:
        energies, known = self._energies(ids)
        dropped = (~known).sum(dim=0)
        if dropped.any():
            counts = ", ".join(f"{n} {int(d)}" for n, d in zip(self.handover.eips, dropped, strict=True) if d)
            log.warning("of %d configurations, labels left out as missing or outliers: %s", len(ids), counts)
        return self.configurations(self.source.structures(ids), {"energies": energies, "known": known})

    def scales(self) -> tuple[list[float], list[Reference]]:
        """Scale and shift of each EIP's energies in the pool (see `scale_and_shift`)."""
        ids = self.source.split.pool
        energies, known = self._energies(ids)
        structures = self.source.structures(ids)
        pairs = []
        for k, name in enumerate(self.handover.eips):
            if not known[:, k].any():
                raise InputError(f"EIP {name} has no usable label in the pool: leave it out of model.eips")
            column = torch.where(known[:, k], energies[:, k], torch.nan)
            pairs.append(scale_and_shift(structures, column.numpy()))
        return [s for s, _ in pairs], [t for _, t in pairs]

    def _energies(self, ids: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Aligned energies (n, |P|) and which of them count (n, |P|)."""
        energies = torch.from_numpy(self.source.eip_energies(ids, self.handover.eips))
        n_atoms = torch.from_numpy(self.source.structures(ids).sizes)
        known = energies.isfinite() & (energies.abs() / n_atoms[:, None] <= self.handover.limit)
        return energies, known
