"""Structure files -> checked `ase.Atoms`.

Every returned `Atoms` has

=====================  ==========================================================================
`info["config_id"]`    str, unique in its file; the file's own `config_id`, else
                       `<file stem>_<frame index, six digits>`
`positions`, `cell`    A
`calc`                 `SinglePointCalculator` with what the file gives of `energy` (float, eV),
                       `forces` ((n_atoms, 3), eV/A) and `stress` (6, eV/A^3); None without any
=====================  ==========================================================================

Units are those that ASE's readers give, so a file in another unit is converted here and nowhere else.
"""

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import iread

from eipnn.errors import InputError
from eipnn.published import fetch_hint
from eipnn.structures.check import geometry_problem

ENERGY_KEYS = (
    "energy",
    "energy_reference",
    "reference_energy",
    "dft_energy",
    "DFT_energy",
    "ref_energy",
    "REF_energy",
)
FORCES_KEYS = (
    "forces",
    "forces_reference",
    "reference_forces",
    "dft_forces",
    "DFT_forces",
    "ref_forces",
    "REF_forces",
)
BUNDLED = "bundled:"
SAME_ENERGY = 1e-6  # eV; two labels this close are one label, written twice
DATABASES = (".db", ".json")


class StructureError(InputError):
    """A structure file that cannot be used; the message names file, frame and mend."""


class MissingKeyError(StructureError):
    """No frame of a file has the key that the caller named."""


def resolve(path: str | Path) -> Path:
    """The real path of `path`, where `bundled:NAME` is a file or folder of the package's own data.

    Raises `StructureError` where nothing is there.
    """
    text = str(path)
    found = Path(path)
    if text.startswith(BUNDLED):
        found = Path(str(files("eipnn"))) / "data" / text.removeprefix(BUNDLED)
    if not found.exists():
        raise StructureError(f"{text}: no such file; {fetch_hint(text) or 'check the path'}")
    return found


def energy(atoms: Atoms) -> float | None:
    """The energy (eV) that the file gave for `atoms`, None where it gave none."""
    if atoms.calc is None or "energy" not in atoms.calc.results:
        return None
    return float(atoms.calc.results["energy"])


def read_structures(
    path: str | Path,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    require_energy: bool = False,
) -> list[Atoms]:
    """Read every frame of one file that ASE reads (extended XYZ, ASE databases, ...), or `bundled:NAME`.

    A label is taken from the key that the caller names. Without a name, the rule is: the energy that
    ASE itself recognises in the file, or else the entry of `ENERGY_KEYS` that the frame carries; two
    of them that differ are an error. Forces follow the same rule with `FORCES_KEYS`.

    Raises `StructureError` for a file that is absent, unreadable or empty; a named key that no frame
    has; a frame without energy where `require_energy` asks for one; NaN or infinite positions, cell,
    energy or forces; a cell that is flat along its periodic axes; coincident atoms; an id given twice.
    """
    found = resolve(path)
    frames = [
        _frame(raw, found, index, energy_key, forces_key)
        for index, raw in enumerate(_raw_frames(found))
    ]
    if not frames:
        raise StructureError(f"{path}: holds no frames; give a file with at least one structure")
    _check_ids(frames, path)
    _check_named_key(frames, path, "energy", energy_key)
    _check_named_key(frames, path, "forces", forces_key)
    if require_energy:
        _check_energies(frames, path)
    return frames


def _raw_frames(path: Path) -> Iterator[Atoms]:
    index = 0
    try:
        if path.suffix in DATABASES:
            with connect(path) as database:
                for row in database.select():
                    atoms = row.toatoms()
                    atoms.info.update(row.key_value_pairs)
                    yield atoms
                    index += 1
        else:
            # The '@' of a file name is part of the name here, not an index.
            for atoms in iread(path, index=":", do_not_split_by_at_sign=True):
                yield atoms
                index += 1
    except Exception as error:  # every ASE reader raises its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise StructureError(
            f"{path}: frame {index}: ASE cannot read it ({reason}); "
            "repair or remove this frame, or give the file the suffix of its format"
        ) from error


def _frame(
    raw: Atoms, path: Path, index: int, energy_key: str | None, forces_key: str | None
) -> Atoms:
    atoms = raw.copy()
    # Constraints would mask the forces that the file gives.
    atoms.set_constraint()
    name = str(raw.info.get("config_id", f"{path.stem}_{index:06d}"))
    atoms.info["config_id"] = name
    where = f"{path}: frame {index} ({name})"
    if not name or any(c in name for c in "\r\n,"):
        raise StructureError(f"{where}: a config_id holds no comma or line break and is not empty")
    problem = geometry_problem(atoms)
    if problem:
        raise StructureError(f"{where}: {problem}")
    results = _labels(raw, where, energy_key, forces_key)
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def _labels(
    raw: Atoms, where: str, energy_key: str | None, forces_key: str | None
) -> dict[str, Any]:
    recognised = dict(raw.calc.results) if raw.calc is not None else {}
    found_energy = _label({**raw.info, **recognised}, "energy", ENERGY_KEYS, energy_key, where)
    found_forces = _label({**raw.arrays, **recognised}, "forces", FORCES_KEYS, forces_key, where)
    results: dict[str, Any] = {}
    if found_energy is not None:
        results["energy"] = _checked(found_energy, (), "energy", where)
    if found_forces is not None:
        results["forces"] = _checked(found_forces, (len(raw), 3), "forces", where)
    if "stress" in recognised:
        results["stress"] = np.asarray(recognised["stress"])
    return results


def _label(
    entries: dict[str, Any], kind: str, keys: Sequence[str], named: str | None, where: str
) -> Any:
    """The label under the named key, or the only one under `keys`; None where the frame has none."""
    if named is not None:
        return entries.get(named)
    candidates = [key for key in keys if key in entries]
    if not candidates:
        return None
    first = np.asarray(entries[candidates[0]])
    for other in candidates[1:]:
        value = np.asarray(entries[other])
        if value.shape != first.shape or not np.allclose(value, first, rtol=0, atol=SAME_ENERGY):
            raise StructureError(
                f"{where}: the keys {candidates[0]!r} and {other!r} give different {kind}; "
                f"name the one to use with {kind}_key"
            )
    return entries[candidates[0]]


def _checked(value: Any, shape: tuple[int, ...], kind: str, where: str) -> Any:
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(
            f"{where}: {kind} is {value!r}, not a number; correct the file or name another {kind}_key"
        ) from None
    if array.shape != shape:
        raise StructureError(
            f"{where}: {kind} has the shape {array.shape}, not {shape}; name another {kind}_key"
        )
    if not np.isfinite(array).all():
        raise StructureError(f"{where}: {kind} is NaN or infinite; correct or remove this frame")
    return array if shape else float(array)


def _check_ids(frames: list[Atoms], path: str | Path) -> None:
    seen: dict[str, int] = {}
    for index, atoms in enumerate(frames):
        name = atoms.info["config_id"]
        if name in seen:
            raise StructureError(
                f"{path}: frame {index} ({name}): frame {seen[name]} has the same config_id; "
                "give every frame its own"
            )
        seen[name] = index


def _check_named_key(frames: list[Atoms], path: str | Path, kind: str, key: str | None) -> None:
    if key is None or any(a.calc is not None and kind in a.calc.results for a in frames):
        return
    keys = sorted(set(frames[0].info) - {"config_id"} if kind == "energy" else frames[0].arrays)
    raise MissingKeyError(
        f"{path}: no frame has the {kind} key {key!r}; frame 0 carries {', '.join(keys) or 'no keys'}"
    )


def _check_energies(frames: list[Atoms], path: str | Path) -> None:
    for index, atoms in enumerate(frames):
        if energy(atoms) is None:
            raise StructureError(
                f"{path}: frame {index} ({atoms.info['config_id']}): has no energy, and one is due "
                "here; name its key with energy_key or remove this frame"
            )
