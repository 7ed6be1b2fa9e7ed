"""Potentials see atoms in their cell, whoever asks: labels, dynamics, delta learning."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.md.verlet import VelocityVerlet
from hypothesis import given, settings
from hypothesis import strategies as st
from label_calculators import Springs, Trouble

from eipnn.eips import EIP, EIPError, InCell

SW = EIP("sw", "kim", "SW_StillingerWeber_1985_Si__MO_405512056662_005")
EMT_EIP = EIP("emt", "ase", "ase.calculators.emt.EMT")
BOTH = pytest.mark.parametrize(
    ("eip", "atoms"),
    [
        pytest.param(SW, bulk("Si", cubic=True), marks=pytest.mark.kim, id="SW"),
        pytest.param(EMT_EIP, bulk("Cu", cubic=True), id="EMT"),
    ],
)


def results(calculator: InCell, atoms: Atoms) -> list[np.ndarray]:
    return [calculator.get_property(p, atoms) for p in ("energy", "forces", "stress")]


def rattled(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.1, seed=0)
    return atoms


@BOTH
@settings(max_examples=10, deadline=None)
@given(shifts=st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=8, max_size=8))
def test_the_image_of_an_atom_is_of_no_matter(eip: EIP, atoms: Atoms, shifts: list[tuple[int, int, int]]) -> None:
    inside = rattled(atoms)
    inside.wrap()
    outside = inside.copy()
    outside.positions += np.array(shifts)[: len(atoms)] @ atoms.cell.array
    calculator, plain = eip.calculator(), eip.calculator().calculator
    for found, wanted in zip(results(calculator, outside), results(plain, inside), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


@BOTH
def test_dynamics_across_the_border_are_those_of_wrapped_atoms(eip: EIP, atoms: Atoms) -> None:
    atoms = rattled(atoms)
    atoms.calc = eip.calculator()
    atoms.set_velocities(np.random.default_rng(0).normal(-0.2, 0.05, (len(atoms), 3)))  # a drift
    run, plain, crossed = VelocityVerlet(atoms, 5 * units.fs), eip.calculator().calculator, 0
    for _ in range(10):
        run.run(1)
        inside = atoms.copy()
        inside.wrap()
        crossed = max(crossed, int((np.abs(inside.positions - atoms.positions) > 1).sum()))
        plain.reset()
        assert abs(plain.get_potential_energy(inside) - atoms.get_potential_energy()) < 1e-9
        np.testing.assert_allclose(plain.get_forces(inside), atoms.get_forces(), rtol=0, atol=1e-9)
    assert crossed > 0


@BOTH
def test_forces_and_stress_are_slopes_of_the_wrapped_energy(eip: EIP, atoms: Atoms) -> None:
    outside = rattled(atoms)
    outside.positions[0] += 2 * outside.cell[0] - outside.cell[2]
    outside.calc = eip.calculator()
    forces, stress = outside.get_forces(), outside.get_stress()
    assert np.abs(forces).max() > 0.1
    np.testing.assert_allclose(forces, calculate_numerical_forces(outside, eps=1e-5), atol=1e-5)
    np.testing.assert_allclose(stress, calculate_numerical_stress(outside, eps=1e-5), atol=1e-6)


@pytest.mark.parametrize("where", [0, 7.5, -40])
def test_a_slab_needs_no_third_vector(where: float) -> None:
    slab = fcc111("Cu", (2, 2, 2), vacuum=8)
    bare = slab.copy()
    bare.cell[2] = 0
    bare.positions += [0, 0, where]
    bare.positions[0] += bare.cell[0]
    one, other = EMT(), InCell(EMT())
    assert other.get_potential_energy(bare) == pytest.approx(one.get_potential_energy(slab), abs=1e-9)
    np.testing.assert_allclose(other.get_forces(bare), one.get_forces(slab), atol=1e-9)
    with pytest.raises(PropertyNotImplementedError):
        other.get_stress(bare)


def test_positions_and_cells_that_are_none_are_errors() -> None:
    with pytest.raises(ValueError, match="positions are NaN or infinite"):
        InCell(EMT()).get_potential_energy(Atoms("Cu", [[np.nan, 0, 0]]))
    with pytest.raises(ValueError, match="the cell has no volume along its periodic axes"):
        InCell(EMT()).get_potential_energy(Atoms("Cu", cell=[3, 3, 0], pbc=True))


def test_without_a_stress_of_the_potential_there_is_none() -> None:
    crystal = bulk("Cu")
    with pytest.raises(PropertyNotImplementedError):
        InCell(Springs()).get_stress(crystal)


@pytest.mark.parametrize("how", ["nan", "infinite force", "short"])
def test_results_that_are_none_are_errors(how: str) -> None:
    with pytest.raises(ValueError, match=r"NaN or infinite|forces for 0 of 1 atoms"):
        InCell(Trouble(how, 1)).get_potential_energy(Atoms("Cu"))


def test_published_energies_have_no_calculator() -> None:
    with pytest.raises(EIPError, match=r"EIP meam stands for published energies \(kim-si MEAM\)"):
        EIP("meam", "published", "kim-si MEAM").calculator()
