"""The ASE calculator of a trained potential."""

from unittest.mock import Mock

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.md.melchionna import MelchionnaNPT
from ase.optimize import BFGS
from tiny import FREE, best, eipnn_stage, stage_config

from eipnn import EIPNNCalculator
from eipnn.errors import InputError
from eipnn.potential.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def checkpoint(trained) -> str:
    return best(trained["Finetune"])


def alloy(**kwargs) -> Atoms:
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.symbols[1:3] = "Au"
    atoms.rattle(0.1, seed=2)
    atoms.calc = EIPNNCalculator(**kwargs)
    return atoms


def test_energies_are_those_of_the_predictions(tiny, checkpoint, tmp_path):
    root = eipnn_stage("test", stage_config(tiny, "Finetune", tmp_path), "--ckpt_path", checkpoint)
    predicted = pd.read_csv(root / "predictions_test.csv").set_index("config_id")["prediction"]
    calculator, cohesive = EIPNNCalculator(checkpoint), EIPNNCalculator(checkpoint, cohesive=True)
    for name in tiny.ids("test"):
        atoms = tiny.frames[name].copy()
        energy = calculator.get_potential_energy(atoms)
        assert energy == pytest.approx(predicted[name], abs=1e-4)
        free = sum(FREE[symbol] for symbol in atoms.symbols)
        assert cohesive.get_potential_energy(atoms) == pytest.approx(energy - free, abs=1e-6)


def test_forces_and_stress_are_slopes(checkpoint):
    atoms = alloy(checkpoint=checkpoint, dtype="float64")
    forces, stress = atoms.get_forces(), atoms.get_stress()
    assert np.abs(forces).max() > 1e-3
    np.testing.assert_allclose(forces, calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-6)


def test_single_precision_is_close(checkpoint):
    single, double = (alloy(checkpoint=checkpoint, dtype=d) for d in ("float32", "float64"))
    assert single.get_potential_energy() == pytest.approx(double.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(single.get_forces(), double.get_forces(), atol=1e-4)
    np.testing.assert_allclose(single.get_stress(), double.get_stress(), atol=1e-4)


def test_results_follow_the_atoms(checkpoint):
    atoms = alloy(checkpoint=checkpoint, dtype="float64")
    first = atoms.get_potential_energy()
    atoms.positions[0] += 0.2
    moved = atoms.get_potential_energy()
    assert moved != first
    atoms.pbc = False
    alone = atoms.get_potential_energy()
    assert alone not in (first, moved)
    atoms.symbols[0] = "Au"
    assert atoms.get_potential_energy() < alone - 15
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()


def test_forces_do_not_touch_the_weights(checkpoint):
    atoms = alloy(checkpoint=checkpoint)
    atoms.get_forces()
    with torch.no_grad():  # whatever the mode outside
        atoms.rattle(0.01, seed=1)
        assert np.abs(atoms.get_forces()).max() > 0
    assert all(p.grad is None for p in atoms.calc.potential.parameters())


def test_relaxation_goes_down(checkpoint):
    atoms = alloy(checkpoint=checkpoint, dtype="float64")
    before = atoms.get_potential_energy()
    BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=5)
    assert atoms.get_potential_energy() < before


def test_dynamics_at_constant_pressure_evaluate_once_a_step(checkpoint, monkeypatch):
    atoms = alloy(checkpoint=checkpoint, dtype="float64")
    evaluated = Mock(wraps=atoms.calc.potential.predict)
    monkeypatch.setattr(atoms.calc.potential, "predict", evaluated)
    run = MelchionnaNPT(atoms, 2 * units.fs, temperature_K=300, externalstress=0.0, ttime=20, pfactor=100.0)
    volume = atoms.get_volume()
    run.run(4)
    atoms.get_total_energy()
    assert atoms.get_volume() != volume
    assert evaluated.call_count == 1 + 4  # the start and each step


def test_a_slab_has_energy_and_forces_but_no_stress(checkpoint):
    atoms = fcc111("Cu", (1, 1, 2), vacuum=5)
    atoms.calc = EIPNNCalculator(checkpoint)
    assert not atoms.pbc.all()
    assert atoms.get_forces().shape == (2, 3)
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_a_single_atom_has_no_forces(checkpoint):
    atoms = Atoms("Cu", calculator=EIPNNCalculator(checkpoint))
    assert np.abs(atoms.get_forces()).max() == 0
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.positions.__setitem__((0, 0), np.nan), "positions are NaN or infinite"),
        (lambda a: a.cell.__setitem__((0, 0), np.inf), "the cell is NaN or infinite"),
        (lambda a: a.cell.__setitem__(2, 0), "the cell has no volume along its periodic axes"),
        (lambda a: a.cell.__setitem__(2, a.cell[1]), "the cell has no volume along its periodic"),
        (lambda a: a.__delitem__(slice(None)), "holds no atoms"),
    ],
)
def test_atoms_that_have_no_energy(checkpoint, change, message):
    """Some would end the process in the neighbour list, others give a number."""
    atoms = alloy(checkpoint=checkpoint)
    change(atoms)
    with pytest.raises(InputError, match=f"the potential has no energy of these atoms: .*{message}"):
        atoms.get_potential_energy()


def test_float32_keeps_its_digits_a_long_way_out_of_the_cell(checkpoint):
    """As after a long trajectory."""
    atoms = alloy(checkpoint=checkpoint)
    energy, forces = atoms.get_potential_energy(), atoms.get_forces()
    atoms.positions += np.array([[300, -200, 0], [1000, 0, 10], [0, 0, 0], [5, 5, 5]]) @ atoms.cell
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)


def test_results_can_be_written(checkpoint, tmp_path):
    """ASE writes plain numpy values alone."""
    atoms = alloy(checkpoint=checkpoint)
    atoms.get_stress()
    ase.io.write(tmp_path / "out.extxyz", atoms)
    again = ase.io.read(tmp_path / "out.extxyz")
    assert again.get_potential_energy() == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(again.get_forces(), atoms.get_forces(), atol=1e-7)


def test_an_unknown_element_is_refused(checkpoint):
    atoms = alloy(checkpoint=checkpoint)
    atoms.symbols[3] = "Ag"
    with pytest.raises(InputError, match="the potential was trained on Au, Cu, not on Ag"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(("stage", "name"), [("Classifier", "classify"), ("Pretrain", "pretrain")])
def test_checkpoints_of_other_stages_are_refused(trained, stage, name):
    file = best(trained[stage])
    with pytest.raises(CheckpointError) as error:
        EIPNNCalculator(file)
    assert f"{file}: of stage '{name}'; a potential is a fine-tuned checkpoint" in str(error.value)


def test_other_precisions_are_refused(checkpoint):
    with pytest.raises(ValueError, match="dtype must be float32 or float64, not 'float16'"):
        EIPNNCalculator(checkpoint, dtype="float16")


def test_a_file_that_is_absent(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such checkpoint"):
        EIPNNCalculator(tmp_path / "none.ckpt")
