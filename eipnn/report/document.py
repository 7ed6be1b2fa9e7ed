"""The report of one experiment: its sections as Markdown, its pictures and tables as files."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from eipnn.eips import NONE
from eipnn.labels import LabelError
from eipnn.labels.leaderboard import best_eip, leaderboard
from eipnn.report import folds, plots, tables
from eipnn.report.duplicates import RADIUS, THRESHOLD, near_duplicates
from eipnn.report.label_quality import label_quality
from eipnn.report.page import Output
from eipnn.report.provenance import provenance
from eipnn.report.runs import Experiment, Fold, ReportError
from eipnn.report.sources import FoldData, energy_zeros, read_data
from eipnn.report.studies import fewer_frames, one_eip
from eipnn.report.tables import Measured, markdown
from eipnn.run.strategy import MAIN, MAIN_AND_LONG

WIDER = (0.05, 0.1)  # A; shows how the number of near-duplicates depends on the threshold
NAMED = 50  # test configurations named in the text; the CSV file has them all

IMPROVEMENT = (
    "**Improvement** is the paper's: the mean of the relative gains in config MAE and in atom MAE over the "
    "baseline, each of the means over the splits and seeds that both rows have. **±** is the sample standard "
    "deviation over the n splits and seeds (of the improvement: over those of each split and seed alone); n = 1 has "
    "none. Config MAE is the mean of |E - E_DFT|, atom MAE that of |E - E_DFT| / atoms, on the test split."
)
STEPS = (
    "Gradient steps and epochs are those of the row's own training; +MP rows start from a pretraining whose steps "
    "stand apart. A +LA epoch is one pass over the EIP-labelled structures, so that at equal epochs +LA rows take "
    "more steps than the baseline."
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
    """Writes what belongs to one experiment.

    Args:
        experiment: trainings of one backbone on one data set.
        folder: for pictures and CSV tables; must exist.
        link: path from the Markdown file to `folder`, with a trailing slash, or empty.
    """

    def __init__(self, experiment: Experiment, folder: Path, link: str = "") -> None:
        self.experiment, self.output = experiment, Output(folder, link)
        self.warnings: list[str] = []
        self.rows = (*MAIN, *experiment.own)
        self.data = self._read_data()
        self.table = self._main_table()

    def markdown(self, with_data: bool = True) -> str:
        """All sections, below one heading; `with_data`: also those that tell of the data alone."""
        runs = ", ".join(f"`{run}`" for run in sorted({str(f.run) for f in self.experiment.folds}))
        head = f"## {self.experiment.backbone} on `{self.experiment.dft}`\n\nRuns: {runs}."
        splits = [data.source.split for data in self.data]
        total = len(splits[0].train) + len(splits[0].val) if splits else None
        parts = [
            head,
            *self._errors(),
            *self._equal_steps(),
            *one_eip(self.experiment, self.output),
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

    def _main_table(self) -> pd.DataFrame:
        best, rows = self._best_eip_row(), tables.rows(self.experiment, self.rows)
        shown = [best, *rows.values()] if best else [*rows.values()]
        table = tables.summary(shown, rows.get("baseline"))
        self.output.csv("table", table)
        return table

    def _best_eip_row(self) -> Measured | None:
        found = {}
        for data in self.data:
            if data.comparison is None:
                continue
            try:
                found[data.fold.split] = best_eip(data.comparison, data.source.split)
            except LabelError as error:
                self.warnings.append(f"split {data.fold.split}: {error}")
        if not found:
            return None
        names = ", ".join(sorted({best.eip for best in found.values()}))
        errors = np.array([[best.config_mae, best.atom_mae] for best in found.values()])
        return Measured(f"Best EIP ({names})", tuple((split, 0) for split in found), errors)

    def _errors(self) -> Iterator[str]:
        self.output.csv("trainings", tables.trainings(self.experiment))
        yield "### Test errors"
        yield markdown(tables.readable(self.table))
        yield IMPROVEMENT
        yield STEPS
        notes = tables.missing(self.experiment, self.rows)
        if self.table["row"].str.startswith("Best EIP").any():
            yield BEST_EIP
        else:
            why = "see the warnings" if self.warnings else "no stage of these runs reads labels"
            notes.insert(0, f"Best EIP: {why}")
        if notes:
            yield "Not in the table:\n\n" + _bullets(notes)
        search = tables.alpha_search(self.experiment)
        if len(search):
            watched = {t.result.get("monitor", "val_config_mae") for t in self.experiment.trainings}
            yield f"Alpha was chosen by {', '.join(sorted(watched))} (val_config_mae: eV):"
            yield markdown(search)

    def _equal_steps(self) -> Iterator[str]:
        if not self.experiment.row("baseline-long") and not self.experiment.row("mp-long"):
            return
        rows = tables.rows(self.experiment, tables.LONG_ROWS)
        names = {strategy: self.experiment.label(strategy) for strategy in tables.LONG_ROWS}
        table = tables.summary([*rows.values()], rows.get("baseline-long"))
        self.output.csv("table_equal_steps", table)
        yield "### At equal gradient steps of fine-tuning"
        yield markdown(tables.readable(table))
        yield (
            f"{names['baseline-long']} and {names['mp-long']} train on DFT alone for as many gradient steps as the +LA "
            f"rows take. The improvement is over {names['baseline-long']}, as defined above."
        )
        if "mp-long" in rows and "mp+la" in rows:
            gain, _ = tables.improvements(rows["mp+la"], rows["mp-long"])
            yield f"{names['mp+la']} over {names['mp-long']}: {100 * gain:.1f} %."
        if notes := tables.missing(self.experiment, tables.LONG_ROWS):
            yield "Not in the table:\n\n" + _bullets(notes)

    def _parity(self) -> Iterator[str]:
        data = {d.fold.split: d for d in self.data}
        # All or none: energies on different zeros do not belong into one picture.
        aligned = set(data) == set(self.experiment.splits)
        panels = {}
        for strategy in MAIN_AND_LONG:
            given = [
                _aligned(folds.predictions(t), data[t.fold.split]) if aligned else folds.predictions(t)
                for t in self.experiment.row(strategy)
            ]
            if given:
                panels[self.experiment.label(strategy)] = pd.concat(given, ignore_index=True)
        title = f"Test configurations of {_named(self.experiment.folds)}"
        plots.parity(panels, title, self.output.folder / "parity.png")
        yield "### Parity"
        yield self.output.picture("parity", f"Predicted against DFT energy. {title}")
        zero = "the energy zero of the training" if aligned else "the DFT file's own zero"
        yield f"Energies are on {zero}; n predictions a panel, above left config and atom MAE."

    def _curves(self) -> Iterator[str]:
        curves = {}
        for strategy in MAIN_AND_LONG:
            found = [folds.learning_curve(t) for t in self.experiment.row(strategy)]
            if given := [curve for curve in found if curve is not None]:
                curves[strategy] = given
        yield "### Learning curves"
        if not curves:
            yield "Not drawn: no stage wrote its metrics to a CSV log."
            return
        names = {strategy: self.experiment.label(strategy) for strategy in curves}
        file = self.output.folder / "learning_curves.png"
        plots.learning_curves(curves, names, f"Validation of {_named(self.experiment.folds)}", file)
        yield self.output.picture("learning_curves", "Validation config MAE by epoch and gradient step")
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
        title = f"Test configurations of {_named(there)}"
        plots.confusion(table, folds.classes(there[0]), title, self.output.folder / "confusion.png")
        yield self.output.picture("confusion", f"Confusion matrix of the classifier. {title}")
        accuracy = (table["eip"] == table["best_eip"]).mean()
        common = table["best_eip"].value_counts(normalize=True)
        yield (
            f"Accuracy on test: {accuracy:.2f} over {len(table)} predictions; always answering `{common.index[0]}` "
            f"would reach {common.iloc[0]:.2f}."
        )
        counts = folds.selection_counts(there)
        self.output.csv("selection", counts.rename_axis("class").reset_index())
        title = f"Pool, as classified on {_named(there)}"
        plots.selection(counts, title, self.output.folder / "selection.png")
        yield self.output.picture("selection", "What the classifier chose for the structures of the pool")
        chosen = counts.drop(NONE).sum()
        each = ", ".join(f"{fold}: {n} of {counts[fold].sum()}" for fold, n in chosen.items())
        dots = " Bars are means, dots single splits." if len(there) > 1 else ""
        yield f"Structures of the pool that got an EIP label: {each}.{dots}"
        if not chosen.all():
            yield (
                "Where the classifier chose no EIP for any structure of the pool, +LA rows are trained on DFT alone: "
                "it says that no EIP is close enough to DFT (`classify.model.c`, eV/atom)."
            )
        if (table["eip"] == NONE).all():
            yield "It chose no EIP for any test configuration either, so there are no labels to compare."
        quality = label_quality(self.experiment, self.data)
        if len(quality):
            self.output.csv("label_quality", quality)
            yield "Errors on the test configurations for which the classifier chose an EIP:"
            yield markdown(tables.rounded(quality))
            yield (
                "Labels that are no closer to DFT than a network trained on DFT alone have little to teach it, "
                "whatever their number."
            )

    def _zeros(self) -> Iterator[str]:
        if self.data:
            yield "### Energy zeros"
            yield markdown(energy_zeros(self.data).rename(columns={"energies": "energies (eV)"}))
            yield ZEROS

    def _leaderboard(self) -> Iterator[str]:
        data = next((d for d in self.data if d.comparison is not None), None)
        if data is None or data.comparison is None:
            return
        lines = leaderboard(data.comparison, data.source.split)
        table = pd.DataFrame([asdict(line) for line in lines])
        self.output.csv("leaderboard", table)
        yield "### EIP leaderboard"
        yield markdown(tables.rounded(table[table["part"] == "all"].drop(columns="part")))
        yield (
            "All DFT frames; config_mae in eV, atom_mae and offset (mean of E_EIP - E_DFT) in eV/atom; best_share is "
            "the share of frames on which no other EIP is closer to DFT. Energy zeros are those of the runs "
            f"(split {data.fold.split}); `leaderboard.csv` has train + validation and test apart."
        )

    def _duplicates(self) -> Iterator[str]:
        data = [d for d in self.data if d.source.config.pool and d.source.split.pool]
        yield "### Near-duplicates of test configurations in the pool"
        if not data:
            why = "see the warnings" if self.warnings else "these runs name no pool"
            yield f"Not looked for: {why}."
            return
        pairs = pd.concat([_pairs(d) for d in data], ignore_index=True)
        named = pairs[pairs["distance_A"] <= THRESHOLD]
        self.output.csv("near_duplicates", named)
        yield "\n".join(_counted(d, pairs[pairs["split"] == d.fold.split]) for d in data)
        yield DUPLICATES
        nearest = _nearest(named)
        if len(nearest):
            yield markdown(tables.rounded(nearest.head(NAMED)))
            rest = f"; {len(nearest) - NAMED} more test configurations" if len(nearest) > NAMED else ""
            yield f"`near_duplicates.csv` has all {len(named)} pairs{rest}."


def _named(shown: Sequence[Fold]) -> str:
    """The splits of some folds in words, and how many seeds they have."""
    splits, seeds = sorted({f.split for f in shown}), {f.seed for f in shown}
    text = f"split{'s' * (len(splits) > 1)} {', '.join(map(str, splits))}"
    return f"{text}, {len(seeds)} seeds" if len(seeds) > 1 else text


def _aligned(table: pd.DataFrame, data: FoldData) -> pd.DataFrame:
    zeros = data.zeros(table["config_id"].tolist())
    return table.assign(energy=table["energy"] - zeros, prediction=table["prediction"] - zeros)


def _pairs(data: FoldData) -> pd.DataFrame:
    source = data.source
    test, pool = source.structures(source.split.test), source.structures(source.split.pool)
    atoms = {a.info["config_id"]: len(a) for a in test}
    pairs = near_duplicates(test, pool, max(THRESHOLD, *WIDER))
    rows = [(data.fold.split, mine, atoms[mine], other, d) for mine, other, d in pairs]
    return pd.DataFrame(rows, columns=["split", "test", "atoms", "pool", "distance_A"])


def _counted(data: FoldData, pairs: pd.DataFrame) -> str:
    within = {w: pairs.loc[pairs["distance_A"] <= w, "test"].nunique() for w in (THRESHOLD, *WIDER)}
    split = data.source.split
    wider = ", ".join(f"{within[w]} within {w} Å" for w in WIDER)
    return (
        f"- Split {data.fold.split}: **{within[THRESHOLD]} of {len(split.test)}** test configurations have one among "
        f"the {len(split.pool)} structures of the pool ({wider})."
    )


def _nearest(pairs: pd.DataFrame) -> pd.DataFrame:
    """One line a test configuration: its nearest partner and how many it has; `pairs` has the nearest first."""
    groups = pairs.groupby(["split", "test"], sort=False)
    return groups.agg(
        atoms=("atoms", "first"),
        nearest=("pool", "first"),
        distance_A=("distance_A", "first"),
        partners=("pool", "size"),
    ).reset_index()


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
