"""Progress bars with a rate and an end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class RateColumn(ProgressColumn):
    """What is done in a second, once that is known."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        shown = "" if speed is None else f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
        return Text(shown and f"{shown} {task.fields['unit']}/s")


@contextmanager
def progress_bar(
    description: str, total: int, unit: str, shown: bool = True, done: int = 0, console: Console | None = None
) -> Iterator[Callable[..., None]]:
    """Show a bar while the body runs, if it is to be `shown`: on standard error, or on a console that lines are printed
    on meanwhile.

    Of a `total` of what is counted (`unit`), so many are `done` before. Yields what moves the bar by so many more, with
    a note behind it if one is given.
    """
    counted = (BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    columns = (TextColumn(description), *counted, TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=console or Console(stderr=True), disable=not shown) as progress:
        task = progress.add_task(description, total=total, completed=done, note="", unit=unit)

        def move(more: int, note: str = "") -> None:
            progress.update(task, advance=more, note=note)

        yield move
