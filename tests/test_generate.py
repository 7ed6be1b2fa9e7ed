"""Generated structures: distances, extents, the same for the same recipe."""

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bcc110, bulk, fcc111, molecule
from ase.geometry import get_distances
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.generate.distance import covalent_rule, parents_rule, uniform_rule
from eipnn.generate.kinds import PICKS, make, strained, supercell
from eipnn.generate.parents import Frame, Prototype, digest, make_prototypes, widest_gap
from eipnn.generate.recipe import KINDS, Recipe
from eipnn.structures.store import checksum

EMT_EIP = EIP("emt", "ase", "ase.calculators.emt.EMT")
STATIC = KINDS[:3]


def shortest(atoms: Atoms) -> float:
    """The shortest distance by brute force over all images that can matter."""
    images = atoms.repeat([5 if periodic else 1 for periodic in atoms.pbc])
    middle = atoms.positions + sum(2 * v for v, p in zip(atoms.cell, atoms.pbc, strict=True) if p)
    distances = get_distances(middle, images.positions)[1]
    return float(distances[distances > 1e-8].min())


def recipe(**changes) -> Recipe:
    """Two aluminium frames, one of them sheared, and one cluster."""
    fcc = bulk("Al", "fcc", 4.05)
    sheared = bulk("Al", "bcc", 3.2, cubic=True)
    sheared.set_cell(sheared.cell.array @ [[1, 0.3, 0], [0, 1, 0.2], [0, 0, 1]], scale_atoms=True)
    cluster = Atoms("Al3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.3, 0]])
    frames = [Frame(name, a) for name, a in (("fcc", fcc), ("sheared", sheared), ("al3", cluster))]
    md = {"eip": EMT_EIP, "temperatures": (300, 900), "timestep": 4, "md_steps": 10}
    own = Recipe(frames, (), covalent_rule(), max_atoms=8, **md)
    return replace(own, **changes)


@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(STATIC),
    a=st.floats(2.7, 3.5),
    shear=st.floats(-0.4, 0.4),
    rattle=st.floats(0.05, 1.5),
)
@settings(max_examples=60)
def test_no_pair_is_closer_than_allowed(seed, kind, a, shear, rattle) -> None:
    atoms = bulk("Al", "bcc", a, cubic=True)
    atoms.set_cell(atoms.cell.array @ [[1, shear, 0], [0, 1, 0], [0, 0, 1]], scale_atoms=True)
    own = recipe(frames=[Frame("x", atoms)], seed=seed, rattle_max=rattle, rule=uniform_rule(2.0))
    (made,) = make(own, kind, [seed % 1000])
    assert shortest(made) >= 2.0 - 1e-9
    assert len(made) <= 8
    assert made.info["parent"] == "x"
    assert made.info["parent_digest"] == digest(checksum(atoms))
    assert made.info["config_id"] == f"{kind}-{seed % 1000:06d}"


def test_the_density_is_not_that_of_vacuum() -> None:
    crystal, slab = bulk("Al", cubic=True), fcc111("Al", (1, 1, 3), vacuum=6, periodic=True)
    molecule = Atoms("Al2", [[0.1, 0, 0], [2.6, 0, 0]], cell=[12, 12, 12], pbc=True)
    frames = [Frame(name, atoms) for name, atoms in (("c", crystal), ("s", slab), ("m", molecule))]
    assert [frame.dense for frame in frames] == [True, False, False]
    assert widest_gap(slab) == pytest.approx(12)
    assert widest_gap(bulk("Al")) == pytest.approx(4.05 / 3**0.5)
    assert Frame("He", bulk("He", "fcc", a=4.24, cubic=True)).dense
    assert Frame("Cs", bulk("Cs", "bcc", a=6.14)).dense
    assert not Frame("K", bcc110("K", (1, 1, 4), a=5.33, vacuum=6, periodic=True)).dense
    assert not Frame("open", Atoms("Al2", [[0, 0, 0], [2.6, 0, 0]])).dense
    own = recipe(frames=frames)
    assert own.parents("packed")[0] == frames[:1]
    assert own.parents("rattle")[0] == frames
    (found, *_) = make_prototypes(["Al"], ["fcc"], None, frames, 8)
    assert found.shortest() == pytest.approx(4.05 / 2**0.5)
    with pytest.raises(InputError, match="hold no vacuum"):
        recipe(frames=frames[1:]).parents("packed")


@pytest.mark.parametrize("kind", KINDS)
def test_a_structure_depends_on_the_recipe_and_its_number_alone(kind: str) -> None:
    own = recipe()
    together = make(own, kind, [0, 1, 2, 3])
    (alone,) = make(own, kind, [2])
    assert alone == together[2]
    assert {k: str(v) for k, v in alone.info.items()} == {k: str(v) for k, v in together[2].info.items()}
    (other,) = make(replace(own, seed=1), kind, [2])
    assert len(other) != len(alone) or not np.allclose(other.positions, alone.positions)


def test_kinds_have_random_numbers_of_their_own() -> None:
    draws = [recipe().rng(kind, number).random() for kind in KINDS for number in range(3)]
    assert len(set(draws)) == len(draws)


@given(seed=st.integers(0, 10**6), largest=st.floats(0.01, 0.3))
def test_strain_is_within_its_bounds(seed: int, largest: float) -> None:
    parent = bulk("Al", "fcc", 4.05, cubic=True)
    rng = np.random.default_rng(seed)
    made = strained(rng, parent.copy(), largest, (0.9, 1.2))
    ratio = made.get_volume() / parent.get_volume()
    assert 0.9 <= ratio <= 1.2
    assert made.info["volume_scale"] == pytest.approx(ratio, abs=1e-6)
    deformation = np.linalg.solve(parent.cell.array, made.cell.array)
    np.testing.assert_allclose(deformation, deformation.T, atol=1e-12)  # no rotation
    strain = made.info["strain"]
    assert np.abs(strain).max() <= largest + 1e-6
    xx, yy, zz, yz, xz, xy = strain
    shape = np.identity(3) + np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    np.testing.assert_allclose(deformation, shape * (ratio / np.linalg.det(shape)) ** (1 / 3), atol=1e-5)
    np.testing.assert_allclose(
        made.cell.scaled_positions(made.positions),
        parent.cell.scaled_positions(parent.positions),
        atol=1e-12,
    )


def test_rattle_has_the_amplitude_it_tells() -> None:
    parent = bulk("Al", "fcc", 4.05, cubic=True).repeat(5)
    own = recipe(frames=[Frame("big", parent)], rattle_max=0.2)
    for made in make(own, "rattle", list(range(5))):
        moved = made.positions - parent.positions
        assert moved.std() == pytest.approx(made.info["amplitude"], rel=0.1)
        assert made.info["amplitude"] <= 0.2


def test_packings_keep_elements_and_density() -> None:
    parent = bulk("NaCl", "rocksalt", 5.64)
    own = recipe(frames=[Frame("salt", parent)], volumes=(0.95, 1.3))
    own = replace(own, rule=parents_rule([parent]))
    for made in make(own, "packed", list(range(10))):
        counts = [made.symbols.count(symbol) for symbol in ("Na", "Cl")]
        assert counts[0] == counts[1]
        ratio = made.get_volume() / len(made) / (parent.get_volume() / 2)
        assert 0.95 <= ratio <= 1.3
        assert made.pbc.all()
        assert not own.rule.broken(made)


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_every_periodicity(pbc) -> None:
    atoms = bulk("Al", "fcc", 4.05, cubic=True)
    atoms.pbc = pbc
    own = recipe(frames=[Frame("x", atoms)])
    for kind in ("rattle", "strain", "md"):
        for made in make(own, kind, [0, 1]):
            assert (made.pbc == atoms.pbc).all()
            assert shortest(made) >= own.rule.shortest[13, 13] - 1e-9
            assert len(made) == 4 or np.any(pbc)


def test_packing_needs_a_density() -> None:
    own = recipe(frames=[Frame("al2", Atoms("Al2", [[0, 0, 0], [0, 0, 2.5]]))])
    with pytest.raises(InputError, match=r"packed: .*periodic along all axes.*--elements"):
        make(own, "packed", [0])


@given(n=st.integers(1, 5), largest=st.integers(2, 40), seed=st.integers(0, 1000))
def test_supercells(n: int, largest: int, seed: int) -> None:
    atoms = Atoms(f"Al{n}", np.zeros((n, 3)), cell=[3, 4, 20], pbc=(True, True, False))
    made = supercell(np.random.default_rng(seed), atoms, largest)
    assert len(made) <= max(largest, n)
    assert len(made) >= 2
    assert made.cell[2, 2] == 20


def test_the_rule_of_the_parents() -> None:
    far = Atoms("AuAu", [[0, 0, 0], [0, 0, 8.0]])
    rule = parents_rule([bulk("NaCl", "rocksalt", 5.64), far]).shortest
    assert rule[11, 17] == rule[17, 11] == pytest.approx(0.9 * 2.82)
    assert rule[11, 11] == pytest.approx(0.9 * 5.64 / 2**0.5)
    assert rule[79, 79] == pytest.approx(0.8 * 2 * 1.36)  # too far apart to be a pair
    assert rule[79, 11] == pytest.approx(0.8 * (1.36 + 1.66))
    assert parents_rule([bulk("Al", "fcc", 4.05)], 2.5).shortest[13, 13] == pytest.approx(2.25)
    one = bulk("Al", "sc", 2.5)  # its only neighbours are its own images
    assert parents_rule([one]).shortest[13, 13] == pytest.approx(2.25)
    assert uniform_rule(2.6).broken(one)
    assert not uniform_rule(2.4).broken(one)


@pytest.mark.parametrize(("structure", "neighbours"), [("fcc", 12), ("bcc", 8), ("hcp", 12), ("sc", 6), ("diamond", 4)])
def test_prototypes(structure: str, neighbours: int) -> None:
    (small, *_) = make_prototypes(["Al"], [structure], 4.05 if structure == "fcc" else None, [], 32)
    atoms = small.draw(np.random.default_rng(0))
    assert shortest(atoms) == pytest.approx(small.shortest())
    bonds = neighbor_list("i", atoms, 1.05 * small.shortest())
    assert (np.bincount(bonds) == neighbours).all()
    # Pauling's rule from 2.86 A at coordination 12
    assert small.shortest() == pytest.approx(2.8638 - 0.6 * np.log10(12 / neighbours), abs=1e-3)


def test_the_density_of_the_frames_scales_prototypes() -> None:
    frames = [Frame(str(a), bulk("Si", "diamond", a)) for a in (5.3, 5.5, 5.6)]
    (small, *_) = make_prototypes(["Si"], ["diamond"], None, frames, 32)
    assert small.draw(np.random.default_rng(0)).cell.lengths() == pytest.approx([5.5] * 3)
    own, *_ = make_prototypes(["Si"], [], None, [], 32)
    assert own.structure == "diamond"  # first by default


def test_alloys_have_all_compositions() -> None:
    crystal = Prototype("fcc", (1, 1, 1), {"Ag": 2.89, "Au": 2.88})
    rng = np.random.default_rng(0)
    counts = np.bincount([crystal.draw(rng).symbols.count("Ag") for _ in range(500)], minlength=5)
    assert (np.abs(counts - 100) < 40).all()


def test_errors_name_kind_parent_and_mend() -> None:
    with pytest.raises(InputError, match=r"rattle: parent (fcc|sheared|al3): .*--min-distance"):
        make(recipe(rule=uniform_rule(4.5)), "rattle", [0])
    with pytest.raises(InputError, match=r"Mn: the crystal of the element .*--lattice-constant"):
        make_prototypes(["Mn"], [], None, [], 32)
    with pytest.raises(InputError, match="'Xx' is no chemical symbol"):
        make_prototypes(["Xx"], [], None, [], 32)
    salt = recipe(frames=[Frame("salt", bulk("NaCl", "rocksalt", 5.64))])
    with pytest.raises(InputError, match=r"md: parent salt: .*last: emt: .*--eip"):
        make(salt, "md", [0])


def test_dynamics_under_emt() -> None:
    own = recipe(frames=[Frame("fcc", bulk("Al", "fcc", 4.05, cubic=True))])
    frames = make(own, "md", list(range(PICKS)))
    times = [atoms.info["time"] for atoms in frames]
    assert min(np.diff([0, *times])) >= 10 * 4.0
    assert len({atoms.info["temperature"] for atoms in frames}) == 1
    assert 300 <= frames[0].info["temperature"] <= 900
    moved = np.abs(frames[0].positions - frames[-1].positions).max()
    assert moved > 0.01
    scaled = frames[-1].get_scaled_positions(wrap=False)
    assert (scaled > -1e-9).all()
    assert (scaled < 1 + 1e-9).all()


def test_free_molecules_move_in_dynamics() -> None:
    own = recipe(frames=[Frame("o2", molecule("O2"))])
    first, *_, last = make(own, "md", list(range(PICKS)))
    assert not np.allclose(first.positions, last.positions)
