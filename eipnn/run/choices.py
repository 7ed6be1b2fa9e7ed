"""What a plan leaves open: values that are known once labels are made and the stages before are done."""

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from eipnn.files import digest_file
from eipnn.labels import LabelStore
from eipnn.labels.leaderboard import best_eip
from eipnn.run.experiment import ExperimentError
from eipnn.run.plan import OUTPUTS, Late, Stage, digest_text, filled
from eipnn.stages.source import DFT, Source, compare, selected, source_of


def settled(stage: Stage, bring: Callable[[Stage, str], str]) -> Stage:
    """The stage with every `Late` replaced by its value.

    Args:
        stage: its split is written.
        bring: has a stage come to its end, for what is asked of it, and gives its fingerprint.
    """

    @cache
    def value(late: Late) -> Any:
        fingerprint = bring(late.of, late.what) if late.of else None
        match late.what:
            case "fingerprint":
                return fingerprint
            case "labels":
                return LabelStore.open(stage.data["labels"]).fingerprint
            case "single_eip":
                return single_eip(source_of((late.of or stage).data))
            case "selection":
                file = Path(stage.data["selection"])
                return digest_text(value(stage.written[file])) if file in stage.written else digest_file(file)
        chosen = selected(late.of.folder / OUTPUTS["predict"]) if late.of else None
        return stage.batches(len(chosen or ())) if late.what == "steps" else _choose(stage.data, late.what, chosen)

    parts = {name: filled(getattr(stage, name), value) for name in ("inputs", "config", "about", "written")}
    return replace(stage, **parts)


def single_eip(source: Source) -> str:
    """The EIP with the lowest config MAE on train and validation."""
    return best_eip(compare(source), source.split).eip


def _choose(data: dict[str, Any], kind: str, chosen: dict[str, str] | None) -> str:
    """A selection that is not the classifier's: the best EIP for the whole pool (``single``), or, where the classifier
    found an EIP, the one that is truly the closest (``best``) or DFT itself (``dft``).

    Raises:
        ExperimentError: a selected structure has no DFT energy.
    """
    source = source_of(data)
    ids = list(source.split.pool if chosen is None else chosen)
    if kind == "single":
        labels = [single_eip(source)] * len(ids)
    elif missing := [name for name in ids if name not in source.dft]:
        raise ExperimentError(
            f"{missing[0]}: strategies with eip_labels best or dft need the hidden DFT energies of the pool, and this "
            f"structure of the pool has none in {source.config.dft}; take a pool of DFT frames alone, which the split "
            "marks as pretrain"
        )
    else:
        error = np.abs(source.energies(ids, source.store.eips) - source.energies(ids, [DFT]))
        closest = np.where(np.isfinite(error), error, np.inf).argmin(axis=1)
        labels = [DFT if kind == "dft" else source.store.eips[place] for place in closest]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("config_id", "eip"), *zip(ids, labels, strict=True)])
    return text.getvalue()
