"""The leaderboard on planted errors, and the alignment warning."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import voigt_6_to_full_3x3_stress
from tiny import write_labels

from eipnn.labels import LabelError, LabelStore
from eipnn.labels.layout import open_array, read_index
from eipnn.labels.leaderboard import (
    Comparison,
    alignment_warning,
    best_eip,
    compare,
    leaderboard,
    readable,
    sentence,
    write_leaderboard,
)
from eipnn.reference import ZeroError
from eipnn.structures import Split, read_split, read_structures

ISOLATED = {"Si": -0.8499664305825116}
EIPS = ("good", "bad", "late")


def planted() -> Comparison:
    """Six frames; `good` errs by +0.1 eV, `bad` by -1 eV, `late` by 0 where it has a label at all.

    Forces are off by what is written, in eV/A, stress in GPa.
    """
    n_atoms = np.array([1, 2, 1, 2, 1, 2])
    dft = np.array([-1.0, -4.0, -1.5, -5.0, -2.0, -6.0])
    labels = np.stack([dft + 0.1, dft - 1.0, np.where(np.arange(6) % 2, dft, np.nan)], axis=1)
    elements = ("Ag", "Ag-Au", "Ag", "Ag-Au", "Ag", "Ag-Au")
    forces = np.array([[0.3, 1, np.nan], [0.6, 1, np.nan], [0.9, 1, np.nan], *[[np.nan] * 3] * 3])
    stress = np.array([[1.0, 2, np.nan], [3.0, 2, np.nan], *[[np.nan] * 3] * 4])
    return Comparison(tuple("abcdef"), elements, n_atoms, dft, EIPS, labels, forces, stress)


SPLIT = Split(("a", "b"), ("c", "d"), ("e", "f"), ())


def test_planted_errors() -> None:
    standings = leaderboard(planted(), SPLIT)
    everything = {s.eip: s for s in standings if (s.part, s.elements) == ("all", "all")}
    good, bad, late = (everything[eip] for eip in EIPS)
    assert list(everything) == ["late", "good", "bad"], "best config MAE first"
    assert good.config_mae == pytest.approx(0.1)
    assert good.atom_mae == pytest.approx(0.075)
    assert good.force_mae == pytest.approx((0.3 + 2 * 0.6 + 0.9) / 4)  # frames of 1, 2, 1 atoms
    assert (good.stress_mae, bad.force_mae, bad.stress_mae) == (2.0, 1.0, 2.0)
    assert np.isnan([late.force_mae, late.stress_mae]).all()
    assert good.offset == pytest.approx(0.075)
    assert (good.frames, good.missing, late.frames, late.missing) == (6, 0, 3, 3)
    assert bad.offset == pytest.approx(-0.75)
    assert (good.best_share, bad.best_share, late.best_share) == (0.5, 0.0, 0.5)
    assert late.correlation == pytest.approx(1.0)
    assert late.config_mae == 0.0
    silver = next(s for s in standings if (s.eip, s.elements, s.part) == ("late", "Ag", "test"))
    assert silver.frames == 0
    assert np.isnan(silver.config_mae)
    assert {(s.part, s.elements) for s in standings} == {
        (part, kind) for part in ("all", "train+val", "test") for kind in ("all", "Ag", "Ag-Au")
    }


def test_best_eip_is_chosen_on_train_and_val_and_shown_on_test() -> None:
    comparison = planted()
    comparison.labels[4:, 0] += 5.0  # on test the choice turns out badly
    best = best_eip(comparison, SPLIT)
    assert best.eip == "late"  # on the frames that all EIPs have labelled
    assert (best.chosen_config_mae, best.config_mae, best.frames) == (0.0, 0.0, 1)
    comparison.labels[:, 2] = np.nan
    best = best_eip(comparison, SPLIT)
    assert (best.eip, best.frames) == ("good", 2)
    assert best.chosen_config_mae == pytest.approx(0.1)
    assert best.config_mae == pytest.approx(5.1)
    assert best.atom_mae == pytest.approx(5.1 * 0.75)


def test_without_a_test_part_the_best_eip_is_shown_on_validation() -> None:
    comparison = planted()
    comparison.labels[3, 0] += 0.2
    best = best_eip(comparison, Split(("a", "b", "c"), ("d",), (), ()))
    assert (best.eip, best.part, best.frames) == ("late", "validation", 1)
    comparison.labels[:, 2] = np.nan
    best = best_eip(comparison, Split(("a", "b", "c"), ("d",), (), ()))
    assert best.config_mae == pytest.approx(0.3)
    assert sentence(best).startswith("Best EIP, chosen on train + val: good; validation config MAE 300.0 meV")


def test_no_best_eip() -> None:
    comparison = planted()
    comparison.labels[:4, 2] = np.nan
    with pytest.raises(LabelError, match="no frame of train and validation has labels of all EIPs, so"):
        best_eip(comparison, SPLIT)
    with pytest.raises(LabelError, match="no test frame has a label of the EIP late"):
        best_eip(planted(), Split(("b",), ("d",), ("a",), ()))


def test_si_mini_as_its_authors_measured_it(tmp_path: Path) -> None:
    structures = read_structures("bundled:si_mini/dft.extxyz")
    store = LabelStore.open("bundled:si_mini/labels")
    split = read_split("bundled:si_mini/splits/random_1.csv")
    comparison = compare(structures, store, energy_zero="isolated_atoms", isolated=ISOLATED, split=split)
    standings = leaderboard(comparison, split)
    found = {s.eip: (s.config_mae, s.atom_mae) for s in standings if s.part == "all"}
    expected = {
        "erhart-albe": (1.75, 0.44),
        "edip": (1.86, 0.54),
        "meam-lenosky": (1.28, 0.36),
        "sw": (3.24, 0.83),
        "sw-silicene": (5.31, 1.28),
        "tersoff-t2": (0.74, 0.20),
        "tersoff-t3": (2.05, 0.50),
        "purja-pun-mishin": (2.57, 0.64),
    }
    for eip, errors in expected.items():
        assert found[eip] == pytest.approx(errors, abs=0.006)
    best = best_eip(comparison, split)
    assert (best.eip, best.frames) == ("tersoff-t2", 103)
    write_leaderboard(tmp_path, standings, best)
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert len(table) == len(standings) == 24
    assert table.best_share[table.part == "test"].sum() == pytest.approx(1.0)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "Best EIP, chosen on train + val: tersoff-t2; test config MAE 924.5 meV" in text
    assert "| EIP " in text
    assert "force MAE (eV/Å)" in text
    assert len({line.count("|") for line in text.splitlines() if line.startswith("|")}) == 1


def test_errors_of_forces_and_stress_are_those_of_components(tmp_path: Path) -> None:
    """Against a plain loop over the bundled labels; the first frame is given no forces, and clusters have no stress."""
    structures = read_structures("bundled:si_mini/dft.extxyz")[:60]
    del structures[0].calc.results["forces"]
    store = LabelStore.open("bundled:si_mini/labels")
    comparison = compare(structures, store)
    assert np.isnan(comparison.forces[0]).all()
    forces: list[float] = []
    stress: list[float] = []
    for row, atoms in enumerate(structures):
        name, of_eip = atoms.info["config_id"], store.eips.index("sw")
        if row:
            forces += np.abs(store.forces(name)[:, of_eip] - atoms.get_forces()).ravel().tolist()
        if atoms.pbc.all():
            labels = voigt_6_to_full_3x3_stress(store.stress_of([name], ["sw"])[0, 0])
            stress += np.abs(labels - atoms.get_stress(voigt=False)).ravel().tolist()
    line = next(s for s in leaderboard(comparison) if s.eip == "sw")
    assert 0 < len(stress) < 9 * len(structures)
    assert line.force_mae == pytest.approx(np.mean(forces))
    assert line.stress_mae == pytest.approx(np.mean(stress) * 160.21766208, rel=1e-6)


@pytest.mark.parametrize("forces", [True, False], ids=["by forces", "by energies"])
def test_a_factor_is_taken_off_where_asked(tmp_path: Path, forces: bool) -> None:
    """``half`` is half of DFT, on a zero of its own; ``noisy`` has errors. Test frames do not count."""
    rng, frames = np.random.default_rng(0), read_structures("bundled:si_mini/dft.extxyz")[:40]
    energies = np.array([atoms.get_potential_energy() for atoms in frames])
    n_atoms = np.array([len(atoms) for atoms in frames])
    dft = np.concatenate([atoms.get_forces() for atoms in frames])
    noise = rng.normal(0, 0.1, dft.shape)
    ids = tuple(atoms.info["config_id"] for atoms in frames)
    split = Split(ids[:25], ids[25:30], ids[30:], ())
    labels = np.stack([energies / 2 + 3 * n_atoms, energies + rng.normal(0, 0.1, 40)], axis=1)
    labels[30:, 0] += 7.0
    write_labels(tmp_path, frames, labels, ("half", "noisy"))
    values = np.stack([dft / 2, dft + noise], axis=1) if forces else np.nan
    open_array(tmp_path, "forces", read_index(tmp_path), "r+")[:] = values
    zeros = {"energy_zero": "least_squares", "eip_zero": "least_squares", "split": split}
    store = LabelStore.open(tmp_path)
    boards = (leaderboard(compare(frames, store, **zeros, eip_scale=on), split) for on in (True, False))
    scaled, plain = ({line.eip: line for line in lines if line.part == "train+val"} for lines in boards)
    assert scaled["half"].scale == pytest.approx(2.0, rel=1e-6)
    assert scaled["noisy"].scale == pytest.approx(1.0, abs=0.05)
    assert scaled["half"].config_mae < 1e-6 < scaled["noisy"].config_mae < plain["half"].config_mae
    assert plain["half"].scale == 1.0
    if forces:
        assert scaled["half"].force_mae < 1e-6 < plain["noisy"].force_mae < plain["half"].force_mae
    # free atoms that the EIP gives itself: 3 eV each of its own energies, so that half of DFT's must be known as well
    apart = labels[:, 0] - 3 * n_atoms - energies / 2
    assert np.abs(apart[:30]).max() < 1e-9
    found = compare(frames, store, eip_zero="isolated_atoms", eip_isolated={"Si": 3.0}, split=split, eip_scale=True)
    np.testing.assert_allclose(found.labels[:30, 0], energies[:30], rtol=1e-5)
    assert "scale" in readable(list(scaled.values()))
    assert "scale" not in readable(list(plain.values()))


@pytest.mark.parametrize(
    ("energy_zero", "eip_zero", "warned"),
    [
        ("isolated_atoms", "none", False),
        ("least_squares", "least_squares", False),
        ("none", "least_squares", False),
        ("none", "none", True),
        ("least_squares", "none", True),
    ],
)
def test_zeros_that_differ_are_warned_of(energy_zero: str, eip_zero: str, warned: bool) -> None:
    comparison = compare(
        read_structures("bundled:si_mini/dft.extxyz"),
        LabelStore.open("bundled:si_mini/labels"),
        energy_zero=energy_zero,
        isolated=ISOLATED,
        eip_zero=eip_zero,
    )
    text = alignment_warning(comparison.dft, comparison.labels, comparison.n_atoms, comparison.eips)
    assert (text is not None) == warned
    if text:
        assert "DFT energies are far from every EIP" in text
        assert "limit 0.5" in text
        assert "set energy_zero to isolated_atoms" in text


def test_warning_survives_missing_labels() -> None:
    c = planted()
    assert alignment_warning(c.dft, c.labels, c.n_atoms, c.eips) is None
    assert alignment_warning(c.dft, np.full((6, 3), np.nan), c.n_atoms, c.eips) is None
    text = alignment_warning(c.dft + 30.0, c.labels, c.n_atoms, c.eips)
    assert text is not None
    assert "eV/atom away (limit 0.5)" in text


def test_nothing_to_compare_with() -> None:
    store = LabelStore.open("bundled:si_mini/labels")
    with pytest.raises(LabelError, match="no frame has a DFT energy to compare the EIPs with; name"):
        compare([Atoms("Si", info={"config_id": "Si_00000"})], store)
    with pytest.raises(ZeroError, match="isolated-atom energy"):
        compare(read_structures("bundled:si_mini/dft.extxyz")[:3], store, energy_zero="isolated_atoms")


@pytest.mark.parametrize("mode", ["none", "least_squares", "isolated_atoms"])
def test_an_eip_of_some_elements_is_missing_for_the_others(tmp_path: Path, mode: str) -> None:
    """``silver`` is right for silver and has no label of gold; ``none`` has no label at all."""
    frames = []
    for k, formula in enumerate(("Ag", "Ag2", "Ag3", "Au", "AgAu", "Au2")):
        atoms = Atoms(formula, np.arange(3 * len(Atoms(formula))).reshape(-1, 3), info={})
        atoms.info["config_id"] = f"f{k}"
        atoms.calc = SinglePointCalculator(atoms, energy=-2.0 * len(atoms))
        frames.append(atoms)
    energies = np.full((6, 2), np.nan)
    energies[:3, 0] = [-2.0, -4.0, -6.0]
    write_labels(tmp_path / "labels", frames, energies, ("silver", "none"))
    comparison = compare(
        frames,
        LabelStore.open(tmp_path / "labels"),
        eip_zero=mode,
        eip_isolated={"Ag": 0.0} if mode == "isolated_atoms" else None,
    )
    np.testing.assert_allclose(comparison.labels[:3, 0], [-2.0, -4.0, -6.0], atol=1e-12)
    assert np.isnan(comparison.labels[3:, 0]).all()
    assert np.isnan(comparison.labels[:, 1]).all()
    assert np.isnan(comparison.forces).all()
    assert "force MAE (eV/Å)" not in readable(leaderboard(comparison))
    lines = {s.eip: s for s in leaderboard(comparison) if s.elements == "all"}
    assert (lines["silver"].frames, lines["silver"].missing) == (3, 3)
    assert lines["silver"].config_mae == pytest.approx(0.0, abs=1e-12)
    assert (lines["none"].frames, lines["none"].missing) == (0, 6)
