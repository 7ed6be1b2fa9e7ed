"""The experiments on the published sets: from a small archive in the published layout to a test error."""

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from published_sets import EIPS, agau, ani_al, fetch, kim_si
from sets import COMMAND
from tiny import exit_code, in_process, read_json

from eipnn.eips import named_sets
from eipnn.labels import LabelStore
from eipnn.run import command, execute
from eipnn.run.experiment import read_experiment
from eipnn.structures import read_split

ROOT = Path(__file__).parents[1]
MAKERS = {"ani-al": ani_al, "kim-si": kim_si, "agau": agau}
CUTOFFS = {"ani-al": 7.0, "kim-si": 5.0, "agau": 6.0}  # A
SET = """\
- {name: emt, ase: ase.calculators.emt.EMT}
- {name: emt-asap, ase: ase.calculators.emt.EMT, arguments: {asap_cutoff: true}}
"""
"""In place of the OpenKIM models, which not every machine has."""


def shipped(name: str) -> Path:
    return ROOT / "experiments" / name.replace("-", "_") / "schnet.yaml"


def small(name: str, folder: Path) -> Path:
    """The experiment as shipped, for one epoch with a small network."""
    content = asdict(read_experiment(shipped(name))) | {"alpha": [0.1]}
    sizes = content["representation"]["init_args"]
    assert sizes["cutoff"] == CUTOFFS[name]
    sizes |= {key: min(value, 8) for key, value in sizes.items() if type(value) is int}
    content["trainer"] |= {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    content["data"]["batch_size"] = 8
    if content["eips"]:
        assert content["eips"] in named_sets()
        (folder / "eips.yaml").write_text(SET)
        content["eips"] = str(folder / "eips.yaml")
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    """A working directory of this test; stages run in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(execute, "call", in_process)
    monkeypatch.setattr(command, "call", in_process)
    return tmp_path


@pytest.mark.parametrize("name", MAKERS)
def test_from_the_archive_to_a_test_error(name, there):
    MAKERS[name](there / "published" / "data")
    packed = shutil.make_archive("packed", "gztar", there / "published")
    assert fetch(name, Path("data") / name.replace("-", "_"), Path(packed)) == 0
    arguments = [str(small(name, there)), "-o", "run", "--strategy", "mp+la", "--split", "2"]
    assert exit_code("run", *arguments) == 0
    result = read_json(there / "run" / "split-2" / "seed-0" / "result-mp+la.json")
    assert 0 < result["result"]["test_atom_mae"] < 5
    pretrain = yaml.safe_load((there / "run/split-2/seed-0/pretrain/config.yaml").read_text())
    trained = set(pretrain["model"]["init_args"]["eips"])
    assert trained == (set(EIPS) if name == "kim-si" else {"emt", "emt-asap"})


def test_a_fold_and_the_authors_own_split(there):
    """Splits that mark frames of the DFT file as pool, beside a pool file."""
    kim_si(there / "KIM-Si")
    assert fetch("kim-si", Path("data/kim_si"), there / "KIM-Si") == 0
    content = yaml.safe_load(small("kim-si", there).read_text())
    pool = read_split("data/kim_si/splits/fold_1.csv").pool
    assert {"cluster_28", "cluster_29", "diamond_0"} < set(pool)
    authors = [f"diamond_{i},pretrain" for i in range(12)] + ["cluster_0,pretrain"]
    authors += [f"cluster_{i},{'train' if i < 20 else 'val' if i < 25 else 'test'}" for i in range(1, 30)]
    Path("authors_1.csv").write_text("\n".join(["configs,mark", *authors]) + "\n")
    for splits in ("data/kim_si/splits/fold_{split}.csv", "authors_{split}.csv"):
        Path("own.yaml").write_text(yaml.safe_dump(content | {"splits": splits}))
        run = splits.partition("_{")[0].rpartition("/")[2]
        assert exit_code("run", "own.yaml", "-o", run, "--strategy", "mp") == 0


@pytest.mark.parametrize("name", MAKERS)
def test_without_the_data_the_command_is_named(name, there, capfd):
    assert exit_code("run", str(shipped(name)), "-o", "run") == 1
    folder = f"data/{name.replace('-', '_')}"
    assert f"make it with `{COMMAND} {name} -o {folder}`" in capfd.readouterr().err


def test_a_later_labelling_needs_a_folder_of_its_own(there, capfd):
    """The published energies are never mixed with calculated ones."""
    kim_si(there / "KIM-Si")
    assert fetch("kim-si", there / "kim_si", there / "KIM-Si") == 0
    (there / "eips.yaml").write_text(SET)
    before = LabelStore.open(there / "kim_si" / "labels").fingerprint
    files = [str(there / "kim_si" / f"{kind}.extxyz") for kind in ("dft", "pool")]
    assert in_process(["label", *files, "--eips", "eips.yaml", "-o", str(there / "kim_si" / "labels")]) == 1
    assert "holds labels of other EIPs: CF_MOD (https://doi.org" in capfd.readouterr().err
    assert LabelStore.open(there / "kim_si" / "labels").fingerprint == before
