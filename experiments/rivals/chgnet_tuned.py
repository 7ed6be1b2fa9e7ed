"""CHGNet, fine-tuned by its own trainer: `pip install chgnet`.

    python experiments/rivals/chgnet_tuned.py runs/rivals/si_mini-1-50

The trainer's defaults (energies and forces, Adam, learning rate 1e-3 with a cosine, squared errors, 50 epochs), batches
of 8. The energies of the elements are fitted on the training frames before, as its own are another code's. With
``targets="efs"`` the squared stress (GPa) of compressed cells is most of the loss, and forces are unlearned.
``--epochs 0`` measures it as it is.
"""

import time
from math import ceil

import torch
from ase import Atoms
from chgnet.data.dataset import StructureData, get_loader
from chgnet.model import CHGNet, CHGNetCalculator
from chgnet.trainer import Trainer
from measured import fitted_zeros, folder_and_epochs, measure, read, shifted, write_result
from pymatgen.io.ase import AseAtomsAdaptor

BATCH = 8


def loader(frames: list[Atoms], shuffle: bool) -> torch.utils.data.DataLoader:
    """Energies in eV an atom, forces in eV/A."""
    data = StructureData(
        structures=[AseAtomsAdaptor.get_structure(atoms.copy()) for atoms in frames],
        energies=[atoms.get_potential_energy() / len(atoms) for atoms in frames],
        forces=[atoms.get_forces() for atoms in frames],
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
    trainer = Trainer(model, epochs=epochs, torch_seed=0, data_seed=0, use_device="cpu", print_freq=1000)
    loaders = [loader(shifted(read(folder, part), zeros), part == "train") for part in ("train", "val")]
    trainer.train(*loaders, save_dir=str(folder / "chgnet"), train_composition_model=True)
    calculator = CHGNetCalculator(trainer.best_model, use_device="cpu", on_isolated_atoms="ignore")
seconds = time.perf_counter() - begun
name = "chgnet" if epochs else "chgnet-as-it-is"
errors = measure(read(folder, "test"), calculator, zeros)
write_result(folder, name, "chgnet", seconds, ceil(len(train) / BATCH) * epochs, epochs=epochs, **errors)
