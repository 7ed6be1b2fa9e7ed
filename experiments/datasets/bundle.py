r"""Put a small DFT set together as the package ships it: frames in order, isolated atoms, three splits.

    python experiments/datasets/bundle.py al_part1.extxyz al_part2.extxyz -o eipnn/data/al_mini --hidden 0.5
    eipnn generate ... -o eipnn/data/al_mini/pool.extxyz
    python experiments/datasets/bundle.py --splits -o eipnn/data/al_mini --hidden 0.5
    eipnn label eipnn/data/al_mini/dft.extxyz eipnn/data/al_mini/pool.extxyz --eips aluminium \
        -o eipnn/data/al_mini/labels

Frames with the same ``config_id``, near-duplicates (see the report's section on them) and frames beyond the limits
below are left out and named. ``splits/random_K.csv`` follows the paper's rule with ``pool.extxyz`` as the pool, where
it is there; ``splits/hidden_K.csv`` hides the DFT energies of a share of the frames and makes these the pool, as the
paper did with ANI-Al, and splits the rest by the same rule.
"""

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from eipnn.files import write_json
from eipnn.report.duplicates import THRESHOLD, near_duplicates
from eipnn.structures import Split, random_split, read_structures, write_split

SPLITS = (1, 2, 3)
LARGEST_FORCE = 30.0  # eV/A
ISOLATED = {"Al": -0.29646709349057404, "Ag": -0.06402814175255137, "Au": -0.0957583212999419}
"""eV, of ``dft_mini.py --isolated``."""


def main() -> None:
    """Write what is asked for, and say what was left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", type=Path, help="files of dft_mini.py")
    parser.add_argument("-o", dest="folder", type=Path, required=True)
    parser.add_argument("--hidden", type=float, default=0.5, help="share of hidden frames")
    parser.add_argument("--splits", action="store_true", help="write the splits alone, again")
    options = parser.parse_args()
    if not options.splits:
        bundle(options.parts, options.folder)
    write_splits(options.folder, options.hidden)


def bundle(parts: list[Path], folder: Path) -> None:
    """Write ``dft.extxyz`` and ``isolated_atoms.json``."""
    frames: dict[str, Atoms] = {}
    for part in parts:
        for atoms in ase.io.read(part, ":"):
            frames.setdefault(atoms.info["config_id"], atoms)
    kept = sound([frames[name] for name in sorted(frames)])
    kept = distinct(kept)
    folder.mkdir(parents=True, exist_ok=True)
    ase.io.write(folder / "dft.extxyz", kept, format="extxyz")
    elements = sorted({symbol for atoms in kept for symbol in atoms.symbols})
    write_json(folder / "isolated_atoms.json", {element: ISOLATED[element] for element in elements})
    print(f"{len(kept)} frames of {len(frames)}, {sum(map(len, kept))} atoms")


def sound(frames: list[Atoms]) -> list[Atoms]:
    """Frames with finite energy and forces, none of these beyond `LARGEST_FORCE`."""
    kept = []
    for atoms in frames:
        force = np.abs(atoms.get_forces()).max()
        if np.isfinite(atoms.get_potential_energy()) and force <= LARGEST_FORCE:
            kept.append(atoms)
        else:
            print(f"{atoms.info['config_id']}: left out, largest force {force:.1f} eV/A")
    return kept


def distinct(frames: list[Atoms]) -> list[Atoms]:
    """Frames without the later one of each pair of near-duplicates."""
    order = {atoms.info["config_id"]: place for place, atoms in enumerate(frames)}
    later = set()
    for one, other, distance in near_duplicates(frames, frames, THRESHOLD):
        if order[one] < order[other]:
            print(f"{other}: left out, {distance:.4f} A from {one}")
            later.add(other)
    return [atoms for atoms in frames if atoms.info["config_id"] not in later]


def write_splits(folder: Path, hidden: float) -> None:
    """Write the splits of ``dft.extxyz``."""
    ids = [atoms.info["config_id"] for atoms in read_structures(folder / "dft.extxyz")]
    pool = folder / "pool.extxyz"
    others = [a.info["config_id"] for a in read_structures(pool)] if pool.exists() else []
    for number in SPLITS:
        if others:
            write_split(random_split(ids, others, number), folder / f"splits/random_{number}.csv")
        write_split(hidden_split(ids, hidden, number), folder / f"splits/hidden_{number}.csv")


def hidden_split(ids: list[str], share: float, seed: int) -> Split:
    """A share of the frames as the pool, the others by the paper's rule."""
    order = np.random.default_rng([seed, 1]).permutation(len(ids))
    there = round((1 - share) * len(ids))
    known = [ids[place] for place in sorted(order[:there])]
    return random_split(known, [ids[place] for place in sorted(order[there:])], seed)


if __name__ == "__main__":
    main()
