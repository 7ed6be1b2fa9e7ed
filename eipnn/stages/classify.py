"""Stage 1: which EIP is closest to DFT, per configuration (Shui et al. 2022, Sec. 4.2)."""

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch_geometric.data import Batch

from eipnn.eips import DFT, NONE
from eipnn.errors import InputError, require_positive
from eipnn.inputs import graph_of
from eipnn.potential.heads import ClassHead
from eipnn.representations.base import Representation
from eipnn.stages.data import Configurations, StageDataModule
from eipnn.stages.module import StageModule
from eipnn.stages.source import Source
from eipnn.stages.terms import CrossEntropy, cross_entropy
from eipnn.structures import StructureStore
from eipnn.targets import Targets

log = logging.getLogger("eipnn")

Judge = Literal["energy", "forces", "both"]
C, C_FORCES = 0.1, 0.5
"""Default limits, eV/atom (that of the paper) and eV/A. With both, 49, 98 and 80 % of the frames of si_mini, al_mini,
and agau_mini have an EIP that is close enough; by energy alone 59, 96 and 71 %."""


def limits_of(judge: Judge | None = None, c: float = C, c_forces: float = C_FORCES) -> dict[str, float]:
    """The limits of what EIPs are judged by, for `distances`; None: those of both."""
    both = {"energy": c, "forces": c_forces}
    return both if judge in (None, "both") else {judge: both[judge]}


def distances(targets: Mapping[str, np.ndarray], sizes: np.ndarray, limits: Mapping[str, float]) -> np.ndarray:
    """How far each EIP is from DFT: the mean of |E_EIP - E_DFT| / (N c) and RMS(F_EIP - F_DFT) / c_forces, or that of
    these two which has a limit. The root mean square is over the 3N components of a configuration.

    Args:
        targets: of `Source.targets`, DFT first: energy (n, 1 + |P|), eV; forces (sum of N, 1 + |P|, 3), eV/A.
        sizes: N of each configuration (n,).
        limits: c of energy, eV/atom; c_forces of forces, eV/A.

    Returns:
        (n, |P|), NaN where DFT or the EIP says nothing.
    """
    errors = {name: targets[name][:, 1:] - targets[name][:, :1] for name in limits}
    if "energy" in errors:
        errors["energy"] = np.abs(errors["energy"]) / sizes[:, None]
    if "forces" in errors:
        first = np.cumsum(sizes) - sizes  # atom of each configuration
        squares = np.square(errors["forces"]).mean(axis=2)
        errors["forces"] = np.sqrt(np.add.reduceat(squares, first, axis=0) / sizes[:, None])
    return np.mean([errors[name] / limit for name, limit in limits.items()], axis=0)


def closest(distance: np.ndarray) -> np.ndarray:
    """The EIP closest to DFT (n,), of `distances` (n, |P|); NaN is never the closest."""
    return np.where(np.isfinite(distance), distance, np.inf).argmin(axis=1)


def best_eip_class(distance: np.ndarray) -> np.ndarray:
    """The class of each configuration: the EIP closest to DFT, or |P| (p_0) where none is within 1.

    Args:
        distance: of `distances` (n, |P|).

    Returns:
        (n,) int64, 0 .. |P|.
    """
    within = (distance <= 1).any(axis=1)
    return np.where(within, closest(distance), distance.shape[1]).astype(np.int64)


def judged(
    source: Source, eips: Sequence[str], limits: Mapping[str, float], optional: Collection[str]
) -> dict[str, float]:
    """The limits of what both DFT and some EIP say of some training frame; what is `optional`, of every DFT frame.

    Raises:
        InputError: they say nothing of a property that is not `optional`.
    """
    train = source.structures(source.split.train)
    every = source.structures([*source.split.train, *source.split.val, *source.split.test])
    found = {}
    for name, limit in limits.items():
        frames = every if name in optional else train
        distance = distances(source.targets(frames, [DFT, *eips], [name]), frames.sizes, {name: limit})
        known = np.isfinite(distance).any(axis=1)
        if known.all() if name in optional else known.any():
            found[name] = limit
        elif name not in optional:
            raise InputError(
                f"{source.config.dft}: {train.ids[0]}, as every training frame, has no {name} of both DFT and an EIP "
                f"to judge EIPs by: name the key of DFT's (data.{name}_key), take a label store with {name}, or leave "
                "out model.judge"
            )
    return found


class ClassifierModule(StageModule):
    """Predicts the distribution over the EIPs and p_0 (none) for a configuration.

    Args:
        representation: f_rep.
        eips: names of the EIPs, columns of the label store.
        judge: which EIP is closest to DFT: by ``energy``, as in the paper, by ``forces``, or by ``both``, the mean of
            the two errors over their limits (`distances`); null: both, or energy alone where a DFT frame or the label
            store has no forces. By forces alone, EIPs are chosen whose energies may be far off. Frames without
            the forces that they are to be judged by are left out.
        c: limit of the energy's error, eV/atom: p_0 where no EIP is within it.
        c_forces: the same of the root mean square error of the components of the forces, eV/A.
        **kwargs: see `StageModule`.
    """

    stage = "classify"
    monitor = "val_accuracy"
    mode = "max"
    output = "label"
    predictions = "selection.csv"
    measures = ("accuracy", "loss")

    def __init__(
        self,
        representation: Representation,
        eips: list[str],
        judge: Judge | None = None,
        c: float = C,
        c_forces: float = C_FORCES,
        **kwargs: Any,
    ) -> None:
        super().__init__(representation, eips, **kwargs)
        if not eips:
            raise InputError("the classifier needs at least one EIP")
        require_positive("c", c, "eV/atom")
        require_positive("c_forces", c_forces, "eV/A")
        self.judge, self.c, self.c_forces = judge, c, c_forces
        self.limits, self.optional = limits_of(judge, c, c_forces), () if judge else ("forces",)
        self.head = ClassHead(representation.dim, len(self.eips) + 1)
        self.loss_term = CrossEntropy()

    @property
    def classes(self) -> list[str]:
        """Names of the classes: the EIPs, then ``none``."""
        return [*self.eips, NONE]

    def settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("eips", "judge", "c", "c_forces")}

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
        return self._comparable(self.source.split.train), ()

    def labelled(self, ids: Sequence[str]) -> Configurations:
        comparable = self._comparable(ids)
        if ids and not comparable:
            raise InputError(
                f"{self.config.dft}: {ids[0]}, as every frame of its part of the split, has no DFT forces to judge the "
                "EIPs by: add them, or set model.judge: energy"
            )
        return super().labelled(comparable)

    @cached_property
    def limits(self) -> dict[str, float]:
        """Those of what the EIPs are judged by."""
        handover = self.handover
        return judged(self.source, handover.eips, handover.limits, handover.optional)

    @cached_property
    def _left_out(self) -> set[str]:
        """The DFT frames without forces, if the EIPs are judged by them."""
        split = self.source.split
        frames = self.source.structures([*split.train, *split.val, *split.test])
        left_out = np.flatnonzero(~frames.labelled()["forces"]) if "forces" in self.limits else ()
        names = [frames.ids[row] for row in left_out]
        if names:
            log.warning(
                "%d of %d DFT frames, of which %s is the first, have no forces to judge the EIPs by: left out; with "
                "model.judge: energy they are not",
                len(names),
                len(frames),
                names[0],
            )
        return set(names)

    def _comparable(self, ids: Sequence[str]) -> list[str]:
        return [i for i in ids if i not in self._left_out]

    def targets(self, frames: StructureStore) -> dict[str, np.ndarray]:
        eips = self.handover.eips
        targets = self.source.targets(frames, [DFT, *eips], self.limits)
        label = best_eip_class(distances(targets, frames.sizes, self.limits))
        counts = zip([*eips, NONE], np.bincount(label, minlength=len(eips) + 1), strict=True)
        by = " and ".join(self.limits)
        log.info("classes by %s: %s", by, ", ".join(f"{name} {count}" for name, count in counts))
        return {"label": label[:, None]}
