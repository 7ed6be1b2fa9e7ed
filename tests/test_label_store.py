"""Opening a label store: what it gives, and what is said of an absent, incomplete or damaged one."""

import json
import shutil
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from tiny import flipped

from eipnn.eips import EIP
from eipnn.files import write_json
from eipnn.labels import LabelError, LabelStore, label_structures
from eipnn.labels.layout import DONE, SUMMED, create, describe, open_array, seal
from eipnn.structures import read_structures

BUNDLED = "bundled:si_mini/labels"


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    shutil.copytree(LabelStore.open(BUNDLED).folder, tmp_path / "labels")
    for path in (tmp_path / "labels").iterdir():
        path.chmod(0o644)
    return tmp_path / "labels"


@pytest.fixture
def copy(sealed: Path) -> Path:
    """A store without checksums, as older versions made it."""
    for name in ("sums.json", "force_sums.npy"):
        (sealed / name).unlink()
    return sealed


def test_bundled_store() -> None:
    store = LabelStore.open(BUNDLED)
    assert store.eips == (
        "erhart-albe",
        "edip",
        "meam-lenosky",
        "sw",
        "sw-silicene",
        "tersoff-t2",
        "tersoff-t3",
        "purja-pun-mishin",
    )
    assert (len(store.ids), store.ids[0], store.ids[-1]) == (3517, "Si_00000", "Si_102999")
    assert store.energies.shape == (3517, 8)
    assert store.complete
    assert np.isfinite(store.energies).all()
    assert store.forces("Si_00000").shape == (6, 8, 3)
    two = store.energies_of(["Si_100000", "Si_00000"], ["sw", "edip"])
    row = store.ids.index("Si_100000")
    assert two[0].tolist() == [store.energies[row, 3], store.energies[row, 1]]
    assert two[1].tolist() == [store.energies[0, 3], store.energies[0, 1]]
    assert store.energies_of([], ["sw"]).shape == (0, 1)
    with pytest.raises(ValueError, match="read-only"):
        store.energies[0, 0] = 0.0


def test_structures_are_those_that_were_labelled() -> None:
    store = LabelStore.open(BUNDLED)
    frames = read_structures("bundled:si_mini/dft.extxyz")
    store.check(frames)
    frames[7].positions[0, 0] += 1e-6
    with pytest.raises(
        LabelError,
        match="labels of another structure 'Si_00007' with other species, positions, cell or per",
    ):
        store.check(frames)


def test_what_a_store_lacks() -> None:
    store = LabelStore.open(BUNDLED)
    with pytest.raises(LabelError, match="has no labels of the configuration 'Si_99'; label the file"):
        store.energies_of(["Si_00000", "Si_99"], ["sw"])
    with pytest.raises(LabelError, match="has no labels of the EIP 'emt'; it has erhart-albe, edip"):
        store.energies_of(["Si_00000"], ["sw", "emt"])
    with pytest.raises(LabelError, match="no labels of the configuration 'x'"):
        store.forces("x")


def test_fingerprint_is_of_the_content(copy: Path) -> None:
    fingerprint = LabelStore.open(BUNDLED).fingerprint
    assert LabelStore.open(copy).fingerprint == fingerprint
    np.load(copy / "energies.npy", mmap_mode="r+")[0, 0] += 1e-6
    assert LabelStore.open(copy).fingerprint != fingerprint


def test_absent_store(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="no such label store; make one with `eipnn label"):
        LabelStore.open(tmp_path / "absent")
    with pytest.raises(LabelError, match=r"no label store here \(index.json is missing\)"):
        LabelStore.open(tmp_path)


def test_incomplete_store(copy: Path) -> None:
    np.load(copy / "status.npy", mmap_mode="r+")[5] = 0
    with pytest.raises(LabelError, match="incomplete, 8 of 28136 labels are missing; run the same"):
        LabelStore.open(copy)


def test_another_layout(copy: Path) -> None:
    index = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(LabelError, match="layout version 99, and this eipnn reads 2; label again"):
        LabelStore.open(copy)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("index.json", "{", "index.json is not an index"),
        ("index.json", "[1]", "index.json is not an index"),
        ("ids.txt", "a\nb\n", "ids.txt has 2 ids, not 3517"),
        ("ids.txt", None, "ids.txt is missing or no text"),
        ("forces.npy", None, "forces.npy is missing"),
        ("forces.npy", "cut", "forces.npy is cut short or no array"),
        ("energies.npy", "", "energies.npy is cut short or no array"),
        ("stress.npy", None, "stress.npy is missing"),
    ],
)
def test_damaged_store(copy: Path, file: str, content: str | None, message: str) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(LabelError, match=f"damaged label store, {message}; remove the folder and"):
        LabelStore.open(copy)


def test_array_of_another_shape(copy: Path) -> None:
    np.save(copy / "energies.npy", np.zeros((3, 8)))
    with pytest.raises(LabelError, match=r"energies.npy is float64 \(3, 8\), not <f8 \(3517, 8\)"):
        LabelStore.open(copy)


SMALL = [Atoms(f"Si{1 + i % 6}", np.eye(6, 3)[: 1 + i % 6] * i, info={"config_id": f"c{i}"}) for i in range(30)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    springs = EIP("springs", "ase", "label_calculators.Springs", zero="least_squares")
    label_structures(SMALL, [springs], folder)
    return folder


def content(folder: Path) -> list:
    store = LabelStore.open(folder)
    forces = [store.forces(name).tolist() for name in store.ids]
    return [
        store.ids,
        store.eips,
        store.zeros,
        store.energies.tolist(),
        store.status.tolist(),
        forces,
        store.stress.tobytes(),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "energies.npy",
        "forces.npy",
        "stress.npy",
        "offsets.npy",
        "status.npy",
        "checksums.npy",
        "force_sums.npy",
        "ids.txt",
        "index.json",
        "zeros.json",
        "sums.json",
    ],
)
def test_no_flipped_bit_goes_unnoticed(labelled: Path, tmp_path: Path, name: str) -> None:
    whole = content(labelled)
    copy = tmp_path / "labels"
    shutil.copytree(labelled, copy)
    found = 0
    for damaged in flipped(labelled / name, tmp_path, 60):
        damaged.replace(copy / name)
        try:
            assert content(copy) == whole
        except LabelError:
            found += 1
    assert found >= 55


def test_a_store_is_copied_with_its_zeros(labelled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "labels"
    shutil.copytree(labelled, copy, ignore=shutil.ignore_patterns("zeros.json"))
    with pytest.raises(LabelError, match=r"zeros.json is not as it was written"):
        LabelStore.open(copy)
    sums = json.loads((copy / "sums.json").read_text())
    del sums["zeros.json"]  # as in a store of before
    (copy / "sums.json").write_text(json.dumps(sums))
    assert LabelStore.open(copy).zeros == {"springs": "none"}


def test_damaged_labels_are_not_sealed_again(sealed: Path, tmp_path: Path, labelled: Path) -> None:
    """A second `eipnn label` would else give its blessing to what a disk has changed."""
    copy = tmp_path / "again"
    shutil.copytree(labelled, copy)
    np.load(copy / "forces.npy", mmap_mode="r+")[3, 0, 1] += 1e-9
    springs = EIP("springs", "ase", "label_calculators.Springs")
    with pytest.raises(LabelError, match=r"forces\.npy is not as it was written; remove the folder"):
        label_structures(SMALL, [springs], copy)


@pytest.fixture
def without_stress(labelled: Path, tmp_path: Path) -> Path:
    """The store as layout version 1 was."""
    folder = tmp_path / "old"
    shutil.copytree(labelled, folder)
    (folder / "stress.npy").unlink()
    index = json.loads((folder / "index.json").read_text())
    del index["units"]["stress"]
    write_json(folder / "index.json", index | {"version": 1})
    sums = json.loads((folder / "sums.json").read_text())
    del sums["stress.npy"]
    write_json(folder / "sums.json", sums | {"index.json": zlib.crc32((folder / "index.json").read_bytes())})
    return folder


def test_a_store_of_before_stress_is_read(
    labelled: Path, without_stress: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new = LabelStore.open(without_stress), LabelStore.open(labelled)
    ids, eips = new.ids, new.eips
    np.testing.assert_array_equal(old.energies_of(ids, eips), new.energies_of(ids, eips))
    np.testing.assert_array_equal(old.forces_of(ids, eips), new.forces_of(ids, eips))
    assert not caplog.messages
    assert old.stress_of(ids, eips).shape == (len(ids), 1, 6)
    assert np.isnan(old.stress_of(ids[:2], eips)).all()
    (message,) = caplog.messages
    assert message.startswith(f"{without_stress}: holds no stress, as stores of older versions; label into a new")
    with pytest.raises(LabelError, match="labels of an older version, without stress; remove it to label again, or"):
        label_structures(SMALL, [EIP("springs", "ase", "label_calculators.Springs")], without_stress)
    np.load(without_stress / "energies.npy", mmap_mode="r+")[3, 0] += 1e-9
    with pytest.raises(LabelError, match=r"energies\.npy is not as it was written"):
        LabelStore.open(without_stress)


def test_forces_of_some_frames_in_any_order(labelled: Path, tmp_path: Path) -> None:
    store = LabelStore.open(labelled)
    names = ["c7", "c3", "c3", "c29"]
    found = store.forces_of(names, ["springs"])
    np.testing.assert_array_equal(found, np.concatenate([store.all_forces[store.atoms(int(i[1:]))] for i in names]))
    assert store.forces_of([], ["springs"]).shape == (0, 1, 3)
    with pytest.raises(LabelError, match="has no labels of the EIP 'emt'"):
        store.forces_of(names, ["emt"])
    shutil.copytree(labelled, tmp_path / "copy")
    np.load(tmp_path / "copy" / "forces.npy", mmap_mode="r+")[store.offsets[3], 0, 1] += 1e-9
    damaged = LabelStore.open(tmp_path / "copy")
    damaged.forces_of(["c7", "c29"], ["springs"])
    with pytest.raises(LabelError, match="the forces of c3 are not as they were written"):
        damaged.forces_of(names, ["springs"])


def test_all_forces_and_stress_are_seen_in_the_file_and_stay_as_they_are_there(labelled: Path) -> None:
    """No copy in memory is made; what a reader changes in them is its own."""
    store = LabelStore.open(labelled)
    some = slice(1, len(store.ids))
    expected = [store.forces_of([name], store.eips[::-1])[:, ::-1] for name in store.ids[some]]
    found = store.forces_of(store.ids[some], store.eips)
    np.testing.assert_array_equal(found, np.concatenate(expected))
    assert isinstance(found.base.base, np.memmap)
    found[:] = 7.0
    np.testing.assert_array_equal(store.forces_of(store.ids[some], store.eips), np.concatenate(expected))
    stress = store.stress_of(store.ids[some], store.eips)
    np.testing.assert_array_equal(stress, store.stress[some])
    assert isinstance(stress.base.base, np.memmap)
    stress[:] = 7.0
    assert not (store.stress == 7.0).any()


def test_bundled_stores_have_checksums() -> None:
    for name in ("si_mini", "al_mini", "agau_mini"):
        folder = LabelStore.open(f"bundled:{name}/labels").folder
        assert set(json.loads((folder / "sums.json").read_text())) == set(SUMMED)


@pytest.mark.slow
def test_a_big_store_opens_in_no_time(tmp_path: Path) -> None:
    """10^5 structures of 8 atoms under 8 EIPs: 154 MB of forces."""
    structures = [Atoms("Si8", info={"config_id": str(k)}) for k in range(100_000)]
    eips = [EIP(f"e{k}", "ase", "label_calculators.Springs") for k in range(8)]
    index = describe(structures, eips)
    create(tmp_path, structures, index)
    open_array(tmp_path, "status", index, "r+")[:] = DONE
    seal(tmp_path)
    begin = time.perf_counter()
    LabelStore.open(tmp_path)
    assert time.perf_counter() - begin < 2
