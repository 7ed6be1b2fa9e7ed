"""Energy, forces and stress by a potential of `eipnn export`, without eipnn: torch, ASE and vesin alone.

python run_exported.py potential.pt2 structures.extxyz
"""

import json
import sys

import ase.io
import numpy as np
import torch
import vesin

extra = {"eipnn.json": ""}
potential = torch.export.load(sys.argv[1], extra_files=extra).module()
record = json.loads(extra["eipnn.json"])
real = getattr(torch, record["dtype"])
neighbours = vesin.NeighborList(cutoff=record["cutoff"], full_list=False)  # each pair once

for atoms in ase.io.iread(sys.argv[2]):
    cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)  # zero along open axes
    pairs, shifts = neighbours.compute(atoms.positions, cell, atoms.pbc, quantities="PS")
    energy, forces, stress = potential(
        torch.tensor(atoms.numbers, dtype=torch.int64),
        torch.tensor(atoms.positions, dtype=real),
        torch.tensor(cell[None], dtype=real),
        torch.tensor(pairs.T.astype(np.int64)),
        torch.tensor(shifts, dtype=real),
        torch.zeros(len(atoms), dtype=torch.int64),  # one configuration
    )
    print(f"{atoms.get_chemical_formula()}: {energy.item():.12f} eV; forces (eV/A):")
    np.savetxt(sys.stdout, forces.numpy(), fmt="%18.12f")
    print("stress (eV/A^3):")
    np.savetxt(sys.stdout, stress[0].numpy(), fmt="%18.12f")
