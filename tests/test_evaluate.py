"""`eipnn evaluate`: batches against the ASE calculator, errors against known ones, spreads of known distribution."""

import copy
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa
from backbones import FRAMES, make_potential
from scipy.stats import t
from tiny import exit_code

from eipnn import EIPNNCalculator
from eipnn.eips import EIP, recorded
from eipnn.errors import InputError
from eipnn.evaluate.predict import Predictions, batches, predict
from eipnn.evaluate.spread import Spread, factors, spreads
from eipnn.potential import Committee, Potential
from eipnn.potential.committee import Factor
from eipnn.representations import SchNet
from eipnn.structures import StructureStore

MORSE = EIP("morse", "ase", "ase.calculators.morse.MorsePotential", {"epsilon": 0.1, "r0": 2.0, "rho0": 4.0})
OFF = {"energy": 0.03, "forces": 0.2, "stress": 0.5 * GPa}
"""What the labels of the tests are below the predictions: eV an atom, eV/A, eV/A^3."""


@pytest.fixture(scope="module")
def committee() -> Committee:
    """Three random potentials of C and Si that are near each other."""
    first = make_potential(SchNet).potential
    members = []
    for k in range(3):
        member = copy.deepcopy(first)
        with torch.no_grad():
            for parameter in member.parameters():
                parameter *= 1 + 0.02 * k
        members.append(member)
    return Committee(members)


@pytest.fixture(scope="module")
def file(committee, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("committee") / "committee.pt"
    committee.save(path)
    return path


def frames() -> list[Atoms]:
    """Crystals, molecules and what is between, twice, displaced."""
    made = []
    for k in range(2):
        for name, atoms in FRAMES.items():
            moved = atoms.copy()
            moved.rattle(0.05, seed=k)
            kind = "crystal" if atoms.pbc.all() else "open"
            moved.info = {"config_id": f"{name.replace(', ', '-')}-{k}", "config_type": kind}
            made.append(moved)
    return made


def labelled(file: Path) -> list[Atoms]:
    """The same with labels that are `OFF`; every third one without stress."""
    calculator, made = EIPNNCalculator(file), frames()
    for k, atoms in enumerate(made):
        calculator.calculate(atoms)
        results = {name: calculator.results[name] for name in ("energy", "forces")}
        labels = {"energy": results["energy"] - OFF["energy"] * len(atoms), "forces": results["forces"] - OFF["forces"]}
        if atoms.pbc.all() and k % 3:
            labels["stress"] = calculator.results["stress"] - OFF["stress"]
        atoms.calc = SinglePointCalculator(atoms, **labels)
    return made


@pytest.mark.parametrize(("delta", "atoms_of_a_batch"), [(False, 1), (False, 10_000), (True, 12)])
def test_batches_give_what_the_calculator_gives(file, tmp_path, delta, atoms_of_a_batch):
    if delta:
        made = Committee.load(file)
        energies = [MORSE.calculator().get_potential_energy(atoms) for atoms in frames()[:2]]
        record = recorded.record(MORSE.description(), frames()[:2], energies)
        for potential in made.potentials:
            potential.zeros["dft"]["eip"] = record
            potential.zeros["morse"] = {"mode": "least_squares", "energies": {"Si": 0.7, "C": -0.3}}
        made.factors = {"forces": Factor(2.0, 20)}
        file = tmp_path / "delta.pt"
        made.save(file)
    whole, calculator = Committee.load(file), EIPNNCalculator(file, dtype="float64")
    store = StructureStore.of(frames())
    found = predict(whole, store, dtype="float64", batch_atoms=atoms_of_a_batch, shown=False)
    mean, spread = found.mean(), whole.spread(found._asdict())
    for row, atoms in enumerate(frames()):
        calculator.calculate(atoms)
        results, part = calculator.results, slice(*store.offsets[row : row + 2])
        assert mean["energy"][row] == pytest.approx(results["energy"], abs=1e-9)
        assert spread["energy_std"][row] == pytest.approx(results["energy_std"], abs=1e-9)
        np.testing.assert_allclose(mean["forces"][part], results["forces"], atol=1e-9)
        np.testing.assert_allclose(spread["forces_std"][part], results["forces_std"], atol=1e-9)
        if not atoms.pbc.all():
            assert np.isnan(mean["stress"][row]).all()
        elif "stress" in results:
            voigt = mean["stress"][row][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(voigt, results["stress"], atol=1e-9)
            spreads_of = spread["stress_std"][row][[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
            np.testing.assert_allclose(spreads_of, results["stress_std"], atol=1e-9)


def test_batches_hold_every_row_once():
    sizes = np.array([3, 3, 3, 20, 1, 5, 5])
    made = list(batches(sizes, 7))
    assert [row for rows in made for row in rows] == list(range(7))
    assert [list(rows) for rows in made] == [[0, 1], [2], [3], [4, 5], [6]]


def test_errors_are_those_that_were_put_in(file, tmp_path, capfd):
    ase.io.write(tmp_path / "frames.extxyz", labelled(file))
    assert exit_code("evaluate", file, tmp_path / "frames.extxyz", "-o", tmp_path / "out") == 0
    said = capfd.readouterr().out
    rows = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]]
        for line in said.splitlines()
        if "|" in line
    }
    store, n = StructureStore.of(frames()), len(frames())
    config = 1000 * OFF["energy"] * store.sizes
    assert rows["all"][0] == str(n)
    assert rows["all"][1] == f"{config.mean():.1f} / {np.sqrt((config**2).mean()):.1f}"
    for kind in ("all", "crystal", "open"):
        assert rows[kind][2:4] == ["30.00 / 30.00", "0.200 / 0.200"]
    assert rows["crystal"][4] == "0.500 / 0.500"
    assert rows["open"][4] == ""
    assert int(rows["crystal"][0]) + int(rows["open"][0]) == n
    assert rows["Si"] == [str((store.numbers == 14).sum()), "0.200 / 0.200"]
    table = pd.read_csv(tmp_path / "out" / "errors.csv", index_col="config_id")
    assert list(table.index) == list(store.ids)
    np.testing.assert_allclose(table["atom_error_eV_per_atom"], OFF["energy"], atol=1e-5)
    np.testing.assert_allclose(table["force_mae_eV_per_A"], OFF["forces"], atol=1e-5)
    np.testing.assert_allclose(table["stress_mae_GPa"].dropna(), 0.5, atol=1e-4)
    written, calculator = ase.io.read(tmp_path / "out" / "predictions.extxyz", ":"), EIPNNCalculator(file)
    for atoms in written:
        calculator.calculate(atoms)
        assert atoms.get_potential_energy() == pytest.approx(calculator.results["energy"], abs=1e-3)
        assert atoms.info["energy_std"] == pytest.approx(calculator.results["energy_std"], abs=1e-3)
        np.testing.assert_allclose(atoms.arrays["forces_std"], calculator.results["forces_std"], atol=1e-3)
        np.testing.assert_allclose(atoms.get_forces() - atoms.arrays["dft_forces"], OFF["forces"], atol=1e-5)
        assert atoms.info["config_type"] in ("crystal", "open")
    pictures = {picture.name for picture in (tmp_path / "out").glob("*.png")}
    assert pictures == {"parity_energy.png", "parity_forces.png", "parity_stress.png", "spread.png"}


def test_without_labels_there_are_predictions_alone(file, tmp_path, capfd):
    ase.io.write(tmp_path / "bare.extxyz", frames())
    words = "evaluate", file, tmp_path / "bare.extxyz", "-o", tmp_path / "out"
    (tmp_path / "out").mkdir()
    for older in ("errors.csv", "parity_energy.png", "spread.png"):  # of other structures
        (tmp_path / "out" / older).touch()
    assert exit_code(*words) == 0
    assert "no labels, so no errors" in capfd.readouterr().out
    assert {found.name for found in (tmp_path / "out").iterdir()} == {"predictions.extxyz"}
    assert exit_code(*words, "--calibrate") == 1
    assert "bare.extxyz: no labels" in capfd.readouterr().err


def drawn(members: int, factor: float, n: int = 4000) -> tuple[Predictions, StructureStore]:
    """Structures of two atoms whose members vary by a sigma of each structure's own, and whose error is Gaussian, with
    `factor` times that: what a committee that is too sure of itself does."""
    rng = np.random.default_rng(0)
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 2.3]], cell=[9, 9, 9], pbc=True)
    store = StructureStore.of([atoms] * n)
    sigma = rng.uniform(0.1, 2.0, n)
    truth = {"energy": np.zeros(n), "forces": np.zeros((2 * n, 3)), "stress": np.zeros((n, 3, 3))}
    found = []
    for name, values in truth.items():
        of = np.repeat(sigma, 2) if name == "forces" else sigma
        of = of.reshape(-1, *[1] * (values.ndim - 1))
        member = of * rng.normal(size=(members, *values.shape))
        member += factor * of * rng.normal(size=values.shape) - member.mean(axis=0)
        found.append((member + np.swapaxes(member, -1, -2)) / np.sqrt(2) if name == "stress" else member)
    labels = dict(zip(("energies", "forces", "stresses"), truth.values(), strict=True))
    for name, values in labels.items():
        setattr(store, name, values)
    return Predictions(*found), store


@pytest.mark.parametrize("members", [2, 4, 30])
def test_the_factor_and_the_coverage_of_a_known_distribution(members):
    found, store = drawn(members, factor=1.7)
    known = spreads(found, store)
    assert set(known) == {"energy", "forces", "stress"}
    for name, spread in known.items():
        made = spread.factor()
        assert made.frames > 0.99 * len(store)  # of two members a few agree by chance
        assert made.value == pytest.approx(1.7, rel=0.05), name
        assert spread.coverage(made.value) == pytest.approx((0.68, 0.90), abs=0.02), name
        assert spread.coverage(1.0)[0] < 0.6
        z = spread.errors / spread.deviations[:, None]
        fitted = t.fit(z.ravel(), fdf=spread.degrees, floc=0)[2]
        assert made.value == pytest.approx(fitted, rel=1e-3)
    assert known["forces"].spearman() > 0.4
    if members == 30:  # the limit of many: of Gaussian errors
        z = known["energy"].errors[:, 0] / known["energy"].deviations
        assert known["energy"].factor().value == pytest.approx(np.sqrt((z**2).mean()), rel=0.05)


def test_what_symmetry_holds_is_left_out():
    found, store = drawn(4, factor=1.5, n=200)
    expected = spreads(found, store)["forces"].factor().value
    for forces in found.forces:
        forces[: len(store)] = [1e-7, 0, 0]  # rounding; the label is off by 1e-3
    found.forces[0, : len(store)] += 1e-8
    store.forces = store.forces.copy()
    store.forces[: len(store), 0] = 1e-3
    spread = spreads(found, store)["forces"]
    assert spread.left_out == len(store)
    assert spread.frames == len(store) // 2
    assert spread.factor().value == pytest.approx(expected, rel=0.1)
    few = Spread(np.ones((9, 1)), np.ones(9), 3, 9, 0)
    assert not factors({"energy": few})
    exact = Spread(np.zeros((20, 1)), np.ones(20), 3, 20, 0)
    assert exact.factor().value == 0
    assert not factors({"energy": exact})


def test_factors_are_written_into_the_file(file, tmp_path, capfd):
    mine, data = tmp_path / "mine.pt", tmp_path / "frames.extxyz"
    mine.write_bytes(file.read_bytes())
    ase.io.write(data, labelled(file))
    words = "evaluate", mine, data, "-o", tmp_path / "out", "--dtype", "float64"
    assert exit_code(*words, "--calibrate") == 0
    said = capfd.readouterr().out
    assert "none" in said
    made, before = Committee.load(mine), Committee.load(file)
    assert made.factors["energy"].frames == len(frames())
    for one, other in zip(made.potentials, before.potentials, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name])
    atoms = FRAMES["cubic"]
    raw, calibrated = EIPNNCalculator(file), EIPNNCalculator(mine)
    for calculator in (raw, calibrated):
        calculator.calculate(atoms)
    ratio = calibrated.results["forces_std"] / raw.results["forces_std"]
    np.testing.assert_allclose(ratio, made.factors["forces"].value)
    assert calibrated.results["energy"] == raw.results["energy"]
    assert exit_code(*words) == 0
    assert f"{made.factors['energy'].value:.2f} ({len(frames())} frames)" in capfd.readouterr().out


def test_what_cannot_be_is_said_in_a_line(file, tmp_path, capfd):
    def refused(*words: object) -> str:
        assert exit_code("evaluate", *words, "-o", tmp_path / "out") == 1
        said = capfd.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("eipnn evaluate: ")
        return said

    if not torch.cuda.is_available():
        for make in (lambda: EIPNNCalculator(file, device="cuda"), lambda: predict(Committee.load(file), [], "cuda")):
            with pytest.raises(InputError, match="torch finds no GPU here"):
                make()
    with pytest.raises(InputError, match="torch knows no such device"):
        EIPNNCalculator(file, device="gpu")
    data, single = tmp_path / "frames.extxyz", tmp_path / "single.pt"
    strange = labelled(file)
    strange[0] = Atoms("Ge", info={"config_id": "free", "config_type": "IsolatedAtom"})  # is left out
    strange[0].calc = SinglePointCalculator(strange[0], energy=0.0)
    strange[4].symbols[0] = "Ge"
    ase.io.write(data, strange)
    said = refused(file, data)
    assert (
        f"frames.extxyz: frame 4 ({strange[4].info['config_id']}): the potential was trained on C, Si, not on Ge"
        in said
    )
    mine = tmp_path / "out" / "predictions.extxyz"
    mine.parent.mkdir()
    ase.io.write(mine, labelled(file))
    assert "is one of the files that are read" in refused(file, mine)
    ase.io.write(data, labelled(file)[:4])
    assert "fewer than 10 frames have labels" in refused(file, data, "--calibrate")
    Committee.load(file).potentials[0].save(single)
    assert "single.pt is a single potential" in refused(single, data, "--calibrate")
    assert exit_code("evaluate", single, data, "-o", tmp_path / "one") == 0
    assert not (tmp_path / "one" / "spread.png").exists()
    if not torch.cuda.is_available():
        assert "torch finds no GPU here" in refused(single, data, "--device", "cuda")
    diverged = Potential.load(single)
    with torch.no_grad():
        next(iter(diverged.head.parameters())).fill_(float("nan"))
    with pytest.raises(InputError, match="the potential gives NaN or infinite values"):
        predict(Committee([diverged]), StructureStore.of(frames()), shown=False)
