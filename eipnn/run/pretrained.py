"""Pretrainings of another run (`pretrained: RUN`): whether they have learned from what judges the fine-tuning here."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from eipnn.files import read_yaml
from eipnn.run.experiment import ExperimentError
from eipnn.run.moved import data_of
from eipnn.run.plan import Row
from eipnn.run.strategy import Pretraining
from eipnn.stages.source import source_of
from eipnn.structures import StructureStore
from eipnn.structures.suspects import same_structures


def check_unseen(rows: Sequence[Row]) -> None:
    """Raise where a pretraining that is taken knows a structure, atom by atom, that validates or tests in its rows.

    Args:
        rows: of one experiment.

    Raises:
        ExperimentError: it does, or it has not come to its end.
        InputError: what it learned from is absent, or its files hold other structures than were labelled.
    """
    experiment = rows[0].plan.experiment
    run = experiment.pretrained
    if run is None:
        return
    judges: dict[Path, dict[str, Path]] = {}  # of the folder of each pretraining: id -> folder where it judges
    for row in rows:
        for kind in _pretrainings(row):
            folder = row.plan.pretrained(run, kind).parents[1]
            judging = dict.fromkeys((*row.plan.parts.val, *row.plan.parts.test), row.plan.folder)
            judges[folder] = judging | judges.get(folder, {})
    dft = experiment.structures[0]
    for folder, names in judges.items():
        if same := same_structures(learned_by(folder), dft.take(dft.rows(list(names)))):
            known, name = same[0]
            raise ExperimentError(
                f"pretrained: {folder} has learned from {known}, which validates or tests in {names[name]} as {name} "
                f"({len(same)} such structures);\n"
                "take a run of the same splits and pool, or leave the key pretrained out"
            )


def _pretrainings(row: Row) -> Iterator[Pretraining]:
    """That of a row and of those that teach it."""
    rows = row.plan.experiment.rows
    name: str | None = row.strategy
    while name:
        if kind := rows[name].pretraining:
            yield kind
        name = rows[name].teacher


def learned_by(folder: Path) -> StructureStore:
    """The structures whose labels a pretraining has learned from, as its files hold them now.

    Files in the folder of its run are found where the run is now; others as they were named when it was made.

    Raises:
        InputError: a file is absent, or holds other structures than were labelled.
    """
    source = source_of(data_of(read_yaml(folder / "config.yaml"), folder, folder.parents[2]))
    structures = source.structures(source.split.pool)
    source.store.check(structures)
    return structures
