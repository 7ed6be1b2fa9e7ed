"""`eipnn run`: what is refused before anything is trained, lost and unfinished stages, the table at the end."""

import io
import signal
from pathlib import Path

import ase.io
import pytest
import torch
import yaml
from ase import Atoms
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from run_stages import plain_stage
from tiny import EIPS, REPRESENTATION, exit_code, read_json

from eipnn import cli
from eipnn.errors import InputError
from eipnn.run import command, execute
from eipnn.run.command import (
    _label_options,
    best_on_validation,
    best_trained,
    check_strategies,
    make_labels,
    results_table,
    run,
)
from eipnn.run.execute import Stage, StageError, run_stage
from eipnn.run.experiment import Experiment, ExperimentError, read_experiment
from eipnn.run.plan import Plan
from eipnn.stages.finetune import FinetuneModule
from eipnn.stages.source import EnergyZero

DATA = {"dft": "dft.extxyz", "energy_zero": "none"}


FILE = Path("silicon.yaml")


@pytest.mark.parametrize(
    ("given", "data", "message"),
    [
        (["baseline", "mp"], {}, r"neither data\.labels nor eips, which the strategy mp"),
        (["la"], {"labels": "labels"}, r"no data\.pool .*, which the strategy la needs"),
    ],
)
def test_what_a_strategy_lacks_is_said_first(given, data, message):
    with pytest.raises(ExperimentError, match=message):
        check_strategies(given, Experiment(DATA | data, REPRESENTATION), FILE)


def test_a_baseline_alone_lacks_nothing():
    check_strategies(["baseline"], Experiment(DATA, REPRESENTATION), FILE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_zero": "isolated"}, r"data\.energy_zero must be one of isolated_atoms, least_sq"),
        ({"energy_zero": {"energies": {"Si": -0.8}}}, "mapping such as {mode: isolated_atoms"),
        ({"labels": "labels"}, r"gives both eips, to label with, and data\.labels; remove one"),
    ],
)
def test_contradictions_in_an_experiment(tmp_path, change, message):
    content = {"data": DATA | change, "representation": REPRESENTATION, "eips": "silicon"}
    (tmp_path / "silicon.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=message):
        read_experiment(tmp_path / "silicon.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"core": "lj"}, "core must be zbl or wall, not 'lj'"),
        ({"data": DATA | {"seed": 3}}, r"data\.seed would have no effect"),
        ({"trainer": {"default_root_dir": "x"}}, r"trainer\.default_root_dir would have no effect"),
        ({"finetune": {"data": {"dft": "x"}}}, r"finetune\.data\.dft would have no effect"),
        ({"classify": {"data": {"split": "x"}}}, r"classify\.data\.split would have no effect"),
        ({"finetune": {"model": {"alpha": 1}}}, r"finetune\.model\.alpha would have no effect"),
    ],
)
def test_settings_that_would_do_nothing(tmp_path, change, message):
    content = {"data": DATA, "representation": REPRESENTATION} | change
    (tmp_path / "silicon.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ExperimentError, match=message):
        read_experiment(tmp_path / "silicon.yaml")


def test_data_and_representation_may_have_files_of_their_own(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "base" / "net.yaml").write_text(yaml.safe_dump(REPRESENTATION))
    (tmp_path / "mine" / "data.yaml").write_text(yaml.safe_dump(DATA))
    file = tmp_path / "mine" / "silicon.yaml"
    file.write_text(yaml.safe_dump({"data": "data.yaml", "representation": "../base/net.yaml"}))
    assert (read_experiment(file).data, read_experiment(file).representation) == (DATA, REPRESENTATION)
    file.write_text(yaml.safe_dump({"data": DATA, "representation": "net.yaml"}))
    with pytest.raises(ExperimentError, match=r"names .*mine/net\.yaml, and there is no"):
        read_experiment(file)


def test_experiments_of_one_name_are_refused(tmp_path):
    files = [tmp_path / name / "silicon.yaml" for name in "ab"]
    for file in files:
        file.parent.mkdir()
        file.write_text(yaml.safe_dump({"data": DATA, "representation": REPRESENTATION}))
    with pytest.raises(ExperimentError, match="two experiment files are called silicon"):
        run(files, output=tmp_path, strategy=["baseline"])


def test_a_weight_of_eip_labels_is_positive(capsys):
    assert exit_code("run", "silicon.yaml", "-o", "run", "--alpha", "1", "0") == 2
    assert "--alpha: '0' is not a positive number" in capsys.readouterr().err


def test_a_stage_may_name_its_eips(tiny, tmp_path):
    data = {k: v for k, v in tiny.data.items() if k != "split"}
    named = {"model": {"eips": ["au"]}}
    experiment = Experiment(data, REPRESENTATION, splits=tiny.data["split"], pretrain=named)
    plan = Plan(experiment, tmp_path, 1, 0, Path(tiny.data["labels"]))
    assert plan.pretrain().config["model"]["init_args"]["eips"] == ["au"]
    assert plan.classify().config["model"]["init_args"]["eips"] == list(EIPS)


def test_energies_that_a_zero_would_not_use():
    with pytest.raises(InputError, match="the energy zero least_squares does not use them: set mo"):
        EnergyZero("least_squares", {"Si": -0.8})


def test_structures_added_to_the_file_belong_to_a_random_split(tmp_path):
    def plan(n: int) -> Plan:
        frames = [Atoms("Si", info={"mine": -5.0, "dft_energy": 1.0, "energy": 2.0})] * n
        ase.io.write(tmp_path / "dft.extxyz", frames, format="extxyz")
        data = {"dft": str(tmp_path / "dft.extxyz"), "energy_zero": "none", "energy_key": "mine"}
        return Plan(Experiment(data, REPRESENTATION), tmp_path, 1, 0)

    sizes = []
    for n in (10, 10, 20):
        split = plan(n).parts
        sizes.append(len(split.train) + len(split.val) + len(split.test))
    assert sizes == [10, 10, 20]


class Processes:
    """In place of a stage's processes: notes the commands and leaves their files."""

    def __init__(self, whole: bool = True) -> None:
        self.whole = whole
        self.commands: list[str] = []

    def __call__(self, arguments: list[str], threads: int | None = None, log: Path | None = None) -> int:
        command, config = arguments[0], Path(arguments[2])
        resumed = command == "fit" and "--ckpt_path" in arguments
        self.commands.append("resume" if resumed else command)
        if command == "fit":
            for name in ("best", "last"):
                file = config.parent / "checkpoints" / f"{name}.ckpt"
                file.parent.mkdir(exist_ok=True)
                torch.save({"state_dict": {}}, file)
        if command != "fit" or self.whole:
            names = {"fit": "fit.json", "test": "test.json", "predict": "selection.csv"}
            (config.parent / names[command]).write_text("{}")
        if command == "test":
            (config.parent / "predictions_test.csv").write_text("config_id\n")
        return 0


@pytest.fixture
def stage(tmp_path) -> Stage:
    return plain_stage(tmp_path / "classify", "test", "predict")


def test_a_training_that_was_stopped_is_not_done(stage, monkeypatch):
    """Some schedulers ask a process to end, and it may end well: without its last epoch it is not done."""
    cut = Processes(whole=False)
    monkeypatch.setattr(execute, "call", cut)
    with pytest.raises(StageError, match=r"was stopped before its last epoch and wrote no fit\.json"):
        run_stage(stage)
    assert not stage.done_file.exists()
    whole = Processes()
    monkeypatch.setattr(execute, "call", whole)
    run_stage(stage)
    assert whole.commands == ["resume", "test", "predict"]


@pytest.mark.parametrize(
    ("gone", "commands"),
    [
        ("selection.csv", ["test", "predict"]),
        ("checkpoints/best.ckpt", ["fit", "test", "predict"]),
        ("logs", []),
    ],
)
def test_files_of_a_finished_stage_that_are_gone_are_made_again(stage, monkeypatch, capfd, gone, commands):
    processes = Processes()
    monkeypatch.setattr(execute, "call", processes)
    run_stage(stage)
    (stage.folder / gone).unlink(missing_ok=True)
    processes.commands = []
    run_stage(stage)
    assert processes.commands == commands
    said = "done before, but" if commands else "done before, skipped"
    assert said in capfd.readouterr().out
    assert not stage.lost(read_json(stage.done_file)["files"])


def test_a_stage_that_sigterm_ends_has_failed(monkeypatch, capsys):
    def ended(**_) -> None:
        raise SIGTERMException

    monkeypatch.setattr(cli, "EipnnCLI", ended)
    monkeypatch.setattr(cli, "quiet_lightning", lambda: None)
    assert exit_code("fit") == 128 + signal.SIGTERM
    assert "eipnn fit: ended by SIGTERM" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("eips", "options", "said"),
    [
        (None, [], ""),
        ("none", ["--eip-zero", "none"], ""),
        ({"*": {"mode": "least_squares"}}, ["--eip-zero", "least_squares"], ""),
        (
            {"*": {"mode": "isolated_atoms", "energies": {"Si": 1.0}}},
            [
                "--eip-zero",
                "isolated_atoms",
                "--eip-isolated-atoms",
                "FOLDER/eip_isolated_atoms.json",
            ],
            "",
        ),
        ({"sw": {"mode": "least_squares"}, "*": {}}, ["--eip-zero", "none"], "leaves the EIPs' zeros as they are"),
    ],
)
def test_the_leaderboard_of_the_labels_gets_the_zeros(tmp_path, capfd, eips, options, said):
    keys = {"energy_key": None, "forces_key": "f", "stress_key": "REF_virials"}
    given = _label_options({"energy_zero": "least_squares", "eip_energy_zero": eips} | keys, tmp_path)
    options = [option.replace("FOLDER", str(tmp_path)) for option in options]
    named = ["--forces-key", "f", "--stress-key", "REF_virials"]
    assert given == [*named, "--energy-zero", "least_squares", *options]
    assert said in capfd.readouterr().out


MONITOR = FinetuneModule.monitor


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"experiment": "schnet"},
        {"frames": 25},
        {"experiment": "schnet", "frames": 25, "seed": 8},
    ],
)
def test_the_closing_table_fits_a_terminal(about):
    result = {
        "test_config_mae": 12.3456,
        "test_atom_mae": 0.1234,
        "test_force_mae": 0.25,
        "test_stress_mae": 1.5,
        "gradient_steps": 72000,
    }
    rows = [
        {"strategy": name, "split": 1, "seed": 0, "alpha": alpha, "result": result} | about
        for name, alpha in (("mp+delta-long", None), ("mp+la-mse", 0.7))
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(results_table(rows))
    text = console.file.getvalue()
    assert "…" not in text
    values = [value for name, value in about.items() if name != "experiment"]
    line = next(line for line in text.splitlines() if "12345.6" in line and " 0.7 " in line)
    assert set(map(str, values)) | {"1", "0.7", "12345.6", "123.40", "0.250", "1.500", "72000"} <= {*line.split()}
    assert ("seed" in text, "frames" in text) == ("seed" in about, "frames" in about)


def row_of(strategy: str, score: float | None, **about) -> dict:
    result = {
        "best_score": score,
        "monitor": about.pop("monitor", MONITOR),
        "mode": about.pop("mode", "min"),
    }
    same = {"split": 1, "seed": 0, "potential": f"{strategy}.pt", "result": result}
    return {"strategy": strategy} | same | about


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row_of("mp", 0.2)], [f"mp has the {MONITOR}, 0.2000 (n = 1)"]),
        ([row_of("baseline", 0.3), row_of("mp", 0.2)], ["Of these 2 strategies mp has the lowest"]),
        (
            [row_of("la-dft", 0.1, hidden_dft=True), row_of("la", 0.2), row_of("baseline", 0.3)],
            ["la has the lowest"],
        ),
        ([row_of("energies", 0.1, energies_only=True), row_of("mp", 0.2)], ["mp has the val"]),
        ([row_of("energies", 0.1, energies_only=True)], ["energies has the val"]),
        ([row_of("mp", 0.1, split=1), row_of("mp", 0.3, split=2)], ["0.2000 (n = 2)"]),
        ([row_of("mp", 0.1, frames=25), row_of("mp", 0.3, frames=50)], ["n = 1, 50 DFT frames"]),
        (
            [row_of("mp", 0.1, experiment="a"), row_of("mp", 0.3, experiment="b")],
            ["a: mp", "b: mp"],
        ),
        ([row_of("mp", None)], []),
        ([row_of("mp", 0.1, monitor="val_atom_mae")], []),
        ([row_of("mp", 0.1, mode="max")], []),
        ([row_of("la-dft", 0.1, hidden_dft=True)], []),
    ],
)
def test_what_is_best_on_validation(rows, said):
    lines = best_on_validation(rows)
    assert len(lines) == len(said)
    assert all(text in line for text, line in zip(said, lines, strict=True))


def trained(alpha: float, score: float | None, mode: str = "min") -> dict:
    result = {"best_score": score, "mode": mode}
    return {"strategy": "la", "alpha": alpha, "result": result}


@pytest.mark.parametrize(("mode", "alpha"), [("min", 0.1), ("max", 1.0)])
def test_alpha_is_chosen_by_the_mode_of_the_metric(mode, alpha):
    rows = [trained(a, score, mode) for a, score in ((0.01, 0.5), (0.1, 0.2), (1.0, 0.9))]
    assert best_trained(rows)["alpha"] == alpha


def test_alpha_is_not_chosen_without_a_score():
    with pytest.raises(ExperimentError, match=r"alpha 0\.1 of la has no validation score"):
        best_trained([trained(0.01, 0.5), trained(0.1, None)])
    assert best_trained([trained(0.1, None)])["alpha"] == 0.1


def test_lists_of_files_and_of_eips_reach_the_labels(tmp_path, monkeypatch):
    told: list[list[str]] = []
    monkeypatch.setattr(command, "call", lambda arguments: told.append(arguments) or 0)
    eips = [{"name": "emt", "ase": "ase.calculators.emt.EMT"}]
    data = {"dft": ["a.xyz", "b.xyz"], "pool": "pool/*.xyz", "energy_zero": "none"}
    experiment = Experiment(data, REPRESENTATION, eips=eips)
    make_labels(experiment, tmp_path, 2)
    assert told[0][:5] == ["label", "a.xyz", "b.xyz", "--pool", "pool/*.xyz"]
    assert yaml.safe_load(Path(told[0][told[0].index("--eips") + 1]).read_text()) == eips
    assert experiment.eip_names == ("emt",)


def test_the_content_of_each_file_of_a_list_counts(tmp_path):
    def digests() -> dict[str, str]:
        data = {"dft": [f"{tmp_path}/a.xyz", f"{tmp_path}/b.xyz"], "pool": f"{tmp_path}/p*.xyz"}
        return Experiment(data, REPRESENTATION).digests

    for name in ("a", "b", "p1"):
        (tmp_path / f"{name}.xyz").write_text(name)
    first = digests()
    assert digests() == first
    (tmp_path / "b.xyz").write_text("c")
    assert digests()["dft"] != first["dft"]
    assert digests()["pool"] == first["pool"]
    (tmp_path / "p2.xyz").write_text("p2")
    assert digests()["pool"] != first["pool"]
