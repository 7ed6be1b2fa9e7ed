"""Sections of a report beyond Table 1: who labels, which loss, one EIP alone, fewer DFT frames, lost ground."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from eipnn.files import write_atomically
from eipnn.report import frames, residuals, tables
from eipnn.report.plots import BLUE, STYLE
from eipnn.report.runs import Experiment, Fold, Training, read_json
from eipnn.report.sources import FoldData
from eipnn.report.tables import markdown, measure
from eipnn.run.strategy import MAIN_AND_LONG, STRATEGIES
from eipnn.stages.residuals import FILE, THRESHOLDS

if TYPE_CHECKING:
    from eipnn.stages.source import Source

ABOUT = "about.json"
"""In the folder of an embedding, written last: which pretraining it is of."""

SOURCES = ("baseline", "la", "la-best", "la-dft")
LOSSES = ("baseline", "la", "la-mse", "mp+la", "mp+la-mse")
ON_ONE = tuple(name for name, strategy in STRATEGIES.items() if strategy.single)
"""The strategies that need the single best EIP."""
ONE_EIP = (*MAIN_AND_LONG, *ON_ONE)

SAVED = (
    "**Frames needed** is the number of DFT frames with which the row that is compared with reaches the same mean "
    "config MAE, interpolated linearly in both logarithms; `>` and `<` mark errors beyond the ends of its curve."
)


class Studies:
    """Writes the sections that the trainings of one experiment allow.

    Args:
        experiment: trainings of one backbone on one data set.
        folder: for pictures and CSV tables.
        link: path from the Markdown file to `folder`, with a trailing slash, or empty.
        data: what the folds were trained on; empty where it cannot be read.
    """

    def __init__(
        self, experiment: Experiment, folder: Path, link: str, data: Sequence[FoldData]
    ) -> None:
        self.experiment, self.folder, self.link, self.data = experiment, folder, link, data
        split = data[0].source.split if data else None
        self.total = len(split.train) + len(split.val) if split else None

    def markdown(self) -> Iterator[str]:
        """The sections one after the other; nothing where there is nothing to tell."""
        yield from self._rows(
            ("la-best", "la-dft"),
            SOURCES,
            "label_sources",
            "Who labels the selected structures",
            "The structures that the classifier selected, labelled by the EIP that it chose (+LA), by the EIP that is "
            "truly the closest to DFT, by DFT itself, or not at all (the backbone alone); Fig. 3a of the paper. "
            "Batches, loss and gradient steps of the +LA rows are equal; hidden DFT energies serve the last two rows.",
        )
        yield from self._outliers()
        yield from self._rows(
            ("la-mse", "mp+la-mse"),
            LOSSES,
            "losses",
            "Tukey's biweight against MSE on the EIP labels",
            "Table 4 of the paper: the same trainings with the squared error in place of Eq. 4.",
        )
        yield from self._rows(
            ON_ONE,
            ONE_EIP,
            "one_eip",
            "One EIP alone, and delta learning",
            "What one would do with the EIP that has the lowest config MAE on train and validation: label the "
            "whole pool with it (+LA), pretrain on it (+MP), or learn the difference to DFT (delta learning); +MP on "
            "DFT - EIP is delta learning after pretraining on all EIPs. The improvement is over "
            f"{self.experiment.backbone}; rows with EIP labels and long ones take more gradient steps. "
            + self._single(),
        )
        yield from self._frames()
        yield from self._representation()

    def _rows(
        self, needed: Sequence[str], rows: Sequence[str], name: str, title: str, text: str
    ) -> Iterator[str]:
        if not any(self.experiment.row(strategy) for strategy in needed):
            return
        there = {s: self.experiment.row(s) for s in rows}
        measured = [measure(self.experiment.label(s), t) for s, t in there.items() if t]
        baseline = next((m for m in measured if m.name == self.experiment.backbone), None)
        table = tables.summary(measured, baseline)
        self._csv(name, table)
        errors = {m.name: m.errors[:, 0] for m in measured}
        bars(errors, self.folder / f"{name}.png")
        yield f"### {title}"
        yield text
        yield markdown(tables.readable(table))
        yield f"![{title}: test config MAE]({self.link}{name}.png)"

    def _outliers(self) -> Iterator[str]:
        """Fig. 3b, 3c and Table 6, where the DFT energies of the selected structures are known."""
        by_split = {d.fold.split: d.source for d in self.data}
        logged = [
            t
            for t in self.experiment.row("la")
            if t.fold.split in by_split and (t.folder / FILE).exists()
        ]
        logs = {t.place: residuals.read_residuals(t.folder) for t in logged}
        known = [t for t in logged if logs[t.place]["n_known"].any()]
        if not known:
            return
        together = residuals.pooled([logs[t.place] for t in known])
        title = f"+LA, {len(known)} splits and seeds" if len(known) > 1 else "+LA"
        for draw, name in ((residuals.outliers, "outliers"), (residuals.spreads, "spreads")):
            draw(together, title, self.folder / f"{name}.png")
        chosen = [_selected(t, by_split[t.fold.split]) for t in known]
        table = pd.concat(chosen, ignore_index=True)
        self._csv("outliers", table)
        yield "### Outliers among the chosen labels"
        yield (
            "How many structures the classifier selected and how many of their labels are off DFT by more than 0.1, "
            "0.2 and 0.3 eV/atom (Table 6 of the paper). The hidden DFT energies serve this count alone."
        )
        counts = table[table["eip"] == "all"].drop(columns="eip")
        yield markdown(counts.astype(str))
        yield f"![Outliers that still get gradient, by step]({self.link}outliers.png)"
        yield f"![Spread of the residuals, by step]({self.link}spreads.png)"
        yield _kept(together)

    def _single(self) -> str:
        found = set()
        for strategy in ON_ONE:
            for training in self.experiment.row(strategy):
                found.add(read_json(training.folder / "done.json").get("single_eip"))
        return f"That EIP is {', '.join(sorted(map(str, found)))}." if found else ""

    def _frames(self) -> Iterator[str]:
        if self.total is None:
            return
        experiments = frames.by_frames(self.experiment, self.total)
        if len(experiments) > 1:
            yield from self._learning(frames.errors_by_frames(experiments))
        transfer = frames.negative_transfer(experiments)
        if transfer.empty:
            return
        self._csv("negative_transfer", transfer)
        yield "### Negative transfer"
        losing = transfer[transfer["gain_percent"] < 0]
        names = self.experiment.label
        where = [f"{names(r.strategy)} with {r.frames} frames" for r in losing.itertuples()]
        yield (
            f"{len(losing)} of {len(transfer)} rows lose to DFT alone on average"
            + (f": {', '.join(where)}." if where else ".")
            + " Gains are the paper's improvement; `lost` counts splits and seeds, `worst` is the worst of them. Rows "
            "with EIP labels and long ones stand against the long training on DFT alone, where there is one; the last "
            "two columns are the gradient steps of both."
        )
        shown = transfer.assign(
            strategy=transfer["strategy"].map(names), against=transfer["against"].map(names)
        )
        yield markdown(tables.rounded(shown, decimals=1))

    def _representation(self) -> Iterator[str]:
        """Fig. 4, where `eipnn embed` has been given."""
        made = next((p for fold in self.experiment.folds if (p := embedded(fold))), None)
        if made is None:
            return
        table = pd.read_csv(made / "smoothness.csv", dtype={"seed": "Int64"})
        self._csv("smoothness", table)
        shutil.copyfile(made / "embedding.png", self.folder / "embedding.png")
        yield "### The representation"
        yield f"![t-SNE of the configurations in the representation]({self.link}embedding.png)"
        yield (
            "Configurations in the representation, by t-SNE (Fig. 4 of the paper); below, how well nearest neighbours "
            "in the whole space tell the DFT energy, MAE in eV/atom. A fine-tuned network has seen the energies of "
            "the training split."
        )
        yield markdown(tables.rounded(table))

    def _learning(self, table: pd.DataFrame) -> Iterator[str]:
        self._csv("errors_by_frames", table)
        names = {name: self.experiment.label(name) for name in set(table["strategy"])}
        frames.plot_frames(table, frames.drawn(table), names, self.folder / "frames.png")
        yield "### How many DFT frames"
        yield f"![Test errors by number of DFT frames]({self.link}frames.png)"
        counts = table["n"]
        yield (
            f"Mean and sample standard deviation over {_range(counts)} splits and seeds. A smaller set is part of each "
            "larger one; frames that are left out join the pool, without their DFT energy. All rows of the picture "
            "take the gradient steps of +LA in fine-tuning where their name ends in long or +LA."
        )
        against = frames.reference(table)
        if against is None:
            return
        saved = frames.frames_saved(table, against)
        self._csv("frames_saved", saved)
        shown = saved[saved["strategy"].isin(frames.drawn(table))]
        yield markdown(
            _saved_text(shown, names).rename(
                columns={"frames needed": f"frames {names[against]} needs"}
            )
        )
        yield SAVED
        yield _sentence(shown, names, against)

    def _csv(self, name: str, table: pd.DataFrame) -> None:
        write_atomically(self.folder / f"{name}.csv", table.to_csv(index=False))


def embedded(fold: Fold) -> Path | None:
    """What `eipnn embed` left of a fold's pretraining; nothing where another has taken its place since."""
    place, done = fold.run / "embedding", fold.folder / "pretrain" / "done.json"
    if not (place / ABOUT).exists() or not done.exists():
        return None
    about = read_json(place / ABOUT)
    same = about.get("pretraining") == read_json(done).get("fingerprint")
    return place if same else None


def _selected(training: Training, source: "Source") -> pd.DataFrame:
    """Table 6 of one training: one line an EIP, with split and seed."""
    from eipnn.stages.source import selected

    file = training.fold.folder / "classify" / "selection.csv"
    table = residuals.selection_table(source, selected(file))
    split, seed = training.place
    return pd.concat(
        [pd.DataFrame({"split": split, "seed": seed}, index=table.index), table], axis=1
    )


def _kept(table: pd.DataFrame) -> str:
    """Shares of the outliers that get gradient in the first and the last tenth of the steps (Fig. 3b in words)."""
    tenth = max(len(table) // 10, 1)
    ends = (slice(0, tenth), slice(-tenth, None))
    shares = []
    for threshold in THRESHOLDS:
        found, kept = table[f"outliers_{threshold:g}"], table[f"kept_{threshold:g}"]
        share = [
            f"{100 * kept[part].sum() / found[part].sum():.0f} %" if found[part].sum() else "none"
            for part in ends
        ]
        shares.append(f"{threshold:g} eV/atom from {share[0]} to {share[1]}")
    spread = [table["spread"].iloc[part].mean() for part in ends]
    return (
        "First against last tenth of the steps: outliers that still get gradient go, beyond "
        f"{'; '.join(shares)}; the spread of the residuals goes from {spread[0]:.3f} to {spread[1]:.3f} eV. An outlier "
        "is far from DFT; it loses its gradient where it is far from what the network says."
    )


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return str(low) if low == high else f"{low} to {high}"


def _saved_text(saved: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    lines = []
    for row in saved.itertuples():
        text = {"more": "> all", "fewer": "< fewest"}.get(row.bound, f"{row.frames_needed:.0f}")
        ratio = "-" if row.bound else f"{row.ratio:.2f}"
        lines.append(
            (str(row.frames), names[row.strategy], f"{row.config_mae_eV:.4f}", text, ratio)
        )
    columns = ["DFT frames", "row", "config MAE (eV)", "frames needed", "ratio"]
    return pd.DataFrame(lines, columns=columns)


def _sentence(saved: pd.DataFrame, names: dict[str, str], against: str) -> str:
    """What a user wants to know, for the strategy that saves most."""
    known = saved[saved["bound"] == ""]
    if known.empty:
        return "No row's error lies within the compared curve, so no number of saved frames can be given."
    mean = np.exp(np.log(known["ratio"]).groupby(known["strategy"]).mean())
    best = str(mean.idxmax())
    rows = known[known["strategy"] == best]
    each = ", ".join(
        f"{row.frames} in place of {row.frames_needed:.0f}" for row in rows.itertuples()
    )
    verdict = "saves" if mean[best] > 1 else "saves no frames: it costs"
    return (
        f"**{names[best]} {verdict} DFT frames at equal error by a factor of {mean[best]:.2f}** (geometric mean over "
        f"the numbers of frames where it can be told, against {names[against]}): {each}."
    )


def bars(errors: dict[str, np.ndarray], file: Path) -> None:
    """Test config MAE of some rows: the mean as a bar, each fold as a dot.

    Args:
        errors: row -> config MAE of each fold (n,), eV.
        file: PNG to write.
    """
    places = np.arange(len(errors))
    with rc_context(STYLE):
        figure = Figure(figsize=(7.5, 1.3 + 0.45 * len(errors)))
        axis = figure.subplots()
        axis.barh(places, [values.mean() for values in errors.values()], color=BLUE, alpha=0.6)
        for place, values in zip(places, errors.values(), strict=True):
            axis.plot(values, [place] * len(values), "o", color="white", markeredgecolor="black")
        axis.set_yticks(places, list(errors))
        axis.invert_yaxis()
        axis.grid(axis="x")
        axis.set(xlabel="test config MAE (eV)")
        figure.savefig(file)
