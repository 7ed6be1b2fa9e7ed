"""What the scripts of the rivals share. It needs ASE and numpy alone: each rival has an environment of its own."""

import argparse
import json
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.calculators.singlepoint import SinglePointCalculator


def folder_and_epochs(description: str, epochs: int | None) -> tuple[Path, int | None]:
    """The folder of `frames.py` and the number of epochs, from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="written by frames.py")
    parser.add_argument("--epochs", type=int, default=epochs)
    given = parser.parse_args()
    return given.folder.resolve(), given.epochs


def read(folder: Path, part: str) -> list[Atoms]:
    """The frames of train, val or test."""
    return ase.io.read(folder / f"{part}.extxyz", ":")


def about(folder: Path) -> dict[str, Any]:
    """What `frames.py` wrote down."""
    return json.loads((folder / "about.json").read_text())


def fitted_zeros(frames: Sequence[Atoms], energies: Sequence[float]) -> dict[str, float]:
    """One energy an element (eV) that takes `energies` to those of the frames, by least squares."""
    elements = sorted({symbol for atoms in frames for symbol in set(atoms.symbols)})
    counts = np.array([[atoms.symbols.count(element) for element in elements] for atoms in frames])
    missing = np.array([atoms.get_potential_energy() for atoms in frames]) - energies
    return dict(zip(elements, np.linalg.lstsq(counts, missing, rcond=None)[0].tolist(), strict=True))


def shifted(frames: Sequence[Atoms], zeros: dict[str, float]) -> list[Atoms]:
    """Copies whose energies are without the zeros of their elements."""
    copies = []
    for atoms in frames:
        copy = atoms.copy()
        found = dict(atoms.calc.results)
        found["energy"] -= sum(zeros[symbol] for symbol in atoms.symbols)
        copy.calc = SinglePointCalculator(copy, **found)
        copies.append(copy)
    return copies


def measure(frames: Sequence[Atoms], calculator: Calculator, zeros: dict[str, float] | None = None) -> dict[str, float]:
    """Errors as eipnn has them: MAEs of configurations and atoms in meV, of force components in eV/A, of stress in GPa.

    Args:
        frames: with DFT results.
        calculator: of the rival.
        zeros: added to its energies, eV an atom of each element.
    """
    zeros = zeros or {}
    energies, forces, stress, begun = [], [], [], time.perf_counter()
    for atoms in frames:
        copy = atoms.copy()
        copy.calc = calculator
        energy = copy.get_potential_energy() + sum(zeros.get(symbol, 0.0) for symbol in atoms.symbols)
        energies.append((energy - atoms.get_potential_energy()) * 1000)
        forces.append(np.abs(copy.get_forces() - atoms.get_forces()).ravel())
        if "stress" in atoms.calc.results:
            difference = copy.get_stress(voigt=False) - atoms.get_stress(voigt=False)
            stress.append(np.abs(difference).mean() / units.GPa)
    sizes = np.array([len(atoms) for atoms in frames])
    found = {
        "config_mae_meV": np.abs(energies).mean(),
        "atom_mae_meV": (np.abs(energies) / sizes).mean(),
        "force_mae_eV_per_A": np.concatenate(forces).mean(),
        "stress_mae_GPa": np.mean(stress) if stress else np.nan,
        "seconds_a_frame": (time.perf_counter() - begun) / len(frames),
    }
    return {name: round(float(value), 5) for name, value in found.items()}


def write_result(folder: Path, rival: str, package: str, seconds: float, steps: int, **more: Any) -> None:
    """Write RIVAL.json into the folder, and print it."""
    head = {key: value for key, value in about(folder).items() if not isinstance(value, dict)}
    result = {"rival": rival, "version": version(package), **head, "seconds": round(seconds), "steps": steps, **more}
    text = json.dumps(result, indent=1)
    (folder / f"{rival}.json").write_text(text + "\n")
    print(text)
