"""The labelling engine: hands frames to worker processes of its own, and watches them.

A worker that crashes, hangs or meets an error costs the one label it was working on: the label goes to
the ledger with the reason, and a new worker goes on with the rest. A killed run is resumed by the same
call; the finished store is the same, byte for byte.
"""

import logging
import shutil
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np
from ase import Atoms

from eipnn.eips import EIP, EIPError
from eipnn.files import alone, remove_parts
from eipnn.labels.handle import Handle
from eipnn.labels.ledger import Ledger
from eipnn.labels.store import (
    DONE,
    FAILED,
    IN_WORK,
    INDEX,
    PENDING,
    SUMS,
    LabelError,
    LabelStore,
    create,
    describe,
    open_array,
    read_index,
    seal,
    unseal,
)
from eipnn.labels.worker import Frame
from eipnn.progress import progress_bar
from eipnn.structures import StructureStore

log = logging.getLogger("eipnn")

LOCK, SCRATCH = ".lock", ".scratch"
POLL = 0.2  # s between two looks at the workers
START_LIMIT = 120.0  # s for imports and calculators, which may be slow on a cold disk
CHUNKS_PER_WORKER = 20  # so that at the end no worker waits long for another
LARGEST_CHUNK = 256  # frames
DEATHS = 2  # a worker killed from outside, or outside any label, may die once without blame
# A worker that dies of these was killed by something else: the out-of-memory killer, a person.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}


def label_structures(
    structures: Sequence[Atoms],
    eips: Sequence[EIP],
    folder: str | Path,
    *,
    workers: int = 1,
    timeout: float = 60.0,
    retry_failed: bool = False,
    shown: bool = False,
) -> LabelStore:
    """Label every structure under every EIP into the store in `folder`, resuming what is there.

    `timeout` is in seconds a label; `retry_failed` gives failed labels another try; `shown`: with a
    progress bar. Where another run is at work in `folder`, its end is waited for. Raises
    `LabelError` where `folder` holds another store, a damaged one or something else, `DiskFullError`
    where there is not enough room, and `EIPError` where an EIP's calculator cannot be made or covers
    none of the elements.
    """
    folder = Path(folder).absolute()
    if workers < 1 or timeout <= 0:
        raise LabelError(f"workers ({workers}) and timeout ({timeout:g} s) must be positive")
    structures = StructureStore.of(structures)
    _check_ids(structures)
    _check_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / LOCK, folder, "eipnn label"):
        remove_parts(folder)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        _create_or_check(folder, structures, eips)
        engine = _Engine(structures, tuple(eips), folder, timeout)
        engine.prepare(retry_failed)
        engine.run(workers, shown)
        engine.finish()
    return LabelStore.open(folder)


def _check_ids(structures: StructureStore) -> None:
    if not structures:
        raise LabelError("no structures to label; give a file with at least one")
    repeated = [name for name, count in Counter(structures.ids).items() if count > 1]
    if repeated:
        raise LabelError(
            f"the config_id {repeated[0]!r} is in two of the structure files; give every structure its own"
        )


def _check_folder(folder: Path) -> None:
    ours = {LOCK, SCRATCH, SUMS, "ids.txt", "failures.csv"}
    if not folder.exists() or (folder / INDEX).exists():
        return
    if not folder.is_dir():
        raise LabelError(f"{folder}: is a file; give a folder")
    # A run that was killed while it made the store leaves arrays without an index.
    others = [p.name for p in folder.iterdir() if p.name not in ours and p.suffix not in (".npy", ".part")]
    if others:
        raise LabelError(f"{folder}: holds other files ({sorted(others)[0]}) and no label store; give an empty folder")


def _create_or_check(folder: Path, structures: StructureStore, eips: Sequence[EIP]) -> None:
    index = describe(structures, eips)
    if not (folder / INDEX).exists():
        create(folder, structures, index)
        return
    found = read_index(folder)
    if found != index and not open_array(folder, "status", found, "r").any():
        # Not one label was begun, as where the EIPs cover none of the elements.
        (folder / INDEX).unlink()
        create(folder, structures, index)
        return
    if found["eips"] != index["eips"]:
        there = ", ".join(f"{e['name']} ({e['target']})" for e in found["eips"])
        raise LabelError(
            f"{folder}: holds labels of other EIPs: {there}; give another folder, or the same EIPs, arguments and files"
        )
    if found != index:
        raise LabelError(
            f"{folder}: holds labels of other structures ({found['n_frames']} frames, here "
            f"{index['n_frames']}); give another folder, or the same files in the same order"
        )
    unseal(folder)


class _Engine:
    """One run over one store."""

    def __init__(self, structures: StructureStore, eips: tuple[EIP, ...], folder: Path, timeout: float) -> None:
        index = read_index(folder)
        self.structures = structures
        self.eips = eips
        self.folder = folder
        self.timeout = timeout
        self.offsets = open_array(folder, "offsets", index, "r")
        self.energies = open_array(folder, "energies", index, "r+")
        self.forces = open_array(folder, "forces", index, "r+")
        self.status = open_array(folder, "status", index, "r+")
        self.ledger = Ledger(folder, structures.ids, [eip.name for eip in eips])
        self.handles: list[Handle] = []
        self.deaths: Counter[object] = Counter()
        self.queue: deque[list[int]] = deque()  # rows with pending labels
        self.checked_elements = False

    def prepare(self, retry_failed: bool) -> None:
        """Set back what a killed run left behind, and the failed labels where they get another try."""
        self.status[self.status == IN_WORK] = PENDING
        # After a power cut the status may have reached the disk before the label.
        self.status[(self.status == DONE) & np.isnan(self.energies)] = PENDING
        for row in np.unique(np.searchsorted(self.offsets, _nan_atoms(self.forces), "right") - 1):
            atom_rows = slice(self.offsets[row], self.offsets[row + 1])
            torn = np.isnan(self.forces[atom_rows]).any(axis=(0, 2)) & (self.status[row] == DONE)
            self.status[row, torn] = PENDING
        failed = _entries(self.status == FAILED)
        again = failed if retry_failed else failed - set(self.ledger.reasons)
        for row, column in again:
            self.status[row, column] = PENDING
        self.ledger.keep(failed - again)

    def run(self, workers: int, shown: bool) -> None:
        """Label all that is pending."""
        pending = np.flatnonzero((self.status == PENDING).any(axis=1))
        workers = min(workers, len(pending))
        if workers == 0:
            return
        size = int(np.clip(len(pending) // (workers * CHUNKS_PER_WORKER), 1, LARGEST_CHUNK))
        rows = pending.tolist()
        self.queue.extend(rows[i : i + size] for i in range(0, len(rows), size))
        try:
            for number in range(workers):
                self.handles.append(self._start(number))
            done = int((self.status != PENDING).sum())
            with progress_bar("labels", self.status.size, "labels", shown, done) as move:
                while any(handle.busy for handle in self.handles):
                    wait([handle.pipe for handle in self.handles if handle.busy], POLL)
                    for number, handle in enumerate(self.handles):
                        self.handles[number] = self._attend(handle)
                    finished = self._finished()
                    move(finished - done, f"{len(self.ledger.reasons)} failed")
                    done = finished
        finally:
            for handle in self.handles:
                handle.stop()
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def finish(self) -> None:
        """Put ledger and arrays in their final state on disk."""
        self.ledger.keep(_entries(self.status == FAILED))
        for array in (self.energies, self.forces, self.status):
            if array.base is not None:
                array.base.flush()  # type: ignore[attr-defined]
        seal(self.folder)

    def _finished(self) -> int:
        return int(((self.status == DONE) | (self.status == FAILED)).sum())

    def _start(self, number: int) -> Handle:
        return Handle(number, self.folder, self.folder / SCRATCH / f"worker-{number}", self.eips)

    def _attend(self, handle: Handle) -> Handle:
        """Look after one worker; the worker itself, or the one that replaces it."""
        if not handle.busy:
            return handle
        died = not handle.alive()
        for message in handle.messages():
            self._receive(handle, message)
        if died:
            return self._replace(handle, handle.exit_code(), None)
        if handle.overdue(self._in_work(handle), self.timeout, max(self.timeout, START_LIMIT)):
            overdue = handle.current
            handle.stop()
            for message in handle.messages():
                self._receive(handle, message)
            return self._replace(handle, -signal.SIGKILL, overdue)
        return handle

    def _receive(self, handle: Handle, message: tuple) -> None:
        match message:
            case ("creating", name):
                handle.creating = name
            case ("broken", name, reason):
                raise EIPError(f"EIP {name}: its calculator cannot be made ({reason})")
            case ("ready", elements):
                self._check_elements(elements)
                handle.ready()
                self._hand_out(handle)
            case ("failed", row, column, reason):
                self._fail(row, column, reason)
            case ("done",):
                self._hand_out(handle)

    def _hand_out(self, handle: Handle) -> None:
        rows = self.queue.popleft() if self.queue else []
        handle.give(rows, [self._frame(row) for row in rows])

    def _frame(self, row: int) -> Frame:
        atoms = self.structures[row]
        return Frame(row, atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc)

    def _check_elements(self, elements: list[frozenset[str] | None]) -> None:
        if self.checked_elements:
            return
        self.checked_elements = True
        present = set(self.structures.elements())
        for eip, covered in zip(self.eips, elements, strict=True):
            if covered is not None and not covered & present:
                raise EIPError(
                    f"EIP {eip.name} ({eip.target}) covers {', '.join(sorted(covered))}, and the "
                    f"structures hold {', '.join(sorted(present))}; name another EIP set"
                )

    def _in_work(self, handle: Handle) -> tuple[int, int] | None:
        """The label that a worker is at, None between two labels."""
        found = np.argwhere(self.status[handle.rows] == IN_WORK)
        return (handle.rows[found[0, 0]], int(found[0, 1])) if len(found) else None

    def _replace(self, handle: Handle, code: int, overdue: tuple[int, int] | None) -> Handle:
        """Blame the label that the dead worker was at, and start another one on the rest.

        `overdue` is the label for which the engine itself killed the worker.
        """
        current = self._in_work(handle)
        if current is not None:
            self.status[current] = PENDING
        if overdue is not None:
            # The worker may have finished the overdue label in its last moment: then it counts.
            if current == overdue:
                self._fail(*overdue, f"timed out after {self.timeout:g} s")
        elif current is not None and not self._excused(current, code in FROM_OUTSIDE):
            self._fail(*current, f"worker {_how(code)}")
        handle.stop()
        rest = [row for row in handle.rows if (self.status[row] == PENDING).any()]
        if current is None and overdue is None:
            if code in FROM_OUTSIDE and not rest and sum(h.busy for h in self.handles) > 1:
                log.warning("a worker %s as it started; going on with fewer", _how(code))
                handle.busy = False
                return handle
            if not self._excused((handle.creating, *rest), True):
                raise EIPError(self._death(handle, code))
        if rest:
            self.queue.appendleft(rest)
        return self._start(handle.number)

    def _death(self, handle: Handle, code: int) -> str:
        """What is said of a worker that died outside of any label, and the mend."""
        if code in FROM_OUTSIDE:
            mend = "if memory ran out, take fewer --workers; the same command goes on from here"
        elif handle.creating:
            mend = "mend this EIP or leave it out of the set"
        else:
            output = self.folder / SCRATCH / f"worker-{handle.number}" / "output.log"
            mend = f"its last words: {' '.join(output.read_text(errors='replace').split())[-300:]}"
        place = (
            f"as it made the calculator of the EIP {handle.creating}"
            if handle.creating
            else "between two labels, twice at the same place"
            if handle.rows
            else "as it started"
        )
        return f"a worker {_how(code)} {place}; {mend}"

    def _excused(self, what: object, outside: bool) -> bool:
        """Whether a death may be put down to something else: once, and where it came from outside."""
        self.deaths[what] += 1
        return outside and self.deaths[what] < DEATHS

    def _fail(self, row: int, column: int, reason: str) -> None:
        self.energies[row, column] = np.nan
        self.forces[self.offsets[row] : self.offsets[row + 1], column] = np.nan
        self.ledger.add(row, column, reason)
        self.status[row, column] = FAILED


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _entries(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in np.argwhere(mask)}


def _nan_atoms(forces: np.ndarray) -> np.ndarray:
    """Atoms (rows of `forces`) with a NaN, looked for in pieces that fit into memory."""
    size = 1 << 16

    def pieces() -> Iterator[np.ndarray]:
        for start in range(0, len(forces), size):
            part = forces[start : start + size]
            yield start + np.flatnonzero(np.isnan(part).any(axis=(1, 2)))

    return np.concatenate(list(pieces()))
