"""The fingerprint of a structure and what it calls near."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

from eipnn.report.duplicates import THRESHOLD, distance, fingerprint, near_duplicates
from eipnn.structures import energy, read_structures

ELEMENTS = (6, 8, 14, 47, 79)


def far(a: Atoms, b: Atoms) -> float:
    for atoms in (a, b):
        atoms.info["config_id"] = "x"
    return distance(fingerprint(a, ELEMENTS), fingerprint(b, ELEMENTS))


@pytest.fixture
def crystal() -> Atoms:
    atoms = bulk("Si", "diamond", a=5.43, cubic=True)
    atoms.symbols[:3] = "C"
    atoms.rattle(0.2, seed=1)
    return atoms


def test_translation_rotation_reflection_and_order_do_not_matter(crystal):
    moved = crystal[np.random.default_rng(0).permutation(len(crystal))]
    moved.translate([1.0, 7.0, -3.0])
    moved.rotate(37, (1, 2, 3), rotate_cell=True)
    assert far(crystal, moved) == pytest.approx(0, abs=1e-9)
    mirrored = Atoms(crystal.symbols, crystal.positions * [-1, 1, 1], cell=crystal.cell * [-1, 1, 1], pbc=True)
    assert far(crystal, mirrored) == pytest.approx(0, abs=1e-9)


def test_choice_of_cell_does_not_matter(crystal):
    sheared = make_supercell(crystal, [[1, 1, 0], [0, 1, 0], [0, 2, 1]], wrap=False)
    for same in (sheared, crystal.repeat((2, 1, 1)), crystal.repeat((1, 2, 2))):
        same.wrap()
        assert far(crystal, same) == pytest.approx(0, abs=1e-9)
    assert far(crystal.repeat((3, 1, 1)), crystal.repeat((1, 2, 1))) == pytest.approx(0, abs=1e-9)


def test_small_moves_are_small_and_large_ones_large(crystal):
    rng = np.random.default_rng(3)
    for size in (0.001, 0.01, 0.1):
        moved = crystal.copy()
        step = rng.normal(size=(8, 3))
        moved.positions += size * step / np.linalg.norm(step, axis=1, keepdims=True)
        # Some distances change by nearly twice what each atom moves by, none by more.
        assert 0.3 * size < far(crystal, moved) <= 2 * size + 1e-9


def test_exchanged_elements_are_far():
    silver = bulk("Ag", "fcc", a=4.09, cubic=True)
    silver.symbols[0] = "Au"
    gold = silver.copy()
    gold.symbols[:] = ["Ag", "Au", "Au", "Au"]
    silver.info["config_id"], gold.info["config_id"] = "a", "b"
    assert near_duplicates([silver], [gold]) == []
    layered, mixed = silver.repeat((2, 1, 1)), silver.repeat((2, 1, 1))
    layered.symbols[:], mixed.symbols[:] = ["Ag"] * 4 + ["Au"] * 4, ["Ag", "Au"] * 4
    assert far(layered, mixed) > 0.1


def test_clusters_and_cells_without_meaning():
    water, boxed = molecule("CO"), molecule("CO")
    boxed.cell = [9, 9, 9]  # not periodic: the cell says nothing
    assert far(water, boxed) == pytest.approx(0, abs=1e-9)
    boxed.pbc, boxed.cell = True, [4, 4, 4]
    assert far(water, boxed) > 0.1


def test_near_duplicates_finds_what_was_hidden():
    rng = np.random.default_rng(0)
    test, pool = [], []
    for i in range(6):
        atoms = bulk("Si", "diamond", a=5.2 + 0.1 * i, cubic=True)
        atoms.rattle(0.1, seed=i)
        atoms.info["config_id"] = f"t{i}"
        test.append(atoms)
    for i in (4, 1):
        twin = test[i].repeat((1, 2, 1))
        twin.rotate(20, "z", rotate_cell=True)
        twin.positions += rng.uniform(-0.4, 0.4, twin.positions.shape) * THRESHOLD / 2
        twin.info["config_id"] = f"p{i}"
        pool.append(twin)
    loose = test[2].copy()
    loose.rattle(0.05, seed=9)
    loose.info["config_id"] = "loose"
    found = near_duplicates(test, [*pool, loose])
    assert [(a, b) for a, b, _ in found] == [("t1", "p1"), ("t4", "p4")]
    assert all(0 < d <= THRESHOLD for *_, d in found)
    assert ("t2", "loose") in [(a, b) for a, b, _ in near_duplicates(test, [loose], 0.2)]


def test_the_threshold_is_below_what_is_learned():
    frames = {a.info["config_id"]: a for a in read_structures("bundled:si_mini/dft.extxyz")}
    per_atom = {name: energy(atoms) / len(atoms) for name, atoms in frames.items()}
    pairs = [p for p in near_duplicates([*frames.values()], [*frames.values()]) if p[0] < p[1]]
    assert len(pairs) > 10
    assert max(abs(per_atom[a] - per_atom[b]) for a, b, _ in pairs) < 0.02  # eV/atom
