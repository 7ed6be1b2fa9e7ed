"""Physics that every representation keeps; a new one in `eipnn.representations` is tested by being there."""

import inspect

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from scipy.stats import ortho_group
from torch_geometric.data import Batch

import eipnn.representations
from eipnn import EIPNNCalculator, FinetuneModule, load
from eipnn.calculator import energy_forces_virial
from eipnn.representations import Representation
from eipnn.stages.module import build_representation, shift_table

CUTOFF = 4.0
BACKBONES = [
    cls
    for cls in vars(eipnn.representations).values()
    if isinstance(cls, type) and issubclass(cls, Representation) and not inspect.isabstract(cls)
]


def small(cls: type[Representation]) -> Representation:
    """A quick instance: every whole number of its defaults cut to at most 8."""
    parameters = inspect.signature(cls).parameters.values()
    sizes = {p.name: min(p.default, 8) for p in parameters if type(p.default) is int}
    return cls(**sizes, cutoff=CUTOFF)


@pytest.fixture(params=BACKBONES, ids=lambda cls: cls.__name__)
def potential(request) -> FinetuneModule:
    """An untrained potential in float64 whose energies are of the order of 1 eV an atom."""
    torch.manual_seed(0)
    module = FinetuneModule(small(request.param))
    module.head.set_scale(torch.tensor([3.0]), shift_table([{14: -2.0, 6: 1.5}]))
    module.elements = ["C", "Si"]
    module.zeros = {"dft": {"mode": "isolated_atoms", "energies": {"C": 0.0, "Si": 0.0}}}
    return module.double().eval()


def energies(potential: FinetuneModule, *frames: Atoms) -> np.ndarray:
    """Energies (B,) of the frames in one batch."""
    items = [potential.representation.inputs(atoms, torch.float64) for atoms in frames]
    with torch.no_grad():
        return potential(Batch.from_data_list(items)).numpy()


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.15, seed=seed)
    return atoms


def carbide(**kwargs) -> Atoms:
    return rattled(bulk("SiC", "zincblende", a=4.36, **kwargs))


def sheared() -> Atoms:
    """A skewed cell with atoms several cells away from their images."""
    atoms = carbide(cubic=True)
    atoms.set_cell(atoms.cell @ [[1, 0.4, -0.3], [0, 1, 0.7], [0, 0.1, 1.1]], scale_atoms=True)
    atoms.positions += np.random.default_rng(1).integers(-3, 4, (len(atoms), 3)) @ atoms.cell
    return atoms


def slab() -> Atoms:
    atoms = carbide(cubic=True)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    return atoms


def wire() -> Atoms:
    atoms = carbide(cubic=True)
    atoms.pbc = (False, True, False)  # the cell vectors of the open axes stay: they mean nothing
    return atoms


FRAMES = {
    "crystal": carbide(),
    "cubic": carbide(cubic=True),
    "sheared, outside its cell": sheared(),
    "one atom a cell": bulk("Si", "fcc", a=3.9),
    "cell smaller than the cutoff": Atoms("Si", cell=np.diag([2.1, 2.3, 9.0]), pbc=True),
    "slab": slab(),
    "wire": wire(),
    "molecule": Atoms("SiC2Si", rattled(bulk("Si", "diamond", 5.4, cubic=True)).positions[:4]),
    "single atom": Atoms("C"),
}
every_frame = pytest.mark.parametrize("atoms", FRAMES.values(), ids=FRAMES.keys())


def test_there_are_backbones():
    assert eipnn.representations.SchNet in BACKBONES


@every_frame
def test_features_have_the_stated_shape(potential, atoms):
    net = potential.representation
    features = net(Batch.from_data_list([net.inputs(atoms, torch.float64)]))
    assert features.shape == (len(atoms), net.dim)
    assert features.isfinite().all()


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
    before, after = (
        net(Batch.from_data_list([net.inputs(a, torch.float64)])) for a in (atoms, atoms[order])
    )
    torch.testing.assert_close(after, before[order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        energies(potential, atoms[order]), energies(potential, atoms), atol=1e-9
    )


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


def test_a_batch_equals_its_frames_one_by_one(potential):
    frames = list(FRAMES.values())
    alone = np.concatenate([energies(potential, atoms) for atoms in frames])
    np.testing.assert_allclose(energies(potential, *frames), alone, atol=1e-9)
    assert len(np.unique(alone.round(6))) == len(frames)


def test_atoms_out_of_reach_do_not_feel_each_other(potential):
    far = Atoms("SiCSi", [[0, 0, 0], [0, 0, CUTOFF + 0.01], [0, 0, 2 * CUTOFF + 0.02]])
    parts = energies(potential, Atoms("Si"), Atoms("C"), Atoms("Si"))
    np.testing.assert_allclose(energies(potential, far), parts.sum(), atol=1e-12)


def test_the_energy_is_smooth_at_the_cutoff(potential):
    def dimer(distance: float) -> float:
        return energies(potential, Atoms("SiC", [[0, 0, 0], [0, 0, distance]])).item()

    apart = dimer(CUTOFF + 1)
    assert abs(dimer(0.6 * CUTOFF) - apart) > 1e-3  # there is something to be smooth
    assert dimer(CUTOFF + 1e-9) == pytest.approx(apart, abs=1e-12)
    step = 1e-3
    inside = [dimer(CUTOFF - n * step) - apart for n in (1, 2)]
    steepest = max(abs(dimer(r) - dimer(r + step)) for r in np.linspace(0.4, 0.9, 30) * CUTOFF)
    assert abs(inside[0]) < 0.01 * steepest  # no jump
    assert abs(inside[1] - inside[0]) < 0.02 * steepest  # and no kink


@pytest.fixture
def calculator(potential, tmp_path) -> EIPNNCalculator:
    """The ASE calculator of a checkpoint that holds the potential, in float64."""
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    return EIPNNCalculator(file, dtype="float64")


@every_frame
def test_forces_are_the_slope_of_the_energy(potential, calculator, atoms):
    atoms = atoms.copy()
    atoms.calc = calculator
    forces = atoms.get_forces()
    assert forces.shape == (len(atoms), 3)
    np.testing.assert_allclose(forces.sum(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(
        forces, calculate_numerical_forces(atoms, eps=1e-4), atol=2e-6 * (1 + np.abs(forces).max())
    )
    if len(atoms) > 1:
        assert np.abs(forces).max() > 1e-3


@pytest.mark.parametrize(
    "name", ["crystal", "sheared, outside its cell", "cell smaller than the cutoff"]
)
def test_the_stress_is_the_slope_of_the_energy(potential, calculator, name):
    atoms = FRAMES[name].copy()
    atoms.calc = calculator
    stress = atoms.get_stress()
    assert np.abs(stress).max() > 1e-4
    np.testing.assert_allclose(stress, calculate_numerical_stress(atoms, eps=1e-5), atol=1e-7)


def test_forces_and_virials_of_a_batch_are_those_of_its_frames(potential):
    frames = [FRAMES[n] for n in ("crystal", "slab", "sheared, outside its cell", "single atom")]
    items = [potential.representation.inputs(atoms, torch.float64) for atoms in frames]
    energy, forces, virial = energy_forces_virial(potential, Batch.from_data_list(items), True)
    start = 0
    for k, (atoms, item) in enumerate(zip(frames, items, strict=True)):
        one = energy_forces_virial(potential, Batch.from_data_list([item]), True)
        torch.testing.assert_close(energy[k], one[0][0])
        torch.testing.assert_close(forces[start : start + len(atoms)], one[1])
        torch.testing.assert_close(virial[k], one[2][0])
        start += len(atoms)


def test_forces_turn_with_the_atoms(potential):
    atoms = FRAMES["cubic"]
    turn = ortho_group.rvs(3, random_state=5)
    turned = atoms.copy()
    turned.cell, turned.positions = atoms.cell.array @ turn, atoms.positions @ turn
    before, after = (
        energy_forces_virial(
            potential,
            Batch.from_data_list([potential.representation.inputs(a, torch.float64)]),
        )[1]
        for a in (atoms, turned)
    )
    np.testing.assert_allclose(after.numpy(), before.numpy() @ turn, atol=1e-9)


def test_a_checkpoint_of_plain_values_rebuilds_it(potential, tmp_path):
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    torch.load(file, weights_only=True)
    again = load(file).double()
    frames = list(FRAMES.values())
    np.testing.assert_allclose(energies(again, *frames), energies(potential, *frames), atol=1e-5)
    config = potential.representation.config()
    assert build_representation(config).config() == config


def test_float32_is_close(potential):
    atoms = FRAMES["cubic"]
    exact = energies(potential, atoms).item()
    single = potential.float()
    batch = Batch.from_data_list([single.representation.inputs(atoms)])
    assert single(batch).item() == pytest.approx(exact, rel=1e-5)
