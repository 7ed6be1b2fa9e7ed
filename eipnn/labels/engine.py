"""The labelling engine: hands structures to worker processes of its own, and watches them.

A worker that crashes, hangs or meets an error costs the one label it was working on: the label goes to the ledger with
the reason, and a new worker goes on with the rest. A killed run is resumed by the same call; the finished store is the
same, byte for byte.
"""

import logging
import shutil
import signal
from collections import Counter, deque
from collections.abc import Callable, Sequence
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
    IDS,
    IN_WORK,
    INDEX,
    LEDGER,
    PENDING,
    SUMS,
    Arrays,
    LabelError,
    LabelStore,
    create,
    describe,
    open_array,
    read_index,
    seal,
    unseal,
    write_zeros,
)
from eipnn.progress import progress_bar
from eipnn.structures import StructureStore
from eipnn.version import __version__

log = logging.getLogger("eipnn")

LOCK, SCRATCH = ".lock", ".scratch"
POLL = 0.2  # s between two looks at the workers
CHUNKS_PER_WORKER = 20  # so that at the end no worker waits long for another
LARGEST_CHUNK = 256  # structures
DEATHS = 2  # a worker killed from outside, or outside any label, may die once without blame
# A worker that dies of these was killed by something else: the out-of-memory killer, a person.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}


def label_structures(
    structures: Sequence[Atoms],
    eips: Sequence[EIP],
    folder: str | Path,
    workers: int = 1,
    timeout: float = 60.0,
    retry_failed: bool = False,
    shown: bool = False,
) -> LabelStore:
    """Label every structure under every EIP into the store in `folder`, resuming what is there.

    `timeout` is in seconds a label; `retry_failed` gives failed labels another try; `shown`: with a progress bar. Where
    another run is at work in `folder`, its end is waited for. Raises `LabelError` where `folder` holds another store, a
    damaged one or something else, `DiskFullError` where there is not enough room, and `EIPError` where an EIP's
    calculator cannot be made or covers none of the elements.
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
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / LOCK, folder, "eipnn label"):
        remove_parts(folder)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        _create_or_check(folder, structures, eips)
        write_zeros(folder, eips)
        engine = _Engine(structures, tuple(eips), folder, timeout)
        engine.prepare(retry_failed)
        engine.run(workers, shown)
        engine.finish()
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
        for row in rows:
            place = places[int(arrays.checksums[row])]
            done = (known.status[place] == DONE) & (arrays.status[row] == PENDING)
            arrays.energies[row, done], arrays.stress[row, done] = (
                known.energies[place, done],
                known.stress[place, done],
            )
            arrays.all_forces[arrays.atoms(row), done] = known.all_forces[known.atoms(place)][:, done]
            arrays.status[row, done] = DONE
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
    if found["version"] != index["version"]:
        raise LabelError(
            f"{folder}: has labels of an older version, without stress; remove it to label again, or name it as "
            "data.labels in an experiment to read it as it is"
        )
    if found != index:
        there = ", ".join(f"{e['name']} ({e['target']})" for e in found["eips"])
        what = f"EIPs: {there}; give another folder, or the same EIPs, arguments and files"
        if found["eips"] == index["eips"]:
            counts = f"{found['n_frames']} frames, here {index['n_frames']}"
            what = f"structures ({counts}); give another folder, or the same files in the same order"
        raise LabelError(f"{folder}: holds labels of other {what}")
    unseal(folder)


class _Engine:
    """One run over one store."""

    def __init__(self, structures: StructureStore, eips: tuple[EIP, ...], folder: Path, timeout: float) -> None:
        self.structures, self.eips, self.folder, self.timeout = structures, eips, folder, timeout
        self.arrays = Arrays(folder, "r+")
        self.status = self.arrays.status
        self.ledger = Ledger(folder, structures.ids, [eip.name for eip in eips])
        self.handles: list[Handle] = []
        self.deaths: Counter[object] = Counter()
        self.queue: deque[list[int]] = deque()  # rows with pending labels

    def prepare(self, retry_failed: bool) -> None:
        """Set back what a killed run left behind, and the failed labels where they get another try."""
        self.status[self.status == IN_WORK] = PENDING
        # After a power cut the status may have reached the disk before the label.
        self.status[(self.status == DONE) & np.isinf(self.arrays.stress).any(axis=2)] = PENDING
        torn = np.isnan(self.arrays.energies)
        some = self.structures.sizes > 0
        torn[some] |= np.logical_or.reduceat(
            np.isnan(self.arrays.all_forces).any(axis=2), self.arrays.offsets[:-1][some]
        )
        self.status[(self.status == DONE) & torn] = PENDING
        failed = self._failed()
        again = failed if retry_failed else failed - set(self.ledger.reasons)
        for label in again:
            self.status[label] = PENDING
        self.ledger.keep(failed - again)

    def run(self, workers: int, shown: bool) -> None:
        """Label all that is pending."""
        self.done = int((self.status != PENDING).sum())
        if self.done == self.status.size:
            return
        with progress_bar("labels", self.status.size, "labels", shown, self.done) as move:
            for python in dict.fromkeys(eip.python for eip in self.eips):
                mine = {column: eip for column, eip in enumerate(self.eips) if eip.python == python}
                self._run_in(python, mine, workers, move)

    def _run_in(self, python: str | None, eips: dict[int, EIP], workers: int, move: Callable[[int, str], None]) -> None:
        """Label all that is pending of the EIPs of one environment."""
        self.python, self.mine = python, eips
        rows = self._pending(np.arange(len(self.status)))
        workers = min(workers, len(rows))
        if workers == 0:
            return
        size = min(max(len(rows) // (workers * CHUNKS_PER_WORKER), 1), LARGEST_CHUNK)
        self.queue.extend(rows[i : i + size] for i in range(0, len(rows), size))
        try:
            self.handles = [self._start(number) for number in range(workers)]
            while any(handle.busy for handle in self.handles):
                wait([handle.pipe for handle in self.handles if handle.busy], POLL)
                for number, handle in enumerate(self.handles):
                    self.handles[number] = self._attend(handle) if handle.busy else handle
                finished = int(self.arrays.finished().sum())
                move(finished - self.done, f"{len(self.ledger.reasons)} failed")
                self.done = finished
        finally:
            for handle in self.handles:
                handle.stop()
            shutil.rmtree(self.folder / SCRATCH, ignore_errors=True)

    def finish(self) -> None:
        """Put ledger and arrays in their final state on disk."""
        self.ledger.keep(self._failed())
        self.arrays.flush()
        seal(self.folder)

    def _pending(self, rows: np.ndarray) -> list[int]:
        """Those of the rows that have pending labels of the environment at work."""
        return rows[(self.status[rows][:, list(self.mine)] == PENDING).any(axis=1)].tolist()

    def _failed(self) -> set[tuple[int, int]]:
        return {(row, column) for row, column in np.argwhere(self.status == FAILED).tolist()}

    def _start(self, number: int) -> Handle:
        return Handle(number, self.folder, self.folder / SCRATCH / f"worker-{number}", self.mine, self.python)

    def _attend(self, handle: Handle) -> Handle:
        """Look after one worker; the worker itself, or the one that replaces it."""
        died = not handle.alive()
        self._receive(handle)
        if died:
            return self._replace(handle, handle.stop(), None)
        if not handle.overdue(self._in_work(handle), self.timeout):
            return handle
        overdue = handle.current
        code = handle.stop()
        self._receive(handle)
        return self._replace(handle, code, overdue)

    def _receive(self, handle: Handle) -> None:
        for message in handle.messages():
            match message:
                case ("another", version):
                    mend = "install the same in its environment"
                    raise EIPError(f"{self.python}: has eipnn {version}, and this is {__version__}; {mend}")
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
        handle.give(rows, self.structures.take(np.array(rows, dtype=np.int64)))

    def _check_elements(self, elements: dict[int, frozenset[str] | None]) -> None:
        present = set(self.structures.elements())
        for column, covered in elements.items():
            eip = self.eips[column]
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
        elif current is not None and not (self._excused(current) and code in FROM_OUTSIDE):
            self._fail(*current, f"worker {_how(code)}")
        rest = self._pending(np.array(handle.rows, dtype=np.int64))
        if current is None and overdue is None:
            if code in FROM_OUTSIDE and not rest and sum(h.busy for h in self.handles) > 1:
                log.warning("a worker %s as it started; going on with fewer", _how(code))
                handle.busy = False
                return handle
            if not self._excused((handle.creating, *rest)):
                raise EIPError(f"a worker {_how(code)} {_circumstances(handle, code)}")
        if rest:
            self.queue.appendleft(rest)
        return self._start(handle.number)

    def _excused(self, what: object) -> bool:
        """Whether a death may be put down to something else, as the first one."""
        self.deaths[what] += 1
        return self.deaths[what] < DEATHS

    def _fail(self, row: int, column: int, reason: str) -> None:
        self.arrays.energies[row, column] = np.nan
        self.arrays.all_forces[self.arrays.atoms(row), column] = np.nan
        self.arrays.stress[row, column] = np.nan
        self.ledger.add(row, column, reason)
        self.status[row, column] = FAILED


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _circumstances(handle: Handle, code: int) -> str:
    """When a worker died outside of any label, and the mend."""
    place = "between two labels, twice at the same place" if handle.rows else "as it started"
    mend = f"its last words: {' '.join(handle.output.read_text(errors='replace').split())[-300:]}"
    if handle.creating:
        place = f"as it made the calculator of the EIP {handle.creating}"
        mend = "mend this EIP or leave it out of the set"
    if code in FROM_OUTSIDE:
        mend = "if memory ran out, take fewer --workers; the same command goes on from here"
    return f"{place}; {mend}"
