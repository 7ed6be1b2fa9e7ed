"""The structures, splits and labels behind a fold, read again with the settings of its training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eipnn.errors import InputError
from eipnn.labels.leaderboard import Comparison
from eipnn.report.runs import Fold, ReportError, Training, read_config

if TYPE_CHECKING:
    from eipnn.stages.source import Source

KEYS = ("dft", "split", "energy_zero", "pool", "labels", "eip_energy_zero", "energy_key")


def data_settings(trainings: Sequence[Training]) -> dict[str, Any]:
    """The data arguments of one fold's stages; the label store is named by those that read it."""
    fold = trainings[0].fold
    stages = [fold.folder / name for name in ("classify", "pretrain")]
    configs = [t.config for t in trainings] + [read_config(stage) for stage in stages if (stage / "done.json").exists()]
    return fold_settings(fold, configs)


def fold_settings(fold: Fold, configs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The data arguments in configurations of a fold's stages.

    A split and labels that were made in the run's own folder are looked for there, so that a run can be moved.
    """
    settings: dict[str, Any] = {}
    for config in configs:
        given = config["data"]["init_args"]
        settings |= {key: given[key] for key in KEYS if given.get(key) is not None}
    own = {"split": fold.folder / "split.csv", "labels": fold.run / "labels"}
    return settings | {k: str(file) for k, file in own.items() if k in settings and file.exists()}


@dataclass(frozen=True)
class FoldData:
    """What one fold was trained and tested on.

    Args:
        fold: of the run.
        source: structures, split and aligned energies.
        comparison: DFT and EIP energies of all DFT frames on one zero; None where no label store is named.
    """

    fold: Fold
    source: "Source"
    comparison: Comparison | None

    def zeros(self, ids: Sequence[str]) -> np.ndarray:
        """What alignment takes off the DFT energies (n,), eV."""
        return self.source.zero.totals(self.source.structures(ids))


def read_data(trainings: Sequence[Training]) -> FoldData:
    """The data of one fold, on the energy zeros that its trainings used.

    Raises:
        ReportError: a file is not there any more or cannot be read.
    """
    fold, settings = trainings[0].fold, data_settings(trainings)
    try:
        # Imports torch, which the tables of a run do not need.
        from eipnn.stages.source import compare, source_of

        source = source_of(settings)
        return FoldData(fold, source, compare(source) if source.config.labels else None)
    except (InputError, OSError) as error:
        raise ReportError(
            f"{fold.folder}: its structures, split or labels cannot be read ({error}); relative paths hold "
            "from the folder where `eipnn run` was called, so call `eipnn report` there"
        ) from error


def energy_zeros(data: Sequence[FoldData]) -> pd.DataFrame:
    """The zeros of DFT and of the EIPs as text: ``of``, ``mode``, ``energies`` (eV an atom), ``splits``.

    Lines that differ in their splits alone are one, and so are EIPs with the same zero.
    """
    lines: dict[tuple[str, str, str], list[int]] = {}
    for d in data:
        zeros = {"DFT": d.source.zero}
        if d.comparison is not None:
            eips = d.source.eip_zeros(d.comparison.eips)
            same = len({str(zero) for zero in eips.values()}) == 1
            zeros |= {"all EIPs": next(iter(eips.values()))} if same else eips
        for name, zero in zeros.items():
            energies = ", ".join(f"{el} {e:.5f}" for el, e in sorted(zero.energies.items()))
            lines.setdefault((name, zero.mode, energies), []).append(d.fold.split)
    rows = [[*line, ", ".join(map(str, splits))] for line, splits in lines.items()]
    return pd.DataFrame(rows, columns=["of", "mode", "energies", "splits"])
