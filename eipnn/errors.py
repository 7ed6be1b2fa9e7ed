"""The one kind of error that a user can mend."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A file, setting or checkpoint cannot be used; the message names it and the mend.

    Commands print the message alone; every other exception is a defect and keeps its traceback.
    """


def exit_code(command: str, work: Callable[[], None]) -> int:
    """Do the work of a command that can go on after a kill: 0, 1 after an error that is told, 130 when stopped."""
    try:
        work()
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        print(f"eipnn {command}: {error}", file=sys.stderr)
        return 1
    return 0
