"""SchNet with filters from tables, against the network that they were made from."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from backbones import energy_forces_virial
from torch_geometric.data import Batch

from eipnn import EIPNNCalculator, FinetuneModule
from eipnn.errors import InputError
from eipnn.reference import Reference
from eipnn.representations import CGCNN, SchNet

CUTOFF = 4.0


def rattled(repeat=1) -> Atoms:
    atoms = bulk("SiC", "zincblende", a=4.36, cubic=True).repeat(repeat)
    atoms.rattle(0.15, seed=0)
    return atoms


def finetuned(representation) -> FinetuneModule:
    """Untrained, with energies of the order of 1 eV an atom."""
    module = FinetuneModule(representation)
    module.head.set_scale([3.0], [Reference("least_squares", {"Si": -2.0, "C": 1.5})])
    module.elements = ["C", "Si"]
    module.zeros = {"dft": {"mode": "isolated_atoms", "energies": {"C": 0.0, "Si": 0.0}}}
    return module.double().eval().requires_grad_(False)


@pytest.fixture
def potential() -> FinetuneModule:
    torch.manual_seed(0)
    return finetuned(SchNet(CUTOFF, features=16, filters=12, gaussians=32, interactions=2))


@pytest.fixture
def checkpoint(potential, tmp_path):
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    return file


def results(potential, *frames, points=None, dtype=torch.float64):
    """Energies, forces and virials, exact or with tables."""
    potential = potential.to(dtype)
    net = potential.representation
    batch = Batch.from_data_list([net.inputs(atoms, dtype) for atoms in frames])
    if points is not None:
        potential.representation = net.tabulate(points)
    found = energy_forces_virial(potential, batch, True)
    potential.representation = net
    return found


FRAMES = [rattled(), Atoms("Si"), Atoms("SiC", [[0, 0, 0], [0, 0, 1.7]])]


def test_energies_forces_and_stress_are_close(potential):
    exact = results(potential, *FRAMES)
    table = results(potential, *FRAMES, points=1000)
    torch.testing.assert_close(table[0], exact[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(table[1:], exact[1:], rtol=0, atol=1e-6)
    assert exact[1].abs().max() > 0.1


def test_twice_the_points_leave_an_eighth_of_the_error(potential):
    exact = results(potential, *FRAMES)[1]
    errors = [(results(potential, *FRAMES, points=n)[1] - exact).abs().max() for n in (200, 400)]
    assert errors[1] < errors[0] / 6


def test_tables_add_nothing_to_the_rounding_of_float32(potential):
    exact = results(potential, *FRAMES)
    single = results(potential, *FRAMES, dtype=torch.float32)
    table = results(potential, *FRAMES, points=2000, dtype=torch.float32)
    for right, ours, theirs in zip(exact, table, single, strict=True):
        rounding = (theirs - right).abs().max().item()
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=4 * rounding)


def test_forces_and_stress_are_slopes_of_the_tabulated_energy(checkpoint):
    atoms = rattled()
    atoms.calc = EIPNNCalculator(checkpoint, dtype="float64", tabulate=True)
    np.testing.assert_allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-5), atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-6), atol=1e-9)


def test_forces_are_continuous_at_the_points_and_at_the_cutoff(potential):
    points = 20  # few, so that the polynomials differ
    step = CUTOFF / (points - 1)

    def force(distance: float) -> float:
        atoms = Atoms("SiC", [[0, 0, 0], [0, 0, distance]])
        return results(potential, atoms, points=points)[1][1, 2].item()

    for distance in step * np.arange(8, points, 3):
        below, at, above = (force(distance + shift) for shift in (-1e-7, 0, 1e-7))
        assert abs(at - below) < 1e-4
        assert abs(above - at) < 1e-4
    assert abs(force(CUTOFF - 1e-6)) < 1e-5
    assert abs(force(10 * step)) > 1e-2


def test_the_calculator_uses_tables_where_it_is_asked_to(checkpoint):
    atoms = rattled((2, 1, 1))
    energies = []
    for tabulate in (False, True):
        atoms.calc = EIPNNCalculator(checkpoint, dtype="float64", tabulate=tabulate)
        energies.append(atoms.get_potential_energy())
    assert energies[0] != energies[1]
    assert energies[0] == pytest.approx(energies[1], abs=1e-8)


def test_a_table_needs_two_points(potential):
    with pytest.raises(InputError, match="at least 2"):
        potential.representation.tabulate(1)


def test_a_representation_without_tables_says_so(tmp_path):
    potential = finetuned(CGCNN(CUTOFF, features=4, gaussians=4, convolutions=1))
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    with pytest.raises(InputError, match=r"CGCNN has no tables .* leave out `tabulate`"):
        EIPNNCalculator(file, tabulate=True)
