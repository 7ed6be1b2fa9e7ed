"""SevenNet-0, fine-tuned by its own preset: `pip install sevenn`, in an environment of its own (e3nn 0.5 or newer).

    python experiments/rivals/sevennet_tuned.py runs/rivals/si_mini-1-50

The preset ``fine_tune`` as it comes, with 60 epochs (it has 100) and with the energies of the elements fitted on the
training frames before, as its own are another code's. ``--epochs 0`` measures it as it is.
"""

import subprocess
import time
from math import ceil

import ase.io
import torch
import yaml
from measured import fitted_zeros, folder_and_epochs, measure, read, shifted, write_result
from sevenn.calculator import SevenNetCalculator

folder, epochs = folder_and_epochs(__doc__, 60)
torch.set_num_threads(1)
work = folder / "sevennet"
work.mkdir(exist_ok=True)
train = read(folder, "train")
known = SevenNetCalculator("7net-0", device="cpu")
zeros = fitted_zeros(train, [known.get_potential_energy(atoms.copy()) for atoms in train])
settings = yaml.safe_load(
    subprocess.run(["sevenn", "preset", "fine_tune"], capture_output=True, text=True, check=True).stdout
)
batch = settings["data"]["batch_size"]
seconds, calculator = 0.0, known
if epochs:
    for part in ("train", "val"):
        ase.io.write(work / f"{part}.extxyz", shifted(read(folder, part), zeros), format="extxyz")
    settings["train"] |= {"epoch": epochs, "per_epoch": epochs}
    settings["data"] |= {"load_trainset_path": ["train.extxyz"], "load_validset_path": ["val.extxyz"]}
    for name in ("load_testset_path", "data_divide_ratio"):
        settings["data"].pop(name, None)
    (work / "input.yaml").write_text(yaml.safe_dump(settings))
    begun = time.perf_counter()
    with (work / "log").open("w") as log:
        subprocess.run(["sevenn", "train", "input.yaml", "-s"], cwd=work, check=True, stdout=log, stderr=log)
    seconds = time.perf_counter() - begun
    calculator = SevenNetCalculator(str(work / "checkpoint_best.pth"), device="cpu")
name = "sevennet" if epochs else "sevennet-as-it-is"
errors = measure(read(folder, "test"), calculator, zeros)
write_result(folder, name, "sevenn", seconds, ceil(len(train) / batch) * epochs, epochs=epochs, **errors)
