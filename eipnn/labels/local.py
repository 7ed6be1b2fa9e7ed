"""Worker processes of this machine, and who watches them over one store.

A worker that crashes, hangs or meets an error costs the one label it was working on: the label goes to the ledger with
the reason, and a new worker goes on with the rest.
"""

import logging
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path

import numpy as np

from eipnn.eips import EIP, EIPError
from eipnn.labels.handle import Handle
from eipnn.labels.layout import IN_WORK, PENDING
from eipnn.labels.work import Work
from eipnn.progress import progress_bar
from eipnn.version import __version__

log = logging.getLogger("eipnn")

POLL = 0.2  # s between two looks at the workers
TELL = 1.0  # s between two looks at all labels, of which there may be millions
LARGEST_BLOCK = 256  # structures
DEATHS = 2  # a worker killed from outside, or outside any label, may die once without blame
# A worker that dies of these was killed by something else: the out-of-memory killer, a person.
FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGHUP}


class Crew:
    """Worker processes with the calculators of the same EIPs. Who is idle stays for the next store, until `close`.

    Args:
        eips: of all stores.
        elements: that occur in all structures together.
        timeout: seconds a label.
        scratch: folder for theirs.
    """

    def __init__(self, eips: tuple[EIP, ...], elements: list[str], timeout: float, scratch: Path) -> None:
        self.eips, self.elements, self.timeout, self._scratch = eips, elements, timeout, scratch
        self._idle: dict[str | None, list[Handle]] = {eip.python: [] for eip in eips}
        self._numbers = count()

    def environments(self) -> dict[str | None, dict[int, EIP]]:
        """The EIPs by column, of each interpreter that they name."""
        numbered = list(enumerate(self.eips))
        return {python: {column: eip for column, eip in numbered if eip.python == python} for python in self._idle}

    def hire(self, python: str | None) -> Handle:
        """A worker of an environment that is idle, or a new one."""
        with suppress(IndexError):  # none is left; another thread may hire too
            while not (handle := self._idle[python].pop()).alive():
                pass
            return handle
        number = next(self._numbers)
        return Handle(number, self._scratch / f"worker-{number}", self.environments()[python], python)

    def dismiss(self, handle: Handle, python: str | None) -> None:
        """Keep a worker that is done with all that it was handed; end another."""
        if handle.idle:
            self._idle[python].append(handle)
        else:
            handle.stop()

    def check(self, elements: dict[int, frozenset[str] | None]) -> None:
        """Raise `EIPError` where an EIP, by column, covers (None: it does not tell) not one element that occurs."""
        for column, covered in elements.items():
            eip = self.eips[column]
            if covered is not None and not covered & set(self.elements):
                raise EIPError(
                    f"EIP {eip.name} ({eip.target}) covers {', '.join(sorted(covered))}, and the "
                    f"structures hold {', '.join(self.elements)}; name another EIP set"
                )

    def close(self) -> None:
        """End the idle workers."""
        for idle in self._idle.values():
            while idle:
                idle.pop().stop()
        shutil.rmtree(self._scratch, ignore_errors=True)


class Engine:
    """One run of a crew over one store."""

    def __init__(self, work: Work, crew: Crew) -> None:
        self.work, self.crew = work, crew
        self.status = work.status
        self.handles: list[Handle] = []
        self.deaths: Counter[object] = Counter()
        self.queue: deque[list[int]] = deque()  # rows with pending labels

    def run(self, workers: int, shown: bool) -> None:
        """Label all that is pending by at most so many workers."""
        self.done = int((self.status != PENDING).sum())
        if self.done == self.status.size:
            return
        with progress_bar("labels", self.status.size, "labels", shown, self.done) as move:
            for python, mine in self.crew.environments().items():
                self._run_in(python, list(mine), workers, move)

    def _run_in(self, python: str | None, columns: list[int], workers: int, move: Callable[[int, str], None]) -> None:
        """Label all that is pending of the EIPs of one environment."""
        self.python, self.columns = python, columns
        workers = min(workers, len(self.work.rows(columns)))
        if workers == 0:
            return
        self.queue = self.work.blocks(workers, LARGEST_BLOCK, columns)
        self.handles, told = [], time.monotonic()
        try:
            for _ in range(workers):
                self.handles.append(self._start())
            while any(handle.busy for handle in self.handles):
                wait([handle.pipe for handle in self.handles if handle.busy], POLL)
                for number, handle in enumerate(self.handles):
                    self.handles[number] = self._attend(handle) if handle.busy else handle
                if time.monotonic() > told + TELL:
                    self._tell(move)
                    told = time.monotonic()
            self._tell(move)
        finally:
            for handle in self.handles:
                self.crew.dismiss(handle, python)

    def _tell(self, move: Callable[[int, str], None]) -> None:
        """Move the progress bar."""
        finished = int(self.work.arrays.finished().sum())
        move(finished - self.done, f"{len(self.work.ledger.reasons)} failed")
        self.done = finished

    def _start(self) -> Handle:
        handle = self.crew.hire(self.python)
        if not handle.starting:
            self._hand_out(handle)
        return handle

    def _attend(self, handle: Handle) -> Handle:
        """Look after one worker; the worker itself, or the one that replaces it."""
        died = not handle.alive()
        self._receive(handle)
        if died:
            return self._replace(handle, handle.stop(), None)
        if not handle.overdue(self._in_work(handle), self.crew.timeout):
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
                    self.crew.check(elements)
                    handle.ready()
                    self._hand_out(handle)
                case ("failed", row, column, reason):
                    self.work.fail(row, column, reason)
                case ("done",):
                    self._hand_out(handle)

    def _hand_out(self, handle: Handle) -> None:
        rows = self.queue.popleft() if self.queue else []
        handle.give(self.work.folder, rows, self.work.structures.take(np.array(rows, dtype=np.int64)))

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
                self.work.fail(*overdue, f"timed out after {self.crew.timeout:g} s")
        elif current is not None and not (self._excused(current) and code in FROM_OUTSIDE):
            self.work.fail(*current, f"worker {_how(code)}")
        rest = [row for row in handle.rows if (self.status[row, self.columns] == PENDING).any()]
        if current is None and overdue is None:
            if code in FROM_OUTSIDE and not rest and sum(h.busy for h in self.handles) > 1:
                log.warning("a worker %s as it started; going on with fewer", _how(code))
                handle.busy = False
                return handle
            if not self._excused((handle.creating, *rest)):
                raise EIPError(f"a worker {_how(code)} {_circumstances(handle, code)}")
        if rest:
            self.queue.appendleft(rest)
        return self._start()

    def _excused(self, what: object) -> bool:
        """Whether a death may be put down to something else, as the first one."""
        self.deaths[what] += 1
        return self.deaths[what] < DEATHS


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
