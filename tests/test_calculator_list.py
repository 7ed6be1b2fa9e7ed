"""The neighbour list that the ASE calculator keeps between steps."""

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.geometry import find_mic
from tiny import best
from torch_geometric.data import Data

from eipnn import EIPNNCalculator
from eipnn.inputs import Graph
from eipnn.neighbours import NeighbourList
from eipnn.potential import Potential

MOVES: dict[str, Callable[[Atoms, np.random.Generator], object]] = {
    "shake": lambda a, rng: a.rattle(0.05, rng=rng),
    "half the skin": lambda a, rng: a.positions.__setitem__(0, a.positions[0] + [0.5, 0, 0]),
    "far": lambda a, rng: a.positions.__setitem__(-1, a.positions[-1] + rng.normal(size=3)),
    "drift": lambda a, rng: a.translate([0.2, 0.1, -0.1]),
    "wrap": lambda a, rng: a.wrap(),
    "images": lambda a, rng: a.translate(rng.integers(-50, 50, (len(a), 3)) * a.pbc @ a.cell.array),
    "strain": lambda a, rng: a.set_cell(a.cell * (1 + 0.01 * rng.normal()), scale_atoms=True),
    "shear": lambda a, rng: a.set_cell(
        a.cell @ (np.eye(3) + np.triu(0.1 * rng.normal(size=(3, 3)), 1)), scale_atoms=True
    ),
    "cell alone": lambda a, rng: a.set_cell(a.cell * 1.02),
    "element": lambda a, rng: a.symbols.__setitem__(0, rng.choice(["Cu", "Au"])),
    "boundary": lambda a, rng: (a.wrap(), a.set_pbc(a.cell.any(1) & rng.integers(0, 2, 3, dtype=bool))),
    "one less": lambda a, rng: a.pop() if len(a) > 2 else None,
    "one more": lambda a, rng: a.append("Cu"),
}


@pytest.fixture(scope="module")
def checkpoint(trained) -> str:
    return best(trained["Finetune"])


@pytest.mark.parametrize("seed", [2, 3])
def test_results_are_those_of_a_new_list(checkpoint, seed):
    """One calculator, three structures in turn, whatever happens to them."""
    rng = np.random.default_rng(seed)
    calculator = EIPNNCalculator(checkpoint, dtype="float64")
    potential = Potential.load(checkpoint).double()
    structures = [bulk("Cu", cubic=True), fcc111("Au", (1, 2, 2), vacuum=4.0), molecule("H2O")]
    structures[-1].symbols[:] = "Cu"
    done = dict.fromkeys(MOVES, 0)
    for atoms in structures:
        atoms.calc = calculator
    for _ in range(120):
        atoms = structures[rng.choice(3, p=[0.8, 0.1, 0.1])]
        name = rng.choice(list(MOVES), p=np.array([12] + [1] * (len(MOVES) - 1)) / (11 + len(MOVES)))
        MOVES[name](atoms, rng)
        done[name] += 1
        found = potential.predict(potential.graph([atoms]), ("forces", "stress"))
        assert atoms.get_potential_energy() == pytest.approx(found.energy.item(), abs=1e-10), name
        np.testing.assert_allclose(atoms.get_forces(), found.forces, atol=1e-10, err_msg=name)
        if atoms.pbc.all():
            stress = found.stress[0].numpy()
            np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, atol=1e-10, err_msg=name)
    assert min(done.values()) > 0


def test_the_list_is_kept_until_atoms_have_moved():
    """The order of pairs tells: of a list that is made anew it depends on which atoms stand in which corner."""
    atoms = bulk("Si", cubic=True).repeat(2)
    kept = NeighbourList(5.0, skin=1.0)
    first, _ = kept.vectors(atoms)
    new_ones = 0
    for seed in range(50):
        moved = atoms.copy()
        moved.rattle(0.05, seed=seed)  # no pair of this crystal is near 5 A
        index, vectors = kept.vectors(moved)
        np.testing.assert_array_equal(index, first)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), moved_distances(moved, index), atol=1e-12)
        new_ones += not np.array_equal(NeighbourList(5.0, skin=1.0).vectors(moved)[0], first)
    assert new_ones > 40
    atoms.positions[0] += 0.6
    assert not np.array_equal(kept.vectors(atoms)[0], first)


def moved_distances(atoms: Atoms, index: np.ndarray) -> np.ndarray:
    i, j = index
    d = atoms.positions[j] - atoms.positions[i]
    return find_mic(d, atoms.cell, atoms.pbc)[1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["deepcopy", "pickle"])
def test_a_calculator_can_be_copied(checkpoint, copied):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = EIPNNCalculator(checkpoint)
    energy = atoms.get_potential_energy()
    twin = atoms.copy()
    twin.calc = copied(atoms.calc)
    twin.calc.reset()
    assert twin.get_potential_energy() == pytest.approx(energy, abs=1e-6)


class Shorter(Graph):
    """Inputs of a network of one's own: no pairs beyond 2.5 A."""

    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        return Graph(2.5)(atoms, dtype)


def test_a_network_with_inputs_of_its_own_has_them(checkpoint, monkeypatch):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    atoms.calc = EIPNNCalculator(checkpoint, dtype="float64")
    usual = atoms.get_potential_energy()
    network = type(atoms.calc.potential.representation)
    monkeypatch.setattr(network, "inputs", property(lambda self: Shorter(self.cutoff)))
    atoms.calc.reset()
    expected = atoms.calc.potential.predict(atoms.calc.potential.graph([atoms]), ()).energy.item()
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-10)
    assert abs(expected - usual) > 1e-3
