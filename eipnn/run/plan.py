"""From an experiment, a split and a seed to the stages of each strategy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eipnn.files import digest_file
from eipnn.labels import LabelStore
from eipnn.run.choices import choose, single_eip, write_selection
from eipnn.run.execute import Stage, run_stage
from eipnn.run.experiment import Experiment, ExperimentError, zero_modes
from eipnn.run.strategy import PRETRAINING_FOLDERS, Labels, Pretraining
from eipnn.stages.sampling import plan_batches
from eipnn.stages.source import Source, selected, source_of
from eipnn.structures import (
    fewer_frames,
    random_split,
    read_split,
    resolve,
    write_split,
)


@dataclass(frozen=True)
class Plan:
    """The stages of one split, seed and number of DFT frames.

    Args:
        experiment: what to train.
        folder: of this split, seed and number of frames.
        split: number of the split.
        seed: of weights and sample order.
        labels: label store of all structures; none: only ``baseline`` can be trained.
        threads: of each stage's process.
        frames: DFT frames for training and validation together; none: all of the split.
    """

    experiment: Experiment
    folder: Path
    split: int
    seed: int
    labels: Path | None = None
    threads: int | None = None
    frames: int | None = None

    @cached_property
    def split_path(self) -> str:
        """The split as the stages' configurations name it; a random or reduced one is written to the folder.

        It is drawn each time: structures that were added to a file since belong to it.
        """
        named = self.experiment.splits.format(split=self.split)
        if self.experiment.splits != "random" and self.frames is None:
            return named
        random = self.experiment.splits == "random"
        split = random_split(*self.experiment.ids, self.split) if random else read_split(named)
        if self.frames is not None:
            split = fewer_frames(split, self.frames, self.seed)
        file = self.folder / "split.csv"
        write_split(split, file)
        return str(file)

    @property
    def split_file(self) -> Path:
        return resolve(self.split_path)

    @cached_property
    def store(self) -> LabelStore:
        if self.labels is None:
            raise ExperimentError(
                "the experiment has neither data.labels nor eips: label augmentation and pretraining need one"
            )
        return LabelStore.open(self.labels)

    @cached_property
    def source(self) -> Source:
        """Structures and energies, for choices that no network makes."""
        assert self.store
        return source_of(self.experiment.data | {"split": self.split_path, "labels": str(self.labels)})

    @cached_property
    def single_eip(self) -> str:
        """The best EIP on train and validation."""
        return single_eip(self.source)

    def classify(self) -> Stage:
        """Train the classifier, let it choose for the pool."""
        eips = self._eips("classify", self.store.eips)
        return self._stage("classify", "Classifier", eips, {}, ("test", "predict"))

    def pretrain(self, kind: Pretraining = "all") -> Stage:
        """Pretrain on all EIPs, or on the single best.

        It needs no DFT energy: all numbers of DFT frames share the pretraining on all EIPs. Where the zeros of the EIPs
        are fitted to DFT it does, and each number has its own.
        """
        single = kind == "single"
        if self.frames is not None and not single and not self._zeros_are_fitted():
            return replace(self, folder=self.folder.parent, frames=None).pretrain()
        eips = {"eips": [self.single_eip]} if single else self._eips("pretrain", self.store.eips)
        return self._stage("pretrain", "Pretrain", eips, {}, (), PRETRAINING_FOLDERS[kind])

    def finetune(self, name: str, alpha: float) -> Stage:
        """Train the potential; the stages that it builds on are run first."""
        strategy = self.experiment.rows[name]
        model: dict[str, Any] = {}
        data: dict[str, Any] = {}
        inputs: dict[str, str] = {}
        if strategy.pretraining:
            pretrain = self.pretrain(strategy.pretraining)
            inputs["init_from"] = self.run(pretrain)["fingerprint"]
            model["init_from"] = str(pretrain.best)
        if strategy.eip_labels:
            model["alpha"] = alpha
            if strategy.loss != "tukey":
                model["eip_loss"] = strategy.loss
            selection = self.selection(strategy.eip_labels)
            data["selection"] = str(selection)
            inputs["selection"] = digest_file(selection)
        if strategy.long:
            data["epoch_steps"] = self.augmented_steps()
        if strategy.delta:
            data["delta_eip"] = self.single_eip
        folder = f"{name}/alpha-{alpha:g}" if strategy.eip_labels else name
        stage = self._stage("finetune", "Finetune", model, data, ("test",), folder, inputs)
        about = {"strategy": name, "alpha": alpha if strategy.eip_labels else None}
        if strategy.single:
            about["single_eip"] = self.single_eip
        return replace(stage, about=stage.about | about)

    def selection(self, labels: Labels = "predicted") -> Path:
        """Where the labels of label augmentation come from; the classifier is trained first where it is needed."""
        chosen = None
        if labels != "single":
            classify = self.classify()
            self.run(classify)
            chosen = classify.folder / "selection.csv"
            if labels == "predicted":
                return chosen
        file = self.folder / f"selection-{labels}.csv"
        write_selection(choose(self.source, labels, chosen), file)
        return file

    def augmented_steps(self) -> int:
        """Gradient steps of an epoch of label augmentation."""
        n_train = len(read_split(self.split_file).train)
        n_eip = len(selected(self.selection()))
        data = self.experiment.data | self.experiment.stage("finetune", "data")
        size, fraction = data.get("batch_size", 32), data.get("dft_fraction", 0.25)
        return plan_batches(n_train, n_eip, size, fraction).batches

    def run(self, stage: Stage) -> dict[str, Any]:
        """See `run_stage`."""
        return run_stage(stage, self.threads)

    def trials(self, strategies: Sequence[str]) -> list[dict[str, Any]]:
        """A configuration of each stage of these strategies, without what the stages before will say."""
        rows = [self.experiment.rows[name] for name in strategies]
        configs = [self._config("finetune", "Finetune", self.folder, {}, {})]
        if any(row.pretraining for row in rows):
            eips = self._eips("pretrain", self.experiment.eip_names)
            configs.append(self._config("pretrain", "Pretrain", self.folder, eips, {}))
        if any(row.long or row.eip_labels not in (None, "single") for row in rows):
            eips = self._eips("classify", self.experiment.eip_names)
            configs.append(self._config("classify", "Classifier", self.folder, eips, {}))
        return configs

    def _stage(
        self,
        name: str,
        prefix: str,
        model: dict[str, Any],
        data: dict[str, Any],
        after: tuple[str, ...],
        folder: str | None = None,
        inputs: dict[str, str] | None = None,
    ) -> Stage:
        root = self.folder / (folder or name)
        config = self._config(name, prefix, root, model, data)
        about = {"stage": name, "split": self.split, "seed": self.seed, "frames": self.frames}
        return Stage(root, config, self._digests(name, config) | (inputs or {}), after, about)

    def _config(
        self, name: str, prefix: str, root: Path, model: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:
        """The configuration of a stage, for the LightningCLI."""
        experiment = self.experiment
        files = {"split": self.split_path}
        if name != "finetune" or "selection" in data or "delta_eip" in data:
            files["labels"] = str(self.labels)
        return {
            "seed_everything": self.seed,
            "trainer": experiment.trainer | experiment.stage(name, "trainer") | {"default_root_dir": str(root)},
            "model": {
                "class_path": f"eipnn.{prefix}Module",
                "init_args": {"representation": experiment.representation} | experiment.stage(name, "model") | model,
            },
            "data": {
                "class_path": f"eipnn.{prefix}DataModule",
                "init_args": experiment.data | {"seed": self.seed} | experiment.stage(name, "data") | files | data,
            },
        }

    def _digests(self, name: str, config: dict[str, Any]) -> dict[str, str]:
        """Of the files that a stage reads; of the stages before, these know themselves."""
        data, model = config["data"]["init_args"], config["model"]["init_args"]
        digests = {"split": digest_file(self.split_file)} | self.experiment.digests
        if name == "finetune" and "selection" not in data:
            digests.pop("pool", None)  # it is not read
        if "labels" in data:
            digests["labels"] = self.store.fingerprint
        if name != "finetune" and model.get("init_from"):  # of a pretraining elsewhere
            digests["init_from"] = digest_file(Path(model["init_from"]))
        return digests

    def _zeros_are_fitted(self) -> bool:
        """Whether any EIP's zero comes from a fit to DFT energies."""
        return "least_squares" in zero_modes(self.experiment.data.get("eip_energy_zero", "none"))

    def _eips(self, stage: str, known: Sequence[str]) -> dict[str, Any]:
        """The EIPs that the experiment names for a stage, or all that are known.

        Raises:
            ExperimentError: it names another.
        """
        named = self.experiment.stage(stage, "model").get("eips") or list(known)
        if strangers := [name for name in named if name not in known]:
            raise ExperimentError(f"{stage}.model.eips names {strangers[0]!r}; the EIPs are {', '.join(known)}")
        return {"eips": named}
