"""f_pred: from per-atom features to energies or EIP classes (Shui et al. 2022; sizes of the authors' code)."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import global_add_pool

from eipnn.batch_norm import BatchNorm
from eipnn.reference import Reference
from eipnn.representations.base import MAX_Z


class EnergyHead(nn.Module):
    """Energies of the atoms, ``scale_k MLP(h_i)_k + shift_k[z_i]``; their sum is the energy E_k.

    The MLP has the widths d -> d -> K. The scale and the shift per element come from the training labels
    (`set_scale`), so that the MLP sees targets of order one, whatever the energy zero. The shift is kept and summed in
    float64, whatever the precision of the rest: totals of 10^5 eV lose no digit that the network has.

    Args:
        dim: width d of the representation.
        outputs: number of energies: 1 for DFT, one per EIP in pretraining.
    """

    def __init__(self, dim: int, outputs: int = 1) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, outputs))
        self.register_buffer("scale", torch.ones(outputs))  # (K,) eV
        shift = torch.zeros(MAX_Z + 1, outputs, dtype=torch.float64)
        self.register_buffer("shift", shift)  # (MAX_Z + 1, K) eV
        self.scale: Tensor
        self.shift: Tensor

    def set_scale(self, scales: Sequence[float], shifts: Sequence[Reference]) -> None:
        """Set the scale, in eV, and the shift of each energy; elements without one have 0."""
        self.scale.copy_(torch.tensor(scales))
        self.shift.copy_(torch.from_numpy(np.stack([shift.table() for shift in shifts], axis=1)).nan_to_num())

    def forward(self, features: Tensor, z: Tensor) -> Tensor:
        """features (N, d), z (N,) -> energies of the atoms (N, K) in eV, float64."""
        return (self.mlp(features) * self.scale).double() + self.shift[z]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """As of every module, but the shift stays float64."""
        exact = self.shift
        super()._apply(fn, recurse)
        self.shift = exact.to(self.shift.device)
        return self


class ClassHead(nn.Module):
    """Logits over the EIPs and p_0: sum over atoms, batch normalisation, MLP d -> d -> |P| + 1."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.norm = BatchNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, classes))

    def forward(self, features: Tensor, batch: Tensor, size: int) -> Tensor:
        """features (N, d), batch (N,) -> logits (size, classes)."""
        pooled = global_add_pool(features, batch, size)  # (size, d)
        return self.mlp(self.norm(pooled))
