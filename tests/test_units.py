"""Wrong units are named, with and without labels, whatever the zero; right ones are not spoken of."""

from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree, Rydberg, kcal, kJ, mol

from eipnn.labels import LabelStore
from eipnn.structures import energy, read_structures
from eipnn.units import (
    References,
    energy_warning,
    force_warning,
    label_references,
    likely,
    sample,
    stress_warning,
    yardstick_references,
    zeros_warning,
)
from eipnn.yardstick import STRETCHES, yardstick

SETS = ("si_mini", "al_mini", "agau_mini")
BOHR = 0.529177210903
ENERGIES = {
    "Hartree?": 1 / Hartree,
    "Rydberg": 1 / Rydberg,
    "kcal/mol": mol / kcal,
    "kJ/mol": mol / kJ,
    "meV?": 1000.0,
}
FORCES = {
    "Hartree/bohr": BOHR / Hartree,
    "Rydberg/bohr": BOHR / Rydberg,
    "kcal/mol/A": mol / kcal,
    "kJ/mol/A": mol / kJ,
    "meV/A?": 1000.0,
}


def with_energies(frames: list[Atoms], energies: np.ndarray, force: float = 1.0) -> list[Atoms]:
    """Copies with these energies, and the forces times a factor."""
    copies = []
    for atoms, value in zip(frames, energies, strict=True):
        copy = atoms.copy()
        forces = atoms.calc.results["forces"] * force
        copy.calc = SinglePointCalculator(copy, energy=value, forces=forces)
        copies.append(copy)
    return copies


@pytest.fixture(scope="module", params=SETS)
def frames(request) -> list[Atoms]:
    return sample(read_structures(f"bundled:{request.param}/dft.extxyz"))


@pytest.fixture(scope="module", params=["EIPs", "no labels"])
def references(request, frames) -> References:
    if request.param == "no labels":
        return yardstick_references(frames)
    store = next(s for s in map(_store, SETS) if frames[0].info["config_id"] in s.ids)
    return label_references(frames, store, store.eips)


def _store(name: str) -> LabelStore:
    return LabelStore.open(f"bundled:{name}/labels")


@pytest.mark.parametrize("zero", [0.0, -7600.0], ids=["free atoms", "all-electron totals"])
def test_units_of_energy_on_the_bundled_sets(frames, references, zero):
    n_atoms = np.array([len(atoms) for atoms in frames])
    totals = np.array([energy(atoms) for atoms in frames]) + zero * n_atoms

    def said(energies: np.ndarray) -> str | None:
        return energy_warning(with_energies(frames, energies), references, "my.extxyz")

    assert said(totals) is None
    for unit, factor in ENERGIES.items():
        text = said(totals * factor)
        assert text is not None, unit
        assert unit.strip("?") in text
        assert text.startswith("my.extxyz: the energies vary")
        assert "Total energies in eV are due" in text
        assert "per atom" not in text
    text = said(totals / n_atoms)
    assert text is not None
    assert "do not grow with the number of atoms: per atom? Total" in text
    text = said(totals / n_atoms / Hartree)
    assert text is not None
    assert "Hartree" in text
    assert "per atom?" in text


def test_units_of_forces_on_the_bundled_sets(frames, references):
    energies = np.array([energy(atoms) for atoms in frames])

    def said(factor: float) -> str | None:
        return force_warning(with_energies(frames, energies, factor), references, "my.extxyz")

    assert said(1.0) is None
    for unit, factor in FORCES.items():
        text = said(factor)
        assert text is not None, unit
        assert unit.strip("?") in text
        assert "eV/A are due" in text
    text = said(-1.0)
    assert (text is not None) == references.signs
    if text:
        assert "my.extxyz: the forces point against those of the EIPs: gradients?" in text


STRESSES = {
    "GPa": 160.21766,
    "kbar": 1602.1766,
    "MPa": 160217.66,
    "Hartree/bohr^3": BOHR**3 / Hartree,
    "Rydberg/bohr^3": BOHR**3 / Rydberg,
}


def stress_said(frames: list[Atoms], factor: float, power: int = 0, force: float = 1.0) -> str:
    """What is said of the stress times a factor and the volume to a power, beside the forces times `force`."""
    copies = []
    for atoms in list(frames)[::3] if len(frames) > 25 else frames:
        if "stress" in atoms.calc.results:
            copies.append(atoms.copy())
            stress = atoms.calc.results["stress"] * factor * atoms.get_volume() ** power
            copies[-1].calc = SinglePointCalculator(atoms, forces=atoms.calc.results["forces"] * force, stress=stress)
    return stress_warning(copies, "my.extxyz") or ""


def test_units_and_signs_of_stress_on_the_bundled_sets(frames):
    assert stress_said(frames, 1.0) == ""
    for unit, factor in STRESSES.items():
        text = stress_said(frames, factor)
        assert text.startswith("my.extxyz: the stress is "), unit
        assert unit in text
        assert "eV/A^3, positive under tension, are due; convert the file" in text
        assert "under pressure" not in text
    assert "what goes with the forces: positive under pressure? eV" in stress_said(frames, -1.0)
    assert "kbar" in (text := stress_said(frames, -STRESSES["kbar"]))  # as VASP prints it
    assert "positive under pressure?" in text
    assert "virials" in stress_said(frames, -1.0, 1)
    assert "a stress under a key of virials" in stress_said(frames, -1.0, -1)
    assert stress_said(frames, 1.0, force=-1.0).endswith(stress_said(frames, -1.0)[-60:])  # gradients for forces
    assert stress_said(frames, 1.0, force=FORCES["kcal/mol/A"]) == ""  # said of the forces


def test_a_perfect_crystal_says_nothing_of_its_stress():
    frames = [bulk("Al", cubic=True, a=3.9 + 0.01 * k) for k in range(12)]
    for atoms in frames:
        atoms.calc = EMT()
        labels = {name: atoms.calc.get_property(name, atoms) for name in ("forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **labels)
    assert stress_said(frames, -1000.0) == ""
    assert zeros_warning(frames, "my.extxyz") is None


def test_zeros_that_stand_for_none(frames):
    copies = with_energies(frames, np.zeros(len(frames)), 0.0)
    assert zeros_warning(frames, "my.extxyz") is None
    text = zeros_warning([*frames[:5], *copies[5:8]], "my.extxyz")
    assert text is not None
    assert text.startswith("my.extxyz: forces of ")
    assert " of 8 frames looked at are exactly 0 where atoms are displaced (" in text
    for copy, atoms in zip(copies, frames, strict=True):
        copy.calc = SinglePointCalculator(copy, **atoms.calc.results | {"stress": np.zeros(6)})
    text = zeros_warning(copies, "my.extxyz")
    assert text is not None
    assert text.startswith("my.extxyz: stress of ")
    assert "frames looked at are exactly 0 where forces are not (" in text


def test_few_frames_give_no_false_alarm(frames):
    rng = np.random.default_rng(0)
    for size in (8, 12, 25):
        few = [frames[k] for k in rng.choice(len(frames), size, replace=False)]
        assert energy_warning(few, yardstick_references(few), "my.extxyz") is None
        assert stress_said(few, 1.0) == ""
    assert energy_warning(frames[:7], yardstick_references(frames[:7]), "my.extxyz") is None


def labelled(atoms: Atoms, zero: float = 0.0) -> Atoms:
    """With energy and forces of EMT, and `zero` eV more an atom."""
    atoms.calc = EMT()
    energy, forces = atoms.get_potential_energy() + zero * len(atoms), atoms.get_forces()
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
    return atoms


def rattled(atoms: Atoms, seed: int, size: float = 0.08) -> Atoms:
    atoms.rattle(size, seed=seed)
    return atoms


def water(seed: int) -> Atoms:
    """A water molecule with Morse bonds (Meyer et al.'s order of size) and a total energy as of all electrons."""
    atoms = rattled(molecule("H2O"), seed, 0.05)
    bonds = atoms.get_distances(0, [1, 2])
    angle = np.radians(atoms.get_angle(1, 0, 2) - 104.5)
    energy = (4.6 * (1 - np.exp(-2.3 * (bonds - 0.968))) ** 2).sum() + 2.15 * angle**2
    atoms.calc = SinglePointCalculator(atoms, energy=energy - 2080.0)
    return atoms


LEGITIMATE = {
    "metals near rest": lambda k: labelled(rattled(bulk("Cu", cubic=True) * 2, k, 0.02), -1640.0),
    "platinum, hot": lambda k: labelled(rattled(bulk("Pt", cubic=True), k, 0.15)),
    "aluminium under strain alone": lambda k: labelled(bulk("Al", cubic=True, a=4.0 + 0.004 * k)),
    "slabs": lambda k: labelled(rattled(fcc111("Al", (2, 2, 2 + k % 3), vacuum=6.0), k)),
    "water": water,
}


@pytest.mark.parametrize("kind", LEGITIMATE)
def test_no_false_alarm(kind):
    frames = sample([LEGITIMATE[kind](k) for k in range(24)])
    references = yardstick_references(frames)
    assert energy_warning(frames, references, "my.extxyz") is None
    assert force_warning(frames, references, "my.extxyz") is None


def test_water_in_hartree():
    frames = [water(k) for k in range(24)]
    energies = np.array([energy(atoms) for atoms in frames]) / Hartree
    for atoms, value in zip(frames, energies, strict=True):
        atoms.calc = SinglePointCalculator(atoms, energy=value)
    text = energy_warning(frames, yardstick_references(frames), "my.extxyz")
    assert text is not None
    assert "Hartree" in text


def test_forces_and_stress_of_the_yardstick_are_its_gradients():
    atoms = rattled(bulk("Cu", cubic=True), 1, 0.1)
    _, forces, stress = yardstick(atoms)  # (4, n_stretches, 3), (n_stretches, 3, 3)
    assert forces.shape == (4, len(STRETCHES), 3)
    step = 1e-5

    def slope(moved: Callable[[float], Atoms]) -> np.ndarray:
        return (yardstick(moved(step))[0] - yardstick(moved(-step))[0]) / (2 * step)

    def shifted(by: float) -> Atoms:
        copy = atoms.copy()
        copy.positions[1, 2] += by
        return copy

    def strained(by: float) -> Atoms:
        copy = atoms.copy()
        copy.set_cell(atoms.cell.array @ (np.eye(3) + by * direction), scale_atoms=True)
        return copy

    np.testing.assert_allclose(forces[1, :, 2], -slope(shifted), atol=1e-6)
    for direction in (np.diag([1.0, 0, 0]), np.array([[0, 0.5, 0], [0.5, 0, 0], [0, 0, 0]])):
        expected = (stress * direction).sum(axis=(1, 2)) * atoms.get_volume()
        np.testing.assert_allclose(expected, slope(strained), atol=1e-6)
    assert np.isnan(yardstick(fcc111("Al", (1, 1, 2), vacuum=6.0))[2]).all()


def test_units_that_are_about_as_likely_are_all_named():
    factors = {"Hartree": 1 / 27.2, "Rydberg": 1 / 13.6, "meV": 1000.0}
    assert likely(1.0, factors) == "eV"
    assert likely(0.045, factors) == "Hartree or Rydberg"
    assert likely(0.16, factors) == "Rydberg"
    assert likely(900.0, factors) == "meV"
