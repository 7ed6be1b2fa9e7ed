"""A NequIP of graph-pes by its own command, from scratch: `pip install graph-pes`.

    python experiments/rivals/graph_pes_scratch.py runs/rivals/si_mini-1-50

Its ``NequIP`` as it comes with a cutoff of 5 A, the losses of its quick start, batches of 8, about 2,460 steps.
"""

import subprocess
import time
from math import ceil

import yaml
from measured import about, folder_and_epochs, measure, read, write_result

folder, epochs = folder_and_epochs(__doc__, None)
head, work, batch = about(folder), folder / "graph_pes", 8
work.mkdir(exist_ok=True)
steps = ceil(head["train"] / batch)
epochs = epochs or ceil(2460 / steps)
data = {
    part: {"path": str(folder / f"{name}.extxyz"), "cutoff": 5.0}
    for part, name in (("train", "train"), ("valid", "val"))
}
settings = {
    "general": {"run_id": "run", "root_dir": str(work), "seed": 0, "progress": "logged"},
    "model": {"+NequIP": {"elements": list(head["free_atoms_eV"]), "cutoff": 5.0}},
    "data": data,
    "loss": ["+PerAtomEnergyLoss()", "+ForceRMSE()"],
    "fitting": {
        "optimizer": {"name": "Adam", "lr": 0.003},
        "trainer_kwargs": {"max_epochs": epochs, "accelerator": "cpu"},
        "loader_kwargs": {"batch_size": batch, "num_workers": 0, "persistent_workers": False},
        "auto_fit_reference_energies": True,
    },
    "wandb": None,
}
(work / "input.yaml").write_text(yaml.safe_dump(settings))
begun = time.perf_counter()
with (work / "log").open("w") as log:
    subprocess.run(["graph-pes-train", "input.yaml"], cwd=work, check=True, stdout=log, stderr=log)
seconds = time.perf_counter() - begun

from graph_pes.models import load_model  # noqa: E402 (it takes its time)

calculator = load_model(next(work.rglob("model.pt"))).ase_calculator()
errors = measure(read(folder, "test"), calculator)
write_result(folder, "graph-pes", "graph-pes", seconds, steps * epochs, epochs=epochs, **errors)
