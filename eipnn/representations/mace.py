"""MACE (Batatia et al., NeurIPS 2022, arXiv 2206.07697): a wrapper of the library `mace-torch`."""

import contextlib
import io
import os
import threading
from collections.abc import Iterable
from itertools import islice
from types import ModuleType
from typing import Any, Self

import torch
from ase.data import atomic_numbers
from torch import Tensor

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph
from eipnn.representations.base import MAX_Z, Representation
from eipnn.representations.mace_layers import CORRELATIONS, Harmonics, Layer

UNSAFE = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
ONE_AT_A_TIME = threading.Lock()
"""Held where settings of the whole process (of torch, e3nn, standard output) are changed for a moment."""
CALIBRATION_BATCHES = 32
"""Batches whose features are standardised: enough atoms, and no longer than that."""
COUNTED_BATCHES = 1000
"""Batches whose neighbours are counted."""


class MACE(Representation):
    """Equivariant message passing with many-body messages; the features are the scalars of all layers.

    Weights, embedding and radial functions are the library's own, put together as in its ``MACE``; interactions and
    products are those of `eipnn.representations.mace_layers`; its readouts and atomic energies are left out.
    Needs the extra: ``pip install 'eipnn[mace]'``. The defaults suit a CPU; larger is the library's own
    ``max_ell=3, correlation=3``, and 128 channels.

    Args:
        elements: symbols of all elements that may occur.
        cutoff: neighbour cutoff in A.
        channels: width of each kind of feature; `dim` is channels * interactions.
        max_L: largest order of the features between layers: 0 for scalars, 1 for vectors too, and so on.
        max_ell: largest order of the spherical harmonics of directions.
        correlation: number of neighbours that one message correlates (body order less one), 3 at most.
        interactions: number of layers.
        bessel: number of radial functions.
        envelope: power of the polynomial that takes them to zero at the cutoff, with two derivatives.

    Raises:
        InputError: the library is not installed, or an element is none; in `forward`, an atom is of no named element.
    """

    def __init__(
        self,
        elements: list[str],
        cutoff: float = 5.0,
        channels: int = 64,
        max_L: int = 1,
        max_ell: int = 2,
        correlation: int = 2,
        interactions: int = 2,
        bessel: int = 8,
        envelope: int = 5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.require_positive("max_L", "max_ell")
        if correlation not in CORRELATIONS:
            raise InputError(f"correlation must be 1, 2 or 3, not {correlation}")
        self.elements, self.cutoff, self.channels = list(elements), cutoff, channels
        self.dim = channels * interactions
        with ONE_AT_A_TIME:  # another thread may have changed the default precision
            self.register_buffer("one_hot", one_hot_rows(self.elements), persistent=False)
            modules = import_mace()
        self.one_hot: Tensor
        from e3nn.o3 import Irreps
        from mace.tools.compile import disable_e3nn_codegen
        from mace.tools.torch_tools import default_dtype

        # Without TorchScript: it is no faster here, is slow to start and deprecated.
        with ONE_AT_A_TIME, default_dtype(torch.float64), disable_e3nn_codegen():
            model = modules.MACE(
                r_max=cutoff,
                num_bessel=bessel,
                num_polynomial_cutoff=envelope,
                max_ell=max_ell,
                interaction_cls=modules.RealAgnosticResidualInteractionBlock,
                interaction_cls_first=modules.RealAgnosticInteractionBlock,
                num_interactions=interactions,
                num_elements=len(elements),
                hidden_irreps=Irreps([(channels, (order, (-1) ** order)) for order in range(max_L + 1)]),
                MLP_irreps=Irreps("1x0e"),
                atomic_energies=[0.0] * len(elements),
                avg_num_neighbors=1.0,  # found in `calibrate`
                atomic_numbers=[atomic_numbers[symbol] for symbol in elements],
                correlation=correlation,
                gate=None,
                use_reduced_cg=False,
            )
        self.node_embedding = model.node_embedding
        self.radial_embedding = model.radial_embedding
        self.spherical_harmonics = Harmonics(model.spherical_harmonics)
        self.interactions = model.interactions
        self.products = model.products
        for part in self.modules():  # a mark of e3nn's, for copying modules by way of TorchScript
            part.__dict__.pop("__codegen__", None)
        # Coupling coefficients and the like, exact; see `_apply`. What `calibrate` finds is registered after them.
        floats = ((k, v) for k, v in self.named_buffers() if v.is_floating_point())
        self._constants = {name: buffer.clone() for name, buffer in floats}
        for block in self.interactions:
            del block.avg_num_neighbors  # a plain number, which no checkpoint would keep
            block.register_buffer("avg_num_neighbors", torch.tensor(1.0))
        self.layers = [Layer(*blocks) for blocks in zip(self.interactions, self.products, strict=True)]
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("spread", torch.ones(self.dim))
        self.mean: Tensor
        self.spread: Tensor
        self.to(torch.get_default_dtype())

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim). Mixed precision is not the library's: full it is."""
        device = graph.z.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.forward(graph)
        return (self.scalars(graph) - self.mean) / self.spread

    def scalars(self, graph: AtomicGraph) -> Tensor:
        """The library's own features (N, dim)."""
        node_attrs = self.one_hot[graph.z]  # (N, S)
        if not torch.compiler.is_compiling() and not node_attrs.any(dim=1).all():
            stranger = graph.z[~node_attrs.any(dim=1)][0]
            raise InputError(
                f"an atom of atomic number {stranger} is none of {', '.join(self.elements)}: "
                "name every element in the representation's `elements`"
            )
        pairs = graph.edge_index
        distance = graph.vectors.norm(dim=-1, keepdim=True)  # (P, 1)
        harmonics = self.spherical_harmonics(graph.vectors / distance)  # (P, (ell + 1)^2)
        radial, _ = self.radial_embedding(distance, node_attrs, pairs, graph.z)  # (P, bessel)
        features = self.node_embedding(node_attrs).unsqueeze(1)  # (N, 1, channels)
        scalars = []
        for layer in self.layers:
            features = layer(features, node_attrs, harmonics, radial, pairs, graph.curvature)
            scalars.append(features[:, 0])
        return torch.cat(scalars, dim=-1)

    def calibrate(self, graphs: Iterable[AtomicGraph]) -> None:
        """The mean number of neighbours, by which messages are divided, and a standardisation of each feature.

        The features of the untrained network vary by 0.01 or so; a head learns much faster from a spread of one.
        """
        pairs, atoms = 0, 0
        for graph in islice(graphs, COUNTED_BATCHES):
            pairs += graph.edge_index.shape[1]
            atoms += len(graph.z)
        for block in self.interactions:
            block.avg_num_neighbors.fill_(max(2 * pairs / atoms, 1.0))
        scalars = torch.cat([self.scalars(g) for g in islice(graphs, CALIBRATION_BATCHES)])
        spread, mean = torch.std_mean(scalars, dim=0, correction=0)
        varies = spread > 1e-5 * mean.abs()  # more than rounding
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(varies, spread, 1.0))

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Take the constants anew from their exact values: rounded to float32, they would spoil float64."""
        super()._apply(fn, recurse)
        for name, value in self._constants.items():
            self.get_buffer(name).copy_(value)
        return self


def one_hot_rows(elements: list[str]) -> Tensor:
    """For each atomic number a row with a one for its element, zeros where it is none of them (MAX_Z + 1, S)."""
    if not elements or not set(elements) <= set(atomic_numbers) or len(set(elements)) < len(elements):
        raise InputError(f"elements must be a list of different chemical symbols, not {elements}")
    rows = torch.zeros(MAX_Z + 1, len(elements))
    rows[[atomic_numbers[symbol] for symbol in elements]] = torch.eye(len(elements))
    return rows


def import_mace() -> ModuleType:
    """The module `mace.modules`, without the side effects of its import.

    Raises:
        InputError: it is not installed.
    """
    before = os.environ.get(UNSAFE)
    try:
        # e3nn reads a file of its own that holds slices; mace, to allow that, lets torch.load run any code.
        with torch.serialization.safe_globals([slice]), contextlib.redirect_stdout(io.StringIO()):
            import e3nn.o3  # noqa: F401 (before mace)
            import mace.modules
    except ModuleNotFoundError as error:
        raise InputError(f"the representation MACE needs mace-torch ({error}): pip install 'eipnn[mace]'") from error
    finally:
        os.environ.pop(UNSAFE, None)
        if before is not None:
            os.environ[UNSAFE] = before
    return mace.modules
