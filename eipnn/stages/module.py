"""What the three stages share: steps, optimiser, selection of the best checkpoint, and what a checkpoint records."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch_geometric.data import Batch
from torchmetrics import MeanMetric

from eipnn.errors import InputError
from eipnn.potential.checkpoints import (
    CheckpointError,
    build_representation,
    check_same,
    current_settings,
    read_checkpoint,
    read_record,
)
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import UNITS
from eipnn.representations.base import Representation
from eipnn.stages.averaging import MovingAverage
from eipnn.stages.handover import Handover
from eipnn.stages.keeping import adapt_states, keeping
from eipnn.stages.schedules import SlantedTriangular, SpanningSchedule
from eipnn.stages.terms import Term
from eipnn.targets import Targets
from eipnn.version import __version__

SchedulerCallable = Callable[[Optimizer], LRScheduler]


class StageModule(LightningModule):
    """A representation with the head of one stage.

    Subclasses name their `stage` and the metric that selects the best epoch (`monitor`, `mode`), and have a `head` and
    the terms of the loss (`eipnn.stages.terms`) as attributes. What they need of the data comes by `handover`, which
    the data module is given. Checkpoints hold plain values and tensors only and load with ``weights_only=True``.

    Args:
        representation: f_rep.
        eips: names of the EIPs, columns of the label store.
        init_from: pretrained checkpoint whose representation is the start.
        optimizer: made from the parameters.
        scheduler: made from the optimiser, stepped once an epoch; null: a constant rate. A `ReduceLROnPlateau`
            without a ``monitor`` watches the metric that selects the best epoch.
        ema: decay a step of a moving average of the weights, which is what is validated and kept; null: the weights
            themselves.
        patience: epochs without a better one after which the training ends; null: never.
    """

    head: nn.Module
    stage: ClassVar[str]
    monitor: ClassVar[str]
    mode: ClassVar[str]
    output: ClassVar[str] = "energy"
    """The property (see `properties`) that `forward` gives."""
    written: ClassVar[Collection[str]] = ()
    """Properties that test and prediction give beside `output`, labelled or not."""
    predictions: ClassVar[str] = "predictions.csv"
    """File that `eipnn predict` writes."""
    phase = 0
    """Of the training, counted up; the best epoch is one of the last."""

    def __init__(
        self,
        representation: Representation,
        eips: Sequence[str] = (),
        init_from: str | None = None,
        optimizer: OptimizerCallable = Adam,
        scheduler: SchedulerCallable | None = SlantedTriangular,
        ema: float | None = None,
        patience: int | None = None,
    ) -> None:
        super().__init__()
        self.representation = representation
        self.eips = list(eips)
        self.limits: Mapping[str, float] = {}
        self.optional: Collection[str] = ()
        if twice := {name for name in self.eips if self.eips.count(name) > 1}:
            raise InputError(f"eips: {min(twice)!r} is named twice; name each EIP once")
        self.optimizer, self.scheduler = optimizer, scheduler
        # what they refuse is said now, not after the data were prepared
        self._optimisation([{"params": [nn.Parameter(torch.zeros(1))]}])
        self.ema, self.patience = ema, patience
        self.callbacks: list[Callback] = [MovingAverage(ema)] if ema is not None else []
        if patience is not None:
            if patience < 1:
                raise InputError(f"patience must be at least 1, not {patience}")
            self.callbacks.append(EarlyStopping(self.monitor, patience=patience, mode=self.mode))
        self.init_from, self.cutoff, self.units = init_from, representation.cutoff, dict(UNITS)
        self.elements: list[str] = []
        self.zeros: dict[str, dict[str, Any]] = {}
        self.seen: dict[str, Any] = {}
        # a list: the name of an EIP may hold a dot, which a ModuleDict refuses
        self.means: Any = nn.ModuleList(MeanMetric() for _ in self.measures)

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's plain arguments beside the representation; they rebuild the module."""

    @property
    @abstractmethod
    def measures(self) -> Sequence[str]:
        """Names of the means that validation and test take, see `errors`."""

    @abstractmethod
    def properties(self, batch: Batch, wanted: Collection[str]) -> Mapping[str, Any]:
        """What is predicted of a batch, by the names of `Targets`: at least what is wanted."""

    @abstractmethod
    def errors(self, predicted: Mapping[str, Any], targets: Targets) -> list[tuple[Tensor, Tensor]]:
        """Values and weights of each of the `measures`; `predicted` is that of `properties`."""

    @abstractmethod
    def outputs(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        """What test and prediction give of each configuration, see `table`; `predicted` is that of `properties`.

        Forces are those of their atoms; with them there is ``n_atoms``, see `PredictionWriter`.
        """

    @abstractmethod
    def table(self, outputs: dict[str, Tensor]) -> dict[str, Any]:
        """Columns of the prediction file, from the joined outputs of test or prediction steps."""

    def truth(self, batch: Batch) -> dict[str, Tensor]:
        """What test gives beside `outputs`."""
        return {}

    def scores(self, means: list[Tensor]) -> dict[str, Tensor]:
        """The metrics of a validation or test by name, from the means of its `measures`."""
        return dict(zip(self.measures, means, strict=True))

    @property
    def metrics(self) -> list[str]:
        """Names of what a validation gives."""
        return [f"val_{name}" for name in self.scores([torch.tensor(0.0) for _ in self.measures])]

    @property
    def terms(self) -> list[Term]:
        """The terms of its loss."""
        return [term for term in self.modules() if isinstance(term, Term)]

    @cached_property
    def handover(self) -> Handover:
        """For its data module."""
        inputs, wanted = self.representation.inputs, {self.output, *(term.needs for term in self.terms)}
        return Handover(inputs, self.cutoff, self.eips, self.limits, self.optional, wanted)

    def setup(self, stage: str) -> None:
        if stage != "fit":
            return
        facts = self.handover.known()
        if (training := facts.training) is None:
            raise InputError("the data module was set up without its training configurations")
        self.elements, self.zeros, self.seen = training.elements, facts.zeros, training.seen
        self.check_data()  # not after the first epoch
        if isinstance(self.head, EnergyHead):
            self.head.set_scale(*zip(*training.scales, strict=True))
        if self.init_from is not None:
            self._load_representation(self.init_from)
        elif getattr(self._trainer, "ckpt_path", None) is None:  # a resumed checkpoint holds it
            with torch.no_grad():
                self.representation.calibrate(training.graphs)

    def forward(self, batch: Batch) -> Tensor:
        """A batch of B configurations -> the stage's `output`."""
        return self.properties(batch, {self.output})[self.output]

    def compared(self, batch: Batch, wanted: Collection[str]) -> Mapping[str, tuple[Tensor, Targets]]:
        """What the terms of the loss are functions of, by name, with the targets."""
        predicted, targets = self.properties(batch, wanted), Targets.of(batch)
        return {name: (predicted[name], targets) for name in wanted}

    def evaluated(self, batch: Batch, more: Collection[str] = ()) -> Mapping[str, Any]:
        """`properties` for validation, test and prediction: `output` and these."""
        return self.properties(batch, {self.output, *more})

    def training_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """``loss``, the sum of the `terms`, each times its weight, and what they are functions of, without gradient.

        Terms of what no training configuration has are left out.
        """
        terms = [term for term in self.terms if term.needs in batch]
        found = self.compared(batch, {term.needs for term in terms})
        loss = torch.stack([term.weight * term(*found[term.needs]) for term in terms]).sum()
        # each process has its share of the mean, whatever number of configurations it holds: all weigh as much
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=1, prog_bar=True, sync_dist=True)
        return {"loss": loss} | {name: predicted.detach() for name, (predicted, _) in found.items()}

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Gradients of the weights alone, not of the pairs' vectors that forces are slopes in."""
        weights = [p for p in self.parameters() if p.requires_grad]
        loss.backward(*args, **kwargs | {"inputs": weights})

    def validation_step(self, batch: Batch, index: int, more: Collection[str] = ()) -> Mapping[str, Any]:
        """What is predicted (see `evaluated`), whose errors are added to the means."""
        predicted = self._finite(batch, more)
        for mean, (values, weights) in zip(self.means, self.errors(predicted, Targets.of(batch)), strict=True):
            # else the number of processes shows in the last digits; a metric that is moved to a device forgets it
            mean.set_dtype(torch.float64).update(values, weights)
        return predicted

    def test_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """What `predict_step` gives, and the truth."""
        return self._rows(batch, self.validation_step(batch, index, self.written)) | self.truth(batch)

    def predict_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """``row`` (B,) and ``weight`` (B,) of `Configurations`, and `outputs`."""
        return self._rows(batch, self._finite(batch, self.written))

    def _finite(self, batch: Batch, more: Collection[str]) -> Mapping[str, Any]:
        """`evaluated`; raises `InputError` for NaN and infinite values, which means would hide or carry on."""
        predicted = self.evaluated(batch, more)
        looked_at = predicted[self.output], predicted.get("forces")
        if not all(values is None or values.isfinite().all() for values in looked_at):
            raise InputError(
                "the network gives NaN or infinite values: its training has diverged; "
                "lower the learning rate (model.init_args.optimizer.init_args.lr)"
            )
        return predicted

    def _rows(self, batch: Batch, predicted: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"row": batch.row, "weight": batch.weight} | self.outputs(batch, predicted)

    def on_validation_epoch_end(self, split: str = "val") -> None:
        means = [mean.compute() for mean in self.means]
        for mean in self.means:
            mean.reset()
        for name, value in self.scores(means).items():
            # the same in every process; `sync_dist` spares a warning
            self.log(f"{split}_{name}", value, prog_bar=f"val_{name}" == self.monitor, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end("test")

    def log(self, *arguments: Any, **options: Any) -> None:
        """As Lightning's; without a trainer there is no log."""
        if self._trainer is not None:
            super().log(*arguments, **options)

    def configure_model(self) -> None:
        """Have Lightning read checkpoints as `read_checkpoint` does; it calls this before it reads one."""
        reader: Any = self.trainer.strategy.checkpoint_io
        reader.load_checkpoint = lambda path, **_: read_checkpoint(path)

    def check_data(self) -> None:
        """Raise where this is no trained model, or where its training did not hold an element of the configurations."""
        if not self.elements:  # neither trained now nor loaded
            raise CheckpointError("an untrained model: give --ckpt_path, a checkpoint of this stage")
        for symbol, where in self.handover.known().evaluated.items():
            if symbol not in self.elements:
                known = ", ".join(self.elements)
                raise InputError(f"{where}: the potential was trained on {known}, not on {symbol}")

    on_validation_start = on_test_start = on_predict_start = check_data

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = self._optimisation(self.groups())
        if scheduler is None:
            return optimizer
        if isinstance(scheduler, SpanningSchedule) and scheduler.epochs is None:
            scheduler.epochs = self.trainer.max_epochs
            if scheduler.epochs is None or scheduler.epochs < 1:
                raise InputError("trainer.max_epochs must be at least 1: the learning-rate schedule spans it")
        monitor = getattr(scheduler, "monitor", self.monitor)
        return [optimizer], [{"scheduler": scheduler, "monitor": monitor}]

    def groups(self) -> list[dict[str, Any]]:
        """Groups of parameters for the optimiser; ``rate``: learning rate over the optimiser's own."""
        return [{"params": list(self.parameters())}]

    def _optimisation(self, groups: list[dict[str, Any]]) -> tuple[Optimizer, LRScheduler | None]:
        """Optimiser and scheduler of these parameters; raises `InputError` where they refuse their settings."""
        try:
            optimizer = self.optimizer(groups)
            for group in optimizer.param_groups:
                group["lr"] *= group.pop("rate", 1)
            scheduler = self.scheduler(optimizer) if self.scheduler else None
        except (TypeError, ValueError) as error:
            raise InputError(f"optimizer and scheduler of the {self.stage} stage: {error}") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", self.monitor)
            self._check_monitor("ReduceLROnPlateau", monitor)
            if monitor == self.monitor and scheduler.mode != self.mode:
                raise InputError(
                    f"ReduceLROnPlateau of the {self.stage} stage watches {monitor}: give it mode: {self.mode}"
                )
        return optimizer, scheduler

    def _check_monitor(self, name: str, monitor: str) -> None:
        if monitor not in (known := ["train_loss", *self.metrics]):
            raise InputError(f"{name}: the {self.stage} stage has no metric {monitor!r}; it has {', '.join(known)}")

    def configure_callbacks(self) -> Sequence[Callback]:
        """See `keeping`."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        # a callback from elsewhere may log what another one watches
        if all(type(c).__module__.startswith(("lightning.", "eipnn.")) for c in callbacks):
            for callback in callbacks:
                if monitor := getattr(callback, "monitor", None):
                    self._check_monitor(type(callback).__name__, monitor)
        return [*self.callbacks, *keeping(self.trainer, self.monitor, self.mode)]

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of itself, plain values."""
        return {
            "version": __version__,
            "stage": self.stage,
            "representation": self.representation.config(),
            "eips": self.eips,
            "settings": self.settings(),
            "elements": self.elements,
            "cutoff": self.cutoff,
            "zeros": self.zeros,
            "units": self.units,
            "seen": self.seen,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["eipnn"] = self.record()
        for callback in self.callbacks:
            if isinstance(callback, MovingAverage):
                callback.put_into(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        file = getattr(self._trainer, "ckpt_path", None) or "the checkpoint"
        found = read_record(checkpoint, file, self.stage)
        zeros = self.handover.facts.zeros if self.handover.facts else found["zeros"]
        check_same(found, self.record() | {"zeros": zeros}, file)
        self.elements, self.zeros, self.seen = found["elements"], found["zeros"], found.get("seen", {})
        if self._trainer is not None:
            adapt_states(checkpoint.get("callbacks", {}), self._trainer)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, **kwargs: Any) -> Self:  # type: ignore[override]
        """The trained module of a checkpoint of this stage, on the CPU, for evaluation.

        It knows its `elements` (symbols), `cutoff` (A), `eips`, `zeros` (eV an element, of DFT and of each EIP) and
        `units`. Takes no other argument than the path of a local file; no code in it is run.

        Raises:
            CheckpointError: the file is absent, unreadable, damaged, not eipnn's or of another stage, or does not fit
                the code.
        """
        if given := {k for k, v in kwargs.items() if v is not None}:
            raise TypeError(f"load_from_checkpoint takes a path alone, not {sorted(given)}")
        content = read_checkpoint(checkpoint_path)
        record = read_record(content, checkpoint_path, cls.stage)
        representation = build_representation(record["representation"])
        try:
            module = cls(representation, **current_settings(record))
            module.load_state_dict(content["state_dict"])
        except Exception as error:
            raise CheckpointError(
                f"{checkpoint_path}: does not fit the code ({type(error).__name__}: {error}); "
                "use the version of eipnn, and the backbone, that it was trained with"
            ) from error
        module.elements, module.zeros, module.seen = record["elements"], record["zeros"], record.get("seen", {})
        return module.eval()

    def _load_representation(self, file: str) -> dict[str, Any]:
        """Take f_rep of a pretraining, whose record is returned."""
        checkpoint = read_checkpoint(file)
        record = read_record(checkpoint, file, "pretrain")
        mine = self.representation.config()
        if record["representation"] != mine:
            raise CheckpointError(
                f"init_from={file} holds {record['representation']}, but this stage has {mine}; "
                "use the same representation in both stages"
            )
        prefix = "representation."
        weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        self.representation.load_state_dict(weights)
        return record
