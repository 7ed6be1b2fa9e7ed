"""Stage 2: multi-task pretraining on the labels of all EIPs (Shui et al. 2022, Sec. 4.3)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool

from eipnn.errors import InputError, require_positive
from eipnn.inputs import graph_of
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import atom_energies, derivatives, differentiable, stress_of
from eipnn.representations.base import Representation
from eipnn.stages.data import StageDataModule
from eipnn.stages.terms import EnergyError, ForceError, StressError
from eipnn.stages.weights import PotentialStage, mean_error
from eipnn.structures import StructureStore
from eipnn.targets import PER_ATOM, Targets

log = logging.getLogger("eipnn")

GOLDEN = -0x61C8864680B583EB
"""2^64 over the golden ratio, as an int64."""


class PretrainModule(PotentialStage):
    """f_rep with one energy head an EIP, fitted to energies, forces and stress of all EIPs by mean squared error.

    The means are over the labels that a batch has, those of all processes together. With
    ``trainer.accumulate_grad_batches`` they are those of each of the small batches, and the step is their mean.

    Forces and stress of all heads take one backward pass: in each configuration those of a combination of the heads,
    with random signs, are compared with the same combination of the labels (`Targets.along`). Their squared residual is
    on average the mean over the EIPs.

    All EIPs repel at short range: a base term (`core`) is in the energy of each head.

    Args:
        representation: f_rep, kept for fine-tuning.
        eips: names of the EIPs, columns of the label store.
        outlier: an energy further from zero than this, eV/atom, is left out of the loss, with forces and stress of the
            same EIP; the other EIPs' labels of the configuration stay.
        **kwargs: see `PotentialStage`.
    """

    head: EnergyHead
    stage = "pretrain"

    def __init__(self, representation: Representation, eips: list[str], outlier: float = 200.0, **kwargs: Any) -> None:
        super().__init__(representation, eips, **kwargs)
        if not eips:
            raise InputError("pretraining needs at least one EIP")
        require_positive("outlier", outlier, "eV/atom")
        self.outlier, self.limits = outlier, {"energy": outlier}
        self.head = EnergyHead(representation.dim, len(self.eips))
        if self.core == "wall":
            raise InputError("core: wall is of fine-tuning; leave it out of pretraining")
        self.loss_terms = self.terms_of({"energy": EnergyError, "forces": ForceError, "stress": StressError})

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"eips": self.eips, "outlier": self.outlier}

    @property
    def measures(self) -> list[str]:
        return [*(f"mae_{name}" for name in self.eips), "eip_atom_mae", "eip_force_mae", "eip_stress_mae"]

    def properties(self, batch: Batch, wanted: Collection[str]) -> dict[str, Any]:
        """``energy`` (B, |P|), eV, on each EIP's zero; ``forces`` (N, |P|, 3), eV/A; ``stress`` (B, |P|, 3, 3), eV/A^3.

        The last two take a backward pass an EIP; what is given with them is not differentiable.
        """
        derive = not {"forces", "stress"}.isdisjoint(wanted)
        with torch.set_grad_enabled(torch.is_grad_enabled() or derive):
            graph = graph_of(batch)
            graph = differentiable(graph) if derive else graph
            atoms = atom_energies(graph, self.representation, self.head, self.base)
            energy, totals = global_add_pool(atoms, graph.batch, graph.size), atoms.sum(dim=0).unbind()
        if not derive:
            return {"energy": energy}
        each = [derivatives(total, graph, retain_graph=True) for total in totals]
        forces, virials = (torch.stack(parts, dim=1) for parts in zip(*each, strict=True))
        stress = torch.stack([stress_of(virial, batch.cell) for virial in virials.unbind(dim=1)], dim=1)
        return {"energy": energy.detach(), "forces": forces, "stress": stress}

    def factors(self, batch: Batch, targets: Targets, derived: Sequence[str]) -> Tensor:
        counted = counted_labels(targets, derived, self.current_epoch)
        return random_signs(counted, batch.row, self.current_epoch).double()

    def errors(self, predicted: Mapping[str, Any], targets: Targets) -> list[tuple[Tensor, Tensor]]:
        energy, known = mean_error("energy", predicted, targets)
        of_each = list(zip(energy.unbind(dim=1), known.unbind(dim=1), strict=True))
        per_atom = energy / targets.n_atoms[:, None], known
        return [*of_each, per_atom, *(mean_error(name, predicted, targets) for name in ("forces", "stress"))]

    def scores(self, means: list[Tensor]) -> dict[str, Tensor]:
        """``mae_NAME`` (eV) of each EIP and their mean ``eip_mae``; over all EIPs ``eip_atom_mae`` (eV/atom),
        ``eip_force_mae`` (eV/A), ``eip_stress_mae`` (GPa); and `monitor`."""
        found = super().scores(means) | {"eip_mae": torch.stack(means[: len(self.eips)]).nanmean()}
        energy = "eip_atom_mae" if self.energy_per == "atom" else "eip_mae"
        names = {"energy": energy, "forces": "eip_force_mae", "stress": "eip_stress_mae"}
        return found | {"error": self.error_of(names, found)}

    def outputs(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        """``prediction`` (B, |P|), eV."""
        return {"prediction": predicted["energy"]}

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
        targets = self.source.targets(frames, self.handover.eips, {"energy", *self.wanted})
        energy = targets["energy"]  # (n, |P|)
        outliers = np.abs(energy) / frames.sizes[:, None] > self.handover.limits["energy"]
        for name, values in targets.items():
            values[np.repeat(outliers, frames.sizes, axis=0) if name in PER_ATOM else outliers] = np.nan
        if (dropped := np.isnan(energy).sum(axis=0)).any():
            counts = ", ".join(f"{n} {d}" for n, d in zip(self.handover.eips, dropped, strict=True) if d)
            log.warning("of %d configurations, labels left out as missing or outliers: %s", len(frames), counts)
        return targets


def counted_labels(targets: Targets, derived: Sequence[str], epoch: int) -> Tensor:
    """The labels of which a combination is made (B, S).

    The stress of a combination is known if each label in it has one. Where some have forces alone, it is made of those
    with both in every other epoch.
    """
    known = [targets.known_of(name) for name in derived]
    both = known[0] & known[-1]
    return torch.where(both.any(dim=1, keepdim=True), both, known[0]) if epoch % 2 == 0 else known[0]


def random_signs(known: Tensor, row: Tensor, epoch: int) -> Tensor:
    """Unit vectors of random signs over what is known (B, S), for `Targets.along`; 0 for the others.

    Of the configurations' rows (B,) and the epoch alone, so that a training that is resumed, or has other processes,
    draws the same: the mixing steps of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    sources = torch.arange(known.shape[1], device=known.device)
    mixed = ((row[:, None] << 20) + sources) * GOLDEN + epoch
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    signs = ((mixed >> 40) & 1) * 2 - 1
    return known * signs / known.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
