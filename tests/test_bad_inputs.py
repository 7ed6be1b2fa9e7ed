"""Bad inputs of every kind: each is told in three lines at most, before anything is trained."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.loops.fit_loop import _FitLoop
from tiny import REPRESENTATION, exit_code, stage_config

from eipnn.cli import check_config
from eipnn.errors import InputError
from eipnn.run import command, execute

CRYSTAL = """2
Lattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 {} pbc="T T T"
Cu 0 0 0
Cu {} 2 2
"""
LABEL = ("label", "dft.extxyz", "-o", "out", "--eips")
EMT = "- {name: emt, ase: ase.calculators.emt.EMT}"
REMOVED = "REMOVED"


@pytest.fixture
def here(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy of the tiny data set. No stage's process and no training may begin."""

    def begun(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"begun: {arguments}")

    folder = shutil.copytree(tiny.folder, tmp_path / "here")
    (folder / "emt.yaml").write_text(EMT)
    (folder / "split_1.csv").write_text((folder / "split.csv").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setattr(execute, "call", begun)
    monkeypatch.setattr(command, "call", begun)
    monkeypatch.setattr(_FitLoop, "advance", begun)
    return folder


def refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that refuses its input told."""
    capfd.readouterr()
    assert exit_code(*arguments) in (1, 2)
    told = capfd.readouterr().err
    assert 1 <= len(told.splitlines()) <= 3
    assert "Traceback" not in told
    assert not [*Path().rglob("fit.json"), *Path().rglob("checkpoints")]
    return told


OPTIONS = [
    ("lable x", "eipnn lable: there is no such command; label?"),
    ("label dft.extxyz", "--eips and -o/--output must be given"),
    ("label -o out --eips emt.yaml", "STRUCTURES must be given"),
    ("label dft.extxyz -o out --eips emt.yaml --workers 0", "--workers: '0' is not a whole number"),
    (
        "label dft.extxyz -o out --eips emt.yaml --workers 1.5",
        "--workers: '1.5' is not a whole num",
    ),
    ("label dft.extxyz -o out --eips emt.yaml --timeout nan", "--timeout: 'nan' is not a positive"),
    ("label dft.extxyz -o out --eips emt.yaml --timeout inf", "--timeout: 'inf' is not a positive"),
    ("label dft.extxyz -o out --eips emt.yaml --eip-zero all", "--eip-zero: 'all' is not one of"),
    ("label dft.extxyz -o out --eips emt.yaml --splits x", "--splits x: there is no such option; "),
    ("label absent.xyz -o out --eips emt.yaml", "absent.xyz: no such file"),
    ("label dft.extxyz -o out --eips absent.yaml", "absent.yaml: neither a named set nor a YAML"),
    ("label dft.extxyz -o out --eips led", "led: neither a named set nor a YAML file"),
    ("label dft.extxyz -o emt.yaml --eips emt.yaml", "emt.yaml: is a file; give a folder"),
    ("label dft.extxyz -o out --eips emt.yaml --energy-key e", "no frame has the energy key 'e'"),
    ("label dft.extxyz -o out --eips emt.yaml --split absent.csv", "absent.csv: no such file"),
    ("eips", "ELEMENTS must be given"),
    ("eips Xx", "'Xx' is no chemical symbol"),
    ("generate -o pool.xyz --elements Cu --rattle 1", "--output: must end in .extxyz"),
    ("generate -o new.extxyz --elements Cu", "no structures are asked for; give --rattle"),
    (
        "generate -o new.extxyz --rattle 1",
        "no parents; give your frames with --from, or --elements",
    ),
    (
        "generate -o new.extxyz --elements Cu --rattle -1",
        "--rattle: '-1' is not a whole number from",
    ),
    (
        "generate -o new.extxyz --elements Cu --strain 1 --volumes 2 1",
        "the lower number comes first",
    ),
    ("generate -o new.extxyz --elements Cu --md 1", "--md and --eip go together; give both"),
    (
        "generate -o new.extxyz --elements Cu --strain 1 --strain-max 0.5",
        "'0.5' is not above 0 and ",
    ),
    (
        "generate -o new.extxyz --elements Cu --rattle 1 --split a.csv",
        "--split chooses among the fr",
    ),
    ("run absent.yaml -o run", "absent.yaml: no such experiment file"),
    ("run absent.yaml -o run --seed -1", "--seed: '-1' is not a whole number from 0 to 4294967295"),
    ("run absent.yaml -o run --split -1", "--split: '-1' is not a whole number from 0 on"),
    ("run absent.yaml -o run --threads 0", "--threads: '0' is not a whole number from 1 on"),
    ("run absent.yaml -o run --frames 0", "--frames: '0' is not a whole number from 1 on or all"),
    ("run absent.yaml -o run --alpha 0.1 nan", "--alpha: 'nan' is not a positive number"),
    ("run absent.yaml", "-o/--output must be given"),
    ("report absent", "absent: "),
    ("report", "RUNS must be given"),
    ("label dft.extxyz -o out --pool absent.xyz --eips emt.yaml", "absent.xyz: no such file"),
    ("export absent.ckpt", "absent.ckpt: no such checkpoint"),
    ("export absent.ckpt --dtype float16", "--dtype: 'float16' is not one of float32, float64"),
    ("fit", "data and model must be given"),
    ("fit --config absent.yaml", "absent.yaml: no such file"),
    ("fit --config dft.extxyz", "dft.extxyz: must be a mapping with the keys"),
    ("fit --model eipnn.FinetunModule", "there is no eipnn.FinetunModule; FinetuneModule?"),
    (
        "fit --trainer.max_epohs 3",
        "--trainer.max_epohs 3: there is no such option; --trainer.max_ep",
    ),
]


@pytest.mark.parametrize(("line", "message"), OPTIONS, ids=lambda text: text)
def test_options(here, capfd, line, message):
    assert message in refused(capfd, *line.split())


FILES = [
    # name, content, command, message
    ("a.xyz", "", "label a.xyz -o out --eips emt.yaml", "a.xyz: "),
    ("a.xyz", b"\x80\x81\xff\x00", "label a.xyz -o out --eips emt.yaml", "a.xyz: "),
    ("a.xyz", "3\n\nCu 0 0 0\n", "label a.xyz -o out --eips emt.yaml", "a.xyz: "),
    ("a.xyz", CRYSTAL.format("", "nan"), "label a.xyz -o out --eips emt.yaml", "a.xyz"),
    ("a.xyz", CRYSTAL.format("energy=nan", 2), "label a.xyz -o out --eips emt.yaml", "energy"),
    ("a.xyz", CRYSTAL.format("config_id=a", 2) * 2, "label a.xyz -o out --eips emt.yaml", "frame 1 (a): frame 0 has"),
    ("e.yaml", b"\xff\xfe\x00", "label dft.extxyz -o out --eips e.yaml", "e.yaml: "),
    ("e.yaml", "a: [", "label dft.extxyz -o out --eips e.yaml", "e.yaml: "),
    ("e.yaml", "3", "label dft.extxyz -o out --eips e.yaml", "e.yaml: "),
    ("e.yaml", "- {name: a}", "label dft.extxyz -o out --eips e.yaml", "e.yaml"),
    ("e.yaml", f"{EMT}\n{EMT}", "label dft.extxyz -o out --eips e.yaml", "emt"),
    ("e.yaml", "- {name: a, ase: absent.A}", "label dft.extxyz -o out --eips e.yaml", "absent"),
    ("s.csv", "a,b\n", "label dft.extxyz -o out --eips emt.yaml --split s.csv", "'configs,mark'"),
    ("s.csv", "configs,mark\nx,train\n", "label dft.extxyz -o out --eips emt.yaml --split s.csv", "'x'"),
    ("s.csv", "configs,mark\nx,trian\n", "label dft.extxyz -o out --eips emt.yaml --split s.csv", "trian"),
    ("z.json", "[]", "label dft.extxyz -o out --eips emt.yaml --isolated-atoms z.json", "JSON mapping"),
    ("z.json", '{"Cu": 1}', "label dft.extxyz -o out --eips emt.yaml --isolated-atoms z.json", "Au"),
    ("c.yaml", b"\x80\xff", "fit --config c.yaml", "c.yaml: not YAML: it holds bytes"),
    ("c.yaml", "a: [1\nb: }", "fit --config c.yaml", "c.yaml: not YAML in line 2"),
    ("c.yaml", "- 1", "fit --config c.yaml", "c.yaml: must be a mapping with the keys model, data"),
    ("x.ckpt", "no checkpoint", "export x.ckpt", "x.ckpt: not a checkpoint that torch can read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "line", "message"), FILES, ids=[f"{f[0]}-{n}" for n, f in enumerate(FILES)]
)
def test_files(here, capfd, name, content, line, message):
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(capfd, *line.split())


EXPERIMENTS = [
    ({"dta": {}}, "unknown key 'dta'"),
    ({"data": REMOVED}, "'data' is missing"),
    ({"data.dft": REMOVED}, "data.dft is missing"),
    ({"data.energy_zero": "atoms"}, "data.energy_zero must be one of"),
    ({"data.split": "x.csv"}, "data.split would have no effect"),
    ({"data": 3}, "data must be a mapping"),
    ({"representation": "absent.yaml"}, "representation names"),
    ({"splits": "split_1.csv"}, "splits must be 'random' or a path with {split}"),
    ({"alpha": 0}, "alpha must be a positive number"),
    ({"alpha": float("nan")}, "alpha must be a positive number"),
    ({"run.strategy": "lb"}, "run.strategy: 'lb' is not one of baseline, la"),
    ({"run.seed": -1}, "run.seed cannot be -1"),
    ({"run.strategies": "la"}, "run.strategies is unknown"),
    ({"finetune.modle": {}}, "finetune.modle is unknown"),
    ({"trainer.default_root_dir": "x"}, "trainer.default_root_dir would have no effect"),
    ({"data.labels": REMOVED}, "the experiment has neither data.labels nor eips"),
]


@pytest.mark.parametrize(("changes", "message"), EXPERIMENTS, ids=lambda text: str(text))
def test_experiments(here, capfd, changes, message):
    data = {
        "dft": "dft.extxyz",
        "pool": "pool.extxyz",
        "labels": "labels",
        "energy_zero": "least_squares",
    }
    content = {"data": data, "splits": "split_{split}.csv", "representation": REPRESENTATION}
    Path("e.yaml").write_text(yaml.safe_dump(changed(content, changes)))
    told = refused(capfd, "run", "e.yaml", "-o", "run")
    assert told.startswith("eipnn run: e.yaml: ")
    assert message in told
    assert not Path("run").exists()


MODEL, DATA, NET = (
    "model.init_args.",
    "data.init_args.",
    "model.init_args.representation.init_args.",
)
STAGES = [
    ("Finetune", {DATA + "batch_size": 0}, "batch_size and eval_batch_size must be at least 1"),
    ("Finetune", {DATA + "batch_size": "x"}, "data.batch_size: 'x' is not int"),
    ("Finetune", {DATA + "batchsize": 3}, "data: there is no setting batchsize; batch_size?"),
    ("Finetune", {DATA + "dft_fraction": 0}, "dft_fraction must lie between 0 and 1, not 0"),
    ("Finetune", {DATA + "dft": None}, "data.dft must be given"),
    ("Finetune", {DATA + "dft": REMOVED}, "data.dft must be given"),
    ("Finetune", {DATA + "energy_zero": "foo"}, "data.energy_zero: 'foo' is not one of 'isolated_at"),
    ("Finetune", {DATA + "energy_zero": {"mode": "a"}}, "data.energy_zero.mode: 'a' is not one of"),
    ("Finetune", {"model": REMOVED}, "model must be given"),
    ("Finetune", {"data": REMOVED}, "data must be given"),
    ("Finetune", {"modle": 3}, "there is no setting modle; model?"),
    ("Finetune", {"seed_everything": -1}, "seed_everything: -1 is not a whole number from 0 to"),
    ("Finetune", {"model.class_path": "eipnn.FinetunModule"}, "model: there is no eipnn.FinetunModule; "),
    ("Finetune", {"model.class_path": "absent.Module"}, "model: absent.Module: no module absent can be "),
    ("Finetune", {"model.class_path": "eipnn.PretrainDataModule"}, "model: Import path eipnn.PretrainData"),
    ("Finetune", {MODEL + "alfa": 3}, "model: there is no setting alfa; alpha?"),
    ("Finetune", {MODEL + "alpha": "much"}, "model.alpha: 'much' is not float"),
    ("Finetune", {MODEL + "representation": REMOVED}, "model.representation must be given"),
    ("Finetune", {MODEL + "representation.class_path": "eipnn.representations.SchNett"},
     "model.representation: there is no eipnn.representations.SchNett; SchNet?"),
    ("Finetune", {NET + "feature": 8}, "model.representation: there is no setting feature; features?"),
    ("Finetune", {NET + "features": "many"}, "model.representation.features: 'many' is not int"),
    ("Finetune", {MODEL + "optimizer": {"class_path": "torch.optim.Adamm"}},
     "model.optimizer: there is no torch.optim.Adamm; Adam?"),
    ("Finetune", {MODEL + "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": -1}}},
     "optimizer and scheduler of the finetune stage: Invalid learning rate: -1"),
    ("Finetune", {NET + "features": 0}, "SchNet: features must be positive, not 0"),
    ("Finetune", {NET + "cutoff": 0}, "SchNet: cutoff must be positive, not 0"),
    ("Finetune", {NET + "interactions": -1}, "SchNet: interactions must be positive, not -1"),
    ("Finetune", {MODEL + "alpha": float("nan")}, "alpha must be positive, not nan"),
    ("Pretrain", {MODEL + "eips": ["au", "far", "au"]}, "eips: 'au' is named twice; name each EIP once"),
    ("Classifier", {MODEL + "eips": []}, "the classifier needs at least one EIP"),
    ("Pretrain", {MODEL + "eips": REMOVED}, "model.eips must be given"),
    ("Finetune", {"trainer.max_epoch": 3}, "there is no setting trainer.max_epoch; trainer.max_epochs?"),
    ("Finetune", {"trainer.max_epochs": "three"}, "trainer.max_epochs: 'three' is not int"),
    ("Finetune", {"trainer.accelerator": "gpux"}, "trainer: You selected an invalid accelerator name"),
    ("Finetune", {"trainer.devices": 0}, "trainer: `Trainer(devices=0)` value is not a valid input"),
    ("Finetune", {"trainer.precision": "8"}, "trainer.precision: '8' is not one of 64, 32, 16"),
    ("Finetune", {"trainer.callbacks": [{"class_path": "Nope"}]}, "trainer.callbacks: Not a valid subcl"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    STAGES,
    ids=[f"{stage}-{changes}" for stage, changes, _ in STAGES],
)
def test_settings_of_a_stage(tiny, here, capfd, stage, changes, message):
    config = changed(stage_config(tiny, stage, Path("stage")), changes)
    Path("c.yaml").write_text(yaml.safe_dump(config))
    assert message in refused(capfd, "fit", "--config", "c.yaml")
    with pytest.raises(InputError) as told:
        check_config(config)
    assert message in str(told.value)
    assert not Path("stage").exists()


MET_IN_FIT = [
    ("Finetune", {DATA + "dft": "absent.xyz"}, [], "absent.xyz: no such file"),
    ("Finetune", {DATA + "split": "absent.csv"}, [], "absent.csv: no such file"),
    ("Finetune", {MODEL + "init_from": "absent.ckpt"}, [], "absent.ckpt: no such checkpoint"),
    ("Finetune", {}, ["--ckpt_path", "absent.ckpt"], "absent.ckpt"),
    ("Finetune", {}, ["--ckpt_path", "emt.yaml"], "emt.yaml: not a checkpoint that torch can read"),
    ("Finetune", {"trainer.max_epochs": 0}, [], "trainer.max_epochs must be at least 1"),
    ("Pretrain", {MODEL + "eips": ["a"]}, [], "has no labels of the EIP 'a'; it has cu.1, au, far"),
    ("Pretrain", {DATA + "labels": "absent"}, [], "absent"),
    ("Classifier", {DATA + "energy_key": "e"}, [], "has no energy, and one is due here; name its key"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "changes", "options", "message"),
    MET_IN_FIT,
    ids=[f"{case[0]}-{case[1] or case[2]}" for case in MET_IN_FIT],
)
def test_files_of_a_stage(tiny, here, capfd, stage, changes, options, message):
    config = changed(stage_config(tiny, stage, Path("stage")), changes)
    Path("c.yaml").write_text(yaml.safe_dump(config))
    assert message in refused(capfd, "fit", "--config", "c.yaml", *options)


def test_there_are_sixty_and_more():
    assert sum(map(len, (OPTIONS, FILES, EXPERIMENTS, STAGES, MET_IN_FIT))) >= 60


@pytest.mark.parametrize("stage", ["Classifier", "Pretrain", "Finetune"])
def test_a_good_configuration_passes_and_leaves_nothing(tiny, here, stage):
    before = sorted(Path().rglob("*"))
    check_config(stage_config(tiny, stage, Path("stage")))
    assert sorted(Path().rglob("*")) == before


def changed(content: dict, changes: dict) -> dict:
    """`content` with other values at some dotted paths."""
    content = deepcopy(content)
    for path, value in changes.items():
        *folders, last = path.split(".")
        place = content
        for folder in folders:
            place = place.setdefault(folder, {})
        if value is REMOVED:
            del place[last]
        else:
            place[last] = value
    return content
