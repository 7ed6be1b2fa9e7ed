"""Checkpoints as data: read from a local file, checked, and turned into a representation.

A checkpoint may come from anywhere. Reading one runs no code of it, and a module that it names is imported only where
its source shows that it was written for eipnn (see `find_class`).
"""

import importlib
import re
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeGuard, get_args

from ase.data import atomic_numbers

from eipnn.eips import recorded
from eipnn.errors import InputError
from eipnn.potential.core import CoreName
from eipnn.representations.base import Representation
from eipnn.tensor_files import read_tensors

STAGES = ("classify", "pretrain", "finetune")
COMMITTEE = "committee"
"""Key of the members in the file of a committee (`eipnn.potential.committee`)."""


class CheckpointError(InputError):
    """A checkpoint does not fit what it is used for."""


def read_checkpoint(file: str | Path) -> dict[str, Any]:
    """The content of a checkpoint, on the CPU.

    Raises:
        CheckpointError: there is no such local file, it is no checkpoint of one potential or stage, or it is damaged.
    """
    content = read_content(file)
    if COMMITTEE in content:
        raise CheckpointError(f"{file}: a committee of potentials; one alone is due here, such as it was made of")
    return check_state(content, file)


def read_content(file: str | Path) -> dict[str, Any]:
    """What a file holds, see `read_checkpoint`; that of a committee has the key `COMMITTEE`."""
    if not Path(file).is_file():
        local = "; checkpoints are read from local files only: download it" if ":" in str(file) else ""
        raise CheckpointError(f"{file}: no such checkpoint{local}; give the path of a file")
    try:
        content = read_tensors(Path(file))
    except ValueError as error:
        raise CheckpointError(f"{file}: not a checkpoint that torch can read ({error})") from error
    return content if isinstance(content, dict) else {}


def check_state(content: Any, file: str | Path) -> dict[str, Any]:
    """The same. Raises `CheckpointError` where it holds no weights."""
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise CheckpointError(f"{file}: holds no state_dict, so it is no Lightning checkpoint")
    return content


def read_record(checkpoint: dict[str, Any], name: str | Path, stage: str | None = None) -> dict[str, Any]:
    """What eipnn wrote into a checkpoint.

    Raises:
        CheckpointError: eipnn did not write it, something of it is missing or of a wrong kind, or it is of another
            stage than `stage`.
    """
    record = checkpoint.get("eipnn")
    if record is None:
        raise CheckpointError(f"{name}: not written by eipnn")
    if wrong := _wrong(record):
        raise CheckpointError(
            f"{name}: its record is not as eipnn writes it ({wrong}); "
            "it was changed, or written by another version: train again, or use that version"
        )
    if stage is not None and record["stage"] != stage:
        raise CheckpointError(f"{name}: of stage {record['stage']!r}, but a {stage!r} checkpoint is due here")
    return record


def _wrong(record: Any) -> str | None:
    """What is wrong with a record, None if nothing is."""
    if not isinstance(record, dict):
        return f"it is a {type(record).__name__}"
    representation, eips, elements, zeros = map(record.get, ("representation", "eips", "elements", "zeros"))
    fine = {
        "stage": record.get("stage") in STAGES,
        "representation": _texts(representation)
        and isinstance(representation.get("class_path"), str)
        and _texts(representation.get("init_args")),
        "eips": isinstance(eips, list) and all(isinstance(eip, str) for eip in eips),
        "settings": _texts(settings := record.get("settings")) and settings.get("core") in (None, *get_args(CoreName)),
        "elements": isinstance(elements, list)
        and all(isinstance(element, str) and atomic_numbers.get(element, 0) for element in elements),
        "seen": _texts(seen := record.get("seen", {})) and all(map(_is_seen, seen.values())),
        "zeros": _texts(zeros) and all(map(_is_zero, zeros.values())),
    }
    wrong = (f"{key} {'are' if key.endswith('s') else 'is'} {record.get(key)!r}" for key in fine if not fine[key])
    return next(wrong, None)


def _texts(content: Any) -> TypeGuard[dict[str, Any]]:
    """Whether it is a mapping whose keys are texts."""
    return isinstance(content, dict) and all(isinstance(key, str) for key in content)


def _is_seen(part: Any) -> bool:
    if not (_texts(part) and _texts(part.get("distances")) and isinstance(part.get("volumes"), list)):
        return False
    pairs, numbers = [name.split("-") for name in part["distances"]], [*part["distances"].values(), *part["volumes"]]
    known = all(len(pair) == 2 and all(symbol in atomic_numbers for symbol in pair) for pair in pairs)
    return known and all(isinstance(number, (int, float)) for number in numbers)


def _is_zero(zero: Any) -> bool:
    energies = zero.get("energies") if isinstance(zero, dict) else None
    return _texts(energies) and all(isinstance(energy, (int, float)) for energy in energies.values())


def build_representation(config: dict[str, Any]) -> Representation:
    """The representation of a `Representation.config`.

    Raises:
        CheckpointError: the class cannot be found, or does not take its arguments.
    """
    cls = find_class(config["class_path"])
    try:
        return cls(**config["init_args"])
    except InputError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{config['class_path']} cannot be made with {config['init_args']} "
            f"({type(error).__name__}: {error}); use the code that it was trained with"
        ) from error


def find_class(class_path: str) -> type[Representation]:
    """The class of a representation, by its module and name.

    A module that is not imported yet is imported only if its source contains the name of the class and the word
    eipnn: importing any other is an effect that no checkpoint should have.

    Raises:
        CheckpointError: there is no such module, or no such representation in it.
    """
    module, _, name = class_path.rpartition(".")
    if module not in sys.modules and not _written_for_eipnn(module, name):
        raise CheckpointError(
            f"the representation {class_path} is not found: put its module where Python finds it (the working "
            "directory, PYTHONPATH); where its file names neither eipnn nor the class, import it first"
        )
    try:
        cls = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        raise CheckpointError(
            f"the module {module} of the representation cannot be imported ({type(error).__name__}: {error})"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Representation)):
        raise CheckpointError(f"{class_path} is no Representation")
    return cls


def _written_for_eipnn(module: str, name: str) -> bool:
    """Whether the source of a module names eipnn and the class; nothing is imported to find it."""
    parts = module.split(".")
    if not all(part.isidentifier() for part in [*parts, name]):
        return False
    try:
        spec = find_spec(parts[0])
        for path in list(accumulate(parts, "{}.{}".format))[1:]:
            if spec is None or spec.submodule_search_locations is None:
                return False
            spec = PathFinder.find_spec(path, spec.submodule_search_locations)
        source = Path(spec.origin or "").read_text(encoding="utf-8") if spec else ""
    except (OSError, ValueError, ImportError):
        return False
    return {name, "eipnn"} <= set(re.findall(r"\w+", source))


def current_settings(record: dict[str, Any]) -> dict[str, Any]:
    """The settings of a stage's record, of 0.2.0 too, which trained on energies alone and judged EIPs by these."""
    before = {"classify": {"judge": "energy"}}.get(record["stage"], {"weights": {"energy": 1.0}})
    return before | {name: value for name, value in record["settings"].items() if name != "tukey_per"}


def check_same(found: dict[str, Any], mine: dict[str, Any], file: str | Path) -> None:
    """Raise `CheckpointError` where the record of a checkpoint is of another training than `mine`."""
    for key in ("representation", "eips"):
        if found[key] != mine[key]:
            raise CheckpointError(
                f"{file}: the checkpoint was trained with {key} {found[key]}, this run has {mine[key]}; "
                "give it the same"
            )
    if (core := found["settings"].get("core")) != mine["settings"].get("core"):
        raise CheckpointError(f"{file}: the checkpoint was trained with core: {core or 'null'}; give it the same")
    if not _same_zeros(mine["zeros"], found["zeros"]):
        raise CheckpointError(
            f"{file}: the checkpoint's energy zeros are {_zeros_text(found['zeros'])}, the data's "
            f"{_zeros_text(mine['zeros'])}; use the energy_zero, labels and split that it was trained with"
        )


def _same_zeros(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two zero records are equal to 1e-6 eV, and on top of the same EIP where there is one."""
    x, y = ({(source, e): zero["energies"][e] for source, zero in r.items() for e in zero["energies"]} for r in (a, b))
    equal = x.keys() == y.keys() and all(abs(x[k] - y[k]) < 1e-6 for k in x)
    return equal and recorded.same(a.get("dft", {}).get("eip"), b.get("dft", {}).get("eip"))


def _zeros_text(record: dict[str, Any]) -> str:
    """A zero record in one line, without the structures of an EIP's record."""
    zeros = {source: zero["energies"] or zero["mode"] for source, zero in record.items()}
    eip = record.get("dft", {}).get("eip")
    if isinstance(eip, dict):
        eip = " ".join(str(eip[key]) for key in ("name", "target", "arguments", "files") if eip.get(key))
    return f"{zeros}" + (f" on top of {eip}" if eip else "")
