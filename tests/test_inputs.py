"""Neighbour graphs against ASE's, and the cache of prepared inputs."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import flipped
from torch_geometric.data import Batch, Data

from eipnn.cache import kept
from eipnn.errors import InputError
from eipnn.inputs import Graph, Inputs, Soap, cache, graph_of, prepare
from eipnn.processes import parallel
from eipnn.stages import data
from eipnn.stages.data import Configurations

numbers = st.floats(-1, 1, allow_nan=False)


@st.composite
def structures(draw) -> Atoms:
    """One to four atoms in a cell that may be skewed, tiny, flat or absent, and far outside it."""
    lengths = draw(st.tuples(*[st.floats(1.5, 9.0)] * 3))
    shear = np.array(draw(st.lists(numbers, min_size=9, max_size=9))).reshape(3, 3)
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    cell = np.diag(lengths) @ (np.eye(3) + np.triu(0.9 * shear, 1))
    if draw(st.booleans()):
        cell[~np.array(pbc)] = 0
    n = draw(st.integers(1, 4))
    positions = np.array(draw(st.lists(numbers, min_size=3 * n, max_size=3 * n))).reshape(n, 3)
    return Atoms(f"Si{n}", 8 * positions, cell=cell, pbc=pbc)


def both_directions(vectors: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Rows (i, j, vector) of a half list and its mirror image, sorted."""
    rows = np.column_stack([i, j, vectors])
    mirrored = np.column_stack([j, i, -vectors])
    return sorted_rows(np.vstack([rows, mirrored]))


def sorted_rows(rows: np.ndarray) -> np.ndarray:
    return rows[np.lexsort(rows.round(6).T)]


def graph_rows(atoms: Atoms, cutoff: float) -> np.ndarray:
    batch = Batch.from_data_list([Graph(cutoff)(atoms, torch.float64)])
    return both_directions(graph_of(batch).vectors.numpy(), *batch.edge_index.numpy())


@settings(max_examples=150, derandomize=True)  # no luck at the cutoff itself
@given(structures(), st.floats(1.0, 4.5))
def test_pairs_are_those_of_ase(atoms, cutoff):
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)
    expected = sorted_rows(np.column_stack([i, j, vectors]))
    ours = graph_rows(atoms, cutoff)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, atol=1e-8)


@pytest.mark.parametrize("name", ["one atom", "slab", "molecule"])
def test_known_frames(name):
    frames = {
        "one atom": bulk("Cu", "fcc", a=3.6),
        "slab": Atoms("Cu2", [[0, 0, 0], [1, 1, 2]], cell=[2.5, 2.5, 0], pbc=(True, True, False)),
        "molecule": molecule("CH3CH2OH"),
    }
    i, j, vectors = neighbor_list("ijD", frames[name], 4.0)
    assert len(i) > 0
    ours = graph_rows(frames[name], 4.0)
    np.testing.assert_allclose(ours, sorted_rows(np.column_stack([i, j, vectors])), atol=1e-8)


def test_fields():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    data = Graph(4.0)(atoms)
    assert data.z.tolist() == [11, 17]
    assert data.z.dtype == torch.int64
    assert data.pos.dtype == data.cell.dtype == data.edge_shift.dtype == torch.float32
    assert data.cell.shape == (1, 3, 3)
    assert data.edge_index.shape[1] == data.edge_shift.shape[0] > 0
    assert data.n_atoms.tolist() == [2]
    np.testing.assert_allclose(data.cell[0], atoms.cell.array, rtol=1e-6)


def test_an_atom_alone_has_no_pairs():
    data = Graph(4.0)(Atoms("Si"))
    assert data.edge_index.shape == (2, 0)
    assert data.edge_shift.shape == (0, 3)
    assert data.cell.abs().max() == 0


def test_cell_vectors_of_open_axes_are_zero():
    atoms = Atoms("Si", cell=[4.0, 5.0, 6.0], pbc=(True, False, True))
    assert Graph(4.5)(atoms).cell[0].diagonal().tolist() == [4.0, 0.0, 6.0]


@dataclass(frozen=True)
class Counted(Inputs):
    """A graph, taken for a costly input, that counts how often it is built."""

    cutoff: float = 4.0
    built: list = field(default_factory=list)

    costly: ClassVar[bool] = True

    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        self.built.append(atoms)
        return Graph(self.cutoff)(atoms, dtype)

    def key(self) -> str:
        return f"counted {self.cutoff}"


def frames() -> list[Atoms]:
    """Sizes and numbers of pairs that differ, with none at all in the middle."""
    rattled = bulk("Si", "diamond", a=5.4, cubic=True)
    rattled.rattle(0.1, seed=0)
    return [bulk("Cu", "fcc", a=3.6), Atoms("Si"), rattled, molecule("H2O")]


def assert_same(data: Data, expected: Data) -> None:
    assert set(data.keys()) == set(expected.keys())
    for name, value in expected:
        if isinstance(value, torch.Tensor):
            assert data[name].dtype == value.dtype
            torch.testing.assert_close(data[name], value, rtol=0, atol=0)
        else:
            assert data[name] == value


def test_prepared_inputs_are_those_of_each_frame(tmp_path):
    for inputs in (Graph(4.0), Counted(), Counted()):  # built when asked for; built before; read
        prepared = prepare(frames(), inputs, tmp_path)
        assert len(prepared) == 4
        for k, atoms in enumerate(frames()):
            assert_same(prepared[k], Graph(4.0)(atoms))


def test_graphs_are_made_when_asked_for_and_not_kept(tmp_path):
    assert_same(prepare(frames(), Graph(4.0), tmp_path)[2], Graph(4.0)(frames()[2]))
    assert not list(tmp_path.iterdir())


def test_a_hit_builds_nothing(tmp_path):
    inputs = Counted()
    prepare(frames(), inputs, tmp_path)
    assert len(inputs.built) == 4
    prepare(frames(), Counted(built=inputs.built), tmp_path)
    assert len(inputs.built) == 4
    assert len(list(tmp_path.glob("*.pt"))) == 1


def changed(what: str) -> list[Atoms]:
    others = frames()
    if what == "position":
        others[2].positions[0, 0] += 1e-9
    elif what == "species":
        others[2].numbers[0] = 6
    elif what == "cell":
        others[0].cell[0, 0] += 1e-9
    elif what == "periodicity":
        others[0].pbc[2] = False
    elif what == "order":
        others.reverse()
    elif what == "a frame less":
        del others[1]
    return others


@pytest.mark.parametrize(
    ("what", "built"),
    [("position", 1), ("species", 1), ("cell", 1), ("periodicity", 1), ("order", 0), ("a frame less", 0)],
)
def test_of_a_changed_list_the_others_are_read(tmp_path, what, built):
    inputs = Counted()
    prepare(frames(), inputs, tmp_path)
    inputs.built.clear()
    prepared = prepare(changed(what), inputs, tmp_path)
    assert len(inputs.built) == built
    for k, atoms in enumerate(changed(what)):
        assert_same(prepared[k], Graph(4.0)(atoms))


def test_the_same_structure_twice_is_built_once(tmp_path):
    inputs = Counted()
    prepared = prepare([*frames(), frames()[2]], inputs, tmp_path)
    assert len(inputs.built) == 4
    assert_same(prepared[4], prepared[2])


def test_blocks_of_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 3)
    inputs = Counted()
    for structures, files in ((frames(), 2), (frames()[1:], 2), ([*silicon(4), *frames()], 4)):
        prepared = prepare(structures, inputs, tmp_path)
        assert len(list(tmp_path.glob("*.pt"))) == files
        for k, atoms in enumerate(structures):
            assert_same(prepared[k], Graph(4.0)(atoms))
    assert len(inputs.built) == 8


def test_blocks_of_other_structures_are_not_read(tmp_path, monkeypatch):
    prepare(frames(), Counted(), tmp_path)
    prepare(silicon(4), Counted(), tmp_path)
    read = []
    monkeypatch.setattr(cache, "kept", lambda file, names: read.append(file) or kept(file, names))
    prepare(frames()[1:3], Counted(), tmp_path)
    assert len(read) == 1


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path, monkeypatch, caplog):
    def refuses(*_, **__):
        raise PermissionError("Permission denied")

    monkeypatch.setattr(cache, "alone", refuses)
    prepared = prepare(frames(), Counted(), tmp_path)
    assert_same(prepared[2], Graph(4.0)(frames()[2]))
    assert "model inputs are not kept: Permission denied" in caplog.text


def test_other_settings_are_built(tmp_path):
    prepare(frames(), Counted(4.0), tmp_path)
    other = Counted(3.0)
    assert prepare(frames(), other, tmp_path)[2].edge_index.shape[1] > 0
    assert len(other.built) == 4


@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty", "another layout"])
def test_a_damaged_file_is_said_and_built_again(tmp_path, caplog, damage):
    prepare(frames(), Counted(), tmp_path)
    (file,) = tmp_path.glob("*.pt")
    whole = file.read_bytes()
    contents = {"cut short": whole[: len(whole) // 2], "garbage": b"no tensors", "empty": b""}
    if damage == "another layout":
        torch.save({"graphs": [1, 2]}, file)
    else:
        file.write_bytes(contents[damage])
    again = Counted()
    prepared = prepare(frames(), again, tmp_path)
    assert len(again.built) == 4
    assert f"{file}: damaged file of the cache" in caplog.text
    assert_same(prepared[2], Graph(4.0)(frames()[2]))
    after = Counted()
    prepare(frames(), after, tmp_path)
    assert not after.built  # mended


def test_no_flipped_bit_goes_unnoticed(tmp_path, caplog):
    """A damaged file is built again, and said; else its numbers are those that were built."""
    prepare(frames(), Counted(), tmp_path)
    (file,) = tmp_path.glob("*.pt")
    for damaged in flipped(file, tmp_path, 60):
        damaged.replace(file)
        prepared = prepare(frames(), Counted(), tmp_path)
        for k, atoms in enumerate(frames()):
            assert_same(prepared[k], Graph(4.0)(atoms))
    assert caplog.text.count("damaged file of the cache") > 40


def test_what_was_not_used_for_longest_goes_first(tmp_path, monkeypatch):
    prepare(frames(), Counted(3.0), tmp_path)
    (first,) = tmp_path.glob("*.pt")
    prepare(frames(), Counted(3.1), tmp_path)
    (second,) = set(tmp_path.glob("*.pt")) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    prepare(frames(), Counted(3.0), tmp_path)  # used: now the second was not for longest
    monkeypatch.setenv("EIPNN_CACHE_GB", str(2.5 * first.stat().st_size / 1e9))
    (tmp_path / "killed.1.part").write_bytes(b"half of a file")
    os.utime(tmp_path / "killed.1.part", (3, 3))
    prepare(frames(), Counted(3.2), tmp_path)
    assert first.exists()
    assert not second.exists()
    assert len(list(tmp_path.glob("*.pt"))) == 2
    monkeypatch.setenv("EIPNN_CACHE_GB", "1e-9")  # no room for any: what is used now stays
    prepare(frames(), Counted(3.3), tmp_path)
    assert len(list(tmp_path.glob("*.pt"))) == 1
    assert not list(tmp_path.glob("*.part"))
    monkeypatch.setenv("EIPNN_CACHE_GB", "much")
    with pytest.raises(InputError, match="EIPNN_CACHE_GB=much: must be a positive number of GB"):
        prepare(frames(), Counted(3.0), tmp_path)


def test_a_full_disk_costs_the_cache_alone(tmp_path, monkeypatch, caplog):
    def full(content, stream):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert_same(prepare(frames(), Counted(), tmp_path)[2], Graph(4.0)(frames()[2]))
    assert f"model inputs are not kept: {tmp_path}: the disk is full" in caplog.text
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".lock"]


def silicon(n: int) -> list[Atoms]:
    """Crystals of two atoms, no two alike."""
    structures = [bulk("Si", "diamond", a=5.43) for _ in range(n)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    return structures


@pytest.mark.slow  # two workers import torch; by default `eipnn generate` has some, and blocks are made in this process
def test_two_workers_build_what_one_builds(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK", 20)
    structures, inputs = silicon(70), Counted(3.0)
    one = prepare(structures, inputs, tmp_path / "one")
    monkeypatch.setattr(cache, "MANY_ATOMS", 1)
    monkeypatch.setattr(cache, "cpu_count", lambda: 2)
    two = prepare(structures, inputs, tmp_path / "two")
    assert len(one) == len(two) == 70
    for k, atoms in enumerate(structures):
        assert_same(two[k], one[k])
        if k % 10 == 0:
            assert_same(two[k], inputs(atoms))


@pytest.mark.parametrize(
    ("inputs", "atoms", "workers"),
    [
        (Soap(("Si",), 3.0, n_max=2, l_max=0), 8, 7),
        (Soap(("Si",), 3.0, n_max=2, l_max=0), 9, 1),
    ],
    ids=["many", "few"],
)
def test_every_core_builds_where_it_is_worth_it(tmp_path, monkeypatch, inputs, atoms, workers):
    asked = []

    def one_process(workers, jobs):
        asked.append(workers)
        return parallel(1, jobs)

    monkeypatch.setattr(cache, "parallel", one_process)
    monkeypatch.setattr(cache, "cpu_count", lambda: 7)
    monkeypatch.setattr(cache, "MANY_ATOMS", atoms)
    prepare(silicon(4), inputs, tmp_path)
    assert asked == [workers]


def test_long_work_shows_its_rate_and_its_end(tmp_path, monkeypatch, capsys):
    prepare(silicon(40), Counted(3.0), tmp_path)
    assert not capsys.readouterr().err
    monkeypatch.setattr(cache, "MANY", 41)
    monkeypatch.setattr(cache, "BLOCK", 10)
    prepare(silicon(41), Counted(3.1), tmp_path)
    assert re.search(r"model inputs.* 41/41 [\d,]+ structures/s 0:00:00", capsys.readouterr().err)


def test_of_processes_that_train_together_one_builds(tmp_path):
    """The second finds the file when it gets the lock."""
    first, second = Counted(), Counted()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda i: prepare(frames(), i, tmp_path), (first, second)))
    assert sorted((len(first.built), len(second.built))) == [0, 4]
    assert_same(results[0][2], results[1][2])


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "here"))
    prepare(frames(), Counted())
    assert len(list((tmp_path / "here").glob("*.pt"))) == 1


def test_large_sets_keep_no_object_for_each_configuration(monkeypatch, tmp_path):
    structures = [bulk("Cu", "fcc", a=a) for a in (3.5, 3.6, 3.7)]
    inputs = prepare(structures, Graph(4.0), tmp_path)
    small = Configurations(inputs, {})
    assert small[1] is small[1]
    monkeypatch.setattr(data, "KEPT", 2)
    large = Configurations(inputs, {})
    assert large[1] is not large[1]
    assert torch.equal(large[1].edge_shift, small[1].edge_shift)
