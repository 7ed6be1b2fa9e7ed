"""One structure of each kind, drawn again while atoms are too close."""

from typing import Any

import numpy as np
from ase import Atoms

from eipnn.errors import InputError
from eipnn.generate.distance import DistanceRule
from eipnn.generate.dynamics import PICKS, Unfit, trajectory
from eipnn.generate.parents import Frame, Prototype
from eipnn.generate.recipe import Recipe

TRIES = 200  # draws of a structure
MD_TRIES = 10  # trajectories of one number
TRIALS = 300  # places tried for an atom of a packing


def make(recipe: Recipe, kind: str, numbers: list[int]) -> list[Atoms]:
    """The structures of these numbers; of `md` they belong to one trajectory.

    ``info`` of each: `config_id`, `kind`, `parent`, what was drawn (`amplitude` in A, `strain` as xx yy zz yz xz xy,
    `volume_scale`, `temperature` in K, `time` in fs), `draws` (how many it took).

    Raises:
        InputError: no draw kept the atoms apart, or the potential fails.
    """
    md = kind == "md"
    made = _follow(recipe, numbers) if md else [_draw(recipe, kind, n) for n in numbers]
    for number, atoms in zip(numbers, made, strict=True):
        first = {"config_id": f"{kind}-{number:06d}", "kind": kind}
        atoms.info = first | atoms.info
    return made


def _draw(recipe: Recipe, kind: str, number: int) -> Atoms:
    rng = recipe.rng(kind, number)
    parent = recipe.pick(kind, rng)
    for draws in range(1, TRIES + 1):
        made = _once(recipe, kind, rng, parent.draw(rng))
        if made is not None and not recipe.rule.broken(made):
            made.info.update(parent=parent.name, draws=draws)
            return made
    raise _too_close(recipe, kind, parent, f"{TRIES} draws of number {number}")


def _once(recipe: Recipe, kind: str, rng: np.random.Generator, atoms: Atoms) -> Atoms | None:
    match kind:
        case "rattle":
            return rattled(rng, supercell(rng, atoms, recipe.max_atoms), recipe.rattle_max)
        case "strain":
            return strained(rng, atoms, recipe.strain_max, recipe.volumes)
    atoms = supercell(rng, atoms, recipe.max_atoms)
    return packed(rng, atoms, recipe.strain_max, recipe.volumes, recipe.rule)


def _follow(recipe: Recipe, numbers: list[int]) -> list[Atoms]:
    """Frames of one trajectory. It is always run to its end, so that a frame does not depend on how many are asked."""
    rng = recipe.rng("md", numbers[0] // PICKS)
    parent = recipe.pick("md", rng)
    reason = ""
    for draws in range(1, MD_TRIES + 1):
        start = supercell(rng, parent.draw(rng), recipe.max_atoms)
        if recipe.rule.broken(start):
            reason = "atoms of the parent are too close"
            continue
        assert recipe.dynamics is not None  # `Recipe.digest` has asked for it
        try:
            frames = trajectory(rng, start, recipe.dynamics, recipe.rule)
        except Unfit as error:
            reason = str(error)
            continue
        for atoms in frames:
            atoms.info.update(parent=parent.name, draws=draws)
        return [frames[number % PICKS] for number in numbers]
    tries = f"{MD_TRIES} trajectories of numbers {numbers[0]} to {numbers[-1]} (last: {reason})"
    raise _too_close(recipe, "md", parent, tries)


def _too_close(recipe: Recipe, kind: str, parent: Frame | Prototype, tries: str) -> InputError:
    mend = {
        "rattle": "lower --rattle-max",
        "strain": "lower --strain-max, raise --volumes",
        "packed": "raise --volumes",
        "md": "lower --temperatures, name another --eip",
    }[kind]
    numbers = parent.draw(np.random.default_rng(0)).numbers.tolist()
    return InputError(
        f"{kind}: parent {parent.name}: {tries} failed, none of which kept the distances "
        f"{recipe.rule.text(numbers)} (A); {mend}, lower --min-distance, or leave this parent out"
    )


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
    rng: np.random.Generator,
    atoms: Atoms,
    largest: float,
    volumes: tuple[float, float],
    rule: DistanceRule,
) -> Atoms | None:
    """Random sequential packing of the same atoms in a strained cube; None where an atom found no place.

    The volume per atom is drawn around that of `atoms`.
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
            return None
        places = np.vstack([places, trials[free.argmax()]])
    return Atoms(numbers, scaled_positions=places, cell=cell, pbc=True, info=info)
