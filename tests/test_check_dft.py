"""The checks of a DFT set find what is wrong with it, and nothing in a sound one."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

SCRIPT = Path(__file__).parents[1] / "experiments" / "datasets" / "check_dft.py"


@pytest.fixture(scope="module")
def script() -> dict:
    path = sys.path.copy()
    try:
        return runpy.run_path(str(SCRIPT))
    finally:
        sys.path[:] = path
        sys.modules.pop("dft_mini", None)


def emt(atoms: Atoms, family: str) -> float:
    """An energy that is cheap, in place of GPAW's."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


def labelled(seed: int) -> Atoms:
    atoms = bulk("Al", cubic=True)
    atoms.rattle(0.2, seed=seed)
    atoms.info["config_id"] = f"al-{seed}"
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def test_a_sound_set(script: dict) -> None:
    found = script["check"]([labelled(seed) for seed in range(5)])
    assert found["frames"] == 5
    assert script["problems"](found) == []
    assert "Nothing is wrong." in script["markdown"]("x", found)


def test_the_shipped_set_has_no_gross_mistake(script: dict) -> None:
    file = Path(__file__).parents[1] / "eipnn" / "data" / "si_mini" / "dft.extxyz"
    found = script["check"](script["read"](file)[::3])
    assert script["problems"](found) == []


def test_duplicates_in_other_guises(script: dict) -> None:
    first, second, third = (labelled(seed) for seed in range(3))
    copy = first.copy()
    copy.calc = first.calc
    copy.info["config_id"] = "copy"
    copy.positions += 0.7
    copy.rotate(30, "x", rotate_cell=True)
    copy = copy[[2, 0, 3, 1]]
    found = script["near_duplicates"]([first, second, copy, third])
    assert [pair[:2] for pair in found] == [("al-0", "copy")]
    near = first.copy()
    near.info["config_id"] = "near"
    near.positions[0, 0] += 0.1
    assert script["near_duplicates"]([first, near]) == []
    near.positions[0, 0] -= 0.098
    found = script["check"]([first, labelled(1)])
    found["near_duplicates"] = script["near_duplicates"]([first, near])
    assert len(found["near_duplicates"]) == 1  # listed, but no mistake
    assert script["problems"](found) == []


def test_elements_that_are_swapped_are_no_duplicates(script: dict) -> None:
    chain = Atoms("AlCuAl", [[0, 0, 0], [0, 0, 2.5], [0, 0, 5.5]])
    other = Atoms("CuAlAl", chain.positions)
    for number, atoms in enumerate((chain, other)):
        atoms.info["config_id"] = str(number)
    assert script["near_duplicates"]([chain, other]) == []


def test_bad_labels(script: dict) -> None:
    frames = [labelled(seed) for seed in range(6)]
    frames[1].calc.results["forces"][2, 0] = np.nan
    frames[2].calc.results["energy"] += 100.0
    frames[3].calc.results["forces"][0] = [0, 0, -31.0]
    found = script["check"](frames)
    assert found["not_finite"] == ["al-1"]
    assert list(found["absurd_energies"]) == ["al-2"]
    assert found["large_forces"] == {"al-3": pytest.approx(31.0)}
    assert len(script["problems"](found)) == 2
    text = script["markdown"]("x", found)
    assert "| force above 30 eV/A | 1 | al-3 |" in text
    assert "Wrong: NaN or infinite values; energies" in text


def test_forces_against_energies(script: dict) -> None:
    frames = [labelled(seed) for seed in range(5)]
    found = script["check"](frames)
    found["forces"] = script["force_errors"](frames, 3, 2, emt)
    assert [line["frame"] for line in found["forces"]] == ["al-0"] * 2 + ["al-2"] * 2 + ["al-4"] * 2
    assert max(abs(line["error"]) for line in found["forces"]) < 0.02
    assert script["problems"](found) == []
    for atoms in frames:
        atoms.calc.results["forces"] *= -1
    found["forces"] = script["force_errors"](frames, 3, 2, emt)
    assert "forces further than" in script["problems"](found)[0]


def test_equation_of_state(script: dict) -> None:
    found = script["check"]([labelled(0)])
    smooth = script["equation_of_state"]("Al", emt)
    assert smooth["lattice_constant"] == pytest.approx(3.994, abs=0.01)  # EMT's own
    assert smooth["bulk_modulus"] == pytest.approx(40, abs=5)
    found["equation_of_state"] = [smooth]
    assert script["problems"](found) == []

    def jump(atoms: Atoms, family: str) -> float:
        return emt(atoms, family) + 0.05 * (atoms.get_volume() > 16.6)

    found["equation_of_state"] = [script["equation_of_state"]("Al", jump)]
    assert script["problems"](found) == ["a rough equation of state"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        monkeypatch.setattr(sys, "path", sys.path.copy())
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return end.value.code

    file = tmp_path / "al.extxyz"
    write(file, [labelled(0), labelled(1)])
    assert run(str(file)) == 0
    assert json.loads((tmp_path / "al.check.json").read_text())["wrong"] == []
    write(file, [labelled(0), labelled(0)])
    assert run(str(file)) == 1
    assert "frames that are there twice" in (tmp_path / "al.check.md").read_text()
    write(file, bulk("Al"))
    assert run(str(file)) == 2
    assert "frame 0: energy or forces are missing" in capsys.readouterr().err
