"""Files of plain values and tensors where there is no room for them."""

import resource

import pytest
import torch

from eipnn.cache import keep
from eipnn.files import DiskFullError
from eipnn.tensor_files import read_tensors, write_tensors


@pytest.fixture
def little_room():
    """No file may grow beyond 10 kB: a real limit, where torch writes by itself and raises what it likes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_without_room_is_told_and_leaves_the_old_one(tmp_path, little_room):
    file = tmp_path / "a.pt"
    write_tensors(file, {"a": torch.ones(3)})
    with pytest.raises(DiskFullError, match=r"a file may not be so large there, or by your limits \(ulimit -f\)"):
        write_tensors(file, {"a": torch.zeros(100_000)})
    assert read_tensors(file)["a"].tolist() == [1, 1, 1]
    assert list(tmp_path.iterdir()) == [file]


def test_the_cache_does_without(tmp_path, little_room, caplog):
    assert not keep(tmp_path / "a.pt", {"a": torch.zeros(100_000)}, "tensors")
    assert "tensors are not kept: " in caplog.text
    assert not list(tmp_path.iterdir())
