"""Peak memory and time of GemNet's training step on 108-atom aluminium cells with edges up to 7 A.

    OMP_NUM_THREADS=1 python experiments/benchmarks/gemnet_memory.py [--device cuda] [-o FILE.csv]

GemNet-T at the paper's sizes; rattled fcc cells (3 x 3 x 3 cubic cells, 4.05 A, 0.1 A of noise) make one gradient step
in micro-batches whose gradients are accumulated, as ``trainer.accumulate_grad_batches`` does: at least eight cells and
two micro-batches, after which memory grows no further. Each setting runs in a process of its own. Memory on the CPU
is the process's largest resident size (`ru_maxrss`), and what of it came after the imports; on a GPU the largest
memory that PyTorch held. Times are a cell's: 32 of them are the step of a batch of 32; on the CPU, processor time.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

CUTOFF = 7.0


def main() -> None:
    """Print a line for each setting, and write them all to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="micro-batches")
    parser.add_argument("--triplet-cutoffs", type=float, nargs="+", default=[4.0, 7.0], help="A")
    parser.add_argument("--checkpointing", type=int, nargs="+", default=[0, 1], help="0, 1 or both")
    parser.add_argument("-o", type=Path, dest="output", help="CSV file")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one))))
        return
    rows = []
    for radius, batch, checkpointing in itertools.product(
        options.triplet_cutoffs, options.batches, options.checkpointing
    ):
        setting = {
            "device": options.device,
            "triplet_cutoff": radius,
            "batch": batch,
            "checkpointing": bool(checkpointing),
        }
        command = [sys.executable, __file__, "--one", json.dumps(setting)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append({**setting, **json.loads(done.stdout.splitlines()[-1])})
        print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="; ", flush=True)
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def measure(device: str, triplet_cutoff: float, batch: int, checkpointing: bool) -> dict:
    """One gradient step in micro-batches of `batch` frames."""
    import torch
    from ase.build import bulk
    from torch_geometric.data import Batch

    from eipnn.inputs import graph_of
    from eipnn.potential.heads import EnergyHead
    from eipnn.representations import GemNet

    torch.manual_seed(0)
    net = GemNet(CUTOFF, triplet_cutoff=triplet_cutoff, checkpointing=checkpointing).to(device)
    head = EnergyHead(net.dim).to(device)
    weights = [*net.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    frames = max(8, 2 * batch)
    items = []
    for seed in range(frames):
        atoms = bulk("Al", cubic=True, a=4.05) * (3, 3, 3)
        atoms.rattle(0.1, seed=seed)
        items.append(net.inputs(atoms))
    batches = [Batch.from_data_list(items[k : k + batch]).to(device) for k in range(0, frames, batch)]
    before = resident_gib()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start, wall = time.process_time(), time.perf_counter()
    for data in batches:
        energy = head(net(graph_of(data)), data.z, data.batch, data.num_graphs)
        (energy.square().sum() / frames).backward()
    torch.nn.utils.clip_grad_norm_(weights, 5.0)
    optimizer.step()
    if device == "cuda":
        torch.cuda.synchronize()
        return {
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "seconds_a_cell": round((time.perf_counter() - wall) / frames, 3),
        }
    pairs = sum(item.edge_index.shape[1] for item in items) / frames
    return {
        "pairs_a_cell": round(pairs),
        "peak_gib": round(resident_gib(), 2),
        "above_start_gib": round(resident_gib() - before, 2),
        "cpu_seconds_a_cell": round((time.process_time() - start) / frames, 2),
        "load": round(os.getloadavg()[0], 1),
    }


def resident_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
