"""Every configuration that is shipped or shown trains, at toy size."""

import re
from dataclasses import asdict
from pathlib import Path

import ase.io
import pytest
import yaml
from backbones import build
from paper import call, script
from tiny import eipnn, exit_code, in_process, read_json

from eipnn.eips import load_eips
from eipnn.potential.checkpoints import build_representation
from eipnn.run import execute
from eipnn.run.command import check_rows
from eipnn.run.experiment import STAGES, Experiment, read_experiment
from eipnn.run.plan import Plan
from eipnn.stages.weights import WEIGHTS
from eipnn.structures import Split, read_split, read_structures, write_split
from eipnn.structures.paths import PUBLISHED as NAMES

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "experiments" / "paper"
SETS = [ROOT / "experiments" / name for name in ("si_mini", "al_mini", "agau_mini")]
BASES = sorted((ROOT / "experiments" / "base").glob("*.yaml"))
# Those of the published sets have a test of their own: test_published_experiments.py.
PUBLISHED = [ROOT / "experiments" / name.replace("-", "_") / "schnet.yaml" for name in NAMES]
ROWS = {folder / "strategies.yaml" for folder in (PAPER, PAPER.parent)}
EIPS = ROOT / "experiments" / "benchmarks" / "copper.yaml"
OTHERS = {EIPS, *BASES, *PUBLISHED, *ROWS, *(folder / "data.yaml" for folder in SETS)}
EXPERIMENTS = sorted(set((ROOT / "experiments").rglob("*.yaml")) - OTHERS)
STUDIES = sorted(set(PAPER.glob("*.yaml")) - OTHERS)
PAGES = (ROOT / "README.md", ROOT / "experiments" / "README.md")
README = [text for page in PAGES for text in re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Folders with the smallest frames of a bundled data set, by its name and kind of split."""
    made: dict[tuple[str, str], Path] = {}

    def toy(name: str, splits: str) -> Path:
        if (name, splits) not in made:
            made[name, splits] = make_toy(tmp_path_factory.mktemp("toy"), name, splits)
        return made[name, splits]

    return toy


def make_toy(folder: Path, name: str, splits: str) -> Path:
    """12 frames for training, 4 for validation, 4 for test, 16 in the pool."""
    split = read_split(f"bundled:{name}/splits/{splits}_1.csv")
    files = {kind: read_structures(f"bundled:{name}/{kind}.extxyz") for kind in ("dft", "pool")}
    atoms = {a.info["config_id"]: a for frames in files.values() for a in frames}

    def smallest(ids: tuple[str, ...], n: int) -> tuple[str, ...]:
        return tuple(sorted(ids, key=lambda name: len(atoms[name]))[:n])

    parts = Split(
        smallest(split.train, 12),
        smallest(split.val, 4),
        smallest(split.test, 4),
        smallest(split.pool, 16),
    )
    wanted = {*parts.train, *parts.val, *parts.test, *parts.pool}
    for kind, frames in files.items():
        if chosen := [a for a in frames if a.info["config_id"] in wanted]:
            ase.io.write(folder / f"{kind}.extxyz", chosen, format="extxyz")
    write_split(parts, folder / "split_1.csv")
    return folder


@pytest.fixture(scope="module")
def toy(toys) -> Path:
    """The toy of si_mini."""
    return toys("si_mini", "random")


def small_sizes(representation: dict) -> None:
    sizes = representation["init_args"]
    sizes |= {name: min(value, 8) for name, value in sizes.items() if type(value) is int}


def shrunk(experiment: Experiment, toys) -> dict:
    """An experiment with its own settings, but with toy sizes and data, for one epoch."""
    content = asdict(experiment) | {"alpha": list(experiment.alpha)}
    data = content["data"]
    name = data["dft"].removeprefix("bundled:").partition("/")[0]
    splits = "hidden" if "hidden_" in experiment.splits else "random"
    toy = toys(name, splits)
    data |= {"dft": str(toy / "dft.extxyz"), "labels": f"bundled:{name}/labels"}
    if "pool" in data:
        data["pool"] = str(toy / "pool.extxyz")
    content.pop("eips", None)  # labelled already
    content["splits"] = str(toy / "split_{split}.csv")
    small_sizes(content["representation"])
    for section in (content, *(content.get(stage, {}) for stage in STAGES)):
        section.setdefault("trainer", {})
        section["trainer"] |= {"max_epochs": 1, "enable_progress_bar": False}
        section.get("data", {}).pop("epoch_steps", None)
    return content


def test_there_is_a_set_of_eips():
    assert len(load_eips(EIPS)) == 2


def test_there_are_experiments():
    assert "schnet.yaml" in {file.name for file in BASES}
    table_1 = {folder / net.name for name in SETS for folder in (name, PAPER / name.name) for net in BASES}
    assert table_1 < set(EXPERIMENTS)


@pytest.mark.parametrize("file", [*EXPERIMENTS, *PUBLISHED], ids=lambda file: str(file.relative_to(ROOT)))
def test_what_redraws_the_paper_learns_energies_alone(file):
    experiment = read_experiment(file)
    weights = [experiment.stage(stage, "model").get("weights", WEIGHTS) for stage in ("pretrain", "finetune")]
    if PAPER in file.parents or file in PUBLISHED:
        assert weights == [{"energy": 1.0}] * 2
        assert experiment.stage("classify", "model")["judge"] == "energy"
    else:
        assert all("forces" in given for given in weights)


@pytest.mark.parametrize("file", BASES, ids=lambda file: file.name)
def test_a_base_is_trained_by_its_path(file, toy, tmp_path):
    """One step at its full size, as ``--model.representation FILE``."""
    config = yaml.safe_load(file.read_text())
    assert set(config) == {"class_path", "init_args"}
    built = build(build_representation, config)
    assert built.cutoff == config["init_args"]["cutoff"] == 5.0
    data = {"dft": toy / "dft.extxyz", "split": toy / "split_1.csv", "energy_zero": "none"}
    trainer = {"fast_dev_run": 1, "accelerator": "cpu", "enable_progress_bar": "false"}
    eipnn(
        "fit",
        "--model=eipnn.FinetuneModule",
        f"--model.representation={file}",
        "--data=eipnn.FinetuneDataModule",
        *(f"--data.{key}={value}" for key, value in data.items()),
        *(f"--trainer.{key}={value}" for key, value in trainer.items()),
        f"--trainer.default_root_dir={tmp_path}",
    )


TABLE = sorted(set(EXPERIMENTS) - set(STUDIES))


def some(files: list[Path], *quick: Path) -> list:
    """Those outside of the folders `quick` are slow tests: they differ in elements alone, or in what is learned."""
    marks = ([] if file.parent in quick else pytest.mark.slow for file in files)
    return [pytest.param(f, marks=m, id=str(f.relative_to(ROOT))) for f, m in zip(files, marks, strict=True)]


@pytest.mark.parametrize("file", some(EXPERIMENTS, *SETS, PAPER))
def test_the_stages_of_an_experiment_can_be_made(file, tmp_path):
    experiment = read_experiment(file)
    build(build_representation, experiment.representation)  # or skip it
    small_sizes(experiment.representation)
    plan = Plan(experiment, tmp_path, 1, 0)
    # of Table 1 the row that has every stage
    check_rows([plan.row(name, experiment.alpha) for name in experiment.run.get("strategy", ["mp+la"])])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize("file", some(TABLE, SETS[0]))
def test_an_experiment_trains(file, toys, tmp_path, monkeypatch):
    experiment = read_experiment(file)
    assert experiment.data.get("labels") or experiment.eips
    small = tmp_path / "small.yaml"
    build(build_representation, experiment.representation)  # or skip it
    small.write_text(yaml.safe_dump(shrunk(experiment, toys)))
    monkeypatch.setattr(execute, "call", in_process)
    run = tmp_path / "run"
    options = ["--strategy", "mp+la", "--split", "1", "--frames", "all", "--alpha", "0.1"]
    assert exit_code("run", str(small), "-o", str(run), *options) == 0
    result = read_json(run / "split-1" / "seed-0" / "result-mp+la.json")
    assert result["result"]["test_atom_mae"] < 5


@pytest.mark.slow  # in the default run their stages are made, and sections of reports by test_report_studies.py
@pytest.mark.parametrize("file", STUDIES, ids=[file.name for file in STUDIES])
def test_a_study_of_the_paper_is_run_and_reported(file, toys, tmp_path, monkeypatch):
    """The rows that it names, on one split, the sections of the report that they make, and Fig. 3.

    Long rows are trained in the studies over DFT frames alone, to save time.
    """
    experiment = read_experiment(file)
    content = shrunk(experiment, toys)
    content["classify"]["model"]["c"] = 10.0  # so that an EIP is chosen after one epoch
    content["run"] |= {"split": [1]}
    frames = content["run"].get("frames")
    if frames:
        content["run"]["frames"] = [12, "all"]
    else:
        rows = content["run"]["strategy"]
        content["run"]["strategy"] = [name for name in rows if not experiment.rows[name].long]
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(execute, "call", in_process)
    run = tmp_path / "run"
    assert exit_code("run", str(small), "-o", str(run)) == 0
    assert exit_code("report", str(run)) == 0
    text = (run / "report" / "report.md").read_text()
    if frames:
        assert "### How many DFT frames" in text
        return
    call(script("figure_3"), str(run))
    text = (run / "figure_3" / "figure_3.md").read_text()
    for title in ("Who labels", "Outliers", "Tukey's biweight", "One EIP alone"):
        assert f"### {title}" in text


@pytest.mark.parametrize("text", README, ids=range(len(README)))
def test_yaml_of_the_readme_is_valid(text, tmp_path):
    content = yaml.safe_load(text)
    file = tmp_path / "shown.yaml"
    if isinstance(content, list):
        file.write_text(yaml.safe_dump([e for e in content if "ase" in e]))
        assert load_eips(file)
    else:
        whole = {"data": {"dft": "a", "energy_zero": "none"}, "representation": {}} | content
        file.write_text(yaml.safe_dump(whole))
        read_experiment(file)
