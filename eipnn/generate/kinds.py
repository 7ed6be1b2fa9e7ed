"""One structure of each kind, drawn again while atoms are too close."""

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.langevin import Langevin

from eipnn.errors import InputError
from eipnn.generate.distance import DistanceRule
from eipnn.generate.recipe import Recipe

TRIES = 200  # draws of a structure
MD_TRIES = 10  # trajectories of one number
TRIALS = 300  # places tried for an atom of a packing
PICKS = 5  # frames of one trajectory
FRICTION = 0.01  # 1/fs; velocities are forgotten in 100 fs
LOOKS, LOOK = 10, 10  # frames with atoms too close: how often one is taken so many steps later
MENDS = {
    "rattle": "lower --rattle-max",
    "strain": "lower --strain-max, raise --volumes",
    "packed": "raise --volumes",
    "md": "lower --temperatures, name another --eip",
}


class Unfit(Exception):
    """A draw that gives no structure; the message tells why."""


def make(recipe: Recipe, kind: str, numbers: list[int]) -> list[Atoms]:
    """The structures of these numbers; of `md` they belong to one trajectory.

    ``info`` of each: `config_id`, `kind`, `parent` and, of a frame, `parent_digest`, what was drawn (`amplitude` in A,
    `strain` as xx yy zz yz xz xy, `volume_scale`, `temperature` in K, `time` in fs), `draws` (how many it took).

    Raises:
        InputError: no draw kept the atoms apart, or the potential fails.
    """
    if kind == "md":
        what = f"trajectories of numbers {numbers[0]} to {numbers[-1]}"
        # always run to its end, so that a frame does not depend on how many are asked
        frames = _drawn(recipe, kind, numbers[0] // PICKS, MD_TRIES, what)
        made = [frames[number % PICKS] for number in numbers]
    else:
        made = [_drawn(recipe, kind, n, TRIES, f"draws of number {n}")[0] for n in numbers]
    for number, atoms in zip(numbers, made, strict=True):
        atoms.info = {"config_id": f"{kind}-{number:06d}", "kind": kind} | atoms.info
    return made


def _drawn(recipe: Recipe, kind: str, number: int, tries: int, what: str) -> list[Atoms]:
    """What the first draw that keeps the atoms apart gives; the random numbers are those of `number`."""
    rng = recipe.rng(kind, number)
    parent = recipe.pick(kind, rng)
    last = ""
    for draws in range(1, tries + 1):
        try:
            made = _once(recipe, kind, rng, parent.draw(rng))
        except Unfit as error:
            last = f" (last: {error})" if kind == "md" else ""
            continue
        for atoms in made:
            atoms.info.update(parent.told(), draws=draws)
        return made
    numbers = parent.draw(np.random.default_rng(0)).numbers.tolist()
    raise InputError(
        f"{kind}: parent {parent.name}: {tries} {what}{last} failed, none of which kept the distances "
        f"{recipe.rule.text(numbers)} (A); {MENDS[kind]}, lower --min-distance, or leave this parent out"
    )


def _once(recipe: Recipe, kind: str, rng: np.random.Generator, atoms: Atoms) -> list[Atoms]:
    """One draw. Raises `Unfit` where atoms are too close."""
    if kind != "strain":
        atoms = supercell(rng, atoms, recipe.max_atoms)
    match kind:
        case "rattle":
            atoms = rattled(rng, atoms, recipe.rattle_max)
        case "strain":
            atoms = strained(rng, atoms, recipe.strain_max, recipe.volumes)
        case "packed":
            atoms = packed(rng, atoms, recipe.strain_max, recipe.volumes, recipe.rule)
    if recipe.rule.broken(atoms):
        raise Unfit("atoms of the parent are too close")
    return trajectory(rng, atoms, recipe) if kind == "md" else [atoms]


def supercell(rng: np.random.Generator, atoms: Atoms, max_atoms: int) -> Atoms:
    """Repeat `atoms` along the shortest periodic axes to a random number of cells, up to `max_atoms` atoms.

    A cell of one atom is repeated at least once: nothing can move in it.
    """
    if not atoms.pbc.any():
        return atoms
    fewest = 2 if len(atoms) == 1 else 1
    cells = rng.integers(fewest, max(fewest, max_atoms // len(atoms)) + 1)
    lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
    repeats = np.ones(3, dtype=int)
    while True:
        grown = repeats.copy()
        grown[np.argmin(lengths * repeats)] += 1
        if grown.prod() > cells:
            return atoms.repeat(repeats.tolist())
        repeats = grown


def rattled(rng: np.random.Generator, atoms: Atoms, largest: float) -> Atoms:
    """Gaussian displacements; their standard deviation along an axis is drawn from 0 to `largest` (A)."""
    amplitude = rng.uniform(0, largest)
    atoms.positions += rng.normal(0, amplitude, (len(atoms), 3))
    atoms.info = {"amplitude": round(amplitude, 6)}
    return atoms


def strained(rng: np.random.Generator, atoms: Atoms, largest: float, volumes: tuple[float, float]) -> Atoms:
    """A symmetric strain with components up to `largest`, then scaled to a volume drawn from `volumes`."""
    deformation, info = _deformation(rng, largest, volumes)
    atoms.set_cell(atoms.cell.array @ deformation)
    atoms.positions = atoms.positions @ deformation
    atoms.info = info
    return atoms


def _deformation(
    rng: np.random.Generator, largest: float, volumes: tuple[float, float]
) -> tuple[np.ndarray, dict[str, Any]]:
    """A symmetric matrix (3, 3) whose determinant is the drawn volume."""
    xx, yy, zz, yz, xz, xy = strain = rng.uniform(-largest, largest, 6)
    shape = np.eye(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    volume = rng.uniform(*volumes)
    scale = (volume / np.linalg.det(shape)) ** (1 / 3)
    return shape * scale, {"strain": strain.round(6), "volume_scale": round(volume, 6)}


def packed(
    rng: np.random.Generator, atoms: Atoms, largest: float, volumes: tuple[float, float], rule: DistanceRule
) -> Atoms:
    """Random sequential packing of the same atoms in a strained cube; the volume per atom is around that of `atoms`.

    Raises `Unfit` where an atom found no place.
    """
    deformation, info = _deformation(rng, largest, volumes)
    cell = np.cbrt(atoms.get_volume()) * deformation
    numbers = rng.permutation(atoms.numbers)
    places = np.zeros((0, 3))  # relative to the cell
    for k, number in enumerate(numbers):
        trials = rng.random((TRIALS, 3))
        apart = trials[:, None] - places[None]  # (TRIALS, k, 3)
        apart -= apart.round()
        distances = np.linalg.norm(apart @ cell, axis=-1)
        free = (distances >= rule.shortest[number, numbers[:k]]).all(axis=1)
        if not free.any():
            raise Unfit("an atom found no place")
        places = np.vstack([places, trials[free.argmax()]])
    return Atoms(numbers, scaled_positions=places, cell=cell, pbc=True, info=info)


def trajectory(rng: np.random.Generator, atoms: Atoms, recipe: Recipe) -> list[Atoms]:
    """`PICKS` frames of a Langevin trajectory at a drawn temperature and the volume of `atoms`.

    Raises `Unfit` where the potential fails or atoms stay too close.
    """
    assert recipe.eip is not None  # `Recipe.digest` has asked for it
    temperature = rng.uniform(*recipe.temperatures)
    atoms.calc = recipe.eip.calculator()
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]  # Maxwell and Boltzmann
    atoms.set_momenta(spread * rng.standard_normal((len(atoms), 3)))
    step, friction = recipe.timestep * units.fs, FRICTION / units.fs
    run = Langevin(atoms, step, temperature_K=temperature, friction=friction, fixcm=False, rng=rng)
    frames = []
    try:
        for _ in range(PICKS):
            run.run(recipe.md_steps)
            for _ in range(LOOKS):
                if not recipe.rule.broken(atoms):
                    break
                run.run(LOOK)
            else:
                raise Unfit(f"atoms stay too close at {temperature:.0f} K")
            frame = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            frame.wrap()
            time = run.nsteps * recipe.timestep
            frame.info = {"eip": recipe.eip.name, "temperature": round(temperature, 2), "time": time}
            frames.append(frame)
    except Unfit:
        raise
    except Exception as error:  # each potential has its own kinds
        raise Unfit(f"{recipe.eip.name}: {type(error).__name__}: {error}") from error
    return frames
