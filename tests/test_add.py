"""`eipnn train FOLDER --add FILE`, and the loop of `experiments/active`, which goes round by it."""

import json
import sys
from pathlib import Path
from shutil import copytree

import ase.io
import numpy as np
import pandas as pd
import pytest
import yaml
from ase.calculators.emt import EMT
from test_train import NETWORK, TEACHERS, copper, labelled
from tiny import exit_code, in_process, read_json

from eipnn.eips import load_eips
from eipnn.errors import InputError
from eipnn.files import digest_file, write_json
from eipnn.labels import LabelStore
from eipnn.labels.engine import take_labels
from eipnn.labels.layout import DONE, INDEX, WITHOUT_STRESS, Arrays, LabelError, create, describe
from eipnn.run import command, execute
from eipnn.run.command import make_rows
from eipnn.run.experiment import ALL, Experiment, listed, read_experiment
from eipnn.structures import Split, StructureStore, open_structures, read_split, read_structures
from eipnn.train.add import _in_pool, extended
from eipnn.train.folds import with_new
from eipnn.train.settings import EXPERIMENT

SCRIPTS = Path(__file__).parents[1] / "experiments" / "active"
START, NUMBER, FOLDS = 8, 3, (1, 2)


@pytest.fixture(scope="module")
def looped(own_cache, tmp_path_factory) -> Path:
    """The folder of one seed after one round by two choices, all in this process; tests only read it."""
    folder = tmp_path_factory.mktemp("loop")
    (folder / "teachers.yaml").write_text(yaml.safe_dump(TEACHERS))
    (folder / "network.yaml").write_text(yaml.safe_dump(NETWORK))
    ase.io.write(folder / "cu.extxyz", copper(20, 0), format="extxyz")
    train = f"--network {folder}/network.yaml --teachers {folder}/teachers.yaml --folds 2 --steps 4 --recipes mp"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        script = __import__("loop")
        patch.delitem(sys.modules, "loop")
        for module in (script, execute, command):
            patch.setattr(module, "call", in_process)
        options = {"start": START, "number": NUMBER, "rounds": 1, "by": ["spread", "random"], "train": train}
        script.loop([str(folder / "cu.extxyz")], output=folder / "out", calculator="ase.calculators.emt.EMT", **options)
    return folder / "out" / "seed-0"


@pytest.fixture
def folders(looped) -> tuple[Path, Path]:
    """Of the first training, and of the one with more frames."""
    return looped / "start", looped / "spread" / "round-1"


@pytest.fixture
def refused(capfd):
    """Add what cannot be; what is said."""

    def call(folder: Path, *words: object) -> str:
        assert exit_code("train", str(folder), *map(str, words)) == 1
        said = capfd.readouterr().err.strip()
        assert said.startswith("eipnn train: ")
        assert said.count("\n") <= 1
        return said

    return call


def test_errors_of_each_round(looped):
    table = pd.read_csv(looped.parent / "errors.csv")
    assert table["by"].tolist() == ["spread", "spread", "random", "random"]
    assert table["frames"].tolist() == [START, START + NUMBER] * 2
    errors = table["force MAE (eV/Å)"]
    assert errors[0] == errors[2]  # of the training that the choices share
    assert errors.nunique() == 3
    last = read_json(looped / "random" / "round-1" / "choice.json")
    assert errors[3] == last["test"]["committee of mp"][0]["force_mae"]


def test_what_was_chosen_is_labelled_by_the_stand_in(folders):
    """And the next choice would leave it out."""
    chosen = [atoms.info["pool_id"] for atoms in ase.io.read(folders[1] / "next.xyz", ":")]
    pool = {atoms.info["config_id"]: atoms for atoms in read_structures(folders[0].parent / "pool.extxyz")}
    frames = read_structures(folders[1] / "new.extxyz")
    for atoms, name in zip(frames, chosen, strict=True):
        np.testing.assert_allclose(atoms.positions, pool[name].positions, atol=1e-7)
        structure = pool[name].copy()
        structure.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(structure.get_potential_energy(), abs=1e-6)


def test_pretrainings_and_labels_are_those_of_before(folders, capfd):
    first, added = folders
    for number in FOLDS:
        before, now = (folder / f"split-{number}" / "seed-0" for folder in folders)
        assert not (now / "pretrain").exists()
        given = yaml.safe_load((now / "mp" / "config.yaml").read_text())["model"]["init_args"]["init_from"]
        assert given == str(before / "pretrain" / "checkpoints" / "best.ckpt")
        assert read_json(now / "mp" / "fit.json")["gradient_steps"] == 4
    old, new = (LabelStore.open(folder / "labels") for folder in folders)
    assert set(old.ids) < set(new.ids)
    np.testing.assert_array_equal(new.energies_of(old.ids, old.eips), old.energies_of(old.ids, old.eips))
    np.testing.assert_array_equal(new.forces_of(old.ids, old.eips), old.forces_of(old.ids, old.eips))
    assert exit_code("report", str(added), "-o", str(added.parent / "report")) == 0
    steps = pd.read_csv(added.parent / "report" / "table.csv")["pretraining_steps"]
    assert set(steps) == {read_json(first / "split-1" / "seed-0" / "pretrain" / "fit.json")["gradient_steps"]}


def test_frames_of_before_keep_their_folds(folders):
    """All pools hold what was chosen, which therefore trains in all folds."""
    new = set(open_structures(str(folders[1] / "new.extxyz")).ids)
    for number in FOLDS:
        old, now = (read_split(folder / "splits" / f"fold_{number}.csv") for folder in folders)
        assert (now.val, now.pool) == (old.val, old.pool)
        assert set(now.train) == {*old.train, *new}


def test_a_killed_run_goes_on_and_nothing_of_before_is_touched(folders, monkeypatch, capfd, tmp_path):
    first, added = folders
    before = {file: digest_file(file) for file in first.rglob("*") if file.is_file()}
    monkeypatch.setattr(execute, "call", None)  # no stage runs again
    monkeypatch.setattr(command, "call", in_process)
    words = ("train", first, "--add", added / "new.extxyz", "--test", first.parents[1] / "test.extxyz", "-o", added)
    assert exit_code(*map(str, words)) == 0
    assert capfd.readouterr().out.count("done before, skipped") == len(FOLDS)
    assert {file: digest_file(file) for file in first.rglob("*") if file.is_file()} == before


def test_a_second_addition_takes_the_same_pretraining(folders, tmp_path, capfd):
    """Ids change where files are called alike: the frames are the same."""
    new = tmp_path / "new.extxyz"
    ase.io.write(new, copper(4, 8), format="extxyz")
    words = ("train", folders[1], "--add", new, "-o", tmp_path / "out", "--dry-run")
    assert exit_code(*map(str, words)) == 0
    said = capfd.readouterr().out
    assert "4 new frames: 4 validate in a fold, 0" in said
    assert "8 of" in said  # of the four frames by two teachers
    assert f"Pretraining: that of {folders[0]}" in said
    experiment = yaml.safe_load((tmp_path / "out" / "experiment.yaml").read_text())
    assert experiment["pretrained"] == str(folders[0])
    splits = [read_split(tmp_path / "out" / "splits" / f"fold_{number}.csv") for number in FOLDS]
    assert [len(split.val) for split in splits] == [START // 2 + 2] * 2
    assert {len(split.train) + len(split.val) for split in splits} == {START + NUMBER + 4}
    assert sum("round-1_new" in name for name in splits[0].train) == NUMBER


def test_a_frame_validates_where_no_pool_holds_it_or_its_child():
    frames = copper(6, 3)
    for number, atoms in enumerate(frames):
        atoms.info["config_id"] = f"new_{number}"
    more = StructureStore.of(frames)
    folds = [Split(("b",), ("a",), (), ("of_b", "any")), Split(("a",), ("b",), (), ("of_a", "any", "of_new"))]
    seen = {"of_a": {"new_0"}, "of_b": {"new_1"}, "any": {"new_2"}, "of_new": {"new_3"}}
    first, second = with_new(folds, more, seen, 0)
    assert {"a", "new_0", "new_3"} <= set(first.val)
    assert {"b", "new_1"} <= set(second.val)
    assert {"new_2", "new_1"} <= set(first.train)
    assert {"new_2", "new_0", "new_3"} <= set(second.train)
    assert [fold.pool for fold in (first, second)] == [fold.pool for fold in folds]
    assert sorted((len(first.val), len(second.val))) == [3, 4]  # of the five that may
    for fold in (first, second):
        assert sorted((*fold.train, *fold.val)) == ["a", "b", *more.ids]


def test_what_a_pool_knows_of_new_frames(tmp_path):
    """The frame itself, by its atoms in any image or by the id that it had there, or a child that names it, by the id
    that the frame had alone."""
    dft, pool, new = (str(tmp_path / name) for name in ("a/new.extxyz", "pool.extxyz", "b/new.extxyz"))
    for part in "ab":
        (tmp_path / part).mkdir()
    ase.io.write(dft, copper(1, 2), format="extxyz")
    frames = copper(4, 3)
    structures = [frames[1].copy(), *(atoms.copy() for atoms in copper(3, 9))]
    for atoms, info in zip(structures, ({"parent": "old"}, {"parent": "new_000002"}, {}, {}), strict=True):
        atoms.info = info
    frames[1].positions += [1, -2, 0] @ frames[1].cell.array
    frames[3].info = {"pool_id": "pool_000003"}
    ase.io.write(new, frames, format="extxyz")
    ase.io.write(pool, structures, format="extxyz")
    experiment = Experiment({"dft": [dft, new], "pool": [pool]}, {})
    more = experiment.structures[0][1:]
    assert more.ids[1] == "b_new_000001"
    found = _in_pool(experiment, [new], more)
    assert list(found.values()) == [{more.ids[1]}, {more.ids[2]}, set(), {more.ids[3]}]


def test_labels_of_other_eips_or_without_stress_are_not_taken(folders, tmp_path):
    store = LabelStore.open(folders[0] / "labels")
    frames = open_structures(str(folders[0].parent / "start.extxyz"))
    other = TEACHERS[1] | {"arguments": TEACHERS[1]["arguments"] | {"r0": 2.7}}
    with pytest.raises(LabelError, match=r"labels of other EIPs than now \(morse\): put them back"):
        take_labels(store.folder, frames, load_eips([TEACHERS[0], other]), tmp_path)
    old = copytree(store.folder, tmp_path / "old")
    (old / "sums.json").unlink()
    (old / INDEX).write_text(json.dumps(store.index | {"version": WITHOUT_STRESS}))
    with pytest.raises(LabelError, match="older version, without stress"):
        take_labels(old, frames, load_eips(TEACHERS), tmp_path)
    assert not (tmp_path / INDEX).exists()
    assert take_labels(store.folder, frames, load_eips(TEACHERS), tmp_path) == len(frames)
    assert (
        take_labels(store.folder, frames, load_eips(TEACHERS), tmp_path) == 0
    )  # it is there: the engine goes on with it
    assert LabelStore.open(tmp_path).complete


def test_a_killed_take_over_goes_on(folders, tmp_path, monkeypatch):
    """The first call had written the index, and labels of one structure by one teacher."""
    store, eips = LabelStore.open(folders[0] / "labels"), load_eips(TEACHERS)
    frames = open_structures(str(folders[0].parent / "start.extxyz"))
    create(tmp_path, frames, describe(frames, eips))
    arrays = Arrays(tmp_path, "r+")
    arrays.status[0, 0], arrays.energies[0, 0] = DONE, 5.0
    arrays.flush()
    assert take_labels(store.folder, frames, eips, tmp_path) == len(frames)
    taken = LabelStore.open(tmp_path)
    expected = store.energies_of(frames.ids, store.eips)
    expected[0, 0] = 5.0  # it is not taken twice
    np.testing.assert_array_equal(taken.energies_of(frames.ids, store.eips), expected)


def test_files_of_before_that_hold_other_structures_are_refused(folders, tmp_path):
    """Of the same names, with the same ids."""
    first, added = folders
    content = yaml.safe_load((first / EXPERIMENT).read_text())
    for kind in ("dft", "pool"):
        (file,) = listed(content["data"][kind])
        frames = ase.io.read(file, ":")
        frames[0].positions[0, 0] += 1e-3
        other = tmp_path / kind / Path(file).name
        other.parent.mkdir()
        ase.io.write(other, frames, format="extxyz")
        folder = tmp_path / f"changed-{kind}"
        for name in ("labels", "splits"):
            copytree(first / name, folder / name)
        changed = content | {"data": content["data"] | {kind: [str(other)]}}
        (folder / EXPERIMENT).write_text(yaml.safe_dump(changed))
        with pytest.raises(InputError, match="DFT frames or pool have changed since: put them back"):
            extended(folder, [str(added / "new.extxyz")], tmp_path / "out")


def test_without_labels_the_stages_know_the_files_of_before(place_of_dft_alone, tmp_path):
    folder, dft = place_of_dft_alone
    ase.io.write(tmp_path / "new.extxyz", copper(2, 8), format="extxyz")
    words = (folder, [str(tmp_path / "new.extxyz")], tmp_path / "out")
    assert len(extended(*words)[2]) == START + 2
    ase.io.write(dft, copper(START, 5), format="extxyz")
    with pytest.raises(InputError, match="DFT frames or pool have changed since: put them back"):
        extended(*words)


@pytest.fixture
def place_of_dft_alone(own_cache, tmp_path) -> tuple[Path, Path]:
    """The folder of a training on DFT alone, as its first stage left it, and its DFT file."""
    dft, folder = tmp_path / "dft.extxyz", tmp_path / "first"
    ase.io.write(dft, copper(START, 0), format="extxyz")
    (tmp_path / "network.yaml").write_text(yaml.safe_dump(NETWORK))
    options = f"--teachers none --folds 2 --steps 4 --dry-run --network {tmp_path}/network.yaml -o {folder}"
    assert exit_code("train", str(dft), *options.split()) == 0
    experiment = read_experiment(folder / EXPERIMENT)
    rows = make_rows(experiment, folder, experiment.run | {"frames": [ALL], "alpha": [0.1]})
    stage = rows[0].stages[0]
    stage.folder.mkdir(parents=True)
    write_json(stage.done_file, {"fingerprint": stage.fingerprint()})
    return folder, dft


def test_what_a_pretraining_has_learned_from_is_not_tested_on(folders, looped, refused, tmp_path):
    start, added = folders
    chosen = {atoms.info["pool_id"] for atoms in ase.io.read(added / "next.xyz", ":")}
    atoms = next(a for a in ase.io.read(looped / "pool.extxyz", ":") if a.info["config_id"] not in chosen)
    ase.io.write(tmp_path / "test.extxyz", labelled(atoms), format="extxyz")
    words = ("--add", added / "new.extxyz", "--test", tmp_path / "test.extxyz", "-o", tmp_path / "out")
    assert f"pretraining has learned from {atoms.info['config_id']} of the pool" in refused(start, *words)


def test_nothing_is_written_into_a_folder_that_is_refused(folders, refused, tmp_path):
    new, out = tmp_path / "more.extxyz", tmp_path / "out"
    ase.io.write(new, copper(2, 8), format="extxyz")
    content = yaml.safe_load((folders[0] / EXPERIMENT).read_text())
    content["run"]["split"] = [1, 2, 3]
    out.mkdir()
    (out / EXPERIMENT).write_text(yaml.safe_dump(content))
    assert "holds a training with --folds 3" in refused(folders[0], "--add", new, "-o", out)
    assert [file.name for file in out.iterdir()] == [EXPERIMENT]


def test_what_cannot_be_added_is_said_in_two_lines(folders, refused, tmp_path):
    first, added = folders
    new, out = added / "new.extxyz", tmp_path / "out"
    assert "--steps: --add takes that of the training" in refused(first, "--add", new, "--steps", 4, "-o", out)
    assert "name its folder, and no DFT files" in refused(first, new, "--add", new, "-o", out)
    assert "no training to add frames to" in refused(tmp_path, "--add", new, "-o", out)
    assert "keeps the training of before" in refused(first, "--add", new, "-o", first)
    again = tmp_path / "again.extxyz"
    again.write_bytes(new.read_bytes())
    assert "again_000000 is new_000000 again, atom by atom (3 such" in refused(added, "--add", again, "-o", out)
    other = copper(1, 9)[0]
    other.symbols[:] = "Ni"
    ase.io.write(again, other, format="extxyz")
    assert "Ni is in no frame of before" in refused(first, "--add", again, "-o", out)
    twice = copper(2, 10)
    twice.append(twice[0].copy())
    twice[2].calc = twice[0].calc
    ase.io.write(again, twice, format="extxyz")
    assert "again_000002 is again_000000 again, atom by atom (1 such" in refused(first, "--add", again, "-o", out)
    half = copytree(first, tmp_path / "half")
    (half / "split-2" / "seed-0" / "pretrain" / "done.json").unlink()
    ase.io.write(again, copper(2, 10), format="extxyz")
    assert "this pretraining has not come to its end" in refused(half, "--add", again, "-o", out)
    fold = half / "splits" / "fold_1.csv"
    fold.write_text("\n".join(line for line in fold.read_text().splitlines() if "start_000001" not in line) + "\n")
    assert "DFT frames or pool have changed since" in refused(half, "--add", again, "-o", tmp_path / "other")
