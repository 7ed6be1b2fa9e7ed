"""Labels that the classifier does not choose: one EIP for all, or, for comparison, what hidden DFT energies say."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eipnn.files import write_atomically
from eipnn.labels.leaderboard import best_eip
from eipnn.run.experiment import ExperimentError
from eipnn.run.strategy import Labels
from eipnn.stages.source import DFT, Source, compare, selected


def single_eip(source: Source) -> str:
    """The EIP with the lowest config MAE on train and validation."""
    return best_eip(compare(source), source.split).eip


def choose(source: Source, kind: Labels, selection: Path | None) -> dict[str, str]:
    """Structure id -> label source.

    Args:
        source: structures, split and labels.
        kind: ``single``: the best EIP for every structure of the pool; ``best``: for the structures of `selection` the
            EIP closest to DFT; ``dft``: for these DFT itself.
        selection: what the classifier chose; not needed for ``single``.

    Raises:
        ExperimentError: a selected structure has no DFT energy.
    """
    if kind == "single" or selection is None:
        return dict.fromkeys(source.split.pool, single_eip(source))
    ids = list(selected(selection))
    if missing := [name for name in ids if name not in source.dft]:
        raise ExperimentError(
            f"{missing[0]}: strategies with eip_labels best or dft need the hidden DFT energies of the pool, and this "
            f"structure of the pool has none in {source.config.dft}; take a pool of DFT frames alone, which the split "
            "marks as pretrain"
        )
    if kind == "dft":
        return dict.fromkeys(ids, DFT)
    eips = source.store.eips
    error = np.abs(source.eip_energies(ids, eips) - source.dft_energies(ids)[:, None])
    best = np.where(np.isfinite(error), error, np.inf).argmin(axis=1)
    return {name: eips[place] for name, place in zip(ids, best, strict=True)}


def write_selection(chosen: Mapping[str, str], file: Path) -> None:
    """Write choices as the classifier's prediction writes its own."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["config_id", "eip"])
    writer.writerows(chosen.items())
    write_atomically(file, text.getvalue())
