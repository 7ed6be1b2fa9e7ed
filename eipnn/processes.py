"""Processes that end with the one that started them, however that one ends."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
PARENT = "EIPNN_PARENT"
"""Environment variable of a process that `call` started: the id of its parent."""


def call(arguments: Sequence[str], threads: int | None = None) -> int:
    """Run ``eipnn ARGUMENTS`` to its end and return its status; `threads` are those of torch."""
    environment = os.environ | {PARENT: str(os.getpid())}
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    return subprocess.run([sys.executable, "-m", "eipnn", *arguments], env=environment).returncode


def die_with(parent: int) -> None:
    """Have Linux kill this process when its parent ends; elsewhere it goes on to its own end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def die_with_caller() -> None:
    """`die_with` the process that started this one by `call`, if one did."""
    # taken out of the environment: processes that this one starts have another parent
    if parent := os.environ.pop(PARENT, None):
        die_with(int(parent))
