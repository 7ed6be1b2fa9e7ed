"""EIP sets: a YAML list of potentials, each an OpenKIM model or an ASE calculator by class path.

- {name: sw, kim: MO_405512056662}                      # any installed version, the newest
- {name: sw5, kim: SW_StillingerWeber_1985_Si__MO_405512056662_005}
- {name: emt, ase: ase.calculators.emt.EMT}
- {name: emt-asap, ase: ase.calculators.emt.EMT, arguments: {asap_cutoff: true}}
- {name: eam, ase: ase.calculators.eam.EAM, arguments: {potential: Al.eam.alloy}}

An argument that names a file is, as all paths, relative to the folder in which the command is given. A label store and
a checkpoint keep it as it is written, with a checksum of the file: they can be moved, and another file is found out.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from eipnn.eips import class_path, kim
from eipnn.eips.in_cell import InCell
from eipnn.errors import InputError
from eipnn.files import digest_file
from eipnn.own_code import source_digests

SOURCES = ("kim", "ase")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
NONE = "none"
"""Name of the classifier's class p_0, no EIP is close to DFT; so no EIP may have it."""


class EIPError(InputError):
    """An EIP set that cannot be used; the message names the set, the entry and the mend."""


@dataclass(frozen=True)
class EIP:
    """One potential: `target` is the full KIM id (`source` "kim") or the class path (`source` "ase").

    In a label store of published energies `source` is "published"; there is nothing to calculate with then.
    """

    name: str
    source: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd, compare=False, repr=False)
    """What paths in `arguments` are relative to."""

    def description(self) -> dict[str, Any]:
        """What identifies this potential in a label store: plain values.

        Where arguments name files, ``files`` holds the SHA-256 of each; ``code`` those of the user's
        own calculators.
        """
        described = {
            "name": self.name,
            "source": self.source,
            "target": self.target,
            "arguments": self.arguments,
        }
        named = {value: self._file(value) for value in _strings(self.arguments)}
        files = {name: digest_file(file) for name, file in named.items() if file}
        code = source_digests([self.target]) if self.source == "ase" else {}
        return described | ({"files": files} if files else {}) | ({"code": code} if code else {})

    def calculator(self) -> InCell:
        """A new ASE calculator (eV, eV/A) for atoms that may lie outside of the cell.

        Raises `EIPError` where there is none, only published energies, and whatever a calculator raises as it is made.
        """
        match self.source:
            case "kim":
                return InCell(kim.calculator(self.target))
            case "ase":
                arguments = self._with_files(self.arguments)
                return InCell(class_path.calculator(self.target, arguments))
        raise EIPError(f"the EIP {self.name} stands for published energies ({self.target}), which no calculator gives")

    def _file(self, text: str) -> Path | None:
        """The file that a text in the arguments names."""
        file = Path(self.folder, text)
        try:
            return file if file.is_file() else None
        except (OSError, ValueError):  # no file's name: too long, a null byte
            return None

    def _with_files(self, value: Any) -> Any:
        """An argument with the full paths of the files that it names, as calculators run in folders of their own."""
        if isinstance(value, dict):
            return {key: self._with_files(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_files(item) for item in value]
        file = self._file(value) if isinstance(value, str) else None
        return str(file) if file else value

    def elements(self) -> frozenset[str] | None:
        """The elements this potential covers, None where its calculator does not tell."""
        return kim.elements_and_cutoff(self.target)[0] if self.source == "kim" else None


def named_sets() -> tuple[str, ...]:
    """The names of the sets that come with the package."""
    return tuple(sorted(path.stem for path in _sets().glob("*.yaml")))


def load_eips(given: str | Path | Sequence[Mapping[str, Any]]) -> tuple[EIP, ...]:
    """The EIPs of a named set, of a YAML file or of a list of entries, with KIM ids resolved to the installed versions.

    Raises `EIPError` for an unknown set, a file that does not hold a list of entries as above, a name
    given twice, a KIM model that is not installed and a class that cannot be imported.
    """
    where, entries = (given, _entries(given)) if isinstance(given, str | Path) else ("eips", given)
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise EIPError(f"{where}: must be a YAML list of entries such as '{_EXAMPLE}'")
    installed = _installed(entries, where)
    eips = tuple(_eip(e, f"{where}: entry {n}", installed) for n, e in enumerate(entries, 1))
    names = [eip.name for eip in eips]
    for name in names:
        if names.count(name) > 1:
            raise EIPError(f"{where}: the name {name!r} is given twice; rename one entry")
    return eips


def _entries(name_or_yaml: str | Path) -> Any:
    """What the YAML file of a set holds."""
    source = Path(name_or_yaml)
    if str(name_or_yaml) in named_sets():
        source = _sets() / f"{name_or_yaml}.yaml"
    elif not source.is_file():
        raise EIPError(f"{name_or_yaml}: neither a named set nor a YAML file; the sets are {', '.join(named_sets())}")
    try:
        return yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EIPError(f"{name_or_yaml}: not YAML ({' '.join(str(error).split())})") from None


_EXAMPLE = "- {name: sw, kim: MO_405512056662}"


def _strings(arguments: Any) -> list[str]:
    """All texts in nested arguments."""
    if not isinstance(arguments, dict | list):
        return [arguments] if isinstance(arguments, str) else []
    items = arguments.values() if isinstance(arguments, dict) else arguments
    return [text for item in items for text in _strings(item)]


def _sets() -> Path:
    return Path(str(files("eipnn.eips"))) / "sets"


def _installed(entries: Sequence[Any], source: str | Path) -> list[str]:
    """The installed KIM models; nothing is asked of KIM where no entry needs it."""
    if not any(isinstance(entry, dict) and "kim" in entry for entry in entries):
        return []
    try:
        return kim.portable_models()
    except ImportError as error:
        raise EIPError(
            f"{source}: holds KIM models, and kimpy cannot be imported ({error}); install the KIM API: "
            "apt install libkim-api-dev openkim-models pkg-config && pip install kimpy kim-property, "
            "or conda install -c conda-forge kim-api openkim-models kimpy"
        ) from None


def _eip(entry: Any, where: str, installed: list[str]) -> EIP:
    if not isinstance(entry, dict) or set(entry) - {"name", "arguments", *SOURCES}:
        raise EIPError(f"{where}: {entry!r} must have the keys name, kim or ase, arguments only")
    if len([key for key in SOURCES if key in entry]) != 1:
        raise EIPError(f"{where}: must have either kim or ase, as in '{_EXAMPLE}'")
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == NONE:
        raise EIPError(f"{where}: name {name!r} must be letters, digits and _ . + - only, and not {NONE!r}")
    if "kim" in entry:
        if "arguments" in entry:
            raise EIPError(f"{where}: a KIM model takes no arguments; remove them")
        return EIP(name, "kim", _kim_id(str(entry["kim"]), where, installed))
    arguments = entry.get("arguments", {})
    _check_arguments(arguments, where)
    target = str(entry["ase"])
    try:
        class_path.load_class(target)
    except class_path.ClassPathError as error:
        raise EIPError(f"{where}: {error}") from None
    return EIP(name, "ase", target, arguments)


def _check_arguments(arguments: Any, where: str) -> None:
    """Arguments are kept in the label store's index, so they are plain values."""
    try:
        plain = isinstance(arguments, dict) and json.loads(json.dumps(arguments)) == arguments
    except (TypeError, ValueError):
        plain = False
    if not plain:
        raise EIPError(f"{where}: arguments must be a mapping of plain values, not {arguments!r}")


def _kim_id(wanted: str, where: str, installed: list[str]) -> str:
    """`wanted` itself where it is installed, or the newest installed version of an `MO_` number."""
    if wanted in installed:
        return wanted
    number = re.fullmatch(r"(?:.*__)?(MO_\d{12})(_\d{3})?", wanted)
    versions = sorted(m for m in installed if number and f"__{number[1]}_" in m)
    if number and versions and wanted == number[1]:
        return versions[-1]
    if versions:
        raise EIPError(
            f"{where}: the KIM model {wanted!r} is not installed, but {', '.join(versions)} is; "
            f"write {number[1] if number else ''} to take what is installed"
        )
    if "SM_" in wanted:
        raise EIPError(
            f"{where}: {wanted!r} is a KIM simulator model, which needs LAMMPS or ASAP; name a portable "
            "model (MO_), or use that simulator's ASE calculator with the key ase"
        )
    raise EIPError(
        f"{where}: the KIM model {wanted!r} is not installed; `eipnn eips ELEMENT` lists those that "
        "are, `kim-api-collections-management install user NAME` installs one"
    )
