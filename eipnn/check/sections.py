"""The sections of a check: what each measures and draws, how many calls it takes, and how it is run."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

from eipnn.check import dimers, dynamics, elastic, eos, frames, phonons, smoothness, symmetry, vacancy
from eipnn.check.case import Case
from eipnn.check.crystals import energy_per_atom, known_crystal, placed, supercell
from eipnn.check.figures import Figure, Found, Limits, NotRun, worst

Calls = list[tuple[int, int]]
"""Numbers of evaluations, and of atoms in each."""


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Args:
        name: as on the command line.
        about: what it looks at, in a sentence.
        measure: from a case to what is found; `NotRun` where it cannot be.
        calls: about how many it takes.
        draw: from a file and what is found by each calculator to a picture, if there is one.
        beside: whether EIPs are asked too.
        crystals: whether it needs a crystal.
    """

    name: str
    about: str
    measure: Callable[[Case], Found]
    calls: Callable[[Case], Calls]
    draw: Callable[[Path, Mapping[str, Found]], None] | None = None
    beside: bool = False
    crystals: bool = True


@dataclass(frozen=True)
class Outcome:
    """A section that is done: what each calculator found, the potential's first; else `problem` says why not."""

    section: Section
    founds: Mapping[str, Found] = field(default_factory=dict)
    problem: str = ""
    failed: bool = False
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def figures(self) -> list[Figure]:
        """Of the potential."""
        return next(iter(self.founds.values())).figures if self.founds else []

    def verdict(self, given: Callable[[Figure], float]) -> str:
        """The worst one, a failure is bad; empty where it was not run. `given` has the reference values."""
        return "bad" if self.failed else worst(figure.verdict(given(figure)) for figure in self.figures)


KNOWN_ABOVE = Limits(1.0, 20.0)
"""meV/atom"""


def crystals_found(case: Case) -> Found:
    """Energy of each crystal (eV/atom), or none, and how far the known structure of an element lies above it."""
    figures = []
    for name in dict.fromkeys([*case.wanted, *case.crystals]):
        if not (crystal := case.crystals.get(name)):
            note = case.problems.get(name, "no crystal comes to rest; if it has no simple one, give --crystal")
            figures.append(Figure("crystal_energy", name, nan, "eV/atom", note=note))
            continue
        energy = energy_per_atom(crystal.atoms, case.calculator)
        sides = " x ".join(f"{side:.3f}" for side in crystal.atoms.cell.lengths())
        figures.append(Figure("crystal_energy", name, energy, "eV/atom", note=f"{crystal.structure}, {sides} A"))
        if known := known_crystal(crystal, case.calculator):
            above = 1000 * (energy_per_atom(known.atoms, case.calculator) - energy)
            note = f"{known.structure} above {crystal.structure}"
            figures.append(Figure("known_crystal", name, above, "meV/atom", KNOWN_ABOVE, note=note))
    return Found(figures)


def _each_crystal(times: int, size: float | None, case: Case) -> Calls:
    """So many evaluations of each crystal, or of its supercell of that size (A)."""
    cells = [crystal.atoms for crystal in case.crystals.values()]
    return [(times, len(supercell(cell, size) if size else cell)) for cell in cells]


def _dynamics(case: Case) -> Calls:
    return _each_crystal(dynamics.steps_of(case), dynamics.SIZE, case)


SECTIONS = (
    Section(
        "crystals",
        "The crystals of the sections below, relaxed by the potential: those that are given, or of each element (and "
        "of two together) the simple structure of least energy.",
        crystals_found,
        partial(_each_crystal, 1, None),
        beside=True,
        crystals=False,
    ),
    Section(
        "frames",
        "Mean absolute errors on the DFT frames that are given.",
        frames.measure,
        lambda case: [(len(case.frames), len(case.frames.numbers) // len(case.frames))] if case.frames else [],
        frames.draw,
        crystals=False,
    ),
    Section(
        "dimers",
        "Two atoms alone, from 0.9 covalent to 3.1 van der Waals radii by 0.01 A: one change of sign of the force, one "
        "minimum and one inflection are right; a hole is where atoms that come closer attract each other again.",
        dimers.measure,
        lambda case: [(sum(len(dimers.grid(*pair)) for pair in dimers.pairs(case.elements)), 2)],
        dimers.draw,
        beside=True,
        crystals=False,
    ),
    Section(
        "eos",
        "Energies from 90 to 110 % of the volume in 11 points, atoms relaxed; Birch and Murnaghan's curve.",
        eos.measure,
        partial(_each_crystal, 2 * eos.POINTS, None),
        eos.draw,
        beside=True,
    ),
    Section(
        "elastic",
        "Elastic constants from the stress at strains of +-0.5 %, atoms relaxed, in the axes of the conventional cell "
        "(standardised by spglib); moduli by Voigt, Reuss and Hill.",
        elastic.measure,
        partial(_each_crystal, 36, None),
        beside=True,
    ),
    Section(
        "phonons",
        "Frequencies by phonopy; imaginary ones, shown as negative, say that the crystal falls apart.",
        phonons.measure,
        partial(_each_crystal, 1, phonons.SIZE),
        phonons.draw,
        beside=True,
    ),
    Section(
        "vacancy",
        "The energy that it takes to remove an atom, the others relaxed.",
        vacancy.measure,
        partial(_each_crystal, 20, vacancy.SIZE),
        beside=True,
    ),
    Section(
        "nve",
        "Dynamics at constant energy: the slope of the total energy, and what it adds up to, as a share of the "
        "deviation of the kinetic energy.",
        dynamics.measure_nve,
        _dynamics,
        dynamics.draw_nve,
    ),
    Section(
        "heating",
        "A ramp from 300 to 3000 K at constant volume, until energy or distances leave what is physical.",
        dynamics.measure_heating,
        _dynamics,
        dynamics.draw_heating,
    ),
    Section(
        "symmetry",
        "Energy and forces of a repeated cell, and of one that is turned, moved and reordered.",
        symmetry.measure,
        partial(_each_crystal, 12, None),
    ),
    Section(
        "smoothness",
        "Energy and forces along lines of displacements: the largest jump of a force against its neighbours, and "
        "of the energy against the work of the forces.",
        smoothness.measure,
        partial(_each_crystal, 3 * 81, smoothness.SIZE),
        smoothness.draw,
    ),
)


def run(section: Section, case: Case, others: Mapping[str, Case]) -> Outcome:
    """Run a section for the potential, then for EIPs where they are asked: what fails there is noted alone."""
    begin = time.monotonic()

    def ended(**known: Any) -> Outcome:
        return Outcome(section, seconds=time.monotonic() - begin, **known)

    try:
        if section.crystals and not case.crystals:
            raise NotRun("there is no crystal")
        founds = {"potential": section.measure(case)}
    except NotRun as reason:
        return ended(problem=str(reason))
    except Exception as error:  # each potential has its own kinds, and the others sections go on
        return ended(problem=f"{type(error).__name__}: {error}", failed=True)
    notes = []
    for name, other in others.items() if section.beside else ():
        if section.measure is crystals_found:
            notes += [f"{name}: {crystal}: {problem}" for crystal, problem in other.problems.items()]
        try:
            founds[name] = section.measure(other)
        except Exception as error:  # as above
            notes.append(f"{name}: {type(error).__name__}: {error}")
    return ended(founds=founds, notes=tuple(notes))


def estimates(sections: list[Section], case: Case) -> Iterator[tuple[int, float]]:
    """Evaluations, and seconds that they take here, of each section, by two timed ones."""
    small, large = sorted(_timed(case), key=lambda pair: pair[0])
    slope = max(0.0, (large[1] - small[1]) / max(large[0] - small[0], 1))
    for section in sections:
        calls = section.calls(case)
        seconds = sum(n * max(small[1] + slope * (atoms - small[0]), small[1] / 4) for n, atoms in calls)
        yield sum(n for n, _ in calls), seconds


def _timed(case: Case) -> Iterator[tuple[int, float]]:
    """Atoms and seconds of one evaluation, of the smallest crystal and of a box of dynamics."""
    cells = sorted((crystal.atoms for crystal in case.crystals.values()), key=len)
    for cell in (cells[0], supercell(cells[-1], dynamics.SIZE)):
        atoms = placed(cell, case.calculator)
        atoms.get_forces()
        atoms.rattle(0.01)
        begin = time.monotonic()
        atoms.get_forces()
        yield len(atoms), time.monotonic() - begin
