"""What the module and the data module of a stage tell each other, before the first step."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from eipnn.errors import InputError
from eipnn.inputs import Graphs
from eipnn.inputs.base import Inputs
from eipnn.reference import Reference


@dataclass(frozen=True)
class Training:
    """What a module takes from its training configurations."""

    elements: list[str]  # symbols, sorted
    scales: list[tuple[float, Reference]]  # scale and shift of each energy that is learned, see `scale_and_shift`
    graphs: Graphs  # the configurations, each once, for `Representation.calibrate`
    known: frozenset[str]  # the targets that some of them have
    seen: dict[str, Any] = field(default_factory=dict)  # fine-tuning: see `eipnn.potential.seen`


@dataclass(frozen=True)
class Facts:
    """What a data module found in its data."""

    zeros: dict[str, dict[str, Any]]  # references of DFT and of the EIPs that the stage reads, as plain values
    evaluated: dict[str, str]
    """Symbol of each element in the validation, test or prediction -> file and id of the first configuration with it,
    in the order of these."""
    training: Training | None  # None where nothing is to be trained


@dataclass
class Handover:
    """A module makes it, and its data module is given it: by `eipnn fit` and its like, in Python by the user.

    ``data = FinetuneDataModule(..., handover=module.handover)``. The data module prepares what the module needs, and
    `LightningDataModule.setup`, which comes before the module's own, leaves `facts`.
    """

    inputs: Inputs  # the representation's kind of model input
    cutoff: float  # of neighbours, A
    eips: list[str]  # those that the module knows
    limits: Mapping[str, float] = field(default_factory=dict)
    """Of EIP labels by property, energy in eV/atom, forces in eV/A: classification, the largest errors; pretraining,
    the largest energy."""
    optional: Collection[str] = ()
    """Those of `limits` that are left out where DFT, or every EIP, says nothing of any training configuration."""
    wanted: Collection[str] = ("energy",)  # the targets that the terms of its loss are functions of
    facts: Facts | None = None

    def known(self) -> Facts:
        """`facts`; raises `InputError` where no data module was given this handover."""
        if self.facts is None:
            raise InputError("the data module was not made for this module: give it handover=module.handover")
        return self.facts
