"""What a training saw: how close atoms came, and how dense they were.

It stands in the record of a file under ``seen``: for the frames with DFT labels (``dft``) and, with label augmentation,
those with EIP labels (``eip``), ``distances``, the shortest one of each pair of elements (A), and ``volumes``, the
smallest and the largest one an atom of fully periodic frames (A^3), empty where there are none.

Frames of pretraining do not count: the head that learned their energies is not that of the potential.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from eipnn.generate.distance import RADII, REACH, shortest_distances
from eipnn.structures import StructureStore


def seen_in(frames: StructureStore) -> dict[str, Any]:
    """``distances`` and ``volumes`` of these frames, see the head of this file."""
    closest = shortest_distances(frames)
    pairs = [(a, b) for a, b in np.argwhere(np.isfinite(closest)).tolist() if a <= b]
    periodic = frames.pbc.all(axis=1)
    volumes = np.abs(np.linalg.det(frames.cells[periodic])) / frames.sizes[periodic]
    return {
        "distances": {f"{chemical_symbols[a]}-{chemical_symbols[b]}": float(closest[a, b]) for a, b in pairs},
        "volumes": [float(volumes.min()), float(volumes.max())] if len(volumes) else [],
    }


def closest_in(seen: Mapping[str, Any]) -> np.ndarray:
    """The shortest distance (A) by two atomic numbers; `REACH` for elements that were not seen side by side."""
    closest = REACH * RADII
    for part in seen.values():
        for name, length in part["distances"].items():
            a, b = (atomic_numbers[symbol] for symbol in name.split("-"))
            closest[a, b] = closest[b, a] = min(length, closest[a, b])
    return closest


def volumes_in(seen: Mapping[str, Any]) -> list[float]:
    """The smallest and the largest volume (A^3) an atom; empty if no periodic frames were seen."""
    every = [volume for part in seen.values() for volume in part["volumes"]]
    return [min(every), max(every)] if every else []
