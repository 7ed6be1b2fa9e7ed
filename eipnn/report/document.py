"""The report of one experiment: its sections as Markdown, its pictures and tables as files."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase.units import GPa

from eipnn.eips import NONE
from eipnn.labels import LabelError
from eipnn.labels.leaderboard import best_eip, leaderboard, readable
from eipnn.metrics import ATOM, CONFIG, FORCE, STRESS
from eipnn.report import folds, plots, tables
from eipnn.report.duplicates import RADIUS, THRESHOLD, near_duplicates
from eipnn.report.folds import FoldData, energy_zeros, read_data
from eipnn.report.frames import fewer_frames
from eipnn.report.page import Output
from eipnn.report.runs import Experiment, Fold, ReportError, Training
from eipnn.report.tables import markdown
from eipnn.run.experiment import COMMANDS
from eipnn.run.strategy import MAIN, MAIN_AND_LONG, STRATEGIES

BEST = "best EIP"
LONG_ROWS = ("baseline-long", "la", "mp-long", "mp+la")
WIDER = (0.05, 0.1)  # A; shows how the number of near-duplicates depends on the threshold
NAMED = 50  # test configurations named in the text; the CSV file has them all
UNKNOWN = "unknown versions"

IMPROVEMENT = (
    "**Improvement** is the paper's: the mean of the relative gains in config MAE and in atom MAE over the "
    "baseline, each of the means over the splits and seeds that both rows have; force improvement is the gain in force "
    "MAE. **±** is the sample standard deviation over the n splits and seeds (of the improvement: over those of each "
    "split and seed alone); n = 1 has none. Config MAE is the mean of |E - E_DFT|, atom MAE that of |E - E_DFT| / "
    "atoms, on the test split; force and stress MAE are means over components."
)
VALIDATED = (
    "Errors on validation are those of splits without a test part: what the epoch was chosen by, and so a little too "
    "small. Where the text says test, it is these frames."
)
ALONE = (
    "Rows of energies alone do not learn the forces and stresses that the DFT frames have; they are compared with the "
    "backbone on energies alone."
)
STEPS = (
    "Gradient steps, epochs and time are those of the row's own training, without the classifier; +MP rows start from "
    "a pretraining whose steps stand apart. A +LA epoch is one pass over the EIP-labelled structures, so that at equal "
    "epochs +LA rows take more steps than the baseline."
)
BEST_EIP = (
    "The best EIP is the one with the lowest config MAE on train and validation, each split for itself; its test "
    "errors are on the same split and the same energy zeros as the other rows."
)
ZEROS = (
    "What is taken off an energy for each atom of an element before training; the DFT part is put back in every "
    "prediction. `isolated_atoms` is as given, `least_squares` fitted on the training split."
)
DUPLICATES = (
    f"Two structures are near-duplicates where the sorted distances of each atom to its neighbours within {RADIUS:g} Å "
    f"(the pointwise distance distribution, Widdowson & Kurlin 2022) agree to {THRESHOLD} Å on average over the "
    "atoms: translation, rotation, order of atoms and choice of cell do not matter. Of the DFT frames of si_mini, "
    "pairs that near differ by less than 0.02 eV/atom. In the pool they have no DFT energy, at most EIP labels."
)


class Report:
    """Writes what belongs to one experiment: trainings of one backbone on one data set."""

    def __init__(self, experiment: Experiment, output: Output) -> None:
        folds.check_tested(experiment.everything)
        self.experiment, self.output = experiment, output
        self.warnings: list[str] = []
        self.data = self._read_data()
        self.names = {strategy: experiment.label(strategy) for strategy in experiment.strategies}
        self.measured = tables.measured(experiment, self._best_eip())
        output.csv("trainings", self.measured[self.measured["strategy"] != BEST])
        # beside the paper's rows what else was trained for as many steps
        more = [s for s, kind in experiment.strategies.items() if (kind.delta and kind.short) or s not in STRATEGIES]
        self.table = self._summary("table", (BEST, "energies", *MAIN, *more), "baseline")

    def markdown(self, with_data: bool = True) -> str:
        """All sections, below one heading; `with_data`: also those that tell of the data alone."""
        runs = ", ".join(f"`{run}`" for run in sorted({str(f.run) for f in self.experiment.folds}))
        splits = [data.source.split for data in self.data]
        total = len(splits[0].train) + len(splits[0].val) if splits else None
        parts = [
            f"## {self.experiment.backbone} on `{self.experiment.dft}`\n\nRuns: {runs}.",
            *self._errors(),
            *self._equal_steps(),
            *fewer_frames(self.experiment, self.output, total),
            *self._parity(),
            *self._curves(),
            *self._classifier(),
        ]
        if with_data:
            parts += [*self._zeros(), *self._leaderboard(), *self._duplicates()]
        parts += provenance(self.experiment)
        if self.warnings:
            parts.append("### Warnings\n\n" + _bullets(self.warnings))
        return "\n\n".join(parts)

    def _read_data(self) -> list[FoldData]:
        """One for each split; its seeds share it."""
        data = []
        for split in self.experiment.splits:
            fold = next(fold for fold in self.experiment.folds if fold.split == split)
            try:
                data.append(read_data([t for t in self.experiment.trainings if t.fold == fold]))
            except ReportError as error:
                self.warnings.append(str(error))
        return data

    def _best_eip(self) -> list[dict[str, Any]]:
        """The line of each split; names the row."""
        found = {}
        for data in self.data:
            try:
                if data.comparison is not None:
                    found[data.fold.split] = best_eip(data.comparison, data.source.split)
            except LabelError as error:
                self.warnings.append(f"split {data.fold.split}: {error}")
        self.names[BEST] = f"Best EIP ({', '.join(sorted({best.eip for best in found.values()}))})"
        lines = []
        for data in (d for d in self.data if d.fold.split in found):
            best = found[data.fold.split]
            errors = {CONFIG.column: best.config_mae, ATOM.column: best.atom_mae}
            if any(FORCE.result in training.result for training in self.experiment.trainings):
                errors |= {FORCE.column: best.force_mae, STRESS.column: best.stress_mae}
            lines.append({"strategy": BEST, "split": data.fold.split, "seed": 0} | errors)
        return lines

    def _summary(self, name: str, strategies: Sequence[str], against: str) -> pd.DataFrame:
        kinds = self.experiment.strategies
        baselines = {name: "energies" if kind.energies_only else against for name, kind in kinds.items()}
        table = tables.summary(self.measured, {s: self.names[s] for s in strategies}, baselines)
        self.output.csv(name, table)
        return table

    def _missing(self, strategies: Sequence[str]) -> Iterator[str]:
        if notes := tables.missing(self.experiment, strategies):
            yield "Not in the table:\n\n" + _bullets(notes)

    def _errors(self) -> Iterator[str]:
        yield f"### {self.experiment.part.capitalize()} errors"
        yield markdown(tables.readable(self.table))
        if self.experiment.part != "test":
            yield VALIDATED
        yield IMPROVEMENT
        yield STEPS
        why = "see the warnings" if self.warnings else "no stage of these runs reads labels"
        yield BEST_EIP if BEST in self.measured["strategy"].array else f"Best EIP: {why}."
        if any(training.kind.energies_only for training in self.experiment.trainings):
            yield ALONE
        for name, what in (("improvement", ""), ("force_improvement", " in forces")):
            if losing := self.table.loc[self.table[f"{name}_percent"] < 0, "row"].tolist():
                yield f"On average {', '.join(losing)} lose to DFT alone{what}."
        yield from self._missing(MAIN)
        search = tables.alpha_search(self.experiment)
        if len(search):
            watched = {t.result.get("monitor", "val_config_mae") for t in self.experiment.trainings}
            yield f"Alpha was chosen by {', '.join(sorted(watched))} (errors in eV and eV/Å):"
            yield markdown(search)

    def _equal_steps(self) -> Iterator[str]:
        if not self.experiment.row("baseline-long") and not self.experiment.row("mp-long"):
            return
        delta = [s for s, kind in self.experiment.strategies.items() if kind.delta and kind.long]
        yield "### At equal gradient steps of fine-tuning"
        yield markdown(tables.readable(self._summary("table_equal_steps", (*LONG_ROWS, *delta), "baseline-long")))
        base, mp = self.names["baseline-long"], self.names["mp-long"]
        yield (
            f"{base} and {mp} train on DFT alone for as many gradient steps as the +LA rows take. The improvement is "
            f"over {base}, as defined above."
        )
        both, alone = (self.measured[self.measured["strategy"] == s] for s in ("mp+la", "mp-long"))
        if len(both) and len(alone):
            yield f"{self.names['mp+la']} over {mp}: {100 * tables.improvements(both, alone)[0]:.1f} %."
        yield from self._missing(LONG_ROWS)

    def _parity(self) -> Iterator[str]:
        title = f"{self.experiment.part.capitalize()} configurations of {_named(self.experiment.folds)}"
        rows = {s: row for s in ("energies", *MAIN_AND_LONG) if (row := self.experiment.row(s))}
        # All or none: energies on different zeros do not belong into one picture.
        aligned = {d.fold.split for d in self.data} == set(self.experiment.splits)
        energies = {self.names[s]: self._energies(row, aligned) for s, row in rows.items()}
        yield "### Parity"
        shown = energies, "energy (eV/atom)", title
        yield self.output.picture("parity", f"Predicted against DFT energy. {title}", plots.parity, *shown)
        zero = "the energy zero of the training" if aligned else "the DFT file's own zero"
        yield f"Energies are on {zero}; n predictions a panel (of forces and stress: components), above left their MAE."
        frames = {self.names[s]: [atoms for t in row for atoms in folds.predicted_frames(t)] for s, row in rows.items()}
        for name, metric, unit in (("forces", FORCE, 1.0), ("stress", STRESS, GPa)):
            pairs = {row: folds.components(found, name) / unit for row, found in frames.items()}
            if panels := {row: (p, metric.with_unit(_mae(p))) for row, p in pairs.items() if len(p)}:
                quantity = metric.heading.replace("MAE", "component")
                text = f"Predicted against DFT {name}. {title}"
                yield self.output.picture(f"parity_{name}", text, plots.parity, panels, quantity, title)

    def _energies(self, row: Sequence[Training], aligned: bool) -> tuple[np.ndarray, str]:
        """DFT and predicted energies an atom (n, 2) in eV of a strategy's test configurations, and their errors."""
        sources = {d.fold.split: d.source for d in self.data}
        pairs, sizes = [], []
        for training in row:
            table = folds.predictions(training)
            energies, n = table[["energy", "prediction"]].to_numpy(), table["n_atoms"].to_numpy()[:, None]
            if aligned:
                source = sources[training.fold.split]
                energies = energies - source.zero.totals(source.structures(table["config_id"].tolist()))[:, None]
            pairs.append(energies / n)
            sizes.append(n)
        per_atom, n = np.concatenate(pairs), np.concatenate(sizes)
        return per_atom, f"{CONFIG.with_unit(_mae(per_atom * n))}\n{ATOM.with_unit(_mae(per_atom))}"

    def _curves(self) -> Iterator[str]:
        found = {s: [*map(folds.learning_curve, self.experiment.row(s))] for s in ("energies", *MAIN_AND_LONG)}
        curves = {s: given for s, all_ in found.items() if (given := [c for c in all_ if c is not None])}
        yield "### Learning curves"
        if not curves:
            yield "Not drawn: no stage wrote its metrics to a CSV log."
            return
        title = f"Validation of {_named(self.experiment.folds)}"
        text = "Validation errors by epoch and gradient step"
        yield self.output.picture("learning_curves", text, plots.learning_curves, curves, self.names, title)
        if len(self.experiment.folds) > 1:
            yield (
                "Thick lines are means over splits and seeds, thin lines single ones; both are running means over a "
                "hundredth of the epochs."
            )

    def _classifier(self) -> Iterator[str]:
        there = folds.classified(self.experiment.folds)
        yield "### The classifier"
        if not there:
            yield "None was trained: it belongs to label augmentation."
            return
        table = folds.classification(there)
        title = f"{self.experiment.part.capitalize()} configurations of {_named(there)}"
        text = f"Confusion matrix of the classifier. {title}"
        yield self.output.picture("confusion", text, plots.confusion, table, folds.classes(there[0]), title)
        accuracy = (table["eip"] == table["best_eip"]).mean()
        common = table["best_eip"].value_counts(normalize=True)
        yield (
            f"Accuracy on {self.experiment.part}: {accuracy:.2f} over {len(table)} predictions; always answering "
            f"`{common.index[0]}` would reach {common.iloc[0]:.2f}."
        )
        counts = folds.selection_counts(there)
        self.output.csv("selection", counts.rename_axis("class").reset_index())
        text, title = "What the classifier chose for the structures of the pool", _named(there)
        shown = counts.T.to_dict("list"), "structures of the pool", ".0f", f"Pool, as classified on {title}"
        yield self.output.picture("selection", text, plots.bars, *shown)
        chosen = counts.drop(NONE).sum()
        each = ", ".join(f"{fold}: {n} of {counts[fold].sum()}" for fold, n in chosen.items())
        dots = " Bars are means, dots single splits." if len(there) > 1 else ""
        yield f"Structures of the pool that got an EIP label: {each}.{dots}"
        if not chosen.all():
            yield (
                "Where the classifier chose no EIP for any structure of the pool, +LA rows are trained on DFT alone: "
                "it says that no EIP is close enough to DFT (`classify.model.c` and `c_forces`)."
            )
        if (table["eip"] == NONE).all():
            yield "It chose no EIP for any test configuration either."

    def _zeros(self) -> Iterator[str]:
        if self.data:
            yield "### Energy zeros"
            yield markdown(energy_zeros(self.data).rename(columns={"energies": "energies (eV)"}))
            yield ZEROS

    def _leaderboard(self) -> Iterator[str]:
        data = next((d for d in self.data if d.comparison is not None), None)
        if data is None or data.comparison is None:
            return
        standings = leaderboard(data.comparison, data.source.split)
        self.output.csv("leaderboard", pd.DataFrame(standings))
        yield "### EIP leaderboard"
        yield markdown(readable([line for line in standings if line.part == "all"]).drop(columns="part"))
        yield (
            "All DFT frames; the offset is the mean of E_EIP - E_DFT; best is the share of frames on which no other "
            f"EIP is closer to DFT in energy. Energy zeros are those of the runs (split {data.fold.split}); "
            "`leaderboard.csv` (eV, eV/atom, eV/Å, GPa) has train + validation and test apart."
        )

    def _duplicates(self) -> Iterator[str]:
        data = [d for d in self.data if d.source.config.pool and d.source.split.pool]
        yield "### Near-duplicates of test configurations in the pool"
        if not data:
            yield f"Not looked for: {'see the warnings' if self.warnings else 'these runs name no pool'}."
            return
        pairs = pd.concat([_pairs(d) for d in data], ignore_index=True)
        named = pairs[pairs["distance_A"] <= THRESHOLD]
        self.output.csv("near_duplicates", named)
        lines = []
        for d in data:
            mine, split = pairs[pairs["split"] == d.fold.split], d.source.split
            own, *wider = (mine.loc[mine["distance_A"] <= w, "test"].nunique() for w in (THRESHOLD, *WIDER))
            lines.append(
                f"Split {d.fold.split}: **{own} of {len(split.tested)}** {split.tested_on} configurations have one "
                f"among the {len(split.pool)} structures of the pool "
                f"({', '.join(f'{n} within {w} Å' for n, w in zip(wider, WIDER, strict=True))})."
            )
        yield _bullets(lines)
        yield DUPLICATES
        # one line a test configuration: its nearest partner, which is the first, and how many it has
        partners = named.groupby(["split", "test"])["pool"].transform("size")
        nearest = named.assign(partners=partners).drop_duplicates(["split", "test"]).rename(columns={"pool": "nearest"})
        if len(nearest):
            yield markdown(tables.rounded(nearest.head(NAMED)))
            rest = f"; {len(nearest) - NAMED} more test configurations" if len(nearest) > NAMED else ""
            yield f"`near_duplicates.csv` has all {len(named)} pairs{rest}."


def provenance(experiment: Experiment) -> Iterator[str]:
    """How the trainings were made: commands, versions, splits and seeds."""
    trainings = [t for each in (experiment, *experiment.reduced.values()) for t in each.trainings]
    yield "### How it was made"
    files = [run / COMMANDS for run in sorted({t.fold.run for t in trainings})]
    recorded = [file for file in files if file.exists()]
    if commands := dict.fromkeys(line for file in recorded for line in file.read_text().splitlines()):
        yield "\n".join(f"    {line}" for line in commands)
    splits, seeds = (", ".join(map(str, sorted({t.place[i] for t in trainings}))) for i in (0, 1))
    made_with = [(t.result.get("versions") or {}).items() for t in trainings]
    versions = {" ".join(f"{name} {version}" for name, version in items) or UNKNOWN for items in made_with}
    yield (
        f"{len(trainings)} fine-tuned potentials in the tables (splits {splits}; seed {seeds}), "
        f"trained with {', '.join(sorted(versions - {UNKNOWN})) or UNKNOWN}."
    )
    if UNKNOWN in versions or recorded != files:
        yield "Some of them are of an eipnn that did not record commands and versions yet."


def _mae(pairs: np.ndarray) -> float:
    return float(np.abs(pairs[:, 1] - pairs[:, 0]).mean())


def _named(shown: Sequence[Fold]) -> str:
    """The splits of some folds in words, and how many seeds they have."""
    splits, seeds = sorted({f.split for f in shown}), {f.seed for f in shown}
    text = f"split{'s' * (len(splits) > 1)} {', '.join(map(str, splits))}"
    return f"{text}, {len(seeds)} seeds" if len(seeds) > 1 else text


def _pairs(data: FoldData) -> pd.DataFrame:
    source = data.source
    test, pool = source.structures(source.split.tested), source.structures(source.split.pool)
    atoms = {a.info["config_id"]: len(a) for a in test}
    pairs = near_duplicates(test, pool, max(THRESHOLD, *WIDER))
    rows = [(data.fold.split, mine, atoms[mine], other, d) for mine, other, d in pairs]
    return pd.DataFrame(rows, columns=["split", "test", "atoms", "pool", "distance_A"])


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
