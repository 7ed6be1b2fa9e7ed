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

The stress is the derivative of the energy by the strain over the volume, in the order xx, yy, zz, yz, xz, xy: positive
under tension, ASE's sign. Virials, as extended XYZ holds them, are -stress x volume, in eV
(https://github.com/libAtoms/QUIP/issues/227).
"""

import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO, TypedDict, Unpack, cast

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import iread
from ase.io.formats import filetype, open_with_compression
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from eipnn.structures.check import geometry_problem, lost_cell
from eipnn.structures.extxyz import Piece, read_extxyz
from eipnn.structures.paths import Paths, StructureError, id_prefixes, resolve_all


def _keys(*names: str) -> tuple[str, ...]:
    """Those of a label with these names, in lower case, the first one first."""
    forms = ("{}", "{}_reference", "reference_{}", "dft_{}", "ref_{}")
    return tuple(form.format(name) for form in forms for name in names)


KEYS = {
    "energy": _keys("energy"),
    "forces": _keys("forces", "force"),
    "stress": _keys("stress", "virial", "virials"),
}
LABEL_KEYS = tuple(f"{kind}_key" for kind in KEYS)
"""The options that name the key of a label."""
RESULTS = frozenset(all_properties)
SAME = {"energy": 1e-6, "forces": 1e-6, "stress": 1e-5}
"""eV, eV/A and eV/A^3; two labels this close are one label, written twice."""
SAME_ENERGY = SAME["energy"]
ROUNDED = 1e-4, 0.01
"""eV/A^3, and share of the largest component, by which a stress may be asymmetric."""
DATABASES = (".db", ".json")


class Options(TypedDict, total=False):
    """How files are read."""

    energy_key: str | None
    """Key of the energy, in files that have it; the frames of others are without energy."""
    forces_key: str | None
    """The same of the forces."""
    stress_key: str | None
    """The same of the stress, or of virials: those are what a key with `virial` in it holds."""
    labels: bool
    """False: labels are not wanted; `calc` is None, and what the file gives is not looked at."""
    require_energy: bool
    """True: each frame must have an energy."""


def options_of(settings: Mapping[str, Any], require_energy: bool = False) -> Options:
    """The keys of labels among some settings."""
    return cast(Options, {key: settings.get(key) for key in LABEL_KEYS} | {"require_energy": require_energy})


def energy(atoms: Atoms) -> float | None:
    """The energy (eV) that the file gave for `atoms`, None where it gave none."""
    value = atoms.calc.results.get("energy") if atoms.calc else None
    return None if value is None else float(value)


def read_structures(files: Paths, **options: Unpack[Options]) -> list[Atoms]:
    """Read every frame of one file or several that ASE reads (extended XYZ, ASE databases, ...), or of `bundled:NAME`.

    A label is taken from the key that the caller names. Without a name, the rule is: what ASE itself recognises in the
    file, or else the entry of `KEYS` that the frame carries, in any case; two of them that differ are an error. A
    frame may lack any label. Where an axis is open there is no stress, and one of zeros stands for none.

    Args:
        files: each may be a pattern (`runs/*/OUTCAR`).
        options: see `Options`.

    Raises `StructureError` for a file that is absent, unreadable or empty; a named key that no frame
    has; a frame without energy, or a file with none but 0, where `require_energy` asks for energies; NaN or infinite
    positions, cell or labels; a label of another shape, a stress that is not symmetric or of a frame with an open axis;
    a cell that is flat along its periodic axes, or under a key that is not read; coincident atoms; an id given twice.
    """
    return [atoms for _, atoms in iterate(id_prefixes(resolve_all(files)), options)]


def iterate(prefixes: Mapping[Path, str], options: Options) -> Iterator[tuple[Path, Atoms]]:
    """File and frame, one by one, of files each with what its ids begin with; see `read_structures`."""
    places: dict[str, tuple[Path, int]] = {}  # of each id
    carried: set[str] = set()  # keys
    for path, prefix in prefixes.items():
        index, energies = -1, set()
        for index, atoms in numbered(path, prefix):
            name = atoms.info["config_id"]
            file, other = places.setdefault(name, (path, index))
            if (file, other) != (path, index):
                raise same_id(path, index, name, file, other)
            carried |= check(atoms, options, path, index)
            energies |= has_energy(atoms)
            yield path, atoms
        check_file(path, index + 1, energies, options)
    check_keys(prefixes, carried, options)


def same_id(path: Path, index: int, name: str, file: Path, other: int) -> StructureError:
    """The error that a frame has the id of an earlier one in `file`."""
    place = f"frame {other}" if file == path else f"frame {other} of {file}"
    return StructureError(f"{path}: frame {index} ({name}): {place} has the same config_id; give every frame its own")


def has_energy(atoms: Atoms) -> set[bool]:
    """Whether the energy of a frame of several atoms is another one than none and 0."""
    return {bool(energy(atoms))} if len(atoms) > 1 else set()


def check_file(path: Path, frames: int, energies: set[bool], options: Options) -> None:
    """Raise `StructureError` for a file with so many frames and what `has_energy` says of them together."""
    if not frames:
        raise StructureError(f"{path}: holds no frames; give a file with at least one structure")
    if options.get("require_energy") and energies == {False}:
        how = "give a file with energies, or name their key with energy_key"
        raise StructureError(f"{path}: all energies are 0 eV, which stands for none; {how}")


def check_keys(paths: Iterable[Path], carried: set[str], options: Options) -> None:
    """Raise `StructureError` where a key is named that no frame of these files carries."""
    for kind in KEYS if options.get("labels", True) else ():
        named = _named(options, kind)
        if named is not None and named.lower() not in map(str.lower, carried):
            there = f"the frames carry {', '.join(sorted(carried)) or 'no keys'}"
            raise StructureError(f"{', '.join(map(str, paths))}: no frame has the {kind} key {named!r}; {there}")


def numbered(path: Path, prefix: str, piece: Piece | None = None) -> Iterator[tuple[int, Atoms]]:
    """The frames of a file, or of a piece of it, with their numbers in the file and their ``config_id``."""
    index = piece.frame if piece else 0
    frames = read_extxyz(io.StringIO(piece.text), piece.line) if piece else _frames_of_format(path)
    try:
        for atoms in frames:
            atoms.info["config_id"] = str(atoms.info.get("config_id", f"{prefix}_{index:06d}"))
            yield index, atoms
            index += 1
    except StructureError as error:
        raise StructureError(f"{path}: frame {index}: {error}") from None
    except Exception as error:  # every ASE reader raises its own kinds
        raise unreadable(path, index, error) from error


def unreadable(path: Path, index: int, error: Exception) -> StructureError:
    """The error that what reads a frame raises `error`."""
    reason = " ".join(str(error).split()) or type(error).__name__
    how = "repair or remove this frame, or give the file the suffix of its format"
    return StructureError(f"{path}: frame {index}: ASE cannot read it ({reason}); {how}")


def is_extxyz(path: Path) -> bool:
    """Whether it is read by `read_extxyz`."""
    try:
        return path.suffix not in DATABASES and filetype(str(path)) == "extxyz"
    except Exception:  # what reads it says why
        return False


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


def check(atoms: Atoms, options: Options, path: Path, index: int) -> set[str]:
    """Put the labels that are wanted in place of what ASE took for results, and raise for what cannot be used.

    Returns the keys that the frame carries.
    """
    try:
        return _check(atoms, options)
    except StructureError as error:
        raise StructureError(f"{path}: frame {index} ({atoms.info['config_id']}): {error}") from None


def _check(atoms: Atoms, options: Options) -> set[str]:
    results = dict(atoms.calc.results) if atoms.calc is not None else {}
    for entries in (atoms.info, atoms.arrays):
        for kind in RESULTS.intersection(entries):
            results.setdefault(kind, entries.pop(kind))
    entries = atoms.info | atoms.arrays | results
    atoms.calc = None
    atoms.set_constraint()  # it would mask the forces that the file gives
    if not (name := atoms.info["config_id"]) or any(c in name for c in "\r\n,"):
        raise StructureError("a config_id holds no comma or line break and is not empty")
    if problem := geometry_problem(atoms) or lost_cell(atoms):
        raise StructureError(problem)
    if options.get("labels", True):
        labels = {kind: _label(atoms, entries, kind, _named(options, kind)) for kind in KEYS}
        if known := {kind: value for kind, value in labels.items() if value is not None}:
            atoms.calc = SinglePointCalculator(atoms, **known)
    if options.get("require_energy") and energy(atoms) is None:
        raise StructureError("has no energy, and one is due here; name its key with energy_key or remove this frame")
    return set(entries) - {"config_id", "numbers", "positions"}


def _named(options: Options, kind: str) -> str | None:
    return cast(dict[str, str | None], options).get(f"{kind}_key")


def _label(atoms: Atoms, entries: dict[str, Any], kind: str, named: str | None) -> Any:
    """The label under the named key, or the only one under `KEYS`, in any case; None where the frame has none."""
    wanted = KEYS[kind] if named is None else (named.lower(),)
    keys = [named] if named in entries else [key for key in entries if key.lower() in wanted]
    keys.sort(key=lambda key: wanted.index(key.lower()))
    found = [(key, value) for key in keys if (value := _value(atoms, kind, key, entries[key])) is not None]
    for other, value in found[1:]:
        if not np.allclose(found[0][1], value, rtol=0, atol=SAME[kind]):
            how = f"name the one to use with {kind}_key"
            raise StructureError(f"the keys {found[0][0]!r} and {other!r} give different {kind}; {how}")
    return found[0][1] if found else None


def _value(atoms: Atoms, kind: str, key: str, given: Any) -> Any:
    """What a key gives as a label of `atoms`, checked; None for a stress of zeros where an axis is open."""
    virial = kind == "stress" and "virial" in key.lower()
    what = f"the virial {key!r}" if virial else kind
    other = f"name another {kind}_key"
    try:
        value = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(f"{what} is {given!r}, not a number; correct the file or {other}") from None
    of_kind: dict[str, list[tuple[int, ...]]] = {"energy": [()], "forces": [(len(atoms), 3)]}
    shapes = of_kind.get(kind, [(6,), (9,), (3, 3)])
    if (value.squeeze().shape if kind == "stress" else value.shape) not in shapes:
        raise StructureError(f"{what} has the shape {value.shape}, not {' or '.join(map(str, shapes))}; {other}")
    if not np.isfinite(value).all():
        raise StructureError(f"{what} is NaN or infinite; correct or remove this frame")
    if kind == "stress":
        return _stress(atoms, what, value.ravel(), virial)
    return value if kind == "forces" else float(value)


def _stress(atoms: Atoms, what: str, given: np.ndarray, virial: bool) -> np.ndarray | None:
    """(6,), eV/A^3, of six or nine numbers of a stress or virial; see `_value`."""
    if not atoms.pbc.all():
        if given.any():
            raise StructureError(f"{what} on an open axis has no meaning; remove it, or set pbc to true on all axes")
        return None
    tensor = voigt_6_to_full_3x3_stress(given) if given.size == 6 else given.reshape(3, 3)
    if virial:
        tensor = -tensor / atoms.cell.volume
    if np.abs(tensor - tensor.T).max() > ROUNDED[0] + ROUNDED[1] * np.abs(tensor).max():
        raise StructureError(f"{what} is not symmetric; correct or remove it")
    return full_3x3_to_voigt_6_stress(tensor)
