"""Errors on frames with DFT labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eipnn.check.case import Case
from eipnn.check.crystals import placed
from eipnn.check.figures import Figure, Found, Limits, NotRun
from eipnn.report.plots import parity
from eipnn.structures import without_isolated_atoms

ENERGY = Limits(20.0, 200.0)
"""meV/atom; the bad end is that of equations of state elsewhere."""
FORCE = Limits(0.2, 1.0)
"""Of the mean size of DFT's: at 1 forces of zero would do as well."""


def measure(case: Case) -> Found:
    """Mean absolute errors of energies, per atom, and of forces, as a share of the mean size of the components.

    Raises:
        NotRun: no frames are given.
    """
    if case.frames is None:
        raise NotRun("no DFT frames: --reference FILE")
    frames = without_isolated_atoms(case.frames)
    energies, forces = [], []
    for row, atoms in enumerate(frames):
        own = placed(atoms, case.calculator)
        if np.isfinite(frames.energies[row]):
            energies.append((frames.energies[row] / len(atoms), own.get_potential_energy() / len(atoms)))
        known = frames.forces[frames.offsets[row] : frames.offsets[row + 1]]
        if len(known) and np.isfinite(known).all():
            forces.append(np.stack([known, own.get_forces()], axis=-1).reshape(-1, 2))
    figures, curves = [], {}
    if energies:
        pairs = np.array(energies)
        error = 1000 * np.abs(pairs[:, 0] - pairs[:, 1]).mean()
        figures.append(Figure("energy_error", f"{len(pairs)} frames", error, "meV/atom", ENERGY))
        curves["energy"] = pairs
    if forces:
        pairs = np.concatenate(forces)
        error, size = np.abs(pairs[:, 0] - pairs[:, 1]).mean(), np.abs(pairs[:, 0]).mean()
        figures.append(Figure("force_error", f"{len(forces)} frames", error, "eV/A"))
        figures.append(Figure("force_error_share", f"{len(forces)} frames", error / size, "mean size", FORCE))
        curves["force"] = pairs
    if not figures:
        raise NotRun("the frames have no DFT energies or forces")
    return Found(figures, curves)


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """DFT against the potential: forces where there are such, else energies."""
    curves = next(iter(founds.values())).curves
    name, unit = ("force", "force components (eV/A)") if "force" in curves else ("energy", "energies (eV/atom)")
    parity(file, {name: (curves[name], "")}, unit, "frames of DFT")
