"""Phonons of a crystal by phonopy (Togo, J. Phys. Soc. Jpn. 92, 012001 (2023)), the extra `check`."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell

from eipnn.check.case import Case
from eipnn.check.crystals import Crystal, placed, supercell
from eipnn.check.figures import Figure, Found, Limits, NotRun
from eipnn.report.plots import PALETTE, panel_row

SIZE = 9.0
"""A between the faces of the supercell, at least."""
SHIFT = 0.01
"""A by which an atom is displaced."""
MESH = (8, 8, 8)
KELVIN = 47.9924
"""A frequency of 1 THz in K."""
LOWEST = Limits(-0.05, -0.3)
"""THz; imaginary frequencies are shown as negative ones, those of rounding are small."""
HIGHEST_APART = Limits(0.0, 50.0 / KELVIN)


def measure(case: Case) -> Found:
    """Lowest and highest frequency of each crystal on a mesh, and its bands.

    Raises:
        NotRun: phonopy is not installed.
    """
    figures, curves = [], {}
    for name, crystal in case.crystals.items():
        phonon = phonons(case, crystal)
        phonon.run_mesh(MESH, is_gamma_center=True)
        frequencies = phonon.mesh.frequencies
        low, high = float(frequencies.min()), float(frequencies.max())
        figures += [
            Figure("lowest_frequency", name, low, "THz", LOWEST, note="negative: imaginary"),
            Figure("highest_frequency", name, high, "THz", against=HIGHEST_APART),
        ]
        curves[name] = bands(phonon)
    return Found(figures, curves)


def phonons(case: Case, crystal: Crystal) -> Any:
    """A `phonopy.Phonopy` with the force constants of the crystal."""
    try:
        from phonopy import Phonopy
        from phonopy.structure.atoms import PhonopyAtoms
    except ImportError:
        raise NotRun("phonopy is not installed: pip install 'eipnn[check]'") from None
    cell = crystal.atoms
    repeats = np.rint(supercell(cell, SIZE).cell.lengths() / cell.cell.lengths()).astype(int)
    unit = PhonopyAtoms(symbols=list(cell.symbols), cell=cell.cell.array, scaled_positions=cell.get_scaled_positions())
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that "auto" was another default once
        phonon = Phonopy(unit, np.diag(repeats), primitive_matrix="auto", symprec=1e-3)
    phonon.generate_displacements(distance=SHIFT)
    forces = []
    for shifted in phonon.supercells_with_displacements or ():
        atoms = Atoms(shifted.symbols, scaled_positions=shifted.scaled_positions, cell=shifted.cell, pbc=True)
        forces.append(placed(atoms, case.calculator).get_forces())
    phonon.forces = forces
    phonon.produce_force_constants()
    phonon.symmetrize_force_constants()
    return phonon


def bands(phonon: Any) -> tuple[np.ndarray, np.ndarray, dict[float, str]]:
    """Places along ASE's path in the primitive cell, frequencies (n, bands) in THz, and its labelled places."""
    path = Cell(phonon.primitive.cell).bandpath(npoints=120)
    places, marks, labels = path.get_linear_kpoint_axis()
    phonon.run_qpoints(path.kpts)
    named: dict[float, str] = {}
    for place, label in zip(marks.tolist(), labels, strict=True):  # where the path jumps two have one place
        named[place] = "|".join(filter(None, [named.get(place), label.replace("G", "$\\Gamma$")]))
    jumps = np.flatnonzero(np.diff(places) == 0) + 1  # no line is drawn across them
    return np.insert(places, jumps, np.nan), np.insert(phonon.qpoints.frequencies, jumps, np.nan, axis=0), named


def draw(file: Path, founds: Mapping[str, Found]) -> None:
    """Bands, a panel a crystal, a colour a calculator."""
    names = list(next(iter(founds.values())).curves)
    with panel_row(file, names, 5.0, 4.0, "frequency (THz), imaginary below 0") as panels:
        for axis, name in panels:
            for (who, found), colour in zip(founds.items(), PALETTE, strict=False):
                if name in found.curves:
                    places, frequencies, marks = found.curves[name]
                    share = places / places[-1]  # paths are as long as their cells want them
                    axis.plot(share, frequencies[:, 0], color=colour, linewidth=1.2, label=who)
                    axis.plot(share, frequencies[:, 1:], color=colour, linewidth=1.2)
            places, _, marks = next(iter(founds.values())).curves[name]
            axis.set_xticks([mark / places[-1] for mark in marks], list(marks.values()))
            axis.axhline(0, color="0.4", linewidth=0.8)
            axis.grid(axis="x")
