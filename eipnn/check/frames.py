"""Errors on frames with DFT labels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from eipnn.check.case import Case
from eipnn.check.figures import Figure, Found, Limits, NotRun
from eipnn.evaluate.errors import mae, residuals
from eipnn.evaluate.predict import predict
from eipnn.metrics import ATOM, FORCE
from eipnn.potential.calculator import EIPNNCalculator
from eipnn.report.plots import parity
from eipnn.structures import without_isolated_atoms

ENERGY = Limits(20.0, 200.0)
"""meV/atom; the bad end is that of equations of state elsewhere."""
FORCE_SHARE = Limits(0.2, 1.0)
"""Of the mean size of DFT's: at 1 forces of zero would do as well."""

AT_REST = 1e-3
"""eV/A; frames with smaller forces, as those of an equation of state, judge none."""


def measure(case: Case) -> Found:
    """Mean absolute errors of energies, per atom, and of forces, as a share of the mean size of the components.

    Raises:
        NotRun: no frames are given, or isolated atoms alone.
    """
    if case.frames is None:
        raise NotRun("no DFT frames: --reference FILE")
    calculator, frames = case.calculator, without_isolated_atoms(case.frames)
    if not frames:
        raise NotRun("the DFT frames are isolated atoms alone")
    assert isinstance(calculator, EIPNNCalculator)  # EIPs, whose energies have other zeros, are not asked
    scale = calculator.potential.head.scale
    network = str(scale.device), str(scale.dtype).removeprefix("torch.")
    found = predict(calculator.committee, frames, *network, shown=False).mean()
    errors, known = residuals(found, frames), frames.labelled()
    figures, curves = [], {}
    if (error := mae(errors[ATOM])) is not None:
        of = f"{known['energies'].sum()} frames"
        figures.append(Figure("energy_error", of, 1000 * error, "meV/atom", ENERGY))
        curves["energy"] = _pairs(frames.energies / frames.sizes, found["energy"] / frames.sizes)
    if (error := mae(errors[FORCE])) is not None:
        of, pairs = f"{known['forces'].sum()} frames", _pairs(frames.forces, found["forces"])
        figures.append(Figure("force_error", of, error, "eV/A"))
        if (size := np.abs(pairs[:, 0]).mean()) > AT_REST:
            figures.append(Figure("force_error_share", of, error / size, "mean size", FORCE_SHARE))
        curves["force"] = pairs
    if not figures:
        raise NotRun("the frames have no DFT energies or forces")
    return Found(figures, curves)


def _pairs(dft: np.ndarray, found: np.ndarray) -> np.ndarray:
    """DFT's values that are known and the potential's beside them, (n, 2)."""
    pairs = np.stack([dft.ravel(), found.ravel()], axis=-1)
    return pairs[np.isfinite(pairs).all(axis=1)]


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """DFT against the potential: forces where there are such, else energies."""
    curves = next(iter(founds.values())).curves
    name, unit = ("force", "force components (eV/A)") if "force" in curves else ("energy", "energies (eV/atom)")
    parity(file, {name: (curves[name], "")}, unit, "frames of DFT")
