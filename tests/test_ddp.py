"""Two processes of torchrun (gloo, CPU) against one."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import pandas as pd
import pytest
import torch
import yaml
from backbones import BACKBONES, arguments, build, small
from lightning.pytorch import Callback, Trainer
from tiny import N_POOL, N_TEST, N_TRAIN, best, eipnn_stage, read_json, stage_config

from eipnn.representations import Representation

STAGES = ("Classifier", "Pretrain", "Finetune")
COMPARED = {"Classifier": ["test"], "Pretrain": ["test"], "Finetune": ["validate", "test"]}
TWO = ["--trainer.devices", "2", "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp"]


class Seen(Callback):
    """Writes what each training batch of each process held: (epoch, rows, whether they are DFT)."""

    def __init__(self) -> None:
        self.batches: list = []

    def on_train_batch_start(self, trainer: Trainer, module, batch, index: int) -> None:
        is_dft = batch.is_dft.tolist() if "is_dft" in batch else None
        self.batches.append((trainer.current_epoch, batch.row.tolist(), is_dft))

    def on_train_end(self, trainer: Trainer, module) -> None:
        file = Path(trainer.default_root_dir) / f"seen-{trainer.global_rank}.json"
        file.write_text(json.dumps(self.batches))


class Metrics(Callback):
    """Writes the metrics of a validation."""

    def on_validation_end(self, trainer: Trainer, module) -> None:
        if trainer.is_global_zero and not trainer.training:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
            (Path(trainer.default_root_dir) / "validate.json").write_text(json.dumps(metrics))


class Weights(Callback):
    """Writes what each process holds after the last validation."""

    def on_train_end(self, trainer: Trainer, module) -> None:
        file = Path(trainer.default_root_dir) / f"weights-{trainer.global_rank}.pt"
        torch.save(module.state_dict(), file)


PAIR = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
# One script runs several commands in a pair of processes.
DRIVER = """\
import sys
from quick_parsers import make_parsers_once
make_parsers_once()
from eipnn.__main__ import main
for arguments in {commands!r}:
    sys.argv = [sys.argv[0], *arguments]
    main()
"""


def run_to_end(command: list[str], limit: float = 900) -> None:
    """Run a process and those that it starts; all are ended where they hang."""
    tests = Path(__file__).parent
    folders = [str(tests), str(tests.parent / "experiments" / "paper"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(folders)
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
    try:
        assert process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def written(config: dict, callback: str) -> dict:
    """The configuration with a callback of this file, and the arguments that name it."""
    return config | {"trainer": config["trainer"] | {"callbacks": [{"class_path": f"test_ddp.{callback}"}]}}


def command_of(name: str, config: dict, checkpoint: str | None = None) -> list[str]:
    root = Path(config["trainer"]["default_root_dir"])
    root.mkdir(parents=True, exist_ok=True)
    file = root / f"{name}.given.yaml"
    file.write_text(yaml.safe_dump(config))
    resume = ["--ckpt_path", checkpoint] if checkpoint else []
    return [name, "--config", str(file), *TWO, *resume]


def finetune_config(tiny, root: Path) -> dict:
    """Label augmentation with 25 pool frames, two DFT and two EIP configurations a batch and process."""
    root.mkdir()
    chosen = dict.fromkeys(tiny.ids("pool")[10:35], "au")
    config = stage_config(tiny, "Finetune", root, max_epochs=3)
    selection = tiny.select(root / "selection.csv", chosen)
    config["data"]["init_args"] |= {"selection": str(selection), "dft_fraction": 0.5}
    return written(config, "Seen")


def in_float64(forced, root: Path, batch_size: int) -> dict:
    """Fine-tuning with this size of a batch and process."""
    config = stage_config(forced, "Finetune", root, precision="64-true")
    config["data"]["init_args"]["batch_size"] = batch_size
    return config


def unequal(tiny, root: Path) -> dict:
    """A prediction of structures with unequal numbers of atoms."""
    config = stage_config(tiny, "Finetune", root)
    config["data"]["init_args"]["structures"] = tiny.data["dft"]
    return config


def backbone_configs(tiny, root: Path) -> list[dict]:
    """An epoch of fine-tuning with every representation whose library is installed, a folder each."""
    configs = []
    for cls in BACKBONES:
        try:
            small(cls)
        except pytest.skip.Exception:
            continue
        config = stage_config(tiny, "Finetune", root / cls.__name__, max_epochs=1)
        config["model"]["init_args"]["representation"] = {
            "class_path": f"{cls.__module__}.{cls.__qualname__}",
            "init_args": arguments(cls, ["Au", "Cu"], cutoff=3.5),
        }
        configs.append(written(config, "Weights"))
    return configs


@pytest.fixture(scope="module")
def pairs(tiny, forced, trained, tmp_path_factory) -> Path:
    """Everything that the tests below look at, made by one pair of processes.

    ``halves``: see the first test; ``fit-STAGE``: a training, ``fit-Finetune`` with label augmentation; ``two-STAGE``:
    evaluations of the trained checkpoint; ``backbones/NAME``: fine-tuning.
    """
    root = tmp_path_factory.mktemp("pairs")
    commands = [command_of("fit", in_float64(forced, root / "halves", batch_size=4))]
    for stage in ("Classifier", "Pretrain"):
        config = stage_config(tiny, stage, root / f"fit-{stage}", max_epochs=3)
        commands.append(command_of("fit", written(config, "Seen")))
    config = finetune_config(tiny, root / "fit-Finetune")
    config["trainer"]["callbacks"].append({"class_path": "residual_log.ResidualLog"})
    commands.append(command_of("fit", config))
    for stage in STAGES:
        data = forced if stage == "Finetune" else tiny
        config = written(stage_config(data, stage, root / f"two-{stage}"), "Metrics")
        for name in COMPARED[stage]:
            commands.append(command_of(name, config, best(trained[stage])))
    config = stage_config(tiny, "Classifier", root / "two-Classifier")
    commands.append(command_of("predict", config, best(trained["Classifier"])))
    config = unequal(tiny, root / "two-Finetune")
    commands.append(command_of("predict", config, best(trained["Finetune"])))
    commands += [command_of("fit", config) for config in backbone_configs(tiny, root / "backbones")]
    driver = root / "driver.py"
    driver.write_text(DRIVER.format(commands=commands))
    run_to_end([*PAIR, str(driver)])
    return root


def test_weights_are_those_of_one_process_with_batches_of_twice_the_size(pairs, forced, tmp_path):
    one = eipnn_stage("fit", in_float64(forced, tmp_path, batch_size=8))
    first, second = (torch.load(best(folder), weights_only=True)["state_dict"] for folder in (one, pairs / "halves"))
    torch.testing.assert_close(second, first, rtol=0, atol=1e-5)


def epochs_of(root: Path) -> list[list[list]]:
    """By epoch, the batches of both processes: [(rows, is_dft) ...] each."""
    found: list[list[list]] = [[], [], []]
    for rank in (0, 1):
        batches = json.loads((root / f"seen-{rank}.json").read_text())
        for epoch in range(3):
            found[epoch].append([b[1:] for b in batches if b[0] == epoch])
    return found


@pytest.mark.parametrize(("stage", "n"), [("Classifier", N_TRAIN), ("Pretrain", N_POOL)])
def test_two_processes_share_each_epoch(pairs, stage, n):
    root = pairs / f"fit-{stage}"
    orders = []
    for ranks in epochs_of(root):
        rows = [[r for batch in batches for r in batch[0]] for batches in ranks]
        assert len(rows[0]) == len(rows[1]) == n // 8 * 4
        assert len({*rows[0], *rows[1]}) == n // 8 * 8  # each at most once, in one process alone
        orders.append(str(rows))
    assert len(set(orders)) == 3  # every epoch has its own order
    fit = read_json(root / "fit.json")
    assert fit["gradient_steps"] == 3 * (n // 8)
    assert sorted(p.name for p in (root / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert len(list((root / "logs").iterdir())) == 1


def test_fine_tuning_has_both_kinds_in_every_batch(pairs):
    """In every one of both processes; each EIP sample once an epoch."""
    run = pairs / "fit-Finetune"
    orders = []
    for ranks in epochs_of(run):
        eip: list[int] = []
        for batches in ranks:
            assert len(batches) == 25 // 4
            for rows, is_dft in batches:
                assert is_dft == [True, True, False, False]
                eip += rows[2:]
        assert len(eip) == len(set(eip)) == 24
        orders.append(str(ranks))
    assert len(set(orders)) == 3
    fit = read_json(run / "fit.json")
    assert fit["gradient_steps"] == 3 * 6
    weights = torch.load(best(run), weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())
    log = pd.read_csv(run / "residuals.csv")
    assert log["step"].tolist() == list(range(18))
    assert log["epoch"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert (log["n_eip"] == 4).all()  # of both processes
    assert (log["n_known"] == 0).all()
    assert (log["n_kept"] <= 4).all()
    assert (log["spread"] > 0).all()


@pytest.mark.parametrize("stage", STAGES)
def test_evaluation_with_two_processes_equals_one(tiny, forced, trained, pairs, tmp_path, stage):
    config = written(stage_config(forced if stage == "Finetune" else tiny, stage, tmp_path), "Metrics")
    for name in COMPARED[stage]:
        eipnn_stage(name, config, "--ckpt_path", best(trained[stage]))
        one = read_json(tmp_path / f"{name}.json")
        two = read_json(pairs / f"two-{stage}" / f"{name}.json")
        assert one.keys() == two.keys()
        assert one
        for metric, value in one.items():
            assert two[metric] == pytest.approx(value, abs=1e-5), metric
    assert N_TEST % 2 == 1  # one of the processes pads
    tables = [
        pd.read_csv(folder / "predictions_test.csv", keep_default_na=False)
        for folder in (tmp_path, pairs / f"two-{stage}")
    ]
    assert tables[1]["config_id"].tolist() == tiny.ids("test")
    pd.testing.assert_frame_equal(*tables, atol=1e-4, rtol=1e-6)


def test_a_selection_of_two_processes_holds_every_frame_once(tiny, trained, pairs, tmp_path):
    config = stage_config(tiny, "Classifier", tmp_path / "two-Classifier")
    eipnn_stage("predict", config, "--ckpt_path", best(trained["Classifier"]))
    one, two = (
        pd.read_csv(folder / "two-Classifier" / "selection.csv", keep_default_na=False) for folder in (tmp_path, pairs)
    )
    assert two["config_id"].tolist() == tiny.ids("pool")
    pd.testing.assert_frame_equal(one, two, atol=1e-5)


def test_forces_of_two_processes_are_those_of_one(tiny, trained, pairs, tmp_path):
    eipnn_stage("predict", unequal(tiny, tmp_path), "--ckpt_path", best(trained["Finetune"]))
    files = (folder / "predictions.extxyz" for folder in (tmp_path, pairs / "two-Finetune"))
    one, two = (ase.io.read(file, ":") for file in files)
    assert {len(atoms) for atoms in one} == {3, 4}
    assert [atoms.info["config_id"] for atoms in two] == [atoms.info["config_id"] for atoms in one]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.positions == pytest.approx(theirs.positions)
        for name, value in ours.calc.results.items():
            assert theirs.calc.results[name] == pytest.approx(value, abs=1e-5)


def test_both_processes_hold_the_same(pairs):
    """Weights, running means and what was calibrated, as the checkpoint has them too."""
    trained = [backbone for backbone in BACKBONES if (pairs / "backbones" / backbone.__name__).exists()]
    assert len(trained) >= 4
    for backbone in trained:
        folder = pairs / "backbones" / backbone.__name__
        files = (folder / "weights-0.pt", folder / "weights-1.pt", folder / "checkpoints" / "last.ckpt")
        first, second, kept = (torch.load(file, weights_only=True) for file in files)
        assert first.keys() == second.keys() == kept["state_dict"].keys()
        for name, value in first.items():
            assert value.isfinite().all()
            torch.testing.assert_close(second[name], value, rtol=0, atol=0)
            torch.testing.assert_close(kept["state_dict"][name], value, rtol=0, atol=0)
        torch.manual_seed(0)
        fresh = build(backbone, **arguments(backbone, ["Au", "Cu"], cutoff=3.5))
        assert moved(first, fresh.named_parameters())
        if backbone.calibrate is not Representation.calibrate:
            assert moved(first, ((n, v) for n, v in fresh.named_buffers() if f"representation.{n}" in first))


def moved(trained: dict, fresh) -> bool:
    """Whether any of these named tensors of a fresh representation has changed."""
    return any(not torch.equal(trained[f"representation.{n}"], value) for n, value in fresh)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_by_the_command_line(tiny, tmp_path, stage):
    config = stage_config(tiny, stage, tmp_path)
    run_to_end([sys.executable, "-m", "eipnn", *command_of("fit", config)])
    run_to_end([sys.executable, "-m", "eipnn", *command_of("test", config, best(tmp_path))])
    assert len(pd.read_csv(tmp_path / "predictions_test.csv")) == N_TEST
