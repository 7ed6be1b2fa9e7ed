"""The labelling engine: structures and EIPs to a finished store, by workers of this machine or of a Dask cluster.

A killed run is resumed by the same call; the finished store is the same, byte for byte, whoever labelled.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from ase import Atoms

from eipnn.eips import EIP
from eipnn.files import alone, remove_parts
from eipnn.labels.cluster import connected, label_on
from eipnn.labels.layout import (
    DONE,
    IDS,
    INDEX,
    LEDGER,
    PENDING,
    SUMS,
    Arrays,
    LabelError,
    create,
    describe,
    open_array,
    other_labels,
    read_index,
    unseal,
    write_zeros,
)
from eipnn.labels.local import Crew, Engine
from eipnn.labels.store import LabelStore
from eipnn.labels.work import Work, put
from eipnn.structures import StructureStore

LOCK, SCRATCH = ".lock", ".scratch"


def label_structures(
    structures: Sequence[Atoms],
    eips: Sequence[EIP],
    folder: str | Path,
    workers: int = 1,
    timeout: float = 60.0,
    retry_failed: bool = False,
    shown: bool = False,
    cluster: str | None = None,
) -> LabelStore:
    """Label every structure under every EIP into the store in `folder`, resuming what is there.

    `timeout` is in seconds a label; `retry_failed` gives failed labels another try; `shown`: with a progress bar;
    `cluster`: address of a Dask scheduler, whose workers label in place of so many of this machine. Where another run
    is at work in `folder`, its end is waited for. Raises `LabelError` where `folder` holds another store, a damaged one
    or something else and where no scheduler answers, `DiskFullError` where there is not enough room, and `EIPError`
    where an EIP's calculator cannot be made or covers none of the elements.
    """
    folder = Path(folder).absolute()
    if workers < 1 or timeout <= 0:
        raise LabelError(f"workers ({workers}) and timeout ({timeout:g} s) must be positive")
    structures = StructureStore.of(structures)
    if not structures:
        raise LabelError("no structures to label; give a file with at least one")
    if name := structures.ids.repeated():
        raise LabelError(f"the config_id {name!r} is in two of the structure files; give every structure its own")
    _check_folder(folder)
    with ExitStack() as stack:
        client = stack.enter_context(connected(cluster)) if cluster else None
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone(folder / LOCK, folder, "eipnn label"))
        remove_parts(folder)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        _create_or_check(folder, structures, eips)
        write_zeros(folder, eips)
        work = Work(structures, eips, folder)
        work.prepare(retry_failed)
        if cluster and client:
            label_on(client, cluster, work, eips, timeout, shown)
        else:
            crew = stack.enter_context(closing(Crew(tuple(eips), structures.elements(), timeout, folder / SCRATCH)))
            Engine(work, crew).run(workers, shown)
        work.finish()
    return LabelStore.open(folder)


def take_labels(source: Path, structures: StructureStore, eips: Sequence[EIP], folder: Path) -> int:
    """Begin the store of these structures in `folder` with what a finished one in `source` holds of them.

    `label_structures` goes on from there. Where `folder` holds this store already, what is pending is taken; another
    store stays as it is. Failed labels are not taken.

    Returns:
        of how many structures labels were taken.

    Raises:
        LabelError: no finished store in `source`, or one of other EIPs or without stress.
    """
    known, index = LabelStore.open(source), describe(structures, eips)
    there, now = ({entry["name"]: entry for entry in part["eips"]} for part in (known.index, index))
    if others := [name for name in there | now if there.get(name) != now.get(name)]:
        raise LabelError(
            f"{source}: has labels of other EIPs than now ({', '.join(others)}): put them back, or train anew"
        )
    if known.index["version"] != index["version"]:
        raise LabelError(f"{source}: has labels of an older version, without stress; remove it and label again")
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / LOCK, folder, "eipnn label"):
        if not (folder / INDEX).exists():
            create(folder, structures, index)
        if read_index(folder) != index:
            return 0
        arrays = Arrays(folder, "r+")
        places = {content: row for row, content in enumerate(known.checksums.tolist())}
        pending = zip(arrays.checksums.tolist(), (arrays.status == PENDING).any(axis=1).tolist(), strict=True)
        rows = [row for row, (content, some) in enumerate(pending) if some and content in places]
        for row in np.array(rows, dtype=np.int64)[:, None]:
            place = places[int(arrays.checksums[row[0]])]
            new = (known.status[[place]] == DONE) & (arrays.status[row] == PENDING)
            forces = known.all_forces[known.atoms(place)]
            put(arrays, row, new, known.energies[[place]], forces, known.stress[[place]])
        arrays.flush()
    return len(rows)


def _check_folder(folder: Path) -> None:
    if not folder.exists() or (folder / INDEX).exists():
        return
    if not folder.is_dir():
        raise LabelError(f"{folder}: is a file; give a folder")
    # A run that was killed while it made the store leaves arrays without an index.
    ours = {LOCK, SCRATCH, SUMS, IDS, LEDGER}
    others = [p.name for p in folder.iterdir() if p.name not in ours and p.suffix not in (".npy", ".part")]
    if others:
        raise LabelError(f"{folder}: holds other files ({min(others)}) and no label store; give an empty folder")


def _create_or_check(folder: Path, structures: StructureStore, eips: Sequence[EIP]) -> None:
    index = describe(structures, eips)
    found = read_index(folder) if (folder / INDEX).exists() else None
    # Or not one label was begun, as where the EIPs cover none of the elements.
    if found is None or (found != index and not open_array(folder, "status", found, "r").any()):
        (folder / INDEX).unlink(missing_ok=True)
        create(folder, structures, index)
        return
    if found != index:
        raise other_labels(folder, found, index)
    unseal(folder)
