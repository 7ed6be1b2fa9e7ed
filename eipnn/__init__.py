"""eipnn: neural-network interatomic potentials taught by empirical ones (Shui et al., NeurIPS 2022).

The public names are imported on first use, so that commands without a network in them (`eipnn label`,
`eipnn eips`) start without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eipnn import losses, representations
    from eipnn.calculator import EIPNNCalculator
    from eipnn.checkpoint import load
    from eipnn.stages import (
        ClassifierDataModule,
        ClassifierModule,
        FinetuneDataModule,
        FinetuneModule,
        PretrainDataModule,
        PretrainModule,
    )

__version__ = "0.1.0"

_HOME = {
    "ClassifierModule": "eipnn.stages",
    "ClassifierDataModule": "eipnn.stages",
    "PretrainModule": "eipnn.stages",
    "PretrainDataModule": "eipnn.stages",
    "FinetuneModule": "eipnn.stages",
    "FinetuneDataModule": "eipnn.stages",
    "EIPNNCalculator": "eipnn.calculator",
    "load": "eipnn.checkpoint",
}

__all__ = [
    "ClassifierDataModule",
    "ClassifierModule",
    "EIPNNCalculator",
    "FinetuneDataModule",
    "FinetuneModule",
    "PretrainDataModule",
    "PretrainModule",
    "__version__",
    "load",
    "losses",
    "representations",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in ("losses", "representations"):
        return import_module(f"eipnn.{name}")
    raise AttributeError(f"module 'eipnn' has no attribute {name!r}")
