"""Exported potentials against the ASE calculator of the same checkpoint."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from backbones import FRAMES, batch_of, make_potential, with_skin
from tiny import best, in_process

from eipnn import EIPNNCalculator
from eipnn.errors import InputError
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.export import FIELDS, export_potential
from eipnn.representations import SchNet

# What a user without eipnn runs.
PLAIN = """\
import json, sys
import numpy as np, torch

extra = {"eipnn.json": ""}
program = torch.export.load(sys.argv[1], extra_files=extra).module()
inputs = {k: torch.from_numpy(v) for k, v in np.load(sys.argv[2]).items()}
inputs["pos"].requires_grad_()
inputs["cell"].requires_grad_()
energy = program(*(inputs[k] for k in ("z", "pos", "cell", "edge_index", "edge_shift", "batch")))
pos, cell = torch.autograd.grad(energy.sum(), [inputs["pos"], inputs["cell"]])
np.savez(sys.argv[3], energy=energy.detach(), pos=pos, cell=cell)
assert json.loads(extra["eipnn.json"])["elements"] == ["C", "Si"]
assert not {"eipnn", "torch_geometric", "ase"} & set(sys.modules)
"""


def save(potential, file):
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    return file


@pytest.fixture(scope="module")
def checkpoint(backbone, tmp_path_factory):
    """A potential in float32, as trainings write it."""
    potential = make_potential(backbone)
    return save(potential, tmp_path_factory.mktemp("export") / "potential.ckpt")


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The file of its program, in float64."""
    file = checkpoint.with_suffix(".pt2")
    command = ["export", str(checkpoint), "-o", str(file), "--dtype", "float64"]
    assert in_process(command) == 0
    return file


@pytest.fixture(scope="module")
def program(exported):
    return torch.export.load(exported).module()


@pytest.fixture(scope="module")
def calculator(checkpoint):
    return EIPNNCalculator(checkpoint, dtype="float64")


def test_a_process_without_eipnn_gets_what_the_calculator_gives(exported, calculator, tmp_path):
    frames = list(FRAMES.values())
    batch = batch_of(calculator.potential.representation, *frames, dtype=torch.float64)
    given, found = tmp_path / "given.npz", tmp_path / "found.npz"
    np.savez(given, **{name: batch[name].numpy() for name in FIELDS})
    subprocess.run([sys.executable, "-c", PLAIN, str(exported), str(given), str(found)], check=True)
    result, ends = np.load(found), batch.ptr.numpy()
    for k, atoms in enumerate(frames):
        atoms = atoms.copy()
        atoms.calc = calculator
        assert result["energy"][k] == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
        slope = result["pos"][ends[k] : ends[k + 1]]
        np.testing.assert_allclose(-slope, atoms.get_forces(), atol=1e-8)
        if atoms.pbc.all():
            positions = batch.pos[batch.batch == k].numpy()
            virial = batch.cell[k].numpy().T @ result["cell"][k] + positions.T @ slope
            stress = (virial + virial.T) / 2 / atoms.get_volume()
            np.testing.assert_allclose(stress, atoms.get_stress(voigt=False), atol=1e-8)


def test_any_number_of_atoms_and_pairs(program, calculator):
    net = calculator.potential.representation
    frames = [Atoms("Si"), FRAMES["one atom a cell"], FRAMES["molecule"], FRAMES["cubic"]]
    for atoms in frames:
        batch = batch_of(net, atoms, dtype=torch.float64)
        energy = program(*(batch[name] for name in FIELDS))
        atoms = atoms.copy()
        atoms.calc = calculator
        assert energy.item() == pytest.approx(atoms.get_potential_energy(), abs=1e-8)


def test_pairs_beyond_the_cutoff_change_nothing(program, calculator):
    """In a simulation code whose neighbour list has a skin."""
    net = calculator.potential.representation
    frames = [FRAMES["cubic"], FRAMES["slab"], FRAMES["molecule"]]
    found = []
    for batch in (batch_of(net, *frames, dtype=torch.float64), with_skin(net, *frames)):
        batch.pos.requires_grad_()
        energy = program(*(batch[name] for name in FIELDS))
        found.append((energy.detach(), *torch.autograd.grad(energy.sum(), batch.pos)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_an_element_of_no_training_data_has_no_energy_and_no_forces(program, calculator):
    frames = [FRAMES["crystal"], FRAMES["molecule"]]
    batch = batch_of(calculator.potential.representation, *frames, dtype=torch.float64)
    batch.z[0] = 32
    batch.pos.requires_grad_()
    energy = program(*(batch[name] for name in FIELDS))
    (slope,) = torch.autograd.grad(energy.sum(), batch.pos)
    assert energy.isnan().tolist() == [True, False]
    assert slope[:2].isnan().all()
    assert slope[2:].isfinite().all()


class Refusing(SchNet):
    """Its steps depend on the positions' values."""

    def __init__(self, cutoff: float = 4.0) -> None:
        super().__init__(cutoff, features=8, filters=8, gaussians=8, interactions=1)

    def forward(self, graph):
        features = super().forward(graph)
        return features if graph.vectors.sum() > 0 else 2 * features


def test_a_representation_that_cannot_be_exported_is_named(tmp_path):
    file = save(make_potential(Refusing), tmp_path / "refusing.ckpt")
    with pytest.raises(InputError, match=r"refusing.ckpt: .* Refusing: .*data-dependent"):
        export_potential(file)


def test_another_stage_is_refused(trained, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="stage 'pretrain'"):
        export_potential(best(trained["Pretrain"]))
    output = tmp_path / "potential.pt2"
    assert in_process(["export", best(trained["Classifier"]), "-o", str(output)]) == 1
    assert "stage 'classify'" in capsys.readouterr().err
    assert not output.exists()
