"""The progress bar of a labelling run."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from eipnn.progress import RateColumn


class LabelProgress:
    """A bar with rate, remaining time and failures; silent without a console."""

    def __init__(self, console: Console | None) -> None:
        self._progress = Progress(
            TextColumn("labels"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn("labels"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[failed]} failed"),
            console=console,
            disable=console is None,
        )

    @contextmanager
    def of(self, total: int, done: int) -> Iterator[None]:
        """Show the bar while the body runs; `done` labels were there before."""
        with self._progress:
            self._task = self._progress.add_task("labels", total=total, completed=done, failed=0)
            yield

    def update(self, done: int, failed: int) -> None:
        """Move the bar to `done` labels, of which `failed` have failed."""
        self._progress.update(self._task, completed=done, failed=failed)
