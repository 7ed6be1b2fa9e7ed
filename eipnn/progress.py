"""Progress bars with a rate and an end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class RateColumn(ProgressColumn):
    """What is done in a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        speed = task.finished_speed or task.speed
        if speed is None:
            return Text("")
        return Text(f"{speed:,.0f} {self.unit}/s" if speed >= 10 else f"{speed:.2g} {self.unit}/s")


@contextmanager
def progress_bar(
    description: str, total: int, unit: str, shown: bool = True, done: int = 0
) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error while the body runs.

    Args:
        description: of what is being done.
        total: number of units.
        unit: what is counted.
        shown: whether there is a bar at all.
        done: units that were there before.

    Yields:
        what moves the bar by so many units, with a note behind it if one is given.
    """
    counted = (BarColumn(), MofNCompleteColumn(), RateColumn(unit), TimeRemainingColumn())
    columns = (TextColumn(description), *counted, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(description, total=total, completed=done, note="")

        def move(more: int, note: str = "") -> None:
            progress.update(task, advance=more, note=note)

        yield move
