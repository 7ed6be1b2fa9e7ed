"""Wrong units are named, with and without labels, whatever the zero; right ones are not spoken of."""

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
    yardstick_references,
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


def test_few_frames_give_no_false_alarm(frames):
    rng = np.random.default_rng(0)
    for size in (8, 12, 25):
        few = [frames[k] for k in rng.choice(len(frames), size, replace=False)]
        assert energy_warning(few, yardstick_references(few), "my.extxyz") is None
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


def test_forces_of_the_yardstick_are_its_gradients():
    atoms = rattled(bulk("Cu", cubic=True), 1, 0.1)
    _, forces = yardstick(atoms)  # (4, n_stretches, 3)
    assert forces.shape == (4, len(STRETCHES), 3)
    step = 1e-5
    ahead, back = atoms.copy(), atoms.copy()
    ahead.positions[1, 2] += step
    back.positions[1, 2] -= step
    slope = (yardstick(ahead)[0] - yardstick(back)[0]) / (2 * step)
    np.testing.assert_allclose(forces[1, :, 2], -slope, atol=1e-6)


def test_units_that_are_about_as_likely_are_all_named():
    factors = {"Hartree": 1 / 27.2, "Rydberg": 1 / 13.6, "meV": 1000.0}
    assert likely(1.0, factors) == "eV"
    assert likely(0.045, factors) == "Hartree or Rydberg"
    assert likely(0.16, factors) == "Rydberg"
    assert likely(900.0, factors) == "meV"
