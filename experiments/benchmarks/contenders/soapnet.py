"""SOAPNet at the paper's sizes. A plain MLP has no peer; the other contender lets dscribe work in every step."""

import torch
from ase import Atoms
from torch_geometric.data import Batch

from contenders.prepared import Contender, Prepared, base, ours
from eipnn.inputs import graph_of


def eipnn(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(network_for(frames, cutoff), frames)


def dscribe(frames: list[Atoms], cutoff: float) -> Prepared:
    network = network_for(frames, cutoff)
    prepared = ours(network, frames)
    batch = Batch.from_data_list([network.inputs(atoms) for atoms in frames])

    def features() -> torch.Tensor:
        soap = torch.cat([network.inputs(atoms).features for atoms in frames])
        return network(graph_of(batch)._replace(features=soap))

    return Prepared(network, features, prepared.dim, prepared.positions)


def network_for(frames: list[Atoms], cutoff: float):
    return base("soapnet", cutoff, elements=sorted(set(frames[0].symbols)))


SOAPNET = [Contender("eipnn", eipnn), Contender("dscribe in every step", dscribe, forces=False)]
