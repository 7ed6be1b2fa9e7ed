"""The rows of the tables: what a potential is trained with beside its DFT frames."""

from dataclasses import dataclass
from typing import Literal

Labels = Literal["predicted", "best", "dft", "single"]
Pretraining = Literal["all", "single"]

PRETRAINING_FOLDERS: dict[Pretraining, str] = {"all": "pretrain", "single": "pretrain-single"}
"""Where a pretraining lies in the folder of its split and seed."""


@dataclass(frozen=True)
class Strategy:
    """One row.

    Args:
        label: in tables and pictures; empty for the backbone alone.
        eip_labels: where the labels of label augmentation come from: the classifier's choice; for the same structures
            the EIP that is truly the closest, or DFT itself (both need DFT energies of the pool, which are hidden from
            all other rows); for the whole pool the single best EIP.
        pretraining: on all EIPs, or on the single best.
        loss: on the EIP labels.
        long: trained without EIP labels for as many gradient steps as label augmentation takes.
        delta: the network learns DFT minus the single best EIP.
    """

    label: str = ""
    eip_labels: Labels | None = None
    pretraining: Pretraining | None = None
    loss: Literal["tukey", "mse"] = "tukey"
    long: bool = False
    delta: bool = False

    @property
    def single(self) -> bool:
        """Whether it needs the single best EIP."""
        return self.delta or "single" in (self.eip_labels, self.pretraining)

    @property
    def short(self) -> bool:
        """Whether it takes as many gradient steps of fine-tuning as the backbone alone."""
        return not self.long and self.eip_labels is None


STRATEGIES = {
    "baseline": Strategy(),
    "la": Strategy("+LA", "predicted"),
    "mp": Strategy("+MP", None, "all"),
    "mp+la": Strategy("+MP+LA", "predicted", "all"),
    "baseline-long": Strategy("long", long=True),
    "mp-long": Strategy("+MP-long", None, "all", long=True),
    "la-best": Strategy("+LA (true best EIP)", "best"),
    "la-dft": Strategy("+LA (DFT labels)", "dft"),
    "la-mse": Strategy("+LA (MSE)", "predicted", loss="mse"),
    "mp+la-mse": Strategy("+MP+LA (MSE)", "predicted", "all", loss="mse"),
    "la-single": Strategy("+LA (one EIP)", "single"),
    "mp-single": Strategy("+MP (one EIP)", None, "single"),
    "delta": Strategy("on DFT - EIP", delta=True),
    "mp+delta": Strategy("+MP on DFT - EIP", None, "all", delta=True),
    "delta-long": Strategy("on DFT - EIP, long", long=True, delta=True),
    "mp+delta-long": Strategy("+MP on DFT - EIP, long", None, "all", long=True, delta=True),
}
"""Strategies by the name that `eipnn run --strategy` takes.

``baseline``, ``la``, ``mp`` and ``mp+la`` are the rows of the paper's Table 1; ``la-best`` and ``la-dft`` belong to
its Fig. 3a, ``la-mse`` and ``mp+la-mse`` to its Table 4. The ``-single`` ones and ``delta`` are what one would do with
one EIP; ``mp+delta`` starts delta learning from the pretraining on all.
"""

MAIN = ("baseline", "la", "mp", "mp+la")
"""The rows of Table 1 of Shui et al. 2022."""

MAIN_AND_LONG = (*MAIN, "baseline-long", "mp-long")

DELTA = ("delta", "mp+delta")
"""Delta learning; each has a ``-long`` form too."""
