"""A published set -> the files that the rest of eipnn takes, as those of the bundled `si_mini`.

======================  ==================================================================================
`dft.extxyz`            configurations with DFT: `energy` (eV), `forces` (eV/A) where published, `config_id`
`pool.extxyz`           configurations without, where there are some
`labels/`               a label store of the EIP energies that the set comes with, where it does; without forces
`splits/*.csv`          the paper's splits
`dataset.json`          what was converted, with checksums; written last
======================  ==================================================================================
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import write

from eipnn.eips import EIP, NONE
from eipnn.eips.eip import NAME
from eipnn.files import write_json
from eipnn.labels.layout import DONE, FAILED, create, describe, open_array, seal
from eipnn.labels.ledger import Ledger
from eipnn.progress import progress_bar
from eipnn.structures import read_structures, write_split
from eipnn.structures.check import geometry_problem
from sets.base import LayoutError, PublishedFrame, PublishedSet

MARKER = "dataset.json"
OUTPUTS = ("dft.extxyz", "pool.extxyz", "labels", "splits")
NO_LABEL, NO_NUMBER = "not in the published file", "NaN or infinite in the published file"


def convert(
    published: PublishedSet, folders: Sequence[Path], out: Path, sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Write the files above to `out`; the content of `dataset.json`, to which `sources` belong.

    Raises `LayoutError` for what is not as published; then `out` is not whole.
    """
    out.mkdir(parents=True)
    ids, eips = _write_structures(published, folders, out)
    if eips:
        _write_labels(published, out, ids, eips)
    splits = published.splits(folders, ids["dft"], ids["pool"])
    for name, split in splits.items():
        write_split(split, out / "splits" / f"{name}.csv")
    about = {
        "name": published.name,
        "title": published.title,
        "page": published.page,
        "sources": sources,
        "configurations": {kind: len(names) for kind, names in ids.items()},
        "eips": _names(eips),
        "splits": sorted(splits),
    }
    write_json(out / MARKER, about)
    return about


def _write_structures(
    published: PublishedSet, folders: Sequence[Path], out: Path
) -> tuple[dict[str, list[str]], dict[str, Mapping[str, float]]]:
    """Ids by kind (dft, pool), and EIP energies (eV) by id; one configuration is in memory at a time."""
    total, frames = published.frames(folders)
    ids: dict[str, list[str]] = {"dft": [], "pool": []}
    eips: dict[str, Mapping[str, float]] = {}
    seen: dict[str, str] = {}
    with (
        (out / "dft.extxyz").open("w", encoding="utf-8") as dft,
        (out / "pool.extxyz").open("w", encoding="utf-8") as pool,
        progress_bar(f"converting {published.name}", total, "configurations") as advance,
    ):
        for frame in frames:
            name = _check(frame, seen)
            kind, stream = ("pool", pool) if frame.atoms.calc is None else ("dft", dft)
            ids[kind].append(name)
            write(stream, frame.atoms, format="extxyz")
            if frame.eips:
                eips[name] = frame.eips
            advance(1)
    if not ids["dft"]:
        raise LayoutError(f"{folders[0]}: not one configuration has a DFT energy")
    if not ids["pool"]:
        (out / "pool.extxyz").unlink()
    return ids, eips


def _check(frame: PublishedFrame, seen: dict[str, str]) -> str:
    """The id of a configuration that is as it should be; `seen` are those before it, with their places."""
    atoms = frame.atoms
    name = str(atoms.info["config_id"])
    if any(c in name for c in "\r\n,"):
        raise LayoutError(f"{frame.where}: its id {name!r} holds a comma or a line break")
    if name in seen:
        raise LayoutError(f"{frame.where}: has the id {name!r}, as {seen[name]} has")
    seen[name] = frame.where
    if problem := geometry_problem(atoms):
        raise LayoutError(f"{frame.where}: {problem}")
    for label, value in (atoms.calc.results if atoms.calc is not None else {}).items():
        if not np.isfinite(value).all():
            raise LayoutError(f"{frame.where}: the DFT {label} is NaN or infinite")
    for eip in frame.eips:
        if not NAME.fullmatch(eip) or eip == NONE:
            raise LayoutError(f"{frame.where}: {eip!r} cannot be the name of an EIP")
    return name


def _write_labels(
    published: PublishedSet,
    out: Path,
    ids: Mapping[str, Sequence[str]],
    eips: Mapping[str, Mapping[str, float]],
) -> None:
    """A label store of the published energies.

    Its structures are those that a reader of the written files sees, to the last digit: a store knows them by checksum.
    """
    files = [out / f"{kind}.extxyz" for kind, names in ids.items() if names]
    structures = read_structures(files, labels=False)
    order = [atoms.info["config_id"] for atoms in structures]
    # ASE writes a backslash as it is, which is an escape in extended XYZ.
    for written, name in zip((i for kind in ids.values() for i in kind), order, strict=True):
        if written != name:
            raise LayoutError(f"{out}: the id {written!r} is read back as {name!r}; rename it")
    names = _names(eips)
    index = describe(structures, [EIP(name, "published", f"{published.page} {name}") for name in names])
    folder = out / "labels"
    create(folder, structures, index)
    energies = np.array([[eips.get(i, {}).get(name, np.nan) for name in names] for i in order])
    known = np.isfinite(energies)  # (n_frames, n_eips)
    ledger = Ledger(folder, order, names)
    for row, column in np.argwhere(~known):
        given = names[column] in eips.get(order[row], {})
        ledger.reasons[int(row), int(column)] = NO_NUMBER if given else NO_LABEL
    ledger.keep(set(ledger.reasons))
    _fill(folder, "energies", index, np.where(known, energies, np.nan))
    _fill(folder, "stress", index, np.nan)
    _fill(folder, "status", index, np.where(known, DONE, FAILED))
    seal(folder)


def _fill(folder: Path, name: str, index: dict[str, Any], values: np.ndarray | float) -> None:
    array = open_array(folder, name, index, "r+")
    array[:] = values


def _names(eips: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The EIPs of all configurations, sorted."""
    return sorted({name for given in eips.values() for name in given})
