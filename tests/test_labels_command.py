"""`eipnn label` and `eipnn eips` as people call them."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from tiny import exit_code

from eipnn.labels import LabelStore, cluster

SET = """\
- {name: springs, ase: label_calculators.Springs}
- {name: stiff, ase: label_calculators.Springs, arguments: {stiffness: 3.0}}
- {name: trouble, ase: label_calculators.Trouble, arguments: {how: raise, n_atoms: 4}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """`dft.extxyz` with 10 frames whose DFT energy is that of springs - 7 eV per atom, `pool.extxyz`, a split."""
    random = np.random.default_rng(0)
    dft, pool = [], []
    for i in range(20):
        atoms = Atoms(f"Si{2 + i % 4}", random.normal(size=(2 + i % 4, 3)))
        atoms.info["config_id"] = f"s{i}"
        delta = atoms.positions[:, None] - atoms.positions[None, :]
        energy = 0.25 * (delta**2).sum() - 7 * len(atoms)
        if i < 10:
            atoms.calc = SinglePointCalculator(atoms, energy=energy)
        (dft if i < 10 else pool).append(atoms)
    write(tmp_path / "dft.extxyz", dft)
    write(tmp_path / "pool.extxyz", pool)
    marks = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [f"s{i},{mark}" for i, mark in enumerate(marks)]
    (tmp_path / "split.csv").write_text("\n".join(["configs,mark", *rows, "s12,pretrain"]) + "\n")
    (tmp_path / "set.yaml").write_text(SET)
    (tmp_path / "e0.json").write_text('{"Si": -7.0}')
    return tmp_path


def label(files: Path, *more: str, structures: tuple[str, ...] = ("dft.extxyz", "pool.extxyz")) -> int:
    paths = [str(files / name) for name in structures]
    return exit_code("label", *paths, "--eips", str(files / "set.yaml"), "-o", str(files / "out"), *more)


def test_label_and_leaderboard(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zero = ["--isolated-atoms", str(files / "e0.json"), "--split", str(files / "split.csv")]
    assert label(files, "--workers", "2", *zero) == 0
    output, text = capsys.readouterr()
    assert "55 of 60 labels" in text
    assert "5 x trouble: RuntimeError: cannot do" in text
    assert "Best EIP, chosen on train + val: springs; test config MAE 0.0 meV, atom MAE 0.00 meV/atom over 2" in output
    assert "WARNING" not in text
    store = LabelStore.open(files / "out")
    assert store.ids == tuple(f"s{i}" for i in range(20))
    assert np.isnan(store.energies).sum() == 5
    table = pd.read_csv(files / "out" / "leaderboard.csv").set_index(["eip", "part"])
    assert table.loc[("springs", "test"), "frames"] == 2
    assert table.loc[("springs", "test"), "config_mae"] == pytest.approx(0.0, abs=1e-6)
    # A second call has nothing to label, and here nothing to align the zeros with.
    assert label(files) == 0
    text = capsys.readouterr().err
    assert "WARNING: DFT energies are far from every EIP" in text


def test_a_key_of_the_dft_file_only(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 1.0]], info={"config_id": "x", "mine": -13.5})
    write(files / "mine.extxyz", atoms)
    zero = ["--isolated-atoms", str(files / "e0.json"), "--energy-key", "mine"]
    assert label(files, *zero, structures=("mine.extxyz", "dft.extxyz")) == 0
    assert "springs,Si,all,1,0,0.0,0.0" in (files / "out" / "leaderboard.csv").read_text()
    for kind in ("energy", "forces", "stress"):
        capsys.readouterr()
        assert label(files, f"--{kind}-key", "yours") == 1
        assert f"no frame has the {kind} key 'yours'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--isolated-atoms", "no.json"], "eipnn label: no.json: no such file"),
        (
            ["--isolated-atoms", "SET"],
            "set.yaml: must be a JSON mapping from element to energy in eV",
        ),
        (
            ["--energy-zero", "isolated_atoms"],
            "needs an isolated-atom energy (eV) of Si; give it",
        ),
        (["--split", "no.csv"], "no.csv: no such file"),
        (["--split", "SET"], "the header must be 'configs,mark'"),
        (["--eips", "lead"], "lead: neither a named set nor a YAML file"),
        (["-o", "SET"], "set.yaml: is a file; give a folder"),
    ],
)
def test_bad_options(files: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = [str(files / "set.yaml") if word == "SET" else word for word in more]
    assert label(files, *more) == 1
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--workers", "0"], "--workers: '0' is not a whole number from 1 on"),
        (["--timeout", "-1"], "--timeout: '-1' is not a positive number"),
        (["--timeout", "nan"], "--timeout: 'nan' is not a positive number"),
    ],
)
def test_wrong_values(files: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(files, *more) == 2
    assert message in capsys.readouterr().err


def test_the_same_id_in_two_files(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert label(files, structures=("dft.extxyz", "dft.extxyz")) == 1
    assert "dft.extxyz: is named twice; name every file once" in capsys.readouterr().err
    (files / "copy.extxyz").write_text((files / "dft.extxyz").read_text())
    assert label(files, structures=("dft.extxyz", "copy.extxyz")) == 1
    assert "copy.extxyz: frame 0 (s0): frame 0 of " in capsys.readouterr().err


def test_free_atoms_of_the_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are labelled, are the zero of the leaderboard, and not in it."""
    atom = Atoms("Si", info={"config_type": "isolated_atom"})
    atom.calc = SinglePointCalculator(atom, energy=-7.0)
    write(files / "free.extxyz", atom)
    assert label(files, structures=("dft.extxyz", "free.extxyz")) == 0
    table = pd.read_csv(files / "out" / "leaderboard.csv").set_index(["eip", "part"])
    assert table.loc[("springs", "all"), "frames"] == 10
    assert table.loc[("springs", "all"), "config_mae"] == pytest.approx(0.0, abs=1e-6)
    assert "free_000000" in LabelStore.open(files / "out").ids
    (files / "e0.json").write_text('{"Si": -6.0}')
    capsys.readouterr()
    zero = ["--isolated-atoms", str(files / "e0.json")]
    assert label(files, *zero, structures=("dft.extxyz", "free.extxyz")) == 1
    assert "isolated atom of Si has -6.0 eV as given, and -7.0 eV in" in capsys.readouterr().err


def test_labels_of_the_pool_are_not_looked_at(files: Path) -> None:
    atoms = Atoms("Si2", [[0, 0, 0], [0, 0, 1.0]])
    atoms.calc = SinglePointCalculator(atoms, energy=np.nan, forces=np.full((2, 3), np.nan))
    for folder in "ab":
        (files / folder).mkdir()
        write(files / folder / "OUT.extxyz", atoms)
        atoms.positions[1, 2] += 0.1
    pool = ["--pool", str(files / "*" / "OUT.extxyz"), str(files / "pool.extxyz")]
    assert label(files, *pool, structures=("dft.extxyz",)) == 0
    ids = LabelStore.open(files / "out").ids
    assert ids[10:12] == ("a_OUT_000000", "b_OUT_000000")
    assert len(ids) == 22


def test_a_split_of_other_structures(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = files / "split.csv"
    split.write_text(split.read_text() + "absent,train\n")
    assert label(files, "--split", str(split)) == 1
    assert "train id 'absent' is in no DFT structure file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["label", "eips", "inspect"])
def test_help_is_complete(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        exit_code(command, "--help")
    help_text = capsys.readouterr().out
    options = {
        "label": [
            "STRUCTURES",
            "--eips",
            "--workers",
            "--timeout",
            "--retry-failed",
            "--energy-key",
            "--energy-zero",
            "--isolated-atoms",
            "--eip-zero",
            "--split",
            "silver-gold",
        ],
        "eips": ["ELEMENT", "MO_"],
        "inspect": ["STRUCTURES", "--energy-key", "--forces-key", "--stress-key", "inspect.png"],
    }
    for option in options[command]:
        assert option in help_text


def test_an_eip_without_any_label_ends_the_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other labels are kept, and what is to be trained does not start."""
    four = [atoms for atoms in read(files / "pool.extxyz", ":") if len(atoms) == 4]
    write(files / "four.extxyz", four)
    assert label(files, structures=("four.extxyz",)) == 1
    text = capsys.readouterr().err
    assert "out: the EIP trouble has no label of any of the 3 structures (3 x RuntimeError: cannot do" in text
    store = LabelStore.open(files / "out")
    assert np.isfinite(store.energies[:, :2]).all()


def test_units_are_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = read(files / "dft.extxyz", ":")
    for atoms in frames:
        energy = atoms.get_potential_energy() * 23.06
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
    write(files / "dft.extxyz", frames)
    zeros = ["--energy-zero", "least_squares", "--eip-zero", "least_squares"]
    assert label(files, *zeros) == 0
    text = capsys.readouterr().err
    assert f"WARNING: {files}/dft.extxyz, {files}/pool.extxyz: the energies vary" in text
    assert "kcal/mol? Total energies in eV are due" in text
    assert "zeros probably differ" not in text


def test_free_atoms_of_the_eips(files: Path) -> None:
    (files / "free.json").write_text('{"Si": -7.0}')
    zeros = ["--eip-zero", "isolated_atoms", "--eip-isolated-atoms", str(files / "free.json")]
    assert label(files, *zeros) == 0
    table = pd.read_csv(files / "out" / "leaderboard.csv").set_index("eip")
    # springs has no free atoms' energy, DFT has -7 eV an atom, and +7 eV come to it here
    assert table.loc["springs", "offset"] == pytest.approx(14.0)


def test_a_cluster_that_cannot_be_had(files: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    """One line, and nothing is written."""
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    assert label(files, "--cluster", "tcp://127.0.0.1:9") == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("eipnn label: tcp://127.0.0.1:9: no Dask scheduler answers there; give the address that")
    assert label(files, "--cluster", "here") == 1
    assert "here: no Dask scheduler answers there" in capsys.readouterr().err
    assert label(files, "--cluster", "tcp://127.0.0.1:9", "--workers", "2") == 2
    assert "with --cluster the workers there label: give one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert label(files, "--cluster", "tcp://127.0.0.1:9") == 1
    assert "--cluster needs Dask" in (said := capsys.readouterr().err)
    assert "pip install 'eipnn[cluster]'" in said
    assert not (files / "out").exists()
