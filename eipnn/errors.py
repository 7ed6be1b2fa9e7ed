"""The errors that a user can mend, and the one way in which commands end."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(ValueError):
    """A file, setting or checkpoint cannot be used; the message names it and the mend.

    Commands print the message alone; every other exception is a defect and keeps its traceback.
    """

    code = 1
    """Of the command that it ends."""


class UsageError(InputError):
    """A command line or a configuration cannot be read."""

    code = 2


def require_positive(name: str, value: float, unit: str = "") -> None:
    """Raise `InputError` where a setting is not positive, infinite or NaN."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be positive, not {value} {unit}".rstrip())


class Terminated(BaseException):
    """SIGTERM came: batch systems send it before they kill. No `Exception`: nobody but `exit_code` catches it."""


GOES_ON = dict.fromkeys(("fetch", "generate", "label", "run", "train"), "; the same command goes on from here") | {
    "fit": "; with --ckpt_path .../checkpoints/last.ckpt it goes on from its last epoch"
}
"""What is to be done after a command was stopped; the others begin anew."""


def sigterm_said(command: str) -> str:
    """What is told of a command that SIGTERM ended."""
    return f"ended by SIGTERM{GOES_ON.get(command, '')}"


def exit_code(command: str, work: Callable[[], None], name: str = "") -> int:
    """Do the work of a command, told of as `name` (default: eipnn COMMAND): 0, or what its end is told with.

    1 or 2 after an `InputError` or `OSError`, 130 when stopped from the keyboard, 143 when stopped by SIGTERM. Other
    exceptions are defects and go through.
    """
    try:
        with sigterm_raises():
            work()
    except KeyboardInterrupt:
        said, code = f"stopped{GOES_ON.get(command, '')}", 130
    except Terminated:
        said, code = sigterm_said(command), 143
    except (InputError, OSError) as error:
        said, code = str(error), getattr(error, "code", 1)
    else:
        return 0
    print(f"{name or f'eipnn {command}'}: {said}", file=sys.stderr)
    return code


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """While the body runs, SIGTERM raises `Terminated` in the main thread."""
    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> NoReturn:
    # what is being put away is not cut off by a second one
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated
