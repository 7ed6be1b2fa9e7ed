"""Which potentials survive molecular dynamics: runs at constant energy, and ramps of temperature, of many seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import process_time
from typing import NamedTuple

import ase.io
import numpy as np
import pandas as pd
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from eipnn.check.dynamics import FRICTION, LOOK, RAMP, broken, drift, set_momenta
from eipnn.command_line import Count, Positive, script
from eipnn.errors import InputError
from eipnn.files import write_atomically
from eipnn.neighbours import pairs
from eipnn.potential.committee import Committee
from eipnn.progress import progress_bar
from eipnn.report.plots import PALETTE, canvas, legend_aside

SETTLE = 0.5
"""ps of Langevin dynamics before a run at constant energy."""
REACH = 3.0
"""A within which the closest pair is looked for."""
KEY = ["potential", "run", "seed", "step_fs", "length_ps"]


@dataclass
class Replica:
    """One run: its atoms, their energy (eV) and forces (eV/A), and what became of it."""

    seed: int
    atoms: Atoms
    rng: np.random.Generator
    energy: float = np.nan
    forces: np.ndarray = field(default_factory=lambda: np.zeros(0))
    rows: list[tuple[float, float, float]] = field(default_factory=list)
    """Time (ps), potential and kinetic energy (eV), in every step up to the last good look."""
    looks: list[tuple[float, float, float, float]] = field(default_factory=list)
    """Time (ps), what is set and what is (K), and the closest pair (A)."""
    problem: str = ""


class Part(NamedTuple):
    """Of a run: steps, their length (fs), the temperature (K) by the share that is done, and whether a thermostat keeps
    it."""

    steps: int
    step: float
    temperature: Callable[[float], float]
    thermostat: bool


def survival(
    potentials: list[str],
    *,
    output: Path,
    structure: Path | None = None,
    seeds: Count = 10,
    batch: Count = 10,
    runs: list[str] | None = None,
    step: Positive = 2.0,
    nve: Positive = 10.0,
    ramp: Positive = 5.0,
    temperature: Positive = 600.0,
    tabulate: bool = False,
) -> None:
    """Molecular dynamics of each potential from several seeds: the share that survives, and the drift of energy.

    Writes OUTPUT/runs.csv (a line a run), looks.csv (temperature and closest pair over time) and survival.png. What
    stands in runs.csv is not run again.

    Args:
        potentials: NAME=FILE of each, a potential or a committee.
        output: folder of the tables.
        structure: start of all runs, a file that ASE reads (default: 64 atoms of silicon in diamond).
        seeds: runs of each potential and kind.
        batch: runs that go through the network together.
        runs: nve heating, or one of them (default: both).
        step: fs.
        nve: ps of a run at constant energy.
        ramp: ps of a ramp from 300 to 3000 K.
        temperature: K, of the runs at constant energy.
        tabulate: read functions of the distance from tables; for SchNet.
    """
    start: Atoms = ase.io.read(structure) if structure else bulk("Si", "diamond", 5.43, cubic=True).repeat(2)
    torch.set_flush_denormal(True)
    lengths = {"heating": ramp, "nve": nve}
    if unknown := set(runs or []) - set(lengths):
        raise InputError(f"--runs: there is no {min(unknown)!r}; the runs are {', '.join(lengths)}")
    for word in potentials:
        name, _, file = word.partition("=")
        committee = loaded(file, tabulate)
        for run in runs or lengths:
            steps = round(1000 * lengths[run] / step)
            first = partial(settle, step=step, temperature=temperature) if run == "nve" else warm
            aim = (lambda share: temperature) if run == "nve" else (lambda share: RAMP[0] + share * (RAMP[1] - RAMP[0]))
            key = {"potential": name, "run": run, "step_fs": step, "length_ps": lengths[run]}
            for some in missing(output, key, seeds, batch):
                replicas = [Replica(seed, start.copy(), np.random.default_rng(seed)) for seed in some]
                begun = process_time()
                first(committee, replicas)
                follow(committee, replicas, Part(steps, step, aim, run == "heating"), f"{name}, {run}")
                write(output, key, replicas, (process_time() - begun) / len(some))
    table = read(output / "runs.csv")
    draw(output / "survival.png", table, read(output / "looks.csv"))
    print(summary(table).to_markdown(index=False))


def loaded(file: str, tabulate: bool) -> Committee:
    committee = Committee.load(file)
    for potential in committee.potentials:
        if potential.eip:
            raise InputError(f"{file}: gives DFT less the EIP {potential.delta_eip}; take a potential of its own")
        potential.requires_grad_(False)
        if tabulate:
            potential.representation = potential.representation.tabulate()
    return committee


def read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file) if file.exists() else pd.DataFrame(columns=KEY)


def missing(output: Path, key: dict, seeds: int, batch: int) -> list[list[int]]:
    """The seeds that have no line in runs.csv yet, in parts of one batch each."""
    known = read(output / "runs.csv")
    done = known[np.logical_and.reduce([known[name] == value for name, value in key.items()])]["seed"]
    left = sorted(set(range(seeds)) - set(done))
    return [left[k : k + batch] for k in range(0, len(left), batch)]


def warm(committee: Committee, replicas: Sequence[Replica]) -> None:
    """Begin a ramp: a crystal at rest takes half of the kinetic energy as potential energy."""
    for replica in replicas:
        set_momenta(replica.atoms, 2 * RAMP[0], replica.rng)


def settle(committee: Committee, replicas: Sequence[Replica], step: float, temperature: float) -> None:
    """Bring crystals to a temperature (K), so that what follows at constant energy has it on the mean."""
    for replica in replicas:
        set_momenta(replica.atoms, 2 * temperature, replica.rng)
    part = Part(round(1000 * SETTLE / step), step, lambda share: temperature, thermostat=True)
    follow(committee, replicas, part, "settling")
    for replica in replicas:
        if replica.problem:
            replica.problem = f"while it settled: {replica.problem}"
        else:
            replica.rows, replica.looks = [], []


def follow(committee: Committee, replicas: Sequence[Replica], part: Part, name: str) -> None:
    """Move the replicas that are whole by velocity Verlet, and a Langevin thermostat behind each step, up to the end or
    until the last one breaks (`eipnn.check.dynamics.broken`)."""
    dt, going = part.step * units.fs, whole(replicas)
    if going:
        evaluate(committee, going)
        record(going, 0, part)
    with progress_bar(name, part.steps, "steps") as move:
        for k in range(1, part.steps + 1):
            if not (going := whole(going)):
                break
            for replica in going:
                momenta = replica.atoms.get_momenta() + dt / 2 * replica.forces
                replica.atoms.positions += dt * momenta / replica.atoms.get_masses()[:, None]
                replica.atoms.set_momenta(momenta)
            evaluate(committee, going)
            aim = part.temperature(k / part.steps)
            for replica in going:
                replica.atoms.set_momenta(replica.atoms.get_momenta() + dt / 2 * replica.forces)
                if part.thermostat:
                    kick(replica, FRICTION * part.step, aim)
            record(going, k, part)
            move(1, f"{len(going)} of {len(replicas)} whole")


def whole(replicas: Sequence[Replica]) -> list[Replica]:
    return [replica for replica in replicas if not replica.problem]


def evaluate(committee: Committee, replicas: Sequence[Replica]) -> None:
    """Energies and forces of all replicas, in one call of each network: the mean of the members."""
    graphs = committee.graphs([replica.atoms for replica in replicas])
    found = [p.predict(g, ("energy", "forces")) for p, g in zip(committee.potentials, graphs, strict=True)]
    energies = torch.stack([properties.energy for properties in found]).mean(dim=0).numpy()
    forces = torch.stack([properties.forces for properties in found]).double().mean(dim=0).numpy()
    for replica, energy, slope in zip(replicas, energies, np.split(forces, len(replicas)), strict=True):
        replica.energy, replica.forces = float(energy), slope


def kick(replica: Replica, friction: float, temperature: float) -> None:
    """The exact step of Ornstein and Uhlenbeck for the momenta; `friction` times the time has no unit."""
    keep, masses = np.exp(-friction), replica.atoms.get_masses()[:, None]
    width = np.sqrt((1 - keep**2) * masses * units.kB * temperature)
    momenta = keep * replica.atoms.get_momenta() + width * replica.rng.standard_normal((*masses.shape[:1], 3))
    replica.atoms.set_momenta(momenta)


def record(replicas: Sequence[Replica], k: int, part: Part) -> None:
    """Note energies after step k; every few steps look whether the atoms are whole, and how close they are."""
    time, aim = k * part.step / 1000, part.temperature(k / part.steps)
    for replica in replicas:
        atoms = replica.atoms
        replica.rows.append((time, replica.energy, atoms.get_kinetic_energy()))
        if not np.isfinite(replica.forces).all():
            replica.problem = "forces are NaN"
        elif k % LOOK == 0:
            atoms.calc = SinglePointCalculator(atoms, energy=replica.energy)
            replica.problem = broken(atoms, aim)
            closest = pairs(atoms, REACH)[2].min(initial=REACH)
            replica.looks.append((time, aim, atoms.get_temperature(), closest))


def write(output: Path, key: dict, replicas: Sequence[Replica], seconds: float) -> None:
    """Add the replicas to both tables."""
    known = {"seconds": round(seconds, 1)}
    lines = pd.DataFrame([key | line(replica, key["run"] == "nve") | known for replica in replicas])
    columns = ["ps", "set_K", "K", "closest_A"]
    looks = [
        pd.DataFrame([*replica.looks[:-1:2], replica.looks[-1]], columns=columns).assign(seed=replica.seed)
        for replica in replicas
    ]
    tables = {"runs.csv": lines, "looks.csv": pd.concat(looks).assign(potential=key["potential"], run=key["run"])}
    for name, table in tables.items():
        known = [read(output / name)] if (output / name).exists() else []
        write_atomically(output / name, pd.concat([*known, table.round(5)]).to_csv(index=False))


def line(replica: Replica, kept: bool) -> dict:
    """What became of a run; where energy is to be `kept`, the slope of the total energy and its error, by means of
    blocks, in meV/atom/ps."""
    rows, looks, n = np.array(replica.rows).T, np.array(replica.looks).T, len(replica.atoms)
    slope, error, _ = drift(*rows) if kept and not replica.problem else (np.nan,) * 3
    return {
        "seed": replica.seed,
        "atoms": n,
        "survived": not replica.problem,
        "until_ps": rows[0, -1],
        "until_set_K": looks[1, -1] if looks.size else np.nan,
        "mean_K": looks[2].mean() if looks.size else np.nan,
        "closest_A": looks[3].min() if looks.size else np.nan,
        "drift": 1000 * slope / n,
        "drift_error": 1000 * error / n,
        "problem": replica.problem,
    }


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A line a potential and kind of run; the drift is that of the runs at constant energy, with the standard error
    over seeds, which are independent."""
    found = []
    for (name, run), rows in table.groupby(["potential", "run"], sort=False):
        slopes = rows["drift"].dropna()
        broke = rows[~rows["survived"]]
        found.append(
            {
                "potential": name,
                "run": run,
                "survived": f"{rows['survived'].sum()} of {len(rows)}",
                "broke at, K set": ", ".join(f"{kelvin:.0f}" for kelvin in sorted(broke["until_set_K"])),
                "closest pair, A": f"{rows['closest_A'].min():.2f}",
                "drift, meV/atom/ps": f"{slopes.mean():.4f} ± {slopes.sem():.4f}" if len(slopes) else "",
                "of one run": f"± {rows['drift_error'].mean():.4f}" if len(slopes) else "",
            }
        )
    return pd.DataFrame(found)


def draw(file: Path, table: pd.DataFrame, looks: pd.DataFrame) -> None:
    """The closest pair of each ramp, with a cross where it broke, and the drift of each run at constant energy."""
    colours = [*PALETTE, "0.6"]
    with canvas(file, 11.5, 4.4, columns=2) as (figure, (left, right)):
        for number, (name, rows) in enumerate(table.groupby("potential", sort=False)):
            colour = colours[number % len(colours)]
            ramps = looks[(looks["potential"] == name) & (looks["run"] == "heating")]
            for _, ramp in ramps.groupby("seed"):
                left.plot(ramp["set_K"], ramp["closest_A"], color=colour, linewidth=0.7, alpha=0.6)
            ends = ramps.groupby("seed").last()[~rows[rows["run"] == "heating"].set_index("seed")["survived"]]
            left.plot(ends["set_K"], ends["closest_A"], "X", color=colour, markersize=8, clip_on=False)
            kept = rows[(rows["run"] == "nve") & rows["survived"]]
            places = kept["seed"] + 0.1 * number  # side by side
            right.errorbar(places, kept["drift"], kept["drift_error"], fmt="o", color=colour, markersize=4)
            left.plot([], [], color=colour, label=name)
        left.set(xlabel="temperature that is set (K)", ylabel="closest pair (A)", title="ramps")
        right.set(xlabel="seed", ylabel="drift (meV/atom/ps)", title="constant energy")
        right.axhline(0, color="0.6", linewidth=1)
        left.grid()
        right.grid()
        legend_aside(figure, left)


if __name__ == "__main__":
    raise SystemExit(script(survival))
