"""`eipnn run --print-jobs`: the stages of a run as jobs of make or SLURM, each after those that it reads."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eipnn.run.plan import Row, in_order, lates, reads

SLURM_HEAD = r"""#!/bin/bash
# bash THIS_FILE OPTIONS, in the folder in which it was printed; the options are those of sbatch, for every job
set -e
job() {  # NAME AFTER COMMAND OPTIONS: its number
    sbatch --parsable --kill-on-invalid-dep=yes --job-name "$1" ${2:+"--dependency=afterok$2"} "${@:4}" --wrap "$3"
}"""


class Job(NamedTuple):
    """Labels or a stage: its folder seen from that of the run, and the jobs that it comes after."""

    name: str
    after: list[str]


def jobs_of(output: Path, planned: Mapping[Path, Sequence[Row]]) -> list[Job]:
    """What the rows of each experiment (by its folder) need, in order."""
    found = []
    for root, rows in planned.items():
        labels = [os.path.relpath(root / "labels", output)] if rows[0].plan.experiment.eips is not None else []
        found += [Job(name, []) for name in labels]
        for stage in in_order(stage for row in rows for stage in row.stages):
            needed = labels if any(late.what == "labels" for late in lates(stage.inputs)) else []
            before = dict.fromkeys(os.path.relpath(one.folder, output) for one in reads(stage))
            found.append(Job(os.path.relpath(stage.folder, output), [*needed, *before]))
    return found


def makefile(command: Sequence[str], jobs: Sequence[Job]) -> str:
    """A Makefile: one target for each job, and ``all``, which calls the command itself for its tables.

    No target is a file: what is done is known by its fingerprint, not by its time.
    """
    names = {job.name: re.sub(r"[^\w.+/-]", "_", job.name) for job in jobs}
    whole = shlex.join(command[1:]).replace("$", "$$").replace("#", r"\#")
    lines = [
        "# make -f THIS_FILE -j N, in the folder in which it was printed",
        f"EIPNN = {command[0]}",
        f"RUN = $(EIPNN) {whole}",
        f".PHONY: all {' '.join(names.values())}",
        f"all: {' '.join(names.values())}\n\t$(RUN)",
    ]
    for name, after in jobs:
        stage = shlex.quote(name).replace("$", "$$")
        lines.append(f"{' '.join([f'{names[name]}:', *(names[one] for one in after)])}\n\t$(RUN) --stage {stage}")
    return "\n".join(lines)


def slurm_script(command: Sequence[str], jobs: Sequence[Job]) -> str:
    """A shell script that hands the jobs to SLURM, each to begin when those before it went well."""
    numbers = {job.name: f"$j{number}" for number, job in enumerate(jobs)}
    lines = [SLURM_HEAD]
    for name, after in [*jobs, Job("all", list(numbers))]:
        text = shlex.quote(shlex.join([*command, *(["--stage", name] if name in numbers else [])]))
        before = "".join(f":{numbers[one]}" for one in after)
        lines.append(f'{numbers.get(name, "$all")[1:]}=$(job {shlex.quote(name)} "{before}" {text} "$@")')
    return "\n".join([*lines, 'echo "the last job is $all"'])
