"""Molecular dynamics of each crystal: energy that is kept (NVE), and a ramp from 300 to 3000 K."""

from collections.abc import Callable, Mapping
from itertools import cycle
from math import isfinite, nan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from scipy.stats import linregress

from eipnn.check.case import Case
from eipnn.check.crystals import placed, supercell
from eipnn.check.dimers import CLOSE
from eipnn.check.figures import Figure, Found, Limits
from eipnn.generate.distance import RADII
from eipnn.neighbours import pairs
from eipnn.report.plots import PALETTE, canvas

SIZE = 7.0
"""A between the faces of the cell, at least."""
TIMESTEP = 1.0
"""fs"""
LOOK = 10
"""Steps between two looks at the atoms."""
BLOCKS = 20
"""Parts of a run whose means are fitted: within them energies are correlated."""
RAMP = (300.0, 3000.0)
FRICTION = 0.02
"""1/fs, of the ramp: temperatures follow within 50 fs."""
HOT = 5.0
"""Times the temperature that is set, in K; more comes of energy that was not kept."""
WHOLE = Limits(1.0, 0.999)
DRIFT = Limits(1.0, 10.0)
"""meV/atom/ps"""
SHARE = Limits(0.1, 1.0)
"""Of |slope| x time in the deviation of the kinetic energy."""


def boxes(case: Case) -> dict[str, Atoms]:
    """Of each crystal a supercell, with its calculator."""
    return {name: placed(supercell(c.atoms, SIZE), case.calculator) for name, c in case.crystals.items()}


def set_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell's and Boltzmann's at this temperature (K), at rest as a whole."""
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(spread * rng.standard_normal((len(atoms), 3)))
    Stationary(atoms)


def broken(atoms: Atoms, temperature: float) -> str:
    """How the atoms left what is physical at a temperature (K) that was set; empty where they did not."""
    if not (np.isfinite(atoms.positions).all() and isfinite(atoms.get_total_energy())):
        return "positions or energy are NaN"
    if atoms.get_temperature() > HOT * temperature:
        return f"{atoms.get_temperature():.0f} K at {temperature:.0f} K"
    i, j, distance, _ = pairs(atoms, CLOSE * RADII[np.ix_(atoms.numbers, atoms.numbers)].max())
    near = distance < CLOSE * RADII[atoms.numbers[i], atoms.numbers[j]]
    return f"atoms {distance[near].min():.2f} A apart" if near.any() else ""


def followed(
    run: VelocityVerlet | Langevin, atoms: Atoms, steps: int, temperature: Callable[[float], float]
) -> tuple[np.ndarray, str]:
    """Times (ps), potential and kinetic energies (eV) in every step up to the end, or to the last look before a break,
    and how it broke.

    `temperature` gives what is set (K) by the share of the run that is done.
    """
    try:
        rows = [(0.0, atoms.get_potential_energy(), atoms.get_kinetic_energy())]
    except Exception as error:  # each potential has its own kinds
        return np.array([[0.0], [nan], [nan]]), f"{type(error).__name__}: {error}"
    problem, good = "", 1
    while len(rows) <= steps and not problem:
        aim = temperature((len(rows) - 1) / steps)
        if isinstance(run, Langevin):
            run.set_temperature(temperature_K=aim)
        try:
            for _ in range(min(LOOK, steps + 1 - len(rows))):
                run.run(1)
                time = len(rows) * TIMESTEP / 1000
                rows.append((time, atoms.get_potential_energy(), atoms.get_kinetic_energy()))
            problem = broken(atoms, aim)
            good = good if problem else len(rows)
        except Exception as error:  # each potential has its own kinds
            problem = f"{type(error).__name__}: {error}"
    return np.array(rows[:good]).T, problem


def steps_of(case: Case) -> int:
    """Of each run, at least enough for its blocks."""
    return max(round(1000 * case.time / TIMESTEP), 2 * BLOCKS)


class Curve(NamedTuple):
    """What the picture shows of a run, in each step up to its end or break."""

    time: np.ndarray
    """ps"""
    energy: np.ndarray
    """meV/atom over that of the beginning: the total one at constant energy, else the potential one."""
    temperature: np.ndarray
    """K"""


def measure_nve(case: Case) -> Found:
    """Drift of the total energy of each crystal at constant energy."""
    figures, curves = [], {}
    for name, atoms in boxes(case).items():
        steps, n = steps_of(case), len(atoms)
        set_momenta(atoms, case.temperature, np.random.default_rng(case.seed))
        run = VelocityVerlet(atoms, TIMESTEP * units.fs)
        rows, problem = followed(run, atoms, steps, lambda share: case.temperature)
        share = (rows.shape[1] - 1) / steps
        note = f"broke at {rows[0, -1]:.3f} ps: {problem}" if problem else f"{n} atoms"
        figures.append(Figure("nve_run", name, share, "of the run", WHOLE, note=note))
        curves[name] = curve_of(rows, n, rows[1] + rows[2])
        if not problem:
            slope, error, part = drift(*rows)
            note = f"+- {1000 * error / n:.2g}"
            figures += [
                Figure("nve_drift", name, abs(1000 * slope / n), "meV/atom/ps", DRIFT, note=note),
                Figure("nve_share", name, part, "std of kinetic energy", SHARE),
            ]
    return Found(figures, {"crystals": curves})


def curve_of(rows: np.ndarray, n: int, energy: np.ndarray) -> Curve:
    """Of a run of n atoms: time (ps), potential and kinetic energies (eV) as rows, and the energy that is shown."""
    return Curve(rows[0], 1000 * (energy - energy[0]) / n, rows[2] / (1.5 * units.kB * n))


def drift(time: np.ndarray, potential: np.ndarray, kinetic: np.ndarray) -> tuple[float, float, float]:
    """Slope of the total energy (eV/ps) with its standard error, and |slope| x time over the kinetic deviation.

    The first tenth, in which a crystal at rest takes half of its kinetic energy as potential energy, is left out.
    """
    begin = len(time) // 10
    blocks = np.array_split(np.arange(begin, len(time)), BLOCKS)
    total = potential + kinetic
    fit = linregress([time[b].mean() for b in blocks], [total[b].mean() for b in blocks])
    span = time[-1] - time[begin]
    return fit.slope, fit.stderr, abs(fit.slope) * span / kinetic[begin:].std()


def measure_heating(case: Case) -> Found:
    """How far each crystal goes on a ramp of temperature at constant volume, until it leaves what is physical."""
    figures, curves = [], {}
    steps, (low, high) = steps_of(case), RAMP
    for name, atoms in boxes(case).items():
        rng = np.random.default_rng(case.seed)
        set_momenta(atoms, 2 * low, rng)  # a crystal at rest takes half of it as potential energy
        friction = FRICTION / units.fs
        run = Langevin(atoms, TIMESTEP * units.fs, temperature_K=low, friction=friction, fixcm=False, rng=rng)
        rows, problem = followed(run, atoms, steps, lambda share: low + share * (high - low))
        share = (rows.shape[1] - 1) / steps
        curves[name] = curve = curve_of(rows, len(atoms), rows[1])
        last = curve.temperature[-max(rows.shape[1] // 10, 1) :].mean()
        note = f"{len(atoms)} atoms, at the end {last:.0f} K"
        if problem:
            note = f"broke at {low + share * (high - low):.0f} K: {problem}"
        figures.append(Figure("heating_run", name, share, "of 300 to 3000 K", WHOLE, note=note))
    return Found(figures, {"crystals": curves, "set": ((0, steps * TIMESTEP / 1000), RAMP)})


def draw_nve(file: Path, founds: Mapping[str, Found]) -> None:
    """Total energy and temperature over time."""
    _draw(file, next(iter(founds.values())), "total energy")


def draw_heating(file: Path, founds: Mapping[str, Found]) -> None:
    """Potential energy and temperature over time."""
    _draw(file, next(iter(founds.values())), "potential energy")


def _draw(file: Path, found: Found, energy: str) -> None:
    with canvas(file, 9.0, 3.6, columns=2) as (_, (left, right)):
        for (name, curve), colour in zip(found.curves["crystals"].items(), cycle(PALETTE), strict=False):
            left.plot(curve.time, curve.energy, color=colour, linewidth=0.8)
            right.plot(curve.time, curve.temperature, color=colour, linewidth=0.8, label=name)
        if "set" in found.curves:
            right.plot(*found.curves["set"], color="0.4", linewidth=1.5, label="set")
        left.set(xlabel="time (ps)", ylabel=f"{energy} (meV/atom)")
        right.set(xlabel="time (ps)", ylabel="temperature (K)")
        right.legend(frameon=False)
        left.grid()
        right.grid()
