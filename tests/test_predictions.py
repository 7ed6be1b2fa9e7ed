"""What was predicted, as files."""

import io
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from tiny import best, eipnn_stage, read_json, stage_config

from eipnn import EIPNNCalculator
from eipnn.labels import LabelStore
from eipnn.labels.layout import open_array, read_index
from eipnn.potential import Potential
from eipnn.predictions import in_order, predicted
from eipnn.structures import Ids, StructureError, StructureStore, read_structures


def test_outputs_of_several_processes_come_into_order():
    """Two processes with rows 0, 2 and 1 and a padding of 0; as many atoms as the row's number and one."""
    outputs = {
        "row": torch.tensor([0, 2, 1, 0]),
        "weight": torch.tensor([1.0, 1.0, 1.0, 0.0]),
        "n_atoms": torch.tensor([1, 3, 2, 1]),
        "prediction": torch.tensor([0.5, 2.5, 1.5, 9.0]),
        "forces": torch.tensor([0, 2, 2, 2, 1, 1, 9])[:, None].expand(-1, 3),
    }
    found = in_order(outputs)
    assert found.keys() == {"row", "n_atoms", "prediction", "forces"}
    assert found["row"].tolist() == [0, 1, 2]
    assert found["prediction"].tolist() == [0.5, 1.5, 2.5]
    assert found["forces"][:, 0].tolist() == [0, 1, 1, 2, 2, 2]


@pytest.fixture
def structures() -> StructureStore:
    """A crystal with all labels, a slab with energy and forces, and a trimer without any."""
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=0)
    slab = crystal.copy()
    slab.pbc = [True, True, False]
    for atoms, names in ((crystal, ("energy", "forces", "stress")), (slab, ("energy", "forces"))):
        known = EMT()
        known.calculate(atoms)
        atoms.calc = SinglePointCalculator(atoms, **{name: known.results[name] for name in names})
    store = StructureStore.of([crystal, slab, Atoms("Cu3", np.eye(3) * 3)])
    store.ids = Ids.of(("007", "b", "c"))
    return store


def test_predictions_are_results_and_dft_stands_beside_them(structures):
    rng = np.random.default_rng(0)
    energy, forces = rng.normal(size=3), rng.normal(size=(11, 3))
    stress = rng.normal(size=(3, 3, 3))
    stress += stress.transpose(0, 2, 1)
    file = io.StringIO()
    ase.io.write(file, list(predicted(structures, energy, forces, stress)), format="extxyz")
    file.seek(0)
    crystal, slab, trimer = ase.io.read(file, ":", format="extxyz")
    assert [a.get_potential_energy() for a in (crystal, slab, trimer)] == pytest.approx(energy)
    assert np.concatenate([a.get_forces() for a in (crystal, slab, trimer)]) == pytest.approx(forces, abs=1e-8)
    assert crystal.get_stress(voigt=False) == pytest.approx(stress[0])
    assert "stress" not in slab.calc.results  # an open axis
    assert crystal.info["dft_energy"] == pytest.approx(structures.energies[0])
    assert crystal.info["dft_stress"].reshape(3, 3) == pytest.approx(structures.stresses[0])
    assert slab.arrays["dft_forces"] == pytest.approx(structures.forces[4:8], abs=1e-8)
    assert "dft_stress" not in slab.info
    assert "dft_energy" not in trimer.info
    assert not {"dft_energy", "dft_stress", "dft_forces"} & {*trimer.info, *trimer.arrays}


def test_predictions_are_not_taken_for_dft(structures, tmp_path):
    file = tmp_path / "predictions_test.extxyz"
    ase.io.write(file, list(predicted(structures[:1], np.zeros(1), np.zeros((4, 3)), np.zeros((1, 3, 3)))))
    with pytest.raises(StructureError, match=r"dft_energy"):
        read_structures(file)


@pytest.fixture(scope="module")
def tested(forced, trained, tmp_path_factory) -> Path:
    """A test of a potential that was trained on energies alone, on frames that have forces and stress too."""
    config = stage_config(forced, "Finetune", tmp_path_factory.mktemp("tested"))
    return eipnn_stage("test", config, "--ckpt_path", best(trained["Finetune"]))


def test_the_errors_of_a_test_are_those_of_its_file(tested, forced):
    """Energies, forces and stress in eV, eV/A and GPa."""
    frames = ase.io.read(tested / "predictions_test.extxyz", ":")
    found, n_atoms = read_json(tested / "test.json"), np.array([len(atoms) for atoms in frames])
    assert [a.info["config_id"] for a in frames] == forced.ids("test")
    energy = np.abs([a.get_potential_energy() - a.info["dft_energy"] for a in frames])
    forces = np.concatenate([a.get_forces() - a.arrays["dft_forces"] for a in frames])
    stress = [a.get_stress(voigt=False).ravel() - a.info["dft_stress"] for a in frames if a.pbc.all()]
    assert len(stress) > 0
    assert found["test_config_mae"] == pytest.approx(energy.mean(), rel=1e-5)
    assert found["test_atom_mae"] == pytest.approx((energy / n_atoms).mean(), rel=1e-5)
    assert found["test_force_mae"] == pytest.approx(np.abs(forces).mean(), rel=1e-5)
    assert found["test_stress_mae"] == pytest.approx(np.abs(stress).mean() / units.GPa, rel=1e-5)
    for atoms in frames:
        emt = atoms.copy()
        emt.calc = EMT()
        assert atoms.arrays["dft_forces"] == pytest.approx(emt.get_forces(), abs=1e-7)


def test_predictions_of_a_file_are_those_of_the_calculator(tiny, trained, tmp_path):
    """Of structures whose own labels are not looked at."""
    frames = [tiny.frames[i].copy() for i in tiny.ids("pool")[:9]]
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((len(atoms), 3)))
    ase.io.write(tmp_path / "some.extxyz", frames)
    config = stage_config(tiny, "Finetune", tmp_path / "run")
    config["data"]["init_args"]["structures"] = str(tmp_path / "some.extxyz")
    root = eipnn_stage("predict", config, "--ckpt_path", best(trained["Finetune"]))
    found = ase.io.read(root / "predictions.extxyz", ":")
    table = pd.read_csv(root / "predictions.csv")
    assert [a.info["config_id"] for a in found] == table["config_id"].tolist() == [a.info["config_id"] for a in frames]
    assert [a.get_potential_energy() for a in found] == pytest.approx(table["prediction"].to_numpy())
    for atoms in found:
        expected = atoms.copy()
        expected.calc = EIPNNCalculator(best(trained["Finetune"]))
        assert atoms.get_potential_energy() == pytest.approx(expected.get_potential_energy(), abs=1e-4)
        assert atoms.get_forces() == pytest.approx(expected.get_forces(), abs=1e-5)
        if atoms.pbc.all():
            assert atoms.get_stress() == pytest.approx(expected.get_stress(), abs=1e-6)
        assert not {"dft_energy", "dft_forces"} & {*atoms.info, *atoms.arrays}


@pytest.mark.parametrize("with_stress", [True, False])
def test_delta_predictions_hold_the_labels_of_the_eip(forced, tmp_path, with_stress):
    """Those of the label store; where it has no stress of the EIP, there is none of the sum."""
    labels = shutil.copytree(forced.data["labels"], tmp_path / "labels")
    if not with_stress:
        open_array(labels, "stress", read_index(labels), "r+")[:] = np.nan
    config = stage_config(forced, "Finetune", tmp_path / "run", max_epochs=1)
    config["data"]["init_args"] |= {"delta_eip": "cu.1", "eip_energy_zero": "least_squares", "labels": str(labels)}
    root = eipnn_stage("fit", config)
    eipnn_stage("test", config, "--ckpt_path", best(root))
    network, store = Potential.load(best(root)), LabelStore.open(labels)
    errors = []
    for atoms in ase.io.read(root / "predictions_test.extxyz", ":"):
        mine, name = network.predict(network.graph([atoms]), ("forces", "stress")), atoms.info["config_id"]
        assert atoms.get_forces() - mine.forces.numpy() == pytest.approx(store.forces(name)[:, 0], abs=1e-5)
        assert ("stress" in atoms.calc.results) == with_stress
        if with_stress:
            eips = full_3x3_to_voigt_6_stress(atoms.get_stress(voigt=False) - mine.stress[0].numpy())
            assert eips == pytest.approx(store.stress_of([name], ["cu.1"])[0, 0], abs=1e-6)
        errors.append(np.abs(atoms.get_forces() - atoms.arrays["dft_forces"]).ravel())
    assert read_json(root / "test.json")["test_force_mae"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-5)
