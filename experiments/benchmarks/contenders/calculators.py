"""ASE calculators with random weights, for silicon up to 5 A: eipnn's and those of the libraries, for `md_speed.py`.

SchNet has 128 features, filters and Gaussians and 5 blocks; MACE 32 channels, harmonics to degree 3, features to degree
1, correlation 3 and 2 layers. Each library's calculator is set as its documentation has it for molecular dynamics:
SchNetPack and graph-pes keep a neighbour list with a skin of 1 A, mace-torch makes one in every step.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ase.calculators.calculator import Calculator

from contenders.mace import library_network
from contenders.prepared import base
from contenders.schnet import BLOCKS, FEATURES, GAUSSIANS, schnetpack_network
from eipnn import EIPNNCalculator, Potential
from eipnn.potential.heads import EnergyHead
from eipnn.representations import Representation

CUTOFF = 5.0
SKIN = 1.0


def ours(network: Representation, **options: Any) -> EIPNNCalculator:
    zeros = {"dft": {"mode": "isolated_atoms", "energies": {"Si": 0.0}}}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "random.pt"
        Potential(network, EnergyHead(network.dim), ["Si"], zeros).save(file)
        return EIPNNCalculator(file, **options)


def eipnn_schnet() -> Calculator:
    return ours(base("schnet", CUTOFF))


def eipnn_schnet_tabulated() -> Calculator:
    return ours(base("schnet", CUTOFF), tabulate=True)


def schnetpack() -> Calculator:
    network = schnetpack_network(CUTOFF)
    from schnetpack.atomistic import Atomwise, Forces, PairwiseDistances
    from schnetpack.interfaces.ase_interface import SpkCalculator
    from schnetpack.model import NeuralNetworkPotential
    from schnetpack.transform import MatScipyNeighborList, SkinNeighborList

    class Loaded(SpkCalculator):
        """Of a network that is there, in place of a file, which newer torch refuses."""

        def _load_model(self, model_file: Any) -> Any:
            return model_file.eval()

    outputs = [Atomwise(n_in=FEATURES, output_key="energy"), Forces()]
    potential = NeuralNetworkPotential(network, [PairwiseDistances()], outputs)
    return Loaded(potential, SkinNeighborList(MatScipyNeighborList(CUTOFF), cutoff_skin=SKIN), energy_unit="eV")


def graph_pes() -> Calculator:
    from graph_pes.models import SchNet

    return SchNet(CUTOFF, FEATURES, GAUSSIANS, BLOCKS).ase_calculator(skin=SKIN)


def mace() -> Representation:
    return base("mace", CUTOFF, channels=32, max_L=1, max_ell=3, correlation=3, interactions=2)


def eipnn_mace() -> Calculator:
    return ours(mace())


def mace_torch() -> Calculator:
    network = library_network(mace())
    from mace.calculators import MACECalculator

    return MACECalculator(models=network, default_dtype="float32")


CALCULATORS: dict[str, dict[str, Callable[[], Calculator]]] = {
    "SchNet": {
        "eipnn": eipnn_schnet,
        "eipnn, tabulate=True": eipnn_schnet_tabulated,
        "SchNetPack": schnetpack,
        "graph-pes": graph_pes,
    },
    "MACE": {"eipnn": eipnn_mace, "mace-torch": mace_torch},
}
"""The first of each is eipnn's; the others' ratios are to it."""
