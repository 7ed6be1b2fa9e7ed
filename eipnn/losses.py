"""The robust loss on EIP labels (Shui et al. 2022, Eq. 3 and 4)."""

import torch
from torch import Tensor

TUNING = 4.685
"""Tuning constant of the biweight: 95 % efficiency for normal errors (Eq. 4)."""

NORMAL_MAR = 0.6745
"""Median absolute residual of a standard normal variable."""


def tukey_scale(residual: Tensor) -> Tensor:
    """The constant k of Eq. 4 from residuals: ``k = 4.685 * MAR / 0.6745``.

    MAR is the median of ``|r|``, the mean of the two middle values for an even count, as in
    ``statsmodels.robust.mad(r, c=0.6745, center=0)``. No gradient flows through k: it is an
    estimate of the noise, not a quantity to be minimised.

    Args:
        residual: any shape, eV; raises `ValueError` where there is none.

    Returns:
        k, a scalar in eV; 0 where more than half of the residuals are exactly zero.
    """
    if residual.numel() == 0:
        raise ValueError("tukey_scale needs at least one residual")
    mar = torch.quantile(residual.detach().abs().flatten(), 0.5)
    return TUNING * mar / NORMAL_MAR


def tukey_biweight(residual: Tensor, k: Tensor | float) -> Tensor:
    """Tukey's biweight of each residual (Eq. 4).

    ``k^2/6 (1 - (1 - (r/k)^2)^3)`` where ``|r| <= k``, the constant ``k^2/6`` beyond: a residual
    larger than k has no gradient. With k = 0 every residual is rejected and the loss is 0.

    Args:
        residual: any shape, eV.
        k: the tuning constant, eV, not negative (see `tukey_scale`); one for all, or of the shape of `residual`.

    Returns:
        The shape of `residual`, eV^2.
    """
    k = torch.as_tensor(k, dtype=residual.dtype, device=residual.device)
    # k = 0 must not divide by zero: the square is 1 there, which the clamp turns into the plateau
    squared = torch.where(k > 0, residual / torch.where(k > 0, k, 1.0), 1.0).square().clamp(max=1.0)
    # 1 - (1 - x)^3, expanded: the closed form cancels where r << k
    return k.square() / 6 * squared * (3 - 3 * squared + squared.square())
