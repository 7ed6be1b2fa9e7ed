"""The command `eipnn cache`: what is kept, and its removal."""

import ase.io
import pytest
from ase.build import bulk

from eipnn.cache import cache, cache_folder
from eipnn.inputs import prepare
from eipnn.inputs.soap import Soap
from eipnn.structures import open_structures


@pytest.fixture
def filled(tmp_path, monkeypatch):
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))
    ase.io.write(tmp_path / "a.extxyz", [bulk("Cu"), bulk("Al")])
    prepare(open_structures(str(tmp_path / "a.extxyz")), Soap(("Al", "Cu"), 3.0, 2, 1))
    (cache_folder() / f"structures-{'a' * 64}-0-000002000.pt").write_bytes(b"12345")
    (cache_folder() / ".a.pt.1-2.part").write_bytes(b"123")
    return tmp_path / "cache"


def test_what_is_kept_is_told(filled, capsys):
    size = sum(file.stat().st_size for file in filled.iterdir())
    cache()
    head, structures, parts, inputs, left = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{filled}: 4 files, {size / 1000:.1f} kB of 10.0 GB")
    assert structures.startswith("  structures: 1 files, ")
    assert parts == "  structures of files that are not read to their end: 1 files, 5 bytes"
    assert inputs.startswith("  model inputs: 1 files, ")
    assert left == "  left by commands that were ended: 1 files, 3 bytes"


def test_it_is_cleared(filled, tmp_path, capsys):
    kept = open_structures(str(tmp_path / "a.extxyz"))
    (tmp_path / "cache" / "mine.txt").write_text("not of eipnn")
    cache(clear=True)
    assert {file.suffix for file in filled.iterdir()} == {".lock", ".txt"}
    assert kept[1] == bulk("Al")
    cache()
    assert f"{filled}: 0 files, 0 bytes of" in capsys.readouterr().out
    assert open_structures(str(tmp_path / "a.extxyz"))[0] == bulk("Cu")


def test_there_may_be_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "none"))
    cache(clear=True)
    assert "0 files, 0 bytes" in capsys.readouterr().out
