"""Structures, labels and selections that do not belong together."""

import re
from dataclasses import astuple
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import Hartree
from tiny import EIPS, FREE, total_energy, write_dft, write_labels

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.labels import LabelError, LabelStore
from eipnn.labels.layout import write_zeros
from eipnn.labels.leaderboard import compare
from eipnn.run.experiment import Experiment
from eipnn.stages import source as stages_source
from eipnn.stages.source import EnergyZero, Source, SourceConfig, selected
from eipnn.structures import StructureError, open_pool, read_structures

NAMES = ("dft", "split", "pool", "labels")


def source(tiny, **changed) -> Source:
    paths = {name: tiny.data[name] for name in NAMES}
    return Source(SourceConfig(energy_zero=EnergyZero("none"), **paths | changed))


def test_labels_of_the_same_structures(tiny):
    ids = [*tiny.ids("pool"), *tiny.ids("train")]
    found = source(tiny).energies(ids, EIPS)
    np.testing.assert_array_equal(found, [tiny.eip[name] for name in ids])


def test_an_id_that_has_come_to_mean_another_structure(tiny, tmp_path):
    """As when ids are frame numbers, and a frame has been put before the others."""
    frames = [tiny.frames[name].copy() for name in tiny.ids("pool")]
    names = [atoms.info["config_id"] for atoms in frames]
    for atoms, name in zip(frames, [*names[1:], names[0]], strict=True):
        atoms.info["config_id"] = name
    ase.io.write(tmp_path / "pool.extxyz", frames, format="extxyz")
    moved = source(tiny, pool=str(tmp_path / "pool.extxyz"))
    moved.energies(tiny.ids("train"), EIPS)
    with pytest.raises(LabelError, match=f"has labels of another structure '{names[0]}' with"):
        moved.energies(names, EIPS)


def test_a_pool_of_both_files(tiny, tmp_path):
    """A split may hide DFT frames in the pool, as the authors' own files do."""
    hidden, *train = tiny.ids("train")
    text = Path(tiny.data["split"]).read_text().replace(f"{hidden},train", f"{hidden},pretrain")
    (tmp_path / "split.csv").write_text(text)
    found = source(tiny, split=str(tmp_path / "split.csv"))
    assert set(found.split.pool) == {hidden, *tiny.ids("pool")}
    assert found.split.train == tuple(train)
    assert [len(a) for a in found.structures([hidden])] == [len(tiny.frames[hidden])]
    np.testing.assert_array_equal(found.energies([hidden], EIPS)[0], tiny.eip[hidden])
    (tmp_path / "split.csv").write_text(text + "stranger,pretrain\n")
    with pytest.raises(StructureError, match="pretrain id 'stranger' is in no pool structure file"):
        source(tiny, split=str(tmp_path / "split.csv")).structures(["stranger"])


def test_the_pool_is_read_when_one_of_it_is_asked_for(tiny, monkeypatch):
    reads = []
    monkeypatch.setattr(stages_source, "open_pool", lambda *a: reads.append(1) or open_pool(*a))
    found = source(tiny)
    found.energies([*tiny.ids("train"), *tiny.ids("test")], EIPS)
    assert reads == []
    for _ in range(2):
        assert len(found.structures(tiny.ids("pool"))) == len(tiny.ids("pool"))
    assert reads == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("id,eip\na,sw\n", "column 'config_id' is missing"),
        ("config_id,eip\na,sw\na,none\n", "'a' stands in it twice"),
    ],
)
def test_selections_that_cannot_be_used(tmp_path, text, message):
    file = tmp_path / "selection.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=message):
        selected(file)


def free_atom(symbol, value, **info):
    atoms = Atoms(symbol)
    atoms.calc = SinglePointCalculator(atoms, energy=value)
    atoms.info = {"config_id": f"free-{symbol}", "config_type": "IsolatedAtom"} | info
    return atoms


@pytest.fixture
def with_free_atoms(tiny, tmp_path):
    """The DFT file with free atoms in it, and one whose copper atom is marked for training."""
    frames = [*ase.io.read(tiny.data["dft"], ":"), *(free_atom(*item) for item in FREE.items())]
    ase.io.write(tmp_path / "dft.extxyz", frames)
    text = Path(tiny.data["split"]).read_text()
    (tmp_path / "asked.csv").write_text(text + "free-Cu,train\n")
    return tmp_path


def test_free_atoms_in_the_file_are_the_zero(tiny, with_free_atoms):
    dft = {"dft": str(with_free_atoms / "dft.extxyz")}

    def zeros(mode, energies=None, **paths):
        paths = {name: tiny.data[name] for name in NAMES} | dft | paths
        return Source(SourceConfig(energy_zero=EnergyZero(mode, energies), **paths)).zero.energies

    assert zeros("isolated_atoms") == FREE
    assert zeros("isolated_atoms", {"Cu": FREE["Cu"] + 5e-4})["Au"] == FREE["Au"]
    with pytest.raises(StructureError, match=r"the isolated atom of Cu has -41.0 eV as given, and -40.0"):
        zeros("isolated_atoms", {"Cu": -41.0})
    fitted = zeros("least_squares", dft=tiny.data["dft"])
    assert zeros("least_squares") == fitted
    assert zeros("least_squares", split=str(with_free_atoms / "asked.csv")) == fitted


def test_free_atoms_are_no_frames_unless_asked(tiny, with_free_atoms):
    dft = {"dft": str(with_free_atoms / "dft.extxyz")}
    found = source(tiny, **dft)
    assert not {"free-Cu", "free-Au"} & {i for part in astuple(found.split) for i in part}
    assert list(found.notes()) == ["2 of 32 DFT frames are isolated atoms (Au, Cu): not trained or tested on"]
    asked = source(tiny, **dft, split=str(with_free_atoms / "asked.csv"))
    assert "free-Cu" in asked.split.train
    assert list(asked.notes()) == ["1 of 32 DFT frames are isolated atoms (Au): not trained or tested on"]


def test_frames_in_no_part_are_counted(tiny, tmp_path):
    lines = Path(tiny.data["split"]).read_text().splitlines(keepends=True)
    gone = [line for line in lines if line.endswith((",train\n", ",pretrain\n"))]
    (tmp_path / "split.csv").write_text("".join(line for line in lines if line not in (gone[0], gone[1], gone[-1])))
    marks = [line.strip().split(",") for line in (gone[0], gone[1], gone[-1])]
    lost = [name for name, mark in marks if mark == "train"]
    found = source(tiny, split=str(tmp_path / "split.csv"))
    (note,) = found.notes()
    assert note.startswith(f"{len(lost)} of 30 DFT frames are in no part of the split {tmp_path}")
    assert f"({lost[0]})" in note


def test_test_structures_in_the_pool_are_named(tiny, tmp_path):
    pool, test = ase.io.read(tiny.data["pool"], ":"), tiny.ids("test")[2]
    known = {atoms.info["config_id"]: atoms for atoms in ase.io.read(tiny.data["dft"], ":")}
    name = pool[4].info["config_id"]
    pool[4] = known[test].copy()
    pool[4].info = {"config_id": name}
    ase.io.write(tmp_path / "pool.extxyz", pool)
    found = source(tiny, pool=str(tmp_path / "pool.extxyz"))
    assert list(found.notes()) == []
    (note,) = found.notes(found.split.pool)
    assert note == (
        f"1 of {len(pool)} structures of the pool are also among those for validation or test ({name}): "
        "their errors will be too small"
    )


def changed_dft(tiny, tmp_path, change):
    frames = ase.io.read(tiny.data["dft"], ":")
    change({atoms.info["config_id"]: atoms for atoms in frames})
    ase.io.write(tmp_path / "dft.extxyz", frames)
    return source(tiny, dft=str(tmp_path / "dft.extxyz"))


def test_nothing_to_note(tiny):
    assert list(source(tiny).notes()) == []


@pytest.mark.parametrize("name", ["si_mini", "al_mini", "agau_mini"])
def test_nothing_to_note_of_the_bundled_sets(name):
    split = f"bundled:{name}/splits/random_1.csv"
    found = Source(SourceConfig(f"bundled:{name}/dft.extxyz", split, EnergyZero("none")))
    assert list(found.notes()) == []


def test_a_wild_energy_is_named(tiny, tmp_path):
    wild = tiny.ids("val")[2]
    value = {}

    def change(frames):
        n = len(frames[wild])
        value["off"] = (1e6 - frames[wild].get_potential_energy()) / n
        frames[wild].calc.results["energy"] = 1e6

    (note,) = changed_dft(tiny, tmp_path, change).notes()
    assert f"({wild}): its DFT energy, 1e+06 eV, is +" in note
    assert "eV/atom from the others of its composition; 1 of 30 frames are so far off: correct or" in note
    assert float(note.partition("is +")[2].split()[0]) == pytest.approx(value["off"], abs=2)


def test_structures_of_training_and_test_at_once_are_named(tiny, tmp_path):
    train, test = tiny.ids("train"), tiny.ids("test")

    def change(frames):
        for mine, theirs in ((train[0], test[1]), (train[3], test[4])):
            twin = frames[theirs]
            twin.calc = None
            del twin[:]
            twin.extend(frames[mine])
            twin.cell, twin.pbc = frames[mine].cell, frames[mine].pbc
            energy = frames[mine].get_potential_energy()
            twin.calc = SinglePointCalculator(twin, energy=energy)

    (note,) = changed_dft(tiny, tmp_path, change).notes()
    assert note == (
        "2 of 7 test structures are also among those for training or validation, atom by atom "
        f"({test[1]} is {train[0]}): its error will be too small"
    )


def test_several_files(tiny, tmp_path):
    """As one: the ids are those of the files, or of their names where files are called alike."""
    frames = ase.io.read(tiny.data["dft"], ":")
    for folder, part in (("a", frames[:20]), ("b", frames[20:])):
        (tmp_path / folder).mkdir()
        ase.io.write(tmp_path / folder / "OUT.extxyz", part)
    for dft in (
        [str(tmp_path / "a/OUT.extxyz"), str(tmp_path / "b/OUT.extxyz")],
        str(tmp_path / "*/OUT.extxyz"),
    ):
        found = source(tiny, dft=dft, pool=[tiny.data["pool"]])
        assert found.dft.ids == source(tiny).dft.ids
        np.testing.assert_array_equal(
            found.energies(tiny.ids("test"), ["dft"]), source(tiny).energies(tiny.ids("test"), ["dft"])
        )


@pytest.mark.parametrize("zero", ["none", "least_squares", "isolated_atoms"])
@pytest.mark.parametrize("labels", [True, False])
def test_likely_units_are_said_in_place_of_zeros(tiny, tmp_path, zero, labels):
    """Energies in Hartree, whatever the zero, with labels and without."""
    free = {element: value / Hartree for element, value in FREE.items()}
    frames = ase.io.read(tiny.data["dft"], ":")
    file = write_dft(tmp_path / "dft.extxyz", frames, [a.get_potential_energy() / Hartree for a in frames])
    config = {"dft": str(file), **({} if labels else {"pool": None, "labels": None})}
    split = tmp_path / "split.csv"
    text = Path(tiny.data["split"]).read_text()
    split.write_text(text if labels else re.sub("pool_.*\n", "", text))
    zeros = EnergyZero(zero, free if zero == "isolated_atoms" else None)
    paths = {name: tiny.data[name] for name in NAMES} | config | {"split": str(split)}
    found = Source(SourceConfig(energy_zero=zeros, **paths)).warnings(EIPS if labels else ())
    assert len(found) == 1
    assert found[0].startswith(f"{file}: the energies vary")
    assert "Hartree" in found[0]
    assert "Total energies in eV are due" in found[0]


def test_right_units_are_not_spoken_of(tiny):
    zero = EnergyZero("isolated_atoms", dict(FREE))
    paths = {name: tiny.data[name] for name in NAMES}
    right = Source(SourceConfig(energy_zero=zero, **paths))
    assert right.warnings(EIPS) == right.warnings(()) == []


def test_an_eip_that_a_stage_does_not_use_does_not_end_it(tiny, tmp_path):
    """``far`` has no label: its zero cannot be fitted, and nobody asks for it."""
    energies = np.array([tiny.eip[name] for name in tiny.frames])
    energies[:, 2] = np.nan
    labels = write_labels(tmp_path / "labels", list(tiny.frames.values()), energies)
    paths = {name: tiny.data[name] for name in NAMES} | {"labels": str(labels)}
    zeros = {"*": EnergyZero("least_squares")}
    config = SourceConfig(energy_zero=EnergyZero("least_squares"), eip_energy_zero=zeros, **paths)
    found = Source(config)
    assert found.warnings(EIPS) == []
    found.require_labels(found.split.train, ["cu.1", "au"])
    with pytest.raises(LabelError, match="the EIP far has no label of any of the 18 structures"):
        found.require_labels(found.split.train, EIPS)
    with pytest.raises(InputError, match="far: 0 labelled frames do not determine"):
        found.references(["far"])


def test_an_eip_has_the_zero_that_it_names(tiny, tmp_path):
    """``au`` gives totals: where nothing is given its zero is fitted, in training, in runs and on the leaderboard."""
    energies = np.array([tiny.eip[name] for name in tiny.frames])
    energies[:, 1] = [total_energy(atoms, tiny.cohesive[name]) for name, atoms in tiny.frames.items()]
    folder = write_labels(tmp_path / "labels", list(tiny.frames.values()), energies)
    data = {name: tiny.data[name] for name in NAMES} | {"labels": str(folder)}

    def reference(name: str, **given):
        return Source(SourceConfig(energy_zero=EnergyZero("isolated_atoms", dict(FREE)), **data, **given)).reference(
            name
        )

    def of_runs(**given):
        return Experiment(data | given, {}).eip_energy_zero

    assert reference("au").mode == "none"  # of a store of before
    assert of_runs() is None
    modes = {"cu.1": "none", "au": "least_squares", "far": "none"}
    write_zeros(folder, [EIP(name, "ase", "x.Y", zero=mode) for name, mode in modes.items()])
    assert reference("au").energies == pytest.approx(FREE)
    assert reference("cu.1").mode == "none"
    assert reference("au", eip_energy_zero="none").mode == "none"  # what is given wins
    assert of_runs() == {name: {"mode": mode} for name, mode in modes.items()}
    assert of_runs(eip_energy_zero="none") == "none"
    board = compare(read_structures(tiny.data["dft"]), LabelStore.open(folder), "isolated_atoms", FREE)
    assert (np.abs(board.labels - board.dft[:, None]).max(axis=0) < 1e-6).tolist() == [False, True, False]
    write_zeros(folder, [])
    assert of_runs() is None


def test_one_composition_is_said_with_the_other_warnings(tiny, tmp_path):
    frames = [Atoms("CuAu", [[0, 0, 0], [0, 0, 2.4 + 0.05 * k]]) for k in range(12)]
    file = write_dft(tmp_path / "dft.extxyz", frames, [-10 - 0.1 * k for k in range(12)])
    split = tmp_path / "split.csv"
    marks = ["train"] * 9 + ["val", "test", "test"]
    split.write_text("configs,mark\n" + "".join(f"dft_{k:06d},{m}\n" for k, m in enumerate(marks)))
    config = SourceConfig(energy_zero=EnergyZero("least_squares"), dft=str(file), split=str(split))
    found = Source(config)
    assert found.zero.energies == pytest.approx({"Cu": -5.2, "Au": -5.2})
    assert any("energies of other compositions are not determined" in t for t in found.warnings(()))


@pytest.mark.parametrize("name", ["si_mini", "al_mini", "agau_mini"])
@pytest.mark.parametrize("zero", ["none", "least_squares"])
def test_units_of_the_bundled_sets_are_not_spoken_of(name, zero):
    names = {"dft": "dft.extxyz", "pool": "pool.extxyz", "labels": "labels"}
    paths = {key: f"bundled:{name}/{file}" for key, file in names.items()}
    found = Source(SourceConfig(energy_zero=EnergyZero(zero), split=f"bundled:{name}/splits/random_1.csv", **paths))
    eips = found.store.eips
    texts = [t for used in (eips, eips[:1], ()) for t in found.warnings(used)]
    assert not [t for t in texts if "due" in t]
