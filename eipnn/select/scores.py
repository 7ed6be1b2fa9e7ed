"""How much a DFT calculation of a structure would teach, by what is known without it."""

import numpy as np
import torch
from torch_geometric.nn import global_mean_pool

from eipnn.evaluate.predict import ATOMS, batches, predict
from eipnn.labels import LabelStore
from eipnn.potential.committee import Committee
from eipnn.potential.potential import Potential
from eipnn.progress import progress_bar
from eipnn.structures import StructureStore


def force_spreads(committee: Committee, frames: StructureStore) -> np.ndarray:
    """Of each of n structures the largest spread of the force on an atom, eV/A (n,), see `Committee.spread`."""
    spread = committee.spread({"forces": predict(committee, frames).forces})["forces_std"]
    return np.maximum.reduceat(spread, frames.offsets[:-1])


def disagreements(labels: LabelStore, frames: StructureStore) -> np.ndarray:
    """Root mean square over the atoms of the spread of the EIPs' forces, eV/A (n,): free of their energy zeros.

    NaN where fewer than two EIPs have a label.
    """
    forces = labels.forces_of(frames.ids, labels.eips)  # (N, EIPs, 3)
    known = np.isfinite(forces).all(axis=2, keepdims=True)
    count = known.sum(axis=1)
    mean = np.where(known, forces, 0).sum(axis=1) / np.maximum(count, 1)
    apart = np.where(known, forces - mean[:, None], 0)
    variance = np.where(count[:, 0] > 1, (apart**2).sum(axis=(1, 2)) / np.maximum(count[:, 0] - 1, 1), np.nan)
    return np.sqrt(np.add.reduceat(variance, frames.offsets[:-1]) / frames.sizes)


def features(potential: Potential, frames: StructureStore) -> np.ndarray:
    """The mean of f_rep over the atoms of each of n structures (n, d)."""
    means = []
    with torch.no_grad(), progress_bar("features", len(frames), "structures") as advance:
        for rows in batches(frames.sizes, ATOMS):
            graph = potential.graph([frames[row] for row in rows])
            found = potential.representation(graph)
            means.append(global_mean_pool(found, graph.batch, graph.size).numpy())
            advance(len(rows))
    return np.concatenate(means)


def farthest(known: np.ndarray, pool: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Structures one after another, each the farthest from those that are known and those that were taken before, and
    none twice.

    Distances are Euclidean, each feature over its standard deviation in the pool.

    Args:
        known: features of the structures that have DFT (m, d).
        pool: of the others (n, d).
        number: how many are taken, n at most.

    Returns:
        rows of the pool, and the distance of each as it was taken.
    """
    scale = pool.std(axis=0)
    scale[scale == 0] = 1
    known, pool = known / scale, pool / scale
    nearest = np.min([np.linalg.norm(pool - one, axis=1) for one in known], axis=0)
    rows, distances = [], []
    for _ in range(number):
        row = int(nearest.argmax())
        rows.append(row)
        distances.append(float(nearest[row]))
        nearest = np.minimum(nearest, np.linalg.norm(pool - pool[row], axis=1))
        nearest[rows] = -np.inf
    return np.array(rows), np.array(distances)
