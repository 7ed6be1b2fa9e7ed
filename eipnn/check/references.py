"""What a potential is held against: numbers of the user's, and EIPs."""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator

from eipnn.check.figures import Figure
from eipnn.eips import load_eips
from eipnn.errors import UsageError
from eipnn.files import read_yaml
from eipnn.settings import near

KEYS = (
    *("volume", "bulk_modulus", "elastic_bulk_modulus", "shear_modulus", "highest_frequency", "vacancy"),
    *("C11", "C12", "C13", "C33", "C44", "C66"),
)
"""Figures that may be given: A^3/atom, GPa, THz, eV."""


def read_numbers(file: Path | None, crystals: Sequence[str]) -> Callable[[Figure], float]:
    """The given value of a figure, NaN without one.

    The YAML file holds ``key: number`` of the only crystal, or such a mapping for each crystal by name.

    Raises:
        UsageError: it does not, or names a key or a crystal that there is not.
    """
    content = read_yaml(file) if file else {}
    if not isinstance(content, dict):
        raise UsageError(f"--numbers {file}: must hold lines such as `bulk_modulus: 98`")
    nested = all(isinstance(value, dict) for value in content.values())
    if not nested and len(crystals) != 1:
        raise UsageError(
            f"--numbers {file}: of which crystal? Give `NAME: {{bulk_modulus: 98}}`, of {', '.join(crystals)}"
        )
    tables: Mapping[str, Mapping[str, Any]] = content if nested else {crystals[0]: content}
    for name, table in tables.items():
        if name not in crystals:
            raise UsageError(f"--numbers {file}: there is no crystal {name}, only {', '.join(crystals)}")
        for key, value in table.items():
            if key not in KEYS:
                raise UsageError(
                    f"--numbers {file}: there is no figure {key}{near(str(key), KEYS)}; give {', '.join(KEYS)}"
                )
            if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
                raise UsageError(f"--numbers {file}: {key}: {value!r} is no number")
    return lambda figure: float(tables.get(figure.of, {}).get(figure.key, nan))


def eip_calculators(named: Sequence[str], elements: Sequence[str]) -> dict[str, Calculator]:
    """Calculators of ``SET:NAME``, by NAME.

    Raises:
        UsageError: a set or a name that there is not, or an EIP that does not cover the elements.
    """
    found: dict[str, Calculator] = {}
    for text in named:
        which, colon, name = text.rpartition(":")
        if not colon:
            raise UsageError(f"--eip {text}: write SET:NAME, such as silicon:sw")
        eips = {eip.name: eip for eip in load_eips(which)}
        if name not in eips:
            raise UsageError(f"--eip {text}: {which} has no {name}{near(name, eips)}; it has {', '.join(eips)}")
        known = eips[name].elements()
        if known is not None and (absent := set(elements) - known):
            raise UsageError(f"--eip {text}: does not cover {' '.join(sorted(absent))}")
        found[name] = eips[name].calculator()
    return found
