"""The command `eipnn run`."""

import json
import math
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eipnn.command_line import Count, Natural, Positive, Seed
from eipnn.errors import UsageError
from eipnn.files import write_atomically, write_json
from eipnn.metrics import METRICS
from eipnn.processes import call
from eipnn.run.dry_run import show_plan
from eipnn.run.ensemble import make_committees, seeds_of
from eipnn.run.execute import console, record_command, say
from eipnn.run.experiment import ALL, Experiment, ExperimentError, check_known, listed, read_experiment
from eipnn.run.jobs import jobs_of, makefile, slurm_script
from eipnn.run.plan import Late, Plan, Row, filled, in_order, without
from eipnn.run.pretrained import check_unseen
from eipnn.run.side_by_side import bring, threads_of
from eipnn.run.strategy import MAIN
from eipnn.stages.finetune import FinetuneModule
from eipnn.structures import LABEL_KEYS, Ids

DEFAULT: dict[str, Sequence[Any]] = {"strategy": MAIN, "split": [1], "seed": [0], "frames": [ALL]}
"""What is trained where neither the options nor the experiment file say."""


def run(
    experiment: list[Path],
    *,
    output: Path,
    strategy: list[str] | None = None,
    split: list[Natural] | None = None,
    seed: list[Seed] | None = None,
    frames: list[Count | Literal["all"]] | None = None,
    alpha: list[Positive] | None = None,
    ensemble: Count = 1,
    jobs: Count = 1,
    threads: Count | None = None,
    workers: Count = 1,
    dry_run: bool = False,
    print_jobs: Literal["make", "slurm"] | None = None,
    stage: str | None = None,
) -> None:
    """Run an experiment: label, classify, pretrain, fine-tune, test.

    Each stage has its own process and folder; what is done is skipped, what was cut off goes on from its last epoch.
    --strategy, --split, --seed and --frames may stand in the experiment file, under the key run.

    Args:
        experiment: experiment file (YAML); of several, each has a folder of its name in OUTPUT.
        output: folder of the run.
        strategy: rows of the table: baseline, la, mp, mp+la, delta, mp+delta, their -long forms, energies and those
            that the experiment defines (default: the first four).
        split: numbers of the splits (default: 1).
        seed: seeds of weights and sample order (default: 0).
        frames: numbers of DFT frames for training and validation together, or all (default: all); what is left out
            joins the pool without its DFT energy.
        alpha: weight of EIP labels; several are searched on validation (default: the experiment's).
        ensemble: seeds, from --seed on, whose potentials are a committee in the end: committee-STRATEGY.pt in the
            folder of the split, its spread calibrated on validation.
        jobs: stages that run at once, each when what it reads is done; what they print goes to log.txt of their folder.
        threads: CPU threads of each training (default: torch's, or a fair share of the cores with --jobs).
        workers: processes that label.
        dry_run: tell what is done, what would run and how many gradient steps it takes, and do nothing.
        print_jobs: print the stages as jobs, each after those that it reads, and do nothing: a Makefile, or a script
            for SLURM. With --jobs N threads are those of N at once.
        stage: bring this folder of the run to its end alone, as the printed jobs do.
    """
    given = {"strategy": strategy, "split": split, "seed": seed, "frames": frames, "alpha": alpha}
    files = list(dict.fromkeys(experiment))
    names = [file.stem for file in files]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExperimentError(
            f"two experiment files are called {min(twice)}, and each needs a folder of its own: rename one"
        )
    planned: dict[Path, list[Row]] = {}
    for file in files:
        content = read_experiment(file)
        check_known(strategy or (), content.strategies, f"--strategy, with {file}", UsageError)
        default = DEFAULT | content.run | {"alpha": content.alpha}
        what = {key: list(dict.fromkeys(values or default[key])) for key, values in given.items()}
        what["seed"] = seeds_of(what["seed"], ensemble)
        check_strategies(what["strategy"], content, file)
        root = output / file.stem if len(files) > 1 else output
        planned[root] = make_rows(content, root, what)
        if not stage:  # its plan was looked at before
            check_rows(planned[root])
    if stage and (dry_run or print_jobs):
        raise UsageError(f"--stage brings a stage to its end; leave out --{'dry-run' if dry_run else 'print-jobs'}")
    if stage:
        bring_alone(output / stage, planned, jobs, threads, workers)
        return
    if print_jobs:
        counts = {"ensemble": ensemble, "jobs": jobs, "workers": workers}
        options = given | {"threads": threads and [threads]} | {key: [n] for key, n in counts.items() if n > 1}
        called = [word for key, values in options.items() if values for word in (f"--{key}", *map(str, values))]
        written = makefile if print_jobs == "make" else slurm_script
        print(written(["eipnn", "run", *map(str, files), "-o", str(output), *called], jobs_of(output, planned)))
        return
    if dry_run:
        for root, rows in planned.items():
            show_plan(root, rows)
        return
    results: list[dict[str, Any]] = []
    trained: dict[Path, list[dict[str, Any]]] = {}
    for root, rows in planned.items():
        head = {"experiment": root.name} if len(files) > 1 else {}
        trained[root] = carry_out(root, rows, jobs, threads, workers)
        results += [head | result for result in trained[root]]
    console.print(results_table(results))
    if ensemble > 1:
        for root, rows in planned.items():
            console.print(make_committees(rows, trained[root]))
    for line in best_on_validation(results):
        say(line)


def carry_out(root: Path, rows: Sequence[Row], jobs: int, threads: int | None, workers: int) -> list[dict[str, Any]]:
    """Label and train what these rows of one experiment need; the result of each (see `row_result`), as ``result-``
    file in the row's folder too."""
    experiment = rows[0].plan.experiment
    record_command(root, shlex.join(["eipnn", *sys.argv[1:]]))
    write_atomically(root / "experiment.yaml", yaml.safe_dump(asdict(experiment), sort_keys=False))
    make_labels(experiment, root, workers)
    finished: dict[Path, dict[str, Any]] = {}
    results: dict[int, dict[str, Any]] = {}
    stages = [stage for row in rows for stage in row.stages]
    for stage, result in bring(stages, jobs, threads_of(jobs, threads)):
        finished[stage.folder] = result
        for number, row in enumerate(rows):
            if number not in results and all(mine.folder in finished for mine in row.stages):
                results[number] = row_result(row, [finished[mine.folder] for mine in row.stages])
                say(f"{root}: {len(results)} of {len(rows)} rows are done")
    return [results[number] for number in range(len(rows))]


def bring_alone(
    folder: Path, planned: Mapping[Path, Sequence[Row]], jobs: int, threads: int | None, workers: int
) -> None:
    """Bring a stage of some rows (by folder of their experiment) to its end, or the labels.

    Raises:
        UsageError: they have no such folder.
    """
    for root, rows in planned.items():
        experiment = rows[0].plan.experiment
        if folder == root / "labels" and experiment.eips is not None:
            make_labels(experiment, root, workers)
            return
        for stage in in_order(stage for row in rows for stage in row.stages):
            if folder == stage.folder:
                list(bring([stage], jobs, threads_of(jobs, threads)))
                return
    raise UsageError(f"--stage: {folder} is no folder of these strategies, splits and seeds; --dry-run tells which are")


def make_rows(experiment: Experiment, root: Path, what: dict[str, Any]) -> list[Row]:
    """The rows of each split, seed and number of DFT frames, which have a folder of their own."""
    labels = experiment.data.get("labels") or (root / "labels" if experiment.eips is not None else None)
    rows = []
    for split, seed, count in product(what["split"], what["seed"], what["frames"]):
        fold = root / f"split-{split}" / f"seed-{seed}"
        folder, frames = (fold, None) if count == ALL else (fold / f"frames-{count}", int(count))
        plan = Plan(experiment, folder, split, seed, labels, frames)
        rows += [plan.row(name, what["alpha"]) for name in what["strategy"]]
    return rows


def check_strategies(strategies: Sequence[str], experiment: Experiment, file: Path) -> None:
    """Raise before hours of training where the experiment does not have what a strategy needs."""
    lacks = {
        "neither data.labels nor eips": experiment.eips is None and not experiment.data.get("labels"),
        "no data.pool (structures without DFT)": experiment.splits == "random" and not experiment.data.get("pool"),
    }
    needing = [name for name in strategies if not experiment.rows[name].dft_alone]
    for what in [what for what, lacking in lacks.items() if lacking and needing]:
        mend = f"which the strategy {needing[0]} needs; give it, or take --strategy baseline alone"
        raise ExperimentError(f"{file}: the experiment has {what}, {mend}")


def check_rows(rows: Sequence[Row]) -> None:
    """Raise what any stage of these rows would refuse, so that it comes before hours of training.

    Files that are absent, splits that name what no file holds, pretrainings of another run that know what judges this
    one, and settings: the modules of each stage are made, and dropped.

    Raises:
        InputError: a setting or a file cannot be used.
    """
    # here: Lightning's parser is needed by nothing else in this process
    from eipnn.cli import check_config

    experiment = rows[0].plan.experiment
    if any(not experiment.rows[row.strategy].dft_alone for row in rows) or experiment.splits == "random":
        for plan in {row.plan.folder: row.plan for row in rows}.values():
            dft, pool = experiment.ids
            known = Ids.joined([pool, dft]) if experiment.data.get("pool") else plan.parts.pool
            plan.parts.check(dft, known, plan.split_path)
    check_unseen(rows)
    examples = {"steps": 1, "single_eip": (*experiment.eip_names, "EIP")[0]}
    checked = set()
    for stage in in_order([row.stages[0] for row in rows if row.plan is rows[0].plan]):  # others differ in seeds alone
        config = filled(stage.config, lambda late: examples[late.what])
        if isinstance(stage.inputs.get("init_from"), Late):
            config = without(config, ["model.init_args.init_from"])
        if (same := json.dumps(config["model"], sort_keys=True)) not in checked:
            checked.add(same)
            # a selection is not made yet, and a fixed seed would be told
            check_config(without(config, ["data.init_args.selection"]) | {"seed_everything": False})


def row_result(row: Row, trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The result of a row, which is written too; with several alphas, the best on validation is the row's."""
    best = best_trained(trained)
    scores = {str(t["alpha"]): t["result"]["best_score"] for t in trained if t["alpha"] is not None}
    write_json(row.plan.folder / f"result-{row.strategy}.json", best | {"alphas": scores})
    kind = row.plan.experiment.rows[row.strategy]
    about = {"hidden_dft": kind.hidden_dft, "energies_only": kind.energies_only}
    return best | {"potential": str(row.stages[trained.index(best)].potential)} | about


def best_trained(trained: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The training with the best validation score, in the sense of the metric that its checkpoints are chosen by.

    Raises:
        ExperimentError: several trainings, and one has no score.
    """
    if len(trained) == 1:
        return trained[0]
    scores = [t["result"].get("best_score") for t in trained]
    if lost := [t for t, score in zip(trained, scores, strict=True) if score is None]:
        raise ExperimentError(
            f"alpha {lost[0]['alpha']:g} of {lost[0]['strategy']} has no validation score to be chosen by: let a "
            "ModelCheckpoint monitor a metric (val_config_mae), or give one alpha alone"
        )
    best = max if trained[0]["result"].get("mode") == "max" else min
    return trained[scores.index(best(scores))]


def make_labels(experiment: Experiment, root: Path, workers: int) -> None:
    """Make the label store in the run's folder, if the experiment has none."""
    if (eips := experiment.eips) is None:
        return
    if isinstance(eips, list):
        write_atomically(root / "eips.yaml", yaml.safe_dump(eips, sort_keys=False))
        eips = str(root / "eips.yaml")
    dft, pool = (listed(experiment.data.get(key) or []) for key in ("dft", "pool"))
    command = ["label", *dft, *(["--pool", *pool] if pool else []), "--eips", eips, "-o", str(root / "labels")]
    if call([*command, "--workers", str(workers), *_label_options(experiment.data, root)]) != 0:
        raise ExperimentError("labelling failed; its message stands above")


def _label_options(data: dict[str, Any], root: Path) -> list[str]:
    """The experiment's keys of labels and energy zeros as options of `eipnn label`, for its leaderboard."""
    eips = data.get("eip_energy_zero")
    zeros = [data["energy_zero"], *(eips.values() if isinstance(eips, dict) else [eips])]
    modes = [{"mode": zero} if isinstance(zero, str) else zero for zero in zeros]
    dft, eip, *others = [{"mode": "none"} | zero if zero is not None else {"mode": None} for zero in modes]
    if any(other != eip for other in others):
        say("the leaderboard of the labels leaves the EIPs' zeros as they are; that of `eipnn report` does not")
        eip = {"mode": "none"}
    keys = {f"--{key.replace('_', '-')}": data.get(key) for key in LABEL_KEYS}
    options = [text for option, key in keys.items() if key for text in (option, key)]
    for zero, kind, energies in ((dft, "energy-zero", "isolated-atoms"), (eip, "eip-zero", "eip-isolated-atoms")):
        if zero["mode"]:
            options += [f"--{kind}", zero["mode"]]
        if zero.get("energies"):
            file = root / f"{energies.replace('-', '_')}.json"
            write_json(file, zero["energies"])
            options += [f"--{energies}", str(file)]
    return options


def results_table(rows: list[dict[str, Any]]) -> Table:
    """What the strategies reached on test (or validation, of splits without a test part); columns in which all rows are
    as by default are left out."""
    errors = {metric.heading.replace(" ", "\n").replace("/a", "/\na"): metric for metric in METRICS}
    lines = [
        {
            "experiment": row.get("experiment", ""),
            "strategy": row["strategy"],
            "split": str(row["split"]),
            "seed": str(row["seed"]),
            "frames": str(row.get("frames") or ALL),
            "alpha": "" if row["alpha"] is None else f"{row['alpha']:g}",
            **{heading: metric.text(row["result"].get(metric.result)) for heading, metric in errors.items()},
            "steps": str(row["result"]["gradient_steps"]),
        }
        for row in rows
    ]
    default = {"seed": "0", "frames": ALL}
    shown = [name for name in lines[0] if {line[name] for line in lines} not in ({default.get(name)}, {""})]
    parts = {row.get("tested_on", "test") for row in rows}
    table = Table(title=f"{' and '.join(sorted(parts)).capitalize()} errors", box=SIMPLE_HEAD, collapse_padding=True)
    for name in shown:
        if name in ("experiment", "strategy"):
            table.add_column(name, overflow="fold")
        else:  # where the terminal is narrow, names are broken, numbers never
            whole = max(len(text) for text in (*name.split("\n"), *(line[name] for line in lines)))
            table.add_column(name, justify="right", no_wrap=True, min_width=whole)
    for line in lines:
        table.add_row(*(line[name] for name in shown))
    return table


def best_on_validation(rows: list[dict[str, Any]]) -> list[str]:
    """For each experiment the strategy with the lowest mean validation error, and the potential that it left.

    Test errors have no part in it, nor have rows that were trained on hidden DFT energies, or on energies alone beside
    others. Of several numbers of DFT frames the largest is looked at. Nothing is said where a training was not watched
    by `FinetuneModule.monitor`.
    """
    lines = []
    for name, group in groupby(rows, lambda row: row.get("experiment")):
        mine = [row for row in group if not row.get("hidden_dft")]
        # forces enter the validation error where they are trained on
        mine = [row for row in mine if not row.get("energies_only")] or mine
        counts = {row.get("frames") or math.inf for row in mine}
        scores: dict[str, list[float]] = {}
        for row in (largest := [row for row in mine if (row.get("frames") or math.inf) == max(counts)]):
            scores.setdefault(row["strategy"], []).append(row["result"]["best_score"])
        watched = {(row["result"]["monitor"], row["result"].get("mode")) for row in largest}
        if watched != {(FinetuneModule.monitor, FinetuneModule.mode)} or any(
            None in found for found in scores.values()
        ):
            continue
        best = min(scores, key=lambda strategy: mean(scores[strategy]))
        row = next(row for row in largest if row["strategy"] == best)
        head = f"{name}: " if name else ""
        of = f"Of these {len(scores)} strategies " if len(scores) > 1 else ""
        with_frames = f", {row.get('frames') or ALL} DFT frames" if len(counts) > 1 else ""
        lines.append(
            f"{head}{of}{best} has the {'lowest ' if of else ''}{FinetuneModule.monitor}, {mean(scores[best]):.4f} "
            f"(n = {len(scores[best])}{with_frames}). Its potential of split {row['split']}, seed {row['seed']}: "
            f"{row['potential']}"
        )
    return lines
