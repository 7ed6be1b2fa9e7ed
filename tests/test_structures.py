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
    Split,
    StructureError,
    energy,
    isolated_atoms,
    open_dft_and_pool,
    random_split,
    read_split,
    read_structures,
    resolve,
    resolve_all,
    without_isolated_atoms,
    write_split,
)
from eipnn.structures.suspects import repeated_structures

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
    with pytest.raises(StructureError, match=r"frame 1 \(a_000001\): has no energy, and one is due"):
        read_structures(tmp_path / "a.traj", require_energy=True)


def test_named_key_that_no_frame_has(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [dimer(my_energy=1.0), dimer(2.5)])
    with pytest.raises(StructureError, match=r"key 'other'; the frames carry my_energy$"):
        read_structures(tmp_path / "a.extxyz", energy_key="other")
    with pytest.raises(StructureError, match=r"no frame has the forces key 'f'"):
        read_structures(tmp_path / "a.extxyz", forces_key="f")


def test_id_given_twice(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [dimer(config_id="x"), dimer(2.5, config_id="x")])
    with pytest.raises(StructureError, match=r"frame 1 \(x\): frame 0 has the same config_id; give"):
        read_structures(tmp_path / "a.traj")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no such file; check the path"):
        read_structures(tmp_path / "absent.xyz")
    with pytest.raises(StructureError, match="bundled:absent: no such file"):
        resolve("bundled:absent")
    (tmp_path / "torn.traj").write_bytes(b"- of UlmASE-Trajectory")
    with pytest.raises(StructureError, match=r"torn.traj: frame 0: ASE cannot read it .* repair"):
        read_structures(tmp_path / "torn.traj")
    (tmp_path / "empty.xyz").touch()
    with pytest.raises(StructureError, match=r"empty.xyz: (frame 0: ASE cannot|holds no frames)"):
        read_structures(tmp_path / "empty.xyz")
    write(tmp_path / "cut.extxyz", [dimer(), dimer(2.5)])
    text = (tmp_path / "cut.extxyz").read_text()
    (tmp_path / "cut.extxyz").write_text(text[: text.rindex("Si")])
    with pytest.raises(
        StructureError,
        match=r"cut.extxyz: frame 1: line 5: the file ends within this frame of 2 atoms; complete",
    ):
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
    with pytest.raises(StructureError, match="5 DFT frames are too few for a train/val/test split"):
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
    with pytest.raises(StructureError, match=message):
        read_split(tmp_path / "split.csv")


def test_a_split_file_of_a_spreadsheet(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_bytes("configs,mark\r\né,train\r\n".encode("utf-8-sig"))
    assert read_split(file).train == ("é",)
    file.write_bytes("configs,mark\né,train\n".encode("latin-1"))
    with pytest.raises(StructureError, match=r"split.csv: is no text in UTF-8; save it as CSV in UTF-8"):
        read_split(file)


def test_split_with_ids_in_no_file(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no such file"):
        read_split(tmp_path / "absent.csv")
    split = Split(("a",), ("b",), ("c",), ("p",))
    split.check(["a", "b", "c"], ["p"], "s.csv")
    with pytest.raises(StructureError, match=r"s.csv: val id 'b' is in no DFT structure file \(1 such"):
        split.check(["a", "c"], ["p"], "s.csv")
    with pytest.raises(StructureError, match="pretrain id 'p' is in no pool structure file"):
        split.check(["a", "b", "c", "p"], [], "s.csv")


def files_of(folder: Path, *names: str) -> list[Path]:
    """Files of two frames each, with energies."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        frames = [
            labelled(dimer(2.3 + 0.1 * k), -k - 1.0),
            labelled(dimer(2.35 + 0.1 * k), -k - 1.5),
        ]
        write(folder / name, frames, format="extxyz")
    return [folder / name for name in names]


@pytest.mark.parametrize(
    ("names", "prefixes"),
    [
        (["a/OUT.xyz"], ["OUT"]),
        (["a/OUT.xyz", "a/other.xyz"], ["OUT", "other"]),
        (["a/OUT.xyz", "b/OUT.xyz"], ["a_OUT", "b_OUT"]),
        (["a/OUT.xyz", "b/OUT.xyz", "b/new.xyz"], ["a_OUT", "b_OUT", "new"]),
        (["a/OUT.xyz", "a/OUT.extxyz"], ["OUT.xyz", "OUT.extxyz"]),
        (["a/1/OUT.xyz", "b/1/OUT.xyz", "b/2/OUT.xyz"], ["a_1_OUT", "b_1_OUT", "b_2_OUT"]),
    ],
)
def test_ids_of_several_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], prefixes: list[str]
) -> None:
    files = files_of(tmp_path, *names)
    expected = [f"{prefix}_00000{k}" for prefix in prefixes for k in (0, 1)]
    assert [a.info["config_id"] for a in read_structures(files)] == expected
    monkeypatch.chdir(tmp_path / "a")
    relative = [Path("..") / name for name in names]
    assert [a.info["config_id"] for a in read_structures(relative)] == expected


def test_patterns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_of(tmp_path, "b/OUT.xyz", "a/OUT.xyz", "x[1].xyz")
    monkeypatch.chdir(tmp_path)
    assert resolve_all("*/OUT.xyz") == [Path("a/OUT.xyz"), Path("b/OUT.xyz")]
    assert resolve_all(["x[1].xyz", "?/OUT.xyz"])[0] == Path("x[1].xyz")
    assert [p.name for p in resolve_all("bundled:si_mini/*.extxyz")] == [
        "dft.extxyz",
        "pool.extxyz",
    ]
    frames = read_structures(["*/OUT.xyz", "bundled:si_mini/dft.extxyz"], require_energy=True)
    assert [energy(atoms) for atoms in frames[:4]] == [-2.0, -2.5, -1.0, -1.5]
    assert len(frames) == 4 + 517
    with pytest.raises(StructureError, match=r"c\*/OUT.xyz: matches no file; check the pattern"):
        resolve_all(["a/OUT.xyz", "c*/OUT.xyz"])
    with pytest.raises(StructureError, match=r"a/OUT.xyz: is named twice; name every file once"):
        resolve_all(["a/OUT.xyz", "*/OUT.xyz"])
    with pytest.raises(StructureError, match="no structure file is named"):
        resolve_all([])


def test_dft_and_pool_share_ids_with_all_files_at_once(tmp_path: Path) -> None:
    dft, pool = files_of(tmp_path, "a/OUT.xyz", "b/OUT.xyz")
    structures, others = open_dft_and_pool(str(dft), [pool])
    ids = [atoms.info["config_id"] for atoms in (*structures, *others)]
    assert ids == ["a_OUT_000000", "a_OUT_000001", "b_OUT_000000", "b_OUT_000001"]
    assert ids == [atoms.info["config_id"] for atoms in read_structures([dft, pool])]
    assert [energy(a) for a in structures] == [-1.0, -1.5]
    assert [a.calc for a in others] == [None, None]
    assert len(open_dft_and_pool(dft, None)[1]) == 0
    with pytest.raises(StructureError, match="is named twice"):
        open_dft_and_pool(dft, dft)
    write(tmp_path / "c.xyz", dimer(config_id="a_OUT_000001"), format="extxyz")
    write(tmp_path / "d.xyz", dimer(config_id="c"), format="extxyz")
    files = [tmp_path / "c.xyz", tmp_path / "d.xyz"]
    assert len(open_dft_and_pool(dft, files)[1]) == 2
    with pytest.raises(
        StructureError,
        match=r"c.xyz: frame 0 \(a_OUT_000001\): frame 1 of .*a/OUT.xyz has the same config_id",
    ):
        open_dft_and_pool([dft, pool], files)


def test_an_id_in_two_files(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.xyz", dimer(config_id="x"), format="extxyz")
    with pytest.raises(
        StructureError,
        match=r"b.xyz: frame 0 \(x\): frame 0 of .*a.xyz has the same config_id; give",
    ):
        read_structures(tmp_path / "?.xyz")


def test_labels_that_nobody_wants_are_not_looked_at(tmp_path: Path) -> None:
    bad = [
        labelled(dimer(), np.nan),
        labelled(dimer(), -3.0, REF_energy=-4.0),
        dimer(dft_energy="soon"),
    ]
    bad[1].calc.results["forces"][0, 0] = np.inf
    for atoms in bad:
        write(tmp_path / "a.extxyz", atoms)
        with pytest.raises(StructureError, match=r"is NaN|give different|not a number"):
            read_structures(tmp_path / "a.extxyz")
        (found,) = read_structures(tmp_path / "a.extxyz", labels=False)
        assert found.calc is None


def test_a_named_key_that_one_of_the_files_has(tmp_path: Path) -> None:
    write(tmp_path / "a.extxyz", [labelled(dimer(), -7.0, REF_energy=-1.0)])
    write(tmp_path / "b.extxyz", [labelled(dimer(2.5), -7.0)])
    frames = read_structures([tmp_path / "a.extxyz", tmp_path / "b.extxyz"], energy_key="REF_energy")
    assert [energy(atoms) for atoms in frames] == [-1.0, None]
    with pytest.raises(StructureError, match=r"b.extxyz: frame 0 \(b_000000\): has no energy"):
        read_structures(tmp_path / "?.extxyz", energy_key="REF_energy", require_energy=True)


DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 4.05
0 4.05
0 4.05
ITEM: ATOMS id type element x y z fx fy fz
1 1 Al 0 0 0 1 2 3
2 1 Al 0 2 2 -1 -2 -3
"""


def test_a_lammps_dump_holds_no_energy(tmp_path: Path) -> None:
    """ASE says 0 eV."""
    (tmp_path / "md.dump").write_text(DUMP)
    (atoms,) = read_structures(tmp_path / "md.dump")
    assert energy(atoms) is None
    assert atoms.calc.results["forces"].tolist() == [[1, 2, 3], [-1, -2, -3]]
    assert str(atoms.symbols) == "Al2"
    with pytest.raises(StructureError, match=r"frame 0 \(md_000000\): has no energy, and one is due"):
        read_structures(tmp_path / "md.dump", require_energy=True)


def test_atom_types_of_lammps_are_no_elements(tmp_path: Path) -> None:
    """ASE takes type 1 for hydrogen."""
    (tmp_path / "md.dump").write_text(DUMP.replace("element ", "").replace(" Al", ""))
    with pytest.raises(StructureError, match="does not say which elements its atoms are; write it"):
        read_structures(tmp_path / "md.dump")


def test_energies_that_are_all_zero(tmp_path: Path) -> None:
    write(tmp_path / "a.traj", [labelled(dimer(), 0.0), labelled(dimer(2.5), 0.0)])
    assert len(read_structures(tmp_path / "a.traj")) == 2
    with pytest.raises(StructureError, match=r"a.traj: all energies are 0 eV, which stands for none"):
        read_structures(tmp_path / "a.traj", require_energy=True)
    write(tmp_path / "b.traj", [labelled(dimer(), 0.0), labelled(dimer(2.5), -1.0)])
    assert len(read_structures(tmp_path / "b.traj", require_energy=True)) == 2


@pytest.mark.parametrize("mark", ["IsolatedAtom", "isolated_atom", "ISOLATED_ATOM"])
def test_isolated_atoms_are_marked(tmp_path: Path, mark: str) -> None:
    free = [labelled(Atoms(s), e, config_type=mark) for s, e in (("Si", -1.0), ("C", -2.0))]
    write(
        tmp_path / "a.extxyz",
        [*free, labelled(dimer(), -9.0, config_type="bulk"), labelled(Atoms("H"), -3.0)],
    )
    frames = read_structures(tmp_path / "a.extxyz", require_energy=True)
    assert isolated_atoms(frames) == {"Si": -1.0, "C": -2.0}
    assert [str(a.symbols) for a in without_isolated_atoms(frames)] == ["Si2", "H"]
    other = labelled(Atoms("Si"), -1.5, config_type=mark)
    write(tmp_path / "b.extxyz", [free[0], free[0].copy(), other])
    with pytest.raises(StructureError, match=r"b_000002: this isolated atom of Si has -1.5 eV, another"):
        isolated_atoms(read_structures(tmp_path / "b.extxyz"))
    write(tmp_path / "c.extxyz", labelled(dimer(), -2.0, config_type=mark))
    with pytest.raises(StructureError, match=r"c_000000: is marked .* holds 2 atoms; correct its"):
        isolated_atoms(read_structures(tmp_path / "c.extxyz"))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (True, False, False)])
def test_a_structure_is_the_same_in_any_periodic_image(pbc):
    rng = np.random.default_rng(0)
    cell = [[4.0, 0.1, 0.2], [1.3, 5.0, 0.4], [-0.6, 0.9, 6.1]]
    first = Atoms("Cu4", cell=cell, pbc=pbc, scaled_positions=[[0, 0, 0], [0.5, 0.5, 0.5], *rng.uniform(0, 1, (2, 3))])
    shift = rng.integers(-2, 3, (4, 3)) * np.array(pbc) @ first.cell.array
    other, below, moved = first.copy(), first.copy(), first.copy()
    other.positions += shift + rng.normal(0, 1e-10, (4, 3))
    below.positions[0] -= 1e-9 * first.cell.array[0]
    below.wrap(eps=0)
    moved.positions[2, 0] += 0.01
    assert below.positions[0, 0] > 3
    assert repeated_structures([first, other, below, moved]) == [(0, 1), (0, 2)]
    if not all(pbc):  # along an open axis the image is another structure
        moved = first.copy()
        moved.positions[1] += first.cell.array[2]
        assert repeated_structures([first, moved]) == []
