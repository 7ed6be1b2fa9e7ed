"""What the robust loss takes and what it rejects, step by step (Shui et al. 2022, Fig. 3b and 3c).

`ResidualLog`, where it is among ``trainer.callbacks`` as in `al_hidden.yaml`, writes `residuals.csv` with one line a
training batch:

=================  ========  =====================================================================
column             unit      what
=================  ========  =====================================================================
step               -         gradient steps made before the one that the batch belongs to
epoch              -         from 0
spread             eV        MAR / 0.6745 of the batch's residuals, the sigma of Eq. 4 (without accumulation)
spread_dft         eV        the same of its DFT configurations alone
spread_eip         eV        the same of its EIP configurations alone
n_eip              -         EIP configurations
n_kept             -         those of them whose label gets gradient (Eq. 4: residual up to k, see `FinetuneModule`)
n_known            -         EIP configurations whose DFT energy is known, though not trained on
outliers_C         -         those of them with |E_EIP - E_DFT| / atoms above C eV/atom
kept_C             -         those of these outliers whose label gets gradient
=================  ========  =====================================================================

A batch is that of all processes together.
"""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eipnn.collectives import gathered
from eipnn.eips import DFT
from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.losses import TUNING, tukey_scale
from eipnn.stages.source import Source
from eipnn.stages.terms import EnergyTukey, Term
from eipnn.targets import Targets

log = logging.getLogger("eipnn")

FILE = "residuals.csv"
THRESHOLDS = (0.1, 0.2, 0.3)
"""Error of an EIP label from which on it is a mild, normal or severe outlier, eV/atom."""
SPREADS = ("spread", "spread_dft", "spread_eip")
COUNTS = (
    *("n_eip", "n_kept", "n_known"),
    *(f"{kind}_{c:g}" for c in THRESHOLDS for kind in ("outliers", "kept")),
)
COLUMNS = ("step", "epoch", *SPREADS, *COUNTS)


def measure(residual: Tensor, is_dft: Tensor, error: Tensor, used: Tensor) -> Tensor:
    """The columns `SPREADS` and `COUNTS` of one batch; a spread of no configurations is NaN.

    Args:
        residual: (B,), eV.
        is_dft: (B,) bool.
        error: what the labels are off DFT (B,), eV/atom; NaN where DFT is not known.
        used: whether a residual of that size gets gradient as an EIP label's (B,) bool.
    """
    eip = ~is_dft
    known = eip & error.isfinite()
    counted = [eip, eip & used, known]
    for threshold in THRESHOLDS:
        outlier = known & (error.abs() > threshold)
        counted += [outlier, outlier & used]
    parts = residual, residual[is_dft], residual[eip]
    # the standard deviation of normal residuals, blind to outliers
    spreads = [tukey_scale(part) / TUNING if len(part) else residual.new_tensor(torch.nan) for part in parts]
    return torch.stack([*spreads, *(mask.sum().to(residual.dtype) for mask in counted)])


def gets_gradient(term: Term, residual: Tensor) -> Tensor:
    """Which residuals (B,) of the last batch of a term would get gradient as EIP labels (B,)."""
    if isinstance(term, EnergyTukey):
        return (residual.abs() <= term.k) & (term.k > 0)
    return torch.ones_like(residual, dtype=torch.bool)


def errors_per_atom(source: Source, ids: Sequence[str], energies: np.ndarray) -> np.ndarray:
    """What aligned energies (n,), eV, are above DFT (n,), eV/atom; NaN where DFT is not known.

    It is known of a pool structure that is a frame of the DFT file, which the split keeps from training.
    """
    return (energies - source.energies(ids, [DFT])[:, 0]) / source.structures(ids).sizes


class ResidualLog(Callback):
    """Writes `residuals.csv` (see the head of this file) into the trainer's root folder, whole at each epoch's end.

    For fine-tuning with EIP labels; elsewhere, and in trial runs, it does nothing. It is also written before every
    checkpoint, so that it is never behind one: a training that is resumed drops the lines of the steps that it makes
    again, and goes on.
    """

    def __init__(self) -> None:
        self._text = ""  # of the first process
        self._rows: list[list[float]] = []  # that are not written yet
        self._step = 0
        self._logging = False
        self._errors = torch.empty(0)  # of the chosen labels, eV/atom; for this log alone, not to be learned from

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        chosen = getattr(data, "chosen", None)
        self._logging = bool(chosen) and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if chosen:
            energies = data.source.chosen(chosen)["energy"][:, 0]
            self._errors = torch.from_numpy(errors_per_atom(data.source, list(chosen), energies))
        if self._logging and trainer.is_global_zero:
            self._text = log_before(file_of(trainer), trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        if not self._logging:
            return
        residual = Targets.of(batch).error("energy", outputs["energy"]).squeeze(1)
        error = torch.zeros_like(residual)
        error[~batch.is_dft] = self._errors[batch.row[~batch.is_dft].cpu()].to(error)
        columns = residual, batch.is_dft, error, gets_gradient(pl_module.eip_terms["energy"], residual)
        every = gathered(torch.stack([c.double() for c in columns], dim=1))  # (B of all, 4)
        residual, is_dft, error, used = every.unbind(dim=1)
        measured = measure(residual, is_dft.bool(), error, used.bool())
        self._rows.append([self._step, trainer.current_epoch, *measured.tolist()])

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._rows and trainer.is_global_zero:
            table = pd.DataFrame(self._rows, columns=COLUMNS)
            self._text += _csv(table.astype(dict.fromkeys((*COLUMNS[:2], *COUNTS), int)), header=False)
            write_atomically(file_of(trainer), self._text)
        self._rows = []

    on_save_checkpoint = on_train_epoch_end  # type: ignore[assignment]


def file_of(trainer: Trainer) -> Path:
    """Where the log of a training is."""
    return Path(trainer.default_root_dir) / FILE


def log_before(file: Path, step: int) -> str:
    """The log up to a gradient step, with its head; the head alone where a training begins."""
    head = ",".join(COLUMNS) + "\n"
    text = file.read_text(encoding="utf-8") if step and file.exists() else head
    if not text.startswith(head):
        raise InputError(f"{file}: not the log of this version of eipnn; move it away")
    table = pd.read_csv(io.StringIO(text))
    table = table[table["step"] < step]
    reached = 0 if table.empty else table["step"].iloc[-1] + 1
    if reached < step:
        log.warning("%s: nothing is known of the steps %d to %d", file, reached, step - 1)
    return _csv(table, header=True)


def _csv(table: pd.DataFrame, header: bool) -> str:
    return table.to_csv(index=False, header=header, float_format="%.6g", lineterminator="\n")
