"""Forces of SOAPNet on 64-atom silicon: autograd through SOAP in torch against dscribe's numerical derivatives.

    OMP_NUM_THREADS=1 python experiments/benchmarks/soap_forces.py [--rounds 5]

dscribe differentiates each feature of each atom with respect to each position by central differences; the chain rule
through the MLP follows. Both run in float64 in this process, in turns. Without weights (``smooth=False``), atoms drop
out at a radius with a step; where a numerical derivative reaches across it (dscribe moves atoms by 1e-4 A), its force
is far off.
"""

import argparse
import os
import time
from statistics import median

import torch
from ase import Atoms
from ase.build import bulk
from torch import Tensor
from torch_geometric.data import Batch

from eipnn.inputs import graph_of
from eipnn.representations import SOAPNet


def main() -> None:
    """Print the times of each round, their medians and the largest difference of a force."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of the two (default: 5)")
    options = parser.parse_args()
    atoms = bulk("Si", "diamond", 5.43, cubic=True).repeat(2)
    atoms.rattle(0.1, seed=0)
    torch.manual_seed(0)
    for name, net in (
        ("defaults", SOAPNet(["Si"])),
        ("dscribe's defaults", SOAPNet(["Si"], sigma=1.0, smooth=False)),
    ):
        net.calibrate([graph_of(Batch.from_data_list([net.inputs(atoms)]))])
        compare(net.double(), atoms, options.rounds, name)


def compare(net: SOAPNet, atoms: Atoms, rounds: int, name: str) -> None:
    print(f"{name}: {len(atoms)} atoms, load {os.getloadavg()[0]:.1f}")
    times = []
    for number in range(1, rounds + 1):
        start = time.perf_counter()
        ours = by_autograd(net, atoms)
        middle = time.perf_counter()
        numerical = by_dscribe(net, atoms)
        times.append((middle - start, time.perf_counter() - middle))
        print(f"  round {number}: torch {1e3 * times[-1][0]:.0f} ms, dscribe {times[-1][1]:.2f} s")
    torch_time, dscribe_time = (median(t) for t in zip(*times, strict=True))
    difference = (ours - numerical).abs().max().item()
    print(
        f"  median: torch {1e3 * torch_time:.0f} ms, dscribe {dscribe_time:.2f} s ({dscribe_time / torch_time:.0f} "
        f"times); largest force {ours.abs().max().item():.3g}, largest difference {difference:.1e}"
    )


def by_autograd(net: SOAPNet, atoms: Atoms) -> Tensor:
    """Minus the gradient (N, 3) of the sum of all features."""
    batch = Batch.from_data_list([net.inputs(atoms, torch.float64)])
    batch.pos.requires_grad_()
    return -torch.autograd.grad(net(graph_of(batch)).sum(), batch.pos)[0]


def by_dscribe(net: SOAPNet, atoms: Atoms) -> Tensor:
    """The same by the chain rule through dscribe's derivatives (atoms i, atoms j, 3, F)."""
    derivatives, features = net.soap.descriptor.derivatives(atoms, attach=True, method="numerical")
    soap = torch.from_numpy(features).requires_grad_()
    outer = torch.autograd.grad(net.mlp((soap - net.mean) * net.scale).sum(), soap)[0]
    return -torch.einsum("ijxf,if->jx", torch.from_numpy(derivatives), outer)


if __name__ == "__main__":
    main()
