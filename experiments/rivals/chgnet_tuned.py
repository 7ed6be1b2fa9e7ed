"""CHGNet, fine-tuned by its own trainer: `pip install chgnet`.

    python experiments/rivals/chgnet_tuned.py runs/rivals/si_mini-1-50

The trainer's defaults (Adam, learning rate 1e-3 with a cosine, squared errors, 50 epochs), energies, forces and stress,
batches of 8. The energies of the elements are fitted on the training frames before, as its own are another code's.
Frames that are not fully periodic have no stress. ``--epochs 0`` measures it as it is.
"""

import time
from math import ceil

import numpy as np
import torch
from ase import Atoms, units
from chgnet.data.dataset import StructureData, get_loader
from chgnet.model import CHGNet, CHGNetCalculator
from chgnet.trainer import Trainer
from measured import fitted_zeros, folder_and_epochs, measure, read, shifted, write_result
from pymatgen.io.ase import AseAtomsAdaptor

BATCH = 8


def loader(frames: list[Atoms], shuffle: bool) -> torch.utils.data.DataLoader:
    """Energies in eV an atom, forces in eV/A, stress in GPa (its own sign is that of VASP's -0.1 kB, as ASE's)."""
    missing = np.full((3, 3), np.nan)
    data = StructureData(
        structures=[AseAtomsAdaptor.get_structure(atoms.copy()) for atoms in frames],
        energies=[atoms.get_potential_energy() / len(atoms) for atoms in frames],
        forces=[atoms.get_forces() for atoms in frames],
        stresses=[
            atoms.get_stress(voigt=False) / units.GPa if "stress" in atoms.calc.results else missing for atoms in frames
        ],
        shuffle=shuffle,
    )
    return get_loader(data, batch_size=BATCH)


folder, epochs = folder_and_epochs(__doc__, 50)
torch.set_num_threads(1)
model = CHGNet.load(use_device="cpu", verbose=False)
train = read(folder, "train")
known = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="ignore")
zeros = fitted_zeros(train, [known.get_potential_energy(atoms.copy()) for atoms in train])
begun, calculator = time.perf_counter(), known
if epochs:
    trainer = Trainer(model, targets="efs", epochs=epochs, torch_seed=0, data_seed=0, use_device="cpu", print_freq=1000)
    loaders = [loader(shifted(read(folder, part), zeros), part == "train") for part in ("train", "val")]
    trainer.train(*loaders, save_dir=str(folder / "chgnet"), train_composition_model=True)
    calculator = CHGNetCalculator(trainer.best_model, use_device="cpu", on_isolated_atoms="ignore")
seconds = time.perf_counter() - begun
name = "chgnet" if epochs else "chgnet-as-it-is"
errors = measure(read(folder, "test"), calculator, zeros)
write_result(folder, name, "chgnet", seconds, ceil(len(train) / BATCH) * epochs, epochs=epochs, **errors)
