"""ASE calculators for the tests of the labelling engine, named by class path in EIP sets."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import voigt_6_to_full_3x3_stress

PRESSURE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
"""eV/A^3, see `Pressed`."""


class Springs(Calculator):
    """Springs between all atoms, without periodic images: cheap, smooth and exact to repeat."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012 (ASE's own form)

    def __init__(self, stiffness: float = 1.0, seconds: float = 0.0) -> None:
        super().__init__()
        self.stiffness = stiffness
        self.seconds = seconds

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, changes)
        if self.seconds:
            time.sleep(self.seconds)
        delta = atoms.positions[:, None] - atoms.positions[None, :]  # (n_atoms, n_atoms, 3)
        self.results["energy"] = 0.25 * self.stiffness * float((delta**2).sum())
        self.results["forces"] = -self.stiffness * delta.sum(axis=1)


class FromFile(Springs):
    """Springs whose stiffness stands in a file."""

    def __init__(self, file: str, more: Any = None) -> None:
        super().__init__(float(Path(file).read_text()))
        self.more = more


class Trouble(Springs):
    """Springs that go wrong on every structure of `n_atoms` atoms."""

    def __init__(self, how: str, n_atoms: int) -> None:
        super().__init__()
        self.how = how
        self.n_atoms = n_atoms

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, changes)
        if len(atoms) != self.n_atoms:
            return
        match self.how:
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(60)
            case "raise":
                raise RuntimeError(f"cannot do {object.__repr__(self)}")
            case "nan":
                self.results["energy"] = np.nan
            case "infinite force":
                self.results["forces"][0, 0] = np.inf
            case "short":
                self.results["forces"] = self.results["forces"][:-1]


class Pressed(Springs):
    """Springs that say they have a stress, and give `PRESSURE` an atom, or less."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 (ASE's own form)

    def __init__(self, how: str = "voigt") -> None:
        super().__init__()
        self.how = how

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, changes)
        if "stress" not in properties:
            return
        if self.how == "raises":
            raise RuntimeError("no virial")
        if self.how == "not implemented":
            raise PropertyNotImplementedError
        if self.how != "absent":
            full = len(atoms) * voigt_6_to_full_3x3_stress(PRESSURE)
            others = {"full": full, "None": None, "NaN": np.full(6, np.nan), "short": PRESSURE[:3]}
            self.results["stress"] = others.get(self.how, len(atoms) * np.array(PRESSURE))


class Memory(Springs):
    """A calculator whose results depend on what it did before, unless it is reset."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def reset(self) -> None:
        super().reset()
        self.calls = 0

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = all_changes) -> None:
        super().calculate(atoms, properties, changes)
        self.calls += 1
        self.results["energy"] += self.calls


class Broken(Springs):
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no parameter file")


class BrokenHard(Springs):
    """Crashes as it is made."""

    def __init__(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class NoCalculator:
    """Not derived from ASE's Calculator."""
