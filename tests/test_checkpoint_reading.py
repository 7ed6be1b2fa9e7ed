"""A checkpoint from anywhere: no code of it is run, no bit of it is another, and what is wrong is said."""

import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from tiny import SMALL, best, eipnn_stage, flipped, stage_config

import eipnn
from eipnn.errors import InputError
from eipnn.potential.checkpoints import CheckpointError, find_class, read_checkpoint
from eipnn.representations import SchNet
from eipnn.tensor_files import read_tensors

REMOTE = (
    "http://127.0.0.1:9/best.ckpt",
    "https://example.org/best.ckpt",
    "s3://bucket/best.ckpt",
    "hf://user/best.ckpt",
    "memory://best.ckpt",
    "registry:name",
)
WORDS = ("best", "last", "hpc")


class Trap:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, (str(self.folder),))


@pytest.fixture
def trap(tmp_path) -> tuple[Path, Path]:
    """A checkpoint that makes a folder where it is unpickled without care, and that folder."""
    content = Trap()
    content.folder = tmp_path / "sprung"
    net = eipnn.FinetuneModule(SchNet(**SMALL))
    torch.save(
        {"state_dict": net.state_dict(), "eipnn": net.record(), "trap": content},
        tmp_path / "trap.ckpt",
    )
    return tmp_path / "trap.ckpt", content.folder


@pytest.mark.parametrize("file", [*REMOTE, *WORDS])
def test_only_local_files_are_read(tiny, tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    message = "no such checkpoint" + ("; checkpoints are read from local" if ":" in file else "")
    for read in (eipnn.load, eipnn.EIPNNCalculator, eipnn.PretrainModule.load_from_checkpoint):
        with pytest.raises(CheckpointError, match=message):
            read(file)


EVALUATIONS = [(command, file) for command in ("test", "predict") for file in (REMOTE[0], "best")]


@pytest.mark.parametrize(("command", "file"), [*(("fit", file) for file in (*REMOTE, *WORDS)), *EVALUATIONS])
def test_commands_read_local_files_alone(tiny, tmp_path, monkeypatch, command, file):
    monkeypatch.chdir(tmp_path)
    message = "no such checkpoint" + ("; checkpoints are read from local" if ":" in file else "")
    with pytest.raises(SystemExit, match=message):
        eipnn_stage(command, stage_config(tiny, "Finetune", tmp_path / "run"), "--ckpt_path", file)


@pytest.mark.parametrize("file", REMOTE[:3])
def test_a_trainer_in_python_reads_no_url(tiny, tmp_path, file):
    net = eipnn.FinetuneModule(SchNet(**SMALL), init_from=file)
    data = eipnn.FinetuneDataModule(**tiny.arguments, handover=net.handover)
    with pytest.raises(CheckpointError, match="read from local files only"):
        trainer(tmp_path).fit(net, data)
    with pytest.raises(CheckpointError, match="read from local files only"):
        trainer(tmp_path).test(net, data, ckpt_path=file)


def trainer(folder: Path) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(accelerator="cpu", max_epochs=1, default_root_dir=folder, **quiet)


@pytest.mark.parametrize("variable", ["0", "1"])
def test_no_code_of_a_checkpoint_is_run(tiny, trap, tmp_path, monkeypatch, variable):
    """Not either where mace, or a user, has told torch to run it."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", variable)
    file, sprung = trap
    net = eipnn.FinetuneModule(SchNet(**SMALL))
    config = stage_config(tiny, "Finetune", tmp_path / "run")
    attempts = (
        lambda: eipnn.load(file),
        lambda: eipnn_stage("fit", config, "--ckpt_path", str(file)),
        lambda: trainer(tmp_path).fit(
            net,
            eipnn.FinetuneDataModule(**tiny.arguments, handover=net.handover),
            ckpt_path=file,
            weights_only=False,
        ),
    )
    for attempt in attempts:
        with pytest.raises((InputError, SystemExit), match="it holds more than plain values and t"):
            attempt()
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Folder(sprung)))
    assert sprung.exists()  # it is a trap


class Folder(Trap):
    def __init__(self, folder: Path) -> None:
        self.folder = folder


def test_classes_and_settings_in_a_checkpoint_change_no_configuration(tiny, trained, tmp_path):
    """Lightning takes what a checkpoint calls hyper_parameters for the configuration of the model."""
    content = read_checkpoint(best(trained["Finetune"]))
    content["hyper_parameters"] = {"_class_path": "antigravity.Model", "alpha": 7.0}
    torch.save(content, tmp_path / "changed.ckpt")
    config = stage_config(tiny, "Finetune", tmp_path / "run")
    eipnn_stage("validate", config, "--ckpt_path", str(tmp_path / "changed.ckpt"))
    assert "antigravity" not in sys.modules


def test_no_flipped_bit_goes_unnoticed(trained, tmp_path):
    """Either it is found, or every number is as it was."""
    whole = read_checkpoint(best(trained["Finetune"]))
    found = 0
    for file in flipped(Path(best(trained["Finetune"])), tmp_path, 60):
        try:
            content = read_checkpoint(file)
        except CheckpointError:
            found += 1
            continue
        assert content["eipnn"] == whole["eipnn"]
        torch.testing.assert_close(content["state_dict"], whole["state_dict"], rtol=0, atol=0)
    assert found > 30


def modified(trained: dict, tmp_path: Path, **changes) -> Path:
    content = read_checkpoint(best(trained["Finetune"]))
    content["eipnn"] = content["eipnn"] | changes
    torch.save(content, tmp_path / "modified.ckpt")
    return tmp_path / "modified.ckpt"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "dream"}, "stage is 'dream'"),
        ({"representation": {"class_path": 3, "init_args": {}}}, "representation is {'class_path'"),
        ({"zeros": {"dft": {"mode": "none"}}}, "zeros are"),
        ({"elements": ["Au", "Xx"]}, r"elements are \['Au', 'Xx'\]"),
        ({"settings": {"height": 3.0}}, "does not fit the code.*'height'"),
        ({"settings": {"alpha": "much"}}, "does not fit the code|alpha"),
    ],
)
def test_what_is_wrong_in_a_record_is_said(trained, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        eipnn.FinetuneModule.load_from_checkpoint(modified(trained, tmp_path, **changes))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=5,
)
KEYS = ("stage", "representation", "eips", "settings", "elements", "zeros", "cutoff", "units")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(KEYS), plain, min_size=1, max_size=3))
def test_any_record_is_read_or_refused(trained, tmp_path, changes):
    file = modified(trained, tmp_path, **changes)
    for cls in (eipnn.FinetuneModule, eipnn.Potential):
        load = getattr(cls, "load", None) or cls.load_from_checkpoint
        with suppress(InputError):
            assert isinstance(load(file), cls)


@pytest.mark.parametrize(
    "class_path",
    ["antigravity.Net", "this.d", "idlelib.help.HelpParser", "no.such.Net", "Net", "..", "a b.c"],
)
def test_no_module_is_imported_because_a_checkpoint_names_it(trained, tmp_path, class_path):
    before = set(sys.modules)
    config = {"class_path": class_path, "init_args": {}}
    with pytest.raises(CheckpointError, match="is not found: put its module where Python finds it"):
        eipnn.load(modified(trained, tmp_path, representation=config))
    assert not {"antigravity", "this", "idlelib"} & (set(sys.modules) - before)


def test_classes_that_are_no_representations(trained, tmp_path):
    for class_path in ("os.PathLike", "eipnn.stages.finetune.FinetuneModule", "torch.nn.Linear"):
        with pytest.raises(CheckpointError, match="is no Representation"):
            find_class(class_path)


def test_a_backbone_of_the_user_is_found_in_a_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "net.py").write_text(
        "from eipnn.representations import SchNet\nclass Net(SchNet):\n    pass\n"
    )
    (tmp_path / "mine" / "broken.py").write_text("import eipnn\nclass Net:\n    x = 1 / 0\n")
    assert issubclass(find_class("mine.net.Net"), SchNet)
    with pytest.raises(CheckpointError, match=r"mine\.broken.*cannot be imported \(ZeroDivision"):
        find_class("mine.broken.Net")
    for name in ("mine", "mine.net", "mine.broken"):
        sys.modules.pop(name, None)


def test_files_of_tensors_are_read_or_refused(tmp_path):
    file = tmp_path / "numbers.pt"
    torch.save({"x": torch.arange(1000.0)}, file)
    for damaged in flipped(file, tmp_path, 60):
        try:
            content = read_tensors(damaged)
        except ValueError:
            continue
        assert torch.equal(content["x"], torch.arange(1000.0))
