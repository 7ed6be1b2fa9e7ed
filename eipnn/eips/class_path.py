"""ASE calculators by class path."""

from importlib import import_module
from typing import Any

from ase.calculators.calculator import Calculator

from eipnn.errors import InputError


class ClassPathError(InputError):
    """A class path that names no ASE calculator."""


def load_class(path: str) -> type[Calculator]:
    """The calculator class at `package.module.Class`.

    Raises `ClassPathError` where it cannot be imported or is no `ase.calculators.calculator.Calculator`.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ClassPathError(f"the class {path!r} cannot be imported ({error})") from None
    if not isinstance(found, type) or not issubclass(found, Calculator):
        raise ClassPathError(f"{path!r} is no class derived from ASE's Calculator")
    return found


def calculator(path: str, arguments: dict[str, Any]) -> Calculator:
    """A new calculator of the class at `path`."""
    return load_class(path)(**arguments)
