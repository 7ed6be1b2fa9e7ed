"""`pretrained: RUN`: a pretraining of another run is taken, unless it knows what judges the fine-tuning here."""

from pathlib import Path

import ase.io
import pytest
import yaml
from run_stages import fold
from tiny import N_TRAIN, N_VAL, exit_code


def known(split: Path, name: str) -> str:
    """The text of a split whose pool holds this structure."""
    lines = [line for line in split.read_text().splitlines() if not line.startswith(f"{name},")]
    return "\n".join([*lines, f"{name},pretrain\n"])


@pytest.fixture
def first(experiment, tmp_path, fake, capfd):
    """Bring a pretraining to its end, its split and its pool as they are given."""

    def call(split: str | None = None, pool: Path | None = None) -> Path:
        folder = tmp_path / "first"
        folder.mkdir()
        data = experiment["data"] | ({"pool": str(pool)} if pool else {})
        (folder / "split_1.csv").write_text(split or (tmp_path / "split_1.csv").read_text())
        content = experiment | {"data": data, "splits": str(folder / "split_{split}.csv")}
        (folder / "experiment.yaml").write_text(yaml.safe_dump(content))
        words = ("run", folder / "experiment.yaml", "-o", folder / "run", "--strategy", "mp")
        assert exit_code(*map(str, words)) == 0
        fake.taken()
        capfd.readouterr()
        return folder / "run"

    return call


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_pretraining_that_knows_what_judges_is_refused(part, tiny, experiment, first, run, fake, tmp_path):
    name = tiny.ids(part)[0]
    other = first(known(tmp_path / "split_1.csv", name))
    said = run(experiment | {"pretrained": str(other)}, "--strategy", "baseline", "mp", status=1).strip()
    assert said == (
        f"eipnn run: pretrained: {other}/split-1/seed-0/pretrain has learned from {name}, which validates or tests in "
        f"{fold(tmp_path)} as {name} (1 such structures);\n"
        "take a run of the same splits and pool, or leave the key pretrained out"
    )
    assert fake.taken() == []
    run(experiment | {"pretrained": str(other)}, "--strategy", "baseline")  # which takes none


def test_that_of_a_teacher_is_looked_at_too(tiny, experiment, first, run, fake, tmp_path):
    other = first(known(tmp_path / "split_1.csv", tiny.ids("test")[0]))
    taught = {"taught": {"label": "+LA (self)", "teacher": "mp"}}
    content = experiment | {"pretrained": str(other), "strategies": taught}
    assert "has learned from" in run(content, "--strategy", "taught", status=1)
    assert fake.taken() == []


def test_a_run_that_was_moved_is_found_where_it_is(tiny, experiment, first, run, fake, tmp_path):
    """With its labels; so is what it knows."""
    other = first(known(tmp_path / "split_1.csv", tiny.ids("test")[0]))
    moved = other.rename(tmp_path / "moved")
    assert "moved/split-1/seed-0/pretrain has learned from" in run(
        experiment | {"pretrained": str(moved)}, "--strategy", "mp", status=1
    )


def test_one_that_knows_nothing_of_it_is_taken(tiny, experiment, first, run, fake, tmp_path):
    """A training frame in its pool, as where it had fewer DFT frames, is no matter."""
    other = first(known(tmp_path / "split_1.csv", tiny.ids("train")[0]))
    run(experiment | {"pretrained": str(other)}, "--strategy", "mp")
    assert fake.taken() == [("mp", "fit"), ("mp", "test")]
    given = yaml.safe_load((fold(tmp_path) / "mp" / "config.yaml").read_text())["model"]["init_args"]["init_from"]
    assert given == str(other / "split-1" / "seed-0" / "pretrain" / "checkpoints" / "best.ckpt")


def test_structures_are_known_by_their_atoms(tiny, experiment, first, run, tmp_path):
    """A frame that tests here has another id there, and other images of its atoms; the file has the id of before."""
    other = first()
    name, judge = tiny.ids("pool")[0], tiny.ids("test")[0]
    frames = ase.io.read(tiny.data["dft"], ":")
    same = tiny.frames[name].copy()
    same.positions[0] += same.cell.array[0] * same.pbc.all()
    same.info, same.calc = frames[N_TRAIN + N_VAL].info, frames[N_TRAIN + N_VAL].calc
    frames[N_TRAIN + N_VAL] = same
    dft = tmp_path / "dft.extxyz"
    ase.io.write(dft, frames, format="extxyz")
    content = experiment | {"data": experiment["data"] | {"dft": str(dft)}, "pretrained": str(other)}
    said = run(content, "--strategy", "mp", status=1)
    assert f"has learned from {name}, which validates or tests in {fold(tmp_path)} as {judge} " in said


def test_a_pool_that_has_changed_since_says_nothing(tiny, experiment, first, run, tmp_path):
    pool = tmp_path / "pool.extxyz"
    pool.write_text(Path(tiny.data["pool"]).read_text())
    other = first(pool=pool)
    frames = ase.io.read(pool, ":")
    frames[2].positions[0, 0] += 1e-3
    ase.io.write(pool, frames, format="extxyz")
    assert "pool_000002" in run(experiment | {"pretrained": str(other)}, "--strategy", "mp", status=1)
    pool.unlink()
    assert str(pool) in run(experiment | {"pretrained": str(other)}, "--strategy", "mp", status=1)
