"""The test errors that a run measures: their names in results and tables, and the units in which people read them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A mean absolute error on the test split."""

    name: str
    unit: str
    """Of results and CSV tables, as their columns spell it."""
    heading: str
    """In text and pictures, with the unit there."""
    factor: float
    """From `unit` to the unit of the heading."""
    form: str
    """Format of the number under the heading."""

    @property
    def result(self) -> str:
        """Its key in the result of a run."""
        return f"test_{self.name}"

    @property
    def validation(self) -> str:
        """Its name in the log of a training."""
        return f"val_{self.name}"

    @property
    def column(self) -> str:
        """Its column in CSV tables."""
        return f"{self.name}_{self.unit}"

    @property
    def deviation(self) -> str:
        """The column of its sample standard deviation."""
        return f"{self.name}_sd"

    def text(self, value: float | None) -> str:
        """A value in `unit` as people read it; nothing where there is none."""
        return "" if value is None else f"{self.factor * value:{self.form}}"

    def with_unit(self, value: float) -> str:
        """The same, with the unit."""
        return f"{self.text(value)} {self.heading.partition('(')[2].rstrip(')')}"


CONFIG = Metric("config_mae", "eV", "config MAE (meV)", 1000, ".1f")
ATOM = Metric("atom_mae", "eV_per_atom", "atom MAE (meV/atom)", 1000, ".2f")
FORCE = Metric("force_mae", "eV_per_A", "force MAE (eV/Å)", 1, ".3f")
STRESS = Metric("stress_mae", "GPa", "stress MAE (GPa)", 1, ".3f")
METRICS = (CONFIG, ATOM, FORCE, STRESS)
"""Energies of configurations and of their atoms, which every run has; force and stress components, where test frames
have such labels."""
