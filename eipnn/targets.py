"""What is to be learned of configurations: what each of S sources (DFT, EIPs) says of them, where it is known."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch_geometric.data import Batch

PER_ATOM = ("forces",)
PER_CONFIGURATION = ("energy", "stress", "label")
PROPERTIES = ("energy", "forces", "stress")
"""What a potential learns and is tested on."""


@dataclass(frozen=True)
class Targets:
    """Of B configurations with N atoms. What is not known is 0 here (NaN in a batch) and never counts.

    ========  ============  ======================================================================
    energy    (B, S)        eV, float64, on the zero that the sources share
    forces    (N, S, 3)     eV/A
    stress    (B, S, 3, 3)  eV/A^3, positive under tension (ASE's sign)
    label     (B, 1)        int64, class of the EIP that is closest to DFT
    ========  ============  ======================================================================
    """

    values: dict[str, Tensor]
    """Those of the table that the data module gave."""
    known: dict[str, Tensor]
    """Which of them are known: (B, S), of forces (N, S)."""
    weight: Tensor
    """Of each label, (B, S) or (B, 1) for all sources; 0 for what pads a batch."""
    is_dft: Tensor
    """Of which configurations the labels are DFT's (B,)."""
    n_atoms: Tensor
    """(B,)."""

    @classmethod
    def of(cls, batch: Batch) -> Self:
        """Those of a batch of `Configurations`."""
        given = {name: batch[name] for name in (*PER_ATOM, *PER_CONFIGURATION) if name in batch}
        known = {name: value.isfinite().reshape(*value.shape[:2], -1).all(dim=-1) for name, value in given.items()}
        values = {name: value.nan_to_num() for name, value in given.items()}
        is_dft = batch.is_dft if "is_dft" in batch else torch.zeros_like(batch.n_atoms, dtype=torch.bool)
        return cls(values, known, batch.weight[:, None], is_dft, batch.n_atoms)

    def counts(self, name: str, dft: bool | None = None) -> Tensor:
        """The weight of each of these labels, (B, S), of forces (N, S): 0 where it is not known.

        Args:
            name: of the table.
            dft: those of DFT alone, or of EIPs alone.
        """
        weight = self.weight if dft is None else self.weight * (self.is_dft == dft)[:, None]
        if name in PER_ATOM:
            weight = weight.repeat_interleave(self.n_atoms, dim=0)
        return weight * self.known[name]

    def error(self, name: str, prediction: Tensor) -> Tensor:
        """The prediction less these labels, in their shape; 0 where they are not known."""
        value, known = self.values[name], self.known[name]
        known = known.reshape(*known.shape, *[1] * (value.dim() - 2))
        return torch.where(known, prediction.reshape(value.shape) - value, 0.0)

    def along(self, direction: Tensor) -> Self:
        """Forces and stress of a combination of the sources, as one source; energies and classes are left out.

        For unit vectors of random signs, v_k = +-1/sqrt(c) over the c known labels, the squared residual of the
        combination is on average the mean of the c squared residuals; it weighs as c labels do.

        Args:
            direction: v (B, S), 0 for what is not to count.
        """
        values, known = {}, {}
        for name in {"forces", "stress"}.intersection(self.values):
            of_each = direction.repeat_interleave(self.n_atoms, dim=0) if name in PER_ATOM else direction
            whole = (self.known[name] | (of_each == 0)).all(dim=1) & (of_each != 0).any(dim=1)
            known[name] = whole[:, None]
            value = self.values[name]
            values[name] = torch.einsum("ns,ns...->n...", of_each.to(value), value).unsqueeze(1)
        weight = self.weight[:, :1] * (direction != 0).sum(dim=1, keepdim=True)
        return type(self)(values, known, weight, self.is_dft, self.n_atoms)

    def known_of(self, name: str) -> Tensor:
        """Of which configurations and sources this property is known (B, S): of forces those of all atoms."""
        known = self.known[name]
        if name not in PER_ATOM:
            return known
        of = torch.arange(len(self.n_atoms), device=known.device).repeat_interleave(self.n_atoms)
        lost = torch.zeros(len(self.n_atoms), known.shape[1], dtype=torch.long, device=known.device)
        return lost.index_add(0, of, (~known).long()) == 0
