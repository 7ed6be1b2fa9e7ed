"""eipnn: neural-network interatomic potentials taught by empirical ones (Shui et al., NeurIPS 2022).

The public names are imported on first use, so that commands without a network in them (`eipnn label`,
`eipnn eips`) start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eipnn.version import __version__

if TYPE_CHECKING:
    from eipnn import losses, representations
    from eipnn.potential import Potential
    from eipnn.potential.calculator import EIPNNCalculator
    from eipnn.stages import (
        ClassifierDataModule,
        ClassifierModule,
        FinetuneDataModule,
        FinetuneModule,
        PretrainDataModule,
        PretrainModule,
    )

    load = Potential.load

__all__ = [
    "ClassifierDataModule",
    "ClassifierModule",
    "EIPNNCalculator",
    "FinetuneDataModule",
    "FinetuneModule",
    "Potential",
    "PretrainDataModule",
    "PretrainModule",
    "__version__",
    "load",
    "losses",
    "representations",
]


def __getattr__(name: str) -> Any:
    if name in ("losses", "representations"):
        return import_module(f"eipnn.{name}")
    if name == "load":
        return import_module("eipnn.potential").Potential.load
    if name not in __all__:
        raise AttributeError(f"module 'eipnn' has no attribute {name!r}")
    homes = {"EIPNNCalculator": "eipnn.potential.calculator", "Potential": "eipnn.potential"}
    return getattr(import_module(homes.get(name, "eipnn.stages")), name)
