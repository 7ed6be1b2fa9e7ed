"""DFT forces and stress in structure files: keys, shapes, signs, units, and what is missing."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.eips import DFT
from eipnn.stages.source import EnergyZero, Source, SourceConfig
from eipnn.structures import Split, StructureError, open_structures, read_structures, write_split

VOIGT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
TENSOR = [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]


def copper(strain: float = 0.0, seed: int = 0) -> Atoms:
    """With energy, forces and stress of EMT."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array * (1 + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    labels = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def read(folder: Path, *frames: Atoms, name: str = "a.traj", **options: str) -> list[Atoms]:
    write(folder / name, list(frames))
    return read_structures(folder / name, **options)


def with_info(atoms: Atoms | None = None, **info: object) -> Atoms:
    atoms = (atoms or bulk("Cu")).copy()
    atoms.info.update(info)
    return atoms


def stress(atoms: Atoms) -> np.ndarray | None:
    return atoms.calc.results.get("stress") if atoms.calc else None


@settings(max_examples=30)
@given(
    cell=st.lists(st.floats(-0.5, 0.5), min_size=9, max_size=9),
    given_stress=st.lists(st.floats(-2, 2), min_size=6, max_size=6),
    virial=st.sampled_from(["virial", "virials", "Virial", "REF_virials", "dft_virial", "reference_virial"]),
    plain=st.sampled_from(["stress", "Stress", "REF_stress", "dft_stress", "stress_reference"]),
    forces=st.sampled_from(["forces", "dft_force", "REF_forces", "forces_reference", "Force"]),
)
def test_virials_are_minus_stress_times_volume(tmp_path_factory, cell, given_stress, virial, plain, forces):
    folder = tmp_path_factory.mktemp("virials")
    atoms = Atoms("Cu2", [[0, 0, 0], [2.0, 2.0, 2.0]], cell=4 * np.eye(3) + np.reshape(cell, (3, 3)), pbc=True)
    labelled = atoms.copy()
    labelled.calc = SinglePointCalculator(atoms, stress=np.array(given_stress))
    tensor = labelled.get_stress(voigt=False)
    one, other = with_info(atoms, **{virial: -tensor * atoms.get_volume()}), with_info(atoms, **{plain: tensor})
    both = with_info(one, **other.info)
    for frame in (one, other, both):
        frame.arrays[forces] = np.ones((2, 3))
    for name in ("a.traj", "a.extxyz"):
        for found in read(folder, labelled, one, other, both, name=name):
            np.testing.assert_allclose(stress(found), given_stress, atol=2e-8)
    assert (found.calc.results["forces"] == 1).all()


@pytest.mark.parametrize("strain", [-0.03, 0.03])
@pytest.mark.parametrize("key", ["stress", "virial"])
def test_sign_and_unit_are_those_of_the_energy_by_the_strain(tmp_path, strain, key):
    """Against finite differences of the energy: positive under tension."""
    atoms, step = copper(strain), 1e-4
    numeric = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        energies = []
        for sign in (1, -1):
            moved = atoms.copy()
            deformation = np.eye(3)
            deformation[i, j] += sign * step / 2
            deformation[j, i] += sign * step / 2
            moved.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
            moved.calc = EMT()
            energies.append(moved.get_potential_energy())
        numeric[i, j] = (energies[0] - energies[1]) / (2 * step)  # eV
    assert np.sign(np.trace(numeric)) == np.sign(strain)
    value = {"stress": numeric / atoms.get_volume(), "virial": -numeric}[key]
    (found,) = read(tmp_path, with_info(atoms, **{key: value}))
    np.testing.assert_allclose(stress(found), atoms.get_stress(), atol=1e-6)
    np.testing.assert_allclose(open_structures(tmp_path / "a.traj").stresses[0], numeric / atoms.get_volume())


@pytest.mark.parametrize("shaped", [VOIGT, TENSOR, np.ravel(TENSOR), [VOIGT], [TENSOR]], ids=np.shape)
def test_shapes_of_a_stress(tmp_path, shaped):
    (found,) = read(tmp_path, with_info(stress=np.array(shaped)))
    assert stress(found).tolist() == VOIGT
    (found,) = read(tmp_path, with_info(virial=np.array(shaped)))
    np.testing.assert_allclose(stress(found), np.divide(VOIGT, -bulk("Cu").get_volume()))


def test_rounding_is_no_asymmetry(tmp_path):
    tensor = np.array(TENSOR)
    tensor[0, 1] += 0.02
    (found,) = read(tmp_path, with_info(stress=tensor))
    np.testing.assert_allclose(stress(found), [1, 2, 3, 4, 5, 6.01])


SLAB = fcc111("Cu", (1, 1, 2), vacuum=5.0)
TWISTED = np.add(TENSOR, [[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])
BAD = {
    "five numbers": (with_info(stress=np.ones(5)), r"stress has the shape \(5,\), not \(6,\) or \(9,\) or \(3, 3\)"),
    "two rows": (with_info(virials=np.ones((2, 3))), r"the virial 'virials' has the shape \(2, 3\)"),
    "text": (with_info(REF_stress="none yet"), "stress is 'none yet', not a number; correct the file or name"),
    "asymmetric": (with_info(stress=TWISTED), "stress is not symmetric; correct or remove it"),
    "asymmetric virial": (with_info(virial=10 * TWISTED), "the virial 'virial' is not symmetric"),
    "nan": (with_info(stress=np.full(6, np.nan)), "stress is NaN or infinite; correct or remove this frame"),
    "slab": (with_info(SLAB, stress=np.ones(6)), "stress on an open axis has no meaning; remove it, or set pbc to"),
    "cluster": (with_info(Atoms("Cu"), virial=np.eye(3)), "the virial 'virial' on an open axis has no meaning"),
    "both": (with_info(stress=np.ones(6), virial=np.eye(3)), "'stress' and 'virial' give different stress; name the"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_stress_is_named(tmp_path, case):
    bad, message = BAD[case]
    with pytest.raises(StructureError, match=message) as error:
        read(tmp_path, bulk("Cu"), bad)
    assert "a.traj: frame 1 (a_000001): " in str(error.value)
    assert read_structures(tmp_path / "a.traj", labels=False)[1].calc is None


@pytest.mark.parametrize("atoms", [SLAB, Atoms("Cu")], ids=["slab", "atom without a cell"])
@pytest.mark.parametrize("key", ["stress", "virial"])
def test_zeros_on_an_open_axis_stand_for_none(tmp_path, atoms, key):
    (found,) = read(tmp_path, with_info(atoms, **{key: np.zeros((3, 3)), "energy": -1.0}), stress_key=key)
    assert stress(found) is None
    (found,) = read(tmp_path, with_info(**{key: np.zeros((3, 3))}))
    assert stress(found).tolist() == [0] * 6  # a cell may be at rest


@pytest.mark.parametrize("forces", [np.ones((1, 3)), np.ones((2, 4)), np.full((2, 3), np.nan)])
def test_bad_forces_are_named(tmp_path, forces):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)
    atoms.calc.results["forces"] = forces
    with pytest.raises(StructureError, match=r"frame 0 .*: forces (has the shape|is NaN or infinite)"):
        read(tmp_path, atoms)


def test_what_is_missing_is_unknown_and_never_zero(tmp_path):
    frames = [copper(seed=k) for k in range(4)]
    del frames[1].calc.results["forces"], frames[2].calc.results["stress"]
    frames[3].calc = None
    read(tmp_path, *frames)
    store = open_structures(tmp_path / "a.traj")
    labelled = {name: known.tolist() for name, known in store.labelled().items()}
    assert labelled == {
        "energies": [True, True, True, False],
        "forces": [True, False, True, False],
        "stress": [True, True, False, False],
    }
    assert np.isnan(store.forces[4:8]).all()
    assert np.isnan(store.stresses[2]).all()
    assert np.isfinite(store.take(np.array([0, 2])).forces).all()
    assert {name: known.tolist() for name, known in store[:0].labelled().items()} == {key: [] for key in labelled}


def test_stress_by_name(tmp_path):
    atoms = with_info(stress=np.ones(6), my_stress=VOIGT, my_virial=np.eye(3))
    assert stress(*read(tmp_path, atoms)).tolist() == [1] * 6
    assert stress(*read(tmp_path, atoms, stress_key="my_stress")).tolist() == VOIGT
    by_virial = stress(*read(tmp_path, atoms, stress_key="MY_virial"))
    np.testing.assert_allclose(by_virial, np.array([1, 1, 1, 0, 0, 0]) / -atoms.get_volume())
    with pytest.raises(
        StructureError, match=r"no frame has the stress key 'x'; the frames carry my_str.*, my_vir.*, str"
    ):
        read(tmp_path, atoms, stress_key="x")


def test_named_keys_reach_the_training_labels(tmp_path):
    """A file with the results of a model beside those of DFT, as ASE and MACE leave it."""
    frames = []
    for k in range(6):
        atoms, model = copper(seed=k), copper(0.02, seed=k)
        atoms.info |= {
            "REF_energy": atoms.get_potential_energy(),
            "REF_virials": -atoms.get_stress(voigt=False) * atoms.get_volume(),
        }
        atoms.arrays["REF_forces"] = atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, **model.calc.results)
        atoms.info["config_id"] = str(k)
        frames.append(atoms)
    write(tmp_path / "dft.extxyz", frames)
    write_split(Split(("0", "1", "2", "3"), ("4",), ("5",), ()), tmp_path / "split.csv")
    config = SourceConfig(str(tmp_path / "dft.extxyz"), str(tmp_path / "split.csv"), EnergyZero("none"))
    with pytest.raises(StructureError, match="give different energy; name the one to use with energy_key"):
        Source(config)
    config.energy_key = "REF_energy"
    with pytest.raises(StructureError, match="give different forces; name the one to use with forces_key"):
        Source(config)
    config.forces_key = "REF_forces"
    with pytest.raises(StructureError, match="give different stress; name the one to use with stress_key"):
        Source(config)
    config.stress_key = "REF_virials"
    source = Source(config)
    targets = source.targets(source.structures(["1"]), [DFT], ("energy", "forces", "stress"))
    np.testing.assert_allclose(targets["energy"], [[copper(seed=1).get_potential_energy()]], atol=1e-7)
    np.testing.assert_allclose(targets["forces"][:, 0], copper(seed=1).get_forces(), atol=1e-7)
    np.testing.assert_allclose(targets["stress"][0, 0], copper(seed=1).get_stress(), atol=1e-7)
