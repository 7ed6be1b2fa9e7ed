"""Files -> `ase.Atoms` with a stable id, energies in eV and forces in eV/A; train/val/test/pool splits."""

from eipnn.structures.read import (
    ENERGY_KEYS,
    FORCES_KEYS,
    MissingKeyError,
    StructureError,
    energy,
    read_structures,
    resolve,
)
from eipnn.structures.split import (
    Split,
    SplitError,
    fewer_frames,
    random_split,
    read_split,
    write_split,
)

__all__ = [
    "ENERGY_KEYS",
    "FORCES_KEYS",
    "MissingKeyError",
    "Split",
    "SplitError",
    "StructureError",
    "energy",
    "fewer_frames",
    "random_split",
    "read_split",
    "read_structures",
    "resolve",
    "write_split",
]
