"""`eipnn generate` as people call it: files, resumption, splits, errors."""

import errno
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from tiny import exit_code, held_for

from eipnn.generate import pool
from eipnn.labels import LabelStore
from eipnn.processes import parallel
from eipnn.structures import random_split, read_split, read_structures

EMT = "- {name: emt, ase: ase.calculators.emt.EMT}\n- {name: other, ase: ase.calculators.lj.LennardJones}\n"
STATIC = ("--rattle", "25", "--strain", "25", "--packed", "5")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: ten frames of aluminium and copper, a split and an EIP set."""
    monkeypatch.chdir(tmp_path)
    frames = []
    for k in range(10):
        atoms = bulk("AlCu", "cesiumchloride", 3.0)
        atoms.rattle(0.05, seed=k)
        atoms.info["config_id"] = f"dft-{k}"
        frames.append(atoms)
    write("dft.extxyz", frames)
    marks = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [f"dft-{k},{mark}" for k, mark in enumerate(marks)]
    Path("split.csv").write_text("\n".join(["configs,mark", *rows]) + "\n")
    Path("set.yaml").write_text(EMT)
    return tmp_path


def generate(*arguments: str) -> int:
    return exit_code("generate", "-o", "pool.extxyz", "--max-atoms", "8", *arguments)


def content() -> bytes:
    return Path("pool.extxyz").read_bytes()


def test_same_command_same_bytes_and_more_keeps_the_earlier(folder: Path) -> None:
    md = ("--md", "7", "--eip", "set.yaml:emt", "--md-steps", "5")
    frames = ("--from", "dft.extxyz", "--elements", "Al", "Cu")
    assert generate(*frames, *STATIC, *md) == 0
    first = content()
    ids = [atoms.info["config_id"] for atoms in read_structures("pool.extxyz")]
    assert (ids[0], ids[-1]) == ("rattle-000000", "md-000006")
    assert len(ids) == 62
    assert sorted(p.name for p in folder.iterdir()) == [
        "dft.extxyz",
        "pool.extxyz",
        "set.yaml",
        "split.csv",
    ]
    Path("pool.extxyz").unlink()
    assert generate(*frames, *STATIC, *md, "--workers", "2") == 0
    assert content() == first
    # One more of two kinds: as if asked for at once.
    more = ("--rattle", "45", "--strain", "25", "--packed", "5", "--md", "8", *md[2:])
    assert generate(*frames, *more) == 0
    extended = content()
    assert set(frame_texts(first)) < set(frame_texts(extended))
    Path("pool.extxyz").unlink()
    assert generate(*frames, *more) == 0
    assert content() == extended


def frame_texts(text: bytes) -> list[str]:
    return [text[start : start + size].decode() for *_, start, size in pool._frames(io.BytesIO(text))]


@pytest.mark.parametrize("cut", [0, 1, 30, 200])
def test_a_killed_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch, cut: int) -> None:
    command = ("--from", "dft.extxyz", *STATIC)
    assert generate(*command) == 0
    whole = content()
    Path("pool.extxyz").unlink()
    calls = []

    def killed(recipe, kind, numbers):
        calls.append(kind)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return make(recipe, kind, numbers)

    make = pool.make
    monkeypatch.setattr(pool, "make", killed)
    assert generate(*command) == 130
    assert not Path("pool.extxyz").exists()
    journal = Path(".pool.extxyz.part")
    journal.write_bytes(journal.read_bytes()[: -cut or None])  # the last write was cut off
    made: list[int] = []

    def counted(recipe, kind, numbers):
        made.extend(numbers)
        return make(recipe, kind, numbers)

    monkeypatch.setattr(pool, "make", counted)
    assert generate(*command) == 0
    assert content() == whole
    assert len(made) == 30 + (cut > 0)
    assert not journal.exists()


def test_what_a_killed_run_of_other_settings_left_is_not_taken(folder: Path) -> None:
    assert generate("--elements", "Al", "--rattle", "3", "--seed", "1") == 0
    Path("pool.extxyz").rename(".pool.extxyz.part")
    assert generate("--elements", "Al", "--rattle", "3") == 0
    mixed = content()
    Path("pool.extxyz").unlink()
    assert generate("--elements", "Al", "--rattle", "3") == 0
    assert content() == mixed


@pytest.mark.parametrize("split", ["split.csv", "random:3"])
def test_parents_are_training_frames_alone(folder: Path, split: str) -> None:
    options = ("--from", "dft.extxyz", "--split", split, "--pool-split", "new.csv")
    assert generate(*options, "--strain", "40") == 0
    ids = [f"dft-{k}" for k in range(10)]
    expected = read_split(split) if split.endswith("csv") else random_split(ids, (), 3)
    structures = read_structures("pool.extxyz")
    assert {atoms.info["parent"] for atoms in structures} == set(expected.train)
    written = read_split("new.csv")
    assert (written.train, written.val, written.test) == (
        expected.train,
        expected.val,
        expected.test,
    )
    assert written.pool == tuple(atoms.info["config_id"] for atoms in structures)


def test_a_frame_out_of_training_has_no_say(folder: Path) -> None:
    """Neither positions nor the shortest distance of a test frame matter."""
    command = ("--from", "dft.extxyz", "--split", "split.csv", "--rattle", "3")
    assert generate(*command) == 0
    first = content()
    frames = read_structures("dft.extxyz")
    frames[9].positions[1] = frames[9].positions[0] + [0, 0, 1.0]
    write("dft.extxyz", frames)
    Path("pool.extxyz").unlink()
    assert generate(*command) == 0
    assert content() == first


def test_the_table_and_the_labels(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--from", "dft.extxyz", *STATIC) == 0
    out, err = capsys.readouterr()
    assert [line.split()[:2] for line in out.splitlines() if line.split()[2:3]][-3:] == [
        ["rattle", "25"],
        ["strain", "25"],
        ["packed", "5"],
    ]
    assert "parents: 10 of 10 frames" in err
    assert "55 structures, 55 of them new" in err
    Path("emt.yaml").write_text(EMT.splitlines()[0])
    assert exit_code("label", "pool.extxyz", "--eips", "emt.yaml", "-o", "labels") == 0
    energies = LabelStore.open("labels").energies
    assert energies.shape == (55, 1)
    assert np.isfinite(energies).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--elements", "Al"], "give --rattle"),
        (["--rattle", "1"], "no parents; give your frames"),
        (["--rattle", "1", "--from", "no.xyz"], "no.xyz: no such file"),
        (["--rattle", "1", "--elements", "Al", "--split", "split.csv"], "--from"),
        (["--rattle", "1", "--from", "dft.extxyz", "dft.extxyz"], "dft.extxyz: is named twice"),
        (["--md", "1", "--elements", "Al"], "--md and --eip go together"),
        (["--md", "1", "--elements", "Al", "--eip", "set.yaml"], "name one of emt, other"),
        (["--md", "1", "--elements", "Al", "--eip", "set.yaml:sw"], "name one of emt, other"),
        (["--md", "1", "--elements", "Al", "--eip", "none"], "neither a named set nor"),
        (["--rattle", "1", "--elements", "Al", "--volumes", "2", "1"], "lower number comes first"),
        (["--rattle", "1", "--from", "dft.extxyz", "--split", "random:x"], "write random:1"),
        (["--rattle", "1", "--from", "dft.extxyz", "--lattice-constant", "4"], "--elements"),
        (["--rattle", "1", "--from", "dft.extxyz", "--pool-split", "x.csv"], "give that"),
        (["--rattle", "1", "--from", "dft.extxyz", "--min-distance", "3"], "rattle: parent dft-"),
    ],
)
def test_errors(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert generate(*arguments) == 1
    error = capsys.readouterr().err
    assert "eipnn generate: " in error
    assert message in error
    assert not Path("pool.extxyz").exists()


def test_a_split_of_other_frames(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("split.csv").write_text("configs,mark\nelse,train\n")
    assert generate("--from", "dft.extxyz", "--split", "split.csv", "--rattle", "1") == 1
    assert "split.csv: train id 'else' is in no DFT" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["notes\n", "one line", "2\nno=recipe\nAl 0 0 0\nAl 0 0 3\n"])
def test_files_of_others_are_left_alone(folder: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    Path("pool.extxyz").write_text(text)
    assert generate("--elements", "Al", "--rattle", "1") == 1
    assert "did not make it" in capsys.readouterr().err
    assert Path("pool.extxyz").read_text() == text


def test_a_pool_is_extended_only(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate("--elements", "Al", "--rattle", "3") == 0
    for change, message in (
        (("--rattle", "2"), "holds rattle-000002 already"),
        (("--strain", "3"), "holds rattle-000000 already"),
        (("--rattle", "3", "--seed", "1"), "made with other parents or settings"),
        (("--rattle", "3", "--rattle-max", "0.1"), "made with other parents or settings"),
        (("--rattle", "3", "--min-distance", "2"), "made with other parents or settings"),
    ):
        before = content()
        assert generate("--elements", "Al", *change) == 1
        assert message in capsys.readouterr().err
        assert content() == before
    # What rattle does not depend on may change.
    assert generate("--elements", "Al", "--rattle", "3", "--strain", "2", "--strain-max", "0.2") == 0


def test_one_run_at_a_time(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with held_for(folder / ".pool.extxyz.lock", 0.5):
        assert generate("--elements", "Al", "--rattle", "1") == 0
    assert "pool.extxyz: another `eipnn generate` is at work there; waiting for it" in caplog.text


def test_a_full_disk_keeps_what_was_made(folder: Path, monkeypatch, capsys) -> None:
    """The same command goes on from there when there is room again."""

    def full(workers, jobs):
        yield next(iter(parallel(1, jobs)))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pool, "parallel", full)
        assert generate("--elements", "Al", "--rattle", "50") == 1
    assert "the disk is full, or your share of it" in capsys.readouterr().err
    assert generate("--elements", "Al", "--rattle", "50") == 0
    assert "50 structures, 30 of them new" in capsys.readouterr().err


def test_frames_that_were_cut_off_do_not_count() -> None:
    stream = io.StringIO()
    atoms = bulk("Al")
    atoms.info = {"config_id": "rattle-000000", "recipe": "r1"}
    write(stream, atoms, format="extxyz")
    text = stream.getvalue().encode()
    for cut in range(len(text)):
        assert list(pool._frames(io.BytesIO(text + text[:cut]))) == [("rattle-000000", "r1", 0, len(text))]


def test_the_command(folder: Path) -> None:
    command = [sys.executable, "-m", "eipnn", "generate", "-o", "out/al.extxyz"]
    done = subprocess.run([*command, "--elements", "Al", "--rattle", "2"], capture_output=True, text=True, check=True)
    assert "rattle" in done.stdout
    assert len(read_structures("out/al.extxyz")) == 2
