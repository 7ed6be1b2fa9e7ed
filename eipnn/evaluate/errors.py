"""Errors against the labels that are there: by frame, by group of frames, by element."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from ase.data import chemical_symbols
from ase.units import GPa

from eipnn.metrics import ATOM, CONFIG, FORCE, METRICS, STRESS, Metric
from eipnn.structures import StructureStore


def residuals(found: Mapping[str, np.ndarray], structures: StructureStore) -> dict[Metric, np.ndarray]:
    """Prediction less label in the unit of each metric: energies (n,), forces (N, 3), stress (n, 3, 3); NaN where
    there is no label.

    Args:
        found: of `Predictions.mean`.
        structures: n with N atoms.
    """
    energy = found["energy"] - structures.energies
    return {
        CONFIG: energy,
        ATOM: energy / structures.sizes,
        FORCE: found["forces"] - structures.forces,
        STRESS: (found["stress"] - structures.stresses) / GPa,
    }


def mae(errors: np.ndarray) -> float | None:
    """Mean of the absolute values of what is known; None where nothing is."""
    known = errors[np.isfinite(errors)]
    return float(np.abs(known).mean()) if len(known) else None


def rmse(errors: np.ndarray) -> float | None:
    """Root mean square of what is known; None where nothing is."""
    known = errors[np.isfinite(errors)]
    return float(np.sqrt(np.square(known).mean())) if len(known) else None


def maes(found: Mapping[str, np.ndarray], structures: StructureStore) -> dict[str, float | None]:
    """Mean absolute errors by name of the metric, in its unit; None where there are no such labels."""
    return {metric.name: mae(errors) for metric, errors in residuals(found, structures).items()}


def by_group(
    errors: Mapping[Metric, np.ndarray], structures: StructureStore, groups: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """A line a group of rows (k,): frames, and MAE / RMSE of each metric of which there are labels, as text."""
    shown = [metric for metric in METRICS if np.isfinite(errors[metric]).any()]
    lines = []
    for name, rows in groups.items():
        places = {metric: structures.atoms_of(rows) if metric is FORCE else rows for metric in shown}
        cells = {_heading(metric): _both(errors[metric][places[metric]], metric) for metric in shown}
        lines.append({"": name, "frames": str(len(rows))} | cells)
    return pd.DataFrame(lines)


def by_element(errors: Mapping[Metric, np.ndarray], structures: StructureStore) -> pd.DataFrame:
    """A line an element: atoms with labels, and MAE / RMSE of the components of their forces, as text."""
    lines = []
    for z in np.unique(structures.numbers).tolist():
        mine = errors[FORCE][structures.numbers == z]
        count = str(np.isfinite(mine).all(axis=1).sum())
        lines.append({"": chemical_symbols[z], "atoms": count, _heading(FORCE): _both(mine, FORCE)})
    return pd.DataFrame(lines)


def by_frame(
    errors: Mapping[Metric, np.ndarray], structures: StructureStore, types: np.ndarray, spread: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """A line a frame: signed errors of energy, MAEs of force and stress components; of a committee the ``energy_std``
    (eV), and the root mean squares of ``forces_std`` (eV/A) and ``stress_std`` (GPa)."""
    starts = structures.offsets[:-1]
    table = pd.DataFrame({"config_id": structures.ids, "config_type": types, "n_atoms": structures.sizes})
    table["config_error_eV"], table["atom_error_eV_per_atom"] = errors[CONFIG], errors[ATOM]
    table[FORCE.column] = np.add.reduceat(np.abs(errors[FORCE]).mean(axis=1), starts) / structures.sizes
    table[STRESS.column] = np.abs(errors[STRESS]).mean(axis=(1, 2))
    if spread:
        squares = np.add.reduceat(np.square(spread["forces_std"]), starts) / structures.sizes
        table["energy_std_eV"], table["forces_std_eV_per_A"] = spread["energy_std"], np.sqrt(squares)
        table["stress_std_GPa"] = np.sqrt(np.square(spread["stress_std"]).mean(axis=(1, 2))) / GPa
    return table


def _heading(metric: Metric) -> str:
    return metric.heading.replace(" MAE", "")


def _both(errors: np.ndarray, metric: Metric) -> str:
    """MAE / RMSE as people read them; nothing without labels."""
    return " / ".join(filter(None, (metric.text(mae(errors)), metric.text(rmse(errors)))))
