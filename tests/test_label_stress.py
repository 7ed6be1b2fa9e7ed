"""Stress in the label store: its sign and size, and NaN where there is none."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.fd import calculate_numerical_stress
from ase.stress import voigt_6_to_full_3x3_stress
from label_calculators import PRESSURE

from eipnn.eips import EIP
from eipnn.labels import LabelStore, label_structures
from eipnn.structures import open_structures

SW = EIP("sw", "kim", "SW_StillingerWeber_1985_Si__MO_405512056662_005")
EMT = EIP("emt", "ase", "ase.calculators.emt.EMT")


def strained(crystal: Atoms, strain: list[list[float]], name: str) -> Atoms:
    """The crystal, each atom a little out of place, at x (1 + strain)."""
    atoms = crystal.copy()
    atoms.rattle(0.05, seed=0)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.info["config_id"] = name
    return atoms


@pytest.mark.parametrize(
    ("eip", "crystal"),
    [
        pytest.param(SW, bulk("Si", cubic=True), marks=pytest.mark.kim, id="SW"),
        pytest.param(EMT, bulk("Cu", cubic=True), id="EMT"),
    ],
)
def test_positive_under_tension_and_the_slope_of_the_energy(eip: EIP, crystal: Atoms, tmp_path: Path) -> None:
    sheared = [[0.02, 0.06, -0.04], [0, -0.01, 0.02], [0, 0, 0.01]]
    frames = [
        strained(crystal, strain, name)
        for name, strain in {"stretched": 0.05 * np.eye(3), "compressed": -0.05 * np.eye(3), "sheared": sheared}.items()
    ]
    store = label_structures(frames, [eip], tmp_path / "store")
    found = store.stress_of(store.ids, ["emt" if eip is EMT else "sw"])[:, 0]
    assert found[0, :3].min() > 0.02
    assert found[1, :3].max() < -0.02
    assert np.ptp(found[2, 3:]) > 0.02
    for atoms, stress in zip(frames, found, strict=True):
        atoms.wrap()
        atoms.calc = eip.calculator().calculator
        np.testing.assert_array_equal(stress, atoms.get_stress())
        slope = calculate_numerical_stress(atoms, eps=1e-5)
        np.testing.assert_allclose(stress, slope, atol=1e-6)


def test_clusters_and_slabs_have_none(tmp_path: Path) -> None:
    slab = fcc111("Cu", (1, 1, 2), vacuum=8)
    closed = slab.copy()
    closed.pbc = True
    sheet = Atoms("Cu", cell=[3, 3, 3], pbc=[True, False, True])
    frames = [slab, closed, Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]]), sheet]
    for name, atoms in zip("abcd", frames, strict=True):
        atoms.info["config_id"] = name
    store = label_structures(frames, [EMT], tmp_path / "store")
    assert np.isfinite(store.energies).all()
    assert np.isfinite(store.stress).tolist() == [[[k == 1] * 6] for k in range(4)]


@pytest.mark.parametrize("how", ["voigt", "full", "raises", "not implemented", "absent", "None", "NaN", "short"])
def test_an_eip_without_stress_still_gives_energy_and_forces(how: str, tmp_path: Path) -> None:
    frames = [
        Atoms("Cu2", [[0, 0, 0], [0, 0, 2.5]], cell=[4, 4, 4], pbc=pbc, info={"config_id": str(pbc)})
        for pbc in (True, False)
    ]
    stiff = EIP("pressed", "ase", "label_calculators.Pressed", {"how": how})
    store = label_structures(frames, [stiff, EIP("springs", "ase", "label_calculators.Springs")], tmp_path / "store")
    assert not (tmp_path / "store" / "failures.csv").read_text().splitlines()[1:]
    np.testing.assert_array_equal(store.energies[:, 0], store.energies[:, 1])
    forces = store.forces_of(store.ids, store.eips)
    np.testing.assert_array_equal(forces[:, 0], forces[:, 1])
    expected = 2 * np.array(PRESSURE) if how in ("voigt", "full") else np.full(6, np.nan)
    np.testing.assert_array_equal(store.stress[0], [expected, np.full(6, np.nan)])
    assert np.isnan(store.stress[1]).all()


@pytest.mark.parametrize(("name", "least"), [("si_mini", 0.35), ("al_mini", 0.85), ("agau_mini", 0.95)])
def test_dft_and_the_eips_have_one_sign(name: str, least: float) -> None:
    """Where a frame has a DFT stress, and in no other, each EIP has one too, and both go together."""
    dft = open_structures(f"bundled:{name}/dft.extxyz")
    store = LabelStore.open(f"bundled:{name}/labels")
    stress = voigt_6_to_full_3x3_stress(store.stress_of(dft.ids, store.eips))
    known = np.isfinite(dft.stresses).all(axis=(1, 2))
    assert known.sum() > 300
    np.testing.assert_array_equal(np.isfinite(stress), np.broadcast_to(known[:, None, None, None], stress.shape))
    for column in range(len(store.eips)):
        assert np.corrcoef(stress[known, column].ravel(), dft.stresses[known].ravel())[0, 1] > least
