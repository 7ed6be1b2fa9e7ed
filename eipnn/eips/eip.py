"""EIP sets: a YAML list of potentials, each an OpenKIM model or an ASE calculator by class path.

- {name: sw, kim: MO_405512056662}                      # any installed version, the newest
- {name: sw5, kim: SW_StillingerWeber_1985_Si__MO_405512056662_005}
- {name: emt, ase: ase.calculators.emt.EMT}
- {name: emt-asap, ase: ase.calculators.emt.EMT, arguments: {asap_cutoff: true}}
"""

import json
import re
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from ase.calculators.calculator import Calculator

from eipnn.eips import class_path, kim
from eipnn.errors import InputError

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

    def description(self) -> dict[str, Any]:
        """What identifies this potential in a label store: plain values."""
        return {
            "name": self.name,
            "source": self.source,
            "target": self.target,
            "arguments": self.arguments,
        }

    def calculator(self) -> Calculator:
        """A new ASE calculator (eV, eV/A)."""
        if self.source == "kim":
            return kim.calculator(self.target)
        return class_path.calculator(self.target, self.arguments)

    def elements(self) -> frozenset[str] | None:
        """The elements this potential covers, None where its calculator does not tell."""
        return kim.elements_and_cutoff(self.target)[0] if self.source == "kim" else None


def named_sets() -> tuple[str, ...]:
    """The names of the sets that come with the package."""
    return tuple(sorted(path.stem for path in _sets().glob("*.yaml")))


def load_eips(name_or_yaml: str | Path) -> tuple[EIP, ...]:
    """The EIPs of a named set or of a YAML file, with KIM ids resolved to the installed versions.

    Raises `EIPError` for an unknown set, a file that does not hold a list of entries as above, a name
    given twice, a KIM model that is not installed and a class that cannot be imported.
    """
    source = Path(name_or_yaml)
    if str(name_or_yaml) in named_sets():
        source = _sets() / f"{name_or_yaml}.yaml"
    elif not source.is_file():
        raise EIPError(
            f"{name_or_yaml}: neither a named set nor a YAML file; "
            f"the sets are {', '.join(named_sets())}"
        )
    try:
        entries = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EIPError(f"{name_or_yaml}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(entries, list) or not entries:
        raise EIPError(f"{name_or_yaml}: must be a YAML list of entries such as '{_EXAMPLE}'")
    installed = _installed(entries, name_or_yaml)
    eips = tuple(_eip(e, f"{name_or_yaml}: entry {n}", installed) for n, e in enumerate(entries, 1))
    names = [eip.name for eip in eips]
    for name in names:
        if names.count(name) > 1:
            raise EIPError(f"{name_or_yaml}: the name {name!r} is given twice; rename one entry")
    return eips


_EXAMPLE = "- {name: sw, kim: MO_405512056662}"


def _sets() -> Path:
    return Path(str(files("eipnn.eips"))) / "sets"


def _installed(entries: list[Any], source: str | Path) -> list[str]:
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
        raise EIPError(
            f"{where}: name {name!r} must be letters, digits and _ . + - only, and not {NONE!r}"
        )
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
