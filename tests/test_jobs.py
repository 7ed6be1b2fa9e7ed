"""`eipnn run --print-jobs`: the printed jobs make the same run, in an order in which all that is read is there."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from run_stages import assert_same_results, fold
from tiny import exit_code, read_json

from eipnn.run import command

ROWS = ("--strategy", "baseline", "la", "mp", "--alpha", "0.1", "1")


def in_make(file: Path, *options: str, folder: Path) -> str:
    """What make prints."""
    line = ["make", "-f", str(file), *options]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_targets_of_make_are_the_stages(experiment, run, fake, tmp_path, capfd):
    """Each command is given in the order of make, backwards where make leaves it open."""
    run(experiment, *ROWS)
    expected, alone = sorted(fake.taken()), tmp_path / "$alone"
    file = tmp_path / "experiment.yaml"
    assert exit_code("run", str(file), "-o", str(alone), *ROWS, "--print-jobs", "make") == 0
    (tmp_path / "jobs.mk").write_text(printed := capfd.readouterr().out)
    assert "split-1/seed-0/mp: split-1/seed-0/pretrain\n" in printed
    assert not alone.exists()
    stages = [line.partition(":")[0] for line in printed.splitlines() if line.startswith("split-")]
    assert len(stages) == 6
    *lines, last = in_make(tmp_path / "jobs.mk", "-n", "all", folder=tmp_path).splitlines()
    asked = in_make(tmp_path / "jobs.mk", "-n", *stages[::-1], folder=tmp_path).splitlines()
    backwards = [line for line in asked if line.startswith("eipnn")]  # "nothing to be done" for the others
    assert sorted(backwards) == sorted(lines) != backwards
    for number, line in enumerate(backwards):
        assert exit_code(*shlex.split(line)[1:]) == 0
        assert len(list(alone.rglob("done.json"))) == number + 1
    assert sorted(fake.taken()) == expected
    assert exit_code(*shlex.split(last)[1:]) == 0
    assert fake.taken() == []
    results = [read_json(root / "split-1" / "seed-0" / "result-la.json") for root in (tmp_path / "run", alone)]
    assert results[0] == results[1]


def test_jobs_of_slurm_wait_for_what_they_read(experiment, tmp_path, monkeypatch, capsys):
    """`sbatch` is stood in for: it gives numbers, and notes what it is told."""
    del experiment["data"]["labels"]
    file, output = tmp_path / "it's.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(experiment | {"eips": [{"name": "emt", "ase": "ase.calculators.emt.EMT"}]}))
    monkeypatch.setattr(command, "check_rows", lambda rows: None)
    options = ["--strategy", "baseline", "mp", "--threads", "1", "--print-jobs", "slurm"]
    assert exit_code("run", str(file), "-o", str(output), *options) == 0
    (tmp_path / "jobs.sh").write_text(capsys.readouterr().out)
    stub = tmp_path / "sbatch"
    stub.write_text(
        '#!/bin/bash\necho >> told; echo $(grep -c ^$ told)\nfor word in "$@"; do echo "$word" >> told; done\n'
    )
    stub.chmod(0o700)
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run(["bash", "jobs.sh", "--time", "1:00"], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True)
    jobs = [job.split("\n") for job in (tmp_path / "told").read_text().strip("\n").split("\n\n")]
    names = [job[job.index("--job-name") + 1] for job in jobs]
    after = [next((word.partition(":")[2] for word in job if word.startswith("--dependency")), "") for job in jobs]
    assert names == ["labels", *(f"split-1/seed-0/{name}" for name in ("baseline", "pretrain", "mp")), "all"]
    assert after == ["", "", "1", "3", "1:2:3:4"]
    called = ["eipnn", "run", str(file), "-o", str(output), "--strategy", "baseline", "mp", "--threads", "1"]
    for job, name in zip(jobs, names, strict=True):
        assert job[job.index("--time") + 1] == "1:00"
        assert shlex.split(job[-1]) == called + (["--stage", name] if name != "all" else [])


def test_a_stage_that_the_run_has_not(experiment, run, fake):
    assert "seed-0/la is no folder of these strategies, splits and seeds; --dry-run tells which" in run(
        experiment, "--strategy", "mp", "--stage", "split-1/seed-0/la", status=2
    )


@pytest.mark.parametrize("other", [("--dry-run",), ("--print-jobs", "make")])
def test_a_stage_is_trained_or_not(experiment, run, fake, other):
    assert f"--stage brings a stage to its end; leave out {other[0]}" in run(
        experiment, "--strategy", "mp", "--stage", "split-1/seed-0/mp", *other, status=2
    )


@pytest.mark.slow
def test_make_brings_what_the_command_does(experiment, tmp_path):
    """Labels, pretraining, two fine-tunings, two at once."""
    del experiment["data"]["labels"]
    entries = [{"name": "emt", "ase": "ase.calculators.emt.EMT"}]
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment | {"eips": entries}))
    options = ("--strategy", "baseline", "mp", "--threads", "1")
    eipnn = [sys.executable, "-m", "eipnn"]
    line = [*eipnn, "run", str(file), "-o", str(tmp_path / "run"), *options, "--print-jobs", "make"]
    printed = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    (tmp_path / "jobs.mk").write_text(printed)
    said = in_make(tmp_path / "jobs.mk", "-j2", f"EIPNN={shlex.join(eipnn)}", folder=tmp_path)
    assert "mp has the lowest" in said or "baseline has the lowest" in said
    assert exit_code("run", str(file), "-o", str(tmp_path / "plain"), *options) == 0
    assert_same_results(fold(tmp_path), tmp_path / "plain" / "split-1" / "seed-0")
