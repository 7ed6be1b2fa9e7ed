"""Stage 3: the potential, on DFT and EIP labels (Shui et al. 2022, Eq. 3)."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data
from torchmetrics import MeanMetric

from eipnn.eips import recorded
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential import Potential
from eipnn.potential.heads import EnergyHead
from eipnn.reference import Mode, Reference, scale_and_shift
from eipnn.representations.base import Representation
from eipnn.stages.data import Configurations, StageDataModule, joined
from eipnn.stages.handover import Handover
from eipnn.stages.module import SchedulerCallable, StageModule
from eipnn.stages.schedules import LinearDecay
from eipnn.stages.source import DFT, EnergyZero, selected
from eipnn.stages.terms import EnergyMSE, EnergyTerm, EnergyTukey, Term
from eipnn.structures import StructureStore

log = logging.getLogger("eipnn")


class FinetuneModule(StageModule):
    """f_rep, fresh or pretrained, with a new energy head.

    The loss of a batch is the mean squared residual of its DFT configurations + alpha x the mean loss of its
    EIP configurations (Eq. 3, whatever the share of each kind in a batch). The constant k of the biweight is
    estimated on the residuals of the whole batch: both kinds, and the configurations of all processes. With
    ``trainer.accumulate_grad_batches: A`` it is estimated on those of the last A small batches, as many as make a
    step (k of a handful of residuals is too large, and scatters); those of the step before were predicted with the
    weights before that step.

    Args:
        representation: f_rep.
        alpha: weight of the EIP part; without EIP configurations it has no effect.
        eip_loss: ``tukey`` (Eq. 4); ``tukey_normalised``, the authors' code: the biweight of residuals over
            sigma, without the factor sigma^2; ``mse``.
        tukey_per: ``configuration``, the paper's Eq. 4: k is that of total residuals, so that of two labels which
            are equally wrong an atom that of the larger cell is rejected first. ``atom``: k times the number of
            atoms, with k of the residuals an atom; what is not rejected has the same loss up to the shape of the
            biweight. Take it where the sizes of configurations differ by much.
        init_from: pretrained checkpoint whose representation is the start.
        optimizer: made from the parameters.
        scheduler: made from the optimiser, stepped once an epoch; null: a constant rate. A `ReduceLROnPlateau`
            without a ``monitor`` watches the metric that selects the best epoch.
    """

    head: EnergyHead
    stage = "finetune"
    monitor = "val_config_mae"
    mode = "min"

    def __init__(
        self,
        representation: Representation,
        alpha: float = 0.1,
        eip_loss: Literal["tukey", "tukey_normalised", "mse"] = "tukey",
        tukey_per: Literal["configuration", "atom"] = "configuration",
        init_from: str | None = None,
        optimizer: OptimizerCallable = Adam,
        scheduler: SchedulerCallable | None = LinearDecay,
    ) -> None:
        super().__init__(representation, [], optimizer, scheduler, init_from)
        if not 0 < alpha < float("inf"):
            raise InputError(f"alpha must be positive, not {alpha}; for no EIP labels leave out data.selection")
        self.alpha, self.eip_loss, self.tukey_per = alpha, eip_loss, tukey_per
        self.head = EnergyHead(representation.dim)
        self.dft_term = EnergyMSE()
        self.eip_term: EnergyTerm = (
            EnergyMSE(alpha, dft=False)
            if eip_loss == "mse"
            else EnergyTukey(alpha, tukey_per, normalised=eip_loss == "tukey_normalised")
        )
        self.config_mae = MeanMetric()
        self.atom_mae = MeanMetric()

    @property
    def metrics(self) -> list[str]:
        return ["val_config_mae", "val_atom_mae"]

    def settings(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "eip_loss": self.eip_loss, "tukey_per": self.tukey_per}

    def forward(self, batch: Batch) -> Tensor:
        """A batch of B configurations -> energies (B,), eV, float64, on the zero of the aligned DFT energies."""
        return self.potential.predict(graph_of(batch), cohesive=True).energy

    @property
    def potential(self) -> Potential:
        """What is trained: the network with its energies of elements; it shares the weights."""
        return Potential(self.representation, self.head, self.elements, self.zeros)

    def predicted(self, batch: Batch) -> dict[str, Any]:
        wanted = {term.needs for term in self.children() if isinstance(term, Term)}
        graph = graph_of(batch)
        return self.potential.predict(graph, wanted, cohesive=True, create_graph=True)._asdict()

    def noted(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        """``residual`` (B,) in eV, and which would get gradient as EIP labels, ``used`` (B,)."""
        residual = (predicted["energy"] - batch.energy).detach()
        return {"residual": residual, "used": self.eip_term.used(residual)}

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        self.eip_term.parts = self.trainer.accumulate_grad_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["residuals"] = self.eip_term.earlier

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.eip_term.earlier = checkpoint.get("residuals", [])

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        names = [name for name in ("n_atoms", "energy", "prediction") if name in outputs]
        return {name: outputs[name].numpy() for name in names}

    def outputs(self, batch: Batch, output: Tensor) -> dict[str, Tensor]:
        """``n_atoms`` (B,) and ``prediction`` (B,): total energies in eV, on the DFT file's own zero."""
        return {"n_atoms": batch.n_atoms, "prediction": output + batch.zero}

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        return {"energy": batch.total}

    def assess(self, batch: Batch, output: Tensor, split: str) -> None:
        error = (output - batch.energy).abs()
        self.config_mae.update(error, batch.weight)
        self.atom_mae.update(error / batch.n_atoms, batch.weight)
        size = batch.num_graphs
        self.log(f"{split}_config_mae", self.config_mae, batch_size=size, prog_bar=True)
        self.log(f"{split}_atom_mae", self.atom_mae, batch_size=size)


class FinetuneDataModule(StageDataModule):
    """DFT configurations and, with `selection`, pool configurations labelled by the EIP chosen for each.

    Args:
        dft: see `StageDataModule`, as for all arguments but the following two.
        selection: ``selection.csv`` of the classifier's prediction; none: DFT alone.
        dft_fraction: share of DFT configurations in each batch, when there are EIP configurations.
        epoch_steps: gradient steps of an epoch, in which the DFT configurations are repeated; default: one pass over
            the data. With several processes each takes its share.
        delta_eip: delta learning: the network learns DFT energies less those of this EIP of the label store.
    """

    def __init__(
        self,
        dft: str | list[str],
        split: str,
        energy_zero: Mode | EnergyZero,
        pool: str | list[str] | None = None,
        labels: str | None = None,
        eip_energy_zero: Mode | dict[str, EnergyZero] = "none",
        energy_key: str | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        seed: int = 0,
        structures: str | list[str] | None = None,
        num_workers: int = 0,
        cache: str | None = None,
        selection: str | None = None,
        dft_fraction: float = 0.25,
        delta_eip: str | None = None,
        epoch_steps: int | None = None,
        handover: Handover | None = None,
    ) -> None:
        super().__init__(
            dft, split, energy_zero, pool, labels, eip_energy_zero, energy_key, batch_size, eval_batch_size,
            seed, structures, num_workers, cache, handover,
        )  # fmt: skip
        if not 0 < dft_fraction < 1:
            raise InputError(f"dft_fraction must lie between 0 and 1, not {dft_fraction}")
        if delta_eip and selection:
            raise InputError("delta_eip has DFT labels alone: give no selection with it")
        if epoch_steps is not None and epoch_steps < 1:
            raise InputError(f"epoch_steps must be at least 1, not {epoch_steps}")
        self.dft_fraction, self.delta_eip, self.epoch_steps = dft_fraction, delta_eip, epoch_steps
        self.chosen = selected(selection) if selection else {}
        if selection and not self.chosen:
            log.warning(
                "%s: the classifier chose no EIP for any structure: training on DFT alone",
                selection,
            )

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.source.split.train, list(self.chosen)

    def used_eips(self) -> list[str]:
        delta = {self.delta_eip} if self.delta_eip else set()
        return sorted({*self.chosen.values(), *delta} - {DFT})

    def make_train(self) -> Dataset[Data]:
        train = self.source.structures(self.source.split.train)
        if with_forces := sum("forces" in atoms.calc.results for atoms in train):
            log.info(
                "training on energies alone: the forces of %d frames in %s are not used",
                with_forces,
                self.config.dft,
            )
        self._drop_unlabelled()
        dft = self.labelled(self.source.split.train)
        return joined(dft, self.augmented()) if self.chosen else dft

    def make_evaluation(self, ids: Sequence[str]) -> Configurations:
        return self.labelled(ids)

    def predict_targets(self, frames: StructureStore) -> dict[str, Tensor]:
        if self.delta_eip and self.structures:  # which the label store does not hold
            zeros = self.source.zero.totals(frames) + self._calculated(frames)
            return {"zero": torch.from_numpy(zeros)}
        return {"zero": self._zeros(frames)}

    def zero_record(self) -> dict[str, dict[str, Any]]:
        if self.delta_eip is None:
            return super().zero_record()
        record = self.source.zero_record([self.delta_eip])
        record["dft"]["eip"] = self.delta_record()
        return record

    def delta_record(self) -> dict[str, Any]:
        """The EIP that the network is trained on top of, see `eipnn.eips.recorded`."""
        source, name = self.source, self.delta_eip
        assert name is not None
        ids = [source.split.train[k] for k in recorded.typical(source.structures(source.split.train))]
        energies = source.store.energies_of(ids, [name])[:, 0]
        described = next(e for e in source.store.index["eips"] if e["name"] == name)
        return recorded.record(described, source.structures(ids), energies)

    def _calculated(self, frames: StructureStore) -> np.ndarray:
        """Aligned energies (n,), eV, of the EIP that the network is trained on top of, by its calculator."""
        assert self.delta_eip is not None
        calculator = recorded.restore(self.delta_record())
        energies = []
        for atoms in frames:
            try:
                energies.append(calculator.get_potential_energy(atoms))
            except Exception as error:  # each potential has its own kinds
                raise InputError(
                    f"{atoms.info['config_id']}: {self.delta_eip} gives no energy ({' '.join(str(error).split())}); "
                    f"remove it from {self.structures}"
                ) from error
        return np.array(energies) - self.source.eip_zeros([self.delta_eip])[self.delta_eip].totals(frames)

    def labelled(self, ids: Sequence[str]) -> Configurations:
        energies = torch.from_numpy(self._dft_energies(ids))
        return self._with_energies(ids, energies, is_dft=True)

    def augmented(self) -> Configurations:
        """The pool structures that the classifier chose an EIP for, with that EIP's energy (or DFT's, see `DFT`)."""
        energies = torch.from_numpy(self.source.chosen_energies(self.chosen))
        return self._with_energies(list(self.chosen), energies, is_dft=False)

    def _drop_unlabelled(self) -> None:
        """Leave out of the selection what its EIP gave no label for."""
        if strangers := set(self.chosen) - set(self.source.split.pool):
            raise InputError(f"the selection names {min(strangers)}, which the split does not mark as pool (pretrain)")
        known = np.isfinite(self.source.chosen_energies(self.chosen))
        if not known.all():
            log.warning(
                "%d of %d selected structures have no label from their EIP: left out",
                (~known).sum(),
                len(known),
            )
            kept = zip(self.chosen.items(), known, strict=True)
            self.chosen = {i: eip for (i, eip), k in kept if k}

    def _dft_energies(self, ids: Sequence[str]) -> np.ndarray:
        """What the network learns of these DFT frames (n,), eV."""
        energies = self.source.dft_energies(ids)
        return energies - self._delta_energies(self.source.structures(ids))

    def _delta_energies(self, frames: StructureStore) -> np.ndarray:
        """Aligned energies of the EIP that the network is trained on top of (n,), eV; zeros without one."""
        if self.delta_eip is None:
            return np.zeros(len(frames))
        ids = frames.ids
        energies = self.source.eip_energies(ids, [self.delta_eip])[:, 0]
        if len(lost := np.flatnonzero(np.isnan(energies))):
            raise InputError(
                f"{ids[lost[0]]}: {self.delta_eip} gave no label for it ({len(lost)} such structures), so that delta "
                "learning cannot use it: take another EIP, or remove it from the split"
            )
        return energies

    def _with_energies(self, ids: Sequence[str], energies: Tensor, is_dft: bool) -> Configurations:
        frames = self.source.structures(ids)
        error = self.source.errors_per_atom(ids, energies.numpy())
        zero = self._zeros(frames)
        targets = {
            "energy": energies,
            # of what is off DFT, for the log alone: a pool structure's DFT energy is not to be learned from
            "error_per_atom": torch.from_numpy(error),
            "is_dft": torch.full((len(ids),), is_dft),
            "total": energies + zero,
            "zero": zero,
        }
        return self.configurations(frames, targets)

    def scales(self) -> tuple[list[float], list[Reference]]:
        """Scale and shift of the DFT training energies (see `scale_and_shift`)."""
        train = self.source.split.train
        scale, shift = scale_and_shift(self.source.structures(train), self._dft_energies(train))
        return [scale], [shift]

    def _zeros(self, frames: StructureStore) -> Tensor:
        """What is taken off each DFT energy (n,), eV, float64."""
        zeros = self.source.zero.totals(frames) + self._delta_energies(frames)
        return torch.from_numpy(zeros)
