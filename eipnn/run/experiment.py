"""What `eipnn run` is told: an experiment file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

from eipnn.eips import load_eips
from eipnn.errors import InputError
from eipnn.files import digest_file, read_yaml
from eipnn.labels import LabelStore
from eipnn.reference import MODES
from eipnn.run.strategy import STRATEGIES, Strategy, own_strategies
from eipnn.structures import StructureStore, open_dft_and_pool, resolve_all, without_isolated_atoms

STAGES = ("classify", "pretrain", "finetune")

OWN = {
    "data": ("split", "seed", "selection", "delta_eip"),
    "trainer": ("default_root_dir",),
    "classify.data": ("dft", "pool", "labels"),
    "pretrain.data": ("dft", "pool", "labels"),
    "finetune.data": ("dft", "pool", "labels", "delta_eip"),
    "finetune.model": ("alpha", "init_from"),
}
"""Arguments that `eipnn run` sets itself, or reads from one place for all stages: elsewhere they would do nothing. What
is said of ``data`` and ``trainer`` holds for those of each stage too."""


ALL = "all"
"""In place of a number of DFT frames: all of the split."""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


RUN: dict[str, Callable[[Any], bool]] = {
    "strategy": lambda value: isinstance(value, str),
    "split": _is_count,
    "seed": lambda value: _is_count(value) and value < 2**32,
    "frames": lambda value: value == ALL or (_is_count(value) and value > 0),
}
"""The options that an experiment file may give, and what they may be."""


BY_PATH = {
    "representation": "class_path and init_args",
    "strategies": "names and their fields",
}
"""What may lie in a file of its own, and its keys."""


class ExperimentError(InputError):
    """An experiment file is wrong, or asks for what its data does not have."""


@dataclass(frozen=True)
class Experiment:
    """One experiment file (YAML); the fields are its keys.

    Args:
        data: arguments of every data module: dft, energy_zero, and usually pool and labels
            (see `eipnn.stages.data.StageDataModule`). Without ``labels``, `eipnn label` makes them in the run's folder.
        representation: ``class_path`` and ``init_args`` of f_rep, or the path of a YAML file that holds them, relative
            to the experiment file.
        splits: CSV path with ``{split}`` in it, or ``random``: seeded random splits by the paper's rule.
        eips: named set, YAML file or list of entries to label with, where ``data.labels`` is not given.
        alpha: weight of the EIP labels (Eq. 3); several are searched on the validation split.
        strategies: name -> row of one's own beside `STRATEGIES`, or the path of a YAML file of them, relative to the
            experiment file (see `own_strategies`).
        run: what `eipnn run` trains where its options do not say: ``strategy``, ``split``, ``seed``, ``frames``, each
            one value or a list.
        trainer: arguments of the Lightning Trainer for every stage.
        classify: ``model``, ``data`` and ``trainer`` arguments of this stage alone; likewise the next two.
        pretrain: see classify.
        finetune: see classify.
    """

    data: dict[str, Any]
    representation: dict[str, Any]
    splits: str = "random"
    eips: str | list[dict[str, Any]] | None = None
    alpha: tuple[float, ...] = (0.1,)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    classify: dict[str, Any] = field(default_factory=dict)
    pretrain: dict[str, Any] = field(default_factory=dict)
    finetune: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Strategy]:
        """All strategies that can be trained."""
        return STRATEGIES | self.strategies

    def stage(self, name: str, part: str) -> dict[str, Any]:
        """The overrides of a stage: `part` is model, data or trainer."""
        return dict(getattr(self, name).get(part, {}))

    @cached_property
    def structures(self) -> tuple[StructureStore, StructureStore]:
        """The DFT structures and the pool, read once for all splits."""
        return open_dft_and_pool(self.data["dft"], self.data.get("pool"), self.data.get("energy_key"))

    @cached_property
    def ids(self) -> tuple[list[str], list[str]]:
        """The ids of both, without free atoms."""
        dft, pool = (list(without_isolated_atoms(part).ids) for part in self.structures)
        return dft, pool

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the DFT files and of the pool's; of several files, that of their digests in a row."""
        given = [kind for kind in ("dft", "pool") if self.data.get(kind)]
        digests = {kind: [digest_file(file) for file in resolve_all(self.data[kind])] for kind in given}
        return {k: d[0] if len(d) == 1 else sha256(" ".join(d).encode()).hexdigest() for k, d in digests.items()}

    @cached_property
    def eip_names(self) -> tuple[str, ...]:
        """The EIPs of the label store, or those to label with."""
        if self.data.get("labels"):
            return LabelStore.open(self.data["labels"]).eips
        return tuple(eip.name for eip in load_eips(self.eips)) if self.eips else ()


def read_experiment(file: str | Path) -> Experiment:
    """Read and check an experiment file.

    Raises:
        ExperimentError: no such file, no YAML mapping, a key that is unknown, missing or of the wrong kind.
    """
    file = Path(file)
    if not file.is_file():
        raise ExperimentError(f"{file}: no such experiment file")
    content = _read_mapping(file, "data, representation, ...")
    for key, keys in BY_PATH.items():
        if isinstance(content.get(key), str):
            content[key] = _read_mapping(_beside(file, key, content[key], keys), keys)
    known = [f.name for f in fields(Experiment)]
    if unknown := set(content) - set(known):
        raise ExperimentError(f"{file}: unknown key {min(unknown)!r}; the keys are {', '.join(known)}")
    for key in ("data", "representation"):
        if key not in content:
            raise ExperimentError(f"{file}: the mapping {key!r} is missing")
    for key in ("data", "representation", "strategies", "trainer", "run", *STAGES):
        _check_mapping(content.get(key, {}), key, file)
    for key in ("dft", "energy_zero"):
        if key not in content["data"]:
            raise ExperimentError(f"{file}: data.{key} is missing")
    for key in ("data", "trainer"):
        _check_own(content.get(key, {}), key, OWN[key], file)
    for key in ("dft", "pool"):
        _check_files(content["data"].get(key, "none"), f"data.{key}", file)
    _check_trainer(content.get("trainer", {}), "trainer", file)
    _check_zero(content["data"]["energy_zero"], file)
    if content.get("eips") is not None and content["data"].get("labels") is not None:
        raise ExperimentError(f"{file}: gives both eips, to label with, and data.labels; remove one")
    for stage in STAGES:
        for part, values in content.get(stage, {}).items():
            if part not in ("model", "data", "trainer"):
                raise ExperimentError(f"{file}: {stage}.{part} is unknown; use model, data or trainer")
            _check_mapping(values, f"{stage}.{part}", file)
            if part == "trainer":
                _check_trainer(values, f"{stage}.trainer", file)
            if part == "model":
                _check_eips(values.get("eips"), f"{stage}.model.eips", file)
            _check_own(
                values,
                f"{stage}.{part}",
                (*OWN.get(part, ()), *OWN.get(f"{stage}.{part}", ())),
                file,
            )
    content["strategies"] = own_strategies(content.get("strategies", {}), f"{file}: strategies")
    content["run"] = _run_defaults(content.get("run", {}), file)
    check_known(content["run"].get("strategy", ()), content["strategies"], f"{file}: run.strategy")
    content["alpha"] = _alphas(content.get("alpha", 0.1), file)
    splits = content.get("splits", "random")
    if splits != "random" and "{split}" not in str(splits):
        raise ExperimentError(f"{file}: splits must be 'random' or a path with {{split}} in it")
    return Experiment(**content)


def check_known(
    names: Iterable[str],
    own: dict[str, Strategy],
    where: str,
    error: type[InputError] = ExperimentError,
) -> None:
    """Raise `error` where one is no strategy's name."""
    known = STRATEGIES | own
    if unknown := [name for name in names if name not in known]:
        raise error(f"{where}: {unknown[0]!r} is not one of {', '.join(known)}")


def _beside(file: Path, key: str, named: str, keys: str) -> Path:
    """The file that an experiment file names."""
    found = file.parent / named
    if not found.is_file():
        raise ExperimentError(
            f"{file}: {key} names {found}, and there is no such file; give {keys}, or the path of a file with them, "
            "seen from the experiment file"
        )
    return found


def _read_mapping(file: Path, keys: str) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except InputError as error:
        raise ExperimentError(str(error)) from None
    if not isinstance(content, dict):
        raise ExperimentError(f"{file}: must be a mapping with the keys {keys}")
    return content


def _check_mapping(values: Any, key: str, file: Path) -> None:
    if not isinstance(values, dict):
        raise ExperimentError(f"{file}: {key} must be a mapping, not {values!r}")


def _check_trainer(trainer: dict[str, Any], key: str, file: Path) -> None:
    """Raise where a training would leave no checkpoint for what comes after."""
    if trainer.get("fast_dev_run"):
        raise ExperimentError(f"{file}: {key}.fast_dev_run leaves no checkpoint; remove it")
    if trainer.get("enable_checkpointing") is False:
        raise ExperimentError(f"{file}: {key}.enable_checkpointing: the stages need their checkpoints; remove it")


def _check_files(given: Any, key: str, file: Path) -> None:
    files = given if isinstance(given, list) else [given]
    if not files or not all(isinstance(name, str) for name in files):
        raise ExperimentError(f"{file}: {key} must be a file or a list of files, not {given!r}")


def _check_eips(names: Any, key: str, file: Path) -> None:
    """A stage's own choice of EIPs names each once."""
    if names is None:
        return
    if not isinstance(names, list) or not names:
        raise ExperimentError(f"{file}: {key} must be a list of EIPs, not {names!r}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ExperimentError(f"{file}: {key} names {twice[0]!r} twice; name each EIP once")


def _check_own(values: dict[str, Any], key: str, own: tuple[str, ...], file: Path) -> None:
    if wrong := [name for name in own if name in values]:
        raise ExperimentError(
            f"{file}: {key}.{wrong[0]} would have no effect: `eipnn run` sets it from its options, from the keys at "
            "the top of this file and from the stages before; remove it"
        )


def _check_zero(given: Any, file: Path) -> None:
    """A zero is a mode, or a mapping with the mode and the energies of isolated atoms."""
    mode = given.get("mode") if isinstance(given, dict) else given
    if mode not in MODES or (isinstance(given, dict) and set(given) - {"mode", "energies"}):
        raise ExperimentError(
            f"{file}: data.energy_zero must be one of {', '.join(MODES)}, or a mapping such as "
            f"{{mode: isolated_atoms, energies: {{Si: -0.85}}}}, not {given!r}"
        )


def _run_defaults(given: dict[str, Any], file: Path) -> dict[str, Any]:
    """The key ``run``, with a list for each option."""
    if unknown := set(given) - set(RUN):
        raise ExperimentError(f"{file}: run.{min(unknown)} is unknown; the options are {', '.join(RUN)}")
    lists = {key: values if isinstance(values, list) else [values] for key, values in given.items()}
    for key, values in lists.items():
        if not values:
            raise ExperimentError(f"{file}: run.{key} is an empty list; name one, or remove it")
        if wrong := [value for value in values if not RUN[key](value)]:
            raise ExperimentError(f"{file}: run.{key} cannot be {wrong[0]!r}")
    return {key: list(dict.fromkeys(values)) for key, values in lists.items()}


def _alphas(given: Any, file: Path) -> tuple[float, ...]:
    try:  # YAML 1.1 reads 1e-2 as a text
        alphas = tuple(float(a) for a in (given if isinstance(given, list) else [given]))
    except (TypeError, ValueError):
        alphas = ()
    if not alphas or not all(0 < alpha < inf for alpha in alphas):
        raise ExperimentError(f"{file}: alpha must be a positive number or a list of them, not {given!r}")
    return tuple(dict.fromkeys(alphas))


def zero_modes(zeros: Any) -> set[str]:
    """The modes in an ``eip_energy_zero``: one for all EIPs, or a mapping from EIP to mode and energies."""
    given = zeros.values() if isinstance(zeros, dict) else [zeros]
    return {zero.get("mode", "none") if isinstance(zero, dict) else zero for zero in given}
