"""The engine's side of one worker process."""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from eipnn.eips import EIP
from eipnn.processes import interpreter
from eipnn.structures import StructureStore
from eipnn.version import __version__

START_LIMIT = 300.0  # s for imports (torch) and calculators, which may be slow on a cold disk or a busy machine


class Handle:
    """A worker process for EIPs by their columns, the rows it was handed and the label it is at.

    It is a bare interpreter, not a fork or a `multiprocessing` child: the caller needs no `if __name__ == "__main__"`,
    no thread of it is copied, and what potentials print in C goes to a file rather than into the progress bar.
    """

    def __init__(self, number: int, scratch: Path, eips: Mapping[int, EIP], python: str | None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.number = number
        self.output = scratch / "output.log"
        self.rows: list[int] = []
        self.busy = self.starting = True
        self.creating: str | None = None
        self.current: tuple[int, int] | None = None
        self._since = time.monotonic()
        self.pipe, other = Pipe()
        main = f"main({other.fileno()}, {os.getpid()}, {__version__!r})"
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                interpreter(f"from eipnn.labels.worker import main; {main}", python),
                cwd=scratch,
                # One core a worker: the workers themselves are the parallelism.
                env={"OMP_NUM_THREADS": "1", **os.environ},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        other.close()
        self._send(eips)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    @property
    def idle(self) -> bool:
        """Whether it is ready for more."""
        return not self.busy and not self.starting and self.alive()

    def messages(self) -> Iterator[tuple]:
        """What the worker has sent so far."""
        with suppress(EOFError, OSError):
            while self.pipe.poll():
                yield self.pipe.recv()

    def ready(self) -> None:
        """Note that the calculators are made."""
        self.starting, self.creating = False, None

    def give(self, folder: Path, rows: list[int], structures: StructureStore) -> None:
        """Hand out the structures of these rows of the label store in `folder`; without any the worker is idle."""
        self.rows, self.busy = rows, bool(rows)
        self.current, self._since = None, time.monotonic()
        if rows:
            self._send((folder, rows, structures))

    def overdue(self, current: tuple[int, int] | None, limit: float) -> bool:
        """Whether the worker has been at one label, or at its start, for longer than it may (s)."""
        now = time.monotonic()
        if current != self.current:
            self.current, self._since = current, now
        if self.starting:
            return now - self._since > max(limit, START_LIMIT)
        return current is not None and now - self._since > limit

    def stop(self) -> int:
        """End the process; messages that it sent before stay readable.

        Returns:
            the exit code, minus the signal where one ended it.
        """
        if self.alive():
            self._process.kill()
        return self._process.wait()

    def _send(self, content: object) -> None:
        # Where the worker has died, its exit code will be found at the next look.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(content)
