"""Predictions of a test or prediction run as a CSV file."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eipnn.files import write_atomically


class PredictionWriter(Callback):
    """Writes ``predictions_test.csv`` after `test`, and the stage's prediction file after `predict`.

    One row a configuration, in the order of the data, ``config_id`` first; the other columns are the stage's own
    (`StageModule.table`). With several processes the first one writes all rows.

    Args:
        folder: where; the trainer's root folder if none is given.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._parts: list[dict[str, Tensor]] = []

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any) -> None:
        self._parts.append({k: v.detach().cpu() for k, v in outputs.items()})

    on_predict_batch_end = on_test_batch_end  # type: ignore[assignment]

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "predictions_test.csv", trainer.datamodule.test_set.ids)  # type: ignore[attr-defined]

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name: str = pl_module.predictions  # type: ignore[assignment]
        self._write(trainer, pl_module, name, trainer.datamodule.predict_set.ids)  # type: ignore[attr-defined]

    def _write(self, trainer: Trainer, module: Any, name: str, ids: list[str]) -> None:
        own = {k: torch.cat([part[k] for part in self._parts]) for k in self._parts[0]}
        self._parts = []
        joined = {k: v.cpu().reshape(-1, *own[k].shape[1:]) for k, v in module.all_gather(own).items()}
        if not trainer.is_global_zero:
            return
        real = joined.pop("weight") > 0  # the others pad the last round of several processes
        rows = joined.pop("row")[real]
        order = rows.argsort()
        columns = module.table({k: v[real][order] for k, v in joined.items()})
        table = pd.DataFrame({"config_id": [ids[r] for r in rows[order].tolist()], **columns})
        folder = Path(self.folder or trainer.default_root_dir)
        write_atomically(folder / name, table.to_csv(index=False))
