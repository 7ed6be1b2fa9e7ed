"""Structures as flat arrays: what goes in comes out, in memory and on disk."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st

from eipnn.errors import InputError
from eipnn.structures import read_structures
from eipnn.structures.store import ARRAYS, StructureStore


def frames() -> list[Atoms]:
    """A labelled crystal, a molecule with an energy alone, a slab without labels and a lone atom."""
    rng = np.random.default_rng(0)
    crystal, slab, lone = bulk("NaCl", "rocksalt", a=5.64), bulk("Cu", cubic=True), Atoms("Au")
    slab.pbc = (True, True, False)
    water = molecule("H2O")
    forces, stress = rng.normal(size=(2, 3)), rng.normal(size=6)
    crystal.calc = SinglePointCalculator(crystal, energy=-6.5, forces=forces, stress=stress)
    water.calc = SinglePointCalculator(water, energy=0.0)
    made = [crystal, water, slab, lone]
    for name, atoms in zip(("007", "water", "slab", "12E5"), made, strict=True):
        atoms.info["config_id"] = name
    return made


def same(a: Atoms, b: Atoms) -> None:
    assert a.info["config_id"] == b.info["config_id"]
    assert a == b  # species, positions, cell and periodicity
    results = [atoms.calc.results if atoms.calc else {} for atoms in (a, b)]
    assert results[0].keys() == results[1].keys()
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


@pytest.mark.parametrize("mapped", [False, True])
def test_structures_come_back(tmp_path, mapped):
    store = StructureStore.of(frames())
    if mapped:
        store.write(tmp_path / "store")
        store = StructureStore.open(tmp_path / "store")
    assert len(store) == 4
    assert store.sizes.tolist() == [2, 3, 4, 1]
    for row, atoms in enumerate(frames()):
        same(store.atoms(row), atoms)
    assert store.rows(["slab", "007"]).tolist() == [2, 0]
    assert "007" in store
    assert "7" not in store
    with pytest.raises(KeyError):
        store.rows(["7"])


def test_the_bundled_frames_come_back(tmp_path):
    given = read_structures("bundled:si_mini/dft.extxyz")
    StructureStore.of(given).write(tmp_path / "store")
    store = StructureStore.open(tmp_path / "store")
    for row in (0, 100, 516):
        same(store.atoms(row), given[row])
    np.testing.assert_array_equal(store.energies, [a.get_potential_energy() for a in given])


@given(st.lists(st.integers(0, 3), max_size=8))
def test_compositions_and_atoms_of_any_rows(rows):
    given = frames()
    store, rows = StructureStore.of(given), np.array(rows, dtype=np.int64)
    atoms = store.atoms_of(rows)
    expected = [z for row in rows for z in given[row].numbers]
    assert store.numbers[atoms].tolist() == expected
    numbers, counts = store.composition(rows)
    assert numbers.tolist() == sorted(set(expected))
    for line, row in zip(counts, rows, strict=True):
        assert line.tolist() == [np.sum(given[row].numbers == z) for z in numbers]
    assert store.elements(rows) == sorted({s for row in rows for s in given[row].symbols})


def test_no_structures(tmp_path):
    StructureStore.of([]).write(tmp_path / "none")
    store = StructureStore.open(tmp_path / "none")
    assert len(store) == 0
    assert store.elements(np.arange(0)) == []


@pytest.mark.parametrize("damage", [*(f"{name}.npy" for name in ARRAYS), "ids.txt", "index.json"])
def test_a_damaged_store_is_refused(tmp_path, damage):
    StructureStore.of(frames()).write(tmp_path / "store")
    file = tmp_path / "store" / damage
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="no whole store of structures; remove the folder"):
        StructureStore.open(tmp_path / "store")


def test_a_store_that_is_being_written_is_not_there(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="disk full"):
        StructureStore.of(frames()).write(tmp_path / "store")
    assert not (tmp_path / "store").exists()
