"""The sections of `eipnn check` where the right values are known, and where something is broken on purpose."""

import sys
from functools import cache

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.eos import EquationOfState
from ase.optimize import FIRE
from backbones import FRAMES, make_potential

from eipnn import EIPNNCalculator
from eipnn.check import dimers, dynamics, elastic, eos, frames, phonons, smoothness, symmetry, vacancy
from eipnn.check.case import Case
from eipnn.check.crystals import Crystal, find_crystals, placed, read_crystals, relax, relaxed_all, supercell
from eipnn.check.figures import Figure, Found, Limits, NotRun
from eipnn.check.sections import SECTIONS, crystals_found, run
from eipnn.representations import SchNet
from eipnn.structures import StructureStore


class Changed(EMT):
    """EMT whose results a function (atoms, results) changes."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = self.results["forces"].copy()
        self.change(atoms, self.results)


class Pair(Calculator):
    """The energy of a function of the distance of two atoms."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's own form)

    def __init__(self, energy):
        super().__init__()
        self.energy = energy

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        r = atoms.get_distance(0, 1)
        slope = (self.energy(r + 1e-5) - self.energy(r - 1e-5)) / 2e-5
        unit = (atoms.positions[1] - atoms.positions[0]) / r
        self.results = {"energy": self.energy(r), "forces": np.array([slope * unit, -slope * unit])}


@cache
def crystal(symbol: str) -> Crystal:
    atoms = placed(bulk(symbol, cubic=True), EMT())
    relax(atoms, cell=True)
    return Crystal("fcc", Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True))


def case(calculator: Calculator, symbol: str = "Cu", **settings) -> Case:
    return Case(calculator, (symbol,), {symbol: crystal(symbol)}, **settings)


def by_key(found: Found) -> dict[str, Figure]:
    return {figure.key: figure for figure in found.figures}


@pytest.mark.parametrize(("value", "verdict"), [(0, "good"), (1, "good"), (3, "fair"), (5, "bad"), (9, "bad")])
def test_limits(value, verdict):
    assert Limits(1, 5).verdict(value) == verdict
    assert Limits(-1, -5).verdict(-value) == verdict


def test_a_value_is_judged_against_the_given_one():
    figure = Figure("vacancy", "Cu", 1.0, "eV", Limits(0.1, 0.0), Limits(0.05, 0.5))
    assert [figure.verdict(given) for given in (np.nan, 1.02, 1.2, 1.6)] == ["good", "good", "fair", "bad"]
    assert Figure("vacancy", "Cu", np.nan).verdict() == "bad"
    assert Figure("C11", "Cu", 100.0).verdict() == ""


def test_lennard_jones_has_the_curve_of_a_bond():
    found = dimers.measure(case(LennardJones(sigma=2.2, epsilon=0.4, rc=20, smooth=False)))
    figures = by_key(found)
    assert [figures[key].value for key in ("force_flips", "minima", "inflections", "hole")] == [1, 1, 1, 0]
    assert {figure.verdict() for figure in found.figures} == {"good"}
    r, energy = found.curves["Cu-Cu"]
    assert r[np.argmin(energy)] == pytest.approx(2.2 * 2 ** (1 / 6), abs=0.01)
    assert energy.min() == pytest.approx(-0.4, abs=2e-3)  # less its tail at 7 A


def test_a_hole_and_waves_of_a_pair_are_bad():
    def holed(r):
        return 0.4 * ((2.2 / r) ** 8 - 2 * (2.2 / r) ** 4) - 8e4 * np.exp(-((r / 0.5) ** 2))

    def wavy(r):
        return 0.4 * np.exp(-r / 3) + 0.1 * np.sin(8 * r)

    hole = by_key(dimers.measure(case(Pair(holed))))["hole"]
    assert hole.verdict() == "bad"
    unit = 2 * 1.32  # covalent radius of copper
    r = np.arange(1.2, 2.2, 1e-3)
    assert hole.value * unit == pytest.approx(r[np.argmax(holed(r))], abs=0.02)
    figures = by_key(dimers.measure(case(Pair(wavy))))
    assert {figures[key].verdict() for key in ("force_flips", "minima", "inflections")} == {"bad"}


@pytest.mark.parametrize("symbol", ["Cu", "Al"])
def test_equation_of_state(symbol):
    figures = by_key(eos.measure(case(EMT(), symbol)))
    volumes, energies = [], []
    for a in np.linspace(0.98, 1.02, 7) * crystal(symbol).atoms.cell[0, 0]:
        atoms = bulk(symbol, "fcc", a=a)
        atoms.calc = EMT()
        volumes.append(atoms.get_volume())
        energies.append(atoms.get_potential_energy())
    volume, _, modulus = EquationOfState(volumes, energies, eos="sj").fit()
    assert figures["volume"].value == pytest.approx(volume, rel=2e-3)
    assert figures["bulk_modulus"].value == pytest.approx(modulus / units.GPa, rel=0.05)
    assert figures["eos_roughness"].verdict() == "good"
    assert figures["eos_minima"].value == 1


def test_a_rough_equation_of_state_is_bad():
    def waves(atoms, results):
        results["energy"] += 0.1 * len(atoms) * np.sin(4 * atoms.get_volume())

    figures = by_key(eos.measure(case(Changed(waves))))
    assert figures["eos_roughness"].verdict() == "bad"
    assert figures["eos_minima"].verdict() == "bad"


def test_without_a_minimum_there_is_no_volume():
    volumes = np.linspace(9, 11, 11)
    assert np.isnan(eos.fitted(volumes, -0.1 * volumes)).all()


@pytest.mark.parametrize("symbol", ["Cu", "Al"])
def test_elastic_constants_are_curvatures_of_the_energy(symbol):
    cell, e = crystal(symbol).atoms, 0.005

    def curvature(strain):
        energies = []
        for sign in (1, 0, -1):
            atoms = placed(cell, EMT())
            atoms.set_cell(cell.cell.array @ (np.eye(3) + sign * e * np.array(strain)), scale_atoms=True)
            energies.append(atoms.get_potential_energy())
        return (energies[0] - 2 * energies[1] + energies[2]) / e**2 / cell.get_volume() / units.GPa

    c11 = curvature(np.diag([1, 0, 0]))
    c12 = curvature(np.diag([1, 1, 0])) / 2 - c11
    c44 = curvature([[0, 0, 0], [0, 0, 0.5], [0, 0.5, 0]])
    figures = by_key(elastic.measure(case(EMT(), symbol)))
    for key, value in {"C11": c11, "C12": c12, "C44": c44, "elastic_bulk_modulus": (c11 + 2 * c12) / 3}.items():
        assert figures[key].value == pytest.approx(value, rel=0.02, abs=0.5)
    voigt, reuss = (c11 - c12 + 3 * c44) / 5, 5 / (4 / (c11 - c12) + 3 / c44)
    assert figures["shear_modulus"].value == pytest.approx((voigt + reuss) / 2, rel=0.02)
    assert figures["elastic_stability"].value == pytest.approx(min(c11 - c12, c44), rel=0.03, abs=0.5)


def turned(atoms: Atoms) -> Atoms:
    atoms = atoms.copy()
    atoms.rotate(40, (1, 2, 3), rotate_cell=True)
    return atoms


def as_in_a_cif(atoms: Atoms) -> Atoms:
    """a along x, b in the plane of x and y."""
    return Atoms(atoms.numbers, scaled_positions=atoms.get_scaled_positions(), cell=atoms.cell.cellpar(), pbc=True)


CELLS = {
    "fcc": [bulk("Al", cubic=True), as_in_a_cif(bulk("Al")), turned(bulk("Al", cubic=True))],
    "hcp": [bulk("Al", "hcp", a=2.8, c=4.6), bulk("Al", "hcp", a=2.8, c=4.6, orthorhombic=True)],
}
CELLS["hcp"] += [turned(CELLS["hcp"][0]), CELLS["hcp"][1][np.random.default_rng(0).permutation(4)]]
CELLS["hcp"][3].set_cell(CELLS["hcp"][3].cell[[2, 0, 1]])  # the same lattice, its hexagonal axis first


@pytest.mark.parametrize("structure", CELLS)
def test_elastic_constants_are_those_of_the_conventional_axes(structure):
    pytest.importorskip("spglib")
    found = []
    for start in CELLS[structure]:
        (relaxed,) = relaxed_all({"Al": Crystal("file", start)}, EMT())[0].values()
        figures = elastic.measure(Case(EMT(), ("Al",), {"Al": relaxed})).figures
        found.append({f.key: f.value for f in figures if f.key[1:].isdigit()})
        assert {f.against for f in figures if f.key in found[-1]} == {elastic.CONSTANT_APART}
    keys = {"fcc": ["C11", "C12", "C44"], "hcp": ["C11", "C12", "C13", "C33", "C44", "C66"]}[structure]
    assert [list(constants) for constants in found] == [keys] * len(found)
    for constants in found[1:]:
        assert constants == pytest.approx(found[0], abs=0.5)
    if structure == "fcc":
        assert found[0] == pytest.approx({"C11": 53.3, "C12": 32.9, "C44": 36.2}, abs=0.5)
    else:
        assert found[0]["C66"] == pytest.approx((found[0]["C11"] - found[0]["C12"]) / 2, abs=0.5)


def test_without_spglib_no_single_constant_is_compared(monkeypatch):
    monkeypatch.setitem(sys.modules, "spglib", None)
    figures = by_key(elastic.measure(case(EMT())))
    assert figures["C11"].verdict(given=figures["C11"].value + 100) == ""
    assert figures["C11"].note == "axes of the file, not compared: spglib is not installed: pip install 'eipnn[check]'"
    assert figures["elastic_bulk_modulus"].verdict(given=figures["elastic_bulk_modulus"].value + 100) == "bad"


def test_phonons_are_those_of_frozen_layers():
    pytest.importorskip("phonopy")
    asked = case(EMT())
    figures = by_key(phonons.measure(asked))
    assert figures["lowest_frequency"].verdict() == "good"
    phonon = phonons.phonons(asked, crystal("Cu"))
    phonon.run_qpoints([[0.5, 0, 0.5]])
    atoms = placed(crystal("Cu").atoms, EMT())  # at X layers along z move against each other
    upper = atoms.positions[:, 2] > 0.1
    atoms.positions[:, 2] += np.where(upper, 0.01, -0.01)
    stiffness = -atoms.get_forces()[upper, 2].mean() / 0.01
    omega = np.sqrt(stiffness / atoms.get_masses()[0])
    hertz = omega / (2 * np.pi) * units.fs * 1000  # THz
    assert phonon.qpoints.frequencies[0, -1] == pytest.approx(hertz, rel=0.02)


def test_imaginary_phonons_are_bad():
    pytest.importorskip("phonopy")
    cubic = Crystal("sc", bulk("Cu", "sc", a=2.4))
    found = phonons.measure(Case(EMT(), ("Cu",), {"Cu": cubic}))
    assert by_key(found)["lowest_frequency"].verdict() == "bad"


def test_vacancy():
    figure = by_key(vacancy.measure(case(EMT())))["vacancy"]
    whole = placed(crystal("Cu").atoms.repeat(3), EMT())
    atoms = placed(whole[:-1], EMT())
    FIRE(atoms, logfile=None).run(fmax=0.005)
    energy = atoms.get_potential_energy() - 107 / 108 * whole.get_potential_energy()
    assert figure.value == pytest.approx(energy, abs=0.01)
    assert figure.verdict() == "good"
    assert 1 < figure.value < 1.5


def test_energy_is_kept_by_emt():
    figures = by_key(dynamics.measure_nve(case(EMT(), time=0.2, temperature=300)))
    assert {figure.verdict() for figure in figures.values()} == {"good"}


def test_forces_without_an_energy_drift():
    sites = supercell(crystal("Cu").atoms, dynamics.SIZE).positions

    def swirl(atoms, results):
        x, y, _ = (atoms.positions - sites).T
        results["forces"] += 3.0 * np.stack([-y, x, 0 * x], axis=1)

    figures = by_key(dynamics.measure_nve(case(Changed(swirl), time=0.2, temperature=300)))
    assert figures["nve_drift"].verdict() == "bad"
    assert figures["nve_share"].verdict() == "bad"


def test_forces_that_are_not_the_slope_of_the_energy():
    def larger(atoms, results):
        results["forces"] *= 1.2

    assert smoothness_of(larger)["energy_and_work"].verdict() == "bad"


def smoothness_of(change) -> dict[str, Figure]:
    return by_key(smoothness.measure(case(Changed(change))))


def test_the_slope_is_that_of_the_total_energy():
    time, rng = np.linspace(0, 1, 500), np.random.default_rng(0)
    kinetic = rng.normal(10, 0.5, 500)
    slope, error, share = dynamics.drift(time, 0.3 * time - kinetic + rng.normal(0, 0.01, 500), kinetic)
    assert slope == pytest.approx(0.3, abs=4 * error)
    assert 0 < error < 0.01
    assert share == pytest.approx(0.3 * 0.9 / 0.5, rel=0.1)


def test_a_ramp_is_survived_or_not():
    good = by_key(dynamics.measure_heating(case(EMT(), time=0.1)))["heating_run"]
    assert (good.value, good.verdict()) == (1, "good")

    def hot(atoms, results):
        results["forces"] += 40 * np.sign(atoms.get_velocities())

    bad = by_key(dynamics.measure_heating(case(Changed(hot), time=0.1)))["heating_run"]
    assert bad.value < 1
    assert bad.verdict() == "bad"
    assert "broke at" in bad.note

    def stuck(atoms, results):
        raise ValueError("no energy")

    calculator = Changed(lambda atoms, results: None)
    asked = case(calculator, time=0.1)
    dynamics.boxes(asked)["Cu"].get_potential_energy()
    calculator.change = lambda atoms, results: stuck(atoms, results) if atoms.get_temperature() > 800 else None
    assert "no energy" in by_key(dynamics.measure_heating(asked))["heating_run"].note


def test_each_crystal_runs(tmp_path):
    """Of copper and gold, gold breaks: an error names it, and copper has its drift."""

    def no_gold(atoms, results):
        asked_of_gold.append("Au" in atoms.symbols)
        if asked_of_gold[-1] and sum(asked_of_gold) > allowed[0]:
            raise ValueError("no gold")

    asked_of_gold: list[bool] = []
    allowed = [0]

    crystals = {"Au": crystal("Au"), "Cu": crystal("Cu")}
    asked = Case(Changed(no_gold), ("Au", "Cu"), crystals, time=0.05)
    nve, heating = (dynamics.measure_nve, dynamics.draw_nve), (dynamics.measure_heating, dynamics.draw_heating)
    for allowed[0], (measure, draw) in ((20, nve), (20, heating), (0, nve), (0, heating)):
        asked_of_gold.clear()
        found = measure(asked)
        runs = {figure.of: figure.verdict() for figure in found.figures if figure.key.endswith("_run")}
        assert runs == {"Au": "bad", "Cu": "good"}
        assert "no gold" in found.figures[0].note
        draw(tmp_path / "runs.png", {"potential": found})
        assert (tmp_path / "runs.png").stat().st_size > 10_000
    calls = {section.name: section.calls(asked) for section in SECTIONS}
    sizes = [len(atoms) for atoms in dynamics.boxes(asked).values()]
    assert calls["nve"] == calls["heating"] == [(dynamics.steps_of(asked), size) for size in sizes]


@pytest.mark.parametrize("measure", [dynamics.measure_nve, dynamics.measure_heating])
def test_a_run_that_breaks_in_its_last_look_is_bad(monkeypatch, measure):
    asked = case(EMT(), time=0.1)
    looks = dynamics.steps_of(asked) // dynamics.LOOK
    told = iter([""] * (looks - 1) + ["atoms 0.50 A apart"])
    monkeypatch.setattr(dynamics, "broken", lambda atoms, aim: next(told))
    (figure,) = measure(asked).figures
    assert figure.value == pytest.approx(1 - 1 / looks)
    assert figure.verdict() == "bad"


def test_without_a_stress_atoms_alone_are_relaxed():
    class Without(EMT):
        def get_property(self, name, atoms=None, allow_calculation=True):
            if name == "stress":
                raise PropertyNotImplementedError
            return super().get_property(name, atoms, allow_calculation)

    start = Crystal("fcc", bulk("Cu", a=3.7, cubic=True))
    found = relaxed_all({"Cu": start}, Without())[0]["Cu"]
    np.testing.assert_allclose(found.atoms.cell, start.atoms.cell)
    none, problems = relaxed_all({"Cu": start}, Changed(lambda atoms, results: 1 / 0))
    assert (none, problems) == ({}, {"Cu": "fcc: ZeroDivisionError: division by zero"})
    missing = Case(EMT(), ("Cu",), none, ("Cu",), problems)
    assert crystals_found(missing).figures[0].note == problems["Cu"]
    outcome = run(SECTIONS[0], case(EMT()), {"emt": missing})
    assert outcome.notes == ("emt: Cu: fcc: ZeroDivisionError: division by zero",)


def test_atoms_that_meet_have_broken_the_run():
    atoms = Atoms("Cu2", [[0, 0, 0], [1.5, 0, 0]], cell=[9, 9, 9], pbc=True, calculator=EMT())
    assert dynamics.broken(atoms, 300) == "atoms 1.50 A apart"
    atoms.positions[1, 0] = 1.7
    assert dynamics.broken(atoms, 300) == ""


def test_symmetry():
    assert {f.verdict() for f in symmetry.measure(case(EMT())).figures} == {"good"}

    def places(atoms, results):
        results["energy"] += 0.1 * atoms.positions[0, 0]
        results["forces"] += [0.01, 0, 0]

    figures = by_key(symmetry.measure(case(Changed(places))))
    assert figures["energy_invariance"].verdict() == figures["force_invariance"].verdict() == "bad"

    def sizes(atoms, results):
        results["energy"] += 0.1 * (len(atoms) > 8)

    assert by_key(symmetry.measure(case(Changed(sizes))))["extensivity"].value == pytest.approx(100, abs=1e-3)


def test_forces_jump():
    assert {f.verdict() for f in smoothness_of(lambda atoms, results: None).values()} == {"good"}
    start = supercell(crystal("Cu").atoms, smoothness.SIZE).positions[0].copy()

    def jump(atoms, results):
        if np.linalg.norm(atoms.positions[0] - start) > 0.1:
            results["forces"][0] += [0.3, 0, 0]

    figure = smoothness_of(jump)["force_jump"]
    assert figure.verdict() == "bad"
    assert figure.value == pytest.approx(150, rel=0.05)  # half of it, to the mean of both neighbours


def test_errors_on_frames(tmp_path):
    make_potential(SchNet).potential.save(tmp_path / "potential.pt")
    calculator = EIPNNCalculator(tmp_path / "potential.pt", dtype="float64", guard="off")
    labelled = []
    for name in ("crystal", "wire", "molecule"):
        atoms = placed(FRAMES[name], calculator)
        energy, forces = atoms.get_potential_energy() + 0.01 * len(atoms), 1.5 * atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, **({"forces": forces} if name != "molecule" else {}))
        labelled.append(atoms)
    asked = Case(calculator, ("C", "Si"), {}, frames=StructureStore.of(labelled))
    figures = by_key(frames.measure(asked))
    assert figures["energy_error"].value == pytest.approx(10)  # meV/atom, and no digit is lost to float32
    assert figures["force_error_share"].value == pytest.approx(1 / 3)
    assert [figures[key].of for key in ("energy_error", "force_error")] == ["3 frames", "2 frames"]


def test_frames_that_are_no_measure(tmp_path):
    make_potential(SchNet).potential.save(tmp_path / "potential.pt")
    calculator = EIPNNCalculator(tmp_path / "potential.pt", guard="off")
    free = Atoms("Si", info={"config_type": "IsolatedAtom"})
    free.calc = SinglePointCalculator(free, energy=0.0)
    with pytest.raises(NotRun, match="isolated atoms alone"):
        frames.measure(Case(calculator, ("Si",), {}, frames=StructureStore.of([free])))
    rest = FRAMES["crystal"].copy()
    rest.calc = SinglePointCalculator(rest, energy=0.0, forces=np.zeros((len(rest), 3)))
    figures = by_key(frames.measure(Case(calculator, ("C", "Si"), {}, frames=StructureStore.of([rest]))))
    assert set(figures) == {"energy_error", "force_error"}


def test_a_file_may_have_an_at_sign(tmp_path):
    ase.io.write(tmp_path / "Cu@300K.xyz", bulk("Cu"), format="extxyz")
    (found,) = read_crystals([tmp_path / "Cu@300K.xyz"], ("Cu",)).values()
    assert len(found.atoms) == 1


def test_crystals_of_least_energy():
    found = find_crystals(("Au", "Cu"), EMT())
    assert (found["Au"].structure, found["AuCu"].structure) == ("fcc", "L1_0")
    assert found["Cu"].structure in ("fcc", "hcp")  # which differ by less than 1 meV/atom
    fcc = crystal("Au").atoms
    assert found["Au"].atoms.cell.lengths() == pytest.approx(fcc.cell.lengths(), rel=1e-3)


def test_a_wrong_crystal_is_told():
    cubic = Crystal("sc", bulk("Cu", "sc", a=2.4))
    figure = by_key(crystals_found(Case(EMT(), ("Cu",), {"Cu": cubic}, ("Cu", "Au"))))["known_crystal"]
    energies = [placed(c.atoms, EMT()).get_potential_energy() / len(c.atoms) for c in (crystal("Cu"), cubic)]
    assert figure.value == pytest.approx(1000 * (energies[0] - energies[1]), abs=0.1)
    assert (figure.note, figure.verdict()) == ("fcc above sc", "good")
    missing = crystals_found(Case(EMT(), ("Cu",), {}, ("Cu",))).figures[0]
    assert missing.note == "no crystal comes to rest; if it has no simple one, give --crystal"
    assert missing.verdict() == "bad"


def test_a_section_that_raises_has_failed():
    def fail(atoms, results):
        raise RuntimeError("out of range")

    asked = case(Changed(fail))
    outcome = run(next(s for s in SECTIONS if s.name == "eos"), asked, {})
    assert outcome.failed
    assert outcome.problem == "RuntimeError: out of range"
    assert outcome.verdict(lambda figure: np.nan) == "bad"
    none = run(next(s for s in SECTIONS if s.name == "eos"), Case(EMT(), ("Cu",), {}), {"emt": asked})
    assert (none.failed, none.problem) == (False, "there is no crystal")
    beside = run(next(s for s in SECTIONS if s.name == "eos"), case(EMT()), {"bad": asked, "same": case(EMT())})
    assert list(beside.founds) == ["potential", "same"]
    assert beside.notes == ("bad: RuntimeError: out of range",)
