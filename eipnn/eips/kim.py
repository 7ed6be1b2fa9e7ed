"""OpenKIM models through `ase.calculators.kim`; kimpy is imported on use only."""

from types import ModuleType

from ase.calculators.calculator import Calculator

from eipnn.errors import InputError


class EIPError(InputError):
    """An EIP or a set of them that cannot be used; the message names the set, the entry and the mend."""


def _kimpy() -> ModuleType:
    """kimpy, told not to append to `kim.log` in the working directory. Raises `EIPError` where it is not there."""
    try:
        import kimpy
    except ImportError as error:
        raise EIPError(
            f"kimpy cannot be imported ({error}); install the KIM API: `apt install libkim-api-dev openkim-models "
            "pkg-config` and `pip install kimpy kim-property`, or `conda install -c conda-forge kim-api openkim-models "
            "kimpy`"
        ) from None
    kimpy.log.Log.push_default_verbosity(kimpy.log_verbosity.silent)
    return kimpy


def calculator(model: str) -> Calculator:
    """The ASE calculator of an installed model.

    Without a skin the neighbour list is made anew for every frame, so that the last bits of a label do not depend on
    the frames before it.
    """
    from ase.calculators.kim import KIM

    _kimpy()
    return KIM(model, options={"neigh_skin_ratio": 0.0})


def elements_and_cutoff(model: str) -> tuple[frozenset[str], float]:
    """The chemical symbols that an installed model covers, and its influence distance (A)."""
    from ase.calculators.kim.kimpy_wrappers import PortableModel

    _kimpy()
    with PortableModel(model, debug=False) as opened:
        species, _ = opened.get_model_supported_species_and_codes()
        return frozenset(species), float(opened.get_influence_distance())


def portable_models() -> list[str]:
    """The ids of the installed models that run through the KIM API itself (`MO_`), sorted."""
    kimpy = _kimpy()
    collections = kimpy.collections.create()
    count = collections.cache_list_of_item_names_by_type(kimpy.collection_item_type.portableModel)
    return sorted(collections.get_item_name_by_type(index) for index in range(count))
