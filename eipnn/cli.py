"""`eipnn fit | validate | test | predict`: LightningCLI over the three stages."""

import io
import logging
import sys
import warnings
from contextlib import ExitStack, redirect_stderr
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import lightning
import torch
from docstring_parser import DocstringStyle
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, RichProgressBar, Timer
from lightning.pytorch.callbacks import ProgressBar as LightningProgressBar
from lightning.pytorch.callbacks.timer import Interval
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.logging import RichHandler

import eipnn
from eipnn.errors import InputError, Terminated, UsageError
from eipnn.files import read_yaml, write_atomically, write_json
from eipnn.potential.checkpoints import read_checkpoint
from eipnn.predictions import PredictionWriter
from eipnn.ranks import check_started, ending_together
from eipnn.settings import in_one_line

NOISE = ("💡 Tip", "The following callbacks returned in", "GPU available", "TPU available")
"""Lightning's messages that tell a user nothing: advertisements, and the checkpoint callback that a stage brings."""

jsonargparse.set_parsing_settings(docstring_parse_style=DocstringStyle.GOOGLE)  # else each is read in four styles

MAX_EPOCHS = 100
"""Where a configuration does not say."""


class SaveConfig(SaveConfigCallback):
    """Writes the whole configuration into the root folder, as ``fit.yaml`` and so on, and hands it to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        text = self.parser.dump(self.config, skip_none=False, skip_validation=True)  # it was valid when it was read
        name = TrainerFn(stage).value
        write_atomically(Path(trainer.default_root_dir) / f"{name}.yaml", text)
        for logger in trainer.loggers:
            if isinstance(logger, Logger) and not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self.config.as_dict())


class ProgressBar(RichProgressBar):
    """Rate, remaining time and the metrics, without the logger's version number."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics


class TrainingTimer(Timer):
    """Measures a training, over all the times that it was resumed.

    ``trainer.max_time`` counts anew whenever it is resumed and ends it after a whole epoch, so that what goes on later
    is as if it had not been ended.
    """

    def __init__(self, max_time: Any = None) -> None:
        super().__init__(max_time, interval=Interval.epoch)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self._duration is not None:
            self._duration += self._offset

    def on_fit_start(self, *arguments: Any, **others: Any) -> None:
        """Nothing: at least one epoch is trained."""


class StageParser(LightningArgumentParser):
    """Tells what is wrong with a setting in one line, and keeps the error that a constructor raised."""

    refused: Exception | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise `UsageError`."""
        if not self.exit_on_error:  # of a class within the configuration: its own parser tells of it
            super().error(message, ex)
        raise UsageError(in_one_line(message, self.names())) from ex

    def names(self) -> list[str]:
        """All settings, those of the subcommands too."""
        commands = [parser for a in self._actions if isinstance(a.choices, dict) for parser in a.choices.values()]
        return [action.dest for parser in (self, *commands) for action in parser._actions]

    def add_instantiator(self, instantiator: Any, *arguments: Any, **options: Any) -> None:
        """jsonargparse tells of the error of a constructor in its own words; this one is kept as it was."""

        @wraps(instantiator)
        def keeping(*given: Any, **named: Any) -> Any:
            try:
                return instantiator(*given, **named)
            except Exception as error:
                self.refused = error
                raise

        super().add_instantiator(keeping, *arguments, **options)


class EipnnCLI(LightningCLI):
    """LightningCLI in subclass mode, with defaults that write everything below `trainer.default_root_dir`."""

    parser: StageParser

    def __init__(self, args: Any = None, run: bool = True, ending: ExitStack | None = None) -> None:
        """`ending` is left when the command ends (see `ending_together`)."""
        self.ending = ending
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            seed_everything_default=0,
            save_config_callback=SaveConfig,
            save_config_kwargs={"save_to_log_dir": False},
            trainer_defaults={
                "max_epochs": MAX_EPOCHS,
                "gradient_clip_val": 5.0,
                "num_sanity_val_steps": 0,
                "log_every_n_steps": 10,
                "enable_model_summary": False,
                "default_root_dir": "runs/fit",
            },
            auto_configure_optimizers=False,
            parser_class=StageParser,
            args=args,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The data module is given what the model knows, see `eipnn.stages.handover`."""
        parser.link_arguments("model", "data.init_args.handover", lambda model: model.handover, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Refuse a bad checkpoint before the data are read. Lightning takes classes and settings from it here."""
        command = self.config.get("subcommand")
        if command and (checkpoint := self.config[command].get("ckpt_path")):
            read_checkpoint(checkpoint)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Raises `InputError`, in one or two lines."""
        if isinstance(args, dict):
            self.config = parser.parse_object(args)
        else:
            for file in config_files(sys.argv[1:] if args is None else args):
                if not isinstance(read_yaml(file), dict):
                    raise InputError(f"{file}: must be a mapping with the keys model, data, trainer, ...")
            self.config = parser.parse_args(args)
        seed = self.config.get(self.config.get("subcommand", ""), self.config)["seed_everything"]
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise UsageError(f"seed_everything: {seed} is not a whole number from 0 to {2**32 - 1}")

    def instantiate_classes(self) -> None:
        """Raises what a constructor raised, and `InputError` for what the Trainer refuses."""
        self.parser.add_instantiator(lambda kind, *a, **k: kind(*a, **k), object, subclasses=True)
        try:
            super().instantiate_classes()
        except Exception:
            if self.parser.refused is None:
                raise
            raise self.parser.refused from None

    def _dump_config(self) -> None:
        """What a module that calls `save_hyperparameters` keeps. Lightning writes YAML and reads it again: slow."""
        self.config_dump = self.config.get(self.config.get("subcommand", ""), self.config).as_dict()

    def before_instantiate_classes(self) -> None:
        """W&B writes below the root folder too, not into the working directory, its own default."""
        trainer = self._get(self.config, "trainer")
        loggers = trainer["logger"] if isinstance(trainer["logger"], list) else [trainer["logger"]]
        for logger in loggers:
            arguments = getattr(logger, "init_args", {})
            if arguments.get("save_dir") == ".":
                arguments["save_dir"] = trainer["default_root_dir"]

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self._get(self.config_init, "trainer")
        if config.get("logger") in (None, True):
            kwargs["logger"] = CSVLogger(save_dir=config["default_root_dir"], name="logs")
        given = config.get("callbacks") or []
        given = given if isinstance(given, list) else [given]
        try:
            timer = TrainingTimer(config.get("max_time"))
        except MisconfigurationException as error:
            raise InputError(f"trainer.max_time: {error}") from error
        own: dict[type, Callback] = {type(c): c for c in (PredictionWriter(), timer)}
        if config.get("enable_progress_bar") is not False:
            own[LightningProgressBar] = ProgressBar()
        missing = [c for kind, c in own.items() if not any(isinstance(g, kind) for g in given)]
        # else the trainer makes a timer of its own, which ends in the midst of an epoch
        kwargs["max_time"] = None
        try:
            trainer = super().instantiate_trainer(callbacks=[*given, *missing], **kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error
        check_started(trainer)
        if self.ending is not None:
            self.ending.enter_context(ending_together(str(self.subcommand), trainer))
        return trainer

    def after_fit(self) -> None:
        """Write ``fit.json``: what the training came to."""
        trainer: Any = self.trainer
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        checkpoint = next((c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)), None)
        timer = next(c for c in trainer.callbacks if isinstance(c, TrainingTimer))
        score = getattr(checkpoint, "best_model_score", None)
        content = {
            "epochs": trainer.current_epoch,
            "gradient_steps": trainer.global_step,
            "seconds": round(timer.time_elapsed("train"), 1),
            "ended": how_ended(trainer, timer),
            "monitor": getattr(checkpoint, "monitor", None),
            "mode": getattr(checkpoint, "mode", None),
            "best_score": None if score is None else float(score),
            "best_checkpoint": getattr(checkpoint, "best_model_path", ""),
            "versions": {m.__name__: m.__version__ for m in (eipnn, lightning, torch)},
        }
        write_json(Path(trainer.default_root_dir) / "fit.json", content)

    def after_test(self) -> None:
        """Write ``test.json``: the metrics."""
        if self.trainer.is_global_zero:
            metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            write_json(Path(self.trainer.default_root_dir) / "test.json", metrics)


def how_ended(trainer: Trainer, timer: TrainingTimer) -> str:
    """What ended a training: ``max_epochs``, ``max_steps``, ``max_time`` or ``early_stopping``."""
    if trainer.current_epoch == trainer.max_epochs:
        return "max_epochs"
    if trainer.global_step == trainer.max_steps:
        return "max_steps"
    left = timer.time_remaining()
    return "early_stopping" if left is None or left > 0 else "max_time"


def config_files(arguments: list[str]) -> list[str]:
    """The configuration files that a command line names."""
    files = [text.partition("=")[2] for text in arguments if text.startswith(("--config=", "-c="))]
    return files + [file for option, file in pairwise(arguments) if option in ("--config", "-c")]


def check_config(config: dict[str, Any]) -> None:
    """Make the model, the data module and the Trainer of a stage's configuration, as in YAML; no data are read.

    Raises:
        InputError: a setting is unknown, missing or refused; in one or two lines.
    """
    quiet_lightning()
    with redirect_stderr(io.StringIO()):
        EipnnCLI(config, run=False)


def quiet_lightning() -> None:
    """Silence hints that do not apply here; each is filtered by its message."""
    for message in (
        ".*does not have many workers.*",  # graphs are in memory: workers would cost more than they bring
        ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
        ".*The dataloader.*num_workers.*",
        ".*smaller than the logging interval.*",  # the stages log epochs, not steps
        ".*treespec, LeafSpec.*",
        ".*Grad strides do not match bucket view strides.*",  # a last layer of one row, with forces: nothing to gain
    ):
        warnings.filterwarnings("ignore", message=message)
    rank_zero = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero.addFilter(lambda record: not record.getMessage().startswith(NOISE))
    # "Received SIGTERM", which the last line says too
    connector = "lightning.pytorch.trainer.connectors.signal_connector"
    logging.getLogger(connector).setLevel(logging.WARNING)


def main() -> None:
    """Run the command that `sys.argv` names; DDP starts its other processes with the same command line."""
    level = "ERROR" if rank_zero_only.rank else "INFO"  # type: ignore[attr-defined]  # others would repeat it
    logging.basicConfig(level=level, format="%(message)s", handlers=[RichHandler(show_path=False)])
    quiet_lightning()
    try:
        with ExitStack() as ending:
            EipnnCLI(ending=ending)
    except SIGTERMException:
        raise Terminated from None
    except SystemExit as end:  # Lightning ends a training that was stopped from the keyboard as failed
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
