"""Stage 3: the potential, on DFT and EIP labels (Shui et al. 2022, Eq. 3)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch_geometric.data import Batch

from eipnn.eips import DFT, recorded
from eipnn.errors import InputError, require_positive
from eipnn.inputs import graph_of
from eipnn.potential import Potential
from eipnn.potential.core import ZBL
from eipnn.potential.heads import EnergyHead
from eipnn.potential.seen import seen_in
from eipnn.representations.base import Representation
from eipnn.stages.data import Configurations, StageDataModule
from eipnn.stages.handover import Training
from eipnn.stages.module import SchedulerCallable
from eipnn.stages.schedules import LinearDecay
from eipnn.stages.source import selected
from eipnn.stages.terms import EnergyError, EnergyTukey, ForceError, ForceTukey, StressError
from eipnn.stages.weights import PotentialStage, mean_error
from eipnn.structures import StructureStore
from eipnn.targets import PROPERTIES, Targets

log = logging.getLogger("eipnn")


class FinetuneModule(PotentialStage):
    """f_rep, fresh or pretrained, with a new energy head.

    The loss of a batch is that of its DFT labels (mean squared residuals) + alpha x that of its EIP labels (Eq. 3,
    whatever the share of each kind in a batch), each the weighted sum of the terms of energies, forces and stress; EIP
    labels have no term of stress. The constants k of the biweights, one of energies and one of forces, are estimated
    on the residuals of the whole batch: both kinds, and the configurations of all processes. With
    ``trainer.accumulate_grad_batches: A`` they are estimated on those of the last A small batches, as many as make a
    step (k of a handful of residuals is too large, and scatters); those of the step before were predicted with the
    weights before that step.

    Args:
        representation: f_rep.
        alpha: weight of the EIP part; without EIP configurations it has no effect.
        eip_loss: ``tukey`` (Eq. 4); ``tukey_normalised``, the authors' code: the biweight of residuals over
            sigma, without the factor sigma^2; ``mse``.
        huber: of the DFT terms, see `eipnn.stages.terms.SquaredError`; null: squared residuals.
        representation_rate: learning rate of a pretrained f_rep over that of the new head.
        scheduler: see `StageModule`, as for the others.
        **kwargs: those of `PotentialStage`.
    """

    head: EnergyHead
    stage = "finetune"
    written = ("forces", "stress")
    measures = ("config_mae", "atom_mae", "force_mae", "stress_mae")

    def __init__(
        self,
        representation: Representation,
        alpha: float = 0.1,
        eip_loss: Literal["tukey", "tukey_normalised", "mse"] = "tukey",
        huber: float | None = None,
        representation_rate: float = 1.0,
        scheduler: SchedulerCallable | None = LinearDecay,
        **kwargs: Any,
    ) -> None:
        super().__init__(representation, (), scheduler=scheduler, **kwargs)
        if not 0 < alpha < float("inf"):
            raise InputError(f"alpha must be positive, not {alpha}; for no EIP labels leave out data.selection")
        if huber is not None:
            require_positive("huber", huber)
        require_positive("representation_rate", representation_rate)
        self.alpha, self.eip_loss, self.huber = alpha, eip_loss, huber
        self.representation_rate = representation_rate
        self.head = EnergyHead(representation.dim)
        self.wall: ZBL | None = None
        squared = {"energy": EnergyError, "forces": ForceError, "stress": StressError}
        self.dft_terms = self.terms_of(squared, dft=True, huber=huber)
        if eip_loss == "mse":
            del squared["stress"]
            self.eip_terms = self.terms_of(squared, alpha, dft=False)
        else:
            tukey = {"energy": EnergyTukey, "forces": ForceTukey}
            self.eip_terms = self.terms_of(tukey, alpha, normalised=eip_loss == "tukey_normalised")

    def settings(self) -> dict[str, Any]:
        names = ("alpha", "eip_loss", "huber", "representation_rate")
        return super().settings() | {name: getattr(self, name) for name in names}

    def groups(self) -> list[dict[str, Any]]:
        if self.init_from is None:
            return super().groups()
        pretrained = {"params": list(self.representation.parameters()), "rate": self.representation_rate}
        return [{"params": list(self.head.parameters())}, pretrained]

    @property
    def potential(self) -> Potential:
        """What is trained: the network with its energies of elements; it shares the weights."""
        return Potential(self.representation, self.head, self.elements, self.zeros, self._core(), self.seen)

    def _core(self) -> ZBL | None:
        """The base term: that of the training or, as of no pair of its frames, the wall where these end."""
        if self.core == "wall" and self.seen and (self.wall is None or self.wall.seen is not self.seen):
            self.wall = ZBL(self.cutoff, self.seen).to(self.head.scale.device)
        return self.wall or self.base

    def properties(self, batch: Batch, wanted: Collection[str]) -> dict[str, Any]:
        """Those of `Properties`; ``energy`` (B,), eV, float64, on the zero of the aligned DFT energies."""
        return self.potential.predict(graph_of(batch), wanted, cohesive=True)._asdict()

    def errors(self, predicted: Mapping[str, Any], targets: Targets) -> list[tuple[Tensor, Tensor]]:
        error, weight = mean_error("energy", predicted, targets)
        others = [mean_error(name, predicted, targets) for name in ("forces", "stress")]
        return [(error, weight), (error / targets.n_atoms[:, None], weight), *others]

    def scores(self, means: list[Tensor]) -> dict[str, Tensor]:
        """``config_mae`` (eV), ``atom_mae`` (eV/atom), ``force_mae`` (eV/A, of a component), ``stress_mae`` (GPa, of a
        component) and `monitor`."""
        found = super().scores(means)
        energy = "atom_mae" if self.energy_per == "atom" else "config_mae"
        return found | {
            "error": self.error_of({"energy": energy, "forces": "force_mae", "stress": "stress_mae"}, found)
        }

    def outputs(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        """``n_atoms`` (B,); ``prediction`` (B,), total energies in eV, on the DFT file's own zero; ``forces`` (N, 3),
        eV/A; ``stress`` (B, 3, 3), eV/A^3. Under delta learning those of the EIP are in them, or there are none."""
        found = {"n_atoms": batch.n_atoms, "prediction": predicted["energy"] + batch.zero}
        for name in self.written:
            if (known := f"zero_{name}") in batch:
                found[name] = predicted[name] + batch[known]
            elif not self.zeros["dft"].get("eip"):
                found[name] = predicted[name]
        return found

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        return {"energy": batch.energy.squeeze(1) + batch.zero}

    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file."""
        return {name: outputs[name].numpy() for name in ("n_atoms", "energy", "prediction") if name in outputs}

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        for term in self.eip_terms.values():
            term.parts = self.trainer.accumulate_grad_batches

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["residuals"] = {name: term.earlier for name, term in self.eip_terms.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        found = checkpoint.get("residuals", {})
        # 0.2.0 had those of energies alone
        for name, earlier in (found if isinstance(found, dict) else {"energy": found}).items():
            if name in self.eip_terms:
                self.eip_terms[name].earlier = earlier


class FinetuneDataModule(StageDataModule):
    """DFT configurations and, with `selection`, pool configurations labelled by the EIP chosen for each.

    Args:
        selection: ``selection.csv`` of the classifier's prediction; none: DFT alone.
        dft_fraction: share of DFT configurations in each batch, when there are EIP configurations.
        delta_eip: delta learning: the network learns DFT energies less those of this EIP of the label store.
        epoch_steps: gradient steps of an epoch, in which the DFT configurations are repeated; default: one pass over
            the data. With several processes each takes its share.
        energies_only: leave aside DFT forces and stress in training and its validation, as if the frames had none.
        **kwargs: see `StageDataModule`.
    """

    def __init__(
        self,
        selection: str | None = None,
        dft_fraction: float = 0.25,
        delta_eip: str | None = None,
        epoch_steps: int | None = None,
        energies_only: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < dft_fraction < 1:
            raise InputError(f"dft_fraction must lie between 0 and 1, not {dft_fraction}")
        if delta_eip and selection:
            raise InputError("delta_eip has DFT labels alone: give no selection with it")
        if epoch_steps is not None and epoch_steps < 1:
            raise InputError(f"epoch_steps must be at least 1, not {epoch_steps}")
        self.dft_fraction, self.delta_eip, self.epoch_steps = dft_fraction, delta_eip, epoch_steps
        self.energies_only = energies_only
        self.chosen = selected(selection) if selection else {}
        if selection and not self.chosen:
            log.warning("%s: the classifier chose no EIP for any structure: training on DFT alone", selection)

    def train_ids(self) -> tuple[Sequence[str], Sequence[str]]:
        return self.source.split.train, list(self.chosen)

    def used_eips(self) -> list[str]:
        delta = {self.delta_eip} if self.delta_eip else set()
        return sorted({*self.chosen.values(), *delta} - {DFT})

    def train_parts(self) -> list[Configurations]:
        self._drop_unlabelled()
        parts = [self.labelled(self.source.split.train)]
        return [*parts, self.augmented()] if self.chosen else parts

    def _set_up_training(self) -> Training:
        if self.energies_only:
            self.wanted = [name for name in self.wanted if name != "stress"]  # EIP labels have no term of it
        made = super()._set_up_training()
        if self.energies_only:  # weights may name what is left aside
            made = replace(made, known=frozenset(PROPERTIES))
        train = self.source.structures(self.source.split.train)
        counts = ", ".join(f"{name} of {known.sum()}" for name, known in train.labelled().items())
        aside = "; DFT forces and stress are left aside" if self.energies_only else ""
        log.info("DFT labels: %s training frames; trained on: %s%s", counts, ", ".join(sorted(self.wanted)), aside)
        seen = {"dft": seen_in(train)} | (
            {"eip": seen_in(self.source.structures(list(self.chosen)))} if self.chosen else {}
        )
        return replace(made, seen=seen)

    def augmented(self) -> Configurations:
        """The pool structures that the classifier chose an EIP for, with that EIP's labels (or DFT's, see `DFT`)."""
        frames = self.source.structures(list(self.chosen))
        targets = self.source.chosen(self.chosen, self.wanted)
        is_dft = np.zeros(len(frames), dtype=np.bool_)
        return self.configurations(frames, targets | {"is_dft": is_dft} | self._zeros(frames))

    def targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        targets, known = self.source.targets(frames, [DFT], self.wanted), None
        if self.energies_only and self.fitting:  # a test measures all that there are labels of
            targets |= {name: np.full_like(values, np.nan) for name, values in targets.items() if name != "energy"}
        if self.delta_eip:
            known = self.source.targets(frames, [self.delta_eip], PROPERTIES)
            targets = {name: values - known[name] for name, values in targets.items()}
        return targets | {"is_dft": np.ones(len(frames), dtype=np.bool_)} | self._zeros(frames, known)

    def predict_targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        # the label store does not hold structures of the user's
        return self._zeros(frames, self._calculated(frames) if self.delta_eip and self.structures else None)

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

    def _calculated(self, frames: StructureStore) -> dict[str, np.ndarray]:
        """What the EIP that the network is trained on top of says, by its calculator; as `Source.targets`, S is 1."""
        assert self.delta_eip is not None
        calculator = recorded.restore(self.delta_record())
        found: list[dict[str, Any]] = []
        for atoms in frames:
            try:
                calculator.calculate(atoms, ["stress"])
            except Exception as error:  # each potential has its own kinds
                raise InputError(
                    f"{atoms.info['config_id']}: {self.delta_eip} gives no energy ({' '.join(str(error).split())}); "
                    f"remove it from {self.structures}"
                ) from error
            found.append({"stress": np.full(6, np.nan)} | calculator.results)
        energies = np.array([results["energy"] for results in found])
        return {
            "energy": (energies - self.source.reference(self.delta_eip).totals(frames))[:, None],
            "forces": np.concatenate([results["forces"] for results in found])[:, None],
            "stress": np.array([results["stress"] for results in found])[:, None],
        }

    def _drop_unlabelled(self) -> None:
        """Leave out of the selection what its EIP gave no label for."""
        if strangers := set(self.chosen) - set(self.source.split.pool):
            raise InputError(f"the selection names {min(strangers)}, which the split does not mark as pool (pretrain)")
        known = np.isfinite(self.source.chosen(self.chosen)["energy"][:, 0])
        if not known.all():
            log.warning(
                "%d of %d selected structures have no label from their EIP: left out", (~known).sum(), len(known)
            )
            self.chosen = {i: eip for (i, eip), k in zip(self.chosen.items(), known, strict=True) if k}

    def _zeros(self, frames: StructureStore, known: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """What is taken off DFT labels and added to predictions: ``zero`` (n,), eV, float64, the reference and the EIP
        of delta learning, of which there are also ``zero_forces`` (N, 3), eV/A, and ``zero_stress`` (n, 6), eV/A^3.

        `known`: what that EIP says, as of `Source.targets`; by default as in the label store.
        """
        zeros = self.source.zero.totals(frames)
        if self.delta_eip is None:
            return {"zero": zeros}
        known = known or self.source.targets(frames, [self.delta_eip], PROPERTIES)
        energies = known["energy"][:, 0]
        if len(lost := np.flatnonzero(np.isnan(energies))):
            raise InputError(
                f"{frames.ids[lost[0]]}: {self.delta_eip} gave no label for it ({len(lost)} such structures), so that "
                "delta learning cannot use it: take another EIP, or remove it from the split"
            )
        return {"zero": zeros + energies, "zero_forces": known["forces"][:, 0], "zero_stress": known["stress"][:, 0]}
