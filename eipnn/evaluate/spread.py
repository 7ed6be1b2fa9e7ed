"""The spread of a committee against its errors: correlation, coverage, and the factor that calibrates it.

The spread s of m members estimates the standard deviation of the error from m - 1 degrees of freedom (of the three
components of a force, which share one spread, three times as many), so that Gaussian errors over it are distributed as
Student's t times a factor, and not as a Gaussian. For many members both are the same. The factor is the one of maximum
likelihood, f^2 = mean((v + 1) z^2 / (v + z^2 / f^2)) with z = error / s and v degrees of freedom (Lange, Little and
Taylor, J. Am. Stat. Assoc. 84, 881, 1989); for large v it is sqrt(mean(z^2)). A single frame on which the members
happen to agree counts for little in it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.units import GPa
from scipy.stats import spearmanr, t

from eipnn.errors import InputError
from eipnn.evaluate.predict import Predictions
from eipnn.potential.committee import Committee, Factor, deviations
from eipnn.structures import StructureStore

LEVELS = (0.68, 0.90)
"""Of the intervals whose coverage is told."""
HELD = 1e-3
"""Share of the root mean square spread below which a value is left out: symmetry holds it where it is, for all
members, and its spread is rounding."""
FEW = 10
"""Frames below which no factor is found."""


@dataclass(frozen=True)
class Spread:
    """Errors and spreads of k energies an atom, forces or components of stress, as they are without a factor."""

    errors: np.ndarray
    """(k, c): of forces c = 3."""
    deviations: np.ndarray
    """Of each component, the same for all c: (k,)."""
    degrees: int
    """Of freedom of a deviation."""
    frames: int
    """From how many frames they are."""
    left_out: int
    """How many others were left out, see `HELD`."""

    @property
    def sizes(self) -> tuple[np.ndarray, np.ndarray]:
        """Spread and absolute error, of forces the norms over their components, (k,) each."""
        return self.deviations * np.sqrt(self.errors.shape[1]), np.linalg.norm(self.errors, axis=1)

    def spearman(self) -> float:
        """Rank correlation of spread and absolute error."""
        return float(spearmanr(*self.sizes)[0])

    def coverage(self, factor: float) -> tuple[float, ...]:
        """The share of errors in the intervals of `LEVELS`, with spreads times a factor."""
        bounds = [t.ppf((1 + level) / 2, self.degrees) * factor * self.deviations[:, None] for level in LEVELS]
        return tuple(float((np.abs(self.errors) <= bound).mean()) for bound in bounds)

    def factor(self) -> Factor:
        """The one of maximum likelihood, see the head of this file."""
        z = np.square(self.errors / self.deviations[:, None])
        square, before = float(z.mean()), np.inf
        if square == 0:
            return Factor(0.0, self.frames)
        while abs(square - before) > 1e-9 * square:
            before = square
            square = float(((self.degrees + 1) * z / (self.degrees + z / square)).mean())
        return Factor(float(np.sqrt(square)), self.frames)


def spreads(found: Predictions, structures: StructureStore) -> dict[str, Spread]:
    """Those of ``energy`` (eV/atom), ``forces`` (eV/A) and ``stress`` (GPa), as far as labels are known."""
    mean, n = found.mean(), structures.sizes
    raw = deviations(found._asdict())
    frame = np.repeat(np.arange(len(n)), n)
    upper = np.triu_indices(3)
    stress, of_stress = (
        values[(slice(None), *upper)].reshape(-1, 1) / GPa
        for values in (mean["stress"] - structures.stresses, raw["stress_std"])
    )
    freedom = len(found.energy) - 1
    given = {
        "energy": ((mean["energy"] - structures.energies)[:, None] / n[:, None], raw["energy_std"] / n, freedom),
        "forces": (mean["forces"] - structures.forces, raw["forces_std"] / np.sqrt(3), 3 * freedom),
        "stress": (stress, of_stress[:, 0], freedom),
    }
    frames = {"energy": np.arange(len(n)), "forces": frame, "stress": np.repeat(np.arange(len(n)), 6)}
    made = {name: _known(*arrays, frames[name]) for name, arrays in given.items()}
    return {name: spread for name, spread in made.items() if spread.frames}


def _known(errors: np.ndarray, deviations: np.ndarray, degrees: int, frames: np.ndarray) -> Spread:
    known = np.isfinite(errors).all(axis=1) & np.isfinite(deviations)
    errors, deviations, frames = errors[known], deviations[known], frames[known]
    moving = deviations > HELD * np.sqrt(np.mean(deviations**2)) if len(deviations) else np.zeros(0, dtype=bool)
    left_out = int((~moving).sum())
    return Spread(errors[moving], deviations[moving], degrees, len(np.unique(frames[moving])), left_out)


def factors(found: Mapping[str, Spread]) -> dict[str, Factor]:
    """Of all that at least `FEW` frames have labels of."""
    made = {name: spread.factor() for name, spread in found.items() if spread.frames >= FEW}
    return {name: factor for name, factor in made.items() if factor.value > 0}


def write_factors(file: Path, found: Mapping[str, Spread]) -> dict[str, Factor]:
    """Write the `factors`, if there are any, into the file of a committee, and give them.

    Raises `InputError` where it is a single potential.
    """
    committee = Committee.load(file)  # as it was, whatever it was evaluated in
    if len(committee) == 1:
        raise InputError(f"{file}: a single potential has no spread to calibrate; give a committee")
    if made := factors(found):
        committee.factors |= made
        committee.save(file)
    return made
