"""The weights that two and three processes come to are those of one (gloo, CPU, float64), with forces and stress."""

from pathlib import Path

import pytest
import torch
from tiny import EIPS, eipnn_stage, stage_config

STEPS = 6
ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
CGCNN = {
    "class_path": "eipnn.representations.CGCNN",
    "init_args": {"cutoff": 3.5, "features": 8, "gaussians": 8, "convolutions": 2},
}
CASES = {
    "Classifier": {},
    "Pretrain": {"outlier": 3.2},  # half of the labels of two EIPs are missing, unevenly
    "Finetune": {"eip_loss": "tukey"},
    "Finetune-CGCNN": {"representation": CGCNN, "energy_per": "atom"},
}


def weights(tiny, folder: Path, case: str, processes: int) -> dict[str, torch.Tensor]:
    """The state after six steps of batches of six configurations, shared out over the processes."""
    stage = case.split("-")[0]
    config = stage_config(tiny, stage, folder, max_epochs=STEPS, precision="64-true")
    config["trainer"] |= {
        "max_steps": STEPS,
        "callbacks": [{"class_path": "test_ddp.Weights"}],
        "devices": processes,
        "strategy": "ddp_fork" if processes > 1 else "auto",
        "enable_checkpointing": False,
        "logger": False,
        "limit_val_batches": 0,
    }
    config["model"]["init_args"] |= CASES[case] | {"optimizer": ADAM, "scheduler": None}
    data = config["data"]["init_args"]
    data["batch_size"] = 6 // processes
    if stage == "Finetune":
        chosen = {name: EIPS[k % 3] for k, name in enumerate(tiny.ids("pool")[10:35])}
        folder.mkdir()
        data |= {
            "selection": str(tiny.select(folder / "selection.csv", chosen)),
            "dft_fraction": 0.5,
        }
    eipnn_stage("fit", config)
    states = [torch.load(folder / f"weights-{r}.pt", weights_only=True) for r in range(processes)]
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=0, atol=0)
    return states[0]


@pytest.mark.parametrize("case", CASES)
def test_several_processes_come_to_the_weights_of_one(forced, tmp_path, case):
    one = weights(forced, tmp_path / "1", case, 1)
    for processes in (2, 3):
        found = weights(forced, tmp_path / str(processes), case, processes)
        assert found.keys() == one.keys()
        for name, value in one.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
        print(case, processes, max(float((found[n].double() - v).abs().max()) for n, v in one.items()))
