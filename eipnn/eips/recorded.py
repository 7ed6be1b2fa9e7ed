"""The EIP under a potential of delta learning, as its checkpoint records it.

A record is the EIP's `description` and, under ``frames``, its energies (eV) of some training structures: by these a
calculator is known for the same potential, whatever its class, version or parameter files.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eipnn.eips.eip import EIP
from eipnn.eips.in_cell import InCell
from eipnn.errors import InputError
from eipnn.structures import StructureStore

SAME = 1e-4
"""Difference in eV/atom up to which two calculators are one potential: unit constants differ by less."""
ATOMS = ("numbers", "positions", "cell", "pbc")


def record(
    description: dict[str, Any], frames: Sequence[Atoms], energies: Sequence[float] | np.ndarray
) -> dict[str, Any]:
    """The record of an EIP, plain values; energies in eV, as the EIP gives them."""
    known = [
        {key: np.asarray(getattr(atoms, key)).tolist() for key in ATOMS} | {"energy": float(energy)}
        for atoms, energy in zip(frames, energies, strict=True)
    ]
    return description | {"frames": known}


def name_of(recorded: dict[str, Any] | str) -> str:
    """The EIP's name. Checkpoints of before this record hold it alone."""
    return recorded if isinstance(recorded, str) else recorded["name"]


def same(a: dict[str, Any] | str | None, b: dict[str, Any] | str | None) -> bool:
    """Whether two records are of one EIP, as far as both tell."""
    if isinstance(a, dict) and isinstance(b, dict):
        return all(a.get(key) == b.get(key) for key in (a.keys() | b.keys()) - {"frames"})
    return a is b or (bool(a) and bool(b) and name_of(a) == name_of(b))  # type: ignore[arg-type]


def restore(recorded: dict[str, Any] | str, given: Calculator | None = None) -> InCell:
    """The calculator of a recorded EIP: a new one, or the one that is given.

    Raises:
        InputError: none can be made here, or it is another potential than the recorded one.
    """
    if given is not None and not isinstance(given, InCell):
        given = InCell(given)
    if isinstance(recorded, str):
        if given is None:
            raise InputError(
                f"gives DFT less {recorded} and holds no more than this name: give that EIP's ASE calculator as eip"
            )
        return given
    name, frames = f"{recorded['name']} ({recorded['target']})", recorded["frames"]
    try:
        calculator = given or _made(recorded)
        structures = [Atoms(**{key: frame[key] for key in ATOMS}) for frame in frames]
        energies = [calculator.get_potential_energy(atoms) for atoms in structures]
    except Exception as error:  # each potential has its own kinds
        reason = " ".join(f"{error or type(error).__name__}".split())
        raise InputError(f"the EIP {name} cannot be used here ({reason}); give its ASE calculator as eip") from error
    for frame, energy in zip(frames, energies, strict=True):
        atoms, expected = len(frame["numbers"]), frame["energy"]
        if abs(energy - expected) > SAME * atoms:
            what = type(given.calculator).__name__ if given else "what is made here"
            raise InputError(
                f"{what} is not the EIP {name} of the training: {energy:.4f} eV for a training structure of {atoms} "
                f"atoms, which had {expected:.4f} eV; give that EIP as eip"
            )
    if given and (other := _other_settings(recorded, given.calculator)):
        raise InputError(f"eip has {other}, which the EIP {name} of the training has not; give none, or the same")
    return calculator


def _made(recorded: dict[str, Any]) -> InCell:
    return EIP(*(recorded[key] for key in ("name", "source", "target", "arguments"))).calculator()


def _other_settings(recorded: dict[str, Any], given: Calculator) -> str:
    """Parameters in which a calculator of the recorded class differs; a few energies may not show them."""
    try:
        made = _made(recorded).calculator
    except Exception:  # there is nothing to compare with
        return ""
    if type(made) is not type(given):
        return ""
    mine, theirs = ({key: repr(value) for key, value in c.parameters.items()} for c in (given, made))
    keys = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
    return ", ".join(f"{key}={mine.get(key)}" for key in keys)


def typical(structures: Sequence[Atoms]) -> list[int]:
    """Places of a few structures for a record: the first, middle and last one, and one of each element."""
    store, last = StructureStore.of(structures), len(structures) - 1
    firsts = np.unique(store.numbers, return_index=True)[1]  # the first atom of each element
    rows = np.searchsorted(store.offsets, firsts, "right") - 1
    return sorted({0, last // 2, last, *rows.tolist()})
