"""Predictions of a test or prediction run as a CSV file and, where there are forces, as extended XYZ."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from eipnn.collectives import gathered
from eipnn.files import write_atomically
from eipnn.structures import StructureStore
from eipnn.structures.extxyz import write_extxyz
from eipnn.targets import PER_ATOM


class PredictionWriter(Callback):
    """Writes ``predictions_test.csv`` after `test`, and the stage's prediction file after `predict`.

    One row a configuration, in the order of the data, ``config_id`` first; the other columns are the stage's own
    (`StageModule.table`). Where the stage predicts forces, the structures with all that was predicted go into a file of
    the same name in extended XYZ, see `predicted`. With several processes the first one writes all rows.

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
        self._write(trainer, pl_module, "predictions_test.csv", trainer.datamodule.test_set)  # type: ignore[attr-defined]

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        name: str = pl_module.predictions  # type: ignore[assignment]
        self._write(trainer, pl_module, name, trainer.datamodule.predict_set)  # type: ignore[attr-defined]

    def _write(self, trainer: Trainer, module: Any, name: str, data: Any) -> None:
        own = {k: torch.cat([part[k] for part in self._parts]).to(module.device) for k in self._parts[0]}
        self._parts = []
        every = {k: gathered(v).cpu() for k, v in own.items()}
        if not trainer.is_global_zero:
            return
        outputs = in_order(every)
        structures = data.inputs.structures.take(outputs.pop("row").numpy())
        table = pd.DataFrame({"config_id": structures.ids, **module.table(outputs)})
        file = Path(self.folder or trainer.default_root_dir) / name
        write_atomically(file, table.to_csv(index=False))
        if "forces" in outputs:
            found = {name: outputs[name].numpy() for name in ("forces", "stress") if name in outputs}
            frames = predicted(structures, outputs["prediction"].numpy(), **found)
            write_extxyz(file.with_suffix(".extxyz"), frames)


def in_order(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Joined outputs of test or prediction steps in the order of their ``row``, without ``weight`` and padding.

    Args:
        outputs: of n configurations (n, ...), of `PER_ATOM` those of their N atoms (N, ...).
    """
    order = outputs["row"].argsort()
    # what pads the last round of several processes weighs 0
    order = order[outputs["weight"][order] > 0]
    found = {k: v[order] for k, v in outputs.items() if k != "weight" and k not in PER_ATOM}
    for name in set(PER_ATOM) & set(outputs):
        parts = outputs[name].split(outputs["n_atoms"].tolist())
        found[name] = torch.cat([parts[place] for place in order.tolist()])
    return found


def predicted(
    structures: StructureStore, energy: np.ndarray, forces: np.ndarray, stress: np.ndarray | None = None
) -> Iterator[Atoms]:
    """Structures with what was predicted of them as results, and their DFT labels as ``dft_energy`` (eV),
    ``dft_forces`` (eV/A) and ``dft_stress`` (eV/A^3, nine numbers), as far as they have some.

    Args:
        structures: n with N atoms.
        energy: (n,), eV.
        forces: (N, 3), eV/A; NaN where there are none, as for the stress.
        stress: (n, 3, 3), eV/A^3, positive under tension; that of fully periodic structures is taken.
    """
    for row, atoms in enumerate(structures):
        labels = atoms.calc.results if atoms.calc else {}
        if "stress" in labels:
            labels["stress"] = voigt_6_to_full_3x3_stress(labels["stress"]).flatten()
        for name, value in labels.items():
            (atoms.arrays if name == "forces" else atoms.info)[f"dft_{name}"] = value
        found = {"energy": energy[row], "forces": forces[slice(*structures.offsets[row : row + 2])]}
        if stress is not None and atoms.pbc.all():
            found["stress"] = full_3x3_to_voigt_6_stress(stress[row])
        atoms.calc = SinglePointCalculator(atoms, **{k: v for k, v in found.items() if np.isfinite(v).all()})
        yield atoms
