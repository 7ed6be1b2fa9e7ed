"""How the trainings of a report were made: commands, versions, splits and seeds."""

from collections.abc import Iterator

from eipnn.report.runs import Experiment, Training
from eipnn.run.execute import COMMANDS


def provenance(experiment: Experiment) -> Iterator[str]:
    """The section of a report."""
    trainings = [*experiment.trainings]
    trainings += [t for fewer in experiment.reduced.values() for t in fewer.trainings]
    yield "### How it was made"
    if commands := _commands(trainings):
        yield "\n".join(f"    {line}" for line in commands)
    splits, seeds = ({getattr(t.fold, name) for t in trainings} for name in ("split", "seed"))
    yield (
        f"{len(trainings)} trainings (splits {_joined(splits)}; seed {_joined(seeds)}) with "
        f"{_joined({_versions(t) for t in trainings})}."
    )


def _commands(trainings: list[Training]) -> list[str]:
    """The commands given for the runs, each once, in their order."""
    files = [run / COMMANDS for run in sorted({t.fold.run for t in trainings})]
    lines = [line for file in files if file.exists() for line in file.read_text().splitlines()]
    return list(dict.fromkeys(lines))


def _versions(training: Training) -> str:
    versions = training.result.get("versions")
    if not versions:
        return "versions that were not recorded"
    return " ".join(f"{name} {version}" for name, version in versions.items())


def _joined(values: set) -> str:
    return ", ".join(map(str, sorted(values)))
