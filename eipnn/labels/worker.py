"""A worker process: labels the structures it is handed, writing straight into the arrays of their store.

It talks to the engine over one pipe:

    ("another", version)           the environment has another eipnn than the engine's; the worker ends
    ("creating", name)             an EIP's calculator is being made
    ("broken", name, reason)       and cannot be made; the worker ends
    ("ready", elements)            column -> a frozenset or None
    ("failed", row, column, why)   one label has failed
    ("done",)                      the structures handed out are finished

Energy, forces and stress are written before the status byte, so that a label whose byte says `DONE` is whole, whatever
kills the worker.
"""

import re
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from eipnn.eips import EIP, InCell
from eipnn.eips.in_cell import wrapped
from eipnn.labels.layout import DONE, IN_WORK, PENDING, Arrays
from eipnn.processes import die_with
from eipnn.version import __version__

REASON_LENGTH = 300


class Worker:
    """A calculator for each EIP of one environment, by column, and the arrays of the store that is worked on."""

    arrays: Arrays

    def __init__(self, pipe: Connection, eips: Mapping[int, EIP]) -> None:
        self.pipe, self.eips = pipe, eips
        self.calculators: dict[int, InCell] = {}

    def start(self) -> bool:
        """Make the calculators; whether all could be made."""
        elements = {}
        for column, eip in self.eips.items():
            self.pipe.send(("creating", eip.name))
            try:
                self.calculators[column] = eip.calculator()
                elements[column] = eip.elements()
            except Exception as error:
                self.pipe.send(("broken", eip.name, reason_of(error)))
                return False
        self.pipe.send(("ready", elements))
        return True

    def label(self, row: int, atoms: Atoms) -> None:
        """The pending labels of one structure."""
        status = self.arrays.status[row]  # (n_eips,)
        part = self.arrays.atoms(row)
        inside: Atoms | None = None
        for column in self.eips:
            if status[column] != PENDING:
                continue
            status[column] = IN_WORK
            try:
                inside = wrapped(atoms) if inside is None else inside
                results = self._evaluate(column, inside)
            except Exception as error:
                # Back to pending first: the engine marks the failure once it is in the ledger.
                status[column] = PENDING
                self.pipe.send(("failed", row, column, reason_of(error)))
                self._renew(column)
                continue
            self.arrays.energies[row, column] = results["energy"]
            self.arrays.all_forces[part, column] = results["forces"]
            self.arrays.stress[row, column] = results.get("stress", np.nan)
            status[column] = DONE

    def _evaluate(self, column: int, inside: Atoms) -> dict[str, Any]:
        """The results of one EIP, without stress where it cannot be had."""
        try:
            self.calculators[column].evaluate(inside, ["stress"])
        except Exception:  # each potential has its own kinds
            if not inside.pbc.all():
                raise
            self._renew(column)
            self.calculators[column].evaluate(inside)
        return self.calculators[column].results

    def _renew(self, column: int) -> None:
        """What a failed calculation leaves inside a calculator is unknown."""
        self.calculators[column] = self.eips[column].calculator()


def reason_of(error: Exception) -> str:
    """One line that is the same in every run: addresses and the scratch folder are cut out."""
    text = " ".join(f"{type(error).__name__}: {error}".split()).replace(str(Path.cwd()), "SCRATCH")
    return re.sub(r"0x[0-9a-f]+", "0x...", text)[:REASON_LENGTH]


def main(descriptor: int, parent: int, version: str) -> None:
    """Serve the engine at the other end of the pipe, of this version, until it closes. Runs in a scratch folder.

    Where the system does not end this process with the engine's, it finds the pipe closed at the next message.
    """
    die_with(parent)
    # Ctrl-C reaches the whole group; the engine decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(descriptor)
    try:
        if version != __version__:
            pipe.send(("another", __version__))
            return
        worker = Worker(pipe, pipe.recv())
        if not worker.start():
            return
        while True:
            folder, *block = pipe.recv()
            worker.arrays = Arrays(folder, "r+")
            for row, atoms in zip(*block, strict=True):
                worker.label(row, atoms)
            pipe.send(("done",))
    except (EOFError, BrokenPipeError):
        return
