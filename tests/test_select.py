"""`eipnn select`: scores against plain sums, choices with known answers, errors."""

from shutil import copytree

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from tiny import EIPS, REPRESENTATION, exit_code

from eipnn import EIPNNCalculator
from eipnn.labels import LabelStore
from eipnn.labels.layout import open_array, read_index
from eipnn.potential import Potential
from eipnn.potential.checkpoints import build_representation
from eipnn.potential.heads import EnergyHead
from eipnn.select import scores
from eipnn.select.scores import disagreements, farthest, features
from eipnn.structures import open_structures

NAMES = ["Au", "Cu"]


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> list[str]:
    """Three potentials with weights of their own."""
    folder, files = tmp_path_factory.mktemp("committee"), []
    for seed in range(3):
        torch.manual_seed(seed)
        representation = build_representation(REPRESENTATION)
        zeros = {"dft": {"mode": "none", "energies": dict.fromkeys(NAMES, 0.0)}}
        potential = Potential(representation, EnergyHead(representation.dim), NAMES, zeros)
        files.append(str(folder / f"{seed}.pt"))
        potential.save(files[-1])
    return files


@pytest.fixture
def select(tiny, tmp_path, capsys):
    """Select three structures of the pool; the structures, and what was printed."""

    def call(*options: str, number: int = 3, status: int = 0):
        file = tmp_path / "selected.extxyz"
        given = ("select", str(tiny.folder / "pool.extxyz"), "-n", str(number), "-o", str(file), *options)
        assert exit_code(*given) == status
        said = capsys.readouterr()
        return (ase.io.read(file, ":"), said.out) if status == 0 else said.err.strip()

    return call


def test_by_spread(tiny, members, select):
    """The largest spreads of a force, as the calculator gives them; the random ones beside are the same by any seed."""
    chosen, said = select("--potential", *members)
    calculator = EIPNNCalculator(members)
    spreads = {}
    for name in tiny.ids("pool"):
        atoms = tiny.frames[name].copy()
        atoms.calc = calculator
        atoms.get_forces()
        spreads[name] = calculator.results["forces_std"].max()
    best = sorted(spreads, key=spreads.get, reverse=True)[:3]
    assert [atoms.info["pool_id"] for atoms in chosen] == best
    np.testing.assert_allclose([atoms.info["score"] for atoms in chosen], [spreads[i] for i in best], rtol=1e-4)
    np.testing.assert_allclose(chosen[0].positions, tiny.frames[best[0]].positions, atol=1e-7)
    assert "of as many random ones" in said


def test_features_are_those_of_each_structure_alone(tiny, members, monkeypatch):
    """Whatever stands beside it in a batch."""
    pool = open_structures(str(tiny.folder / "pool.extxyz"), labels=False)
    potential = Potential.load(members[0])
    whole = features(potential, pool)
    with torch.no_grad():
        alone = [potential.representation(potential.graph([atoms])).mean(dim=0).numpy() for atoms in pool]
    np.testing.assert_allclose(whole, alone, rtol=1e-4, atol=1e-6)
    monkeypatch.setattr(scores, "ATOMS", 9)
    np.testing.assert_allclose(features(potential, pool), alone, rtol=1e-4, atol=1e-6)


def test_by_disagreement(tiny, select, tmp_path):
    """Root mean square over the atoms of the EIPs' standard deviation; a failed label is none."""
    labels = copytree(tiny.folder / "labels", tmp_path / "labels")
    pool = open_structures(str(tiny.folder / "pool.extxyz"), labels=False)
    index = read_index(labels)
    rng = np.random.default_rng(0)
    forces = open_array(labels, "forces", index, "r+")
    forces[:] = rng.normal(0, 1, forces.shape)
    store = LabelStore.open(labels)
    every = store.forces_of(pool.ids, EIPS)
    found = disagreements(store, pool)
    start = 0
    for row, size in enumerate(pool.sizes):
        mine = every[start : start + size]
        there = [k for k in range(len(EIPS)) if np.isfinite(mine[:, k]).all()]
        expected = np.sqrt((mine[:, there].std(axis=1, ddof=1) ** 2).sum(axis=1).mean())
        assert found[row] == pytest.approx(expected)
        start += size
    chosen, _ = select("--by", "eips", "--labels", str(labels))
    best = [pool.ids[row] for row in np.argsort(-found)[:3]]
    assert [atoms.info["pool_id"] for atoms in chosen] == best


def test_far_from_what_is_known_and_from_one_another():
    """On a line, of equal scale: first the far end, then the middle of the widest gap."""
    pool = np.array([[0.0], [1.0], [5.0], [9.0], [10.0]])
    rows, distances = farthest(np.array([[0.0]]), pool, 3)
    assert rows.tolist() == [4, 2, 0] or rows.tolist() == [4, 2, 1]
    np.testing.assert_allclose(distances * pool.std(), [10, 5, 1])
    constant = np.column_stack([pool, np.ones(5)])
    assert farthest(np.array([[0.0, 1.0]]), constant, 2)[0].tolist() == [4, 2]


def test_no_structure_is_taken_twice():
    """Whose features may be another's, to the last digit."""
    pool = np.array([[1.0], [1.0], [3.0], [3.0], [3.0]])
    rows, distances = farthest(np.array([[0.0]]), pool, 5)
    assert sorted(rows.tolist()) == [0, 1, 2, 3, 4]
    assert rows[:2].tolist() == [2, 0]
    assert distances[2:].tolist() == [0, 0, 0]


@pytest.mark.parametrize("by", ["spread", "distance", "random"])
def test_structures_that_stand_in_the_pool_twice(tiny, members, tmp_path, capsys, by):
    frames = ase.io.read(tiny.folder / "pool.extxyz", ":3")
    for atoms in frames:
        atoms.info.pop("config_id", None)
    pool, file = tmp_path / "twice.extxyz", tmp_path / "selected.extxyz"
    ase.io.write(pool, frames + frames[::-1], format="extxyz")
    beside = ("--potential", *members, "--dft", str(tiny.folder / "dft.extxyz"))
    words = ("select", str(pool), "--by", by, *beside, "-o", str(file))
    assert exit_code(*words, "-n", "3") == 0
    assert {atoms.info["pool_id"] for atoms in ase.io.read(file, ":")} == {f"twice_00000{k}" for k in range(3)}
    assert f"3 structures of {pool} are others there again" in capsys.readouterr().out
    assert exit_code(*words, "-n", "4") == 1
    assert "3 structures to choose from, fewer than --number 4" in capsys.readouterr().err


def test_by_distance_and_at_random(tiny, members, select):
    dft = str(tiny.folder / "dft.extxyz")
    chosen, _ = select("--by", "distance", "--potential", members[0], "--dft", dft)
    found = [atoms.info["score"] for atoms in chosen]
    assert found == sorted(found, reverse=True)
    ones, others, again = ([a.info["pool_id"] for a in select("--by", "random", "--seed", s)[0]] for s in "010")
    assert ones == again != others
    assert len(set(ones)) == 3


def test_what_has_dft_already_is_not_chosen(tiny, select, tmp_path):
    pool = ase.io.read(tiny.folder / "pool.extxyz", ":")
    pool[0].info |= {"dft_energy": 1.0, "energy_reference": 2.0}  # which of them is DFT's does not matter here
    ase.io.write(tmp_path / "there.extxyz", pool[:-3], format="extxyz")
    chosen, said = select("--by", "random", "--dft", str(tmp_path / "there.extxyz"))
    assert f"{len(pool) - 3} structures" in said
    assert sorted(a.info["pool_id"] for a in chosen) == sorted(tiny.ids("pool")[-3:])
    assert "3 structures to choose from, fewer than --number 4" in select(
        "--by", "random", "--dft", str(tmp_path / "there.extxyz"), number=4, status=1
    )


def test_free_atoms_of_the_pool_are_not_chosen(tiny, members, tmp_path):
    pool = ase.io.read(tiny.folder / "pool.extxyz", ":4")
    free = Atoms("Cu", info={"config_id": "free", "config_type": "IsolatedAtom"})
    ase.io.write(tmp_path / "pool.extxyz", [free, *pool], format="extxyz")
    words = ("select", str(tmp_path / "pool.extxyz"), "-n", "4", "--by", "random", "-o", str(tmp_path / "s.extxyz"))
    assert exit_code(*words) == 0
    assert all(len(atoms) > 1 for atoms in ase.io.read(tmp_path / "s.extxyz", ":"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "no checkpoint of a potential is given"),
        (["--by", "eips"], "--by eips needs --labels"),
        (["--by", "distance"], "--by distance needs --dft"),
        (["-o", "selected.csv"], "must end in .extxyz or .xyz"),
    ],
)
def test_what_is_missing_is_said(select, options, said):
    message = select(*options, status=1)
    assert said in message
    assert len(message.splitlines()) <= 2


def test_what_is_read_is_not_written_over(tiny, select, tmp_path):
    pool = tmp_path / "selected.extxyz"  # the name that `select` writes to
    ase.io.write(pool, ase.io.read(tiny.folder / "pool.extxyz", ":4"), format="extxyz")
    before = pool.read_bytes()
    for words in ([], ["--dft", str(pool)]):
        given = str(tiny.folder / "pool.extxyz") if words else str(pool)
        assert exit_code("select", given, "-n", "2", "--by", "random", "-o", str(pool), *words) == 1
    assert "is one of the files that are read; name another" in select("--dft", str(pool), "--by", "random", status=1)
    assert pool.read_bytes() == before


def test_one_potential_has_no_spread(select, members):
    assert "one potential has no spread: give a committee" in select("--potential", members[0], status=1)
