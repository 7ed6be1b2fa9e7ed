"""A progress bar of bytes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


@contextmanager
def byte_bar(description: str, total: int | None, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, of which `done` bytes are there already; without a `total` there is no end to show."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn(description), *columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(description, total=total, completed=done)
        yield lambda more: progress.advance(task, more)
