"""What a section is given: a calculator, the crystals relaxed under it, and the settings of the check."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ase.calculators.calculator import Calculator

from eipnn.check.crystals import Crystal
from eipnn.structures import StructureStore


@dataclass(frozen=True)
class Case:
    """One calculator (eV, eV/A) with all that its figures are found from.

    Args:
        calculator: of ASE.
        elements: that it knows.
        crystals: by name, relaxed under it.
        wanted: names of crystals that must be there.
        problems: why a crystal is not there, by its name.
        temperature: of NVE dynamics, K.
        time: of each dynamics, ps.
        frames: with DFT labels.
        seed: of all that is random.
    """

    calculator: Calculator
    elements: tuple[str, ...]
    crystals: Mapping[str, Crystal]
    wanted: tuple[str, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)
    temperature: float = 1000.0
    time: float = 1.0
    frames: StructureStore | None = None
    seed: int = 0
