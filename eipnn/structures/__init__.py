"""Files -> `ase.Atoms` with a stable id and labels in eV and A; train/val/test/pool splits."""

from eipnn.structures.ids import Ids
from eipnn.structures.isolated import isolated_atoms, isolated_energies, without_isolated_atoms
from eipnn.structures.opened import open_dft_and_pool, open_pool, open_structures
from eipnn.structures.paths import Paths, StructureError, resolve, resolve_all
from eipnn.structures.read import LABEL_KEYS, Options, energy, options_of, read_structures
from eipnn.structures.split import Split, fewer_frames, random_split, read_split, split_text, write_split
from eipnn.structures.store import StructureStore, is_isolated_atom

__all__ = [
    "LABEL_KEYS",
    "Ids",
    "Options",
    "Paths",
    "Split",
    "StructureError",
    "StructureStore",
    "energy",
    "fewer_frames",
    "is_isolated_atom",
    "isolated_atoms",
    "isolated_energies",
    "open_dft_and_pool",
    "open_pool",
    "open_structures",
    "options_of",
    "random_split",
    "read_split",
    "read_structures",
    "resolve",
    "resolve_all",
    "split_text",
    "without_isolated_atoms",
    "write_split",
]
