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

_HOME = {
    "ClassifierModule": "eipnn.stages",
    "ClassifierDataModule": "eipnn.stages",
    "PretrainModule": "eipnn.stages",
    "PretrainDataModule": "eipnn.stages",
    "FinetuneModule": "eipnn.stages",
    "FinetuneDataModule": "eipnn.stages",
    "EIPNNCalculator": "eipnn.potential.calculator",
    "Potential": "eipnn.potential",
}

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
    if name == "load":
        return import_module("eipnn.potential").Potential.load
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in ("losses", "representations"):
        return import_module(f"eipnn.{name}")
    raise AttributeError(f"module 'eipnn' has no attribute {name!r}")
