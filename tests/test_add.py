"""`eipnn train FOLDER --add FILE`: what is kept, what is trained again, and where the new frames go."""

from pathlib import Path
from shutil import copytree, rmtree

import ase.io
import numpy as np
import pytest
from test_train import FOLDS, arguments, copper, labelled, place, trained  # noqa: F401 (fixtures)
from tiny import exit_code, in_process, read_json

from eipnn.files import digest_file
from eipnn.labels import LabelStore
from eipnn.run import command, execute
from eipnn.structures import Split, StructureStore, open_structures, read_split, read_structures
from eipnn.train.folds import with_new

NUMBERS = range(1, FOLDS + 1)


def add(folder: Path, files: list[Path], output: Path, *more: str) -> int:
    return exit_code("train", str(folder), "--add", *map(str, files), "-o", str(output), *more)


def folds(folder: Path) -> list[Split]:
    return [read_split(folder / "splits" / f"fold_{number}.csv") for number in NUMBERS]


@pytest.fixture(scope="module")
def added(trained, tmp_path_factory) -> Path:  # noqa: F811
    """A training with two structures of the pool and three other frames more; tests only read it."""
    folder = tmp_path_factory.mktemp("added")
    chosen = read_structures(trained / "children.extxyz")[:2]
    for atoms in chosen:
        atoms.info = {"pool_id": atoms.info["config_id"]}
    # called like the first file: the ids of before change
    ase.io.write(folder / "dft.extxyz", [*map(labelled, chosen), *copper(3, 7)], format="extxyz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "call", in_process)
        patch.setattr(command, "call", in_process)
        assert add(trained, [folder / "dft.extxyz"], folder / "out") == 0
    return folder / "out"


def test_pretraining_and_labels_are_those_of_before(trained, added):  # noqa: F811
    for number in NUMBERS:
        before, now = (folder / f"split-{number}" / "seed-0" for folder in (trained, added))
        assert not (now / "pretrain").exists()
        inputs = read_json(now / "mp" / "begun.json"), read_json(before / "mp" / "begun.json")
        assert inputs[0] != inputs[1]
    assert read_json(added / "choice.json")["potential"] == str(added / "potential.pt")
    old, new = LabelStore.open(trained / "labels"), LabelStore.open(added / "labels")
    names = [name for name in new.ids if name.startswith("rattle")]
    assert names
    np.testing.assert_array_equal(new.energies_of(names, new.eips), old.energies_of(names, old.eips))
    np.testing.assert_array_equal(new.forces_of(names, new.eips), old.forces_of(names, old.eips))


def test_frames_of_before_keep_their_fold_and_pools_stay(trained, added):  # noqa: F811
    ids = open_structures(
        [str(trained.parent / "dft.extxyz"), str(added.parent / "dft.extxyz")], beside=[str(trained / "children.extxyz")]
    ).ids
    before, new = dict(zip(open_structures([str(trained.parent / "dft.extxyz")]).ids, ids, strict=False)), set(ids[10:])
    assert before["dft_000000"] == ids[0] != "dft_000000"
    children = {atoms.info["config_id"]: atoms.info["parent"] for atoms in read_structures(trained / "children.extxyz")}
    for number, (old, now) in enumerate(zip(folds(trained), folds(added), strict=True)):
        assert {before[name] for name in old.val} == set(now.val) - new
        assert {before[name] for name in old.train} == set(now.train) - new
        assert now.pool == old.pool
        assert new <= {*now.train, *now.val}
        for frame, child in zip(ids[10:12], list(children)[:2], strict=True):
            assert (frame in now.val) == (children[child] in old.val), number
    assert sorted(len(new & set(fold.val)) for fold in folds(added)) == [2, 3]
