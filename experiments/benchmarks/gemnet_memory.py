"""Peak memory and time of GemNet's training step on 108-atom aluminium cells with edges up to 7 A.

    OMP_NUM_THREADS=1 python experiments/benchmarks/gemnet_memory.py [--energies] [--device cuda] [-o FILE.csv]

GemNet-T at the paper's sizes; rattled fcc cells (3 x 3 x 3 cubic cells, 4.05 A, 0.1 A of noise) make one gradient step
of fine-tuning on energies, forces and stress (random labels), or with ``--energies`` on energies alone. It is done in
micro-batches whose gradients are accumulated, as ``trainer.accumulate_grad_batches`` does: two of them, after which
memory grows no further, or more where these were fewer than `--cells`. Each setting runs in a process of its own.
Memory on the CPU is the process's largest resident size (`ru_maxrss`), and what of it came after the imports; on a GPU
the largest memory that PyTorch held. Times are a cell's: 32 of them are the step of a batch of 32; on the CPU,
processor time.
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
from typing import Any

CUTOFF = 7.0


def main() -> None:
    """Print a line for each setting, and write them all to the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--energies", action="store_true", help="train on energies alone")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], help="micro-batches")
    parser.add_argument("--triplet-cutoffs", type=float, nargs="+", default=[4.0, 7.0], help="A")
    parser.add_argument("--checkpointing", type=int, nargs="+", default=[0, 1], help="0, 1 or both")
    parser.add_argument("--cells", type=int, default=8, help="least number of cells (default: 8)")
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
            "forces": not options.energies,
            "triplet_cutoff": radius,
            "batch": batch,
            "checkpointing": bool(checkpointing),
        }
        arguments = {**setting, "cells": options.cells}
        command = [sys.executable, __file__, "--one", json.dumps(arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append({**setting, **json.loads(done.stdout.splitlines()[-1])})
        print(*(f"{key} {value}" for key, value in rows[-1].items()), sep="; ", flush=True)
    if options.output:
        with options.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def measure(device: str, forces: bool, triplet_cutoff: float, batch: int, checkpointing: bool, cells: int) -> dict:
    """One gradient step in micro-batches of `batch` cells."""
    import torch
    from torch_geometric.data import Batch

    from eipnn import FinetuneModule
    from eipnn.representations import GemNet
    from eipnn.stages.weights import WEIGHTS

    torch.manual_seed(0)
    net = GemNet(CUTOFF, triplet_cutoff=triplet_cutoff, checkpointing=checkpointing)
    module = FinetuneModule(net, weights=WEIGHTS if forces else {"energy": 1.0}).to(device)
    module.elements = ["Al"]
    weights = list(module.parameters())
    optimizer = torch.optim.Adam(weights, lr=1e-3)
    count = max(2, -(-cells // batch))
    frames = count * batch
    items = [cell(net, seed) for seed in range(frames)]
    batches = [Batch.from_data_list(items[k : k + batch]).to(device) for k in range(0, frames, batch)]
    before = resident_gib()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start, wall = time.process_time(), time.perf_counter()
    for index, data in enumerate(batches):
        module.backward(module.training_step(data, index)["loss"] / count)
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


def cell(net: Any, seed: int) -> Any:
    """What the network is given of a rattled cell, with labels."""
    import torch
    from ase.build import bulk

    atoms = bulk("Al", cubic=True, a=4.05) * (3, 3, 3)
    atoms.rattle(0.1, seed=seed)
    data = net.inputs(atoms)
    data.energy = torch.randn(1, 1, dtype=torch.float64)
    data.forces, data.stress = torch.randn(len(atoms), 1, 3), torch.randn(1, 1, 3, 3)
    data.is_dft, data.weight = torch.tensor([True]), torch.ones(1)
    return data


def resident_gib() -> float:
    """Largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
