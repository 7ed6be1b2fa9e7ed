"""Three processes come to the weights and metrics of one (gloo, CPU, float64), with forces and stress."""

from functools import partial
from pathlib import Path

import ase.io
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from tiny import EIPS, N_VAL, Tiny, eipnn_stage, make_forced, stage_config

# no Adam: where a gradient is zero it follows what is rounded off
OPTIMIZER = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.001, "momentum": 0.9}}
CGCNN = {
    "class_path": "eipnn.representations.CGCNN",
    "init_args": {"cutoff": 3.5, "features": 8, "gaussians": 8, "convolutions": 2},
}
BATCHES = 3
"""An epoch; with accumulation its last step has a single one."""
CASES = {
    # half of the labels of two EIPs are outliers, and not evenly
    "Pretrain": {"model": {"outlier": 3.2, "ema": 0.9}},
    "Classifier": {"model": {"judge": "both"}, "parts": 2},
    "Finetune": {"model": {"ema": 0.9}, "parts": 2},
    # six DFT frames and five others a step
    "Finetune-CGCNN": {"model": {"representation": CGCNN, "energy_per": "atom"}, "size": 12, "chosen": 5},
}


class Reached(Callback):
    """Writes what each process holds in the end, and the metrics."""

    def on_fit_end(self, trainer: Trainer, module) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        state = {"weights": module.state_dict(), "metrics": metrics, "steps": trainer.global_step}
        torch.save(state, Path(trainer.default_root_dir) / f"reached-{trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def patchy(tmp_path_factory) -> Tiny:
    """The tiny set with forces of two DFT frames of three, and stress of three of four."""
    tiny = make_forced(tmp_path_factory.mktemp("patchy"))
    frames = ase.io.read(tiny.data["dft"], ":")
    for k, atoms in enumerate(frames):
        lost = {"forces": k % 3 == 0, "stress": k % 4 == 0}
        atoms.calc.results = {name: v for name, v in atoms.calc.results.items() if not lost.get(name)}
    ase.io.write(tiny.data["dft"], frames, format="extxyz")
    return tiny


def reached(tiny: Tiny, folder: Path, case: str, processes: int) -> dict:
    """The end of a short training, whose batches are shared out over the processes."""
    settings = CASES[case]
    config = stage_config(tiny, case.split("-")[0], folder, max_epochs=3, precision="64-true")
    config["trainer"] |= {
        "limit_train_batches": BATCHES,
        "accumulate_grad_batches": settings.get("parts", 1),
        "callbacks": [{"class_path": "test_ddp_equal.Reached"}],
        "devices": processes,
        "strategy": "ddp_fork" if processes > 1 else "auto",
        "enable_checkpointing": False,
        "logger": False,
    }
    config["model"]["init_args"] |= settings["model"] | {"optimizer": OPTIMIZER, "scheduler": None}
    data = config["data"]["init_args"] | {"batch_size": settings.get("size", 6) // processes, "eval_batch_size": 2}
    folder.mkdir()
    if "Finetune" in case:
        chosen = {name: EIPS[k % 3] for k, name in enumerate(tiny.ids("pool")[10:][: settings.get("chosen", 25)])}
        selection = str(tiny.select(folder / "selection.csv", chosen))
        data |= {"selection": selection, "dft_fraction": 0.5, "epoch_steps": BATCHES * processes}
    config["data"]["init_args"] = data
    eipnn_stage("fit", config)
    states = [torch.load(folder / f"reached-{rank}.pt", weights_only=True) for rank in range(processes)]
    for other in states[1:]:
        torch.testing.assert_close(other["weights"], states[0]["weights"], rtol=0, atol=0)
        assert other["metrics"] == states[0]["metrics"]
    return states[0]


@pytest.mark.parametrize("case", CASES)
def test_several_processes_come_to_what_one_comes_to(patchy, tmp_path, case):
    assert N_VAL % 2  # one of the processes pads
    one = reached(patchy, tmp_path / "1", case, 1)
    assert one["steps"] > 2
    assert {"train_loss", "val_loss" if case == "Classifier" else "val_error"} <= one["metrics"].keys()
    for processes in (2, 3) if case == "Pretrain" else (3,):  # two in fine-tuning: test_ddp.py
        found = reached(patchy, tmp_path / str(processes), case, processes)
        assert found["steps"] == one["steps"]
        torch.testing.assert_close(found["weights"], one["weights"], rtol=0, atol=1e-7)
        assert found["metrics"] == pytest.approx(one["metrics"], rel=1e-8)


@pytest.mark.slow
def test_compiled_processes_come_to_what_a_plain_one_comes_to(patchy, tmp_path, monkeypatch):
    """What is traced, run without Inductor, which takes minutes: gradients reach what sums them over the processes."""
    one = reached(patchy, tmp_path / "1", "Pretrain", 1)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setitem(CASES, "Pretrain", {"model": CASES["Pretrain"]["model"] | {"compiled": True}})
    two = reached(patchy, tmp_path / "2", "Pretrain", 2)
    assert two["steps"] == one["steps"]
    torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-7)
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-7)
