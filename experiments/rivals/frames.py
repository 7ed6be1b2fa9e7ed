"""The frames of an `eipnn run`, as files that other tools read.

    python experiments/rivals/frames.py si_mini --split 1 --frames 50 -o runs/rivals/si_mini-1-50

writes train, val and test.extxyz (energy, forces, stress; eV, A) and about.json with the energies of free atoms. They
are those of `eipnn run ... --split 1 --frames 50` with seed 0 on a bundled set, in the same order.
"""

import argparse
import json
from pathlib import Path

import ase.io

from eipnn.structures import fewer_frames, read_split, read_structures, resolve


def write(data: str, split: int, frames: int | None, folder: Path) -> None:
    """Write the files.

    Args:
        data: name of a bundled set.
        split: number.
        frames: for training and validation together; none: all of the split.
        folder: where to.
    """
    parts = read_split(f"bundled:{data}/splits/random_{split}.csv")
    if frames is not None:
        parts = fewer_frames(parts, frames, seed=0)
    known = {atoms.info["config_id"]: atoms for atoms in read_structures(f"bundled:{data}/dft.extxyz")}
    folder.mkdir(parents=True, exist_ok=True)
    about = {"data": data, "split": split, "frames": frames or "all"}
    for part in ("train", "val", "test"):
        chosen = [known[name] for name in getattr(parts, part)]
        for atoms in chosen:
            atoms.info = {"config_id": atoms.info["config_id"]}
        ase.io.write(folder / f"{part}.extxyz", chosen, format="extxyz")
        about[part] = len(chosen)
    elements = sorted({symbol for atoms in known.values() for symbol in set(atoms.symbols)})
    free = json.loads(resolve(f"bundled:{data}/isolated_atoms.json").read_text())
    about["free_atoms_eV"] = {element: free[element] for element in elements}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="si_mini, al_mini or agau_mini")
    parser.add_argument("--split", type=int, default=1)
    parser.add_argument("--frames", type=int)
    parser.add_argument("-o", "--output", type=Path, required=True)
    given = parser.parse_args()
    write(given.data, given.split, given.frames, given.output)
