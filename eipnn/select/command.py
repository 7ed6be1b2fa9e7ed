"""The command `eipnn select`."""

from pathlib import Path
from typing import Literal

import numpy as np

from eipnn.command_line import Count, Seed
from eipnn.errors import InputError
from eipnn.files import check_not_read
from eipnn.structures import StructureStore, open_structures, without_isolated_atoms
from eipnn.structures.extxyz import write_extxyz
from eipnn.structures.paths import resolve_all
from eipnn.structures.suspects import repeated_structures, same_structures

By = Literal["spread", "distance", "eips", "random"]
UNITS = {"spread": " eV/A", "eips": " eV/A"}


def select(
    pool: list[str],
    *,
    number: Count,
    by: By = "spread",
    potential: list[Path] | None = None,
    dft: list[str] | None = None,
    labels: Path | None = None,
    output: Path = Path("selected.extxyz"),
    seed: Seed = 0,
) -> None:
    """Structures of a pool that are most worth a DFT calculation, as extended XYZ.

    Each has its id in the pool as `pool_id` and, where the choice is by a score, that as `score`. How the chosen
    compare with as many random ones is printed. A structure that stands in the pool several times is taken once.

    Args:
        pool: files of structures; patterns; bundled:NAME.
        number: how many are taken.
        by: spread: the largest spread of the force on an atom over a committee; distance: far from --dft, and from one
            another, in the space of the potential's representation; eips: where the EIPs of --labels disagree most in
            forces; random.
        potential: a committee, or checkpoints of one (spread), or any potential (distance).
        dft: files of the frames that have DFT already: those of the pool are left out.
        labels: label store of the pool (eips).
        output: the file.
        seed: of the random choice.
    """
    if output.suffix not in (".xyz", ".extxyz"):
        raise InputError(f"--output {output}: must end in .extxyz or .xyz")
    check_not_read(output, resolve_all([*pool, *(dft or [])]))
    frames = without_isolated_atoms(open_structures(pool, labels=False))
    known = without_isolated_atoms(open_structures(dft, labels=False)) if dft else StructureStore.of([])
    there = {name for _, name in same_structures(known, frames)}
    frames = frames.take(np.array([row for row, name in enumerate(frames.ids) if name not in there], dtype=int))
    where = ", ".join(pool)
    again = {row for _, row in repeated_structures(frames)}
    frames = frames.take(np.array([row for row in range(len(frames)) if row not in again], dtype=int))
    if again:
        print(f"{len(again)} structures of {where} are others there again, atom by atom: left out")
    if there:
        print(f"{len(there)} structures of {where} have DFT already: left out")
    if len(frames) < number:
        raise InputError(f"{where}: {len(frames)} structures to choose from, fewer than --number {number}")
    rng = np.random.default_rng(seed)
    rows, scores, others = rng.permutation(len(frames))[:number], None, None
    if by == "distance":
        rows, scores = _farthest(potential, known, frames, number)
    elif by != "random":
        everyone = _spreads(potential, frames) if by == "spread" else _disagreements(labels, frames)
        others = everyone[rows]
        rows = np.argsort(-np.nan_to_num(everyone, nan=-np.inf), kind="stable")[:number]
        scores = everyone[rows]
    _write(output, frames, rows, by, scores)
    print(f"{output}: {number} of {len(frames)} structures, by {by}")
    if scores is not None:
        unit = UNITS.get(by, "")
        print(f"score: {np.nanmin(scores):.3g} to {np.nanmax(scores):.3g}{unit}")
        if others is not None:
            print(
                f"of as many random ones: mean {np.nanmean(others):.3g}{unit}, of these {np.nanmean(scores):.3g}{unit}"
            )


def _spreads(potential: list[Path] | None, frames: StructureStore) -> np.ndarray:
    from eipnn.potential.committee import Committee  # here: it imports torch
    from eipnn.select.scores import force_spreads

    committee = Committee.load(potential or [])
    if len(committee) < 2:
        raise InputError(f"{committee.names[0]}: one potential has no spread: give a committee, or --by distance")
    return force_spreads(committee, frames)


def _disagreements(labels: Path | None, frames: StructureStore) -> np.ndarray:
    from eipnn.labels import LabelStore
    from eipnn.select.scores import disagreements

    if labels is None:
        raise InputError("--by eips needs --labels: a label store of the pool (`eipnn label`)")
    store = LabelStore.open(labels)
    if len(store.eips) < 2:
        raise InputError(
            f"{labels}: holds labels of {store.eips[0]} alone, and one EIP cannot disagree; label with more"
        )
    store.check(frames)
    return disagreements(store, frames)


def _farthest(
    potential: list[Path] | None, known: StructureStore, frames: StructureStore, number: int
) -> tuple[np.ndarray, np.ndarray]:
    from eipnn.potential.committee import Committee
    from eipnn.select.scores import farthest, features

    if not known:
        raise InputError("--by distance needs --dft: the frames that have DFT already, from which distances are taken")
    first = Committee.load(potential or []).potentials[0]
    return farthest(features(first, known), features(first, frames), number)


def _write(file: Path, frames: StructureStore, rows: np.ndarray, by: By, scores: np.ndarray | None) -> None:
    """The structures without labels, in order of choice."""
    chosen = []
    for place, row in enumerate(rows.tolist()):
        atoms = frames[row]
        atoms.info = {"pool_id": frames.ids[row], "selected_by": by}  # as config_id it would clash with the pool's
        if scores is not None:
            atoms.info["score"] = float(scores[place])
        chosen.append(atoms)
    write_extxyz(file, chosen)
