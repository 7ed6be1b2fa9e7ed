"""The engine's side of one worker process."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path

from eipnn.eips import EIP
from eipnn.labels.worker import Frame


class Handle:
    """A worker process, the rows it was handed and the label it is at.

    The worker is a bare interpreter, not a fork or a `multiprocessing` child: the caller needs no
    `if __name__ == "__main__"`, no thread of the caller is copied, and the C output of potentials
    goes to a file in the scratch folder rather than into the progress bar.
    """

    def __init__(self, number: int, folder: Path, scratch: Path, eips: tuple[EIP, ...]) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.number = number
        self.rows: list[int] = []
        self.busy = True
        self.creating: str | None = None
        self.current: tuple[int, int] | None = None
        self._since = time.monotonic()
        self._starting = True
        self.pipe, other = Pipe()
        code = (
            f"import sys; sys.path[:] = {[str(Path(p).absolute()) for p in sys.path]!r}; "
            "from eipnn.labels.worker import main; "
            f"main({other.fileno()}, {os.getpid()}, {str(folder)!r})"
        )
        # One core a worker: the workers themselves are the parallelism.
        environment = {"OMP_NUM_THREADS": "1", **os.environ}
        with (scratch / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                cwd=scratch,
                env=environment,
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

    def exit_code(self) -> int:
        """The exit code of an ended process, minus the signal where one ended it."""
        return self._process.wait()

    def messages(self) -> Iterator[tuple]:
        """What the worker has sent so far."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except (EOFError, OSError):
            return

    def ready(self) -> None:
        """Note that the calculators are made."""
        self._starting = False
        self.creating = None

    def give(self, rows: list[int], frames: Sequence[Frame]) -> None:
        """Hand out frames; without any the worker is done for good."""
        self.rows = rows
        self.busy = bool(rows)
        self.current = None
        self._since = time.monotonic()
        if rows:
            self._send(frames)

    def overdue(self, current: tuple[int, int] | None, limit: float, start_limit: float) -> bool:
        """Whether the worker has been at one label (or at its start) for longer than the limit, in s."""
        now = time.monotonic()
        if current != self.current:
            self.current, self._since = current, now
        if self._starting:
            return now - self._since > start_limit
        return current is not None and now - self._since > limit

    def stop(self) -> None:
        """End the process; messages that it sent before stay readable."""
        if self.alive():
            self._process.kill()
        self._process.wait()

    def _send(self, content: object) -> None:
        # Where the worker has died, its exit code will be found at the next look.
        with suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(content)
