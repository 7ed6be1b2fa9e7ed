"""Radial and angular basis functions of GemNet, and the envelope that makes them smooth at their cutoff.

In the notation of Gasteiger, Becker, Guennemann (NeurIPS 2021, arXiv 2106.08903; sections 4 and 6, after DimeNet,
arXiv 2003.03123) the radial basis is ``sqrt(2 / c) sin(n pi d / c) / d``, and the circular basis is
``sqrt(2 / (c^3 j_{l+1}(z_ln)^2)) j_l(z_ln d / c) Y_l0(angle)`` with z_ln the n-th zero of the spherical Bessel
function j_l. The radial basis is the order l = 0 of the radial part of the circular one, so that one class gives both.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import spherical_jn
from torch import Tensor, nn

EXPONENT = 5
"""p of the envelope, as in the paper's code."""


class BesselBasis(nn.Module):
    """``u(d / c) sqrt(2 / (c^3 j_{l+1}(z_ln)^2)) j_l(z_ln d / c)`` with the envelope u; in A^-1.5.

    Without the envelope the functions of each order are orthonormal in the ball of radius c: their products,
    integrated over ``d^2 dd`` from 0 to c, are 1 or 0. They are evaluated in float64, whatever the model's precision:
    the upward recursion of j_l loses digits at short distances. There are L `orders` l = 0, 1, ... of N `radial`
    functions n = 1, 2, ... each.
    """

    def __init__(self, orders: int, radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        zeros = bessel_zeros(orders, radial)
        slope = np.stack([spherical_jn(order + 1, zeros[order]) for order in range(orders)])
        norm = np.sqrt(2 / cutoff**3) / np.abs(slope)
        self.register_buffer("zeros", torch.from_numpy(zeros), persistent=False)  # (L, N)
        self.register_buffer("norm", torch.from_numpy(norm), persistent=False)  # (L, N)
        self.zeros: Tensor
        self.norm: Tensor

    def forward(self, distance: Tensor) -> Tensor:
        """(P,) in A -> (P, L, N)."""
        scaled = (distance.double() / self.cutoff).clamp(max=1).view(-1, 1, 1)
        values = spherical_bessel(scaled * self.zeros) * self.norm
        return (values * envelope(scaled)).to(distance.dtype)


def envelope(x: Tensor, p: int = EXPONENT) -> Tensor:
    """``1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2)``: 1 at x = 0; value, slope and curvature 0 at 1.

    DimeNet, Eq. 8, without its factor 1/x.
    """
    return 1 - x**p * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))


def spherical_bessel(x: Tensor) -> Tensor:
    """``j_l(x_l)``: arguments (..., L, N), of order l in row l -> values (..., L, N)."""
    x = x.clamp(min=1e-2)  # distances far below any bond: keeps the recursion finite
    orders = x.shape[-2]
    j, after = torch.sin(x) / x, (torch.sin(x) / x - torch.cos(x)) / x
    rows = [j[..., 0, :]]
    for order in range(1, orders):
        # row 0 is done with: from here on only the higher ones are carried along
        x, j, after = x[..., 1:, :], j[..., 1:, :], after[..., 1:, :]
        rows.append(after[..., 0, :])
        j, after = after, (2 * order + 1) / x * after - j
    return torch.stack(rows, dim=-2)


def bessel_zeros(orders: int, radial: int) -> np.ndarray:
    """The first zeros z_ln > 0 of j_l, (orders, radial). Those of j_l lie between those of j_{l-1}."""
    bounds = np.pi * np.arange(1, radial + orders)  # zeros of j_0
    rows = [bounds[:radial]]
    for order in range(1, orders):
        bessel = partial(spherical_jn, order)
        bounds = np.array([brentq(bessel, a, b, xtol=1e-13) for a, b in pairwise(bounds)])
        rows.append(bounds[:radial])
    return np.stack(rows)


def zonal_harmonics(cosine: Tensor, orders: int) -> list[Tensor]:
    """``Y_l0 = sqrt((2l+1) / 4 pi) P_l(cosine)`` for l = 0 ... orders - 1, each of the argument's shape."""
    legendre = [torch.ones_like(cosine), cosine]
    for order in range(2, orders):
        legendre.append(((2 * order - 1) * cosine * legendre[-1] - (order - 1) * legendre[-2]) / order)
    return [math.sqrt((2 * order + 1) / (4 * math.pi)) * p for order, p in enumerate(legendre[:orders])]
