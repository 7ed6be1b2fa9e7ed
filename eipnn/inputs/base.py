"""What turns atoms into the input of a representation."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from ase import Atoms
from torch_geometric.data import Data


class Inputs(ABC):
    """Settings of one kind of model input; equal settings make equal inputs.

    The fields that every `Data` carries, whatever the kind:

    ======== ========= ======= =====================
    field    shape     dtype   what
    ======== ========= ======= =====================
    z        (N,)      int64   atomic numbers
    pos      (N, 3)    float   positions, A
    cell     (1, 3, 3) float   lattice vectors as rows, A; zero where there is none
    n_atoms  (1,)      int64   N
    ======== ========= ======= =====================
    """

    costly: ClassVar[bool] = False
    """Whether one takes milliseconds; many are then built by several processes."""

    @abstractmethod
    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        """The model input of one configuration."""

    @abstractmethod
    def key(self) -> str:
        """A text that names the kind and its settings; inputs are cached under it."""
