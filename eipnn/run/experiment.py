"""What `eipnn run` is told: an experiment file."""

from collections.abc import Callable, Iterable, Iterator
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
from eipnn.structures import Ids, StructureStore, open_dft_and_pool, options_of, resolve_all, without_isolated_atoms

COMMANDS = "commands.txt"
"""In the folder of a run: the commands that were given for it."""

STAGES = ("classify", "pretrain", "finetune")

OWN = {
    "data": ("split", "seed", "selection", "delta_eip"),
    "trainer": ("default_root_dir",),
    **dict.fromkeys((f"{stage}.data" for stage in STAGES), ("dft", "pool", "labels")),
    "finetune.model": ("alpha", "init_from"),
}
"""Arguments that `eipnn run` sets itself, or reads from one place for all stages: elsewhere they would do nothing. What
is said of ``data`` and ``trainer`` holds for those of each stage too."""

ALL = "all"
"""In place of a number of DFT frames: all of the split."""

BY_PATH = {
    "data": "dft, energy_zero, ...",
    "representation": "class_path and init_args",
    "strategies": "names and their fields",
}
"""What may lie in a file of its own, and its keys."""


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


RUN: dict[str, Callable[[Any], bool]] = {
    "strategy": lambda value: isinstance(value, str),
    "split": _is_count,
    "seed": lambda value: _is_count(value) and value < 2**32,
    "frames": lambda value: value == ALL or (_is_count(value) and value > 0),
}
"""The options that an experiment file may give, and what they may be."""


class ExperimentError(InputError):
    """An experiment file is wrong, or asks for what its data does not have."""


@dataclass(frozen=True)
class Experiment:
    """One experiment file (YAML); the fields are its keys.

    Args:
        data: arguments of every data module: dft, energy_zero, and usually pool and labels
            (see `eipnn.stages.data.StageDataModule`). Without ``labels``, `eipnn label` makes them in the run's folder.
        representation: ``class_path`` and ``init_args`` of f_rep. It, ``data`` and ``strategies`` may each be the path
            of a YAML file that holds them, relative to the experiment file.
        splits: CSV path with ``{split}`` in it, or ``random``: seeded random splits by the paper's rule.
        eips: named set, YAML file or list of entries to label with, where ``data.labels`` is not given.
        alpha: weight of the EIP labels (Eq. 3); several are searched on the validation split.
        strategies: name -> row of one's own beside `STRATEGIES` (see `own_strategies`).
        run: what `eipnn run` trains where its options do not say: ``strategy``, ``split``, ``seed``, ``frames``, each
            one value or a list.
        core: ``zbl``: pretraining and fine-tuning learn on top of this repulsion at short range; ``wall``: potentials
            have it where two atoms are closer than in any frame of fine-tuning.
        pretrained: folder of a run, whose finished pretrainings of the same splits and seeds are taken: none is made.
            One that knows what validates or tests here is refused.
        trainer: arguments of the Lightning Trainer for every stage.
        classify, pretrain, finetune: ``model``, ``data`` and ``trainer`` arguments of this stage alone.
    """

    data: dict[str, Any]
    representation: dict[str, Any]
    splits: str = "random"
    eips: str | list[dict[str, Any]] | None = None
    alpha: tuple[float, ...] = (0.1,)
    strategies: dict[str, Strategy] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)
    core: str | None = None
    pretrained: str | None = None
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
        options = options_of(self.data, require_energy=True)
        return open_dft_and_pool(self.data["dft"], self.data.get("pool"), **options)

    @cached_property
    def ids(self) -> tuple[Ids, Ids]:
        """The ids of both, without free atoms."""
        dft, pool = (without_isolated_atoms(part).ids for part in self.structures)
        return dft, pool

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the DFT files and of the pool's; of several files, that of their digests in a row."""
        given = [kind for kind in ("dft", "pool") if self.data.get(kind)]
        digests = {kind: [digest_file(file) for file in resolve_all(self.data[kind])] for kind in given}
        return {k: d[0] if len(d) == 1 else sha256(" ".join(d).encode()).hexdigest() for k, d in digests.items()}

    @cached_property
    def own_zeros(self) -> dict[str, str]:
        """Of each EIP of the label store, or of those to label with, the zero that it names."""
        if self.data.get("labels"):
            return LabelStore.open(self.data["labels"]).zeros
        return {eip.name: eip.zero for eip in load_eips(self.eips)} if self.eips else {}

    @property
    def eip_names(self) -> tuple[str, ...]:
        """The EIPs of the label store, or those to label with."""
        return tuple(self.own_zeros)

    @property
    def eip_energy_zero(self) -> Any:
        """As it is given under data, else by EIP where one names its own, else None."""
        if (given := self.data.get("eip_energy_zero")) is not None or set(self.own_zeros.values()) <= {"none"}:
            return given
        return {name: {"mode": mode} for name, mode in self.own_zeros.items()}


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
        if isinstance(named := content.get(key), str):
            if not (found := file.parent / named).is_file():
                mend = f"give {keys}, or the path of a file with them, seen from the experiment file"
                raise ExperimentError(f"{file}: {key} names {found}, and there is no such file; {mend}")
            content[key] = _read_mapping(found, keys)
    for problem in _problems(content):
        raise ExperimentError(f"{file}: {problem}")
    own = own_strategies(content.get("strategies", {}), f"{file}: strategies")
    run = {key: dict.fromkeys(listed(values)) for key, values in content.get("run", {}).items()}
    check_known(run.get("strategy", ()), own, f"{file}: run.strategy")
    alpha = tuple(dict.fromkeys(map(float, listed(content.get("alpha", 0.1)))))
    return Experiment(**content | {"strategies": own, "run": {k: list(v) for k, v in run.items()}, "alpha": alpha})


def check_known(
    names: Iterable[str], own: dict[str, Strategy], where: str, error: type[InputError] = ExperimentError
) -> None:
    """Raise `error` where one is no strategy's name."""
    known = STRATEGIES | own
    if unknown := [name for name in names if name not in known]:
        raise error(f"{where}: {unknown[0]!r} is not one of {', '.join(known)}")


def zero_modes(zeros: Any) -> set[str]:
    """The modes in an ``eip_energy_zero``: one for all EIPs, or a mapping from EIP to mode and energies; or None."""
    given = zeros.values() if isinstance(zeros, dict) else [zeros]
    return {zero.get("mode", "none") if isinstance(zero, dict) else zero for zero in given}


def _read_mapping(file: Path, keys: str) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except InputError as error:
        raise ExperimentError(str(error)) from None
    if not isinstance(content, dict):
        raise ExperimentError(f"{file}: must be a mapping with the keys {keys}")
    return content


def _problems(content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with an experiment, the first first; each check relies on those before it."""
    known = [f.name for f in fields(Experiment)]
    if unknown := set(content) - set(known):
        yield f"unknown key {min(unknown)!r}; the keys are {', '.join(known)}"
    yield from (f"the mapping {key!r} is missing" for key in ("data", "representation") if key not in content)
    parts = {key: content.get(key, {}) for key in ("data", "representation", "strategies", "trainer", "run", *STAGES)}
    yield from (f"{key} must be a mapping, not {v!r}" for key, v in parts.items() if not isinstance(v, dict))
    parts |= {f"{stage}.{part}": values for stage in STAGES for part, values in parts[stage].items()}
    for key, values in parts.items():
        stage, _, part = key.rpartition(".")
        if stage and part not in ("model", "data", "trainer"):
            yield f"{key} is unknown; use model, data or trainer"
        if not isinstance(values, dict):
            yield f"{key} must be a mapping, not {values!r}"
        yield from _problems_of(part, key, values)
    data = content["data"]
    yield from (f"data.{key} is missing" for key in ("dft", "energy_zero") if key not in data)
    for key in ("dft", "pool"):
        files = listed(data.get(key, "none"))
        if not files or not all(isinstance(name, str) for name in files):
            yield f"data.{key} must be a file or a list of files, not {data[key]!r}"
    zero = data["energy_zero"]
    mode = zero.get("mode") if isinstance(zero, dict) else zero
    if mode not in MODES or (isinstance(zero, dict) and set(zero) - {"mode", "energies"}):
        modes = f"{', '.join(MODES)}, or a mapping such as {{mode: isolated_atoms, energies: {{Si: -0.85}}}}"
        yield f"data.energy_zero must be one of {modes}, not {zero!r}"
    if content.get("eips") is not None and data.get("labels") is not None:
        yield "gives both eips, to label with, and data.labels; remove one"
    if unknown := set(parts["run"]) - set(RUN):
        yield f"run.{min(unknown)} is unknown; the options are {', '.join(RUN)}"
    for key, values in parts["run"].items():
        if values == []:
            yield f"run.{key} is an empty list; name one, or remove it"
        yield from (f"run.{key} cannot be {value!r}" for value in listed(values) if not RUN[key](value))
    if not _are_weights(alpha := content.get("alpha", 0.1)):
        yield f"alpha must be a positive number or a list of them, not {alpha!r}"
    if (core := content.get("core")) not in (None, "zbl", "wall"):
        yield f"core must be zbl or wall, not {core!r}; leave it out for none"
    if not isinstance(run := content.get("pretrained"), str | None):
        yield f"pretrained must be the folder of a run, not {run!r}"
    if (splits := content.get("splits", "random")) != "random" and "{split}" not in str(splits):
        yield "splits must be 'random' or a path with {split} in it"


def _problems_of(part: str, key: str, values: dict[str, Any]) -> Iterator[str]:
    """The same of the model, data or trainer arguments of a stage, or of all."""
    mend = "from its options, from the keys at the top of this file and from the stages before; remove it"
    for name in sorted({*OWN.get(part, ()), *OWN.get(key, ())} & set(values)):
        yield f"{key}.{name} would have no effect: `eipnn run` sets it {mend}"
    if part == "trainer" and values.get("fast_dev_run"):
        yield f"{key}.fast_dev_run leaves no checkpoint; remove it"
    if part == "trainer" and values.get("enable_checkpointing") is False:
        yield f"{key}.enable_checkpointing: the stages need their checkpoints; remove it"
    if part == "model" and (eips := values.get("eips")) is not None:
        if not isinstance(eips, list) or not eips:
            yield f"{key}.eips must be a list of EIPs, not {eips!r}"
        yield from (f"{key}.eips names {name!r} twice; name each EIP once" for name in eips if eips.count(name) > 1)


def listed(given: Any) -> list[Any]:
    """One value, or a list of them, as a list."""
    return given if isinstance(given, list) else [given]


def _are_weights(given: Any) -> bool:
    try:  # YAML 1.1 reads 1e-2 as a text
        return bool(listed(given)) and all(0 < float(alpha) < inf for alpha in listed(given))
    except (TypeError, ValueError):
        return False
