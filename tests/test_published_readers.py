"""The three published layouts: every number arrives, and what is damaged is refused by its name."""

import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from hypothesis import given, settings
from hypothesis import strategies as st
from published_sets import CLUSTERS, CRYSTALS, EIPS, agau, ani_al, fetch, folds, kim_si, write_folds
from sets.agau import AgAu
from sets.ani_al import AniAl
from sets.base import LayoutError

from eipnn.labels import LabelStore
from eipnn.structures import energy, read_split, read_structures

MAKERS = {"ani-al": ani_al, "kim-si": kim_si, "agau": agau}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The three sets as published; tests copy what they change."""
    root = tmp_path_factory.mktemp("published")
    for name, make in MAKERS.items():
        make(root / name)
    return root


@pytest.fixture(scope="module")
def converted(made, tmp_path_factory) -> Path:
    """The three sets after `fetch.py`; tests only read them."""
    root = tmp_path_factory.mktemp("converted")
    for name in MAKERS:
        assert fetch(name, root / name, made / name) == 0
    return root


@pytest.fixture
def copy(made, tmp_path):
    """A copy of one set, to be damaged."""

    def one(name: str) -> Path:
        return shutil.copytree(made / name, tmp_path / name)

    return one


def refusal(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `fetch.py` says of a set that it refuses; it leaves no data."""
    out = folder.parent / "out"
    assert fetch(name, out, folder) == 1
    assert not (out / "dft.extxyz").exists()
    assert not (out / ".unpacked").exists()
    return capsys.readouterr().err


def test_ani_al_arrives(made, converted):
    frames = {a.info["config_id"]: a for a in read_structures(converted / "ani-al" / "dft.extxyz")}
    assert len(frames) == 2 * 3 * 14
    with h5py.File(made / "ani-al" / "data-2.h5") as content:
        group = content["steps/group_1"]
        atoms = frames["data-2/steps/group_1/000003"]
        assert atoms.get_chemical_symbols() == ["Al"] * 4
        assert atoms.pbc.all()
        assert energy(atoms) == group["energy"][3]
        np.testing.assert_allclose(atoms.positions, group["coordinates"][3], atol=1e-8)
        np.testing.assert_allclose(atoms.cell.array, group["cell"][3], rtol=1e-12)
        np.testing.assert_allclose(atoms.calc.results["forces"], group["force"][3], atol=1e-8)


def test_agau_arrives(made, converted):
    frames = {a.info["config_id"]: a for a in read_structures(converted / "agau" / "dft.extxyz")}
    assert len(frames) == 4 * 2 * 12
    atoms = frames["Ag1Au3/set.001/000007"]
    part = made / "agau" / "init" / "Ag1Au3" / "set.001"
    assert atoms.get_chemical_symbols() == ["Ag", "Au", "Au", "Au"]
    assert atoms.pbc.all()
    assert energy(atoms) == np.load(part / "energy.npy")[7]
    np.testing.assert_allclose(atoms.positions.ravel(), np.load(part / "coord.npy")[7], atol=1e-8)
    np.testing.assert_allclose(atoms.cell.array.ravel(), np.load(part / "box.npy")[7], rtol=1e-12)
    forces = atoms.calc.results["forces"]
    np.testing.assert_allclose(forces.ravel(), np.load(part / "force.npy")[7], atol=1e-8)


def test_kim_si_arrives(made, converted):
    folder = converted / "kim-si"
    dft, pool = (read_structures(folder / f"{kind}.extxyz") for kind in ("dft", "pool"))
    assert {a.info["config_id"] for a in dft} == {f"cluster_{i}" for i in range(CLUSTERS)}
    assert {a.info["config_id"] for a in pool} == {f"diamond_{i}" for i in range(CRYSTALS)}
    assert all(energy(atoms) is None for atoms in pool)
    store = LabelStore.open(folder / "labels")
    assert set(store.eips) == set(EIPS)
    store.check([*dft, *pool])
    for atoms in (*dft, *pool):
        name = atoms.info["config_id"]
        published = read(made / "kim-si" / name / f"{name}.xyz")
        np.testing.assert_allclose(atoms.positions, published.positions, atol=1e-8)
        assert (atoms.pbc == published.pbc).all()
        assert energy(atoms) == published.info.get("energy_reference")
        given = [published.info[f"energy_{eip}"] for eip in EIPS]
        assert store.energies_of([name], EIPS)[0].tolist() == given
        assert np.isnan(store.forces(name)).all()


@pytest.mark.parametrize("name", ["ani-al", "agau"])
def test_the_pool_is_hidden_among_the_dft_frames(converted, name):
    folder = converted / name
    ids = [a.info["config_id"] for a in read_structures(folder / "dft.extxyz")]
    splits = [read_split(folder / "splits" / f"random_{k}.csv") for k in (1, 2, 3)]
    n = len(ids)
    for split in splits:
        parts = (split.pool, split.train, split.val, split.test)
        assert sorted(i for part in parts for i in part) == sorted(ids)
        assert [len(part) for part in parts[:3]] == [n * 80 // 100, n * 12 // 100, n * 4 // 100]
        assert split.test
        assert split.pool == splits[0].pool
    assert splits[0].test != splits[1].test
    assert not (folder / "pool.extxyz").exists()
    assert not (folder / "labels").exists()


def test_folds_become_splits(converted):
    folder = converted / "kim-si" / "splits"
    for name, fold in folds().items():
        split = read_split(folder / f"{name}.csv")
        assert set(split.test) == set(fold["test"])
        assert {*split.train, *split.val} == set(fold["training"])
        assert len(split.val) == len(fold["training"]) // 5
        left = {f"cluster_{i}" for i in (CLUSTERS - 2, CLUSTERS - 1)}  # in no fold
        assert set(split.pool) == left | {f"diamond_{i}" for i in range(CRYSTALS)}
    split = read_split(folder / "random_1.csv")
    sizes = [len(part) for part in (split.train, split.val, split.test, split.pool)]
    assert sizes == [20, 4, 6, CRYSTALS]


ANI_AL = [
    ("energy", None, "dataset 'energy' is missing; it holds cell, coordinates"),
    (
        "cell",
        np.zeros((13, 3, 3)),
        r"cell has the shape \(13, 3, 3\), and the coordinates, of \(14, 4, 3\)",
    ),
    ("coordinates", np.zeros((14, 12)), r"coordinates have the shape \(14, 12\), not \(n, N, 3\)"),
    ("energy", np.zeros((14, 1)), r"energy has the shape \(14, 1\)"),
    ("energy", np.array(["a"] * 14, dtype="S"), r"energy holds \|S1, not numbers"),
    ("force", np.zeros((14, 5, 3)), r"force has the shape \(14, 5, 3\)"),
    ("species", np.array([b"Al"] * 5), r"species have the shape \(5,\)"),
    ("species", np.array([b"Al"] * 3 + [b"Qq"]), "species 'Qq' is no chemical symbol"),
    ("species", np.full(4, 13), "species holds int64, not symbols"),
    ("energy", np.array([np.nan] * 14), "frame 0: the DFT energy is NaN or infinite"),
    ("force", np.full((14, 4, 3), np.inf), "frame 0: the DFT forces is NaN or infinite"),
    ("coordinates", np.zeros((14, 4, 3)), "frame 0: atoms 0 and 1 are at the same place"),
    ("cell", np.zeros((14, 3, 3)), "frame 0: the cell has no volume"),
]


@pytest.mark.parametrize(("dataset", "values", "message"), ANI_AL)
def test_damaged_ani_al(copy, capsys, dataset, values, message):
    folder = copy("ani-al")
    with h5py.File(folder / "data-2.h5", "r+") as content:
        del content["steps/group_1"][dataset]
        if values is not None:
            content["steps/group_1"][dataset] = values
    said = refusal("ani-al", folder, capsys)
    assert "data-2.h5: group /steps/group_1: " in said
    assert re.search(message, said), said


@settings(max_examples=25)
@given(share=st.floats(0.0, 0.999))
def test_hdf5_files_that_are_cut_short(made, tmp_path_factory, share):
    """Wherever they are cut, they are refused by name, never read in part."""
    folder = tmp_path_factory.mktemp("cut")
    content = (made / "ani-al" / "data-1.h5").read_bytes()
    (folder / "data-1.h5").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(LayoutError, match=r"data-1\.h5: no HDF5 file, or cut short"):
        list(AniAl().frames([folder])[1])


def test_species_of_each_configuration(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as content:
        group = content.create_group("g")
        group["species"] = np.array([[b"Al", b"Cu"], [b"Cu", b"Cu"]])
        group["energy"], group["cell"] = np.zeros(2), np.tile(4 * np.eye(3), (2, 1, 1))
        group["coordinates"] = group["force"] = np.zeros((2, 2, 3))
    frames = list(AniAl().frames([tmp_path])[1])
    assert [str(frame.atoms.symbols) for frame in frames] == ["AlCu", "Cu2"]


def change(file: str, text: str | None):
    def damage(system: Path) -> None:
        path = system / file
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_text(text)

    return damage


def array(file: str, values: np.ndarray | None):
    def damage(system: Path) -> None:
        path = system / "set.001" / file
        path.unlink()
        if values is not None:
            np.save(path, values)

    return damage


def cut(system: Path) -> None:
    file = system / "set.001" / "force.npy"
    file.write_bytes(file.read_bytes()[:-100])


AGAU = [
    (change("type.raw", "0\n1\n1\n1\n1\n"), r"coord\.npy: has the shape \(12, 12\), and 12 conf.* of 5 atoms in"),
    (change("type.raw", "0 1 1 2"), "type.raw: '2' is no index into the 2 elements"),
    (change("type.raw", "0 1 1 -1"), "type.raw: '-1' is no index"),
    (change("type.raw", ""), r"type\.raw: is empty"),
    (change("type_map.raw", None), r"type_map\.raw: is missing; without it the elements"),
    (change("type_map.raw", "Ag Qq"), r"type_map\.raw: 'Qq' is no chemical symbol"),
    (change("nopbc", ""), "nopbc: marks open boundaries"),
    (change("set.001/real_atom_types.npy", ""), "mixed layout, which is not read"),
    (lambda system: [shutil.rmtree(part) for part in system.glob("set.*")], "but no folder set"),
    (array("box.npy", None), r"set\.001/box\.npy: is missing"),
    (array("energy.npy", None), r"set\.001/energy\.npy: is missing"),
    (array("box.npy", np.ones((11, 9))), r"box\.npy: has the shape \(11, 9\), and 12 configurations"),
    (array("energy.npy", np.zeros((12, 2))), r"energy\.npy: has the shape \(12, 2\)"),
    (array("energy.npy", np.full(12, np.nan)), r"set\.001: frame 0: the DFT energy is NaN"),
    (array("coord.npy", np.array(["a"])), r"coord\.npy: holds <U1 \(1,\), not a list of numbers"),
    (cut, r"force\.npy: no NumPy array, or cut short"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), AGAU)
def test_damaged_agau(copy, capsys, damage, message):
    folder = copy("agau")
    damage(folder / "init" / "Ag1Au3")
    said = refusal("agau", folder, capsys)
    assert "Ag1Au3" in said
    assert re.search(message, said), said


def test_energies_in_a_column_and_one_system(tmp_path):
    agau(tmp_path)
    system = tmp_path / "init" / "Ag1Au3"
    for file in system.glob("set.*/energy.npy"):
        np.save(file, np.load(file)[:, None])
    total, frames = AgAu().frames([system])
    ids = [frame.atoms.info["config_id"] for frame in frames]
    assert len(ids) == total == 24
    assert ids[0] == "Ag1Au3/set.000/000000"


def xyz(name: str, **info):
    def damage(folder: Path) -> None:
        atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]], info=info)
        (folder / name).mkdir(exist_ok=True)
        write(folder / name / f"{name}.xyz", atoms, format="extxyz")

    return damage


def fold(**changed: list[str]):
    def damage(folder: Path) -> None:
        content = folds()
        content["fold_2"] |= changed
        write_folds(folder, content)

    return damage


def twice(folder: Path) -> None:
    shutil.copytree(folder / "cluster_3", folder / "more" / "cluster_3")


def two_frames(folder: Path) -> None:
    file = folder / "cluster_3" / "cluster_3.xyz"
    file.write_text(file.read_text() * 2)


def shorten(folder: Path) -> None:
    file = folder / "cluster_3" / "cluster_3.xyz"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))


KIM_SI = [
    (xyz("cluster_3"), r"cluster_3\.xyz: has neither energy_reference nor any energy_<eip>"),
    (xyz("cluster_3", energy_reference=float("nan")), r"cluster_3\.xyz: the DFT energy is NaN"),
    (xyz("cluster_3", energy_reference="low"), "energy_reference is 'low', not a number"),
    (xyz("cluster_3", energy_sw=[1.0, 2.0]), r"energy_sw is array\(\[1., 2.\]\), not a number"),
    (xyz("a\\3", energy_sw=1.0), r"the id 'a\\\\3' is read back as 'a3'"),
    (xyz("a,b", energy_sw=1.0), "its id 'a,b' holds a comma"),
    (xyz("odd", **{"energy_s/w": 1.0}), "'s/w' cannot be the name of an EIP"),
    (shorten, r"cluster_3\.xyz: ASE cannot read it"),
    (two_frames, r"cluster_3\.xyz: holds 2 configurations"),
    (twice, r"more/cluster_3/cluster_3\.xyz: has the id 'cluster_3', as .*cluster_3\.xyz has"),
    (fold(test=["cluster_0", "x"]), r"fold_2: names 'cluster_0' 2 times"),
    (fold(test=["cluster_29", "x"]), r"all_folds\.json: fold_2: names 'x', and there is no such"),
    (fold(test=["diamond_1"]), "fold_2: names 'diamond_1', which has no energy_reference"),
    (fold(test=[]), "fold_2 has no list 'test'"),
    (lambda folder: write_folds(folder, []), r"all_folds\.json: must be a mapping"),
    (lambda folder: write_folds(folder, {}).write_text("{"), r"all_folds\.json: not JSON"),
    (lambda folder: write_folds(folder / "more", folds()), "leave one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), KIM_SI)
def test_damaged_kim_si(copy, capsys, damage, message):
    folder = copy("kim-si")
    damage(folder)
    said = refusal("kim-si", folder, capsys)
    assert re.search(message, said), said


def test_labels_that_are_missing_are_in_the_ledger(copy, tmp_path):
    folder = copy("kim-si")
    xyz("cluster_3", energy_reference=-7.0, energy_sw=-6.0, energy_edip=float("inf"))(folder)
    assert fetch("kim-si", tmp_path / "out", folder) == 0
    store = LabelStore.open(tmp_path / "out" / "labels")
    values = store.energies_of(["cluster_3"], ["sw", "edip", "CF_MOD"])[0]
    assert values[0] == -6.0
    assert np.isnan(values[1:]).all()
    assert np.isnan(store.energies).sum() == 3
    text = (tmp_path / "out" / "labels" / "failures.csv").read_text()
    assert "cluster_3,edip,NaN or infinite in the published file\n" in text
    assert "cluster_3,CF_MOD,not in the published file\n" in text


def test_without_folds_it_is_said_that_splits_are_random(copy, tmp_path, capsys):
    folder = copy("kim-si")
    shutil.rmtree(folder / "cross_validation")
    assert fetch("kim-si", tmp_path / "out", folder) == 0
    assert "all_folds.json among the files: random splits are written alone" in capsys.readouterr().out
    names = {file.name for file in (tmp_path / "out" / "splits").iterdir()}
    assert names == {f"random_{k}.csv" for k in (1, 2, 3)}


@pytest.mark.parametrize(
    ("name", "message"),
    [("ani-al", "no HDF5 file"), ("kim-si", "no NAME/NAME.xyz"), ("agau", "no DeePMD system")],
)
def test_a_folder_with_something_else(tmp_path, capsys, name, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").write_text("")
    assert message in refusal(name, tmp_path / "other", capsys)
