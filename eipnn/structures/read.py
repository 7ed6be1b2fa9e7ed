"""Structure files -> checked `ase.Atoms`.

Every returned `Atoms` has

=====================  ==========================================================================
`info["config_id"]`    str, unique among all files; the file's own `config_id`, else
                       `<file stem>_<frame index, six digits>`, see `id_prefixes`
`positions`, `cell`    A
`calc`                 `SinglePointCalculator` with what the file gives of `energy` (float, eV),
                       `forces` ((n_atoms, 3), eV/A) and `stress` (6, eV/A^3); None without any
=====================  ==========================================================================

Units are those that ASE's readers give, so a file in another unit is converted here and nowhere else.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypedDict, Unpack, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import iread
from ase.io.formats import filetype, open_with_compression
from ase.stress import full_3x3_to_voigt_6_stress

from eipnn.structures.check import geometry_problem, lost_cell
from eipnn.structures.extxyz import read_extxyz
from eipnn.structures.paths import Paths, StructureError, id_prefixes, resolve_all

ENERGY_KEYS = ("energy", "energy_reference", "reference_energy", "dft_energy", "ref_energy")
FORCES_KEYS = ("forces", "force", "forces_reference", "reference_forces", "dft_forces", "ref_forces")
RESULTS = frozenset(all_properties)
SAME_ENERGY = 1e-6  # eV; two labels this close are one label, written twice
DATABASES = (".db", ".json")


class Options(TypedDict, total=False):
    """How files are read."""

    energy_key: str | None
    """Key of the energy, in files that have it; the frames of others are without energy."""
    forces_key: str | None
    """The same of the forces."""
    labels: bool
    """False: energies and forces are not wanted; `calc` is None, and what the file gives is not looked at."""
    require_energy: bool
    """True: each frame must have an energy."""


def energy(atoms: Atoms) -> float | None:
    """The energy (eV) that the file gave for `atoms`, None where it gave none."""
    value = atoms.calc.results.get("energy") if atoms.calc else None
    return None if value is None else float(value)


def read_structures(files: Paths, **options: Unpack[Options]) -> list[Atoms]:
    """Read every frame of one file or several that ASE reads (extended XYZ, ASE databases, ...), or of `bundled:NAME`.

    A label is taken from the key that the caller names. Without a name, the rule is: the energy that
    ASE itself recognises in the file, or else the entry of `ENERGY_KEYS` that the frame carries, in any case; two
    of them that differ are an error. Forces follow the same rule with `FORCES_KEYS`.

    Args:
        files: each may be a pattern (`runs/*/OUTCAR`).
        options: see `Options`.

    Raises `StructureError` for a file that is absent, unreadable or empty; a named key that no frame
    has; a frame without energy, or a file with none but 0, where `require_energy` asks for energies; NaN or infinite
    positions, cell, energy or forces; a cell that is flat along its periodic axes, or under a key that is not read;
    coincident atoms; an id given twice.
    """
    return read_files(id_prefixes(resolve_all(files)), options)[0]


def read_files(prefixes: Mapping[Path, str], options: Options) -> tuple[list[Atoms], list[int]]:
    """The frames of files, each with what its ids begin with, and how many each file holds; see `read_structures`."""
    frames: list[Atoms] = []
    counts: list[int] = []
    places: dict[str, tuple[Path, int]] = {}  # of each id
    for path, prefix in prefixes.items():
        first = len(frames)
        for index, atoms in enumerate(_raw_frames(path)):
            name = atoms.info["config_id"] = str(atoms.info.get("config_id", f"{prefix}_{index:06d}"))
            try:
                file, other = places.setdefault(name, (path, index))
                if (file, other) != (path, index):
                    place = f"frame {other}" if file == path else f"frame {other} of {file}"
                    raise StructureError(f"{place} has the same config_id; give every frame its own")
                _check(atoms, options)
            except StructureError as error:
                raise StructureError(f"{path}: frame {index} ({name}): {error}") from None
            frames.append(atoms)
        counts.append(len(frames) - first)
        if not counts[-1]:
            raise StructureError(f"{path}: holds no frames; give a file with at least one structure")
        energies = [energy(atoms) for atoms in frames[first:] if len(atoms) > 1]
        if options.get("require_energy") and energies and not any(energies):
            how = "give a file with energies, or name their key with energy_key"
            raise StructureError(f"{path}: all energies are 0 eV, which stands for none; {how}")
    if options.get("labels", True):
        for kind, key in (("energy", options.get("energy_key")), ("forces", options.get("forces_key"))):
            if key is not None and not any(atoms.calc and kind in atoms.calc.results for atoms in frames):
                keys = sorted(set(frames[0].info) - {"config_id"} if kind == "energy" else frames[0].arrays)
                there = f"frame 0 carries {', '.join(keys) or 'no keys'}"
                raise StructureError(f"{', '.join(map(str, prefixes))}: no frame has the {kind} key {key!r}; {there}")
    return frames, counts


def _raw_frames(path: Path) -> Iterator[Atoms]:
    index = 0
    try:
        for atoms in _frames_of_format(path):
            yield atoms
            index += 1
    except StructureError as error:
        raise StructureError(f"{path}: frame {index}: {error}") from None
    except Exception as error:  # every ASE reader raises its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        how = "repair or remove this frame, or give the file the suffix of its format"
        raise StructureError(f"{path}: frame {index}: ASE cannot read it ({reason}); {how}") from error


def _frames_of_format(path: Path) -> Iterator[Atoms]:
    if path.suffix in DATABASES:
        with connect(path) as database:
            for row in database.select():
                atoms = row.toatoms()
                atoms.info.update(row.key_value_pairs)
                yield atoms
        return
    kind = filetype(str(path))
    if kind == "extxyz":
        with open_with_compression(str(path)) as stream:
            yield from read_extxyz(cast(TextIO, stream))
        return
    if kind == "lammps-dump-text":
        _check_elements(path)
    # The '@' of a file name is part of the name here, not an index.
    for atoms in iread(path, index=":", format=kind, do_not_split_by_at_sign=True):
        if kind.startswith("lammps-dump") and atoms.calc is not None:
            # A dump holds none; ASE says 0 eV where there are forces.
            del atoms.calc.results["energy"]
        yield atoms


def _check_elements(dump: Path) -> None:
    """Raise where a LAMMPS dump has atom types alone: ASE takes them for atomic numbers."""
    with open_with_compression(str(dump)) as stream:
        columns = next((set(line.split()) for line in stream if line.startswith("ITEM: ATOMS")), None)
    if columns is not None and not {"element", "mass"} & columns:
        raise StructureError(
            "the dump does not say which elements its atoms are; write it with the column element or mass"
        )


def _check(atoms: Atoms, options: Options) -> None:
    """Put the labels that are wanted in place of what ASE took for results, and raise for what cannot be used."""
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    for entries in (atoms.info, atoms.arrays):
        for kind in RESULTS.intersection(entries):
            results.setdefault(kind, entries.pop(kind))
    atoms.calc = None
    atoms.set_constraint()  # it would mask the forces that the file gives
    if not (name := atoms.info["config_id"]) or any(c in name for c in "\r\n,"):
        raise StructureError("a config_id holds no comma or line break and is not empty")
    if problem := geometry_problem(atoms) or lost_cell(atoms):
        raise StructureError(problem)
    if options.get("labels", True) and (labels := _labels(atoms, results, options)):
        atoms.calc = SinglePointCalculator(atoms, **labels)
    if options.get("require_energy") and energy(atoms) is None:
        raise StructureError("has no energy, and one is due here; name its key with energy_key or remove this frame")


def _labels(atoms: Atoms, results: dict[str, Any], options: Options) -> dict[str, Any]:
    energy = _label(atoms.info | results, "energy", ENERGY_KEYS, options.get("energy_key"))
    forces = _label(atoms.arrays | results, "forces", FORCES_KEYS, options.get("forces_key"))
    stress = results.get("stress")
    if stress is not None and np.size(stress) == 9:
        stress = full_3x3_to_voigt_6_stress(np.reshape(stress, (3, 3)))
    found = ("energy", energy, ()), ("forces", forces, (len(atoms), 3)), ("stress", stress, (6,))
    return {kind: _checked(value, shape, kind) for kind, value, shape in found if value is not None}


def _label(entries: dict[str, Any], kind: str, keys: Sequence[str], named: str | None) -> Any:
    """The label under the named key, or the only one under `keys`, in any case; None where the frame has none."""
    if named is not None and named in entries:
        return entries[named]
    wanted = keys if named is None else (named.lower(),)
    found = sorted((wanted.index(key.lower()), key) for key in entries if key.lower() in wanted)
    if not found:
        return None
    first, *others = (key for _, key in found)
    for other in others:
        if not _same(entries[first], entries[other]):
            how = f"name the one to use with {kind}_key"
            raise StructureError(f"the keys {first!r} and {other!r} give different {kind}; {how}")
    return entries[first]


def _same(first: Any, second: Any) -> bool:
    a, b = np.asarray(first), np.asarray(second)
    if a.dtype.kind in "if" and b.dtype.kind in "if":
        return a.shape == b.shape and np.allclose(a, b, rtol=0, atol=SAME_ENERGY)
    return bool(np.array_equal(a, b))


def _checked(value: Any, shape: tuple[int, ...], kind: str) -> Any:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        how = "correct the file" if kind == "stress" else f"correct the file or name another {kind}_key"
        raise StructureError(f"{kind} is {value!r}, not a number; {how}") from None
    if array.shape != shape:
        how = "correct it or remove it" if kind == "stress" else f"name another {kind}_key"
        raise StructureError(f"{kind} has the shape {array.shape}, not {shape}; {how}")
    if kind != "stress" and not np.isfinite(array).all():  # of the stress it stands for none
        raise StructureError(f"{kind} is NaN or infinite; correct or remove this frame")
    return array if shape else float(array)
