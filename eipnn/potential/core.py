"""Base terms at short range: what a potential has beside the network, without trained parameters."""

from typing import Literal, get_args

import torch
from ase.data import covalent_radii
from ase.units import Bohr, Hartree
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph

CoreName = Literal["zbl"]
"""The words that switch one on."""

COULOMB = Hartree * Bohr
"""e^2 / (4 pi epsilon_0), eV A."""
SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Factors and decays of the universal screening function."""


class ZBL(nn.Module):
    """The universal repulsion of Ziegler, Biersack and Littmark, faded out before bonds begin.

    A pair at the distance r has the energy ``Z_i Z_j e^2 / (4 pi epsilon_0 r) phi(r / a) S(r)``, half of it each atom,
    with ``phi(x) = sum_k c_k exp(-d_k x)`` of `SCREENING` and ``a = 0.46850 A / (Z_i^0.23 + Z_j^0.23)`` (The Stopping
    and Range of Ions in Solids, Pergamon, 1985; constants as in LAMMPS' ``pair_style zbl``). S is 1 up to half the
    sum of the covalent radii and 0 from the sum on (or the cutoff, if that is shorter), between them a polynomial of
    the fifth degree with two continuous derivatives.

    Args:
        cutoff: of the network's pairs, A.
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.register_buffer("radii", torch.from_numpy(covalent_radii.copy()), persistent=False)  # A
        self.radii: Tensor

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Energies of the atoms (N,), eV, float64."""
        i, j = graph.edge_index
        r = graph.vectors.double().norm(dim=-1)  # (P,)
        outer = (self.radii[graph.z[i]] + self.radii[graph.z[j]]).double().clamp(max=self.cutoff)
        t = (2 * r / outer - 1).clamp(0, 1)
        fade = 1 - t**3 * (10 - 15 * t + 6 * t**2)
        z = graph.z.double()
        x = r * (z[i] ** 0.23 + z[j] ** 0.23) / 0.46850
        phi = torch.stack([factor * torch.exp(-decay * x) for factor, decay in SCREENING]).sum(dim=0)
        half = COULOMB * z[i] * z[j] / r * phi * fade / 2
        return half.new_zeros(z.shape[0]).index_add(0, i, half).index_add(0, j, half)


def core_of(name: CoreName | None, cutoff: float) -> ZBL | None:
    """The base term of this name, for pairs within a cutoff (A). Raises `InputError` where there is no such term."""
    if name not in (None, *get_args(CoreName)):
        raise InputError(f"core: there is no {name!r}; the base terms are {', '.join(get_args(CoreName))}")
    return ZBL(cutoff) if name else None
