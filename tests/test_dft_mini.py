"""The generator of si_mini makes the shipped structures again (their labels need GPAW)."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from eipnn.structures import read_structures

SCRIPT = Path(__file__).parents[1] / "experiments" / "datasets" / "dft_mini.py"


def test_the_shipped_structures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pool.extxyz"
    arguments = ["Si", str(out), "--start", "100000", "--no-dft", "--stop"]
    for stop in ("100010", "100040"):  # the second call goes on from the first
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, stop])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out.splitlines() == ["10 made, 0 skipped", "30 made, 0 skipped"]
    shipped = {a.info["config_id"]: a for a in read_structures("bundled:si_mini/pool.extxyz")}
    for atoms in read_structures(out):
        other = shipped[atoms.info["config_id"]]
        np.testing.assert_allclose(atoms.positions, other.positions, atol=2e-8)
        np.testing.assert_allclose(atoms.cell.array, other.cell.array, atol=1e-12)
        assert atoms.info["family"] == other.info["family"]
        assert (atoms.pbc == other.pbc).all()


def test_dft_structures_again() -> None:
    configuration = runpy.run_path(str(SCRIPT))["configuration"]
    for shipped in read_structures("bundled:si_mini/dft.extxyz")[::25]:
        system, _, index = shipped.info["config_id"].partition("_")
        atoms, family = configuration(system, int(index))
        np.testing.assert_allclose(atoms.positions, shipped.positions, atol=2e-8)
        assert family == shipped.info["family"]


@pytest.mark.parametrize("system", ["Al", "AgAu"])
def test_metals(system: str) -> None:
    script = runpy.run_path(str(SCRIPT))
    for index in range(20):
        atoms, _ = script["configuration"](system, index)
        assert script["closest"](atoms) > 2.1
