"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PARENT = "EIPNN_PARENT"
"""Environment variable of a process that `call` started: the id of its parent."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""Environment variable of the processes that torchrun started."""
GRACE = 10.0  # s that a process gets for its last words


called: set[subprocess.Popen] = set()
"""Processes that `call` waits for, in any thread."""


def call(arguments: Sequence[str], threads: int | None = None, log: Path | None = None) -> int:
    """Run ``eipnn ARGUMENTS`` to its end and return its status; `threads` are those of torch.

    Neither it nor a process of its own looks for modules in the working directory first, as ``python -m`` would: a
    file of the user's may be called like a library. When this process is told to stop, so is that one.

    Args:
        arguments: of the command.
        threads: of torch; None: its own default.
        log: file to which what it prints is added; None: it is printed.
    """
    environment = os.environ | {PARENT: str(os.getpid()), "PYTHONSAFEPATH": "1"}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    command = [sys.executable, "-m", "eipnn", *arguments]
    with log.open("ab") if log else nullcontext() as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
    called.add(process)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
    finally:
        called.discard(process)


def interpreter(code: str, python: str | None = None) -> list[str]:
    """The command of a bare interpreter with the search path of this one, which runs `code`.

    Args:
        code: statements on one line.
        python: that of another environment, which has its own search path, with the working directory at its end.
    """
    if python:
        return [python, "-c", f"import sys; sys.path.append({str(Path.cwd())!r}); {code}"]
    places = [str(Path(place).absolute()) for place in sys.path]
    return [sys.executable, "-P", "-c", f"import sys; sys.path[:] = {places!r}; {code}"]


def parallel(workers: int, jobs: Iterable[Any]) -> Iterator[Any]:
    """The results of joblib's `delayed` jobs, in order; the workers end with the last one, or with this process."""
    # here: the commands that work alone start without joblib
    from joblib import Parallel
    from joblib.externals.loky import get_reusable_executor

    if workers == 1:
        yield from Parallel(n_jobs=1, return_as="generator")(jobs)
        return
    initial = {"initializer": die_with, "initargs": (os.getpid(),)}
    try:
        yield from Parallel(n_jobs=workers, return_as="generator", backend="loky", **initial)(jobs)
    finally:
        get_reusable_executor().shutdown()  # idle, they would keep their memory while a model trains


def die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends; elsewhere it goes on to its own end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_caller() -> None:
    """`die_with` the process that started this one, where that was `call`, Lightning or torchrun."""
    # taken out of the environment: processes that this one starts have another parent
    if parent := os.environ.pop(PARENT, None):
        die_with(int(parent))
    elif TORCHRUN in os.environ:
        die_with(os.getppid())
