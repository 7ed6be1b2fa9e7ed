"""Structure files and splits: what is read, and that every bad input names file, frame and mend."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.structures import (
    MissingKeyError,
    Split,
    SplitError,
    StructureError,
    energy,
    random_split,
    read_split,
    read_structures,
    resolve,
    write_split,
)

DFT, POOL = "bundled:si_mini/dft.extxyz", "bundled:si_mini/pool.extxyz"


def labelled(atoms: Atoms, value: float, **info: object) -> Atoms:
    atoms = atoms.copy()
    atoms.calc = SinglePointCalculator(atoms, energy=value, forces=np.full((len(atoms), 3), value))
    atoms.info.update(info)
    return atoms


def dimer(distance: float = 2.3, **info: object) -> Atoms:
    return Atoms("Si2", [[0, 0, 0], [0, 0, distance]], info=dict(info))


def test_bundled_set() -> None:
    dft = read_structures(DFT, require_energy=True)
    pool = read_structures(POOL)
    assert (len(dft), len(pool)) == (517, 3000)
    assert dft[0].info["config_id"] == "Si_00000"
    assert energy(dft[0]) == -20.35450571549157
    assert dft[0].calc.results["forces"].shape == (len(dft[0]), 3)
    assert energy(pool[0]) is None
    for number in (1, 2, 3):
        split = read_split(f"bundled:si_mini/splits/random_{number}.csv")
        split.check([a.info["config_id"] for a in dft], [a.info["config_id"] for a in pool], "x")
        assert [len(part) for part in (split.train, split.val, split.test)] == [332, 82, 103]


@settings(max_examples=25, deadline=None)
@given(
    energies=st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=4),
    periodic=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    energies: list[float],
    periodic: tuple[bool, bool, bool],
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    frames = []
    for value in energies:
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.1, rng=random)
        atoms.pbc = periodic
        frames.append(labelled(atoms, value))
    file = tmp_path_factory.mktemp("written") / "some frames@home.extxyz"
    write(file, frames)
    for index, (atoms, read) in enumerate(zip(frames, read_structures(file), strict=True)):
        assert read.info["config_id"] == f"some frames@home_{index:06d}"
        assert energy(read) == pytest.approx(energies[index], abs=1e-8, rel=1e-8)
        np.testing.assert_allclose(read.positions, atoms.positions, atol=1e-7)
        np.testing.assert_allclose(read.cell.array, atoms.cell.array)
        assert tuple(read.pbc) == periodic
        np.testing.assert_allclose(read.calc.results["forces"], energies[index], atol=1e-7)


def test_ase_database(tmp_path: Path) -> None:
    with connect(tmp_path / "frames.db") as database:
        database.write(labelled(bulk("Si"), -9.0), config_id="first")
        database.write(dimer(), dft_energy=-3.0)
    first, second = read_structures(tmp_path / "frames.db")
    assert (first.info["config_id"], energy(first)) == ("first", -9.0)
    assert (second.info["config_id"], energy(second)) == ("frames_000001", -3.0)


def test_any_format_of_ase(tmp_path: Path) -> None:
    bulk("Si").write(tmp_path / "POSCAR", format="vasp")
    (atoms,) = read_structures(tmp_path / "POSCAR")
    assert atoms.info["config_id"] == "POSCAR_000000"


def test_forces_are_those_of_the_file_despite_constraints(tmp_path: Path) -> None:
    atoms = labelled(bulk("Si"), 2.0)
    atoms.set_constraint(FixAtoms([0, 1]))
    write(tmp_path / "fixed.traj", atoms)
    (read,) = read_structures(tmp_path / "fixed.traj")
    assert (read.get_forces() == 2.0).all()


@pytest.mark.parametrize("key", ["energy_reference", "REF_energy", "dft_energy"])
def test_energy_key_by_the_rule(tmp_path: Path, key: str) -> None:
    write(tmp_path / "a.extxyz", [dimer(**{key: -3.0}), dimer(2.5)])
    first, second = read_structures(tmp_path / "a.extxyz")
    assert (energy(first), energy(second)) == (-3.0, None)


def test_keys_by_name(tmp_path: Path) -> None:
    atoms = labelled(dimer(), -3.0, my_energy=-4.0)
    atoms.arrays["my_forces"] = np.ones((2, 3))
    write(tmp_path / "a.extxyz", atoms)
    (read,) = read_structures(tmp_path / "a.extxyz", energy_key="my_energy", forces_key="my_forces")
    assert energy(read) == -4.0
    assert (read.calc.results["forces"] == 1.0).all()


def test_a_slab_without_a_third_vector_is_fine(tmp_path: Path) -> None:
    slab = fcc111("Al", (1, 1, 2))
    slab.pbc = (True, True, False)
    assert slab.cell.rank == 2
    write(tmp_path / "slab.traj", slab)
    assert len(read_structures(tmp_path / "slab.traj")) == 1


def flat() -> Atoms:
    atoms = bulk("Si")
    atoms.cell[2] = atoms.cell[0] + atoms.cell[1]
    return atoms


def at(value: float) -> Atoms:
    atoms = dimer()
    atoms.positions[1, 2] = value
    return atoms


def images_meet() -> Atoms:
    return Atoms("Si2", scaled_positions=[[0, 0, 0], [0, 0, 1]], cell=np.eye(3) * 4, pbc=True)


BAD_FRAMES = {
    "nan position": (
        at(np.nan),
        r"frame 1 \(bad_000001\): positions are NaN or infinite; correct or",
    ),
    "infinite position": (at(np.inf), "positions are NaN or infinite"),
    "nan cell": (
        Atoms("Si", cell=np.diag([3.0, 3.0, np.nan]), pbc=True),
        "the cell is NaN or infinite; correct or remove this frame",
    ),
    "flat cell": (
        flat(),
        "no volume along its periodic axes; correct the cell, or set pbc to false",
    ),
    "no cell": (Atoms("Si", pbc=True), "no volume along its periodic axes"),
    "coincident": (at(1e-5), "atoms 0 and 1 are at the same place; remove one of them"),
    "images": (images_meet(), "atoms 0 and 1 are at the same place"),
    "no element": (Atoms("X"), r"an atom has no element \(X\); give every atom a chemical symbol"),
    "no atoms": (Atoms(), "holds no atoms; remove this frame"),
    "nan energy": (labelled(dimer(), np.nan), "energy is NaN or infinite; correct or remove"),
    "text energy": (
        dimer(dft_energy="soon"),
        "energy is 'soon', not a number; correct the file or name another energy_key",
    ),
    "many energies": (
        dimer(dft_energy=np.ones(3)),
        r"energy has the shape \(3,\), not \(\); name another energy_key",
    ),
    "two energies": (
        labelled(dimer(), -3.0, energy_reference=-4.0),
        "keys 'energy' and 'energy_reference' give different energy; name the one to use with energy_key",
    ),
    "comma in id": (dimer(config_id="a,b"), "a config_id holds no comma or line break"),
}


@pytest.mark.parametrize("case", BAD_FRAMES)
def test_bad_frame_is_named(tmp_path: Path, case: str) -> None:
    bad, message = BAD_FRAMES[case]
    file = tmp_path / "bad.traj"
    write(file, [dimer(), bad])
    with pytest.raises(StructureError, match=message) as error:
        read_structures(file)
    assert f"{file}: frame 1 (" in str(error.value)


def test_infinite_forces(tmp_path: Path) -> None:
    atoms = labelled(dimer(), 1.0)
    atoms.calc.results["forces"][0, 0] = np.inf
    write(tmp_path / "a.traj", atoms)
    with pytest.raises(StructureError, match=r"frame 0 .*: forces is NaN or infinite"):
        read_structures(tmp_path / "a.traj")


def test_no_energy_where_one_is_due(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [labelled(dimer(), 1.0), dimer(2.5)])
    with pytest.raises(
        StructureError, match=r"frame 1 \(a_000001\): has no energy, and one is due"
    ):
        read_structures(tmp_path / "a.traj", require_energy=True)


def test_named_key_that_no_frame_has(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [dimer(my_energy=1.0), dimer(2.5)])
    with pytest.raises(MissingKeyError, match=r"key 'other'; frame 0 carries my_energy"):
        read_structures(tmp_path / "a.extxyz", energy_key="other")
    with pytest.raises(MissingKeyError, match=r"no frame has the forces key 'f'"):
        read_structures(tmp_path / "a.extxyz", forces_key="f")


def test_id_given_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [dimer(config_id="x"), dimer(2.5, config_id="x")])
    with pytest.raises(
        StructureError, match=r"frame 1 \(x\): frame 0 has the same config_id; give"
    ):
        read_structures(tmp_path / "a.traj")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no such file; check the path"):
        read_structures(tmp_path / "absent.xyz")
    with pytest.raises(StructureError, match="bundled:absent: no such file"):
        resolve("bundled:absent")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(StructureError, match=r"empty.xyz: (frame 0: ASE cannot|holds no frames)"):
        read_structures(tmp_path / "empty.xyz")
    write(tmp_path / "cut.extxyz", [dimer(), dimer(2.5)])
    text = (tmp_path / "cut.extxyz").read_text()
    (tmp_path / "cut.extxyz").write_text(text[: text.rindex("Si")])
    with pytest.raises(StructureError, match=r"cut.extxyz: frame \d: ASE cannot read it .* repair"):
        read_structures(tmp_path / "cut.extxyz")


@settings(max_examples=30, deadline=None)
@given(n=st.integers(6, 3000), pool=st.integers(0, 20), seed=st.integers(0, 10**6))
def test_random_split(n: int, pool: int, seed: int) -> None:
    dft = [f"d{i}" for i in range(n)]
    split = random_split(dft, [f"p{i}" for i in range(pool)], seed)
    assert sorted(split.train + split.val + split.test) == sorted(dft)
    assert len(split.test) == int(n * 0.2)
    assert len(split.val) == int((n - len(split.test)) * 0.2)
    assert len(split.pool) == pool
    assert split == random_split(dft, split.pool, seed)


def test_random_split_as_in_the_paper() -> None:
    split = random_split([str(i) for i in range(2110)], [], 0)
    assert [len(part) for part in (split.train, split.val, split.test)] == [1351, 337, 422]
    assert split != random_split([str(i) for i in range(2110)], [], 1)
    with pytest.raises(SplitError, match="5 DFT frames are too few for a train/val/test split"):
        random_split(list("abcde"), [], 0)


def test_split_file_there_and_back(tmp_path: Path) -> None:
    split = Split(("a", "b"), ("c",), ("d",), ("e", "f"))
    write_split(split, tmp_path / "split.csv")
    assert (tmp_path / "split.csv").read_text().splitlines()[:2] == ["configs,mark", "a,train"]
    assert read_split(tmp_path / "split.csv") == split
    assert [path.name for path in tmp_path.iterdir()] == ["split.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,train\n", "line 1 is 'a,train'; the header must be 'configs,mark'"),
        (
            "configs,mark\na,training\n",
            "line 2: unknown mark 'training'; use one of train, val, test",
        ),
        ("configs,mark\na,train\n\na,test\n", "line 4: id 'a' is on line 2 already; keep one"),
        ("configs,mark\na\n", "line 2 has 1 columns; it must be 'id,mark'"),
    ],
)
def test_bad_split_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(SplitError, match=message):
        read_split(tmp_path / "split.csv")


def test_split_with_ids_in_no_file(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match="no such file"):
        read_split(tmp_path / "absent.csv")
    split = Split(("a",), ("b",), ("c",), ("p",))
    split.check(["a", "b", "c"], ["p"], "s.csv")
    with pytest.raises(SplitError, match=r"s.csv: val id 'b' is in no DFT structure file \(1 such"):
        split.check(["a", "c"], ["p"], "s.csv")
    with pytest.raises(SplitError, match="pretrain id 'p' is in no pool structure file"):
        split.check(["a", "b", "c", "p"], [], "s.csv")
