"""The rows of the tables: what a potential is trained with beside its DFT frames."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from eipnn.errors import InputError

Labels = Literal["predicted", "best", "dft", "single"]
Pretraining = Literal["all", "single", "energies"]
Loss = Literal["tukey", "mse"]

PRETRAINING_FOLDERS: dict[Pretraining, str] = {
    "all": "pretrain",
    "single": "pretrain-single",
    "energies": "pretrain-energies",
}
"""Where a pretraining lies in the folder of its split and seed."""


@dataclass(frozen=True)
class Strategy:
    """One row.

    Args:
        label: in tables and pictures, after the name of the backbone unless it begins with ``+``; empty for the
            backbone alone.
        eip_labels: where the labels of label augmentation come from: the classifier's choice; for the same structures
            the EIP that is truly the closest, or DFT itself (both need DFT energies of the pool, which are hidden from
            all other rows); for the whole pool the single best EIP.
        pretraining: on all EIPs, on the single best, or on the energies of all EIPs without their forces and stress.
        loss: on the EIP labels.
        long: trained without EIP labels for as many gradient steps as label augmentation takes.
        delta: the network learns DFT minus the single best EIP.
        teacher: name of another row, whose potential labels the whole pool: with delta learning a corrected EIP,
            otherwise self-training.
        energies_only: without DFT forces and stress, where the frames have them; nor does the classifier see these.
            EIP labels keep their forces, those of DFT (``eip_labels: dft``) do not.
    """

    label: str = ""
    eip_labels: Labels | None = None
    pretraining: Pretraining | None = None
    loss: Loss = "tukey"
    long: bool = False
    delta: bool = False
    teacher: str | None = None
    energies_only: bool = False

    @property
    def taught(self) -> bool:
        """Whether it learns labels of the pool beside DFT."""
        return self.eip_labels is not None or self.teacher is not None

    @property
    def dft_alone(self) -> bool:
        """Whether it needs neither EIPs nor pool."""
        return not (self.taught or self.pretraining or self.long or self.delta)

    @property
    def single(self) -> bool:
        """Whether it needs the single best EIP."""
        return self.delta or "single" in (self.eip_labels, self.pretraining)

    @property
    def short(self) -> bool:
        """Whether it takes as many gradient steps of fine-tuning as the backbone alone."""
        return not self.long and not self.taught

    @property
    def hidden_dft(self) -> bool:
        """Whether it is trained with DFT energies that all other rows may not see."""
        return self.eip_labels in ("best", "dft")


STRATEGIES = {
    "baseline": Strategy(),
    "la": Strategy("+LA", "predicted"),
    "mp": Strategy("+MP", None, "all"),
    "mp+la": Strategy("+MP+LA", "predicted", "all"),
    "baseline-long": Strategy("long", long=True),
    "mp-long": Strategy("+MP-long", None, "all", long=True),
    "delta": Strategy("on DFT - EIP", delta=True),
    "mp+delta": Strategy("+MP on DFT - EIP", None, "all", delta=True),
    "delta-long": Strategy("on DFT - EIP, long", long=True, delta=True),
    "mp+delta-long": Strategy("+MP on DFT - EIP, long", None, "all", long=True, delta=True),
    "energies": Strategy("(energies alone)", energies_only=True),
}
"""Strategies by the name that `eipnn run --strategy` takes; an experiment may define more (its key ``strategies``).

``baseline``, ``la``, ``mp`` and ``mp+la`` are the rows of the paper's Table 1; ``delta`` is what one would do with one
EIP, ``mp+delta`` starts it from the pretraining on all; ``energies`` leaves aside what else the DFT frames tell.
"""

MAIN = ("baseline", "la", "mp", "mp+la")
"""The rows of Table 1 of Shui et al. 2022."""

MAIN_AND_LONG = (*MAIN, "baseline-long", "mp-long")

DELTA = ("delta", "mp+delta")
"""Delta learning; each has a ``-long`` form too."""

ALLOWED: dict[str, tuple[Any, ...]] = dict.fromkeys(("long", "delta", "energies_only"), (True, False)) | {
    "eip_labels": (*get_args(Labels), None),
    "pretraining": (*get_args(Pretraining), None),
    "loss": get_args(Loss),
}
WORDS = {None: "null", True: "true", False: "false"}
"""As YAML has them."""

RESERVED = ("classify", "classify-energies", *PRETRAINING_FOLDERS.values())
"""Folders of other stages: a row's folder has its name."""


def own_strategies(content: dict[Any, Any], where: str) -> dict[str, Strategy]:
    """The strategies that an experiment defines.

    Args:
        content: name -> fields of `Strategy`; ``label`` must be among them.
        where: file, for messages.

    Raises:
        InputError: a name that is taken or can be no folder's; a field that is unknown, missing, of a wrong value or
            against another; two strategies with one label.
    """
    own: dict[str, Strategy] = {}
    for name, given in content.items():
        for problem in _problems(str(name), given):
            raise InputError(f"{where}: {name}{problem}")
        own[str(name)] = Strategy(**given)
    labels = [strategy.label for strategy in (STRATEGIES | own).values()]
    for name, strategy in own.items():
        if labels.count(strategy.label) > 1:
            raise InputError(f"{where}: {name} has the label {strategy.label!r} of another strategy")
        _check_teachers(name, STRATEGIES | own, where)
    return own


def _check_teachers(name: str, rows: dict[str, Strategy], where: str) -> None:
    """Raise where a teacher, or a teacher's, is no row, or the row itself."""
    seen = [name]
    while (teacher := rows[seen[-1]].teacher) is not None:
        if teacher not in rows:
            raise InputError(f"{where}: {seen[-1]}.teacher is {teacher!r}; the rows are {', '.join(rows)}")
        if teacher in seen:
            raise InputError(f"{where}: {' is taught by '.join([*seen, teacher])}; name a row that does not need it")
        seen.append(teacher)


def _problems(name: str, given: Any) -> Iterator[str]:
    if name in STRATEGIES:
        yield " is a strategy of eipnn's own; take another name"
    if not re.fullmatch(r"\w[\w+-]*", name) or name in RESERVED or name.startswith("frames-"):
        yield " can be no strategy's name: its folder has it; take letters, digits, + and -"
    if not isinstance(given, dict) or not isinstance(given.get("label"), str) or not given["label"]:
        yield ": must be a mapping with a label, such as {label: +LA (MSE)}"
    known = [f.name for f in fields(Strategy)]
    for key, value in given.items():
        if key not in known:
            yield f".{key} is unknown; the fields are {', '.join(known)}"
        if key == "teacher" and not isinstance(value, str | None):
            yield f".teacher must be the name of a row, not {value!r}"
        allowed = ALLOWED.get(key, (value,))
        if not any(value is a or (value == a and isinstance(a, str)) for a in allowed):
            yield f".{key} must be one of {', '.join(WORDS.get(a, str(a)) for a in allowed)}, not {value!r}"
    labels = [key for key in ("eip_labels", "teacher") if given.get(key)]
    if labels and (given.get("long") or given.get("delta")):
        yield f": long and delta rows are trained on DFT labels alone; remove {labels[0]}"
    if len(labels) == 2:
        yield ": eip_labels and teacher both say where the labels of the pool come from; remove one"
    if not labels and given.get("loss", "tukey") != "tukey":
        yield ": loss is that on labels of the pool, and there are none; give eip_labels or teacher"
