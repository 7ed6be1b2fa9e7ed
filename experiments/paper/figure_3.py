"""Fig. 3 and Tables 4 and 6 of Shui et al. 2022: who labels, which outliers the loss rejects, which loss; one EIP.

    python experiments/paper/figure_3.py RUN     # from the folder where `eipnn run` was called, so that the paths hold

RUN is of `al_hidden.yaml`, or of another experiment with its rows and a pool of DFT frames. Written are `figure_3.md`
and its pictures and tables, by default into `figure_3` in RUN.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from residual_log import COUNTS, FILE, THRESHOLDS, errors_per_atom

from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.metrics import CONFIG
from eipnn.report import tables
from eipnn.report.folds import read_data, read_table
from eipnn.report.plots import STYLE, bars, legend_aside, log_ticks
from eipnn.report.runs import Experiment, ReportError, Training, read_experiments, read_json
from eipnn.report.tables import markdown
from eipnn.run.strategy import MAIN_AND_LONG
from eipnn.stages.source import Source, selected

LOOKS = (("#0072B2", "-"), ("#E69F00", "--"), ("#D55E00", ":"))
"""Colour (of Okabe & Ito's palette) and dashes of each threshold: equal lines, one upon the other, are all seen."""
SPREAD_COLOURS = {"spread": "#000000", "spread_dft": "#0072B2", "spread_eip": "#E69F00"}
SPREAD_NAMES = {"spread": "whole batch", "spread_dft": "DFT labels", "spread_eip": "EIP labels"}
WINDOWS = 50
"""The running mean is over this part of the steps."""


def read_residuals(stage: Path) -> pd.DataFrame:
    """The log of a training with EIP labels, see `residual_log.py`.

    Raises:
        ReportError: there is none, or it is damaged.
    """
    return read_table(stage / FILE, ("step", "epoch", "spread", *COUNTS))


def pooled(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The logs of several trainings as one: by step, counts are summed and spreads averaged.

    Steps that not all trainings have are left out.
    """
    joined = pd.concat(tables, ignore_index=True)
    joined = joined.groupby("step").filter(lambda rows: len(rows) == len(tables))
    how = dict.fromkeys(COUNTS, "sum") | dict.fromkeys(SPREAD_COLOURS, "mean")
    return joined.groupby("step").agg(how).reset_index()


def selection_table(source: Source, chosen: Mapping[str, str]) -> pd.DataFrame:
    """How many labels a selection brings and how many are outliers (Table 6).

    One line an EIP in the order of the label store, then the line ``all``: ``eip``, ``selected``, ``labelled`` (its EIP
    gave a label), ``known`` (labelled, and the DFT energy is known), ``outliers_C`` of these (error above C eV/atom).

    Args:
        source: structures, split and aligned energies.
        chosen: id -> EIP, see `selected`.
    """
    energies = source.chosen(chosen)["energy"][:, 0]
    error = np.abs(errors_per_atom(source, list(chosen), energies))
    each = pd.DataFrame(
        {
            "eip": list(chosen.values()),
            "selected": True,
            "labelled": np.isfinite(energies),
            "known": np.isfinite(error),
        }
        | {f"outliers_{c:g}": error > c for c in THRESHOLDS}
    )
    counts = each.groupby("eip").sum().reindex(list(source.store.eips), fill_value=0)
    counts.loc["all"] = counts.sum()
    return counts.astype(int).reset_index()


def outliers(table: pd.DataFrame, title: str, file: Path) -> None:
    """Share of the outliers that still get gradient by gradient step, one line a threshold (Fig. 3b).

    Args:
        table: of `read_residuals`.
        title: which training this is.
        file: PNG to write.

    Raises:
        ReportError: the DFT energy of no chosen structure is known, so that no outlier is.
    """
    if not table["n_known"].any():
        raise ReportError(
            f"{title}: the DFT energy of no chosen structure is known; it is where the split marks frames of the DFT "
            "file as pretrain"
        )
    with rc_context(STYLE):
        figure, axis = _canvas("outliers that get gradient (%)", title)
        for threshold, look in zip(THRESHOLDS, LOOKS, strict=True):
            found, kept = table[f"outliers_{threshold:g}"], table[f"kept_{threshold:g}"]
            share = _running(kept, "sum") / _running(found, "sum")  # no outlier in the window: NaN
            colour, dashes = look
            name = f"> {threshold:g} eV/atom"
            # a batch has too few of them for a line of its own
            axis.plot(table["step"], 100 * share, dashes, color=colour, linewidth=1.8, label=name)
        axis.set_ylim(-2, 102)
        _finish(figure, axis, "EIP labels off DFT by", file)


def spreads(table: pd.DataFrame, title: str, file: Path) -> None:
    """Spread of the residuals, MAR / 0.6745, by gradient step (Fig. 3c).

    Args:
        table: of `read_residuals`.
        title: which training this is.
        file: PNG to write.
    """
    with rc_context(STYLE):
        figure, axis = _canvas("spread of the residuals (eV)", title)
        for column, colour in SPREAD_COLOURS.items():
            smooth = _running(table[column], "mean")
            _lines(axis, table["step"], table[column], smooth, (colour, "-"), SPREAD_NAMES[column])
        log_ticks(axis)
        _finish(figure, axis, "MAR / 0.6745 of", file)


def _canvas(ylabel: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 4.2))
    axis = figure.subplots()
    axis.set(xlabel="gradient step", ylabel=ylabel, title=title)
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.grid()
    return figure, axis


def _lines(
    axis: Axes,
    step: pd.Series,
    raw: pd.Series,
    smooth: pd.Series,
    look: tuple[str, str],
    name: str,
) -> None:
    colour, dashes = look
    axis.plot(step, raw, color=colour, linewidth=0.5, alpha=0.2)
    axis.plot(step, smooth, dashes, color=colour, linewidth=1.8, label=name)


def _finish(figure: Figure, axis: Axes, legend: str, file: Path) -> None:
    legend_aside(figure, axis, legend)
    figure.savefig(file)


def _running(column: pd.Series, what: str) -> pd.Series:
    window = max(len(column) // WINDOWS, 1)
    return column.rolling(window, center=True, min_periods=1).agg(what)


def selections(trainings: Sequence[Training], sources: Mapping[int, Source]) -> pd.DataFrame:
    """`selection_table` of each training's classifier, with split and seed.

    Args:
        trainings: with the classifier's labels.
        sources: by split.
    """
    found = []
    for t in trainings:
        chosen = selected(t.fold.folder / "classify" / "selection.csv")
        table = selection_table(sources[t.fold.split], chosen)
        found.append(table.assign(split=t.fold.split, seed=t.fold.seed))
    table = pd.concat(found, ignore_index=True)
    return table[["split", "seed", *table.columns[:-2]]]


def kept_text(table: pd.DataFrame) -> str:
    """Shares of the outliers that get gradient in the first and the last tenth of the steps (Fig. 3b in words)."""
    tenth = max(len(table) // 10, 1)
    ends = (slice(0, tenth), slice(-tenth, None))
    shares = []
    for threshold in THRESHOLDS:
        found, kept = table[f"outliers_{threshold:g}"], table[f"kept_{threshold:g}"]
        share = [
            f"{100 * kept[part].sum() / found[part].sum():.0f} %" if found[part].sum() else "none" for part in ends
        ]
        shares.append(f"{threshold:g} eV/atom from {share[0]} to {share[1]}")
    spread = [table["spread"].iloc[part].mean() for part in ends]
    return (
        "First against last tenth of the steps: outliers that still get gradient go, beyond "
        f"{'; '.join(shares)}; the spread of the residuals goes from {spread[0]:.3f} to {spread[1]:.3f} eV. An outlier "
        "is far from DFT; it loses its gradient where it is far from what the network says."
    )


class Sections:
    """Writes what the trainings of one experiment allow.

    Args:
        experiment: trainings of one backbone on one data set.
        folder: for pictures and CSV tables.
    """

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        self.experiment, self.folder = experiment, folder

    def markdown(self) -> Iterator[str]:
        """The sections one after the other; nothing where there is nothing to tell."""
        yield from self._rows(
            ("la-best", "la-dft", "taught", "taught-mse", "mp+taught"),
            ("baseline", "la", "la-best", "taught", "taught-mse", "la-dft", "mp", "mp+taught"),
            "label_sources",
            "Who labels the structures",
            "The structures that the classifier selected, labelled by the EIP that it chose (+LA), by the EIP that is "
            "truly the closest to DFT, by DFT itself, or not at all (the backbone alone); Fig. 3a of the paper. "
            "Batches, loss and gradient steps of these are equal; hidden DFT energies serve the true best EIP and DFT "
            "itself alone. Corrected: the whole pool, labelled by the potential of `mp+delta`, which the student then "
            "does without.",
        )
        yield from self._outliers()
        yield from self._rows(
            ("la-mse", "mp+la-mse"),
            ("baseline", "la", "la-mse", "mp+la", "mp+la-mse"),
            "losses",
            "Tukey's biweight against MSE on the EIP labels",
            "Table 4 of the paper: the same trainings with the squared error in place of Eq. 4.",
        )
        yield from self._one_eip()

    def _one_eip(self) -> Iterator[str]:
        """The rows that need the single best EIP, delta learning among them."""
        singles = {name: kind for name, kind in self.experiment.strategies.items() if kind.single}
        on_one = sorted(singles, key=lambda name: singles[name].delta)
        trained = [t for name in on_one for t in self.experiment.row(name)]
        eips = sorted({str(read_json(t.folder / "done.json").get("single_eip")) for t in trained})
        yield from self._rows(
            on_one,
            (*MAIN_AND_LONG, *on_one),
            "one_eip",
            "One EIP alone, and delta learning",
            "What one would do with the EIP that has the lowest config MAE on train and validation: label the whole "
            "pool with it (+LA), pretrain on it (+MP), or learn the difference to DFT (delta learning); +MP on DFT - "
            f"EIP is delta learning after pretraining on all EIPs. The improvement is over {self.experiment.backbone}; "
            f"rows with EIP labels and long ones take more gradient steps. That EIP is {', '.join(eips)}.",
        )

    def _rows(self, needed: Sequence[str], rows: Sequence[str], name: str, title: str, text: str) -> Iterator[str]:
        if not any(self.experiment.row(strategy) for strategy in needed):
            return
        measured = tables.measured(self.experiment)
        names = {strategy: self.experiment.label(strategy) for strategy in rows if self.experiment.row(strategy)}
        table = tables.summary(measured, names, dict.fromkeys(names, "baseline"))
        self._csv(name, table)
        config = CONFIG.factor * measured[CONFIG.column]
        errors = {label: config[measured["strategy"] == s] for s, label in names.items()}
        bars(self.folder / f"{name}.png", errors, f"test {CONFIG.heading}", CONFIG.form)
        yield f"### {title}"
        yield text
        yield markdown(tables.readable(table))
        yield f"![{title}: test config MAE]({name}.png)"

    def _outliers(self) -> Iterator[str]:
        """Fig. 3b, 3c and Table 6, where the DFT energies of the selected structures are known."""
        logged = [t for t in self.experiment.row("la") if (t.folder / FILE).exists()]
        logs = {t.place: read_residuals(t.folder) for t in logged}
        known = [t for t in logged if logs[t.place]["n_known"].any()]
        if not known:
            return
        together = pooled([logs[t.place] for t in known])
        title = f"+LA, {len(known)} splits and seeds" if len(known) > 1 else "+LA"
        for draw, name in ((outliers, "outliers"), (spreads, "spreads")):
            draw(together, title, self.folder / f"{name}.png")
        of_split = {t.fold.split: t for t in known}
        sources = {split: read_data([t]).source for split, t in of_split.items()}
        table = selections(known, sources)
        self._csv("outliers", table)
        yield "### Outliers among the chosen labels"
        yield (
            "How many structures the classifier selected and how many of their labels are off DFT by more than 0.1, "
            "0.2 and 0.3 eV/atom (Table 6 of the paper). The hidden DFT energies serve this count alone."
        )
        yield markdown(table[table["eip"] == "all"].drop(columns="eip").astype(str))
        yield "![Outliers that still get gradient, by step](outliers.png)"
        yield "![Spread of the residuals, by step](spreads.png)"
        yield kept_text(together)

    def _csv(self, name: str, table: pd.DataFrame) -> None:
        write_atomically(self.folder / f"{name}.csv", table.to_csv(index=False))


def write_figure(run: Path, folder: Path) -> None:
    """Write ``figure_3.md`` with its pictures and tables.

    Raises:
        ReportError: the run cannot be read, has several networks or data sets, or none of the rows.
    """
    experiments = read_experiments([run])
    if len(experiments) > 1:
        raise ReportError(f"{run}: holds several networks or data sets; name one of its runs")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [*Sections(experiments[0], folder).markdown()]
    if not parts:
        raise ReportError(
            f"{run}: none of the rows of Fig. 3 and Table 4, which are those of experiments/paper/al_hidden.yaml"
        )
    write_atomically(folder / "figure_3.md", "\n\n".join(["# Fig. 3, Tables 4 and 6", *parts]) + "\n")


def main() -> None:
    """The command line."""
    p = argparse.ArgumentParser(description="Fig. 3 and Tables 4 and 6 of Shui et al. 2022.")
    p.add_argument("run", type=Path, metavar="RUN", help="folder of a run of al_hidden.yaml")
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="where the files go (default: figure_3 in RUN)",
    )
    options = p.parse_args()
    output = options.output or options.run / "figure_3"
    try:
        write_figure(options.run, output)
    except (InputError, OSError) as error:
        sys.exit(f"figure_3.py: {error}")
    print(f"{output / 'figure_3.md'}: written")


if __name__ == "__main__":
    main()
