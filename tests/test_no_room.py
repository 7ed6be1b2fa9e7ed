"""Files that may not grow further, as on a full disk: one line says so, and what was reported as done is there."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.generate.command import generate
from eipnn.labels import label_structures
from eipnn.structures import StructureStore, open_structures, read_structures
from eipnn.structures.extxyz import write_extxyz

ROOM = 30_000
"""Bytes of a file."""


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def frames(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    cells = [Atoms("Cu4", rng.uniform(0, 9, (4, 3)), cell=np.eye(3) * 9, pbc=True) for _ in range(400)]
    write_extxyz(tmp_path / "pool.extxyz", cells)
    return tmp_path / "pool.extxyz"


def test_structures_are_read_all_the_same(frames, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))
    with no_more_than(ROOM):
        store = open_structures(str(frames))
    assert list(store) == read_structures(frames)
    (message,) = caplog.messages
    assert message.startswith(f"structures are not kept: {tmp_path}/cache: a file may not be so large there")
    assert not [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]


def test_labels_go_on(frames, tmp_path):
    store, eips = StructureStore.of(read_structures(frames)), [EIP("springs", "ase", "label_calculators.Springs")]
    with no_more_than(ROOM), pytest.raises(InputError, match="labels: a file may not be so large there"):
        label_structures(store, eips, tmp_path / "labels")
    found = label_structures(store, eips, tmp_path / "labels")
    whole = label_structures(store, eips, tmp_path / "whole")
    assert found.fingerprint == whole.fingerprint


def test_generated_structures_go_on(tmp_path, capsys):
    asked = {"elements": ["Cu"], "prototypes": ["fcc"], "rattle": 150, "max_atoms": 8}
    file = tmp_path / "pool.extxyz"
    with no_more_than(ROOM), pytest.raises(InputError, match="a file may not be so large there"):
        generate(output=file, **asked)
    assert not file.exists()
    kept = (tmp_path / ".pool.extxyz.part").stat().st_size
    assert 0 < kept <= ROOM
    capsys.readouterr()
    generate(output=file, **asked)
    assert "150 structures, " in (said := capsys.readouterr().err)
    assert "150 of them new" not in said
    generate(output=tmp_path / "whole.extxyz", **asked)
    assert file.read_bytes() == (tmp_path / "whole.extxyz").read_bytes()
