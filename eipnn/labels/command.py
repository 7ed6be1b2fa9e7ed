"""The commands `eipnn label` and `eipnn eips`."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from ase.data import chemical_symbols
from rich.console import Console

from eipnn.command_line import Count, Positive
from eipnn.eips import load_eips
from eipnn.eips.installed import covering
from eipnn.errors import InputError, UsageError
from eipnn.labels.engine import label_structures
from eipnn.labels.layout import DONE
from eipnn.labels.leaderboard import (
    Comparison,
    alignment_warning,
    best_eip,
    compare,
    leaderboard,
    readable,
    sentence,
    write_leaderboard,
)
from eipnn.labels.ledger import Ledger, require_labels
from eipnn.labels.store import LabelStore
from eipnn.reference import MODES, ZeroError, fit_reference
from eipnn.structures import Options, Split, StructureStore, isolated_energies, open_dft_and_pool, read_split, resolve
from eipnn.units import energy_warning, force_warning, label_references, sample, stress_warning, zeros_warning

REASONS = 10  # of failure that are printed; the ledger has them all


def label(
    structures: list[str],
    *,
    eips: str,
    output: Path,
    workers: Count | None = None,
    cluster: str | None = None,
    timeout: Positive = 60.0,
    retry_failed: bool = False,
    pool: list[str] | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    energy_zero: Annotated[str, MODES] | None = None,
    isolated_atoms: str | None = None,
    eip_zero: Annotated[str, MODES] | None = None,
    eip_isolated_atoms: str | None = None,
    eip_scale: bool = False,
    split: str | None = None,
) -> None:
    """Energies, forces and stress of structures under empirical interatomic potentials.

    A killed run goes on from where it was when the same command is given again. Where frames carry DFT energies, a
    leaderboard of the EIPs against them is printed and written beside the labels.

    Args:
        structures: files that ASE reads, patterns such as 'runs/*/OUTCAR', or bundled:NAME.
        eips: a named set (silicon, aluminium, silver-gold, chgnet) or a YAML list of entries such as '- {name: sw, kim:
            MO_405512056662}', '- {name: emt, ase: ase.calculators.emt.EMT}' or '- {name: mine, eipnn: potential.pt}'.
        output: folder of the label store.
        workers: processes that label (default: 1).
        cluster: address of a Dask scheduler, such as tcp://HOST:8786, whose workers label.
        timeout: seconds after which a label is given up.
        retry_failed: try labels again that failed in earlier runs.
        pool: more files, whose energies, if there are any, are not DFT.
        energy_key: key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...).
        forces_key: the same of the forces.
        stress_key: the same of the stress, or of virials if "virial" is in the name.
        energy_zero: zero of the DFT energies in the leaderboard (default: isolated_atoms with --isolated-atoms or with
            frames of config_type=IsolatedAtom, else none).
        isolated_atoms: JSON file with DFT energies of isolated atoms in eV, as in {"Si": -0.85}; or bundled:NAME.
        eip_zero: zero of each EIP in the leaderboard (default: as its entry says, else none, which is right for OpenKIM
            models).
        eip_isolated_atoms: the same as isolated_atoms for all EIPs, with --eip-zero isolated_atoms.
        eip_scale: multiply all that an EIP says by one factor in the leaderboard, fitted to the DFT forces, or energies
            where there are none: the order is then that of what a network can learn from them.
        split: CSV; fits use train alone, the best EIP is chosen on train + val and shown on test.
    """
    if workers and cluster:
        raise UsageError("--workers are processes of this machine; with --cluster the workers there label: give one")
    options: Options = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key}
    known, others = open_dft_and_pool(structures, pool, **options)
    frames = StructureStore.joined([known, others])
    parts = read_split(split) if split else None
    asked = {*parts.train, *parts.val, *parts.test} if parts else set()
    wanted = ~known.isolated | np.isin(known.ids, list(asked))
    dft = known.take(np.flatnonzero(np.isfinite(known.energies) & wanted))
    isolated = isolated_energies(known, read_isolated(isolated_atoms))
    eip_isolated = read_isolated(eip_isolated_atoms)
    energy_zero = energy_zero or ("isolated_atoms" if isolated else "none")
    if dft:
        # Before the work starts: a wrong file should not cost a run.
        if parts:
            parts.check(dft.ids, None, split or "")
        train = dft.take(dft.rows(parts.train)) if parts else dft
        fit_reference(energy_zero, train, train.energies, isolated).totals(dft)
    chosen = load_eips(eips)
    store = label_structures(frames, chosen, output, workers or 1, timeout, retry_failed, True, cluster)
    print(*_failures(store), sep="\n", file=sys.stderr)
    if dft:
        comparison = compare(dft, store, energy_zero, isolated, eip_zero, eip_isolated, parts, eip_scale)
        _report_comparison(comparison, parts, output)
        shown = sample(train)
        references = label_references(shown, store, store.eips)
        file = ", ".join(structures)
        apart = alignment_warning(comparison.dft, comparison.labels, comparison.n_atoms, comparison.eips)
        energies = energy_warning(shown, references, file) or apart
        further = force_warning(shown, references, file), zeros_warning(train, file), stress_warning(train, file)
        for warning in filter(None, (energies, *further)):
            Console(stderr=True).print(f"WARNING: {warning}", style="bold yellow", soft_wrap=True)
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


def _report_comparison(comparison: Comparison, split: Split | None, folder: Path) -> None:
    """Write and print the leaderboard: one table for each part and set of elements, for a terminal of 80 columns."""
    best = best_eip(comparison, split) if split else None
    standings = leaderboard(comparison, split)
    write_leaderboard(folder, standings, best)
    for (part, elements), lines in groupby(standings, lambda line: (line.part, line.elements)):
        print(f"\n{elements}, {part} frames: MAEs in meV, meV/atom, eV/Å, GPa; offset in meV/atom")
        table = readable(list(lines)).drop(columns=["elements", "part"])
        table = table.rename(columns=lambda heading: heading.partition(" ")[0])
        width = table["EIP"].str.len().max()
        table["EIP"] = table["EIP"].str.ljust(width)
        print(table.rename(columns={"EIP": "EIP".ljust(width)}).to_string(index=False))
    if best:
        print(sentence(best))


def read_isolated(file: str | None) -> dict[str, float] | None:
    """Energies of free atoms (eV) by element, of a JSON file; None without one."""
    if file is None:
        return None
    path = resolve(file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {str(element): float(value) for element, value in content.items()}
    except (ValueError, AttributeError, TypeError):
        raise ZeroError(f'{file}: must be a JSON mapping from element to energy in eV, as in {{"Si": -0.85}}') from None


def _failures(store: LabelStore) -> Iterator[str]:
    """What is said of a finished store, line by line."""
    done, with_stress = (int(known.sum()) for known in (store.status == DONE, np.isfinite(store.stress[..., 0])))
    yield f"{store.folder}: {done} of {store.status.size} labels, {with_stress} with stress"
    reasons = Ledger(store.folder, store.ids, store.eips).reasons
    if reasons:
        yield f"{len(reasons)} labels failed; failures.csv there lists them:"
    counts = Counter((store.eips[column], reason) for (_, column), reason in reasons.items())
    yield from (f"  {count} x {eip}: {reason}" for (eip, reason), count in counts.most_common(REASONS))
    if len(counts) > REASONS:
        yield f"  and {len(counts) - REASONS} other reasons"
