"""MACE by its own command, from scratch: `pip install mace-torch`.

    python experiments/rivals/mace_scratch.py runs/rivals/si_mini-1-50

A small model (32 channels, L = 1, cutoff 5 A), about 2,460 steps; stage two from three quarters on, moving average,
energies of free atoms given, the library's weights, learning rate and schedule.
"""

import json
import subprocess
import time
from math import ceil

from ase.data import atomic_numbers
from measured import about, folder_and_epochs, measure, read, write_result

folder, epochs = folder_and_epochs(__doc__, None)
work = folder / "mace"
work.mkdir(exist_ok=True)
head = about(folder)
batch = 5 if head["train"] <= 50 else 8
steps = ceil(head["train"] / batch)
epochs = epochs or ceil(2460 / steps)
for part in ("train", "val", "test"):  # energies and forces by names that no reader takes for its own
    text = (folder / f"{part}.extxyz").read_text()
    renamed = (
        text.replace(" energy=", " REF_energy=")
        .replace("forces:R:3", "REF_forces:R:3")
        .replace(" stress=", " REF_stress=")
    )
    (work / f"{part}.xyz").write_text(renamed)
zeros = {atomic_numbers[element]: energy for element, energy in head["free_atoms_eV"].items()}
command = f"""mace_run_train --name m --seed 0 --device cpu --default_dtype float32
    --train_file train.xyz --valid_file val.xyz --test_file test.xyz --energy_key REF_energy --forces_key REF_forces
    --r_max 5.0 --num_channels 32 --max_L 1 --batch_size {batch} --valid_batch_size 16
    --max_num_epochs {epochs} --swa --start_swa {epochs * 3 // 4} --ema --ema_decay 0.99""".split()
begun = time.perf_counter()
with (work / "log").open("w") as log:
    subprocess.run(
        [*command, "--E0s", json.dumps(zeros).replace('"', "")], cwd=work, check=True, stdout=log, stderr=log
    )
seconds = time.perf_counter() - begun

from mace.calculators import MACECalculator  # noqa: E402 (it takes its time)

calculator = MACECalculator(model_paths=str(work / "m_stagetwo.model"), device="cpu", default_dtype="float32")
write_result(
    folder, "mace", "mace-torch", seconds, steps * epochs, epochs=epochs, **measure(read(folder, "test"), calculator)
)
