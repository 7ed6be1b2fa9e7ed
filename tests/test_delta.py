"""Delta learning: the network on top of an EIP, in training, prediction and the ASE calculator."""

from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import all_changes
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.md.verlet import VelocityVerlet
from backbones import energy_forces_virial, make_potential
from tiny import EIPS, best, eipnn_stage, stage_config
from torch_geometric.data import Batch

from eipnn import EIPNNCalculator, load
from eipnn.eips import EIP, recorded
from eipnn.eips.in_cell import wrapped
from eipnn.errors import InputError
from eipnn.labels.layout import DONE, create, describe, open_array
from eipnn.representations import SchNet


@pytest.fixture(scope="module")
def delta(tiny, tmp_path_factory) -> Path:
    """A potential that was trained on top of the EIP ``au``."""
    made = stage_config(tiny, "Finetune", tmp_path_factory.mktemp("delta"), max_epochs=2)
    made["data"]["init_args"] |= {"delta_eip": "au", "eip_energy_zero": "least_squares"}
    root = eipnn_stage("fit", made)
    eipnn_stage("test", made, "--ckpt_path", str(root / "checkpoints" / "best.ckpt"))
    return root


class Labels(EMT):
    """The invented EIP ``au`` for the frames of the tiny set, told apart by their positions."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, tiny):
        super().__init__()
        self.tiny = tiny

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        same = next(
            i
            for i, a in self.tiny.frames.items()
            if len(a) == len(atoms) and np.allclose(wrapped(a).positions, atoms.positions)
        )
        self.results = {
            "energy": self.tiny.eip[same][EIPS.index("au")],
            "forces": np.ones((len(atoms), 3)),
        }


def test_delta_predictions_are_network_plus_eip(delta, tiny):
    table = pd.read_csv(delta / "predictions_test.csv").set_index("config_id")
    potential = load(delta / "checkpoints" / "best.ckpt")
    assert potential.delta_eip == "au"
    calculator = EIPNNCalculator(delta / "checkpoints" / "best.ckpt", eip=Labels(tiny))
    for name in tiny.ids("test"):
        atoms = tiny.frames[name].copy()
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(table["prediction"][name], abs=1e-4)


def test_delta_forces_are_those_of_both(delta, tiny):
    atoms = tiny.frames[tiny.ids("test")[0]].copy()
    file = delta / "checkpoints" / "best.ckpt"
    atoms.calc = EIPNNCalculator(file, eip=Labels(tiny), dtype="float64")
    total = atoms.get_forces()
    net = load(file).double()
    batch = Batch.from_data_list([net.representation.inputs(atoms, torch.float64)])
    _, forces, _ = energy_forces_virial(net, batch)
    assert total - forces.numpy() == pytest.approx(np.ones((len(atoms), 3)), abs=1e-9)


def test_an_eip_that_cannot_be_made_is_asked_for(delta):
    with pytest.raises(
        InputError,
        match=r"best.ckpt: the EIP au \(invented.au\) cannot be used here .*; give its ASE calculator",
    ):
        EIPNNCalculator(delta / "checkpoints" / "best.ckpt")


def test_another_eip_than_that_of_the_training_is_refused(delta):
    with pytest.raises(InputError, match=r"EMT is not the EIP au \(invented.au\) of the training: "):
        EIPNNCalculator(delta / "checkpoints" / "best.ckpt", eip=EMT())


def test_a_checkpoint_that_holds_the_name_alone_still_needs_its_eip(delta, tiny, tmp_path):
    """As checkpoints were before."""
    file = delta / "checkpoints" / "best.ckpt"
    content = torch.load(file, weights_only=True)
    content["eipnn"]["zeros"]["dft"]["eip"] = "au"
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"gives DFT less au and holds no more than this"):
        EIPNNCalculator(tmp_path / "old.ckpt")
    atoms = tiny.frames[tiny.ids("test")[0]]
    old, new = (EIPNNCalculator(f, eip=Labels(tiny)) for f in (tmp_path / "old.ckpt", file))
    assert old.get_potential_energy(atoms) == new.get_potential_energy(atoms)
    root = delta.parent / "again"
    made = stage_config(tiny, "Finetune", root)
    made["data"]["init_args"] |= {"delta_eip": "au", "eip_energy_zero": "least_squares"}
    eipnn_stage("test", made, "--ckpt_path", str(tmp_path / "old.ckpt"))


def emt_delta(tiny, folder: Path, arguments: dict | None = None) -> dict:
    """Settings of delta learning on EMT."""
    emt = EIP("emt", "ase", "ase.calculators.emt.EMT", arguments or {})
    frames = list(tiny.frames.values())
    energies = [[emt.calculator().get_potential_energy(atoms)] for atoms in frames]
    store = describe(frames, [emt])
    create(folder / "labels", frames, store)
    open_array(folder / "labels", "energies", store, "r+")[:] = energies
    open_array(folder / "labels", "stress", store, "r+")[:] = np.nan
    open_array(folder / "labels", "status", store, "r+")[:] = DONE
    made = stage_config(tiny, "Finetune", folder / "run", max_epochs=1)
    made["data"]["init_args"] |= {
        "labels": str(folder / "labels"),
        "delta_eip": "emt",
        "eip_energy_zero": "least_squares",
    }
    return made


def test_the_eip_is_made_as_the_checkpoint_records_it(tiny, tmp_path):
    made = emt_delta(tiny, tmp_path, {"asap_cutoff": True})
    file = best(eipnn_stage("fit", made))
    calculator = EIPNNCalculator(file)
    assert calculator.eip.calculator.parameters.asap_cutoff is True
    with pytest.raises(InputError, match=r"eip has asap_cutoff=False, which the EIP emt \(ase"):
        EIPNNCalculator(file, eip=EMT())
    # predictions of structures that the label store lacks are network and EIP too
    new = [tiny.frames[i].copy() for i in tiny.ids("test")]
    for atoms in new:
        atoms.positions += [0.0, 1.0, -30.0]
        atoms.info = {"config_id": "new_" + atoms.info["config_id"]}
    ase.io.write(tmp_path / "new.extxyz", new)
    made["data"]["init_args"]["structures"] = str(tmp_path / "new.extxyz")
    root = eipnn_stage("predict", made, "--ckpt_path", file)
    predicted = pd.read_csv(root / "predictions.csv")["prediction"]
    energies = [calculator.get_potential_energy(atoms) for atoms in new]
    np.testing.assert_allclose(predicted, energies, atol=1e-4)
    for atoms, found in zip(new, ase.io.read(root / "predictions.extxyz", ":"), strict=True):
        np.testing.assert_allclose(found.get_forces(), calculator.get_forces(atoms), atol=1e-5)
        if atoms.pbc.all():
            np.testing.assert_allclose(found.get_stress(), calculator.get_stress(atoms), atol=1e-6)
    # and an atom that leaves the cell in a trajectory feels the same EIP
    calculator = EIPNNCalculator(file, dtype="float64")
    atoms = next(a for a in new if a.pbc.all()).copy()
    energy, forces = calculator.get_potential_energy(atoms), calculator.get_forces(atoms)
    atoms.positions[0] += atoms.cell[0] - 2 * atoms.cell[2]
    assert calculator.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-9)
    np.testing.assert_allclose(calculator.get_forces(atoms), forces, rtol=0, atol=1e-9)
    stress = calculator.get_stress(atoms)
    numerical = calculate_numerical_stress(_with(atoms, calculator), eps=1e-5)
    np.testing.assert_allclose(stress, numerical, atol=1e-6)


def _with(atoms: Atoms, calculator) -> Atoms:
    atoms.calc = calculator
    return atoms


def test_a_delta_checkpoint_is_not_tested_without_its_eip(delta, tiny, tmp_path):
    made = stage_config(tiny, "Finetune", tmp_path)
    with pytest.raises(SystemExit, match="the checkpoint's energy zeros are"):
        eipnn_stage("test", made, "--ckpt_path", str(delta / "checkpoints" / "best.ckpt"))


def test_a_delta_potential_is_not_exported(delta):
    from eipnn.potential.export import export_potential

    with pytest.raises(InputError, match="gives DFT less the EIP au"):
        export_potential(delta / "checkpoints" / "best.ckpt")


@pytest.mark.kim
def test_dynamics_on_a_kim_model_across_the_border(tmp_path):
    """Each step equals the potential of the wrapped atoms."""
    sw = EIP("sw", "kim", "SW_StillingerWeber_1985_Si__MO_405512056662_005")
    frames = [bulk("Si", cubic=True), bulk("Si", a=5.6)]
    energies = [sw.calculator().get_potential_energy(atoms) for atoms in frames]
    potential = make_potential(SchNet)
    potential.zeros["dft"]["eip"] = recorded.record(sw.description(), frames, energies)
    potential.zeros["sw"] = {"mode": "isolated_atoms", "energies": {"Si": -0.5}}
    file = tmp_path / "delta.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    atoms = frames[0].copy()
    atoms.rattle(0.1, seed=0)
    atoms.calc, plain = (EIPNNCalculator(file, dtype="float64") for _ in range(2))
    atoms.set_velocities(np.random.default_rng(0).normal(-0.2, 0.05, (len(atoms), 3)))
    run, crossed = VelocityVerlet(atoms, 5 * units.fs), 0
    for _ in range(10):
        run.run(1)
        inside = wrapped(atoms)
        crossed = max(crossed, int((np.abs(inside.positions - atoms.positions) > 1).sum()))
        assert abs(plain.get_potential_energy(inside) - atoms.get_potential_energy()) < 1e-9
        np.testing.assert_allclose(plain.get_forces(inside), atoms.get_forces(), rtol=0, atol=1e-9)
    assert crossed > 0
    with pytest.raises(InputError, match=r"LennardJones is not the EIP sw \(SW_Still"):
        EIPNNCalculator(file, eip=LennardJones())


def test_published_energies_need_a_calculator(tiny):
    frames = [tiny.frames[i] for i in tiny.ids("train")[:2]]
    emt = EIP("emt", "published", "agau EMT")
    energies = [EMT().get_potential_energy(atoms) for atoms in frames]
    known = recorded.record(emt.description(), frames, energies)
    with pytest.raises(InputError, match=r"published energies .* give its ASE calculator as eip"):
        recorded.restore(known)
    assert recorded.restore(known, EMT()).get_potential_energy(frames[0]) == pytest.approx(energies[0])


def test_typical_structures_hold_every_element():
    structures = [Atoms(s) for s in ("Cu", "Cu", "CuAu", "Cu", "Au", "Cu", "Ag", "Cu")]
    assert recorded.typical(structures) == [0, 2, 3, 6, 7]
    assert recorded.typical(structures[:1]) == [0]
