"""The commands `eipnn label` and `eipnn eips`."""

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from ase.data import chemical_symbols
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eipnn.command_line import Count, Positive
from eipnn.eips import load_eips
from eipnn.eips.installed import covering
from eipnn.errors import InputError
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
from eipnn.labels.ledger import Ledger, require_labels
from eipnn.labels.store import DONE, LabelStore
from eipnn.reference import MODES, ZeroError, fit_reference
from eipnn.structures import (
    Split,
    StructureError,
    StructureStore,
    isolated_energies,
    open_dft_and_pool,
    read_split,
    resolve,
)
from eipnn.units import energy_warning, force_warning, label_references, sample

SHOWN = 10  # reasons of failure that are printed; the ledger has them all


def label(
    structures: list[str],
    *,
    eips: str,
    output: Path,
    workers: Count = 1,
    timeout: Positive = 60.0,
    retry_failed: bool = False,
    pool: list[str] | None = None,
    energy_key: str | None = None,
    energy_zero: Annotated[str, MODES] | None = None,
    isolated_atoms: str | None = None,
    eip_zero: Annotated[str, MODES] = "none",
    eip_isolated_atoms: str | None = None,
    split: str | None = None,
) -> None:
    """Energies and forces of structures under empirical interatomic potentials.

    A killed run goes on from where it was when the same command is given again. Where frames carry DFT energies, a
    leaderboard of the EIPs against them is printed and written beside the labels.

    Args:
        structures: files that ASE reads, patterns such as 'runs/*/OUTCAR', or bundled:NAME.
        eips: a named set (silicon, aluminium, silver-gold) or a YAML list of entries such as '- {name: sw, kim:
            MO_405512056662}' or '- {name: emt, ase: ase.calculators.emt.EMT}'.
        output: folder of the label store.
        workers: processes that label.
        timeout: seconds after which a label is given up.
        retry_failed: try labels again that failed in earlier runs.
        pool: more files, whose energies, if there are any, are not DFT.
        energy_key: key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...).
        energy_zero: zero of the DFT energies in the leaderboard (default: isolated_atoms with --isolated-atoms or with
            frames of config_type=IsolatedAtom, else none).
        isolated_atoms: JSON file with DFT energies of isolated atoms in eV, as in {"Si": -0.85}; or bundled:NAME.
        eip_zero: zero of each EIP in the leaderboard; none is right for OpenKIM models.
        eip_isolated_atoms: the same as isolated_atoms for all EIPs, with --eip-zero isolated_atoms.
        split: CSV; fits use train alone, the best EIP is chosen on train + val and shown on test.
    """
    console = Console(stderr=True)
    known, others = open_dft_and_pool(structures, pool, energy_key, require_energy=False)
    frames = StructureStore.joined([known, others])
    parts = read_split(split) if split else None
    asked = {*parts.train, *parts.val, *parts.test} if parts else set()
    wanted = ~known.isolated | np.isin(known.ids, list(asked))
    dft = known.take(np.flatnonzero(np.isfinite(known.energies) & wanted))
    isolated = _read_isolated(isolated_atoms) if isolated_atoms else None
    isolated = isolated_energies(known, isolated)
    eip_isolated = _read_isolated(eip_isolated_atoms) if eip_isolated_atoms else None
    energy_zero = energy_zero or ("isolated_atoms" if isolated else "none")
    if dft:
        # Before the work starts: a wrong file should not cost a run.
        _check_dft(dft, parts, split or "", energy_zero, isolated)
    store = label_structures(
        frames,
        load_eips(eips),
        output,
        workers=workers,
        timeout=timeout,
        retry_failed=retry_failed,
        shown=True,
    )
    _report_failures(store, console)
    if not dft:
        require_labels(store, store.ids, store.eips)
        return
    comparison = compare(
        dft,
        store,
        energy_zero=energy_zero,
        isolated=isolated,
        eip_zero=eip_zero,
        eip_isolated=eip_isolated,
        split=parts,
    )
    _report_comparison(comparison, parts, output)
    shown = sample(dft.take(dft.rows(parts.train)) if parts else dft)
    references = label_references(shown, store, store.eips)
    file = ", ".join(structures)
    warnings = (
        energy_warning(shown, references, file)
        or alignment_warning(comparison.dft, comparison.labels, comparison.n_atoms, comparison.eips),
        force_warning(shown, references, file),
    )
    for warning in filter(None, warnings):
        console.print(f"WARNING: {warning}", style="bold yellow", soft_wrap=True)
    require_labels(store, store.ids, store.eips)


def eips(elements: list[str]) -> None:
    """List the installed OpenKIM models that cover all the given elements, with their influence distance.

    The MO_ number of a name is what an EIP set takes. Models that need a simulator beside the KIM API (SM_) are left
    out.

    Args:
        elements: chemical symbols: Si, Ag Au.
    """
    if unknown := [e for e in elements if e not in chemical_symbols[1:]]:
        raise InputError(f"{unknown[0]!r} is no chemical symbol")
    models, broken = covering(elements)
    for model in models:
        covered = ",".join(model.elements) if len(model.elements) <= 12 else f"{len(model.elements)}"
        print(f"{model.name:<90} {model.cutoff:6.2f} A  {covered}")
    for model in broken:
        print(f"{model.name}: {model.problem}", file=sys.stderr)
    if not models:
        raise InputError(f"no installed KIM model covers {', '.join(elements)}")
    print(f"{len(models)} installed KIM models cover {', '.join(elements)}", file=sys.stderr)


def _check_dft(
    dft: StructureStore,
    split: Split | None,
    split_file: str,
    energy_zero: str,
    isolated: dict[str, float] | None,
) -> None:
    """Raise where the split names frames without DFT, or the zero of the DFT energies cannot be found."""
    train = dft
    if split is not None:
        split.check(dft.ids, split.pool, split_file)
        train = dft.take(dft.rows(split.train))
    fit_reference(energy_zero, train, train.energies, isolated).totals(dft)


def _report_comparison(comparison: Comparison, split: Split | None, folder: Path) -> None:
    best = best_eip(comparison, split) if split else None
    standings = leaderboard(comparison, split)
    write_leaderboard(folder, standings, best)
    output = Console()  # the result; progress and warnings go to standard error
    for table in _tables(standings):
        output.print(table)
    if best:
        output.print(sentence(best), soft_wrap=True)


def _tables(standings: Sequence[Standing]) -> Iterator[Table]:
    """One table for each part and set of elements, narrow enough for a terminal of 80 columns."""
    for (part, elements), lines in groupby(standings, lambda line: (line.part, line.elements)):
        table = Table(title=f"{elements}, {part} frames (eV, eV/atom)", box=SIMPLE, padding=(0, 1, 0, 0))
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


def _read_isolated(file: str) -> dict[str, float]:
    try:
        content = json.loads(resolve(file).read_text(encoding="utf-8"))
        return {str(element): float(value) for element, value in content.items()}
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, StructureError):
            raise
        raise ZeroError(f'{file}: must be a JSON mapping from element to energy in eV, as in {{"Si": -0.85}}') from None


def _report_failures(store: LabelStore, console: Console) -> None:
    done = int((store.status == DONE).sum())
    console.print(f"{store.folder}: {done} of {store.status.size} labels", soft_wrap=True)
    ledger = Ledger(store.folder, store.ids, store.eips)
    if not ledger.reasons:
        return
    console.print(f"{len(ledger.reasons)} labels failed; failures.csv there lists them:", soft_wrap=True)
    counts = Counter((store.eips[column], reason) for (_, column), reason in ledger.reasons.items())
    for (eip, reason), count in counts.most_common(SHOWN):
        console.print(f"  {count} x {eip}: {reason}", markup=False, soft_wrap=True)
    if len(counts) > SHOWN:
        console.print(f"  and {len(counts) - SHOWN} other reasons")
