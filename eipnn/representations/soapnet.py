"""SOAPNet: SOAP features and an MLP (Shui et al., NeurIPS 2022, arXiv 2210.08047)."""

from collections.abc import Iterable
from itertools import pairwise

import torch
from torch import Tensor, nn

from eipnn.inputs.base import AtomicGraph
from eipnn.inputs.soap import Soap, power_spectrum
from eipnn.representations.base import Representation

ROUNDING = 1e-5
"""A standard deviation below this part of the mean is the rounding of features, which are kept in float32."""
NOTHING = 1e-10
"""A standard deviation below this part of the largest one is the rounding of dscribe's sums: the feature is zero."""


class SOAPNet(Representation):
    """The SOAP power spectrum of each atom, standardised, through an MLP.

    On energies alone, training and prediction read the features that dscribe computed (`Soap`). Where forces or stress
    are asked for, in training too, the same features are computed in torch from the neighbour graph
    (`power_spectrum`), with exact derivatives. dscribe has no analytic ones for periodic systems, its numerical ones
    take two calls a coordinate, and other libraries have other radial functions. Jacobians kept from the first epoch
    would make a step 2.5 to 4.5 times quicker (8 frames of si_mini: 5 in place of 21 ms), but take 0.3 MB a frame of
    6 atoms and 5 MB a cell of 64 of one element: 50 GB for 10,000 such cells. They are not kept.

    The defaults for what the paper leaves open were chosen on the validation splits of si_mini (fine-tuning without
    EIPs; three splits, two seeds): 0.142 eV with them, 0.178 eV without the fading, 0.203 eV without it and with
    dscribe's default sigma of 1 A.

    Args:
        elements: symbols of all elements that may occur.
        cutoff: of SOAP in A; with ``smooth=False`` atoms are seen beyond it, see `Soap`.
        n_max: number of radial functions of SOAP.
        l_max: highest degree of its spherical harmonics.
        sigma: width in A of the Gaussian that stands for an atom.
        smooth: whether neighbours fade out towards the cutoff, so that forces are continuous.
        width: of the MLP's layers (and `dim`).
        layers: number of the MLP's layers.
    """

    def __init__(
        self,
        elements: list[str],
        cutoff: float = 5.0,
        n_max: int = 8,
        l_max: int = 6,
        sigma: float = 0.5,
        smooth: bool = True,
        width: int = 128,
        layers: int = 5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.require_positive("l_max")
        self.soap = Soap(tuple(elements), cutoff, n_max, l_max, sigma, smooth)
        self.cutoff = self.soap.reach
        self.dim = width
        self.register_buffer("mean", torch.zeros(self.soap.dim))  # (F,)
        self.register_buffer("scale", torch.ones(self.soap.dim))  # (F,)
        self.mean: Tensor
        self.scale: Tensor
        sizes = pairwise([self.soap.dim] + [width] * layers)
        self.mlp = nn.Sequential(*(part for n, m in sizes for part in (nn.Linear(n, m), nn.SiLU())))

    @property
    def inputs(self) -> Soap:
        return self.soap

    def forward(self, graph: AtomicGraph) -> Tensor:
        """-> features (N, dim)."""
        return self.mlp((self._features(graph) - self.mean) * self.scale)

    def _features(self, graph: AtomicGraph) -> Tensor:
        """SOAP (N, F)."""
        return power_spectrum(graph, self.soap) if graph.features is None else graph.features

    def calibrate(self, graphs: Iterable[AtomicGraph]) -> None:
        """Standardise each feature over the atoms of the training configurations.

        A feature that is the same in all of them tells nothing: it is left out, whatever it is elsewhere. In one pass:
        sums of squares around the means of batches are joined as Chan, Golub and LeVeque do (1979).
        """
        atoms, mean = 0, torch.zeros(self.soap.dim, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for features in map(self._features, graphs):
            values, before = features.double(), atoms
            atoms += len(values)
            here = values.mean(dim=0)
            squares += (values - here).square().sum(dim=0) + (here - mean).square() * before * len(values) / atoms
            mean += (here - mean) * len(values) / atoms
        deviation = (squares / atoms).sqrt()
        varies = deviation > (ROUNDING * mean.abs()).clamp(min=NOTHING * deviation.max().item())
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(varies, 1 / deviation, 0.0))
