"""What was predicted, as files."""

import io

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from eipnn.predictions import in_order, predicted
from eipnn.structures import StructureError, StructureStore, read_structures


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
    store.ids = ("007", "b", "c")
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
