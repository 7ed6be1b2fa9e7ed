"""experiments/md: many runs of dynamics as one batch."""

import importlib.util
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet

from eipnn import EIPNNCalculator

FILE = Path(__file__).parents[1] / "experiments" / "md" / "survival.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("survival", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["survival"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    yield module
    torch.set_flush_denormal(False)


@pytest.fixture
def crystal(tmp_path) -> Path:
    ase.io.write(tmp_path / "si.extxyz", bulk("Si", "diamond", 5.43, cubic=True))
    return tmp_path / "si.extxyz"


def test_a_batch_moves_as_ase_moves_each(study, random_potential):
    """Velocity Verlet of two replicas against ASE's, one by one."""
    start = bulk("Si", "diamond", 5.43, cubic=True)
    replicas = [study.Replica(seed, start.copy(), np.random.default_rng(seed)) for seed in (3, 4)]
    for replica in replicas:
        study.set_momenta(replica.atoms, 600, replica.rng)
    alone = [replica.atoms.copy() for replica in replicas]
    committee = study.loaded(random_potential, False)
    study.follow(committee, replicas, study.Part(10, 2.0, lambda share: 600.0, thermostat=False), "")
    for replica, atoms in zip(replicas, alone, strict=True):
        atoms.calc = EIPNNCalculator(random_potential)
        VelocityVerlet(atoms, 2 * units.fs).run(10)
        assert np.abs(replica.atoms.positions - atoms.positions).max() < 1e-5
        assert replica.rows[-1] == pytest.approx((0.02, atoms.get_potential_energy(), atoms.get_kinetic_energy()))


def test_the_thermostat_has_the_temperature_that_is_set(study):
    """Of free atoms: the mean over many kicks, and its decay from another temperature."""
    atoms = Atoms("Si500", positions=np.zeros((500, 3)))
    replica = study.Replica(0, atoms, np.random.default_rng(0))
    study.set_momenta(atoms, 2000, replica.rng)
    study.kick(replica, 0.2, 500)
    assert atoms.get_temperature() == pytest.approx(500 + 1500 * np.exp(-0.4), rel=0.1)
    found = []
    for _ in range(200):
        study.kick(replica, 0.2, 500)
        found.append(atoms.get_temperature())
    assert np.mean(found[50:]) == pytest.approx(500, rel=0.05)


def test_runs_are_written_and_not_repeated(study, random_potential, crystal, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(study, "SETTLE", 0.02)
    given = {"output": tmp_path / "out", "structure": crystal, "batch": 2, "nve": 0.06, "ramp": 0.02}
    study.survival([f"random={random_potential}"], seeds=2, runs=["nve"], **given)
    study.survival([f"random={random_potential}"], seeds=3, **given)
    table = pd.read_csv(tmp_path / "out/runs.csv")
    assert table.groupby("run")["seed"].apply(list).to_dict() == {"nve": [0, 1, 2], "heating": [0, 1, 2]}
    assert table["survived"].all()
    assert table[table["run"] == "nve"]["drift"].notna().all()
    assert table[table["run"] == "heating"]["drift"].isna().all()
    assert "3 of 3" in capsys.readouterr().out
    assert (tmp_path / "out/survival.png").stat().st_size > 10_000
    monkeypatch.setattr(study, "evaluate", lambda *_: pytest.fail("run again"))
    study.survival([f"random={random_potential}"], seeds=3, **given)


def test_what_breaks_ends_alone(study, random_potential, crystal, tmp_path):
    """Two atoms of one replica begin 1 A apart, the other one goes on."""
    start = ase.io.read(crystal)
    replicas = [study.Replica(seed, start.copy(), np.random.default_rng(seed)) for seed in (0, 1)]
    replicas[1].atoms.positions[1] = replicas[1].atoms.positions[0] + [1.0, 0, 0]
    committee = study.loaded(random_potential, False)
    study.follow(committee, replicas, study.Part(20, 1.0, lambda share: 300.0, thermostat=True), "")
    assert [len(replica.rows) for replica in replicas] == [21, 1]
    assert replicas[1].problem == "atoms 1.00 A apart"
    assert study.line(replicas[1], True)["survived"] is False
