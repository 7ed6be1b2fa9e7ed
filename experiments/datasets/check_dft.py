"""Check a DFT set before it is shipped: what a mistake in it would look like.

    python3 check_dft.py dft.extxyz                                # the file alone, with NumPy and ASE
    OMP_NUM_THREADS=1 python3 check_dft.py dft.extxyz --system Al --forces 5 --eos      # with GPAW too

Looked at are: NaN, energies and forces out of all proportion, frames that are there twice; with `--forces N` the
forces of N frames against central differences of GPAW energies; with `--eos` energies along an equation of state.
GPAW's settings are those of `dft_mini.py`, which lies beside this file. Beside FILE go `STEM.check.json` and
`STEM.check.md`. The exit code is 1 where something is wrong. A force component takes two energies, 3 s to 2 min on one
core, and an equation of state seven.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.eos import EquationOfState
from ase.io import iread
from ase.neighborlist import neighbor_list
from ase.units import GPa

sys.path.insert(0, str(Path(__file__).parent))
from dft_mini import dft_label

FORCE_LIMIT = 30.0  # eV/A
ENERGY_SPREAD = 15.0  # eV/atom; further from the median of the same composition is absurd
NEAR = 0.01  # A; frames whose sorted distances all differ by less are listed
SAME = 1e-4  # A; and below this they are one frame, written twice
RADIUS = 5.0  # A, of the distances that are compared
STEP = 0.02  # A, of the central differences; half of it would show the limits of convergence
FORCE_ERROR = 0.05  # eV/A that forces may differ from differences of energies
VOLUMES = np.linspace(0.85, 1.15, 7)  # relative to the reference crystal
ROUGHNESS = 10.0  # meV/atom; what the grids of k-points of two cells may differ by
CRYSTALS = {"Si": ("diamond", 5.47), "Al": ("fcc", 4.05), "Ag": ("fcc", 4.15), "Au": ("fcc", 4.16)}
SYSTEMS = {"Si": ("Si",), "Al": ("Al",), "AgAu": ("Ag", "Au")}

Energy = Callable[[Atoms, str], float]


def read(file: Path) -> list[Atoms]:
    """The frames; each must carry energy (eV) and forces (eV/A), or ValueError names it."""
    frames = list(iread(str(file), ":"))
    for index, atoms in enumerate(frames):
        atoms.info.setdefault("config_id", f"frame {index}")
        have = set() if atoms.calc is None else set(atoms.calc.results)
        if not {"energy", "forces"} <= have:
            raise ValueError(f"{file}: {atoms.info['config_id']}: energy or forces are missing")
    return frames


def not_finite(frames: list[Atoms]) -> list[str]:
    """Ids of frames with a NaN or an infinity in positions, cell, energy, forces or stress."""

    def bad(atoms: Atoms) -> bool:
        results = atoms.calc.results
        labels = [results[key] for key in ("energy", "forces", "stress") if key in results]
        return not all(np.isfinite(a).all() for a in (atoms.positions, atoms.cell.array, *labels))

    return [atoms.info["config_id"] for atoms in frames if bad(atoms)]


def large_forces(frames: list[Atoms], limit: float = FORCE_LIMIT) -> dict[str, float]:
    """The largest force (eV/A) of frames where it is above `limit`."""
    largest = {a.info["config_id"]: float(np.linalg.norm(a.calc.results["forces"], axis=1).max()) for a in frames}
    return {name: force for name, force in largest.items() if force > limit}


def absurd_energies(frames: list[Atoms], spread: float = ENERGY_SPREAD) -> dict[str, float]:
    """Energies (eV/atom) further than `spread` from the median of frames with the same elements."""
    groups: dict[tuple[str, ...], dict[str, float]] = {}
    for atoms in frames:
        group = groups.setdefault(tuple(sorted(set(atoms.get_chemical_symbols()))), {})
        group[atoms.info["config_id"]] = float(atoms.calc.results["energy"]) / len(atoms)
    absurd = {}
    for group in groups.values():
        middle = np.median(list(group.values()))
        absurd.update({name: e for name, e in group.items() if abs(e - middle) > spread})
    return absurd


def near_duplicates(frames: list[Atoms], near: float = NEAR) -> list[tuple[str, str, float]]:
    """Pairs of frames of one composition whose sorted distances up to `RADIUS` differ by less than `near`.

    Returned with the largest difference (A). Translation, rotation and the order of atoms change nothing. A distance
    that one of them lacks counts as `RADIUS`, so that an atom that has just crossed it is no difference.
    """
    groups: dict[str, list[tuple[str, dict[tuple[int, int], np.ndarray]]]] = {}
    for atoms in frames:
        key = f"{atoms.get_chemical_formula()} {atoms.pbc.tolist()}"
        groups.setdefault(key, []).append((atoms.info["config_id"], distances(atoms)))
    found = []
    for group in groups.values():
        for (first, a), (second, b) in combinations(group, 2):
            apart = max((_difference(a[pair], b[pair]) for pair in a), default=0.0)
            if apart < near:
                found.append((first, second, apart))
    return found


def distances(atoms: Atoms) -> dict[tuple[int, int], np.ndarray]:
    """The sorted distances (A) of each pair of elements, images included."""
    i, j, d = neighbor_list("ijd", atoms, RADIUS)
    first, second = atoms.numbers[i], atoms.numbers[j]
    present = sorted(set(atoms.numbers.tolist()))
    return {(a, b): np.sort(d[(first == a) & (second == b)]) for a in present for b in present}


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    size = max(len(a), len(b))
    padded = [np.pad(x, (0, size - len(x)), constant_values=RADIUS) for x in (a, b)]
    return float(np.abs(padded[0] - padded[1]).max(initial=0.0))


def gpaw_energy(atoms: Atoms, family: str) -> float:
    """GPAW's energy (eV) in the settings of the set."""
    work = atoms.copy()
    dft_label(work, family)
    return float(work.calc.results["energy"])


def force_errors(frames: list[Atoms], n_frames: int, n_components: int, energy: Energy) -> list[dict[str, Any]]:
    """Forces of the set (eV/A) and central differences of energies, for frames spread over the set.

    The components are those of random atoms and axes, always the same. `energy` takes atoms and family.
    """
    rng = np.random.default_rng(0)
    lines = []
    for index in np.unique(np.linspace(0, len(frames) - 1, n_frames).round().astype(int)):
        atoms = frames[index]
        n = min(n_components, 3 * len(atoms))
        for component in rng.choice(3 * len(atoms), n, replace=False):
            atom, axis = divmod(int(component), 3)
            sides = []
            for step in (STEP, -STEP):
                moved = atoms.copy()
                moved.positions[atom, axis] += step
                sides.append(energy(moved, atoms.info.get("family", "")))
            numerical = -(sides[0] - sides[1]) / (2 * STEP)
            force = float(atoms.calc.results["forces"][atom, axis])
            name = atoms.info["config_id"]
            lines.append(
                {
                    "frame": name,
                    "atom": atom,
                    "axis": "xyz"[axis],
                    "force": force,
                    "numerical": numerical,
                    "error": force - numerical,
                }
            )
            print(f"{name} atom {atom} {'xyz'[axis]}: {force:.4f}, {numerical:.4f} eV/A", flush=True)
    return lines


def equation_of_state(element: str, energy: Energy) -> dict[str, Any]:
    """Energies of the element's crystal at `VOLUMES`, what fits them, and how rough they are.

    Roughness is the most by which an energy leaves a Birch-Murnaghan curve (a cubic in V^(-2/3)), meV/atom. It is not
    zero: the grid of k-points changes with the cell.
    """
    structure, a = CRYSTALS[element]
    cells = [bulk(element, structure, a * v ** (1 / 3)) for v in VOLUMES]
    volumes = np.array([atoms.get_volume() for atoms in cells])
    energies = np.array([energy(atoms, structure) for atoms in cells])
    x = (volumes / volumes.mean()) ** (-2 / 3)
    rest = energies - np.polyval(np.polyfit(x, energies, 3), x)
    v0, _, modulus = EquationOfState(volumes, energies, eos="birchmurnaghan").fit(warn=False)
    line = {
        "crystal": f"{element} {structure}",
        "volumes": volumes.tolist(),
        "energies": energies.tolist(),
        "lattice_constant": float((4 * v0) ** (1 / 3)),  # fcc and diamond have four cells in the cube
        "bulk_modulus": float(modulus / GPa),
        "roughness": float(1000 * np.abs(rest).max()),
    }
    print(f"{line['crystal']}: a {line['lattice_constant']:.3f} A, B {line['bulk_modulus']:.0f} GPa")
    return line


def check(frames: list[Atoms]) -> dict[str, Any]:
    """What can be found without GPAW."""
    finite = not_finite(frames)
    sound = [atoms for atoms in frames if atoms.info["config_id"] not in set(finite)]
    return {
        "frames": len(frames),
        "not_finite": finite,
        "large_forces": large_forces(sound),
        "absurd_energies": absurd_energies(sound),
        "near_duplicates": near_duplicates(sound),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """What is wrong with the set, in words.

    Large forces and near duplicates are listed only: strained structures and dimers have them.
    """
    worst = max((abs(line["error"]) for line in found.get("forces", [])), default=0.0)
    said = {
        "NaN or infinite values": found["not_finite"],
        f"energies further than {ENERGY_SPREAD:g} eV/atom from the median": found["absurd_energies"],
        "frames that are there twice": [p for p in found["near_duplicates"] if p[2] < SAME],
        f"forces further than {FORCE_ERROR:g} eV/A from differences of energies": worst > FORCE_ERROR,
        "a rough equation of state": [c for c in found.get("equation_of_state", []) if c["roughness"] > ROUGHNESS],
    }
    return [text for text, wrong in said.items() if wrong]


def markdown(name: str, found: dict[str, Any]) -> str:
    """The findings as tables."""
    rows = [
        ("frames", found["frames"], ""),
        ("NaN or infinite", len(found["not_finite"]), _few(found["not_finite"])),
        (
            f"force above {FORCE_LIMIT:g} eV/A",
            len(found["large_forces"]),
            _few(found["large_forces"]),
        ),
        ("absurd energy", len(found["absurd_energies"]), _few(found["absurd_energies"])),
        (
            f"within {NEAR:g} A of another",
            len(found["near_duplicates"]),
            _few([f"{a} and {b} ({d:.4f})" for a, b, d in found["near_duplicates"]]),
        ),
    ]
    text = f"# {name}\n\n" + _table(("what", "number", "which"), rows)
    if found.get("forces"):
        keys = ("frame", "atom", "axis", "force", "numerical", "error")
        rows = [tuple(_short(line[key]) for key in keys) for line in found["forces"]]
        text += "\nForces against central differences of energies, eV/A:\n\n" + _table(keys, rows)
    if found.get("equation_of_state"):
        keys = ("crystal", "lattice_constant", "bulk_modulus", "roughness")
        rows = [tuple(_short(line[key]) for key in keys) for line in found["equation_of_state"]]
        head = ("crystal", "a (A)", "B (GPa)", "roughness (meV/atom)")
        text += "\nEquations of state:\n\n" + _table(head, rows)
    wrong = problems(found)
    return text + "\n" + ("Wrong: " + "; ".join(wrong) if wrong else "Nothing is wrong.") + "\n"


def _few(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(map(str, line)) + " |\n" for line in lines)


def _write(file: Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def main() -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("file", type=Path)
    add("--system", choices=list(SYSTEMS), help="which crystals --eos takes")
    add("--forces", type=int, default=0, metavar="N", help="frames whose forces GPAW checks")
    add("--components", type=int, default=2, metavar="K", help="of each such frame (default: 2)")
    add("--eos", action="store_true", help="equations of state by GPAW")
    options = parser.parse_args()
    if options.eos and not options.system:
        parser.error("--eos needs --system")
    try:
        frames = read(options.file)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    found = check(frames)
    if options.forces:
        found["forces"] = force_errors(frames, options.forces, options.components, gpaw_energy)
    if options.eos:
        crystals = SYSTEMS[options.system]
        found["equation_of_state"] = [equation_of_state(e, gpaw_energy) for e in crystals]
    found["wrong"] = problems(found)
    name = options.file.stem
    _write(options.file.with_name(f"{name}.check.json"), json.dumps(found, indent=1) + "\n")
    text = markdown(name, found)
    _write(options.file.with_name(f"{name}.check.md"), text)
    print(text, end="")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
