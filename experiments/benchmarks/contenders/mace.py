"""MACE at the sizes of `experiments/base/mace.yaml`: eipnn's wrapper against the library's own model as it comes.

The library's `ScaleShiftMACE` without forces still differentiates with respect to the positions, as it asks for
their gradients itself.
"""

import torch
from ase import Atoms
from ase.data import atomic_numbers

from contenders.prepared import Contender, Prepared, base, full_graph, ours
from eipnn.representations import Representation
from eipnn.representations.mace import import_mace


def eipnn(frames: list[Atoms], cutoff: float) -> Prepared:
    return ours(network_for(frames, cutoff), frames)


def library(frames: list[Atoms], cutoff: float) -> Prepared:
    network = library_network(network_for(frames, cutoff))
    graph = full_graph(frames, cutoff)
    counts = torch.tensor([len(atoms) for atoms in frames])
    given = {
        "positions": graph.pos,
        "cell": torch.zeros(3 * len(frames), 3),
        "edge_index": torch.stack([graph.sender, graph.receiver]),
        "shifts": -graph.translation,  # the library's vectors go to the receiver
        "node_attrs": torch.ones(len(graph.z), 1),
        "batch": torch.repeat_interleave(counts),
        "ptr": torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]),
    }
    return Prepared(
        network,
        lambda: network(given, training=True, compute_force=False)["node_energy"].float()[:, None],
        1,
        graph.pos,
    )


def library_network(like: Representation) -> torch.nn.Module:
    """`ScaleShiftMACE` at the sizes of one of eipnn's."""
    modules = import_mace()
    from e3nn.o3 import Irreps

    sizes = like.hparams
    hidden = [(sizes.channels, (order, (-1) ** order)) for order in range(sizes.max_L + 1)]
    return modules.ScaleShiftMACE(
        atomic_inter_scale=1.0,
        atomic_inter_shift=0.0,
        r_max=sizes.cutoff,
        num_bessel=sizes.bessel,
        num_polynomial_cutoff=sizes.envelope,
        max_ell=sizes.max_ell,
        interaction_cls=modules.RealAgnosticResidualInteractionBlock,
        interaction_cls_first=modules.RealAgnosticInteractionBlock,
        num_interactions=sizes.interactions,
        num_elements=len(sizes.elements),
        hidden_irreps=Irreps(hidden),
        MLP_irreps=Irreps("16x0e"),
        atomic_energies=torch.zeros(len(sizes.elements)),
        avg_num_neighbors=28.0,
        atomic_numbers=[atomic_numbers[symbol] for symbol in sizes.elements],
        correlation=sizes.correlation,
        gate=torch.nn.functional.silu,
    )


def network_for(frames: list[Atoms], cutoff: float):
    return base("mace", cutoff, elements=sorted(set(frames[0].symbols)))


MACE = [Contender("eipnn", eipnn), Contender("mace-torch", library)]
