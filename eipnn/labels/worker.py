"""A worker process: labels the frames it is handed, writing straight into the store's arrays.

It talks to the engine over one pipe:

    ("creating", name)             an EIP's calculator is being made
    ("broken", name, reason)       and cannot be made; the worker ends
    ("ready", elements)            a frozenset or None for each EIP
    ("failed", row, column, why)   one label has failed
    ("done",)                      the frames handed out are finished

Energy and forces are written before the status byte, so that a label whose byte says `DONE` is whole,
whatever kills the worker.
"""

import re
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from eipnn.eips import EIP
from eipnn.labels.store import DONE, IN_WORK, PENDING, open_array, read_index
from eipnn.processes import die_with

REASON_LENGTH = 300


class Frame(NamedTuple):
    """One structure on its way to a worker."""

    row: int
    numbers: np.ndarray  # (n_atoms,)
    positions: np.ndarray  # (n_atoms, 3) A
    cell: np.ndarray  # (3, 3) A
    pbc: np.ndarray  # (3,) bool


def wrapped(frame: Frame) -> Atoms:
    """The structure wrapped into its cell along the periodic axes.

    KIM gives silently wrong energies for atoms outside the cell, and needs a full cell where an axis
    is periodic: open axes without a vector get a unit vector, which changes no energy.
    """
    atoms = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    if frame.pbc.any():
        atoms.cell = atoms.cell.complete()
        atoms.wrap()
    return atoms


def compute(calculator: Calculator, atoms: Atoms) -> tuple[float, np.ndarray]:
    """Energy (eV) and forces ((n_atoms, 3), eV/A), independent of what was computed before.

    Raises ValueError where they are not finite, and whatever the calculator raises.
    """
    calculator.reset()
    calculator.calculate(atoms, ["energy", "forces"], all_changes)
    energy, forces = calculator.results["energy"], calculator.results["forces"]
    if not np.isfinite(energy):
        raise ValueError("the energy is NaN or infinite")
    if np.shape(forces) != (len(atoms), 3):
        raise ValueError(f"forces for {len(forces)} of {len(atoms)} atoms")
    if not np.isfinite(forces).all():
        raise ValueError("a force is NaN or infinite")
    return float(energy), forces


class Worker:
    """The arrays of one store and a calculator for each of its EIPs."""

    def __init__(self, pipe: Connection, folder: Path, eips: tuple[EIP, ...]) -> None:
        index = read_index(folder)
        self.pipe = pipe
        self.eips = eips
        self.offsets = open_array(folder, "offsets", index, "r")
        self.energies = open_array(folder, "energies", index, "r+")
        self.forces = open_array(folder, "forces", index, "r+")
        self.status = open_array(folder, "status", index, "r+")
        self.calculators: list[Calculator] = []

    def start(self) -> bool:
        """Make the calculators; whether all could be made."""
        elements = []
        for eip in self.eips:
            self.pipe.send(("creating", eip.name))
            try:
                self.calculators.append(eip.calculator())
                elements.append(eip.elements())
            except Exception as error:
                self.pipe.send(("broken", eip.name, reason_of(error)))
                return False
        self.pipe.send(("ready", elements))
        return True

    def label(self, frame: Frame) -> None:
        """The pending labels of one frame."""
        atoms = wrapped(frame)
        status = self.status[frame.row]  # (n_eips,)
        atom_rows = slice(self.offsets[frame.row], self.offsets[frame.row + 1])
        for column, calculator in enumerate(self.calculators):
            if status[column] != PENDING:
                continue
            status[column] = IN_WORK
            try:
                energy, forces = compute(calculator, atoms)
            except Exception as error:
                # Back to pending first: the engine marks the failure once it is in the ledger.
                status[column] = PENDING
                self.pipe.send(("failed", frame.row, column, reason_of(error)))
                # What a failed calculation leaves inside a calculator is unknown.
                self.calculators[column] = self.eips[column].calculator()
                continue
            self.energies[frame.row, column] = energy
            self.forces[atom_rows, column] = forces
            status[column] = DONE


def reason_of(error: Exception) -> str:
    """One line that is the same in every run: addresses and the scratch folder are cut out."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    text = text.replace(str(Path.cwd()), "SCRATCH")
    return re.sub(r"0x[0-9a-f]+", "0x...", text)[:REASON_LENGTH]


def main(descriptor: int, parent: int, folder: str) -> None:
    """Serve the engine at the other end of the pipe until it closes. Runs in a scratch folder.

    Where the system does not end this process with the engine's, it finds the pipe closed at the next message.
    """
    die_with(parent)
    # Ctrl-C reaches the whole group; the engine decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(descriptor)
    try:
        worker = Worker(pipe, Path(folder), pipe.recv())
        if not worker.start():
            return
        while True:
            for frame in pipe.recv():
                worker.label(frame)
            pipe.send(("done",))
    except (EOFError, BrokenPipeError):
        return
