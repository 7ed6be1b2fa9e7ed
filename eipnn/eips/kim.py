"""OpenKIM models through `ase.calculators.kim`; kimpy is imported on use only."""

import re
from collections.abc import Iterator
from types import ModuleType

from ase.calculators.calculator import Calculator

KIM_NUMBER = re.compile(r"__([MS][MO]_\d{12})_(\d{3})$")


def _kimpy() -> ModuleType:
    """kimpy, told not to append to `kim.log` in the working directory."""
    import kimpy

    kimpy.log.Log.push_default_verbosity(kimpy.log_verbosity.silent)
    return kimpy


def calculator(model: str) -> Calculator:
    """The ASE calculator of an installed model.

    Without a skin the neighbour list is made anew for every frame, so that the last bits of a label
    do not depend on the frames before it.
    """
    from ase.calculators.kim import KIM

    _kimpy()
    return KIM(model, options={"neigh_skin_ratio": 0.0})


def elements(model: str) -> frozenset[str]:
    """The chemical symbols that an installed portable or simulator model covers."""
    from ase.calculators.kim.kim import get_model_supported_species

    _kimpy()
    return frozenset(get_model_supported_species(model))


def portable_models() -> list[str]:
    """The ids of the installed models that run through the KIM API itself. Raises ImportError without kimpy."""
    kimpy = _kimpy()
    return sorted(_items(kimpy, kimpy.collection_item_type.portableModel))


def simulator_models() -> list[str]:
    """The ids of the installed models that need a simulator (LAMMPS, ASAP) beside the KIM API."""
    kimpy = _kimpy()
    return sorted(_items(kimpy, kimpy.collection_item_type.simulatorModel))


def _items(kimpy: ModuleType, kind: object) -> Iterator[str]:
    collections = kimpy.collections.create()
    for index in range(collections.cache_list_of_item_names_by_type(kind)):
        yield collections.get_item_name_by_type(index)
