"""Processes that train together end together, whatever ends one of them."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console

from eipnn.errors import InputError, sigterm_said
from eipnn.processes import PARENT

INTERVAL = 0.1  # s between looks at the other processes
PRIORITY = 2.0  # s in which the first process may tell an error of all


def check_started(trainer: Trainer) -> None:
    """Raise `InputError` where torchrun or srun started another number of processes than are to train together.

    Each of several that do not know of the others would train alone, into the same files.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
    elif not isinstance(environment, SLURMEnvironment):
        return
    devices, nodes, started = trainer.num_devices, trainer.num_nodes, environment.world_size()
    if devices * nodes != started:
        raise InputError(
            f"trainer.devices x trainer.num_nodes is {devices} x {nodes}, and torchrun or srun started {started} "
            "processes: set both to what it was given, and trainer.strategy to ddp"
        )


def handler_of_nothing(number: int, frame: object) -> None:
    """Leave a signal to `_watch`; without a handler it would not get there."""


@contextmanager
def ending_together(command: str, trainer: Trainer) -> Iterator[None]:
    """While the body runs, SIGTERM to a process of the training, or the end of one, ends all of them.

    The first process, which started the others, exits with 143 after SIGTERM, else with the code of the process that
    ended first; the others are killed. It is done by a thread: the main one may wait in a collective operation for a
    process that is no more. Nothing is saved: a training goes on from its last epoch. In a training of a single
    process there is nothing to do.
    """
    several = trainer.num_devices * trainer.num_nodes > 1
    if not several or isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        yield
        return
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    os.environ[PARENT] = str(os.getpid())  # for those that Lightning starts
    read, write = os.pipe()
    os.set_blocking(write, False)
    handler = signal.signal(signal.SIGTERM, handler_of_nothing)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    over = threading.Event()
    # Lightning's handler would broadcast in the midst of another collective operation, which hangs or aborts
    connector: Any = trainer._signal_connector
    connector._sigterm_notifier_fn = handler_of_nothing
    watch = threading.Thread(target=_watch, args=(command, rank, trainer, read, over), daemon=True)
    watch.start()
    try:
        yield
    except Exception as error:
        if rank:
            time.sleep(PRIORITY)
            _tell_and_end(command, error)
        if "closed by peer" in str(error) or "reset by peer" in str(error):
            time.sleep(5 * PRIORITY)  # until that process has told why, and this one ends with it
        raise
    finally:
        over.set()
        watch.join()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, handler)
        os.close(read)
        os.close(write)
        os.environ.pop(PARENT, None)


def _watch(command: str, rank: int, trainer: Any, signals: int, over: threading.Event) -> None:
    """Look for SIGTERM among the `signals` of a pipe, and for processes that ended, until it is `over`."""
    while not over.is_set():
        ready, _, _ = select.select([signals], [], [], INTERVAL)
        others: list[subprocess.Popen] = getattr(trainer.strategy.launcher, "procs", [])
        if ready and signal.SIGTERM in os.read(signals, 64):
            time.sleep(5 * INTERVAL if rank else 0)  # where all got one, the first tells it
            _end(command, 128 + signal.SIGTERM, others, sigterm_said(command))
        for number, process in enumerate(others, start=1):
            if code := process.poll():
                said = f"process {number} was killed by {signal.Signals(-code).name}" if code < 0 else ""
                if code == -signal.SIGTERM:  # before it could tell
                    said = sigterm_said(command)
                _end(command, code if code > 0 else 128 - code, others, said)


def _tell_and_end(command: str, error: Exception) -> NoReturn:
    """As `eipnn.errors.exit_code`, at once: Python's own way out takes seconds, in which the others wait."""
    if isinstance(error, InputError):
        _end(command, error.code, [], str(error))
    _end(command, 1, [], "".join(traceback.format_exception(error)))


def _end(command: str, code: int, others: list[subprocess.Popen], said: str) -> NoReturn:
    """End at once with `code`, and the other processes; what is `said` is told, if anything."""
    Console(stderr=True).show_cursor()  # a progress bar hides it
    if said:
        print(f"eipnn {command}: {said}", file=sys.stderr, flush=True)
    for process in others:
        process.kill()
    os._exit(code)


def _in_a_fork() -> None:
    """A loader's worker writes no signal into the pipe of its parent."""
    signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_in_a_fork)
