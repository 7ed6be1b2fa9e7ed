"""The commands `eipnn label` and `eipnn eips`."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eipnn.eips import load_eips, named_sets
from eipnn.eips.installed import covering
from eipnn.errors import exit_code
from eipnn.labels.engine import label_structures
from eipnn.labels.leaderboard import (
    Comparison,
    Standing,
    alignment_warning,
    best_eip,
    compare,
    leaderboard,
    sentence,
    write_leaderboard,
)
from eipnn.labels.ledger import Ledger
from eipnn.labels.store import DONE, LabelStore
from eipnn.structures import (
    MissingKeyError,
    Split,
    StructureError,
    energy,
    read_split,
    read_structures,
    resolve,
)
from eipnn.zeros import MODES, ZeroError, fit_zero

SHOWN = 10  # reasons of failure that are printed; the ledger has them all


def main_label(argv: Sequence[str]) -> int:
    """`eipnn label`: the exit code, 0 also where single labels have failed."""
    options = _label_parser().parse_args(argv)
    console = Console(stderr=True)
    return exit_code("label", lambda: _label(options, console))


def main_eips(argv: Sequence[str]) -> int:
    """`eipnn eips`: the exit code."""
    options = _eips_parser().parse_args(argv)
    unknown = [e for e in options.elements if e not in chemical_symbols[1:]]
    if unknown:
        print(f"eipnn eips: {unknown[0]!r} is no chemical symbol", file=sys.stderr)
        return 1
    try:
        models, broken = covering(options.elements)
    except ImportError as error:
        print(
            f"eipnn eips: kimpy cannot be imported ({error}); install the KIM API: `apt install "
            "libkim-api-dev openkim-models pkg-config` and `pip install kimpy kim-property`, or "
            "`conda install -c conda-forge kim-api openkim-models kimpy`",
            file=sys.stderr,
        )
        return 1
    for model in models:
        covered = (
            ",".join(model.elements) if len(model.elements) <= 12 else f"{len(model.elements)}"
        )
        print(f"{model.name:<90} {model.cutoff:6.2f} A  {covered}")
    for model in broken:
        print(f"{model.name}: {model.problem}", file=sys.stderr)
    wanted = ", ".join(options.elements)
    print(f"{len(models)} installed KIM models cover {wanted}", file=sys.stderr)
    return 0 if models else 1


def _label_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eipnn label",
        description="Energies and forces of structures under empirical interatomic potentials. A killed "
        "run goes on from where it was when the same command is given again. Where frames carry DFT "
        "energies, a leaderboard of the EIPs against them is printed and written beside the labels.",
    )
    add = parser.add_argument
    add("structures", nargs="+", metavar="STRUCTURES", help="files that ASE reads, or bundled:NAME")
    add(
        "--eips",
        required=True,
        metavar="NAME_OR_YAML",
        help=f"a named set ({', '.join(named_sets())}) or a YAML list of entries such as "
        "'- {name: sw, kim: MO_405512056662}' or '- {name: emt, ase: ase.calculators.emt.EMT}'",
    )
    add("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the label store")
    add("--workers", type=int, default=1, metavar="N", help="worker processes (default: 1)")
    add(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a label is given up (default: 60)",
    )
    add("--retry-failed", action="store_true", help="try labels again that failed in earlier runs")
    board = parser.add_argument_group("leaderboard")
    add = board.add_argument
    add(
        "--energy-key",
        metavar="KEY",
        help="key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...)",
    )
    add(
        "--energy-zero",
        choices=MODES,
        help="zero of the DFT energies (default: isolated_atoms with --isolated-atoms, else none)",
    )
    add(
        "--isolated-atoms",
        metavar="FILE.json",
        help='DFT energies of isolated atoms in eV, as in {"Si": -0.85}; or bundled:NAME',
    )
    add(
        "--eip-zero",
        choices=("least_squares", "none"),
        default="none",
        help="zero of each EIP (default: none, right for OpenKIM models)",
    )
    add(
        "--split",
        metavar="FILE.csv",
        help="split: fits use train only, the best EIP is chosen on train + val and shown on test",
    )
    return parser


def _eips_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eipnn eips",
        description="List the installed OpenKIM models that cover all the given elements, with their "
        "influence distance. The MO_ number of a name is what an EIP set takes. Models that need a "
        "simulator beside the KIM API (SM_) are left out.",
    )
    parser.add_argument(
        "elements", nargs="+", metavar="ELEMENT", help="chemical symbols: Si, Ag Au"
    )
    return parser


def _label(options: argparse.Namespace, console: Console) -> None:
    structures = _read(options.structures, options.energy_key)
    split = read_split(options.split) if options.split else None
    isolated = _read_isolated(options.isolated_atoms) if options.isolated_atoms else None
    energy_zero = options.energy_zero or ("isolated_atoms" if isolated else "none")
    dft = [atoms for atoms in structures if energy(atoms) is not None]
    if dft:
        # Before the work starts: a wrong file should not cost a run.
        _check_dft(dft, split, options.split, energy_zero, isolated)
    store = label_structures(
        structures,
        load_eips(options.eips),
        options.output,
        workers=options.workers,
        timeout=options.timeout,
        retry_failed=options.retry_failed,
        console=console,
    )
    _report_failures(store, console)
    if not dft:
        return
    comparison = compare(
        dft,
        store,
        energy_zero=energy_zero,
        isolated=isolated,
        eip_zero=options.eip_zero,
        split=split,
    )
    _report_comparison(comparison, split, options.output, console)


def _check_dft(
    dft: Sequence[Atoms],
    split: Split | None,
    split_file: str,
    energy_zero: str,
    isolated: dict[str, float] | None,
) -> None:
    """Raise where the split names frames without DFT, or the zero of the DFT energies cannot be found."""
    train = dft
    if split is not None:
        split.check([atoms.info["config_id"] for atoms in dft], split.pool, split_file)
        train = [atoms for atoms in dft if atoms.info["config_id"] in set(split.train)]
    energies = np.array([energy(atoms) for atoms in train], dtype=np.float64)
    fit_zero(energy_zero, train, energies, isolated).totals(dft)


def _report_comparison(
    comparison: Comparison, split: Split | None, folder: Path, console: Console
) -> None:
    best = best_eip(comparison, split) if split else None
    standings = leaderboard(comparison, split)
    write_leaderboard(folder, standings, best)
    output = Console()  # the result; progress and warnings go to standard error
    for table in _tables(standings):
        output.print(table)
    if best:
        output.print(sentence(best), soft_wrap=True)
    warning = alignment_warning(
        comparison.dft, comparison.labels, comparison.n_atoms, comparison.eips
    )
    if warning:
        console.print(f"WARNING: {warning}", style="bold yellow")


def _tables(standings: Sequence[Standing]) -> Iterator[Table]:
    """One table for each part and set of elements, narrow enough for a terminal of 80 columns."""
    for (part, elements), lines in groupby(standings, lambda line: (line.part, line.elements)):
        table = Table(
            title=f"{elements}, {part} frames (eV, eV/atom)", box=SIMPLE, padding=(0, 1, 0, 0)
        )
        table.add_column("EIP", no_wrap=True)
        for heading in ("frames", "failed", "config MAE", "atom MAE", "offset", "corr.", "best"):
            table.add_column(heading, justify="right", no_wrap=True)
        for line in lines:
            table.add_row(
                line.eip,
                str(line.frames),
                str(line.missing),
                f"{line.config_mae:.3f}",
                f"{line.atom_mae:.3f}",
                f"{line.offset:+.3f}",
                f"{line.correlation:.3f}",
                f"{line.best_share:.0%}",
            )
        yield table


def _read(files: Sequence[str], energy_key: str | None) -> list[Atoms]:
    """All frames of all files. A named energy key must be in one of them; the others have no DFT."""
    structures: list[Atoms] = []
    missing: list[MissingKeyError] = []
    for file in files:
        try:
            structures += read_structures(file, energy_key=energy_key)
        except MissingKeyError as error:
            missing.append(error)
            frames = read_structures(file)
            for atoms in frames:
                atoms.calc = None
            structures += frames
    if len(missing) == len(files):
        raise missing[0]
    return structures


def _read_isolated(file: str) -> dict[str, float]:
    try:
        content = json.loads(resolve(file).read_text(encoding="utf-8"))
        return {str(element): float(value) for element, value in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, StructureError):
            raise
        raise ZeroError(
            f'{file}: must be a JSON mapping from element to energy in eV, as in {{"Si": -0.85}}'
        ) from None


def _report_failures(store: LabelStore, console: Console) -> None:
    done = int((store.status == DONE).sum())
    console.print(f"{store.folder}: {done} of {store.status.size} labels", soft_wrap=True)
    ledger = Ledger(store.folder, store.ids, store.eips)
    if not ledger.reasons:
        return
    console.print(
        f"{len(ledger.reasons)} labels failed; failures.csv there lists them:", soft_wrap=True
    )
    counts = Counter((store.eips[column], reason) for (_, column), reason in ledger.reasons.items())
    for (eip, reason), count in counts.most_common(SHOWN):
        console.print(f"  {count} x {eip}: {reason}", markup=False, soft_wrap=True)
    if len(counts) > SHOWN:
        console.print(f"  and {len(counts) - SHOWN} other reasons")
