"""What every representation is."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.inputs.base import AtomicGraph, Inputs
from eipnn.inputs.graph import Graph

MAX_Z = 118
"""Largest atomic number; tables per element have MAX_Z + 1 rows."""


class Representation(nn.Module, HyperparametersMixin, ABC):
    """f_rep: a batch of configurations -> (N, dim) features, one row an atom.

    A subclass calls ``self.save_hyperparameters()`` in its constructor, whose arguments are plain values:
    they go into the checkpoint and rebuild it. It knows no head, no loss and no label.
    """

    dim: int
    """Number of features an atom."""

    cutoff: float
    """Radius in A that one atom sees in one step."""

    @property
    def inputs(self) -> Inputs:
        """What turns an `ase.Atoms` into the `Data` that `forward` reads: by default a neighbour graph."""
        return Graph(self.cutoff)

    @abstractmethod
    def forward(self, graph: AtomicGraph) -> Tensor:
        """Per-atom features (N, dim), invariant to translation, rotation and order of atoms."""

    def calibrate(self, graphs: Iterable[AtomicGraph]) -> None:
        """Find from the training configurations what no gradient finds: a standardisation, scaling factors.

        Called once, before the first step of a fresh representation and on every process alike, on the CPU, without
        gradients. What it finds belongs into buffers: checkpoints and fine-tuning carry it on.

        Args:
            graphs: the training configurations, in seeded random order; each pass over them begins anew.
        """

    def tabulate(self, points: int = 1000) -> "Representation":
        """The same with functions of the distance alone read from tables of so many points: quicker, for fixed weights.

        Raises `InputError` where there is nothing to tabulate in this representation.
        """
        raise InputError(f"{type(self).__name__} has no tables over the distance: leave out `tabulate`")

    def require_positive(self, *zero: str) -> None:
        """Raise `InputError` for a number among the constructor's arguments that is not positive and finite.

        For the constructors of subclasses, after ``self.save_hyperparameters()``. The arguments in `zero` may be 0.
        """
        for name, value in self.hparams.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if not (0 < value < math.inf or (value == 0 and name in zero)):
                least = "0 or more" if name in zero else "positive"
                raise InputError(f"{type(self).__name__}: {name} must be {least}, not {value}")

    def config(self) -> dict[str, Any]:
        """``class_path`` and ``init_args`` that rebuild this representation, plain values."""
        cls = type(self)
        # of a subclass with other arguments, Lightning notes those of its bases too
        own = inspect.signature(cls).parameters
        return {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": {name: value for name, value in self.hparams.items() if name in own},
        }
