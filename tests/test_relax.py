"""The relaxation that ends the demonstration, with a Tersoff potential in place of a trained one."""

import importlib.util
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.tersoff import Tersoff, TersoffParameters
from run_folders import write_run, write_silicon

SCRIPT = Path(__file__).parent.parent / "experiments" / "si_mini" / "relax.py"
# Tersoff's third parametrisation of silicon (Phys. Rev. B 38, 9902, 1988).
T3 = TersoffParameters(
    m=3, gamma=1, lambda3=0, c=1.0039e5, d=16.217, h=-0.59825, n=0.78734, beta=1.1e-6,
    lambda2=1.7322, B=471.18, R=2.85, D=0.15, lambda1=2.4799, A=1830.8,
)  # fmt: skip


@pytest.fixture(scope="module")
def relax():
    spec = importlib.util.spec_from_file_location("relax", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def used(relax, monkeypatch):
    """The checkpoints that were asked for."""
    asked = []

    def calculator(checkpoint, dtype):
        asked.append(Path(checkpoint))
        return Tersoff({("Si", "Si", "Si"): T3})

    monkeypatch.setattr(relax, "EIPNNCalculator", calculator)
    return asked


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("relax")
    return write_run(folder / "run", write_silicon(folder))


def call(relax, monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["relax.py", *map(str, arguments)])
    return relax.main()


def test_distorted_silicon_relaxes_to_diamond(relax, used, run, monkeypatch, capsys):
    assert call(relax, monkeypatch, run) == 0
    assert used == [run / "split-1/seed-0/mp+la/alpha-0.1/checkpoints/best.ckpt"]
    printed = capsys.readouterr().out
    assert "converged: forces on atoms and cell below 0.01 eV/A" in printed
    path = ase.io.read(run / "relax" / "relax.extxyz", ":")
    assert path[-1].get_potential_energy() / 8 == pytest.approx(-4.63, abs=0.01)
    assert path[0].get_potential_energy() > path[-1].get_potential_energy() + 1
    assert np.linalg.norm(path[-1].get_forces(), axis=1).max() < 0.01
    end = ase.io.read(run / "relax" / "relaxed.extxyz")
    assert relax.lattice_constant(end) == pytest.approx(5.432, abs=0.005)
    assert relax.cubic(end)
    assert f"{len(path) - 1} steps" in printed


def test_forces_that_do_not_converge_fail(relax, used, run, monkeypatch, capsys):
    assert call(relax, monkeypatch, run, "--steps", 2) == 1
    assert "NOT converged" in capsys.readouterr().out


def test_the_lowest_validation_error_chooses_and_delta_learning_is_left_out(relax, used, tmp_path, monkeypatch, capsys):
    rows = ("baseline", "mp", "mp+delta")
    run = write_run(tmp_path / "run", write_silicon(tmp_path), rows, splits=(2,))
    call(relax, monkeypatch, run, "--steps", 1)
    assert "(val_config_mae 0.200)" in capsys.readouterr().out
    assert used == [run / "split-2/seed-0/mp/checkpoints/best.ckpt"]
    alone = write_run(tmp_path / "alone", write_silicon(tmp_path), ("mp+delta",))
    assert call(relax, monkeypatch, alone) == 1
    assert "need an EIP beside them" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(relax, tmp_path, monkeypatch, capsys):
    assert call(relax, monkeypatch, tmp_path / "nothing") == 1
    assert "no such run folder" in capsys.readouterr().err
