"""Large files of extended XYZ: read in pieces by several processes, with the bytes and the errors of one."""

import errno
import gzip
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import flipped

from eipnn.files import digest_file
from eipnn.processes import interpreter
from eipnn.structures import StructureError, blocks, open_structures, read_structures
from eipnn.structures.blocks import read_store
from eipnn.tensor_files import write_tensors

PIECE = 3
HEAD = 'Lattice="5 0 0 0 5 0 0 0 5" pbc="T T F" Properties=species:S:1:pos:R:3'


def frame(number: int, head: str = "", atoms: int = 2) -> str:
    rng = np.random.default_rng(number)
    rows = "".join("Cu {} {} {}\n".format(*position) for position in rng.uniform(0, 5, (atoms, 3)))
    return f"{atoms}\n{HEAD} {head}\n{rows}"


FRAMES = [
    *(frame(k, f"energy={k + 0.5} config_type=bulk") for k in range(4)),
    frame(4, "config_type=IsolatedAtom", atoms=1),
    "\n  \n" + frame(5, "config_id=mine"),
    "1\n\nCu 0 0 0\nVEC1 3 0 0\nVEC2 0 3 0\n",
    *(frame(k) for k in range(7, 11)),
]


@pytest.fixture
def pieces(monkeypatch, tmp_path):
    """Files are read in pieces of three frames, by this process."""
    monkeypatch.setattr(blocks, "LARGE", 1)
    monkeypatch.setattr(blocks, "PIECE", PIECE)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))


def written(folder: Path, frames=FRAMES, name: str = "a.extxyz") -> Path:
    file = folder / name
    file.write_text("".join(frames))
    return file


def content(store, folder: Path) -> str:
    """Checksum of the file that is kept of it."""
    write_tensors(folder / "store.pt", store.to_tensors())
    return digest_file(folder / "store.pt")


@pytest.mark.parametrize("workers", [1, 2])
def test_pieces_are_the_file(pieces, tmp_path, monkeypatch, workers):
    file = written(tmp_path)
    expected = read_structures(file)
    found = read_store({file: "a"}, {})
    assert found.ids == [atoms.info["config_id"] for atoms in expected]
    assert list(found) == expected
    monkeypatch.setattr("joblib.cpu_count", lambda: workers)
    several = read_store({file: "a"}, {}, tmp_path / "part")
    assert len(list(tmp_path.glob("part-0-*.pt"))) == 4
    monkeypatch.setattr(blocks, "LARGE", 10**9)
    assert content(several, tmp_path) == content(found, tmp_path) == content(read_store({file: "a"}, {}), tmp_path)
    assert several.place(6) == f"{file}: frame 6 (a_000006)"
    assert several.types == [atoms.info.get("config_type", "") for atoms in expected]


def test_a_compressed_file(pieces, tmp_path):
    file = tmp_path / "a.extxyz.gz"
    file.write_bytes(gzip.compress("".join(FRAMES).encode()))
    assert list(read_store({file: "a"}, {})) == read_structures(file)
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(StructureError, match=r"a.extxyz.gz: frame \d+: ASE cannot read it"):
        read_store({file: "a"}, {})


DAMAGED = {
    "count": [*FRAMES[:5], "two\n", *FRAMES[5:]],
    "long count": [*FRAMES[:5], "9" * 30 + "\n", *FRAMES[5:]],
    "cut": [*FRAMES[:7], FRAMES[7][:-30]],
    "atom": [*FRAMES[:4], FRAMES[5].replace("Cu", "Cu 1", 1)],
    "vectors first": ["VEC1 3 0 0\n", *FRAMES],
    "vectors after a gap": [*FRAMES[:7], "\nVEC3 0 0 3\n", *FRAMES[7:]],
    "no number": [*FRAMES[:8], frame(8).replace("Cu ", "Cu nan", 1), *FRAMES[9:]],
    "same id": [*FRAMES[:6], frame(8, "config_id=mine"), *FRAMES[7:]],
    "same id, then another error": [*FRAMES[:6], frame(8, "config_id=mine"), "two\n"],
    "another error, then the same id": [*FRAMES[:6], "two\n", frame(8, "config_id=mine")],
    "both in one frame": [*FRAMES[:6], frame(8, "config_id=mine").replace("Cu ", "Cu nan", 1)],
    "nothing": ["\n\n"],
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_errors_are_those_of_one_process(pieces, tmp_path, damage):
    first, second = written(tmp_path, [frame(1), frame(2)], "b.extxyz"), written(tmp_path, DAMAGED[damage])
    with pytest.raises(StructureError) as expected:
        read_structures([first, second])
    with pytest.raises(StructureError) as found:
        open_structures([first, second])
    assert str(found.value) == str(expected.value)
    assert not list((tmp_path / "cache").glob("*.pt"))


def test_what_is_no_text_is_told_as_by_one_process(pieces, tmp_path):
    file = written(tmp_path, [frame(k) for k in range(200)])
    file.write_bytes(file.read_bytes() + frame(20).replace("Cu", "C\xfc").encode("latin-1"))
    with pytest.raises(StructureError) as expected:
        read_structures(file)
    with pytest.raises(StructureError, match=r"frame 1\d\d: ASE cannot read it \('utf-8' codec") as found:
        open_structures(file)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("options", [{"energy_key": "e"}, {"require_energy": True}])
def test_what_all_frames_together_lack(pieces, tmp_path, options):
    file = written(tmp_path, [frame(k, "energy=0") for k in range(5)])
    with pytest.raises(StructureError) as expected:
        read_structures(file, **options)
    with pytest.raises(StructureError) as found:
        open_structures(file, **options)
    assert str(found.value) == str(expected.value)


def read_by(monkeypatch) -> list[int]:
    """The first frames of the pieces that are read from now on."""
    read: list[int] = []
    real = blocks._block

    def noted(path, prefix, options, piece):
        read.append(piece.frame)
        return real(path, prefix, options, piece)

    monkeypatch.setattr(blocks, "_block", noted)
    return read


@pytest.mark.parametrize("damage", [None, "flipped", "cut"])
def test_what_a_killed_call_had_read_is_not_read_again(pieces, tmp_path, monkeypatch, damage):
    file, real = written(tmp_path), blocks.keep
    expected = content(read_store({file: "a"}, {}), tmp_path)

    def ended(part, *arguments):
        if part.stem.endswith("-000000006"):
            raise KeyboardInterrupt
        return real(part, *arguments)

    monkeypatch.setattr(blocks, "keep", ended)
    with pytest.raises(KeyboardInterrupt):
        open_structures(file)
    monkeypatch.setattr(blocks, "keep", real)
    _, second = sorted((tmp_path / "cache").glob("structures-*-0-*.pt"))
    if damage == "cut":
        second.write_bytes(second.read_bytes()[:-100])
    if damage == "flipped":
        next(flipped(second, tmp_path, 1)).replace(second)
    read = read_by(monkeypatch)
    assert content(open_structures(file), tmp_path) == expected
    assert read == ([6, 9] if damage is None else [3, 6, 9])
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 1
    assert content(open_structures(file), tmp_path) == expected


def test_a_full_disk_costs_the_resumption_alone(pieces, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = written(tmp_path)
    monkeypatch.setattr(torch, "save", full)
    assert list(open_structures(file)) == read_structures(file)
    assert len(caplog.messages) == 2  # of the pieces, of the whole
    assert "structures are not kept" in caplog.text


def test_killed_at_any_moment(tmp_path, monkeypatch):
    """Processes of its own, and SIGKILL: what follows has the bytes of one that was left in peace."""
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))
    file = written(tmp_path, [frame(k, f"energy={k}") for k in range(4000)])
    expected = content(read_store({file: "a"}, {}), tmp_path)
    code = (
        "from eipnn.structures import blocks, open_structures; blocks.LARGE, blocks.PIECE = 1, 200; "
        f"open_structures({str(file)!r})"
    )
    reader = subprocess.Popen(interpreter(code), stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    while reader.poll() is None and not list((tmp_path / "cache").glob("structures-*-0-*.pt")):
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.05))
    reader.send_signal(signal.SIGKILL)
    assert reader.wait() == -signal.SIGKILL  # before its end
    monkeypatch.setattr(blocks, "LARGE", 1)
    monkeypatch.setattr(blocks, "PIECE", 200)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    read = read_by(monkeypatch)
    assert content(open_structures(file), tmp_path) == expected
    assert len(read) < 20
