"""From an experiment, a split and a seed to the stages of each strategy, as plain data: nothing is written."""

import json
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from eipnn.files import digest_file
from eipnn.own_code import class_paths, source_digests
from eipnn.potential.checkpoints import read_checkpoint, read_record
from eipnn.run.experiment import Experiment, ExperimentError, zero_modes
from eipnn.run.strategy import PRETRAINING_FOLDERS, Pretraining
from eipnn.stages.sampling import plan_batches
from eipnn.structures import Split, fewer_frames, random_split, read_split, resolve, split_text

CLASSES = {"classify": "Classifier", "pretrain": "Pretrain", "finetune": "Finetune"}

OUTPUTS = {"test": "test.json", "predict": "selection.csv"}
"""What a command after the training leaves in the folder of the stage; only the classifier predicts."""

PREDICTIONS = "predictions_test.csv", "predictions_test.extxyz"
"""What the test leaves for the report: of every stage, and of those that predict forces."""

GENERATION = 2
"""Of trainings: one more where a default changes what is learned, so that no stage of before is taken as done.
Since 2: forces and stress."""

NOT_COMPARED = (
    "trainer.default_root_dir",
    "trainer.max_time",
    "model.init_args.init_from",
    "model.init_args.compiled",
    *(f"data.init_args.{name}" for name in ("dft", "pool", "split", "labels", "selection")),
)
"""Places of files in a configuration, which enter a fingerprint by their content, how long one process trains and
whether it compiles its steps, which a machine decides."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A training and what follows it. A `Late` may stand in place of a value.

    Args:
        folder: everything that the stage writes.
        config: of the LightningCLI, plain values.
        inputs: name -> digest of what the stage reads.
        after: commands with the best checkpoint: ``test``, ``predict``.
        about: goes into the result as it is.
        written: content of the small files that are written for it to read.
        split: the parts of its data.
    """

    folder: Path
    config: dict[str, Any]
    inputs: dict[str, Any]
    after: tuple[str, ...]
    about: dict[str, Any] = field(default_factory=dict)
    written: dict[Path, Any] = field(default_factory=dict)
    split: Split = field(default_factory=lambda: Split((), (), (), ()))

    @property
    def data(self) -> dict[str, Any]:
        """The arguments of its data module."""
        return self.config["data"]["init_args"]

    @property
    def model(self) -> dict[str, Any]:
        """The arguments of its module."""
        return self.config["model"]["init_args"]

    @property
    def best(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def potential(self) -> Path:
        """What a fine-tuning leaves for simulations, made from its best checkpoint."""
        return self.folder / "checkpoints" / "potential.pt"

    @property
    def labels(self) -> Path:
        """Label store of all structures by that potential, where it is a teacher."""
        return self.folder / "labels"

    @property
    def log(self) -> Path:
        """What its processes print, where several stages run at once."""
        return self.folder / "log.txt"

    @property
    def fit_file(self) -> Path:
        """Written when the training has come to its end."""
        return self.folder / "fit.json"

    @property
    def done_file(self) -> Path:
        """Written when all is there."""
        return self.folder / "done.json"

    def outputs(self) -> list[Path]:
        """What a finished stage has left for others."""
        potential = [self.potential] if self.about.get("stage") == "finetune" else []
        predictions = [self.folder / PREDICTIONS[0]] if "test" in self.after else []
        return [self.best, *potential, *(self.folder / OUTPUTS[command] for command in self.after), *predictions]

    def digests(self) -> dict[str, str]:
        """Of what it has left at its end, by name; `lost` takes them."""
        forces = self.folder / PREDICTIONS[1]
        return {file.name: digest_file(file) for file in (*self.outputs(), *([forces] if forces.is_file() else []))}

    def lost(self, digests: dict[str, str]) -> list[Path]:
        """The outputs that are gone, or are no longer what they were at the end of the stage."""
        files = [*self.outputs(), *(self.folder / name for name in PREDICTIONS[1:] if name in digests)]
        return [file for file in files if not _is_whole(file, digests)]

    def fingerprint(self) -> str:
        """Digest of the settings, of what is read and of the source of own classes.

        Where files lie does not enter, nor how long one process trains.
        """
        content = {
            "generation": GENERATION,
            "config": without(self.config, NOT_COMPARED),
            "inputs": self.inputs,
            "after": self.after,
            "code": source_digests(class_paths(self.config)),
        }
        return digest_text(json.dumps(content, sort_keys=True))

    def batches(self, n_eip: int, processes: int = 1) -> int:
        """Batches of an epoch with so many EIP labels beside the DFT frames for training, if it learns from these."""
        size, fraction = self.data.get("batch_size", 32), self.data.get("dft_fraction", 0.25)
        n_dft = 0 if self.about.get("stage") == "pretrain" else len(self.split.train)
        return plan_batches(n_dft, n_eip, size, fraction, processes).batches


@dataclass(frozen=True)
class Late:
    """Stands where a value will that is known once labels are made and the stage `of` is done (see `settled`).

    Args:
        what: ``labels``: digest of the label store; ``single_eip``: the best EIP on train and validation;
            ``fingerprint``: of the stage; ``steps``: gradient steps of an epoch with the labels that it chose;
            ``selection``: digest of the selection that is read; ``single``, ``best``, ``dft``: text of a selection that
            is not the classifier's (see `Strategy`), ``whole_pool``: that of a teacher; ``taught``:
            fingerprint of the stage, once its potential has labelled all structures.
        of: the stage that comes before.
    """

    what: str
    of: Stage | None = None


@dataclass(frozen=True)
class Plan:
    """The stages of one split, seed and number of DFT frames.

    Args:
        experiment: what to train.
        folder: of this split, seed and number of frames.
        split: number of the split.
        seed: of weights and sample order.
        labels: label store of all structures; none: only ``baseline`` can be trained.
        frames: DFT frames for training and validation together; none: all of the split.
    """

    experiment: Experiment
    folder: Path
    split: int
    seed: int
    labels: Path | None = None
    frames: int | None = None

    @property
    def drawn(self) -> bool:
        """Whether its split is a random or reduced one, which is written to its folder."""
        return self.experiment.splits == "random" or self.frames is not None

    @property
    def split_path(self) -> str:
        """The split as the stages' configurations name it."""
        return str(self.folder / "split.csv") if self.drawn else self._named_split

    @property
    def _named_split(self) -> str:
        """The user's split file of this number."""
        return self.experiment.splits.replace("{split}", str(self.split))

    @cached_property
    def parts(self) -> Split:
        """The split. It is drawn each time: structures that were added to a file since belong to it."""
        random = self.experiment.splits == "random"
        split = random_split(*self.experiment.ids, self.split) if random else read_split(self._named_split)
        return split if self.frames is None else fewer_frames(split, self.frames, self.seed)

    def row(self, name: str, alphas: Sequence[float]) -> "Row":
        """One row of the tables."""
        searched = alphas if self.experiment.rows[name].taught else alphas[:1]
        return Row(self, name, [self.finetune(name, alpha) for alpha in searched])

    def classify(self, energies_only: bool = False) -> Stage:
        """Train the classifier, let it choose for the pool.

        Rows that learn DFT energies alone have one of their own, which sees no DFT forces either.
        """
        folder, judge = ("classify-energies", {"judge": "energy"}) if energies_only else ("classify", {})
        return self._stage("classify", folder, ("test", "predict"), model=self._eips("classify") | judge)

    def pretrain(self, kind: Pretraining = "all") -> Stage:
        """Pretrain on all EIPs, on their energies alone, or on the single best.

        On all it needs no DFT energy: all numbers of DFT frames share it. Where the zeros of the EIPs
        are fitted to DFT it does, and each number has its own.
        """
        fitted = "least_squares" in zero_modes(self.experiment.eip_energy_zero)
        if self.frames is not None and kind != "single" and not fitted:
            return replace(self, folder=self.folder.parent, frames=None).pretrain(kind)
        model: dict[str, Any] = {"eips": [Late("single_eip")]} if kind == "single" else dict(self._eips("pretrain"))
        if kind == "energies":
            model |= self._energy_weights("pretrain")
        return self._stage("pretrain", PRETRAINING_FOLDERS[kind], (), model=model)

    def pretrained(self, run: str, kind: Pretraining) -> Path:
        """The checkpoint of a finished pretraining of another run, of this split and seed."""
        folder = Path(run) / f"split-{self.split}" / f"seed-{self.seed}" / PRETRAINING_FOLDERS[kind]
        if not (folder / "done.json").is_file():
            raise ExperimentError(
                f"{folder}: this pretraining has not come to its end; give the command of {run} again"
            )
        return folder / "checkpoints" / "best.ckpt"

    def finetune(self, name: str, alpha: float) -> Stage:
        """Train the potential."""
        strategy = self.experiment.rows[name]
        own: dict[str, dict[Any, Any]] = {"model": {}, "data": {}, "inputs": {}, "written": {}}
        own["about"] = {"strategy": name, "alpha": alpha if strategy.taught else None}
        pretrain = None
        if strategy.pretraining and self.experiment.pretrained:
            file = self.pretrained(self.experiment.pretrained, strategy.pretraining)
            own["model"]["init_from"], own["inputs"]["init_from"] = str(file), digest_file(file)
        elif strategy.pretraining:
            pretrain = self.pretrain(strategy.pretraining)
            own["model"]["init_from"] = str(pretrain.best)
            own["inputs"]["init_from"] = Late("fingerprint", pretrain)
        if strategy.taught:
            own["model"] |= {"alpha": alpha} | ({"eip_loss": strategy.loss} if strategy.loss != "tukey" else {})
        if strategy.teacher:
            teacher = self.finetune(strategy.teacher, alpha)
            file = self.folder / f"selection-{name}.csv"
            own["written"][file] = Late("whole_pool")
            own["data"] |= {"selection": str(file), "labels": str(teacher.labels), "eip_energy_zero": "none"}
            own["inputs"] |= {"selection": Late("selection"), "labels": Late("taught", teacher)}
        if labels := strategy.eip_labels:
            classify = self.classify(strategy.energies_only) if labels != "single" else None
            file = self.folder / f"selection-{labels}{'-energies' if strategy.energies_only else ''}.csv"
            if classify and labels == "predicted":
                file = classify.folder / OUTPUTS["predict"]
            else:
                own["written"][file] = Late(labels, classify)
            own["data"]["selection"] = str(file)
            own["inputs"]["selection"] = Late("selection", classify)
        if strategy.energies_only and labels and labels != "dft":
            own["data"]["energies_only"] = True
        elif strategy.energies_only:
            own["model"] |= self._energy_weights("finetune")
        if strategy.long and "epoch_steps" not in self.experiment.stage("finetune", "data"):
            own["data"]["epoch_steps"] = Late("steps", self.classify(strategy.energies_only))
        if strategy.delta:
            own["data"]["delta_eip"] = Late("single_eip")
        if strategy.single:
            own["about"]["single_eip"] = Late("single_eip", pretrain if strategy.pretraining == "single" else None)
        return self._stage("finetune", f"{name}/alpha-{alpha:g}" if strategy.taught else name, ("test",), **own)

    def _stage(self, name: str, folder: str, after: tuple[str, ...], **own: dict[Any, Any]) -> Stage:
        """A stage; `own` is what it has beyond others of the experiment, by argument of `Stage`, model or data."""
        experiment, root = self.experiment, self.folder / folder
        trainer, model, data = (experiment.stage(name, part) for part in ("trainer", "model", "data"))
        data = experiment.data | {"seed": self.seed} | data | {"split": self.split_path} | own.get("data", {})
        text = split_text(self.parts) if self.drawn else None
        digest = digest_text(text) if text else digest_file(resolve(self.split_path))
        digests: dict[str, Any] = {"split": digest} | experiment.digests
        if name == "finetune" and "selection" not in data:
            digests.pop("pool", None)  # it is not read
        if name != "finetune" or ("selection" in data and "labels" not in data) or "delta_eip" in data:
            data["labels"] = str(self.labels)
        if "labels" in data:
            digests["labels"] = Late("labels")
            if zeros := experiment.eip_energy_zero:  # so that the stage runs anew where an EIP names another one
                data = {"eip_energy_zero": zeros} | data
        if name != "finetune" and (elsewhere := model.get("init_from")):
            read_record(read_checkpoint(elsewhere), elsewhere, "pretrain")
            digests["init_from"] = digest_file(Path(elsewhere))
        stages = {"zbl": ("pretrain", "finetune"), "wall": ("finetune",), None: ()}
        core = {"core": experiment.core} if name in stages[experiment.core] else {}
        model = {"representation": experiment.representation} | core | model | own["model"]
        config = {
            "seed_everything": self.seed,
            "trainer": experiment.trainer | trainer | {"default_root_dir": str(root)},
            "model": {"class_path": f"eipnn.{CLASSES[name]}Module", "init_args": model},
            "data": {"class_path": f"eipnn.{CLASSES[name]}DataModule", "init_args": data},
        }
        about = {"stage": name, "split": self.split, "seed": self.seed, "frames": self.frames}
        about |= {"tested_on": self.parts.tested_on} | own.get("about", {})
        written = ({Path(self.split_path): text} if text else {}) | own.get("written", {})
        return Stage(root, config, digests | own.get("inputs", {}), after, about, written, self.parts)

    def _energy_weights(self, stage: str) -> dict[str, Any]:
        """Arguments with which the energies alone are trained."""
        weights: dict[str, Any] = {"weights": {"energy": 1.0}}
        if second := self.experiment.stage(stage, "model").get("second_weights"):
            weights["second_weights"] = {name: value for name, value in second.items() if name == "energy"} or None
        return weights

    def _eips(self, stage: str) -> dict[str, list[str]]:
        """The EIPs that the experiment names for a stage, or all that there are.

        Raises:
            ExperimentError: it names another.
        """
        known = self.experiment.eip_names
        named = self.experiment.stage(stage, "model").get("eips") or list(known)
        if strangers := [name for name in named if name not in known]:
            raise ExperimentError(f"{stage}.model.eips names {strangers[0]!r}; the EIPs are {', '.join(known)}")
        return {"eips": named}


class Row(NamedTuple):
    """A strategy of a plan: a fine-tuning for each weight of the EIP labels, the best on validation is the row's."""

    plan: Plan
    strategy: str
    stages: list[Stage]


def _is_whole(file: Path, digests: dict[str, str]) -> bool:
    """Whether a file of a finished stage is there, with its digest."""
    if file.is_file() and file.name in PREDICTIONS and file.name not in digests:
        return True  # of a version that kept none of them
    return file.is_file() and digests.get(file.name) == digest_file(file)


def filled(content: Any, value: Callable[[Late], Any]) -> Any:
    """A copy of plain values with what `value` gives in place of each `Late`."""
    if isinstance(content, Late):
        return value(content)
    if isinstance(content, dict):
        return {key: filled(part, value) for key, part in content.items()}
    return [filled(part, value) for part in content] if isinstance(content, list) else content


def lates(content: Any) -> list[Late]:
    """Every `Late` in plain values, in order."""
    found: list[Late] = []
    filled(content, found.append)
    return found


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """These stages and those that they build on, each once, after what it reads."""
    found: dict[Path, Stage] = {}
    for stage in stages:
        for one in (*in_order(reads(stage)), stage):
            found.setdefault(one.folder, one)
    return list(found.values())


def reads(stage: Stage) -> list[Stage]:
    """The stages that a stage builds on."""
    return [late.of for late in lates([stage.inputs, stage.config]) if late.of]


def digest_text(text: str) -> str:
    """SHA-256 of a text."""
    return sha256(text.encode()).hexdigest()


def without(config: dict[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    """A copy of a configuration without the values at these paths of keys, such as ``data.init_args.dft``."""
    copy = deepcopy(config)
    for path in paths:
        *way, last = path.split(".")
        inner: Any = copy
        for key in way:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(last, None)
    return copy
