"""The stages of a run, several at once if asked for, each when those that it builds on are done."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from time import monotonic
from typing import Any

from joblib import cpu_count

from eipnn.processes import GRACE, called
from eipnn.progress import progress_bar
from eipnn.run.execute import console, run_stage
from eipnn.run.plan import Stage, in_order, reads


def threads_of(jobs: int, threads: int | None) -> int | None:
    """CPU threads of each of so many trainings at once: what is asked for, or a fair share of the cores."""
    return threads or (max(1, cpu_count() // jobs) if jobs > 1 else None)


def bring(stages: Sequence[Stage], jobs: int, threads: int | None) -> Iterator[tuple[Stage, dict[str, Any]]]:
    """Run these stages and those that they build on; each with its result (see `run_stage`), as it ends.

    Of those that could begin, the first in order does. The first that fails ends the others; the same call resumes
    them. Of several at once, what their processes print goes to `Stage.log`, and a bar counts the stages.

    Args:
        stages: of a run.
        jobs: how many run at once.
        threads: CPU threads of each, see `threads_of`.
    """
    order = {stage.folder: stage for stage in in_order(stages)}
    places = {folder: place for place, folder in enumerate(order)}
    sorter = TopologicalSorter({folder: [before.folder for before in reads(stage)] for folder, stage in order.items()})
    sorter.prepare()
    ready: list[Path] = []
    running: dict[Future[dict[str, Any]], Path] = {}
    finished: dict[Path, dict[str, Any]] = {}
    together = jobs > 1
    bar = progress_bar("stages", len(order), "stages", together, console=console)
    with ThreadPoolExecutor(jobs) as pool, bar as advance:
        try:
            while sorter.is_active():
                ready = sorted([*ready, *sorter.get_ready()], key=places.__getitem__)
                while ready and len(running) < jobs:
                    stage = order[ready.pop(0)]
                    running[pool.submit(run_stage, stage, threads, finished, together)] = stage.folder
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    folder = running.pop(future)
                    finished[folder] = future.result()
                    sorter.done(folder)
                    advance(1)
                    yield order[folder], finished[folder]
        except BaseException:
            _end(running)
            raise


def _end(running: dict[Future[dict[str, Any]], Path]) -> None:
    """Have stages end that run, with their processes."""
    begun = monotonic()
    while wait(running, timeout=0.2).not_done:  # one may be between two processes: again
        for process in list(called):
            process.kill() if monotonic() > begun + GRACE else process.terminate()
