"""What `eipnn run` left: the trained rows of the table, and where their files are."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from eipnn.errors import InputError
from eipnn.metrics import ATOM, CONFIG, FORCE, STRESS
from eipnn.run.moved import data_of
from eipnn.run.strategy import PRETRAINING_FOLDERS, STRATEGIES, Strategy, own_strategies

NUMBERS = (CONFIG.result, ATOM.result, "epochs", "gradient_steps")
"""What the report reads of a result."""
MORE = (FORCE.result, STRESS.result)
"""The same where the test frames have such labels."""
AGAIN = "give the same `eipnn run` again"


class ReportError(InputError):
    """A run folder that cannot be reported; the message names the file and the mend."""


@dataclass(frozen=True)
class Fold:
    """One split and seed of a run, with all its DFT frames or fewer."""

    folder: Path  # RUN/split-K/seed-S, or frames-N in it
    split: int
    seed: int
    frames: int | None = None  # for training and validation together; None: all of the split

    @property
    def run(self) -> Path:
        return self.folder.parents[1 if self.frames is None else 2]


@dataclass(frozen=True)
class Training:
    """A fine-tuned potential: one strategy on one fold."""

    fold: Fold
    strategy: str  # its name for `eipnn run`
    kind: Strategy
    alpha: float | None  # weight of the EIP labels; None without them
    alphas: dict[str, float]  # validation error of each weight that was tried
    result: dict[str, Any]  # the `eipnn.metrics.METRICS`, epochs, gradient_steps, ...
    part: str = "test"  # what they are errors on: test, or validation of a split without a test part

    @property
    def folder(self) -> Path:
        """Of the stage, with the checkpoints and predictions."""
        name = self.fold.folder / self.strategy
        return name if self.alpha is None else name / f"alpha-{self.alpha:g}"

    @property
    def place(self) -> tuple[int, int]:
        """Split and seed: trainings that share them are compared with each other."""
        return self.fold.split, self.fold.seed

    @cached_property
    def pretraining_steps(self) -> int | None:
        """Gradient steps of the pretraining that it started from; None without one."""
        if not self.kind.pretraining:
            return None
        own = self.fold.folder / PRETRAINING_FOLDERS[self.kind.pretraining] / "done.json"
        # numbers of DFT frames share their pretraining
        shared = self.fold.frames is not None and not own.exists()
        done = self.fold.folder.parent / own.relative_to(self.fold.folder) if shared else own
        file = self.config["model"]["init_args"].get("init_from")
        if file and not done.exists():  # another run's
            done = Path(file).parents[1] / own.name
        with usable(done):
            return int(read_json(done)["result"]["gradient_steps"])

    @cached_property
    def config(self) -> dict[str, Any]:
        """The configuration that it was trained with."""
        return read_config(self.folder)

    @cached_property
    def data(self) -> dict[str, Any]:
        """The arguments of its data module, with files in the folder of its run where that is now."""
        return stage_data(self.folder, self.fold.run)

    @property
    def representation(self) -> dict[str, Any]:
        return self.config["model"]["init_args"]["representation"]


@dataclass(frozen=True)
class Experiment:
    """All trainings of one backbone on one data set, of one or more runs."""

    trainings: tuple[Training, ...]  # with all DFT frames of their split
    reduced: Mapping[int, "Experiment"] = field(default_factory=dict)  # those with fewer, by number of frames

    @property
    def everything(self) -> list[Training]:
        """Also those with fewer DFT frames."""
        return [*self.trainings, *(t for fewer in self.reduced.values() for t in fewer.trainings)]

    @property
    def backbone(self) -> str:
        """Name of the representation."""
        return self.trainings[0].representation["class_path"].rpartition(".")[2]

    @property
    def dft(self) -> str:
        """The files of DFT structures, as the run named them."""
        named = self.trainings[0].config["data"]["init_args"]["dft"]
        return named if isinstance(named, str) else ", ".join(named)

    @property
    def part(self) -> str:
        """What its errors are on: test, validation, or both."""
        return " and ".join(sorted({t.part for t in self.trainings}))

    @property
    def folds(self) -> list[Fold]:
        """In order of split and seed."""
        return sorted({t.fold for t in self.trainings}, key=lambda f: (f.split, f.seed, str(f.folder)))

    @property
    def splits(self) -> list[int]:
        return sorted({fold.split for fold in self.folds})

    @property
    def strategies(self) -> dict[str, Strategy]:
        """By name: those of eipnn, then those that its runs define and trained."""
        return STRATEGIES | {t.strategy: t.kind for t in self.trainings}

    def row(self, strategy: str) -> list[Training]:
        """The trainings of a strategy, in order of split and seed."""
        return sorted((t for t in self.trainings if t.strategy == strategy), key=lambda t: t.place)

    def label(self, strategy: str) -> str:
        """A strategy's name in tables and pictures: the backbone, +LA, +MP, ..."""
        label = self.strategies[strategy].label
        if label.startswith("+"):
            return label
        return f"{self.backbone}{' ' if ' ' in label else '-'}{label}" if label else self.backbone


def read_experiments(runs: Sequence[str | Path]) -> list[Experiment]:
    """The trainings of all runs, those of one backbone and data set together.

    Raises:
        ReportError: no such folder, nothing finished in it, a damaged or outdated file, or one strategy
            trained twice on the same split and seed.
    """
    groups: dict[str, list[Training]] = {}
    for training in [t for run in runs for folder in _run_folders(Path(run)) for t in read_run(folder)]:
        data = training.config["data"]["init_args"]
        same = (training.representation, data["dft"], data.get("energy_zero"))
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(training)
    return [_experiment(trainings) for trainings in groups.values()]


def _run_folders(run: Path) -> list[Path]:
    """The run itself, or the runs in it where `eipnn run` was given several experiments."""
    inside = sorted({file.parents[2] for file in run.glob("*/split-*/seed-*/result-*.json")})
    return inside if inside and not any(run.glob("split-*")) else [run]


def read_run(run: Path) -> list[Training]:
    """The finished trainings of a run folder."""
    if not run.is_dir():
        raise ReportError(f"{run}: no such run folder; give what `eipnn run -o` wrote")
    files = [file for inner in ("", "frames-*/") for file in sorted(run.glob(f"split-*/seed-*/{inner}result-*.json"))]
    if not files:
        raise ReportError(
            f"{run}: nothing finished in it (no split-K/seed-S/result-STRATEGY.json); "
            "the same `eipnn run` again goes on from where it was cut off"
        )
    strategies = STRATEGIES | defined(run)
    return [_training(file, strategies) for file in files]


def defined(run: Path) -> dict[str, Strategy]:
    """The strategies that the experiment of a run defines."""
    file = run / "experiment.yaml"
    if not file.exists():
        return {}
    with usable(file):
        given = yaml.safe_load(file.read_text(encoding="utf-8")).get("strategies", {})
        return own_strategies(given, str(file))


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file with a mapping in it."""
    with usable(file, "not readable JSON"):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise damaged(file, "no mapping")
    return content


def read_config(stage: Path) -> dict[str, Any]:
    """The LightningCLI configuration of a stage folder."""
    file = stage / "config.yaml"
    with usable(file, "no stage configuration"):
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        config["data"]["init_args"]["dft"], config["model"]["init_args"]["representation"]
    return config


def stage_data(stage: Path, run: Path) -> dict[str, Any]:
    """The data arguments of a stage, see `data_of`."""
    config = read_config(stage)
    with usable(stage / "config.yaml"):
        return data_of(config, stage, run)


def damaged(file: Path, what: str) -> ReportError:
    """The error of a file of a run that cannot be used."""
    return ReportError(f"{file}: damaged, {what}; remove it and {AGAIN}")


@contextmanager
def usable(file: Path, lack: str = "damaged") -> Iterator[None]:
    """What goes wrong inside with the content of a file is a `ReportError` that names the file and the mend."""
    try:
        yield
    except InputError:
        raise
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{file}: {lack}, {type(error).__name__}: {error}; remove it and {AGAIN}") from error


def _training(file: Path, strategies: Mapping[str, Strategy]) -> Training:
    content = read_json(file)
    with usable(file):
        count = content.get("frames")
        fold = Fold(file.parent, int(content["split"]), int(content["seed"]), count and int(count))
        name, alpha, alphas = content["strategy"], content["alpha"], dict(content["alphas"])
        result, fingerprint = content["result"], content["fingerprint"]
        keys = [*NUMBERS, *(key for key in MORE if key in result)]
        numbers = [float(result[key]) for key in keys]
    if name not in strategies:
        raise ReportError(
            f"{file}: unknown strategy {name!r}, which neither eipnn nor {fold.run / 'experiment.yaml'} defines; "
            f"{AGAIN} with an experiment that does, or remove the file"
        )
    if not all(abs(number) < float("inf") for number in numbers):
        raise damaged(file, f"one of {', '.join(keys)} is no finite number")
    part = str(content.get("tested_on", "test"))
    training = Training(fold, name, strategies[name], alpha, alphas, result, part)
    done = training.folder / "done.json"
    if not done.exists() or read_json(done).get("fingerprint") != fingerprint:
        raise ReportError(
            f"{file}: {training.folder} has been begun anew with other settings or data since; {AGAIN} to finish it"
        )
    return training


def _experiment(trainings: Sequence[Training]) -> Experiment:
    """The trainings of one backbone and data set, by number of DFT frames."""
    by_frames: dict[int | None, list[Training]] = {}
    for training in trainings:
        by_frames.setdefault(training.fold.frames, []).append(training)
    for same in by_frames.values():
        _check_unique(same)
    if None not in by_frames:
        raise ReportError(
            f"{trainings[0].fold.run}: only trainings with fewer DFT frames are finished; {AGAIN} with --frames all"
        )
    full = tuple(by_frames.pop(None))
    return Experiment(full, {n: Experiment(tuple(by_frames[n])) for n in sorted(filter(None, by_frames))})


def _check_unique(trainings: Sequence[Training]) -> None:
    first: dict[Any, Training] = {}
    for training in trainings:
        kin = first.setdefault(training.strategy, training)
        twin = first.setdefault((training.strategy, training.place), training)
        if kin.kind != training.kind:
            what = f"{kin.fold.run} and {training.fold.run} define the strategy {training.strategy} differently"
        elif twin is not training:
            what = f"{twin.folder} and {training.folder}: the same backbone, data, strategy, split and seed"
        else:
            continue
        raise ReportError(f"{what}; report these runs apart")
