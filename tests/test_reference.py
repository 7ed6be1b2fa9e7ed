"""Energy zeros: planted zeros are found, and what cannot be aligned is said."""

import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st

from eipnn.reference import Reference, ZeroError, fit_reference

FORMULAS = ("Ag", "Au2", "AgAu", "Ag3Au", "AgAu2")
STRUCTURES = [Atoms(formula) for formula in FORMULAS]
VALUE = st.floats(-1e4, 1e4)


@settings(max_examples=50, deadline=None)
@given(silver=VALUE, gold=VALUE)
def test_least_squares_finds_planted_zeros(silver: float, gold: float) -> None:
    planted = Reference("isolated_atoms", {"Ag": silver, "Au": gold})
    zero = fit_reference("least_squares", STRUCTURES, planted.totals(STRUCTURES))
    assert zero.energies == pytest.approx({"Ag": silver, "Au": gold}, abs=1e-6)
    np.testing.assert_allclose(zero.totals(STRUCTURES), planted.totals(STRUCTURES), atol=1e-5)


def test_an_eip_fit_shares_the_aligned_dfts_zero() -> None:
    cohesion = np.array([0.0, -2.0, -3.0, -9.0, -7.0])
    dft = cohesion + Reference("isolated_atoms", {"Ag": -100.0, "Au": -200.0}).totals(STRUCTURES)
    eip = cohesion + Reference("isolated_atoms", {"Ag": 3.0, "Au": 5.0}).totals(STRUCTURES)
    dft_zero = fit_reference("isolated_atoms", STRUCTURES, dft, {"Ag": -100.0, "Au": -200.0, "Cu": 1.0})
    aligned = dft - dft_zero.totals(STRUCTURES)
    eip_zero = fit_reference("least_squares", STRUCTURES, eip, beside=aligned)
    np.testing.assert_allclose(eip - eip_zero.totals(STRUCTURES), aligned, atol=1e-9)
    assert set(dft_zero.energies) == {"Ag", "Au"}


def test_missing_labels_are_left_out() -> None:
    energies = np.array([1.0, 4.0, 3.0, np.nan, np.nan])
    zero = fit_reference("least_squares", STRUCTURES, energies)
    assert zero.energies == pytest.approx({"Ag": 1.0, "Au": 2.0})


def test_none_subtracts_nothing() -> None:
    zero = fit_reference("none", STRUCTURES, np.arange(5))
    assert zero == Reference("none")
    assert zero.totals(STRUCTURES).tolist() == [0.0] * 5


def test_what_cannot_be_aligned() -> None:
    with pytest.raises(ZeroError, match="energy zero 'mean' is unknown; use one of isolated_atoms, l"):
        fit_reference("mean", STRUCTURES, np.zeros(5))
    with pytest.raises(ZeroError, match=r"needs an isolated-atom energy \(eV\) of Au; give it, or use"):
        fit_reference("isolated_atoms", STRUCTURES, np.zeros(5), {"Ag": 0.0})
    with pytest.raises(ZeroError, match="isolated-atom energy"):
        fit_reference("isolated_atoms", STRUCTURES, np.zeros(5))
    with pytest.raises(ZeroError, match="sw: 0 labelled frames do not determine"):
        fit_reference("least_squares", STRUCTURES, np.full(5, np.nan), source="sw")
    with pytest.raises(ZeroError, match=r"5 structures and energies of the shape \(4,\)"):
        fit_reference("least_squares", STRUCTURES, np.zeros(4))
    with pytest.raises(ZeroError, match="no energy zero for the element Cu, only for Ag; give the iso"):
        Reference("least_squares", {"Ag": 1.0}).totals([Atoms("AgCu")])
    with pytest.raises(ZeroError, match="the energy zero of Ag is nan; give a finite number"):
        Reference("isolated_atoms", {"Ag": float("nan")})


def test_one_stoichiometry_has_one_constant_a_formula_unit() -> None:
    frames = [Atoms("SiC"), Atoms("Si2C2"), Atoms("C3Si3")]
    zero = fit_reference("least_squares", frames, [-264.0, -528.0, -792.0])
    assert zero.energies == pytest.approx({"C": -132.0, "Si": -132.0})
    assert zero.note is not None
    assert "DFT: the 3 frames that the energy zero is fitted to do not determine one" in zero.note
    assert "energies of other compositions are not determined" in zero.note
    water = fit_reference("least_squares", [Atoms("H2O")] * 2, [-2079.0, -2081.0], source="emt")
    assert water.totals([Atoms("H4O2")]) == pytest.approx([-4160.0])
    assert water.note is not None
    assert water.note.startswith("emt: the 2 frames")
    assert fit_reference("least_squares", STRUCTURES, np.arange(5.0)).note is None


@pytest.mark.parametrize("mode", ["least_squares", "isolated_atoms", "none"])
def test_an_eip_of_some_of_the_elements(mode: str) -> None:
    energies = np.array([1.5, np.nan, np.nan, np.nan, np.nan])
    zero = fit_reference(mode, STRUCTURES, energies, {"Ag": 1.5}, source="ag-only")
    aligned = zero.aligned(STRUCTURES, energies, "ag-only")
    np.testing.assert_allclose(aligned, [1.5 * (mode == "none")] + [np.nan] * 4, atol=1e-12)
    if mode != "none":
        with pytest.raises(ZeroError, match="ag-only: no energy zero for the element Au, only for"):
            zero.aligned(STRUCTURES, np.zeros(5), "ag-only")
