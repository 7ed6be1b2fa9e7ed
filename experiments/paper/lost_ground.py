"""Where strategies lose to DFT alone, and how good the labels are that the classifier chooses.

    python experiments/paper/lost_ground.py RUN... -o DIR    # from the folder where `eipnn run` was called

Label augmentation can only teach what the labels know: where a network trained on DFT alone is closer to DFT than the
chosen EIPs, they have little left to add. DIR gets `lost_ground.md` and for each network and data set
`negative_transfer.csv` and, where the classifier chose an EIP for some test configurations, `label_quality.csv`.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from eipnn.eips import DFT, NONE
from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.metrics import ATOM, CONFIG, FORCE, METRICS
from eipnn.report import folds, tables
from eipnn.report.folds import FoldData, read_data
from eipnn.report.frames import REFERENCES
from eipnn.report.page import Output
from eipnn.report.runs import Experiment, Fold, read_experiments
from eipnn.report.tables import markdown
from eipnn.run.strategy import Strategy

LABELS = "chosen EIP labels"


def negative_transfer(experiment: Experiment, total: int | str) -> pd.DataFrame:
    """Where a strategy loses to DFT alone.

    Args:
        experiment: with its trainings on fewer frames.
        total: number of all DFT frames, or a word for it.

    Returns:
        One line a number of frames and strategy: ``against`` (``baseline-long`` where it was trained, at equal steps),
        ``n`` folds, ``lost`` of them, ``gain_percent`` (the paper's improvement), ``worst_percent`` of one fold, the
        same of force errors where there are any (``force_lost``, ...), ``steps`` and ``steps_against``, the mean
        gradient steps of both.
    """
    lines = []
    for frames, some in (dict(experiment.reduced) | {total: experiment}).items():
        found = dict([*tables.measured(some).groupby("strategy", sort=False)])
        for name, row in found.items():
            fair = _fair(name, some.strategies[name], found)
            if fair and (gain := _gain(row, found[fair])):
                steps = {
                    f"steps{end}": round(found[s]["gradient_steps"].mean())
                    for end, s in (("", name), ("_against", fair))
                }
                lines.append({"frames": frames, "strategy": name, "against": fair} | gain | steps)
    return pd.DataFrame(lines)


def _fair(name: str, kind: Strategy, found: Collection[str]) -> str | None:
    """DFT alone, with as many gradient steps where that was trained, and with the labels that the strategy has."""
    fair = ("energies",) if kind.energies_only else ("baseline", *REFERENCES) if kind.short else REFERENCES
    return None if name in fair else next((other for other in fair if other in found), None)


def _gain(row: pd.DataFrame, baseline: pd.DataFrame) -> dict[str, float]:
    """What a strategy gains and loses, in energies and forces."""
    found: dict[str, float] = {}
    for name, errors in tables.IMPROVED.items():
        gain, each = tables.improvements(row, baseline, errors)
        if len(each):
            of = name.removesuffix("improvement")
            found = {"n": len(each)} | found
            found |= {f"{of}lost": int((each < 0).sum())}
            found |= {f"{of}gain_percent": 100 * gain, f"{of}worst_percent": 100 * each.min()}
    return found


def label_quality(experiment: Experiment, data: Sequence[FoldData]) -> pd.DataFrame:
    """Errors on the test configurations for which the classifier chose an EIP, pooled over splits and seeds.

    One row for the chosen labels, one for each strategy: ``row``, ``n``, ``config_mae_eV``, ``atom_mae_eV_per_atom``
    and, where DFT has forces, ``force_mae_eV_per_A``. Empty where no classifier was trained or it chose no EIP.
    """
    by_split = {d.fold.split: d for d in data if d.comparison is not None}
    there = [f for f in folds.classified(experiment.folds) if f.split in by_split]
    chosen = {(f.split, f.seed): _chosen(f, by_split[f.split]) for f in there}
    if not sum(map(len, chosen.values())):
        return pd.DataFrame()
    rows = [_row(LABELS, list(chosen.values()))]
    for strategy in experiment.strategies:
        parts = []
        for training in experiment.row(strategy):
            if training.place in chosen:
                table = folds.predictions(training)
                picked = table["config_id"].isin(chosen[training.place]["config_id"])
                forces = table["config_id"].map(folds.force_errors(training)).astype(float)
                errors = {"error": table["prediction"] - table["energy"], "force_error": forces}
                parts.append(table.assign(**errors)[picked])
        if parts:
            rows.append(_row(experiment.label(strategy), parts))
    return pd.DataFrame(rows).dropna(axis=1, how="all")


def _chosen(fold: Fold, data: FoldData) -> pd.DataFrame:
    """Of the labels that the classifier chose on test: ``config_id``, ``n_atoms``, ``error`` (eV), ``force_error``."""
    assert data.comparison is not None
    table = folds.classification([fold])
    table = table[table["eip"] != NONE]
    place = {name: i for i, name in enumerate(data.comparison.ids)}
    # of nothing chosen, `map` would make floats
    rows = np.array([place[name] for name in table["config_id"]], int)
    columns = np.array([data.comparison.eips.index(name) for name in table["eip"]], int)
    error = data.comparison.labels[rows, columns] - data.comparison.dft[rows]
    names = table["config_id"].to_numpy()
    found = pd.DataFrame({"config_id": names, "n_atoms": data.comparison.n_atoms[rows], "error": error})
    chosen, source = dict(zip(names, table["eip"], strict=True)), data.source
    frames = source.structures(list(chosen))
    forces = source.chosen(chosen, ["forces"])["forces"] - source.targets(frames, [DFT], ["forces"])["forces"]
    each = np.split(forces, frames.offsets[1:-1]) if len(frames) else []
    found["force_error"] = np.array([np.abs(f).mean() for f in each], float)
    return found[np.isfinite(found["error"])]


def _row(name: str, parts: Sequence[pd.DataFrame]) -> dict[str, object]:
    table = pd.concat(parts, ignore_index=True)
    error, known = table["error"].abs(), table.dropna(subset="force_error")
    components = known["n_atoms"].sum() or np.nan
    return {
        "row": name,
        "n": len(table),
        CONFIG.column: error.mean(),
        ATOM.column: (error / table["n_atoms"]).mean(),
        FORCE.column: (known["force_error"] * known["n_atoms"]).sum() / components,
    }


def sections(experiment: Experiment, output: Output) -> Iterator[str]:
    """What is to be said of one network and data set."""
    trained = {split: [t for t in experiment.trainings if t.fold.split == split] for split in experiment.splits}
    data = [read_data([t for t in some if t.fold == some[0].fold]) for some in trained.values()]
    split = data[0].source.split
    yield f"## {experiment.backbone} on `{experiment.dft}`"
    transfer = negative_transfer(experiment, len(split.train) + len(split.val))
    if len(transfer):
        output.csv("negative_transfer", transfer)
        for gain, what in (("gain_percent", "on average"), ("force_gain_percent", "in forces")):
            if gain in transfer:
                losing = transfer[transfer[gain] < 0]
                where = [f"{experiment.label(r.strategy)} with {r.frames} frames" for r in losing.itertuples()]
                count = f"{len(losing)} of {transfer[gain].count()} rows lose to DFT alone {what}"
                yield count + (f": {', '.join(where)}." if where else ".")
        yield (
            "Gains are the paper's improvement (`force_gain`: of force MAE); `lost` counts splits and seeds, "
            "`worst` is the worst of them. Rows with EIP labels and long ones stand against the long training on DFT "
            "alone, where there is one; the last two columns are the gradient steps of both."
        )
        names = {name: transfer[name].map(experiment.label) for name in ("strategy", "against")}
        yield markdown(tables.rounded(transfer.assign(**names), decimals=1))
    quality = label_quality(experiment, data)
    if quality.empty:
        yield "No classifier chose an EIP for any test configuration, so there are no labels to compare."
        return
    output.csv("label_quality", quality)
    yield "Errors on the test configurations for which the classifier chose an EIP:"
    shown = {m.heading: quality[m.column].map(m.text) for m in METRICS if m.column in quality}
    yield markdown(quality[["row", "n"]].astype(str).assign(**shown).replace("nan", tables.NOTHING))
    yield "Labels that are no closer to DFT than a network trained on DFT alone have little to teach it."


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="Where strategies lose to DFT alone, and how good the chosen labels are.")
    p.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="as for `eipnn report`")
    p.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="where the files go")
    options = p.parse_args()
    try:
        parts, experiments = ["# Lost ground"], read_experiments(options.runs)
        for number, experiment in enumerate(experiments, start=1):
            folder = options.output / (f"{number}-{experiment.backbone}" if len(experiments) > 1 else "")
            folder.mkdir(parents=True, exist_ok=True)
            parts += sections(experiment, Output(folder))
        write_atomically(options.output / "lost_ground.md", "\n\n".join(parts) + "\n")
    except (InputError, OSError) as error:
        sys.exit(f"lost_ground.py: {error}")
    print(f"{options.output / 'lost_ground.md'}: written")


if __name__ == "__main__":
    main()
