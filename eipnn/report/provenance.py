"""How the trainings of a report were made: commands, versions, splits and seeds."""

from collections.abc import Iterator
from pathlib import Path

from eipnn.report.runs import Experiment, Training
from eipnn.run.execute import COMMANDS

UNKNOWN = "unknown versions"


def provenance(experiment: Experiment) -> Iterator[str]:
    """The section of a report."""
    trainings = [*experiment.trainings]
    trainings += [t for fewer in experiment.reduced.values() for t in fewer.trainings]
    yield "### How it was made"
    files = [run / COMMANDS for run in sorted({t.fold.run for t in trainings})]
    recorded = [file for file in files if file.exists()]
    if commands := _commands(recorded):
        yield "\n".join(f"    {line}" for line in commands)
    splits, seeds = ({getattr(t.fold, name) for t in trainings} for name in ("split", "seed"))
    versions = {_versions(t) for t in trainings}
    yield (
        f"{len(trainings)} fine-tuned potentials in the tables (splits {_joined(splits)}; seed {_joined(seeds)}), "
        f"trained with {_joined(versions - {UNKNOWN}) or UNKNOWN}."
    )
    if UNKNOWN in versions or recorded != files:
        yield "Some of them are of an eipnn that did not record commands and versions yet."


def _commands(files: list[Path]) -> list[str]:
    """The commands given for the runs, each once, in their order."""
    return list(dict.fromkeys(line for file in files for line in file.read_text().splitlines()))


def _versions(training: Training) -> str:
    versions = training.result.get("versions") or {}
    return " ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN


def _joined(values: set) -> str:
    return ", ".join(map(str, sorted(values)))
