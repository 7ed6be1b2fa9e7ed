"""Base terms at short range: what a potential has beside the network, without trained parameters."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from ase.units import Bohr, Hartree
from torch import Tensor, nn

from eipnn.errors import InputError
from eipnn.generate.distance import PARENT_SHARE, RADII
from eipnn.inputs import AtomicGraph
from eipnn.potential.seen import closest_in

CoreName = Literal["zbl", "wall"]
"""The words that switch one on: a `ZBL` that is part of what is trained, or one where the training frames end."""

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
        seen: what a training saw: the repulsion is a wall where its frames end, with `PARENT_SHARE` of the shortest
            distance of two elements (as close as pools come) in place of the sum of their radii, where that is less.
    """

    def __init__(self, cutoff: float, seen: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.seen = seen
        self.name: CoreName = "zbl" if seen is None else "wall"
        outer = RADII if seen is None else np.minimum(PARENT_SHARE * closest_in(seen), RADII)
        self.register_buffer("outer", torch.from_numpy(np.minimum(outer, cutoff)), persistent=False)  # A
        self.outer: Tensor

    def forward(self, graph: AtomicGraph) -> Tensor:
        """Energies of the atoms (N,), eV, float64."""
        i, j = graph.edge_index
        r = graph.vectors.double().norm(dim=-1)  # (P,)
        outer = self.outer[graph.z[i], graph.z[j]].double()
        t = (2 * r / outer - 1).clamp(0, 1)
        fade = 1 - t**3 * (10 - 15 * t + 6 * t**2)
        z = graph.z.double()
        x = r * (z[i] ** 0.23 + z[j] ** 0.23) / 0.46850
        phi = torch.stack([factor * torch.exp(-decay * x) for factor, decay in SCREENING]).sum(dim=0)
        half = COULOMB * z[i] * z[j] / r * phi * fade / 2
        return half.new_zeros(z.shape[0]).index_add(0, i, half).index_add(0, j, half)


def core_of(name: CoreName | None, cutoff: float, seen: Mapping[str, Any] | None = None) -> ZBL | None:
    """The base term of this name; of a wall, which a training does not have, None where nothing was seen.

    Args:
        name: None for none.
        cutoff: of the network's pairs, A.
        seen: what a training saw.

    Raises:
        InputError: there is no such term.
    """
    if name not in (None, *get_args(CoreName)):
        raise InputError(f"core: there is no {name!r}; the base terms are {', '.join(get_args(CoreName))}")
    if name == "wall":
        return ZBL(cutoff, seen) if seen else None
    return ZBL(cutoff) if name else None
