"""Structures as flat arrays: what goes in comes out, in memory and on disk."""

import errno
import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from tiny import flipped

from eipnn.cache import cache
from eipnn.structures import (
    StructureError,
    is_isolated_atom,
    open_structures,
    opened,
    read_structures,
)
from eipnn.structures.blocks import read_store
from eipnn.structures.store import ARRAYS, StructureStore
from eipnn.tensor_files import read_tensors, write_tensors


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


def there_and_back(store: StructureStore, file: Path) -> StructureStore:
    write_tensors(file, store.to_tensors())
    return StructureStore.from_tensors(read_tensors(file, mapped=True))


@pytest.mark.parametrize("mapped", [False, True])
def test_structures_come_back(tmp_path, mapped):
    store = StructureStore.of(frames())
    if mapped:
        store = there_and_back(store, tmp_path / "store.pt")
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
    store = there_and_back(StructureStore.of(given), tmp_path / "store.pt")
    for row in (0, 100, 516):
        same(store.atoms(row), given[row])
    np.testing.assert_array_equal(store.energies, [a.get_potential_energy() for a in given])


def test_a_row_is_told_by_file_and_frame(tmp_path):
    for name in ("a", "b"):
        ase.io.write(tmp_path / f"{name}.extxyz", [bulk("Cu"), bulk("Au")])
    store = open_structures([tmp_path / "a.extxyz", tmp_path / "b.extxyz"])
    assert store.place(3) == f"{tmp_path}/b.extxyz: frame 1 (b_000001)"
    assert store.take(np.array([3])).place(0) == "b_000001"


@given(st.lists(st.integers(0, 3), max_size=8))
def test_compositions_and_atoms_of_any_rows(rows):
    given = frames()
    store, rows = StructureStore.of(given), np.array(rows, dtype=np.int64)
    atoms = store.atoms_of(rows)
    expected = [z for row in rows for z in given[row].numbers]
    assert store.numbers[atoms].tolist() == expected
    numbers, counts = store.take(rows).composition()
    assert numbers.tolist() == sorted(set(expected))
    for line, row in zip(counts, rows, strict=True):
        assert line.tolist() == [np.sum(given[row].numbers == z) for z in numbers]
    assert store.take(rows).elements() == sorted({s for row in rows for s in given[row].symbols})


def test_no_structures(tmp_path):
    store = there_and_back(StructureStore.of([]), tmp_path / "none.pt")
    assert len(store) == 0
    assert store.elements() == []


def bits(store: StructureStore) -> list:
    return [tuple(store.ids), *(getattr(store, name).tobytes() for name in ARRAYS)]


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 8))
def test_rows_taken_and_joined(rows, cut):
    whole, rows = StructureStore.of(frames()), np.array(rows, dtype=np.int64)
    chosen = StructureStore.of([frames()[row] for row in rows])
    taken = whole.take(rows)
    assert bits(taken) == bits(chosen)
    assert bits(StructureStore.joined([taken[:cut], taken[cut:]])) == bits(chosen)
    assert list(taken) == [frames()[row] for row in rows]


def test_rows_one_after_another_are_not_copied():
    whole = StructureStore.of(frames())
    assert whole.take(np.arange(4)) is whole
    assert np.shares_memory(whole[1:3].positions, whole.positions)
    assert not np.shares_memory(whole.take(np.array([1, 3])).positions, whole.positions)


def test_frames_that_come_one_by_one_are_let_go(monkeypatch):
    """A block of them is in memory at a time; the store is that of a list."""
    monkeypatch.setattr("eipnn.structures.store.BLOCK", 3)
    given: list[weakref.ref] = []
    most = 0

    def one_by_one():
        nonlocal most
        for atoms in frames() * 3:
            given.append(weakref.ref(atoms := atoms.copy()))
            del atoms.info["config_id"]
            most = max(most, sum(known() is not None for known in given))
            yield atoms

    store = StructureStore.of(one_by_one())
    assert store.ids == tuple(map(str, range(12)))
    assert list(store) == frames() * 3
    assert most == 3


def test_sets_of_elements():
    assert StructureStore.of(frames()).element_sets() == ("Cl-Na", "H-O", "Cu", "Au")


def test_labels_that_no_structure_has_take_no_room(tmp_path):
    bare = frames()
    for atoms in bare:
        atoms.calc = None
    for atoms in StructureStore.of(bare).take(np.arange(3)):
        assert atoms.calc is None
    file = tmp_path / "store.pt"
    whole = (there_and_back(StructureStore.of(frames()), file), file.stat().st_size)
    store = there_and_back(StructureStore.of(bare), file)
    assert file.stat().st_size < whole[1] - 8 * 9 * (len(bare) - 1)
    assert [getattr(store, name).strides[0] for name in ("energies", "forces", "stresses")] == [0, 0, 0]
    assert bits(store) == bits(StructureStore.of(bare))


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The cache folder; and how often files were read, as a list that grows."""
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))
    reads: list[int] = []

    def counted(*arguments):
        reads.append(1)
        return read_store(*arguments)

    monkeypatch.setattr(opened, "read_store", counted)
    return tmp_path / "cache", reads


def written(file, energy=-1.0, **info):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    free = Atoms("Cu", info={"config_type": "isolated_atom", "config_id": "007"})
    ase.io.write(file, [atoms, free], format="extxyz")
    return str(file)


def test_files_are_read_once(cached, tmp_path):
    _, reads = cached
    file = written(tmp_path / "a.extxyz")
    first, second = open_structures(file), open_structures([file])
    assert len(reads) == 1
    assert bits(first) == bits(second) == bits(StructureStore.of(read_structures(file)))
    assert first.ids == ("a_000000", "007")
    assert [is_isolated_atom(atoms) for atoms in second] == [False, True]
    os.utime(file, (1, 1))
    assert open_structures(file, labels=False)[0].calc is None  # another way to read
    assert len(reads) == 2
    written(tmp_path / "a.extxyz", energy=-2.0)  # of the same length
    assert open_structures(file)[0].get_potential_energy() == -2.0
    (tmp_path / "b").mkdir()
    copy = written(tmp_path / "b" / "a.extxyz", energy=-2.0)
    assert open_structures(copy).ids == first.ids
    assert len(reads) == 3  # where it lies is no matter, but for ids
    assert open_structures(copy, beside=file).ids[0] == "b_a_000000"


def test_who_reads_them_holds_no_copy_of_what_is_kept(cached, tmp_path, monkeypatch):
    """The arrays of the first call are mapped as those of the next ones; where they cannot be kept they are its own."""
    folder, reads = cached
    file = written(tmp_path / "a.extxyz")
    store = open_structures(file)
    assert str(folder) in Path("/proc/self/maps").read_text()
    assert len(reads) == 1
    assert store.place(1) == f"{file}: frame 1 (007)"
    expected = bits(store)
    del store
    assert str(folder) not in Path("/proc/self/maps").read_text()
    cache(clear=True)
    with monkeypatch.context() as patch:
        patch.setattr(opened, "keep", lambda *_: False)
        assert bits(open_structures(file)) == expected


def test_what_changed_as_it_was_read_is_not_kept(cached, tmp_path, monkeypatch):
    """Under the digest of the file as it was before, whoever puts that back would be given the other one."""
    file, read_store = written(tmp_path / "a.extxyz", energy=-1.0), opened.read_store

    def changing(*arguments):
        written(tmp_path / "a.extxyz", energy=-2.0)
        return read_store(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(opened, "read_store", changing)
        assert open_structures(file)[0].get_potential_energy() == -2.0
    written(tmp_path / "a.extxyz", energy=-1.0)
    assert open_structures(file)[0].get_potential_energy() == -1.0


def test_errors_are_those_of_the_files_and_are_not_kept(cached, tmp_path):
    folder, reads = cached
    file = written(tmp_path / "a.extxyz", energy=np.nan)
    for _ in range(2):
        with pytest.raises(StructureError, match=r"a.extxyz: frame 0 \(a_000000\): energy is NaN"):
            open_structures(file)
    assert len(reads) == 2
    assert not [p for p in folder.iterdir() if p.suffix != ".lock"]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "ids", *ARRAYS])
def test_damaged_structures_are_read_again(cached, tmp_path, caplog, damage):
    folder, reads = cached
    file = written(tmp_path / "a.extxyz")
    expected = bits(open_structures(file))
    (store,) = folder.glob("structures-*.pt")
    contents = {"cut": store.read_bytes()[:-5], "empty": b"", "garbage": b"no tensors"}
    if damage in contents:
        store.write_bytes(contents[damage])
    else:
        write_tensors(store, {name: value for name, value in read_tensors(store).items() if name != damage})
    assert bits(open_structures(file)) == expected
    assert len(reads) == 2
    (message,) = caplog.messages
    assert message.startswith(f"{store}: damaged file of the cache (")
    assert bits(open_structures(file)) == expected
    assert len(reads) == 2


def test_no_flipped_bit_goes_unnoticed(cached, tmp_path, caplog):
    """What is damaged is read again, and said; else its numbers are those that were read."""
    folder, reads = cached
    file = written(tmp_path / "a.extxyz")
    expected = bits(open_structures(file))
    (store,) = folder.glob("structures-*.pt")
    for damaged in flipped(store, tmp_path, 60):
        damaged.replace(store)
        assert bits(open_structures(file)) == expected
    assert caplog.text.count("damaged file of the cache") == len(reads) - 1 > 20  # half of it and more is headers


def test_of_processes_that_start_together_one_reads(cached, tmp_path):
    _, reads = cached
    file = written(tmp_path / "a.extxyz")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(open_structures, [file] * 4))
    assert len(reads) == 1
    assert len({tuple(bits(store)) for store in found}) == 1


def test_structures_not_used_for_longest_go_first(cached, tmp_path, monkeypatch):
    folder, _ = cached
    files = [written(tmp_path / f"{name}.extxyz") for name in "abc"]
    open_structures(files[0])
    (first,) = folder.glob("structures-*.pt")
    os.utime(first, (1, 1))
    kept = open_structures(files[1])
    monkeypatch.setenv("EIPNN_CACHE_GB", "1e-9")
    expected = bits(kept)
    assert open_structures(files[2]).ids[0] == "c_000000"
    assert len(list(folder.glob("structures-*.pt"))) == 1
    assert bits(kept) == expected  # what is mapped stays readable


def test_no_cache_folder_costs_the_cache_alone(cached, tmp_path, caplog):
    folder, reads = cached
    folder.write_text("a file")
    file = written(tmp_path / "a.extxyz")
    assert open_structures(file).ids == open_structures(file).ids
    assert len(reads) == 2
    assert "structures are not kept" in caplog.text


def test_a_full_disk_costs_the_cache_alone(cached, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    folder, _ = cached
    assert open_structures(written(tmp_path / "a.extxyz")).ids == ("a_000000", "007")
    assert f"structures are not kept: {folder}: the disk is full" in caplog.text
    assert not [p for p in folder.iterdir() if p.suffix != ".lock"]
