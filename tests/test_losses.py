"""Tukey's biweight and its scale against statsmodels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from statsmodels.robust.norms import TukeyBiweight
from statsmodels.robust.scale import mad
from tiny import targets_of

from eipnn.losses import tukey_biweight, tukey_scale
from eipnn.stages.terms import CrossEntropy, EnergyError, EnergyTukey

residuals = arrays(
    np.float64,
    st.integers(1, 70),
    elements=st.floats(-1e4, 1e4).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


def reference_scale(residual):
    return 4.685 * mad(residual, c=0.6745, center=0)


@given(residuals)
def test_scale_is_statsmodels_mad(residual):
    k = tukey_scale(torch.tensor(residual)).item()
    assert k == pytest.approx(reference_scale(residual), rel=1e-6, abs=1e-12)


@given(residuals, st.floats(1e-3, 1e3))
def test_loss_is_statsmodels_rho(residual, k):
    ours = tukey_biweight(torch.tensor(residual), k).numpy()
    np.testing.assert_allclose(ours, TukeyBiweight(c=k).rho(residual), rtol=1e-6, atol=1e-12 * k**2)


@pytest.mark.parametrize(
    "residual",
    [
        [0.0, 0.0, 0.0, 5.0],
        [1e-300, 2e-300, 3e-300],
        [1e8, -1e8, 1.0],
        [3.0],
        [-2.0, 2.0],
    ],
)
def test_adversarial_residuals(residual):
    residual = np.array(residual)
    k = tukey_scale(torch.tensor(residual))
    assert k.item() == pytest.approx(reference_scale(residual), rel=1e-6)
    loss = tukey_biweight(torch.tensor(residual), k)
    assert torch.isfinite(loss).all()
    assert (loss <= k**2 / 6 * (1 + 1e-12)).all()


def test_even_count_takes_the_mean_of_the_middle_values():
    assert tukey_scale(torch.tensor([1.0, 3.0])).item() == pytest.approx(4.685 * 2 / 0.6745)


def test_outliers_have_no_gradient_and_k_none_either():
    residual = torch.tensor([0.1, -0.2, 0.3, 50.0], dtype=torch.float64, requires_grad=True)
    k = tukey_scale(residual)
    assert not k.requires_grad
    tukey_biweight(residual, k).sum().backward()
    assert residual.grad[3] == 0
    # dl/dr = r (1 - (r/k)^2)^2 for |r| <= k
    inner = residual.detach()[:3]
    torch.testing.assert_close(residual.grad[:3], inner * (1 - (inner / k) ** 2) ** 2)


def test_zero_scale_rejects_everything_without_nan():
    residual = torch.tensor([0.0, 0.0, 1.0], requires_grad=True)
    loss = tukey_biweight(residual, tukey_scale(residual))
    loss.sum().backward()
    assert loss.tolist() == [0, 0, 0]
    assert residual.grad.tolist() == [0, 0, 0]


def test_float32_is_close():
    residual = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    k = tukey_scale(residual)
    expected = TukeyBiweight(c=k.item()).rho(residual.double().numpy())
    np.testing.assert_allclose(tukey_biweight(residual, k).numpy(), expected, rtol=2e-5, atol=1e-6)


def test_no_residual_is_an_error():
    with pytest.raises(ValueError, match="at least one residual"):
        tukey_scale(torch.empty(0))


IS_DFT, N_ATOMS = torch.tensor([True, False, True, False]), torch.tensor([1, 2, 4, 8])


def test_terms_are_means_of_what_they_are_of():
    energy = torch.tensor([2.0, 5.0, 1.0, 5.0])  # residuals 1, 3, -2, 1
    targets = targets_of(torch.tensor([1.0, 2.0, 3.0, 4.0]), IS_DFT, N_ATOMS, label=torch.tensor([0, 1, 0, 1]))
    assert EnergyError(dft=True)(energy, targets).item() == 2.5
    assert EnergyError(7.0, dft=False)(energy, targets).item() == 5.0
    assert EnergyError()(energy, targets).item() == 3.75
    nan = torch.nan
    several = targets_of(torch.tensor([[1.0, nan], [2.0, 5.0], [3.0, nan], [nan, nan]]), IS_DFT)
    energies = torch.tensor([[2.0, 9.0], [4.0, 6.0], [0.0, 9.0], [9.0, 9.0]])
    assert EnergyError()(energies, several).item() == pytest.approx((1 + 4 + 1 + 9) / 4)
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)], [np.log(3.0), 0.0], [0.0, 0.0]])
    expected = -(2 * np.log(0.5) + 2 * np.log(0.75)) / 4
    assert CrossEntropy()(logits, targets).item() == pytest.approx(expected)


@pytest.mark.parametrize("per", ["configuration", "atom"])
@pytest.mark.parametrize("normalised", [False, True])
def test_the_biweight_term_has_k_of_the_whole_batch(per, normalised):
    term = EnergyTukey(per=per, normalised=normalised)
    residual = np.array([1.0, 3.0, -2.0, 80.0])
    size = N_ATOMS.numpy() if per == "atom" else np.ones(4)
    sigma = np.median(np.abs(residual / size)) / 0.6745
    k = 4.685 * sigma
    rho = [tukey_biweight(torch.tensor(residual[i] / size[i]), k).item() for i in (1, 3)]
    if normalised:
        rho = [part / sigma**2 for part in rho]
    zero = torch.zeros(4, dtype=torch.float64)
    found = term(torch.tensor(residual), targets_of(zero, IS_DFT, N_ATOMS))
    assert found.item() == pytest.approx(np.mean(rho), rel=1e-6)
    assert (np.abs(residual / size) <= term.k.item()).tolist() == [True, True, True, False]
    none = targets_of(zero, torch.ones(4, dtype=torch.bool), N_ATOMS)
    assert term(torch.tensor(residual), none).item() == 0
