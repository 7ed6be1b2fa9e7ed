"""Exported potentials against the ASE calculator of the same checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from backbones import FRAMES, batch_of, make_potential, with_skin
from tiny import best, in_process

from eipnn import EIPNNCalculator
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.export import FIELDS, RECORD, export_potential
from eipnn.representations import SchNet

EXAMPLE = Path(__file__).parents[1] / "experiments" / "potential" / "run_exported.py"
WITHOUT_EIPNN = """\
import runpy, sys
sys.modules["eipnn"] = sys.modules["torch_geometric"] = None  # their import fails
runpy.run_path(sys.argv.pop(1), run_name="__main__")
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
def loaded(exported):
    """What torch reads of it, and the record beside."""
    extra = {RECORD: ""}
    program = torch.export.load(exported, extra_files=extra)
    return program, json.loads(extra[RECORD])


@pytest.fixture(scope="module")
def program(loaded):
    return loaded[0].module()


@pytest.fixture(scope="module")
def calculator(checkpoint):
    return EIPNNCalculator(checkpoint, dtype="float64")


def run_example(program: Path, frames: list[Atoms]) -> tuple[list[float], np.ndarray]:
    """What the example prints: energies, and forces and stress one below the other."""
    structures = program.with_suffix(".traj")
    ase.io.write(structures, frames)
    command = [sys.executable, "-c", WITHOUT_EIPNN, str(EXAMPLE), str(program), str(structures)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    energies = [float(line.split()[1]) for line in printed if " eV; " in line]
    return energies, np.array([line.split() for line in printed if "eV" not in line], float)


def calculated(calculator: EIPNNCalculator, frames: list[Atoms]) -> tuple[list[float], np.ndarray]:
    """The same by the calculator."""
    energies, rows = [], []
    for atoms in frames:
        energies.append(calculator.get_potential_energy(atoms))
        rows.append(calculator.get_forces(atoms))
        periodic = atoms.pbc.all()
        rows.append(voigt_6_to_full_3x3_stress(calculator.get_stress(atoms)) if periodic else np.full((3, 3), np.nan))
    return energies, np.concatenate(rows)


def assert_as_calculated(program: Path, frames: list[Atoms], calculator: EIPNNCalculator, rtol: float) -> None:
    energies, rows = run_example(program, frames)
    expected, expected_rows = calculated(calculator, frames)
    np.testing.assert_allclose(energies, expected, rtol=rtol)
    np.testing.assert_allclose(rows, expected_rows, rtol=0, atol=rtol * np.nanmax(np.abs(expected_rows)))


@pytest.mark.slow  # by default that of SchNet, below, and of all that no step needs more than torch
def test_a_process_without_eipnn_gets_what_the_calculator_gives(exported, calculator):
    assert_as_calculated(exported, list(FRAMES.values()), calculator, 1e-10)


def test_single_precision_without_eipnn(tmp_path):
    checkpoint = save(make_potential(SchNet), tmp_path / "single.ckpt")
    assert in_process(["export", str(checkpoint), "-o", str(tmp_path / "single.pt2")]) == 0
    frames = [FRAMES["cubic"], FRAMES["slab"], FRAMES["molecule"]]
    assert_as_calculated(tmp_path / "single.pt2", frames, EIPNNCalculator(checkpoint), 1e-5)


def test_every_step_is_one_of_torch(loaded):
    graphs = [module.graph for module in loaded[0].graph_module.modules() if hasattr(module, "graph")]
    steps = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    assert len(steps) > 10
    for step in steps:
        assert getattr(step, "namespace", step.__module__) in ("aten", "_operator"), step


def test_the_record_is_in_the_file(loaded, calculator):
    expected = calculator.potential.record() | {"dtype": "float64"}
    assert loaded[1] == expected
    assert {"version", "elements", "cutoff", "units"} <= set(expected)


def test_each_structure_has_what_the_calculator_gives(program, calculator):
    """One by one, as a simulation asks for them."""
    energies, rows = [], []
    for atoms in FRAMES.values():
        batch = batch_of(calculator.potential.representation, atoms, dtype=torch.float64)
        energy, forces, stress = program(*(batch[name] for name in FIELDS))
        energies.append(energy.item())
        rows += [forces, stress[0]]
    expected, expected_rows = calculated(calculator, list(FRAMES.values()))
    np.testing.assert_allclose(energies, expected, rtol=1e-10)
    atol = 1e-10 * np.nanmax(np.abs(expected_rows))
    np.testing.assert_allclose(np.concatenate(rows), expected_rows, rtol=0, atol=atol)


def test_several_configurations_at_once(program, calculator):
    frames = [Atoms("Si"), FRAMES["one atom a cell"], FRAMES["molecule"], FRAMES["cubic"]]
    batch = batch_of(calculator.potential.representation, *frames, dtype=torch.float64)
    found = program(*(batch[name] for name in FIELDS))
    expected = calculator.potential.predict(graph_of(batch), ("forces", "stress"))[1:]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float64
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, equal_nan=True)


def test_pairs_beyond_the_cutoff_change_nothing(program, calculator):
    """In a simulation code whose neighbour list has a skin."""
    net = calculator.potential.representation
    frames = [FRAMES["cubic"], FRAMES["slab"], FRAMES["molecule"]]
    exact, longer = batch_of(net, *frames, dtype=torch.float64), with_skin(net, *frames)
    found = [program(*(batch[name] for name in FIELDS)) for batch in (exact, longer)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9, equal_nan=True)


def test_an_element_of_no_training_data_has_no_results(program, calculator):
    frames = [FRAMES["crystal"], FRAMES["cubic"]]
    batch = batch_of(calculator.potential.representation, *frames, dtype=torch.float64)
    batch.z[0] = 32
    energy, forces, stress = program(*(batch[name] for name in FIELDS))
    assert energy.isnan().tolist() == [True, False]
    assert forces[:2].isnan().all()
    assert forces[2:].isfinite().all()
    assert stress[0].isnan().all()
    assert stress[1].isfinite().all()


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
    itself = best(trained["Finetune"])
    before = Path(itself).read_bytes()
    assert in_process(["export", itself, "-o", itself]) == 1
    assert "is one of the files that are read" in capsys.readouterr().err
    assert Path(itself).read_bytes() == before
