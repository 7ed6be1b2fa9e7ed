"""Labels from a calculator of another environment: its own interpreter makes them, the store is the same."""

import shlex
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from eipnn.eips import EIPError, load_eips
from eipnn.labels import label_structures

FOREIGN = """
from label_calculators import Springs


class Foreign(Springs):
    pass
"""


def environment(folder: Path, *lines: str) -> Path:
    """An interpreter that knows a module which this one does not; `lines` are run by the shell before."""
    (folder / "packages").mkdir(parents=True)
    (folder / "packages" / "foreign.py").write_text(FOREIGN)
    places = [folder / "packages", Path(__file__).parent, Path(__file__).parents[1]]
    python = folder / "python"
    search, ours = shlex.quote(":".join(map(str, places))), shlex.quote(sys.executable)
    python.write_text("\n".join(["#!/bin/sh", f"export PYTHONPATH={search}", *lines, f'exec {ours} "$@"', ""]))
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def frames() -> list[Atoms]:
    random_numbers = np.random.default_rng(0)
    return [Atoms("Si3", random_numbers.normal(size=(3, 3)), info={"config_id": f"c{i}"}) for i in range(5)]


def entries(python: Path) -> list[dict]:
    return [
        {"name": "here", "ase": "label_calculators.Springs"},
        {"name": "there", "ase": "foreign.Foreign", "arguments": {"stiffness": 3.0}, "python": str(python)},
        {"name": "soft", "ase": "label_calculators.Springs", "arguments": {"stiffness": 0.5}},
    ]


def test_one_store_of_two_environments(tmp_path: Path) -> None:
    with pytest.raises(EIPError, match=r"entry 1: the class 'foreign\.Foreign' cannot be imported"):
        load_eips([{"name": "there", "ase": "foreign.Foreign"}])
    eips = load_eips(entries(environment(tmp_path / "other")))
    store = label_structures(frames(), eips, tmp_path / "store", workers=2)
    energies = store.energies_of([f"c{i}" for i in range(5)], ["here", "there", "soft"])
    assert (energies[:, 0] > 0).all()
    np.testing.assert_allclose(energies, energies[:, :1] * [1.0, 3.0, 0.5], rtol=1e-12)


def test_only_what_is_pending_starts_an_environment(tmp_path: Path) -> None:
    """With all labels of the other environment made, a second run does not need it; nor do its labels depend on
    where it lies."""
    python = environment(tmp_path / "other")
    label_structures(frames(), load_eips(entries(python)), tmp_path / "store")
    moved = environment(tmp_path / "moved", "exit 3")
    before = {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()}
    label_structures(frames(), load_eips(entries(moved)), tmp_path / "store")
    assert {file.name: file.read_bytes() for file in (tmp_path / "store").iterdir()} == before


def test_environments_that_cannot_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EIPError, match=r"entry 2: python: '.*nowhere' is no interpreter; give one such as"):
        load_eips(entries(tmp_path / "nowhere"))
    with pytest.raises(EIPError, match="python goes with ase"):
        load_eips([{"name": "sw", "kim": "MO_405512056662", "python": sys.executable}])
    broken = load_eips(entries(environment(tmp_path / "broken", "exit 3")))
    with pytest.raises(EIPError, match=r"a worker ended with exit code 3 as it started"):
        label_structures(frames(), broken, tmp_path / "a")
    lacks = entries(environment(tmp_path / "lacks"))
    lacks[1]["ase"] = "foreign.Missing"
    with pytest.raises(EIPError, match=r"EIP there: its calculator cannot be made \(EIPError: the class"):
        label_structures(frames(), load_eips(lacks), tmp_path / "b")
    other = load_eips(entries(environment(tmp_path / "other")))
    monkeypatch.setattr("eipnn.labels.handle.__version__", "9.9")
    monkeypatch.setattr("eipnn.labels.local.__version__", "9.9")
    with pytest.raises(EIPError, match=r"has eipnn \d.*, and this is 9.9; install the same"):
        label_structures(frames(), other[1:2], tmp_path / "c")


def test_used_for_more_than_labels(tmp_path: Path) -> None:
    """Delta learning in a simulation, say: it is in this environment that the package is missing."""
    there = load_eips(entries(environment(tmp_path / "other")))[1]
    with pytest.raises(EIPError, match=r"labels are made by .*python, all else here: install its package in the"):
        there.calculator()


def test_a_path_beside_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    (eip,) = load_eips([entries(Path("other/python"))[1]])
    assert eip.python == str(tmp_path / "other" / "python")
