"""EIP sets: a YAML list of potentials, each an OpenKIM model, an ASE calculator by class path or a potential of eipnn.

- {name: sw, kim: MO_405512056662}                      # any installed version, the newest
- {name: sw5, kim: SW_StillingerWeber_1985_Si__MO_405512056662_005}
- {name: emt, ase: ase.calculators.emt.EMT}
- {name: emt-asap, ase: ase.calculators.emt.EMT, arguments: {asap_cutoff: true}}
- {name: eam, ase: ase.calculators.eam.EAM, arguments: {potential: Al.eam.alloy}}
- {name: mine, eipnn: runs/al/potential.pt}             # or a committee, or a checkpoint of fine-tuning
- {name: mean, eipnn: [a.pt, b.pt], arguments: {device: cuda}}  # of several
- {name: totals, ase: my.Calculator, zero: least_squares}  # energies that are not zero for free atoms
- {name: sevennet-0, ase: sevenn.calculator.SevenNetCalculator, python: sevennet/bin/python}  # of another environment

A potential of eipnn is asked for energies on the aligned zero, as OpenKIM models are: free atoms at 0 eV, where it was
trained with `isolated_atoms`.

`python` is the interpreter of an environment that has the calculator and the same eipnn: packages that cannot be
installed beside these make labels there.

An argument that names a file is, as all paths, relative to the folder in which the command is given. A label store and
a checkpoint keep it as it is written, with a checksum of the file: they can be moved, and another file is found out.
"""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator

from eipnn.eips import kim
from eipnn.eips.in_cell import InCell
from eipnn.eips.kim import EIPError
from eipnn.errors import InputError
from eipnn.files import digest_file, read_yaml
from eipnn.own_code import source_digests

SETS = Path(str(files("eipnn.eips"))) / "sets"
SOURCES = ("kim", "ase", "eipnn")
OURS = "eipnn.EIPNNCalculator"
ZEROS = ("none", "least_squares")
"""What an entry may name as its zero (`eipnn.reference`); energies of free atoms are given under data."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
NONE = "none"
"""Name of the classifier's class p_0, no EIP is close to DFT; so no EIP may have it."""
DFT = "dft"
"""In place of an EIP's name: the structures' own DFT labels, which a selection hides from all other rows; no EIP may
have it either."""
EXAMPLE = "'- {name: sw, kim: MO_405512056662}'"


@dataclass(frozen=True)
class EIP:
    """One potential: `target` is the full KIM id (`source` "kim") or the class path (`source` "ase").

    A potential of eipnn is one of these, `OURS`. In a label store of published energies `source` is "published"; there
    is nothing to calculate with then.
    """

    name: str
    source: str
    target: str
    arguments: dict[str, Any] = field(default_factory=dict)
    folder: str = field(default_factory=os.getcwd, compare=False, repr=False)
    """What paths in `arguments` are relative to."""
    zero: str = "none"
    """Of `ZEROS`: how its energies come to the zero of DFT where the user says nothing; no label depends on it."""
    python: str | None = field(default=None, compare=False)
    """Path of the interpreter in whose environment labels are made; None: this one. No label depends on it."""

    def description(self) -> dict[str, Any]:
        """What identifies this potential in a label store: plain values.

        Where arguments name files, ``files`` holds the SHA-256 of each; ``code`` those of the user's own calculators.
        """
        files: dict[str, str] = {}
        self._with_files(self.arguments, lambda text, file: files.setdefault(text, digest_file(file)))
        code = source_digests([self.target]) if self.source == "ase" else {}
        described = {key: getattr(self, key) for key in ("name", "source", "target", "arguments")}
        return described | ({"files": files} if files else {}) | ({"code": code} if code else {})

    def calculator(self) -> InCell:
        """A new ASE calculator (eV, eV/A) for atoms that may lie outside of the cell.

        Raises `EIPError` where there is none, only published energies, and whatever a calculator raises as it is made.
        """
        match self.source:
            case "kim":
                return InCell(kim.calculator(self.target))
            case "ase":
                # teachers label frames beyond their own training, which are many
                quiet = {"guard": "off"} if self.target == OURS else {}
                return InCell(
                    _class(self.target, self.python)(
                        **quiet, **self._with_files(self.arguments, lambda _, file: str(file))
                    )
                )
        raise EIPError(f"the EIP {self.name} stands for published energies ({self.target}), which no calculator gives")

    def packed(self) -> tuple["EIP", dict[str, bytes]]:
        """The EIP for another machine, and what it needs there: files by their places in what is to be its `folder`."""
        content: dict[str, bytes] = {}

        def place(_: str, file: Path) -> str:
            content[name := f"{digest_file(file)}/{file.name}"] = file.read_bytes()
            return name

        return replace(self, arguments=self._with_files(self.arguments, place), folder=""), content

    def _with_files(self, value: Any, place: Callable[[str, Path], str]) -> Any:
        """An argument with what `place` gives for each text that names a file, and its full path: calculators run in
        folders of their own."""
        if isinstance(value, dict):
            return {key: self._with_files(item, place) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_files(item, place) for item in value]
        file = None
        with suppress(OSError, ValueError):  # no file's name: too long, a null byte
            file = Path(self.folder, value) if isinstance(value, str) and Path(self.folder, value).is_file() else None
        return place(value, file) if file else value

    def elements(self) -> frozenset[str] | None:
        """The elements this potential covers, None where its calculator does not tell."""
        return kim.elements_and_cutoff(self.target)[0] if self.source == "kim" else None


def _class(path: str, python: str | None = None) -> type[Calculator]:
    """The calculator's class at `package.module.Class`; `python`: the interpreter that the entry names."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a module of one's own may raise anything
        mend = "install its package or mend it, or name the `python` of an environment that has it"
        if python:
            mend = f"labels are made by {python}, all else here: install its package in the environment that lacks it"
        raise EIPError(f"the class {path!r} cannot be imported ({error}); {mend}") from None
    if not isinstance(found, type) or not issubclass(found, Calculator):
        raise EIPError(f"{path!r} is no class derived from ASE's Calculator")
    return found


def named_sets() -> tuple[str, ...]:
    """The names of the sets that come with the package."""
    return tuple(sorted(path.stem for path in SETS.glob("*.yaml")))


def load_eips(given: str | Path | Sequence[Mapping[str, Any]]) -> tuple[EIP, ...]:
    """The EIPs of a named set, of a YAML file or of a list of entries, with KIM ids resolved to the installed versions.

    Raises `EIPError` for an unknown set, a file that does not hold a list of entries as above, a name given twice, a
    KIM model that is not installed and a class that cannot be imported.
    """
    where, entries = (given, _entries(given)) if isinstance(given, str | Path) else ("eips", given)
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise EIPError(f"{where}: must be a YAML list of entries such as {EXAMPLE}")
    eips: list[EIP] = []
    for number, entry in enumerate(entries, 1):
        try:
            eips.append(_eip(entry))
        except EIPError as error:
            raise EIPError(f"{where}: entry {number}: {error}") from None
        if eips[-1].name in [eip.name for eip in eips[:-1]]:
            raise EIPError(f"{where}: the name {eips[-1].name!r} is given twice; rename one entry")
    return tuple(eips)


def _entries(given: str | Path) -> Any:
    """What the YAML file of a set holds."""
    file = SETS / f"{given}.yaml" if str(given) in named_sets() else Path(given)
    if not file.is_file():
        raise EIPError(f"{given}: neither a named set nor a YAML file; the sets are {', '.join(named_sets())}")
    try:
        return read_yaml(file)
    except InputError as error:
        raise EIPError(str(error)) from None


def _eip(entry: Any) -> EIP:
    if not isinstance(entry, dict) or set(entry) - {"name", "arguments", "zero", "python", *SOURCES}:
        raise EIPError(f"{entry!r} must have the keys name, kim, ase or eipnn, arguments, zero, python only")
    name, arguments, zero = entry.get("name"), entry.get("arguments", {}), entry.get("zero", "none")
    if len(entry.keys() & set(SOURCES)) != 1:
        raise EIPError(f"must have either kim, ase or eipnn, as in {EXAMPLE}")
    if not isinstance(name, str) or not NAME.fullmatch(name) or name in (NONE, DFT):
        raise EIPError(f"name {name!r} must be letters, digits and _ . + - only, and neither {NONE!r} nor {DFT!r}")
    if zero not in ZEROS:
        raise EIPError(f"zero {zero!r} must be {' or '.join(ZEROS)}; data.eip_energy_zero takes energies of free atoms")
    python = _interpreter(entry)
    if "kim" in entry:
        if "arguments" in entry:
            raise EIPError("a KIM model takes no arguments; remove them")
        return EIP(name, "kim", _kim_id(str(entry["kim"])), zero=zero)
    if not _plain(arguments):
        raise EIPError(f"arguments must be a mapping of plain values, not {arguments!r}")
    if "eipnn" in entry:
        arguments = {"checkpoint": _potential_files(entry["eipnn"]), "cohesive": True} | arguments
        return EIP(name, "ase", OURS, arguments, zero=zero)
    if python is None:
        _class(str(entry["ase"]))
    return EIP(name, "ase", str(entry["ase"]), arguments, zero=zero, python=python)


def _interpreter(entry: Mapping[str, Any]) -> str | None:
    """The full path of the interpreter that an entry names, links not followed, as these make an environment."""
    if "python" not in entry:
        return None
    if "ase" not in entry:
        raise EIPError("python goes with ase: a calculator in an environment of its own; remove it")
    file = Path.cwd() / Path(str(entry["python"])).expanduser()
    if not (file.is_file() and os.access(file, os.X_OK)):
        raise EIPError(f"python: {entry['python']!r} is no interpreter; give one such as ENVIRONMENT/bin/python")
    return str(file)


def _potential_files(given: Any) -> str | list[str]:
    """What `OURS` takes as checkpoint: the path of a file, or a list of them."""
    for file in given if isinstance(given, list) and given else [given]:
        if not isinstance(file, str) or not Path(file).is_file():
            raise EIPError(f"eipnn: {file!r} is no file; give the path of a potential or a checkpoint of fine-tuning")
    return given


def _plain(arguments: Any) -> bool:
    """Whether arguments can be kept in the index of a label store."""
    try:
        return isinstance(arguments, dict) and json.loads(json.dumps(arguments)) == arguments
    except (TypeError, ValueError):
        return False


def _kim_id(wanted: str) -> str:
    """`wanted` itself where it is installed, or the newest installed version of an `MO_` number."""
    installed = kim.portable_models()
    if wanted in installed:
        return wanted
    number = re.fullmatch(r"(?:.*__)?(MO_\d{12})(_\d{3})?", wanted)
    versions = sorted(m for m in installed if number and f"__{number[1]}_" in m)
    if number and versions and wanted == number[1]:
        return versions[-1]
    there = (
        "is not installed; `eipnn eips ELEMENT` lists those that are, `kim-api-collections-management install user "
        "NAME` installs one"
    )
    if number and versions:
        there = f"is not installed, but {', '.join(versions)} is; write {number[1]} to take what is installed"
    elif "SM_" in wanted:
        there = (
            "is a KIM simulator model, which needs LAMMPS or ASAP; name a portable model (MO_), or use that "
            "simulator's ASE calculator with the key ase"
        )
    raise EIPError(f"the KIM model {wanted!r} {there}")
