"""The command `eipnn run`."""

import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Literal

import yaml
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eipnn.command_line import Count, Natural, Positive, Seed
from eipnn.errors import UsageError
from eipnn.files import write_atomically, write_json
from eipnn.processes import call
from eipnn.run.checks import check_plans
from eipnn.run.dry_run import show_plan
from eipnn.run.execute import console, record_command, run_stage, say
from eipnn.run.experiment import (
    ALL,
    RUN,
    Experiment,
    ExperimentError,
    check_known,
    read_experiment,
    zero_modes,
)
from eipnn.run.plan import Plan
from eipnn.run.strategy import MAIN
from eipnn.stages.finetune import FinetuneModule

DEFAULT: dict[str, Sequence[Any]] = {
    "strategy": MAIN,
    "split": [1],
    "seed": [0],
    "frames": [ALL],
}
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
    threads: Count | None = None,
    workers: Count = 1,
    dry_run: bool = False,
) -> None:
    """Run an experiment: label, classify, pretrain, fine-tune, test.

    Each stage has its own process and folder; what is done is skipped, what was cut off goes on from its last epoch.
    --strategy, --split, --seed and --frames may stand in the experiment file, under the key run.

    Args:
        experiment: experiment file (YAML); of several, each has a folder of its name in OUTPUT.
        output: folder of the run.
        strategy: rows of the table: baseline, la, mp, mp+la, delta, mp+delta, their -long forms and those that the
            experiment defines (default: the first four).
        split: numbers of the splits (default: 1).
        seed: seeds of weights and sample order (default: 0).
        frames: numbers of DFT frames for training and validation together, or all (default: all); what is left out
            joins the pool without its DFT energy.
        alpha: weight of EIP labels; several are searched on validation (default: the experiment's).
        threads: CPU threads of each training (default: torch's).
        workers: processes that label.
        dry_run: tell what is done, what would run and how many gradient steps it takes, and do nothing.
    """
    given = {"strategy": strategy, "split": split, "seed": seed, "frames": frames}
    experiments = {file: read_experiment(file) for file in experiment}
    for file, content in experiments.items():
        check_known(strategy or (), content.strategies, f"--strategy, with {file}", UsageError)
        check_strategies(chosen(given, content)["strategy"], content, file)
    names = [file.stem for file in experiments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExperimentError(
            f"two experiment files are called {min(twice)}, and each needs a folder of its own: rename one"
        )
    several = len(experiments) > 1
    prepared = []
    for file, content in experiments.items():
        root, what = output / file.stem if several else output, chosen(given, content)
        plans = make_plans(content, root, what)
        check_plans(plans, what["strategy"])
        prepared.append((file, content, root, plans, what["strategy"]))
    rows: list[dict[str, Any]] = []
    for file, content, root, plans, strategies in prepared:
        alphas = tuple(dict.fromkeys(alpha or content.alpha))
        if dry_run:
            show_plan(content, root, plans, strategies, alphas)
            continue
        record_command(root, shlex.join(["eipnn", *sys.argv[1:]]))
        results = run_experiment(content, root, plans, strategies, alphas, workers, threads)
        head = {"experiment": file.stem} if several else {}
        rows += [head | row for row in results]
    if dry_run:
        return
    console.print(results_table(rows))
    for line in best_on_validation(rows):
        say(line)


def chosen(given: dict[str, Any], experiment: Experiment) -> dict[str, Any]:
    """What is trained: as the options say, else the experiment, else `DEFAULT`."""
    values = {key: given[key] or experiment.run.get(key) or DEFAULT[key] for key in RUN}
    return {key: list(dict.fromkeys(value)) for key, value in values.items()}


def make_plans(experiment: Experiment, root: Path, chosen: dict[str, Any]) -> list[Plan]:
    """A plan for each split, seed and number of DFT frames, with its folder."""
    labels = experiment.data.get("labels") or (root / "labels" if experiment.eips is not None else None)
    plans = []
    for split, seed, count in product(chosen["split"], chosen["seed"], chosen["frames"]):
        fold = root / f"split-{split}" / f"seed-{seed}"
        folder, frames = (fold, None) if count == ALL else (fold / f"frames-{count}", int(count))
        plans.append(Plan(experiment, folder, split, seed, labels, frames))
    return plans


def run_experiment(
    experiment: Experiment,
    root: Path,
    plans: Sequence[Plan],
    strategies: Sequence[str],
    alphas: Sequence[float],
    workers: int,
    threads: int | None,
) -> list[dict[str, Any]]:
    """One experiment in the folder `root`."""
    write_atomically(root / "experiment.yaml", yaml.safe_dump(asdict(experiment), sort_keys=False))
    if experiment.eips is not None:
        make_labels(experiment, root, workers)
    rows = []
    for number, (plan, strategy) in enumerate(product(plans, strategies), start=1):
        say(f"{root}: row {number} of {len(plans) * len(strategies)}")
        rows.append(run_strategy(plan, strategy, alphas, threads))
    return rows


def check_strategies(strategies: Sequence[str], experiment: Experiment, file: Path) -> None:
    """Raise before hours of training where the experiment does not have what a strategy needs."""
    if set(strategies) == {"baseline"}:
        return
    needing = next(s for s in strategies if s != "baseline")
    mend = f"which the strategy {needing} needs; give it, or take --strategy baseline alone"
    if experiment.eips is None and not experiment.data.get("labels"):
        what = f"the experiment has neither data.labels nor eips, {mend}"
    elif experiment.splits == "random" and not experiment.data.get("pool"):
        what = f"the experiment has no data.pool (structures without DFT), {mend}"
    else:
        return
    raise ExperimentError(f"{file}: {what}")


def run_strategy(plan: Plan, strategy: str, alphas: Sequence[float], threads: int | None) -> dict[str, Any]:
    """Train one row; with several alphas, the best on validation is the row's."""
    stages = plan.row(strategy, alphas)
    trained = [run_stage(stage, threads) for stage in stages]
    row = best_trained(trained)
    scores = {str(t["alpha"]): t["result"]["best_score"] for t in trained if t["alpha"] is not None}
    write_json(plan.folder / f"result-{strategy}.json", row | {"alphas": scores})
    best = str(stages[trained.index(row)].potential)
    return row | {"potential": best, "hidden_dft": plan.experiment.rows[strategy].hidden_dft}


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
    """Make the label store in the run's folder."""
    eips = experiment.eips
    if isinstance(eips, list):
        file = root / "eips.yaml"
        write_atomically(file, yaml.safe_dump(eips, sort_keys=False))
        eips = str(file)
    command = ["label", *_listed(experiment.data["dft"])]
    if pool := experiment.data.get("pool"):
        command += ["--pool", *_listed(pool)]
    command += ["--eips", str(eips), "-o", str(root / "labels"), "--workers", str(workers)]
    command += _zero_options(experiment.data, root)
    if call(command) != 0:
        raise ExperimentError("labelling failed; its message stands above")


def _listed(given: str | list[str]) -> list[str]:
    return given if isinstance(given, list) else [given]


def _zero_options(data: dict[str, Any], root: Path) -> list[str]:
    """The experiment's energy zeros as options of `eipnn label`, for its leaderboard."""
    zero = data["energy_zero"]
    zero = {"mode": zero} if isinstance(zero, str) else zero
    options = ["--energy-zero", zero["mode"]]
    if zero.get("energies"):
        write_json(root / "isolated_atoms.json", zero["energies"])
        options += ["--isolated-atoms", str(root / "isolated_atoms.json")]
    eip_zeros = data.get("eip_energy_zero", "none")
    modes = zero_modes(eip_zeros)
    given = list(eip_zeros.values()) if isinstance(eip_zeros, dict) else [eip_zeros]
    if modes == {"isolated_atoms"} and all(zero == given[0] for zero in given):
        write_json(root / "eip_isolated_atoms.json", given[0]["energies"])
        options += ["--eip-zero", "isolated_atoms"]
        options += ["--eip-isolated-atoms", str(root / "eip_isolated_atoms.json")]
    elif modes == {"least_squares"}:
        options += ["--eip-zero", "least_squares"]
    elif modes != {"none"}:
        say("the leaderboard of the labels leaves the EIPs' zeros as they are; that of `eipnn report` does not")
    if data.get("energy_key"):
        options += ["--energy-key", data["energy_key"]]
    return options


def results_table(rows: list[dict[str, Any]]) -> Table:
    """What the strategies reached on the test split; columns in which all rows are as by default are left out."""
    names: dict[str, list[str | None]] = {
        "experiment": [row.get("experiment") for row in rows],
        "strategy": [row["strategy"] for row in rows],
    }
    numbers: dict[str, list[str | None]] = {
        "split": [str(row["split"]) for row in rows],
        "seed": _unless_default(rows, "seed", DEFAULT["seed"][0]),
        "frames": _unless_default(rows, "frames", ALL),
        "alpha": [None if row["alpha"] is None else f"{row['alpha']:g}" for row in rows],
        "config\nMAE (eV)": [f"{row['result']['test_config_mae']:.4f}" for row in rows],
        "atom MAE\n(eV/atom)": [f"{row['result']['test_atom_mae']:.4f}" for row in rows],
        "epochs": [str(row["result"]["epochs"]) for row in rows],
        "steps": [str(row["result"]["gradient_steps"]) for row in rows],
    }
    table = Table(title="Test errors", box=SIMPLE_HEAD, collapse_padding=True)
    shown = {name: cells for name, cells in (names | numbers).items() if any(cells)}
    for name, cells in shown.items():
        if name in names:
            table.add_column(name, overflow="fold")
        else:  # where the terminal is narrow, names are broken, numbers never
            whole = max(len(text or "") for text in (*name.split("\n"), *cells))
            table.add_column(name, justify="right", no_wrap=True, min_width=whole)
    for line in zip(*shown.values(), strict=True):
        table.add_row(*(cell or "" for cell in line))
    return table


def best_on_validation(rows: list[dict[str, Any]]) -> list[str]:
    """For each experiment the strategy with the lowest mean validation error, and the potential that it left.

    Test errors have no part in it, nor have rows that were trained on hidden DFT energies. Of several numbers of DFT
    frames the largest is looked at. Nothing is said where a training was not watched by its config MAE.
    """
    lines = []
    for name in dict.fromkeys(row.get("experiment") for row in rows):
        mine = [r for r in rows if r.get("experiment") == name and not r.get("hidden_dft")]
        counts = {row.get("frames") or math.inf for row in mine}
        mine = [row for row in mine if (row.get("frames") or math.inf) == max(counts)]
        results = [row["result"] for row in mine]
        if not mine or any(
            r["best_score"] is None or (r["monitor"], r.get("mode")) != (FinetuneModule.monitor, FinetuneModule.mode)
            for r in results
        ):
            continue
        scores: dict[str, list[float]] = {}
        for row in mine:
            scores.setdefault(row["strategy"], []).append(row["result"]["best_score"])
        best = min(scores, key=lambda strategy: mean(scores[strategy]))
        row = next(row for row in mine if row["strategy"] == best)
        head = f"{name}: " if name else ""
        of = f"Of these {len(scores)} strategies " if len(scores) > 1 else ""
        with_frames = f", {row.get('frames') or ALL} DFT frames" if len(counts) > 1 else ""
        lines.append(
            f"{head}{of}{best} has the {'lowest ' if of else ''}validation config MAE, {mean(scores[best]):.4f} eV "
            f"(n = {len(scores[best])}{with_frames}). Its potential of split {row['split']}, seed {row['seed']}: "
            f"{row['potential']}"
        )
    return lines


def _unless_default(rows: list[dict[str, Any]], key: str, default: Any) -> list[str | None]:
    """A column of the results; nothing where all rows have the default."""
    values = [default if row.get(key) is None else row[key] for row in rows]
    return [str(v) for v in values] if set(values) != {default} else [None] * len(values)
