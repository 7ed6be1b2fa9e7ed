"""CGCNN, the crystal graph convolutional network (Xie & Grossman, PRL 120, 145301, 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eipnn.batch_norm import BatchNorm
from eipnn.inputs import AtomicGraph
from eipnn.representations.base import MAX_Z, Representation
from eipnn.representations.schnet import GaussianExpansion, cosine_cutoff


class CGCNN(Representation):
    """Gated convolutions on the crystal graph, with the weights of PyG's ``CGConv``.

    The sizes of the authors' code by default: 64 atom features, 3 convolutions, 41 Gaussians ``exp(-(r - mu)^2 /
    (0.2 A)^2)``. Elements are embedded by their number, in place of the authors' table of element properties.

    The published convolution sums over the neighbours within the cutoff with no regard to their distance, so that
    energies jump where an atom crosses the cutoff. By default each message is multiplied by a cosine cutoff, and
    energies and forces are smooth; ``smooth=False`` is the published form, for single points alone.

    Batch normalisation takes the statistics of a batch's atoms in training, so that there the energy of a
    configuration depends on those beside it. In evaluation it is a fixed linear map, and energies are extensive.
    Several processes normalise by the atoms of all of them, so that ``trainer.sync_batchnorm`` is not needed.

    Args:
        cutoff: neighbour cutoff in A.
        features: width of the atom features (and `dim`).
        gaussians: number of Gaussians between 0 and the cutoff that expand a distance.
        gamma: their exponent in 1/A^2.
        convolutions: number of convolutions.
        batch_norm: whether to normalise the sum of the messages, as the authors' code.
        smooth: see above.
    """

    def __init__(
        self,
        cutoff: float = 5.0,
        features: int = 64,
        gaussians: int = 41,
        gamma: float = 25.0,
        convolutions: int = 3,
        batch_norm: bool = True,
        smooth: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.require_positive()
        self.cutoff = cutoff
        self.dim = features
        self.smooth = smooth
        self.embedding = nn.Embedding(MAX_Z + 1, features)
        self.expansion = GaussianExpansion(cutoff, gaussians, gamma)
        self.convolutions = nn.ModuleList(Convolution(features, gaussians, batch_norm) for _ in range(convolutions))

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        distance = graph.vectors.norm(dim=-1)  # (P,)
        expanded = self.expansion(distance)  # (P, G)
        within = cosine_cutoff if self.smooth else step_cutoff
        envelope = within(distance, self.cutoff).unsqueeze(-1)  # (P, 1)
        i, j = graph.edge_index
        features = self.embedding(graph.z)  # (N, F)
        for convolution in self.convolutions:
            features = features + convolution(features, i, j, expanded, envelope)
        return features


class Convolution(nn.Module):
    """``x_i <- BN(sum_j sigmoid(z W_f + b_f) * softplus(z W_s + b_s) * cutoff(r_ij))``, the update that is added to x.

    Here ``z = [x_i, x_j, e_ij]`` (Eq. 5). The product ``z W`` is a sum of one an atom for each of x_i and x_j, and of
    one a pair for e_ij, which i-j shares with j-i.
    """

    def __init__(self, features: int, gaussians: int, batch_norm: bool) -> None:
        super().__init__()
        # rows: W_f above W_s; columns: x_i, x_j, e_ij
        self.gates = nn.Linear(2 * features + gaussians, 2 * features)
        self.norm = BatchNorm(features) if batch_norm else nn.Identity()

    def forward(self, x: Tensor, i: Tensor, j: Tensor, expanded: Tensor, envelope: Tensor) -> Tensor:
        """x (N, F), i and j (P,), expanded (P, G), envelope (P, 1) -> update (N, F)."""
        width = x.shape[1]
        own, other, pair = self.gates.weight.split([width, width, expanded.shape[1]], dim=1)
        centre = F.linear(x, own, self.gates.bias)  # (N, 2 F)
        neighbour = F.linear(x, other)  # (N, 2 F)
        edge = F.linear(expanded, pair)  # (P, 2 F)
        update = torch.zeros_like(x)
        for a, b in ((i, j), (j, i)):
            # added in place: on the CPU new memory costs more than the sums
            z = centre.index_select(0, a).add_(neighbour.index_select(0, b)).add_(edge)
            gate, core = z.chunk(2, dim=1)  # (P, F) each
            update.index_add_(0, a, gate.sigmoid() * F.softplus(core) * envelope)
        return self.norm(update)


def step_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """1 up to the cutoff and 0 beyond it."""
    return (distance <= cutoff).to(distance.dtype)
