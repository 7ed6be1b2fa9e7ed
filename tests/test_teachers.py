"""Potentials of eipnn, ensembles of them and foundation models as sources of labels."""

import hashlib
import sys
from pathlib import Path

import ase.io
import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import voigt_6_to_full_3x3_stress
from tiny import FREE, best, eipnn, eipnn_stage, exit_code, read_json, stage_config

from eipnn import EIPNNCalculator, load
from eipnn.eips import DFT, EIPError, load_eips
from eipnn.errors import InputError
from eipnn.labels import LabelStore
from eipnn.potential import Committee
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.committee import Factor
from eipnn.stages.source import Source, SourceConfig
from eipnn.tensor_files import read_tensors, write_tensors


@pytest.fixture(scope="module")
def members(trained, tmp_path_factory) -> list[str]:
    """A trained potential, and two others near it."""
    folder, files = tmp_path_factory.mktemp("members"), []
    for k in range(3):
        potential = load(best(trained["Finetune"]))
        for parameter in potential.parameters():
            parameter.data *= 1 + 0.02 * k
        files.append(str(folder / f"{k}.pt"))
        potential.save(files[-1])
    return files


def alloy() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1:3] = "Au"
    atoms.rattle(0.1, seed=2)
    return atoms


def changed(file: str, copy: Path, **changes) -> str:
    """A copy of a potential with other attributes."""
    potential = load(file)
    for name, value in changes.items():
        setattr(potential, name, value)
    potential.save(copy)
    return str(copy)


def test_an_ensemble_is_the_mean_of_its_members(members):
    atoms = alloy()
    each = []
    for file in members:
        one = EIPNNCalculator(file, dtype="float64")
        one.calculate(atoms)
        each.append(one.results)
    assert "energy_std" not in each[0]
    ensemble = EIPNNCalculator(members, dtype="float64")
    energy = ensemble.get_potential_energy(atoms)
    for name in ("energy", "energies", "forces", "stress"):
        values = [results[name] for results in each]
        np.testing.assert_allclose(ensemble.results[name], np.mean(values, axis=0), atol=1e-9)
    energies = [results["energy"] for results in each]
    assert np.std(energies, ddof=1) > 1e-3
    assert ensemble.get_property("energy_std", atoms) == pytest.approx(np.std(energies, ddof=1))
    forces = np.array([results["forces"] for results in each])  # (3, N, 3)
    squares = np.square(forces - forces.mean(axis=0)).sum(axis=(0, 2)) / 2
    np.testing.assert_allclose(ensemble.get_property("forces_std", atoms), np.sqrt(squares))
    stress = [results["stress"] for results in each]
    np.testing.assert_allclose(ensemble.get_property("stress_std", atoms), np.std(stress, axis=0, ddof=1))
    cohesive = EIPNNCalculator(members, dtype="float64", cohesive=True)
    free = sum(FREE[symbol] for symbol in atoms.symbols)
    assert cohesive.get_potential_energy(atoms) == pytest.approx(energy - free, abs=1e-9)
    assert cohesive.results["energies"].sum() == pytest.approx(energy - free, abs=1e-9)


def test_one_file_of_a_committee(members, tmp_path, capfd):
    """What it gives is that of the list of its members, bit by bit; factors multiply the spread alone."""
    file, atoms = tmp_path / "committee.pt", alloy()
    assert exit_code("committee", *members, "-o", file) == 0
    assert f"{file}: 3 potentials of Au, Cu" in capfd.readouterr().out
    before = file.read_bytes()
    assert exit_code("committee", file, members[0], "-o", tmp_path / "again.pt") == 1
    assert "two of the potentials are the same" in capfd.readouterr().err
    assert exit_code("committee", file, "-o", file) == 1
    assert "is one of the files that are read; name another" in capfd.readouterr().err
    assert file.read_bytes() == before
    listed, single = EIPNNCalculator(members), EIPNNCalculator(file)
    for calculator in (listed, single):
        calculator.calculate(atoms)
    assert listed.results.keys() == single.results.keys()
    for name, value in listed.results.items():
        np.testing.assert_array_equal(single.results[name], value)
    made = Committee.load(file)
    made.factors = {"energy": Factor(2.0, 12), "forces": Factor(3.0, 10), "stress": Factor(0.5, 8)}
    made.save(file)
    assert Committee.load(file).factors == made.factors
    calibrated = EIPNNCalculator(file)
    calibrated.calculate(atoms)
    for name, value in calibrated.results.items():
        factor = {"energy_std": 2.0, "forces_std": 3.0, "stress_std": 0.5}.get(name, 1.0)
        np.testing.assert_allclose(value, factor * listed.results[name], rtol=1e-12)
    # of other members the spread is another one
    assert not Committee.load([file, members[0]]).factors
    assert len(Committee.load([file, members[0]])) == 4


def test_a_committee_is_refused_where_one_potential_is_due(members, trained, tmp_path, capfd):
    file = tmp_path / "committee.pt"
    Committee.load(members).save(file)
    config = str(trained["Finetune"] / "given.yaml")
    for words in (("export", file), ("predict", "--config", config, "--ckpt_path", file)):
        assert exit_code(*words) == 1
        said = capfd.readouterr().err.strip()
        assert "committee.pt: a committee of potentials; one alone is due here" in said
        assert said.count("\n") == 0
    with pytest.raises(CheckpointError, match="one alone is due"):
        load(file)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"committee": []}, "not a committee as eipnn writes it"),
        ({"committee": [{"state_dict": {}}]}, "not written by eipnn"),
        ({"committee": ["x"]}, "holds no state_dict"),
        ({"factors": {"energy": {"value": float("nan"), "frames": 3}}}, "not a committee as eipnn writes it"),
        ({"factors": {"charge": {"value": 1.0, "frames": 3}}}, "not a committee as eipnn writes it"),
        ({"factors": {"energy": 1.0}}, "not a committee as eipnn writes it"),
    ],
)
def test_a_changed_committee_is_refused(members, tmp_path, change, problem):
    file = tmp_path / "committee.pt"
    Committee.load(members).save(file)
    write_tensors(file, read_tensors(file) | change)
    with pytest.raises(CheckpointError, match=f"committee.pt.*{problem}"):
        Committee.load(file)


def test_a_cluster_has_no_stress_and_no_spread_of_it(members):
    calculator = EIPNNCalculator(members)
    calculator.calculate(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]]))
    assert {"forces_std", "energy_std"} <= calculator.results.keys()
    assert not {"stress", "stress_std"} & calculator.results.keys()


def test_members_of_another_kind_are_refused(members, tmp_path):
    first = members[0]
    zeros = load(first).zeros
    others = {
        "elements": {"elements": ["Cu"]},
        "energy zero": {"zeros": zeros | {DFT: zeros[DFT] | {"mode": "least_squares"}}},
        "EIP under it": {"zeros": zeros | {DFT: zeros[DFT] | {"eip": "au"}, "au": zeros[DFT]}},
    }
    for what, changes in others.items():
        other = changed(first, tmp_path / "other.pt", **changes)
        with pytest.raises(InputError, match=f"other.pt: trained with another {what} than .*0.pt"):
            EIPNNCalculator([first, other])
    with pytest.raises(InputError, match="no checkpoint"):
        EIPNNCalculator([])


@pytest.fixture(scope="module")
def labels(tiny, members, tmp_path_factory) -> Path:
    """The tiny set under one potential and under the ensemble, by the command, in the folder of the potentials."""
    folder = tmp_path_factory.mktemp("labelled")
    (folder / "set.yaml").write_text("- {name: one, eipnn: 0.pt}\n- {name: mean, eipnn: [0.pt, 1.pt, 2.pt]}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(members[0]).parent)
        eips = "--eips", str(folder / "set.yaml")
        eipnn("label", tiny.data["dft"], "--pool", tiny.data["pool"], *eips, "-o", str(folder / "labels"))
    return folder / "labels"


def test_labels_of_a_potential_are_its_predictions_less_free_atoms(tiny, members, labels):
    """On the zero of OpenKIM models: beside DFT with isolated atoms nothing is to be set for it."""
    store, potential, ids = LabelStore.open(labels), load(members[0]), tiny.ids("test")
    frames = [tiny.frames[name] for name in ids]
    found = potential.predict(potential.graph(frames), ("forces", "stress"))
    np.testing.assert_allclose(store.forces_of(ids, ["one"])[:, 0], found.forces, atol=1e-4)
    stress = voigt_6_to_full_3x3_stress(store.stress_of(ids, ["one"])[:, 0])
    np.testing.assert_allclose(stress, found.stress, atol=1e-5)
    arguments = tiny.arguments | {"labels": str(labels)}
    source = Source(SourceConfig(**{key: arguments[key] for key in arguments if "batch" not in key}))
    free = [sum(FREE[symbol] for symbol in atoms.symbols) for atoms in frames]
    np.testing.assert_allclose(source.energies(ids, ["one"])[:, 0], found.energy.numpy() - free, atol=1e-4)
    energies = [EIPNNCalculator(file).get_potential_energy(frames[0]) for file in members]
    assert source.energies(ids, ["mean"])[0, 0] == pytest.approx(np.mean(energies) - free[0], abs=1e-4)
    digest = hashlib.sha256(Path(members[0]).read_bytes()).hexdigest()
    assert read_json(labels / "index.json")["eips"][0]["files"] == {"0.pt": digest}


def test_a_student_is_trained_on_the_labels_of_a_teacher(tiny, members, labels, tmp_path, monkeypatch):
    """On those of the pool, and on top of the teacher by delta learning, which then needs its file."""
    config = stage_config(tiny, "Finetune", tmp_path / "student")
    selection = tiny.select(tmp_path / "selection.csv", dict.fromkeys(tiny.ids("pool"), "mean"))
    config["data"]["init_args"] |= {"labels": str(labels), "selection": str(selection)}
    assert load(best(eipnn_stage("fit", config))).elements == ["Au", "Cu"]
    config = stage_config(tiny, "Finetune", tmp_path / "delta")
    config["data"]["init_args"] |= {"labels": str(labels), "delta_eip": "one"}
    delta = eipnn_stage("fit", config)
    with pytest.raises(InputError, match=r"the EIP one \(eipnn.EIPNNCalculator\) cannot be used here .*0.pt: no such"):
        EIPNNCalculator(best(delta))
    eipnn_stage("test", config, "--ckpt_path", best(delta))
    predicted = pd.read_csv(delta / "predictions_test.csv").set_index("config_id")["prediction"]
    monkeypatch.chdir(Path(members[0]).parent)
    name = tiny.ids("test")[0]
    energy = EIPNNCalculator(best(delta)).get_potential_energy(tiny.frames[name])
    assert energy == pytest.approx(predicted[name], abs=1e-4)


@pytest.mark.parametrize("given", ["absent.pt", 3, [], ["absent.pt"]])
def test_a_teacher_without_its_file(given):
    with pytest.raises(EIPError, match=r"entry 1: eipnn: .* is no file; give the path of a potential"):
        load_eips([{"name": "mine", "eipnn": given}])


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # inside CHGNet
def test_labels_of_chgnet(tmp_path, capfd):
    """Energies are those of CHGNet itself, stress that of a strain; nothing that it prints is seen."""
    chgnet = pytest.importorskip("chgnet.model", reason="needs `pip install '.[chgnet]'`")
    crystal = bulk("Si", cubic=True)
    crystal.rattle(0.1, seed=1)
    cluster = Atoms("Si3", [[0, 0, 0], [2.4, 0, 0], [0, 2.4, 0]])  # without a cell
    strained = [crystal.copy() for _ in range(2)]
    for atoms, strain in zip(strained, (-1e-3, 1e-3), strict=True):
        atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
    frames = [crystal, cluster, *strained]
    for number, atoms in enumerate(frames):
        atoms.info["config_id"] = str(number)
    ase.io.write(tmp_path / "si.extxyz", frames, format="extxyz")
    eipnn("label", str(tmp_path / "si.extxyz"), "--eips", "chgnet", "-o", str(tmp_path / "labels"))
    told = capfd.readouterr()
    assert "CHGNet" not in told.out + told.err
    store = LabelStore.open(tmp_path / "labels")
    assert np.isfinite(store.energies_of(store.ids, ["chgnet"])).all()
    structure = sys.modules["pymatgen.io.ase"].AseAtomsAdaptor.get_structure(crystal)
    model = chgnet.CHGNet.load(use_device="cpu", verbose=False)
    expected = model.predict_structure(structure)
    energies = store.energies_of(store.ids, ["chgnet"])[:, 0]
    assert energies[0] == pytest.approx(8 * expected["e"], abs=1e-4)
    np.testing.assert_allclose(store.forces_of(["0"], ["chgnet"])[:, 0], expected["f"], atol=1e-4)
    trace = store.stress_of(["0"], ["chgnet"])[0, 0, :3].sum() * crystal.get_volume()
    assert trace == pytest.approx((energies[3] - energies[2]) / 2e-3, rel=1e-2)
    assert read_json(tmp_path / "labels" / "index.json")["eips"][0]["target"].startswith("chgnet.")
