"""`eipnn inspect`: its numbers, its picture, and what it takes for mistakes."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import covalent_radii
from ase.io import write
from ase.neighborlist import neighbor_list
from ase.units import Bohr, GPa, Hartree
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import exit_code

from eipnn.inspect.mistakes import mistakes
from eipnn.inspect.survey import Survey
from eipnn.structures import StructureStore, open_structures


def labelled(atoms: Atoms, **labels: object) -> Atoms:
    """With labels of EMT, where others are not given."""
    atoms.calc = EMT()
    names = ("energy", "forces", "stress")[: 3 if atoms.pbc.all() else 2]
    known = {name: atoms.calc.get_property(name, atoms) for name in names}
    atoms.calc = SinglePointCalculator(atoms, **known | labels)
    return atoms


def alloys() -> list[Atoms]:
    """Forty cells of copper and gold, strained and displaced."""
    frames = []
    for k in range(40):
        atoms = bulk("Cu", cubic=True, a=3.75 + 0.1 * np.sin(k)) * (1, 1, 1 + k % 2)
        atoms.symbols[: k % 4] = "Au"
        atoms.rattle(0.1, seed=k)
        atoms.info["config_id"] = f"frame-{k}"
        frames.append(labelled(atoms))
    return frames


def scaled(**factors: float) -> Callable[[list[Atoms]], None]:
    def change(frames: list[Atoms]) -> None:
        for atoms in frames:
            for name, factor in factors.items():
                atoms.calc.results[name] = atoms.calc.results[name] * factor

    return change


def without(name: str, *rows: int) -> Callable[[list[Atoms]], None]:
    def change(frames: list[Atoms]) -> None:
        for row in rows:
            del frames[row].calc.results[name]

    return change


def zeros(frames: list[Atoms]) -> None:
    scaled(forces=0.0)(frames[:2])


def virials(frames: list[Atoms]) -> None:
    for atoms in frames:
        atoms.calc.results["stress"] = -atoms.get_stress() * atoms.get_volume()


def in_bohr(frames: list[Atoms]) -> None:
    for atoms in frames:
        atoms.positions /= Bohr
        atoms.cell /= Bohr


def slipped_digit(frames: list[Atoms]) -> None:
    frames[7].calc.results["energy"] += 400.0


def wild_force(frames: list[Atoms]) -> None:
    frames[8].calc.results["forces"][2] = 3000.0


def constrained(frames: list[Atoms]) -> None:
    frames[9].calc.results["forces"][0] = 0.0


def close_pair(frames: list[Atoms]) -> None:
    frames[3].positions[1] = frames[3].positions[0] + [0, 0, 1.3]


def again(frames: list[Atoms]) -> None:
    frames.append(frames[5].copy())
    frames[-1].calc = frames[5].calc
    frames[-1].info["config_id"] = "twin"


def again_with_another_energy(frames: list[Atoms]) -> None:
    again(frames)
    frames[-1].calc = SinglePointCalculator(frames[-1], **frames[5].calc.results | {"energy": 1.0})


def unmarked_atom(frames: list[Atoms]) -> None:
    box = Atoms("Au", cell=np.eye(3) * 12, pbc=True, info={"config_id": "atom"})
    frames.append(labelled(box))


def two_free_atoms(frames: list[Atoms]) -> None:
    for energy in (-0.5, -0.6):
        atoms = Atoms("Au", info={"config_id": f"free {energy}", "config_type": "IsolatedAtom"})
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        frames.append(atoms)


PLACE = r"my.extxyz: frame {0} \(frame-{0}\): "
MISTAKES = {
    "energies in Hartree": (scaled(energy=1 / Hartree), "my.extxyz: the energies vary .*Hartree"),
    "forces in Hartree/bohr": (scaled(forces=Bohr / Hartree), "the forces are .*Hartree/bohr"),
    "stress in GPa": (scaled(stress=1 / GPa), "my.extxyz: the stress is .* times what goes with the forces: .*GPa"),
    "stress of VASP": (scaled(stress=-10 / GPa), "kbar.* positive under pressure"),
    "stress against pressure": (scaled(stress=-1.0), "the forces: positive under pressure"),
    "virials": (virials, "the forces: .*virials.*positive under pressure"),
    "forces that nothing goes with": (scaled(forces=1e3), "forces are|half of the frames have a force beyond 50 eV/A"),
    "bohr": (in_bohr, "neighbours are .* times the sum of their covalent radii apart: bohr"),
    "no energies": (without("energy", *range(40)), "no frame has an energy: right for a pool"),
    "zero energies": (scaled(energy=0.0), "all energies are 0 eV"),
    "an energy missing": (without("energy", 4), PLACE.format(4) + r"energies missing \(1 of 40 frames\); DFT"),
    "forces missing": (without("forces", 4, 6), PLACE.format(4) + r"forces missing \(2 of 40 frames\)"),
    "stress missing": (without("stress", 6), PLACE.format(6) + r"stress missing \(1 of 40 periodic frames\)"),
    "zero forces": (zeros, r"forces of 2 of 40 frames .* exactly 0 .*\(frame-0\)"),
    "slipped digit": (slipped_digit, PLACE.format(7) + r"its DFT energy, .* is \+.* eV/atom from the others"),
    "wild force": (wild_force, PLACE.format(8) + r"its largest force, 5.2e\+03 eV/A, is far above the others' \(1 of"),
    "constraints": (constrained, PLACE.format(9) + r"its forces add up to .* eV/A an atom \(1 of 40 frames\)"),
    "close atoms": (close_pair, PLACE.format(3) + r"Au-Au 1.30 A apart, 0.48 of the sum of .*\(1 of 40 frames"),
    "twin": (again, r"my.extxyz: frame 40 \(twin\): is frame-5 again, atom by atom \(1 of 41 frames"),
    "twin with another energy": (again_with_another_energy, r"\(twin\): is frame-5 again, .* with 0.1250 eV/atom"),
    "free atom without a mark": (unmarked_atom, r"frame 40 \(atom\): one atom in vacuum \(1 such frames\); mark"),
    "free atoms that differ": (two_free_atoms, "this isolated atom of Au has -0.6 eV, another one -0.5 eV"),
}  # fmt: skip


def said(frames: list[Atoms]) -> list[str]:
    store = StructureStore.of(frames)
    store.files = [(Path("my.extxyz"), len(frames))]
    return list(mistakes(Survey(store), "my.extxyz"))


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told(case):
    change, message = MISTAKES[case]
    frames = alloys()
    change(frames)
    texts = said(frames)
    assert any(re.search(message, text) for text in texts), texts
    # one mistake, one warning: but for what follows from it
    assert len(texts) <= 2, texts


def test_no_false_alarm():
    assert said(alloys()) == []
    for name in ("si_mini", "al_mini", "agau_mini"):
        assert list(mistakes(Survey(open_structures(f"bundled:{name}/dft.extxyz")), name)) == []


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_shortest_distances_are_those_of_ase(sizes, seed, pbc):
    random = np.random.default_rng(seed)
    frames, expected = [], {}
    for row, size in enumerate(sizes):
        symbols = random.choice(["H", "Si", "Au"], size)
        atoms = Atoms(symbols, cell=np.eye(3) * 3 + random.normal(0, 0.3, (3, 3)), pbc=pbc)
        atoms.positions = random.uniform(0, 3, (size, 3))
        i, j, d = neighbor_list("ijd", atoms, 4 * covalent_radii[atoms.numbers].max())
        for a, b, length in zip(atoms.numbers[i], atoms.numbers[j], d, strict=True):
            key = row, min(a, b), max(a, b)
            expected[key] = min(expected.get(key, np.inf), length)
        frames.append(atoms)
    rows, first, second, lengths = Survey(StructureStore.of(frames)).distances
    found = dict(zip(zip(rows.tolist(), first.tolist(), second.tolist(), strict=True), lengths, strict=True))
    assert found == pytest.approx(expected)


def test_numbers_of_the_tables():
    frames = alloys()
    del frames[0].calc.results["stress"]
    survey = Survey(StructureStore.of(frames))
    lines = {line["elements"]: line for line in survey.of_elements()}
    assert lines["Cu"] | {"elements": ""} == {
        "elements": "",
        "frames": 10,
        "atoms": "4",
        "periodic axes": "3: 10",
        "energies": 10,
        "forces": 10,
        "stress": 9,
    }
    assert lines["Au-Cu"]["atoms"] == "4 to 8"
    assert survey.formulas() == {"Cu": 10, "AuCu": 10, "Au3Cu5": 10, "AuCu7": 10}
    ranges = {line[""]: line for line in survey.ranges()}
    energies = [atoms.get_potential_energy() / len(atoms) for atoms in frames]
    assert ranges["energy (eV/atom)"]["highest"] == pytest.approx(max(energies))
    lengths = np.concatenate([np.linalg.norm(atoms.get_forces(), axis=1) for atoms in frames])
    assert ranges["force (eV/A)"]["known"] == len(lengths)
    assert ranges["force (eV/A)"]["median"] == pytest.approx(np.median(lengths))
    pressures = [atoms.get_stress()[:3].mean() / GPa for atoms in frames[1:]]
    assert ranges["normal stress (GPa)"]["lowest"] == pytest.approx(min(pressures))
    assert ranges["shear stress (GPa)"]["known"] == 3 * 39
    # shifted by one energy an element, as that of another code
    before = survey.left
    for atoms in frames:
        atoms.calc.results["energy"] += -100.0 * len(atoms) - 7.0 * (atoms.symbols == "Au").sum()
    np.testing.assert_allclose(Survey(StructureStore.of(frames)).left, before, atol=1e-8)


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(here, capsys):
    frames = alloys()
    wild_force(frames)
    write("a.extxyz", frames[:20])
    write("b.extxyz", frames[20:])
    assert exit_code("inspect", "?.extxyz") == 0
    output, _ = capsys.readouterr()
    first, *_, last = output.strip().splitlines()
    assert first == "?.extxyz: 40 frames, 240 atoms; energies of 40, forces of 40, stress of 40 frames"
    assert "Cu-Au" in output
    assert "inspect.png: histograms" in output
    assert last.startswith("WARNING: a.extxyz: frame 8 (frame-8): its ")
    assert Path("inspect.png").stat().st_size > 20_000
    assert "compositions: Cu 10, " in output
    assert max(map(len, output.split("inspect.png")[0].splitlines()[1:])) <= 80
    assert exit_code("inspect", "a.extxyz", "-o", "pictures/a.svg") == 0
    svg = Path("pictures/a.svg").read_text()
    assert svg.startswith("<?xml")


def test_files_without_labels_and_single_frames(here, capsys):
    write("pool.extxyz", [bulk("Si"), Atoms("Si")])
    assert exit_code("inspect", "pool.extxyz") == 0
    assert "no frame has an energy: right for a pool" in capsys.readouterr().out
    write("one.extxyz", labelled(Atoms("Cu")))
    assert exit_code("inspect", "one.extxyz") == 0
    output = capsys.readouterr().out
    assert "one.extxyz: 1 frames, 1 atoms; energies of 1, forces of 1, stress of 0 frames" in output
    free = labelled(Atoms("Cu", info={"config_type": "IsolatedAtom"}), energy=-1.5)
    write("free.extxyz", [free, *alloys()])
    assert exit_code("inspect", "free.extxyz") == 0
    output = capsys.readouterr().out
    assert "free atoms: Cu -1.5 eV" in output
    assert "WARNING" not in output


def test_keys_and_what_cannot_be_read(here, capsys):
    frames = alloys()
    for atoms in frames:
        atoms.info["REF_energy"] = atoms.get_potential_energy() - 1.0
    write("a.extxyz", frames)
    assert exit_code("inspect", "a.extxyz") == 1
    assert "frame 0 (frame-0): the keys 'energy' and 'REF_energy' give different energy" in capsys.readouterr().err
    assert exit_code("inspect", "a.extxyz", "--energy-key", "REF_energy", "--stress-key", "stress") == 0
    assert exit_code("inspect", "a.extxyz", "--energy-key", "energy", "--forces-key", "x") == 1
    assert (
        "no frame has the forces key 'x'; the frames carry REF_energy, energy, forces, stress"
        in capsys.readouterr().err
    )
    assert exit_code("inspect", "a.extxyz", "-o", "a.txt") == 1
    assert "--output a.txt: must end in .png, .pdf or .svg" in capsys.readouterr().err
    assert not Path("a.txt").exists()


def test_ten_thousand_frames_take_seconds():
    frames = alloys() * 50
    for k, atoms in enumerate(frames):
        atoms.info["config_id"] = str(k)
    store = StructureStore.of(frames)
    start = time.process_time()
    survey = Survey(store)
    survey.of_elements(), survey.ranges(), survey.closest(), list(mistakes(survey, "x"))
    assert time.process_time() - start < 10  # for a fifth of them, on a machine five times as slow
