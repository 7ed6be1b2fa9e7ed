"""`experiments/published/fetch.py`: archives, what is done or half done, and folders with something else in them."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from published_sets import agau, ani_al, command, fetch, kim_si
from sets import COMMAND
from tiny import held_for

from eipnn.errors import InputError
from eipnn.labels import LabelError, LabelStore
from eipnn.structures import StructureError, read_structures
from eipnn.structures.paths import PUBLISHED, fetch_hint


@pytest.fixture(scope="module")
def silicon(tmp_path_factory) -> Path:
    """KIM-Si as published; tests only read it."""
    folder = tmp_path_factory.mktemp("silicon") / "KIM-Si"
    kim_si(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that was made, without the record of where it came from."""
    files = (path for path in folder.rglob("*") if path.is_file())
    kept = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: text for name, text in kept.items() if name not in ("dataset.json", ".lock")}


def archive(kind: str, folder: Path, file: Path) -> Path:
    return Path(shutil.make_archive(str(file), kind, folder.parent, folder.name))


@pytest.mark.parametrize("kind", ["gztar", "tar", "zip", "bztar"])
def test_an_archive_gives_what_a_folder_gives(silicon, tmp_path, kind):
    packed = archive(kind, silicon, tmp_path / "packed")
    assert fetch("kim-si", tmp_path / "a", packed) == fetch("kim-si", tmp_path / "b", silicon) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    about = json.loads((tmp_path / "a" / "dataset.json").read_text())
    assert about["sources"][0]["size"] == packed.stat().st_size


@pytest.mark.parametrize(("name", "make"), [("ani-al", ani_al), ("agau", agau)])
def test_ids_do_not_depend_on_where_a_set_was_unpacked(tmp_path, name, make):
    make(tmp_path / "deep" / "down" / "data")
    packed = archive("gztar", tmp_path / "deep", tmp_path / "packed")
    assert fetch(name, tmp_path / "a", packed) == 0
    assert fetch(name, tmp_path / "b", tmp_path / "deep" / "down" / "data") == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_several_archives(silicon, tmp_path):
    """The folds beside the configurations, as two files."""
    whole = shutil.copytree(silicon, tmp_path / "KIM-Si")
    folds = tmp_path / "folds" / "cross_validation"
    folds.parent.mkdir()
    shutil.move(whole / "cross_validation", folds)
    packed = [archive("zip", whole, tmp_path / "one"), archive("gztar", folds, tmp_path / "two")]
    assert fetch("kim-si", tmp_path / "a", *packed) == 0
    assert (tmp_path / "a" / "splits" / "fold_5.csv").exists()


def tar_with(file: Path, name: str) -> Path:
    with tarfile.open(file, "w:gz") as made:
        member = tarfile.TarInfo(name)
        member.size = 1
        made.addfile(member, io.BytesIO(b"x"))
    return file


def zip_with(file: Path, name: str) -> Path:
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, "x")
    return file


@pytest.mark.parametrize("make", [tar_with, zip_with])
@pytest.mark.parametrize("name", ["../../out.h5", "/../out.h5", "data/../../out.h5"])
def test_members_outside_of_the_folder(tmp_path, capsys, make, name):
    evil = make(tmp_path / f"evil.{'zip' if make is zip_with else 'tgz'}", name)
    assert fetch("ani-al", tmp_path / "a" / "b", evil) == 1
    assert "evil" in capsys.readouterr().err
    assert not list(tmp_path.rglob("out.h5"))


def test_links_in_an_archive(tmp_path, capsys):
    evil = tmp_path / "evil.tgz"
    with tarfile.open(evil, "w:gz") as packed:
        link = tarfile.TarInfo("out.h5")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    assert fetch("ani-al", tmp_path / "a", evil) == 1
    assert "is neither a file nor a folder" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["gztar", "zip", "xztar"])
def test_archives_that_are_cut_short(silicon, tmp_path, capsys, kind):
    packed = archive(kind, silicon, tmp_path / "packed")
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    assert fetch("kim-si", tmp_path / "a", packed) == 1
    assert "get it again" in capsys.readouterr().err
    assert not contents(tmp_path / "a")


def test_an_archive_that_is_not_there(tmp_path, capsys):
    assert fetch("kim-si", tmp_path / "a", tmp_path / "b.zip") == 1
    assert "b.zip: no such file or folder" in capsys.readouterr().err


def test_what_is_done_is_skipped_and_what_is_gone_is_made_again(silicon, tmp_path, capsys):
    out = tmp_path / "a"
    assert fetch("kim-si", out, silicon) == 0
    before = contents(out)
    capsys.readouterr()
    assert fetch("kim-si", out, tmp_path / "not there") == 0
    assert "done before, skipped" in capsys.readouterr().out
    shutil.rmtree(out / "labels")
    assert fetch("kim-si", out, silicon) == 0
    assert contents(out) == before


def test_a_run_that_is_killed_while_it_moves_the_files(silicon, tmp_path, monkeypatch):
    """The next run goes on with the files that are finished; the archive is not needed again."""
    whole, out = tmp_path / "whole", tmp_path / "a"
    assert fetch("kim-si", whole, silicon) == 0
    moves = []
    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.parent == out / ".converting":
            moves.append(path.name)
            if len(moves) == 3:
                raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        assert fetch("kim-si", out, silicon) == 130
    assert not (out / "dataset.json").exists()
    assert fetch("ani-al", out) == 1  # another set is at work there
    assert fetch("kim-si", out, tmp_path / "not there") == 0
    assert contents(out) == contents(whole)


def test_a_killed_conversion_leaves_nothing_that_looks_finished(silicon, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "a"
    with monkeypatch.context() as patched:
        patched.setattr("sets.convert._write_labels", killed)
        assert fetch("kim-si", out, silicon) == 130
    assert not [path for path in out.iterdir() if path.name not in (".lock", ".converting")]
    assert fetch("kim-si", out, silicon) == 0


def test_files_of_another_origin_are_left_alone(silicon, tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "dft.extxyz").write_text("mine")
    assert fetch("kim-si", tmp_path / "a", silicon) == 1
    assert f"dft.extxyz: was not made by `{COMMAND}`" in capsys.readouterr().err
    assert (tmp_path / "a" / "dft.extxyz").read_text() == "mine"
    assert fetch("kim-si", tmp_path / "b", silicon) == 0
    assert fetch("agau", tmp_path / "b", silicon) == 1
    assert "holds the data set kim-si; give another folder for agau" in capsys.readouterr().err
    (tmp_path / "b" / "dataset.json").write_text("{}")
    assert fetch("kim-si", tmp_path / "b", silicon) == 1
    assert "dataset.json: damaged" in capsys.readouterr().err


def test_two_runs_at_once(silicon, tmp_path, caplog):
    with held_for(tmp_path / ".lock", 0.5):
        assert fetch("kim-si", tmp_path, silicon) == 0
    assert "another `fetch.py` is at work there; waiting for it" in caplog.text


def test_the_command_without_a_network(tmp_path):
    """As a person calls it; AgAu has no address, so nothing reaches for the network."""
    done = subprocess.run(
        [sys.executable, command.__file__, "agau", "-o", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "aissquare.com" in done.stderr
    assert f"put it at {tmp_path / 'download' / 'FILE'}" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_set(tmp_path, capsys):
    assert fetch("silicon", tmp_path) == 2
    assert capsys.readouterr().err.startswith("fetch.py: NAME: 'silicon' is not one of ani-al, kim-si, agau")


def test_the_help_explains_all_and_comes_without_torch():
    code = "import sys, fetch\ntry: fetch.main()\nfinally: print('torch' in sys.modules)"
    folder = Path(command.__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], cwd=folder, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"
    for text in ("Download a published data set", "the data set; of: ani-al", "folder of the files", "the published"):
        assert text in " ".join(done.stdout.split())


def test_missing_files_name_the_command(tmp_path, monkeypatch):
    assert tuple(s.name for s in command.SETS) == PUBLISHED
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StructureError, match=f"no such file; make it with `{COMMAND} ani-al -o data/ani_al`"):
        read_structures("data/ani_al/dft.extxyz")
    with pytest.raises(LabelError, match=f"make it with `{COMMAND} kim-si -o data/kim_si`"):
        LabelStore.open("data/kim_si/labels")
    assert fetch_hint("data/mine/dft.extxyz") is None


def test_without_h5py_the_other_sets_can_be_fetched(monkeypatch, tmp_path):
    module = import_module("sets.ani_al")
    monkeypatch.setattr(module, "h5py", None)
    with pytest.raises(InputError, match="pip install h5py"):
        module.AniAl().frames([tmp_path])
