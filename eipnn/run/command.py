"""The command `eipnn run`."""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from eipnn.errors import InputError
from eipnn.files import write_atomically, write_json
from eipnn.processes import call
from eipnn.run.execute import console, say
from eipnn.run.experiment import STRATEGIES, Experiment, ExperimentError, read_experiment
from eipnn.run.plan import Plan


def parser() -> argparse.ArgumentParser:
    """Arguments of `eipnn run`."""
    p = argparse.ArgumentParser(
        prog="eipnn run",
        description="Run an experiment: label, classify, pretrain, fine-tune, test. Each stage has its own process and "
        "folder; what is done is skipped, what was cut off goes on from its last epoch.",
    )
    p.add_argument(
        "experiment",
        nargs="+",
        type=Path,
        help="experiment file (YAML); of several, each has a folder of its name in RUN",
    )
    p.add_argument("--strategy", nargs="+", choices=STRATEGIES, default=list(STRATEGIES[:4]), metavar="STRATEGY",
                   help=f"rows of the table, of: {', '.join(STRATEGIES)} (default: the first four)")  # fmt: skip
    p.add_argument(
        "--split",
        nargs="+",
        type=int,
        default=[1],
        metavar="K",
        help="numbers of the splits (default: 1)",
    )
    p.add_argument(
        "--seed",
        nargs="+",
        type=int,
        default=[0],
        metavar="S",
        help="seeds of weights and sample order (default: 0)",
    )
    p.add_argument(
        "--alpha",
        nargs="+",
        type=float,
        metavar="A",
        help="weight of EIP labels; several are searched on validation (default: the experiment's)",
    )
    p.add_argument("-o", "--output", required=True, metavar="RUN", help="folder of the run")
    p.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of each training (default: torch's)"
    )
    p.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that label (default: 1)"
    )
    return p


def main_run(arguments: list[str]) -> int:
    """Run the command; 0 when every stage is done."""
    options = parser().parse_args(arguments)
    try:
        rows = run(options)
    except (InputError, OSError) as error:
        print(f"eipnn run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    console.print(results_table(rows))
    return 0


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All experiments, splits, seeds and strategies that the options name; their results."""
    experiments = {file: read_experiment(file) for file in options.experiment}
    for file, experiment in experiments.items():
        check_options(options, experiment, file)
    root = Path(options.output)
    if len(experiments) == 1:
        return run_experiment(options, experiment, root)
    names = [file.stem for file in experiments]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ExperimentError(
            f"two experiment files are called {min(twice)}, and each needs a folder of its own: rename one"
        )
    results = [
        (file.stem, run_experiment(options, experiment, root / file.stem))
        for file, experiment in experiments.items()
    ]
    return [{"experiment": name} | row for name, rows in results for row in rows]


def run_experiment(
    options: argparse.Namespace, experiment: Experiment, root: Path
) -> list[dict[str, Any]]:
    """One experiment in the folder `root`."""
    write_atomically(root / "experiment.yaml", yaml.safe_dump(asdict(experiment), sort_keys=False))
    labels = label_store(experiment, root, options.workers)
    rows = []
    for split in options.split:
        for seed in options.seed:
            folder = root / f"split-{split}" / f"seed-{seed}"
            folder.mkdir(parents=True, exist_ok=True)
            plan = Plan(experiment, folder, split, seed, labels, options.threads)
            for strategy in options.strategy:
                rows.append(run_strategy(plan, strategy, options.alpha or experiment.alpha))
    return rows


def check_options(options: argparse.Namespace, experiment: Experiment, file: Path) -> None:
    """Raise before hours of training where the experiment does not have what a strategy needs."""
    if wrong := [alpha for alpha in options.alpha or () if alpha <= 0]:
        raise ExperimentError(f"--alpha {wrong[0]:g}: the weight of EIP labels must be positive")
    if set(options.strategy) == {"baseline"}:
        return
    needing = next(s for s in options.strategy if s != "baseline")
    mend = f"which the strategy {needing} needs; give it, or take --strategy baseline alone"
    if experiment.eips is None and not experiment.data.get("labels"):
        what = f"the experiment has neither data.labels nor eips, {mend}"
    elif experiment.splits == "random" and not experiment.data.get("pool"):
        what = f"the experiment has no data.pool (structures without DFT), {mend}"
    else:
        return
    raise ExperimentError(f"{file}: {what}")


def run_strategy(plan: Plan, strategy: str, alphas: tuple[float, ...]) -> dict[str, Any]:
    """Train one row; with several alphas, the best on validation is the row's."""
    searched = alphas if strategy.endswith("la") else alphas[:1]
    trained = [plan.run(plan.finetune(strategy, alpha)) for alpha in searched]
    best = min(trained, key=lambda t: t["result"]["best_score"])
    scores = {str(t["alpha"]): t["result"]["best_score"] for t in trained if t["alpha"] is not None}
    row = best | {"alphas": scores}
    write_json(plan.folder / f"result-{strategy}.json", row)
    return row


def label_store(experiment: Experiment, root: Path, workers: int) -> Path | None:
    """The experiment's label store, made in the run's folder where the experiment names none."""
    if given := experiment.data.get("labels"):
        return given
    if experiment.eips is None:
        return None
    store = root / "labels"
    files = [experiment.data[kind] for kind in ("dft", "pool") if experiment.data.get(kind)]
    command = [
        "label",
        *files,
        "--eips",
        experiment.eips,
        "-o",
        str(store),
        "--workers",
        str(workers),
    ]
    command += _zero_options(experiment.data, root)
    if call(command) != 0:
        raise ExperimentError("labelling failed; its message stands above")
    return store


def _zero_options(data: dict[str, Any], root: Path) -> list[str]:
    """The experiment's energy zeros as options of `eipnn label`, for its leaderboard."""
    zero = data["energy_zero"]
    zero = {"mode": zero} if isinstance(zero, str) else zero
    options = ["--energy-zero", zero["mode"]]
    if zero.get("energies"):
        write_json(root / "isolated_atoms.json", zero["energies"])
        options += ["--isolated-atoms", str(root / "isolated_atoms.json")]
    eip_zeros = _modes(data.get("eip_energy_zero", "none"))
    if eip_zeros == {"least_squares"}:
        options += ["--eip-zero", "least_squares"]
    elif eip_zeros != {"none"}:
        say(
            "the leaderboard of the labels leaves the EIPs' zeros as they are; that of `eipnn report` does not"
        )
    if data.get("energy_key"):
        options += ["--energy-key", data["energy_key"]]
    return options


def _modes(zeros: Any) -> set[str]:
    """The modes in an ``eip_energy_zero``: one for all EIPs, or a mapping from EIP to mode and energies."""
    given = zeros.values() if isinstance(zeros, dict) else [zeros]
    return {zero.get("mode", "none") if isinstance(zero, dict) else zero for zero in given}


def results_table(rows: list[dict[str, Any]]) -> Table:
    """What the strategies reached on the test split."""
    table = Table(title="Test errors")
    several = any("experiment" in row for row in rows)
    for name in (
        *(["experiment"] if several else []),
        "strategy",
        "split",
        "seed",
        "alpha",
        "config MAE / eV",
        "atom MAE / eV/atom",
        "epochs",
        "gradient steps",
    ):
        first = name in ("experiment", "strategy")
        table.add_column(name, justify="left" if first else "right", no_wrap=first)
    for row in rows:
        result = row["result"]
        alpha = "" if row["alpha"] is None else f"{row['alpha']:g}"
        table.add_row(
            *([row["experiment"]] if several else []),
            row["strategy"], str(row["split"]), str(row["seed"]), alpha, f"{result['test_config_mae']:.4f}",
            f"{result['test_atom_mae']:.4f}", str(result["epochs"]), str(result["gradient_steps"]),
        )  # fmt: skip
    return table
