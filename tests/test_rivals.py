"""The frames that rivals are given, and how they are measured."""

import importlib.util
import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa

from eipnn.structures import fewer_frames, read_split

FOLDER = Path(__file__).parents[1] / "experiments" / "rivals"


def script(name: str):
    spec = importlib.util.spec_from_file_location(f"rivals_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_those_of_a_run(tmp_path):
    script("frames").write("agau_mini", 2, 50, tmp_path)
    split = fewer_frames(read_split("bundled:agau_mini/splits/random_2.csv"), 50, seed=0)
    for part in ("train", "val", "test"):
        frames = ase.io.read(tmp_path / f"{part}.extxyz", ":")
        assert [str(atoms.info["config_id"]) for atoms in frames] == list(getattr(split, part))
        assert {"energy", "forces"} <= frames[0].calc.results.keys()
    about = json.loads((tmp_path / "about.json").read_text())
    assert about["train"] + about["val"] == 50
    assert set(about["free_atoms_eV"]) == {"Ag", "Au"}


def test_errors_are_those_of_eipnn(tmp_path):
    """Against energies, forces and stress that are off by known amounts."""
    measured = script("measured")
    frames = []
    for repeats in (1, 3):
        atoms = ase.build.bulk("Cu").repeat((repeats, 1, 1))
        atoms.rattle(0.05, seed=repeats)
        emt = atoms.copy()
        emt.calc = EMT()
        results = {
            "energy": emt.get_potential_energy() + 0.3,
            "forces": emt.get_forces() + 0.02,
            "stress": emt.get_stress() + 0.5 * GPa,
        }
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)
    found = measured.measure(frames, EMT())
    assert found["config_mae_meV"] == pytest.approx(300)
    assert found["atom_mae_meV"] == pytest.approx((300 + 100) / 2)
    assert found["force_mae_eV_per_A"] == pytest.approx(0.02)
    assert found["stress_mae_GPa"] == pytest.approx(0.5)
    assert measured.measure(frames[:1], EMT(), {"Cu": 0.3})["atom_mae_meV"] == pytest.approx(0, abs=1e-6)


def test_zeros_take_one_code_s_energies_to_another_s():
    measured = script("measured")
    rng = np.random.default_rng(0)
    frames = [
        ase.Atoms(symbols, rng.normal(size=(len(symbols), 3))) for symbols in (["Ag", "Au"], ["Au", "Au"], ["Ag"])
    ]
    theirs = rng.normal(size=3)
    zeros = {"Ag": 2.0, "Au": -3.0}
    for atoms, energy in zip(frames, theirs, strict=True):
        total = energy + sum(zeros[s] for s in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=total)
    assert measured.fitted_zeros(frames, theirs) == pytest.approx(zeros)
    there = [atoms.get_potential_energy() for atoms in measured.shifted(frames, zeros)]
    assert there == pytest.approx(theirs)
