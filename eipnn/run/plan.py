"""From an experiment, a split and a seed to the stages of each strategy."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from eipnn.labels import LabelStore
from eipnn.run.execute import Stage, digest_file, run_stage
from eipnn.run.experiment import Experiment, ExperimentError
from eipnn.stages.sampling import plan_batches
from eipnn.stages.source import selected
from eipnn.structures import random_split, read_split, read_structures, resolve, write_split


@dataclass(frozen=True)
class Plan:
    """The stages of one split and seed.

    Args:
        experiment: what to train.
        folder: of this split and seed.
        split: number of the split.
        seed: of weights and sample order.
        labels: label store of all structures; none: only ``baseline`` can be trained.
        threads: of each stage's process.
    """

    experiment: Experiment
    folder: Path
    split: int
    seed: int
    labels: Path | None = None
    threads: int | None = None

    @cached_property
    def split_path(self) -> str:
        """The split as the stages' configurations name it; a random one is written to the folder.

        It is drawn each time: structures that were added to a file since belong to it.
        """
        if self.experiment.splits != "random":
            return self.experiment.splits.format(split=self.split)
        data = self.experiment.data
        dft = read_structures(data["dft"], energy_key=data.get("energy_key"), require_energy=True)
        pool = read_structures(data["pool"]) if data.get("pool") else []
        ids = [[atoms.info["config_id"] for atoms in frames] for frames in (dft, pool)]
        file = self.folder / "split.csv"
        write_split(random_split(ids[0], ids[1], self.split), file)
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

    def classify(self) -> Stage:
        """Train the classifier, let it choose for the pool."""
        return self._stage(
            "classify", "Classifier", self._eips("classify"), {}, ("test", "predict")
        )

    def pretrain(self) -> Stage:
        """Pretrain on all EIPs."""
        return self._stage("pretrain", "Pretrain", self._eips("pretrain"), {}, ())

    def finetune(self, strategy: str, alpha: float) -> Stage:
        """Train the potential; the stages that it builds on are run first."""
        model: dict[str, Any] = {}
        data: dict[str, Any] = {}
        inputs: dict[str, str] = {}
        if strategy.startswith("mp"):
            pretrain = self.run(self.pretrain())
            model["init_from"] = str(self.pretrain().best)
            inputs["init_from"] = pretrain["fingerprint"]
        if strategy.endswith("la"):
            model["alpha"] = alpha
            selection = self.selection()
            data["selection"] = str(selection)
            inputs["selection"] = digest_file(selection)
        name = f"{strategy}/alpha-{alpha:g}" if strategy.endswith("la") else strategy
        stage = self._stage("finetune", "Finetune", model, data, ("test",), name, inputs)
        about = {"strategy": strategy, "alpha": alpha if "alpha" in model else None}
        if strategy.endswith("-long"):
            stage.config["trainer"]["max_epochs"] = self.long_epochs()
        return replace(stage, about=stage.about | about)

    def selection(self) -> Path:
        """What the classifier chose; it is trained first where it was not."""
        classify = self.classify()
        self.run(classify)
        return classify.folder / "selection.csv"

    def long_epochs(self) -> int:
        """Epochs on DFT alone that have the gradient steps of label augmentation."""
        n_train = len(read_split(self.split_file).train)
        n_eip = len(selected(self.selection()))
        data = self.experiment.data | self.experiment.stage("finetune", "data")
        size, fraction = data.get("batch_size", 32), data.get("dft_fraction", 0.25)
        long = plan_batches(n_train, n_eip, size, fraction).batches
        short = plan_batches(n_train, 0, size, fraction).batches
        return max(round(self.experiment.max_epochs * long / short), 1)

    def run(self, stage: Stage) -> dict[str, Any]:
        """See `run_stage`."""
        return run_stage(stage, self.threads)

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
        experiment = self.experiment
        root = self.folder / (folder or name)
        files = {"split": self.split_path}
        files |= self._label_store(name, data)
        digests = (
            {"split": digest_file(self.split_file)} | self._data_digests(files) | (inputs or {})
        )
        config = {
            "seed_everything": self.seed,
            "trainer": experiment.trainer
            | experiment.stage(name, "trainer")
            | {"default_root_dir": str(root)},
            "model": {
                "class_path": f"eipnn.{prefix}Module",
                "init_args": {"representation": experiment.representation}
                | experiment.stage(name, "model")
                | model,
            },
            "data": {
                "class_path": f"eipnn.{prefix}DataModule",
                "init_args": experiment.data
                | {"seed": self.seed}
                | experiment.stage(name, "data")
                | files
                | data,
            },
        }
        about = {"stage": name, "split": self.split, "seed": self.seed}
        return Stage(root, config, digests, after, about)

    def _eips(self, stage: str) -> dict[str, Any]:
        """The EIPs that the experiment names for a stage, or all of the label store."""
        named = self.experiment.stage(stage, "model").get("eips")
        return {"eips": named or list(self.store.eips)}

    def _label_store(self, name: str, data: dict[str, Any]) -> dict[str, str]:
        """The label store, for the stages that read it."""
        return {"labels": str(self.labels)} if name != "finetune" or "selection" in data else {}

    def _data_digests(self, files: dict[str, str]) -> dict[str, str]:
        digests = {
            kind: digest_file(resolve(self.experiment.data[kind]))
            for kind in ("dft", "pool")
            if self.experiment.data.get(kind)
        }
        return digests | ({"labels": self.store.fingerprint} if "labels" in files else {})
