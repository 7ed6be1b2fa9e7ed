"""Molecular dynamics under an EIP, for structures as they are in warm matter."""

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from eipnn.generate.distance import DistanceRule
from eipnn.generate.recipe import Dynamics

PICKS = 5  # frames of one trajectory
FRICTION = 0.01  # 1/fs; velocities are forgotten in 100 fs
LOOKS, LOOK = 10, 10  # frames with atoms too close: how often one is taken so many steps later


class Unfit(Exception):
    """A draw that gives no structure; the message tells why."""


def trajectory(rng: np.random.Generator, atoms: Atoms, dynamics: Dynamics, rule: DistanceRule) -> list[Atoms]:
    """`PICKS` frames of a Langevin trajectory at a drawn temperature and the volume of `atoms`.

    Raises `Unfit` where the potential fails or atoms stay too close.
    """
    temperature = rng.uniform(*dynamics.temperatures)
    atoms.calc = dynamics.eip.calculator()
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]  # Maxwell and Boltzmann
    atoms.set_momenta(spread * rng.standard_normal((len(atoms), 3)))
    run = Langevin(
        atoms,
        dynamics.timestep * units.fs,
        temperature_K=temperature,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    try:
        return [_pick(run, atoms, dynamics, rule, temperature) for _ in range(PICKS)]
    except Unfit:
        raise
    except Exception as error:  # each potential has its own kinds
        raise Unfit(f"{dynamics.eip.name}: {type(error).__name__}: {error}") from error


def _pick(run: Langevin, atoms: Atoms, dynamics: Dynamics, rule: DistanceRule, temperature: float) -> Atoms:
    run.run(dynamics.steps)
    for _ in range(LOOKS):
        if not rule.broken(atoms):
            break
        run.run(LOOK)
    else:
        raise Unfit(f"atoms stay too close at {temperature:.0f} K")
    frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    frame.wrap()
    time = run.nsteps * dynamics.timestep
    frame.info = {"eip": dynamics.eip.name, "temperature": round(temperature, 2), "time": time}
    return frame
