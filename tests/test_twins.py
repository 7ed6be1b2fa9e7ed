"""Which structures are the same, atom by atom, whoever printed them."""

import io
from itertools import permutations, product

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.structures import StructureStore, open_structures
from eipnn.structures.suspects import repeated_structures, same_structures
from eipnn.structures.twins import APART, REACH, _blocks, _marks, first_twins

CELL = np.array([[4.0, 0.1, 0.2], [1.3, 5.0, 0.4], [-0.6, 0.9, 6.1]])
AXES = [(True, True, True), (True, True, False), (False, True, False), (False, False, False)]


def drawn(seed: int, n: int, pbc: tuple[bool, ...] = AXES[0]) -> list[Atoms]:
    """Structures of one composition and cell, with many digits."""
    rng = np.random.default_rng(seed)
    return [Atoms("Cu3Al2", cell=CELL, pbc=pbc, scaled_positions=rng.random((5, 3))) for _ in range(n)]


def moved(frames: list[Atoms], by) -> list[Atoms]:
    """Copies whose positions are what `by` gives."""
    copies = [atoms.copy() for atoms in frames]
    for atoms in copies:
        atoms.positions = by(atoms.positions)
    return copies


def twins(first: list[Atoms], second: list[Atoms]) -> list[int]:
    return first_twins(StructureStore.of(first), StructureStore.of(second)).tolist()


@pytest.mark.parametrize("pbc", AXES)
def test_what_a_program_prints_is_the_same(pbc):
    """Rounded, with noise, in other images and in another order, all at once."""
    frames, rng = drawn(0, 60, pbc), np.random.default_rng(1)
    everyone = list(range(len(frames)))
    for decimals in (4, 5, 6, 7, 12):
        assert twins(frames, moved(frames, lambda x, d=decimals: x.round(d))) == everyone
    for noise in (1e-7, 3e-6, 1e-4):
        others = moved(frames, lambda x, a=noise: x + rng.uniform(-a, a, x.shape))
        for atoms in others:
            atoms.positions += rng.integers(-2, 3, (5, 3)) * np.array(pbc) @ CELL
            atoms.set_cell(atoms.cell.array + rng.uniform(-noise, noise, (3, 3)) / 10)
        assert twins(frames, [atoms[rng.permutation(5)] for atoms in others]) == everyone


@pytest.mark.parametrize("pbc", AXES)
def test_what_differs_by_a_hundredth_of_an_angstrom_is_another(pbc):
    frames, rng = drawn(0, 60, pbc), np.random.default_rng(1)
    one = np.zeros((5, 3))
    one[2, 1] = 0.01
    assert set(twins(frames, moved(frames, lambda x: x + one))) == {-1}
    assert set(twins(frames, moved(frames, lambda x: x + rng.normal(0, 0.01, x.shape)))) == {-1}
    swapped = [Atoms(atoms.numbers[[0, 3, 2, 1, 4]], atoms.positions, cell=CELL, pbc=pbc) for atoms in frames]
    assert set(twins(frames, swapped)) == {-1}
    if any(pbc):
        wider = [atoms.copy() for atoms in frames]
        for atoms in wider:
            atoms.set_cell(CELL + 0.005, scale_atoms=True)
        assert set(twins(frames, wider)) == {-1}
        assert set(twins(frames, drawn(0, 60, tuple(not axis for axis in pbc)))) == {-1}


def test_a_round_by_poscar():
    """Sorted by element, with relative places."""
    frames = [bulk("NaCl", "rocksalt", 5.64, cubic=True) for _ in range(40)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    back = []
    for atoms in frames:
        stream = io.StringIO()
        ase.io.write(stream, atoms, format="vasp", direct=True, sort=True)
        stream.seek(0)
        back.append(ase.io.read(stream, format="vasp"))
    assert (back[0].numbers != frames[0].numbers).any()
    assert twins(frames, back) == list(range(40))


def test_places_at_the_end_of_the_cell():
    """An atom a hair below a cell's end is at its beginning."""
    first, second = Atoms("CuAl", cell=CELL, pbc=True), Atoms("AlCu", cell=CELL, pbc=True)
    first.positions[1] = second.positions[0] = [1.0, 1.1, 1.2]
    for tiny in (-1e-20, -1e-9, 1e-9):
        second.positions[1] = tiny * CELL[0] + (1 - tiny) * CELL[1]
        assert twins([first], [second]) == [0]


def test_the_first_of_several_twins_is_told():
    a, b = drawn(0, 2)
    frames = [a, b, *moved([a], lambda x: x + 2e-4), a, b[::-1], a]
    assert repeated_structures(frames) == [(0, 2), (0, 3), (1, 4), (0, 5)]
    named = [atoms.copy() for atoms in frames]
    for k, atoms in enumerate(named):
        atoms.info["config_id"] = f"x{k}"
    assert same_structures(named[1:4], named[4:]) == [("x1", "x4"), ("x2", "x5")]
    assert same_structures([], named) == same_structures(named, []) == repeated_structures([]) == []


def slow(first: Atoms, second: Atoms) -> bool:
    """The same by all orders and the images around."""
    if (first.pbc != second.pbc).any() or sorted(first.numbers) != sorted(second.numbers):
        return False
    images = np.array(list(product((-1, 0, 1), repeat=3))) * first.pbc @ first.cell.array
    apart = first.positions[:, None, None] - second.positions[None, :, None] + images  # (n, n, 27, 3)
    apart = np.linalg.norm(apart, axis=-1).min(axis=-1)
    apart[first.numbers[:, None] != second.numbers] = np.inf
    orders = permutations(range(len(first)))
    return any((apart[range(len(first)), list(order)] <= APART).all() for order in orders)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    noise=st.sampled_from([0.0, 1e-6, 4e-4, 1e-3, 3e-3]),
)
def test_as_a_plain_search_finds(seed, pbc, noise):
    """Of small random structures, half of which are others with noise, in another order and other images."""
    rng = np.random.default_rng(seed)
    cell = 3 * np.eye(3) + rng.uniform(-0.8, 0.8, (3, 3))
    frames = [Atoms(rng.choice([13, 29], 3), cell=cell, pbc=pbc, positions=rng.random((3, 3)) @ cell) for _ in range(8)]
    for k in rng.integers(8, size=8):
        atoms = frames[k][rng.permutation(3)]
        atoms.positions += rng.uniform(-noise, noise, (3, 3))
        atoms.wrap(eps=0)
        frames.append(atoms)
    found = [next((a for a in range(b) if slow(frames[a], frames[b])), -1) for b in range(len(frames))]
    store = StructureStore.of(frames)
    assert first_twins(store, store, earlier=True).tolist() == found


def test_marks_of_the_same_are_within_reach():
    """However far atoms go within the tolerance; those of a real set are apart."""
    store = open_structures("bundled:agau_mini/dft.extxyz")
    rng, others = np.random.default_rng(0), []
    for atoms in store:
        step = rng.normal(size=(len(atoms), 3))
        atoms.positions += APART * step / np.linalg.norm(step, axis=1, keepdims=True)
        turn = rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array + APART * turn / np.linalg.norm(turn, axis=1, keepdims=True), scale_atoms=True)
        others.append(atoms)
    marks = [np.concatenate([_marks(s, rows) for rows in _blocks(len(s))]) for s in (store, StructureStore.of(others))]
    assert np.abs(marks[0] - marks[1]).max() <= REACH
    assert repeated_structures(store) == []
