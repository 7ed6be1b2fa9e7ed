"""Physics that every representation keeps; a new one in `eipnn.representations` is tested by being there.

tests/test_contract.py holds the rest of the contract; see tests/backbones.py for a class that is not in the package.
"""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.fd import calculate_numerical_stress
from backbones import (
    BACKBONES,
    CUTOFF,
    ELEMENTS,
    FRAMES,
    batch_of,
    energies,
    energy_forces_virial,
    every_frame,
    graph,
    with_skin,
)
from scipy.stats import ortho_group

import eipnn.representations
from eipnn import EIPNNCalculator, FinetuneModule
from eipnn.representations import CGCNN, SchNet, SOAPNet


@pytest.mark.skipif(len(BACKBONES) == 1, reason="one class was asked for")
def test_there_are_backbones():
    assert eipnn.representations.SchNet in BACKBONES


@every_frame
def test_translation(potential, atoms):
    moved = atoms.copy()
    moved.positions += [1.7, -23.1, 0.4]
    np.testing.assert_allclose(energies(potential, moved), energies(potential, atoms), atol=1e-9)


@every_frame
@pytest.mark.parametrize("mirror", [False, True], ids=["rotation", "reflection"])
def test_rotation_and_reflection(potential, atoms, mirror):
    turn = ortho_group.rvs(3, random_state=3)
    turn[0] *= np.linalg.det(turn) * (-1 if mirror else 1)
    turned = atoms.copy()
    turned.cell = atoms.cell.array @ turn
    turned.positions = atoms.positions @ turn
    np.testing.assert_allclose(energies(potential, turned), energies(potential, atoms), atol=1e-9)


@every_frame
def test_permutation(potential, atoms):
    order = np.random.default_rng(0).permutation(len(atoms))
    net = potential.representation
    with torch.no_grad():
        before, after = (net(graph(net, a, dtype=torch.float64)) for a in (atoms, atoms[order]))
    torch.testing.assert_close(after, before[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(energies(potential, atoms[order]), energies(potential, atoms), atol=1e-9)


@every_frame
def test_wrapping_into_the_cell_changes_nothing(potential, atoms):
    wrapped = atoms.copy()
    wrapped.cell = wrapped.cell.complete()
    wrapped.wrap()
    np.testing.assert_allclose(energies(potential, wrapped), energies(potential, atoms), atol=1e-9)


@every_frame
def test_a_supercell_has_a_multiple_of_the_energy(potential, atoms):
    repeats = np.where(atoms.pbc, (2, 3, 2), 1)
    larger = atoms.repeat(tuple(repeats))
    expected = repeats.prod() * energies(potential, atoms)
    np.testing.assert_allclose(energies(potential, larger), expected, rtol=1e-10)


@pytest.mark.parametrize("name", ["slab", "wire", "molecule", "single atom"])
def test_an_open_axis_is_one_with_much_vacuum(potential, name):
    atoms = FRAMES[name].copy()
    closed = atoms.copy()
    # a vector along an open axis, at right angles to the others or not, that no atom sees across
    far = [[40, 3, 1], [0, 40, 2], [4, 0, 40]]
    closed.cell = np.where(atoms.pbc[:, None], atoms.cell.array, far)
    closed.pbc = True
    np.testing.assert_allclose(energies(potential, closed), energies(potential, atoms), atol=1e-9)


def test_a_batch_equals_its_frames_one_by_one(potential):
    frames = list(FRAMES.values())
    alone = np.concatenate([energies(potential, atoms) for atoms in frames])
    np.testing.assert_allclose(energies(potential, *frames), alone, atol=1e-9)
    np.testing.assert_allclose(energies(potential, *frames[::-1]), alone[::-1], atol=1e-9)
    assert len(np.unique(alone.round(6))) == len(frames)


def test_atoms_out_of_reach_do_not_feel_each_other(potential):
    step = potential.cutoff + 0.01
    far = Atoms("SiCSi", [[0, 0, 0], [0, 0, step], [0, 0, 2 * step]])
    parts = energies(potential, Atoms("Si"), Atoms("C"), Atoms("Si"))
    np.testing.assert_allclose(energies(potential, far), parts.sum(), atol=1e-12)


def test_a_pair_is_smooth_at_the_cutoff(potential):
    cutoff, step = potential.cutoff, 1e-3
    inside = [cutoff - n * step for n in (1, 2)]
    course = np.linspace(0.4, 0.9, 30) * cutoff
    distances = [cutoff + 1e-9, *inside, *course, *(course + step)]
    dimers = [Atoms("SiC", [[0, 0, 0], [0, 0, r]]) for r in distances]
    apart = energies(potential, Atoms("Si"), Atoms("C")).sum()
    energy = energies(potential, *dimers) - apart
    assert np.abs(energy).max() > 1e-3  # there is something to be smooth
    assert energy[0] == pytest.approx(0, abs=1e-12)
    steepest = np.abs(energy[3:33] - energy[33:]).max()
    assert abs(energy[1]) < 0.01 * steepest  # no jump
    assert abs(energy[2] - energy[1]) < 0.02 * steepest  # and no kink


def energies_and_forces(potential, frames: list[Atoms]) -> tuple[np.ndarray, np.ndarray]:
    """(B,) and (B, n, 3) of frames with n atoms each."""
    batch = batch_of(potential.representation, *frames, dtype=torch.float64)
    energy, forces, _ = energy_forces_virial(potential, batch)
    return energy.numpy(), forces.view(len(frames), -1, 3).numpy()


def test_an_atom_that_leaves_others_one_after_another_feels_no_jump(potential):
    """Three atoms stay, so that angles between neighbours at the cutoff count too."""
    cutoff, stay = potential.cutoff, np.array([[0, 0, 0], [1.7, 0, 0], [0.6, 1.5, 0.4]])

    def frames(places: np.ndarray) -> list[Atoms]:
        return [Atoms("SiCSiC", [*stay, [x, 0.3, 0.2]]) for x in places]

    course, step = np.linspace(3.6, cutoff + 2.0, 401, retstep=True)
    energy, forces = energies_and_forces(potential, frames(course))
    largest = np.abs(forces).max()
    assert largest > 1e-3
    along = forces[:, 3, 0]
    work = (along[:-2] + 4 * along[1:-1] + along[2:]) * step / 3  # Simpson's rule
    np.testing.assert_allclose(energy[:-2] - energy[2:], work, atol=1e-3 * step * largest)
    # where the atom leaves each of the others, from either side
    crossings = stay[:, 0] + np.sqrt(cutoff**2 - (stay[:, 1] - 0.3) ** 2 - (stay[:, 2] - 0.2) ** 2)
    gap = 1e-6
    inside, outside = (energies_and_forces(potential, frames(crossings + d)) for d in (-gap, gap))
    np.testing.assert_allclose(inside[0], outside[0], atol=10 * gap * largest)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-4 * largest)


def test_pairs_beyond_the_cutoff_change_nothing(potential):
    net = potential.representation
    r = net.cutoff
    at_the_cutoff = [Atoms("SiC", [[0, 0, 0], [0, 0, r + d]]) for d in (-1e-12, 0, 1e-12, 0.5)]
    frames = [*FRAMES.values(), *at_the_cutoff]
    exact = energy_forces_virial(potential, batch_of(net, *frames, dtype=torch.float64), True)
    found = energy_forces_virial(potential, with_skin(net, *frames), True)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "net",
    [
        pytest.param(lambda: CGCNN(CUTOFF, features=8, gaussians=8, smooth=False), id="CGCNN"),
        pytest.param(lambda: SOAPNet(ELEMENTS, 2.5, 2, 2, smooth=False, width=8), id="SOAPNet"),
        pytest.param(lambda: SchNet(CUTOFF, 8, 8, 8).tabulate(50), id="tabulated SchNet"),
    ],
)
def test_pairs_beyond_the_cutoff_change_nothing_in_other_forms(net):
    """Those that are not smooth at the cutoff, and tables."""
    torch.manual_seed(0)
    potential = FinetuneModule(net()).double().eval()
    frames = list(FRAMES.values())
    lists = (batch_of(potential.representation, *frames, dtype=torch.float64),)
    lists += (with_skin(potential.representation, *frames),)
    exact, found = (energy_forces_virial(potential, batch, True) for batch in lists)
    for one, other in zip(found, exact, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def calculator(potential, tmp_path_factory) -> EIPNNCalculator:
    """The ASE calculator of a checkpoint that holds the potential, in float64."""
    file = tmp_path_factory.mktemp("calculator") / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    return EIPNNCalculator(file, dtype="float64", cohesive=True)


def displaced(atoms: Atoms, step: float) -> list[Atoms]:
    """Copies with one coordinate changed, atom by atom, x, y, z."""
    copies = []
    for place in np.ndindex(len(atoms), 3):
        copy = atoms.copy()
        copy.positions[place] += step
        copies.append(copy)
    return copies


@every_frame
def test_forces_are_the_slope_of_the_energy(calculator, atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    forces = atoms.get_forces()
    assert forces.shape == (len(atoms), 3)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9)
    eps = 3e-5
    weights = {-2 * eps: 1 / 12, -eps: -2 / 3, eps: 2 / 3, 2 * eps: -1 / 12}  # of fourth order
    slope = sum(
        weight / eps * energies(calculator.potential, *displaced(atoms, step)) for step, weight in weights.items()
    )
    largest = np.abs(forces).max()
    np.testing.assert_allclose(forces, -slope.reshape(-1, 3), atol=1e-6 * (1 + largest))
    assert largest > 1e-3 or len(atoms) == 1


@pytest.mark.parametrize(
    "name",
    ["crystal", "sheared, outside its cell", "one atom a cell", "cell smaller than the cutoff"],
)
def test_the_stress_is_the_slope_of_the_energy(calculator, name):
    atoms = FRAMES[name].copy()
    atoms.calc = calculator
    stress = atoms.get_stress()
    assert np.abs(stress).max() > 1e-4
    numerical = calculate_numerical_stress(atoms, eps=2e-6)
    np.testing.assert_allclose(stress, numerical, atol=1e-7 * (1 + np.abs(stress).max()))


def test_forces_and_virials_of_a_batch_are_those_of_its_frames(potential):
    frames = [FRAMES[n] for n in ("crystal", "slab", "sheared, outside its cell", "single atom")]
    net = potential.representation
    batch = batch_of(net, *frames, dtype=torch.float64)
    energy, forces, virial = energy_forces_virial(potential, batch, True)
    start = 0
    for k, atoms in enumerate(frames):
        one = energy_forces_virial(potential, batch_of(net, atoms, dtype=torch.float64), True)
        torch.testing.assert_close(energy[k], one[0][0])
        torch.testing.assert_close(forces[start : start + len(atoms)], one[1])
        torch.testing.assert_close(virial[k], one[2][0])
        start += len(atoms)


def test_forces_turn_with_the_atoms(potential):
    atoms = FRAMES["cubic"]
    turn = ortho_group.rvs(3, random_state=5)
    turned = atoms.copy()
    turned.cell, turned.positions = atoms.cell.array @ turn, atoms.positions @ turn
    (_, before), (_, after) = (energies_and_forces(potential, [a]) for a in (atoms, turned))
    np.testing.assert_allclose(after, before @ turn, atol=1e-9)
