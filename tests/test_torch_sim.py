"""Potentials in torch-sim, by its own validators; its state alone where it is not installed (Python 3.11)."""

import importlib
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from backbones import FRAMES, make_potential
from torch import nn

from eipnn import EIPNNCalculator
from eipnn.errors import InputError
from eipnn.potential import Committee
from eipnn.representations import SchNet


@pytest.fixture
def standing_in(monkeypatch):
    """The module of the wrapper, over a base class of the same name where torch-sim is absent."""
    interface = ModuleType("torch_sim.models.interface")
    interface.ModelInterface = type("ModelInterface", (nn.Module,), {})
    for name in ("torch_sim", "torch_sim.models"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    monkeypatch.delitem(sys.modules, "eipnn.potential.torch_sim", raising=False)
    yield importlib.import_module("eipnn.potential.torch_sim")
    sys.modules.pop("eipnn.potential.torch_sim")


def state_of(frames: list[Atoms], pbc: list[bool]) -> SimpleNamespace:
    """What a `torch_sim.SimState` holds of the frames; lattice vectors are columns."""
    return SimpleNamespace(
        positions=torch.tensor(np.concatenate([atoms.positions for atoms in frames])),
        cell=torch.tensor(np.stack([atoms.cell.array.T for atoms in frames])),
        pbc=torch.tensor(pbc),
        atomic_numbers=torch.tensor(np.concatenate([atoms.numbers for atoms in frames])),
        system_idx=torch.repeat_interleave(torch.arange(len(frames)), torch.tensor([len(a) for a in frames])),
    )


@pytest.mark.parametrize(
    ("names", "pbc"),
    [
        (["crystal", "sheared, outside its cell", "one atom a cell"], [True, True, True]),
        (["slab", "one atom a skewed slab cell"], [True, True, False]),
        (["molecule"], [False, False, False]),
    ],
)
def test_results_are_those_of_the_calculator(standing_in, random_potential, names, pbc):
    frames = [FRAMES[name] for name in names]
    model = standing_in.EIPNNModel(random_potential, dtype=torch.float64)
    found = model(state_of(frames, pbc))
    calculator = EIPNNCalculator(random_potential, dtype="float64")
    assert found["energy"].numpy() == pytest.approx([calculator.get_potential_energy(a) for a in frames], abs=1e-9)
    forces = np.concatenate([calculator.get_forces(atoms) for atoms in frames])
    np.testing.assert_allclose(found["forces"].numpy(), forces, atol=1e-9)
    assert found["stress"].shape == (len(frames), 3, 3)
    for atoms, stress in zip(frames, found["stress"].numpy(), strict=True):
        expected = calculator.get_stress(atoms) if all(pbc) else np.full(6, np.nan)
        np.testing.assert_allclose(stress.ravel()[[0, 4, 8, 5, 2, 1]], expected, atol=1e-9)
    assert not any(value.requires_grad for value in found.values())


def test_precision_and_elements(standing_in, random_potential):
    model = standing_in.EIPNNModel(random_potential)
    state = state_of([FRAMES["crystal"]], [True] * 3)
    assert {value.dtype for value in model(state).values()} == {torch.float32}
    state.atomic_numbers[0] = 32
    with pytest.raises(InputError, match="not on Ge"):
        model(state)


def test_a_committee_gives_its_mean(standing_in, tmp_path):
    potentials = [make_potential(SchNet).potential for _ in range(2)]
    with torch.no_grad():
        for weight in potentials[1].head.parameters():
            weight *= 1.1
    Committee(potentials).save(tmp_path / "committee.pt")
    model = standing_in.EIPNNModel(tmp_path / "committee.pt", dtype=torch.float64)
    found = model(state_of([FRAMES["crystal"]], [True] * 3))
    calculator = EIPNNCalculator(tmp_path / "committee.pt", dtype="float64")
    assert float(found["energy"]) == pytest.approx(calculator.get_potential_energy(FRAMES["crystal"]), abs=1e-9)
    np.testing.assert_allclose(found["forces"].numpy(), calculator.get_forces(FRAMES["crystal"]), atol=1e-9)
    assert calculator.results["energy_std"] > 1e-6


def test_delta_learning_is_refused(standing_in, tmp_path):
    potential = make_potential(SchNet).potential
    potential.zeros["dft"]["eip"] = "sw"
    potential.save(tmp_path / "delta.pt")
    with pytest.raises(InputError, match=r"delta.pt: gives DFT less the EIP sw"):
        standing_in.EIPNNModel(tmp_path / "delta.pt")


def test_the_guard_is_that_of_the_calculator(standing_in, tmp_path):
    """Of three systems the last two leave what the training saw: in distances, and in the volume alone."""
    module, file = make_potential(SchNet), tmp_path / "potential.pt"
    module.seen = {"dft": {"distances": {"Si-Si": 2.3}, "volumes": [18.0, 22.0]}}
    module.potential.save(file)
    inside, close, dilute = (bulk("Si", a=a) for a in (5.43, 5.43, 5.8))
    close.positions[1] *= 0.9
    periodic, every = [True] * 3, state_of([inside, close, dilute], [True] * 3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = standing_in.EIPNNModel(file)
        model(state_of([inside], periodic))
        assert not caught
        found = [model(every)["energy"] for _ in range(2)]  # told once
        silent = standing_in.EIPNNModel(file, guard="off")(every)["energy"]
    assert [str(warning.message) for warning in caught] == [
        f"outside of the training: {what}; the potential extrapolates (told once)"
        for what in (
            "Si-Si 2.12 A apart in system 1, which the training frames have from 2.30 A on",
            "24.39 A^3 an atom in system 2, where the training frames have 18.00 to 22.00",
        )
    ]
    assert torch.equal(found[1], silent)
    strict = standing_in.EIPNNModel(file, guard="error")
    strict(state_of([inside], periodic))
    for atoms, what in ((close, "2.12 A apart, which"), (dilute, "24.39 A\\^3 an atom, where")):
        with pytest.raises(InputError, match=f"outside of the training: .*{what}"):
            strict(state_of([atoms], periodic))


def test_a_file_that_does_not_say_cannot_be_guarded(standing_in, random_potential):
    with pytest.raises(InputError, match="does not say what its training saw"):
        standing_in.EIPNNModel(random_potential, guard="warn")


def test_without_torch_sim_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.delitem(sys.modules, "eipnn.potential.torch_sim", raising=False)
    with pytest.raises(InputError, match=r"pip install 'eipnn\[torch-sim\]' with Python 3.12"):
        importlib.import_module("eipnn.potential.torch_sim")


def test_the_validators_of_torch_sim(tmp_path):
    pytest.importorskip("torch_sim", reason="torch-sim needs Python 3.12")
    from torch_sim.io import atoms_to_state
    from torch_sim.models.interface import validate_model_outputs
    from torch_sim.testing import assert_model_calculator_consistency

    from eipnn.potential.torch_sim import EIPNNModel

    potential = make_potential(SchNet).potential
    potential.elements = ["Si", "Mg", "Fe", "C", "H"]  # those of the validator
    potential.save(tmp_path / "potential.pt")
    model = EIPNNModel(tmp_path / "potential.pt", dtype=torch.float64)
    validate_model_outputs(model, model.device, model.dtype)
    calculator = EIPNNCalculator(tmp_path / "potential.pt", dtype="float64")
    for name in ("cubic", "sheared, outside its cell"):
        state = atoms_to_state([FRAMES[name]], model.device, model.dtype)
        assert_model_calculator_consistency(model, calculator, state)
