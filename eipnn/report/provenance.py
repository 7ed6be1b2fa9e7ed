"""How the trainings of a report were made: commands, versions, splits and seeds."""

from collections.abc import Iterator

from eipnn.report.runs import Experiment, Training
from eipnn.run.execute import COMMANDS

UNKNOWN = "unknown versions"


def provenance(experiment: Experiment) -> Iterator[str]:
    """The section of a report."""
    trainings = [*experiment.trainings]
    trainings += [t for fewer in experiment.reduced.values() for t in fewer.trainings]
    yield "### How it was made"
    if commands := _commands(trainings):
        yield "\n".join(f"    {line}" for line in commands)
    splits, seeds = ({getattr(t.fold, name) for t in trainings} for name in ("split", "seed"))
    versions = {_versions(t) for t in trainings}
    yield (
        f"{len(trainings)} fine-tuned potentials in the tables (splits {_joined(splits)}; seed {_joined(seeds)}), "
        f"trained with {_joined(versions - {UNKNOWN}) or UNKNOWN}."
    )
    if UNKNOWN in versions or not all((t.fold.run / COMMANDS).exists() for t in trainings):
        yield "Some of them are of an eipnn that did not record commands and versions yet."


def _commands(trainings: list[Training]) -> list[str]:
    """The commands given for the runs, each once, in their order."""
    files = [run / COMMANDS for run in sorted({t.fold.run for t in trainings})]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return list(dict.fromkeys(lines))


def _versions(training: Training) -> str:
    versions = training.result.get("versions") or {}
    return " ".join(f"{name} {version}" for name, version in versions.items()) or UNKNOWN


def _joined(values: set) -> str:
    return ", ".join(map(str, sorted(values)))
