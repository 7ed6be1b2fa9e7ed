"""What fairchem's GemNet-T takes from torch_scatter and torch_sparse, on torch's own operations.

Those two are built from source against one version of torch; without them fairchem does not import.
"""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace

import torch
from torch import Tensor
from torch_geometric.utils import scatter


class SparseTensor:
    """Values of a sparse matrix by rows; ``matrix[rows].storage`` holds those of the rows, one after the other."""

    def __init__(self, row: Tensor, col: Tensor, value: Tensor, sparse_sizes: tuple[int, int]) -> None:
        order = (row * sparse_sizes[1] + col).argsort(stable=True)
        self.values = value[order]
        self.counts = torch.bincount(row, minlength=sparse_sizes[0])
        self.starts = self.counts.cumsum(0) - self.counts

    def __getitem__(self, rows: Tensor) -> SimpleNamespace:
        counts = self.counts[rows]
        row = torch.repeat_interleave(counts)  # (T,)
        first = counts.cumsum(0) - counts
        place = torch.arange(len(row)) - first[row] + self.starts[rows][row]
        values = self.values[place]
        return SimpleNamespace(storage=SimpleNamespace(value=lambda: values, row=lambda: row))


def segment_csr(src: Tensor, indptr: Tensor, reduce: str = "sum") -> Tensor:
    """Sums between the positions `indptr`; fairchem counts with it, and torch's own segments hold no whole numbers."""
    assert reduce == "sum"
    segment = torch.repeat_interleave(indptr.diff())
    return src.new_zeros(len(indptr) - 1).index_add(0, segment, src[: len(segment)])


def provide() -> None:
    """Let fairchem import where the two are not installed."""
    for name, parts in (
        ("torch_scatter", {"scatter": scatter, "segment_csr": segment_csr}),
        ("torch_sparse", {"SparseTensor": SparseTensor}),
    ):
        if importlib.util.find_spec(name) is None:
            module = ModuleType(name)
            module.__spec__ = importlib.util.spec_from_loader(name, None)
            vars(module).update(parts)
            sys.modules[name] = module
