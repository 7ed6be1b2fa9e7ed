"""`eipnn train`: from DFT frames to a potential without an experiment file."""

import io
import json
import shutil
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from tiny import exit_code, in_process, read_json

from eipnn import load
from eipnn.eips import EIP
from eipnn.eips.recorded import record
from eipnn.errors import InputError
from eipnn.evaluate.errors import maes
from eipnn.evaluate.predict import predict
from eipnn.evaluate.spread import write_factors
from eipnn.potential import Committee
from eipnn.potential.calculator import EIPNNCalculator
from eipnn.run import command, execute
from eipnn.run.experiment import read_experiment
from eipnn.structures import Split, StructureStore, open_structures, read_split, read_structures
from eipnn.train import command as train_command
from eipnn.train import folds, teachers
from eipnn.train.choice import CHANCE, PREFERRED, RECIPES, choose, sentence
from eipnn.train.command import children_name
from eipnn.train.folds import generate_pool, make_folds, parents_of, with_pool
from eipnn.train.outcome import Left, errors_on_test, errors_table, leave_potential, next_steps
from eipnn.train.settings import (
    PRESETS,
    has_compiler,
    network_settings,
    properties,
    with_compiled,
    with_compiler_here,
    with_steps,
)

FOLDS = 2
NETWORK = {
    "representation": {
        "class_path": "eipnn.representations.SchNet",
        "init_args": {"cutoff": 4.0, "features": 4, "filters": 4, "gaussians": 8, "interactions": 1},
    },
    "trainer": {"enable_progress_bar": False, "accelerator": "cpu"},
    "pretrain": {"data": {"batch_size": 8}},
    "finetune": {"trainer": {"max_epochs": 2}, "data": {"batch_size": 4}},
}
MORSE = {"epsilon": 0.35, "r0": 2.6, "rho0": 6.0}
TEACHERS = [
    {"name": "emt-asap", "ase": "ase.calculators.emt.EMT", "arguments": {"asap_cutoff": True}},
    {"name": "morse", "ase": "ase.calculators.morse.MorsePotential", "arguments": MORSE},
]


def copper(n: int, seed: int) -> list[Atoms]:
    """Distorted cells of copper; EMT stands in for DFT."""
    rng, frames = np.random.default_rng(seed), []
    for _ in range(n):
        atoms = bulk("Cu", cubic=True) if rng.random() < 0.5 else bulk("Cu").repeat((1, 1, 2))
        atoms.set_cell(atoms.cell * rng.uniform(0.95, 1.06), scale_atoms=True)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


def labelled(atoms: Atoms) -> Atoms:
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results, stress=atoms.get_stress())
    return atoms


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with what a user has: ten DFT frames, three for a test, teachers and a small network."""
    folder = tmp_path_factory.mktemp("train")
    ase.io.write(folder / "dft.extxyz", copper(10, 0), format="extxyz")
    ase.io.write(folder / "test.extxyz", copper(3, 1), format="extxyz")
    (folder / "teachers.yaml").write_text(yaml.safe_dump(TEACHERS))
    (folder / "network.yaml").write_text(yaml.safe_dump(NETWORK))
    return folder


def arguments(place: Path, **changed: list) -> list[str]:
    options = {
        "--teachers": [place / "teachers.yaml"],
        "--network": [place / "network.yaml"],
        "--folds": [FOLDS],
        "--steps": [4],
        "--pool-size": [20],
        "--output": [place / "out"],
    }
    options |= {f"--{name.replace('_', '-')}": values for name, values in changed.items()}
    return ["train", str(place / "dft.extxyz"), *(str(x) for name, values in options.items() for x in (name, *values))]


@pytest.fixture(scope="module")
def trained(place, own_cache, tmp_path_factory) -> Path:
    """The output of a whole call, whose stages ran in this process; tests only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "call", in_process)
        patch.setattr(command, "call", in_process)
        assert exit_code(*arguments(place, test=[place / "test.extxyz"])) == 0
    return place / "out"


@pytest.fixture
def refused(capfd):
    """Call with what is wrong; what is said."""

    def call(*words: str) -> str:
        assert exit_code(*words) == 1
        said = capfd.readouterr().err.strip()
        assert said.startswith("eipnn train: ")
        assert said.count("\n") <= 1
        return said

    return call


def test_it_leaves_a_committee_and_its_errors(trained, place):
    found = read_json(trained / "choice.json")
    assert set(found["scores"]) == {"baseline", "mp"}
    assert all(len(scores) == FOLDS for scores in found["scores"].values())
    frames = open_structures([str(place / "test.extxyz")])
    energies = []
    for number, file in enumerate(found["members"], start=1):
        assert Path(file) == trained / f"split-{number}" / "seed-0" / found["recipe"] / "checkpoints" / "potential.pt"
        calculator = EIPNNCalculator(file)
        energies.append([calculator.get_potential_energy(atoms) for atoms in frames])
    assert found["potential"] == str(trained / "potential.pt")
    whole = EIPNNCalculator(found["potential"])
    assert [whole.get_potential_energy(atoms) for atoms in frames] == pytest.approx(np.mean(energies, axis=0))
    assert whole.results["energy_std"] > 0
    cores = [member.core.name for member in Committee.load(trained / "potential.pt").potentials]
    assert cores == ["wall"] * FOLDS
    error = np.abs((np.mean(energies, axis=0) - frames.energies) / frames.sizes).mean()
    assert found["test"][f"committee of {found['recipe']}"][0]["atom_mae"] == pytest.approx(error)
    assert found["validation"]["mp"][0]["force_mae"] > 0


def test_test_frames_calibrate_the_spread(trained, tmp_path, capfd):
    members = [Path(file) for file in read_json(trained / "choice.json")["members"]]
    assert not Committee.load(trained / "potential.pt").factors  # of three frames there are none
    Committee.load(members).save(tmp_path / "potential.pt")
    frames = StructureStore.of(copper(12, 5))
    left = Left(members, None)
    errors = errors_on_test({"baseline": members}, "baseline", tmp_path / "potential.pt", left, frames)
    assert set(errors) == {"baseline", "committee of baseline"}
    factors = Committee.load(tmp_path / "potential.pt").factors
    assert {name: factor.frames for name, factor in factors.items()} == {"energy": 12, "forces": 12, "stress": 12}
    said = capfd.readouterr().out
    assert "calibrated on the test frames" in said
    assert "not calibrated" not in said


def test_the_factors_of_the_same_committee_stay(trained, tmp_path, capfd):
    """As where the same command is given again, without the frames that calibrated it."""
    members, file = [Path(name) for name in read_json(trained / "choice.json")["members"]], tmp_path / "potential.pt"
    left = leave_potential(members, file)
    frames = StructureStore.of(copper(12, 5))
    errors_on_test({"mp": members}, "mp", file, left, frames)
    factors = Committee.load(file).factors
    assert set(factors) == {"energy", "forces", "stress"}
    leave_potential(members, file)
    assert Committee.load(file).factors == factors
    capfd.readouterr()
    errors_on_test({"mp": members}, "mp", file, left, frames.take(np.arange(9)))
    assert Committee.load(file).factors == factors
    assert "energy calibrated as before, forces calibrated as before" in " ".join(capfd.readouterr().out.split())
    # of others they are not
    leave_potential(members[::-1], file)
    assert not Committee.load(file).factors
    errors_on_test({"mp": members[::-1]}, "mp", file, Left(members[::-1], None), frames.take(np.arange(9)))
    assert "energy not calibrated, forces not calibrated" in " ".join(capfd.readouterr().out.split())


def test_folds_without_a_mean_leave_the_first(trained, tmp_path):
    first, second = (load(file) for file in read_json(trained / "choice.json")["members"])
    zero = {"mode": "none", "energies": {"Cu": 0.0}}
    for file, potential, asap in (("a.pt", first, True), ("b.pt", second, False)):
        eip = EIP("emt", "ase", "ase.calculators.emt.EMT", {"asap_cutoff": asap})
        with_eip = potential.zeros["dft"] | {"eip": record(eip.description(), [], [])}
        potential.zeros = {"dft": with_eip, "emt": zero}
        potential.save(tmp_path / file)
    members, file = [tmp_path / "a.pt", tmp_path / "b.pt"], tmp_path / "potential.pt"
    left = leave_potential(members, file)
    assert left.members == members[:1]
    assert "b.pt: trained with another EIP under it" in left.problem
    assert any(left.problem in line for line in next_steps(file, left.problem, tmp_path))
    # one potential is tested as one, and stays one
    frames = StructureStore.of(copper(12, 5))
    errors = errors_on_test({"delta": members}, "delta", file, left, frames)
    assert set(errors) == {"delta", "first fold of delta"}
    assert errors["first fold of delta"] == [maes(predict(Committee.load(file), frames).mean(), frames)]
    assert errors["first fold of delta"] != errors["delta"][1:]
    assert load(file).delta_eip == "emt"
    with pytest.raises(InputError, match=r"potential.pt: a single potential has no spread"):
        write_factors(file, {})


def test_no_pool_of_a_fold_holds_children_of_its_validation_frames(trained):
    pool = {a.info["config_id"]: a.info["parent"] for a in read_structures(trained / "children.extxyz")}
    ids = set(open_structures([str(trained.parent / "dft.extxyz")]).ids)
    assert set(pool.values()) <= ids
    seen: list[str] = []
    for number in range(1, FOLDS + 1):
        split = read_split(trained / "splits" / f"fold_{number}.csv")
        assert {*split.train, *split.val} == ids
        assert not split.test
        assert {pool[name] for name in split.pool} <= set(split.train)
        assert set(split.pool) == {name for name, parent in pool.items() if parent in split.train}
        seen += split.val
    assert sorted(seen) == sorted(ids)


def test_the_same_command_trains_nothing_again(trained, place, monkeypatch, capfd):
    def refuse(words: list[str], threads: int | None = None) -> int:
        assert words[0] == "label"
        return in_process(words, threads)

    monkeypatch.setattr(execute, "call", refuse)
    monkeypatch.setattr(command, "call", refuse)
    before = (trained / "choice.json").read_bytes()
    assert exit_code(*arguments(place, test=[place / "test.extxyz"])) == 0
    said = capfd.readouterr().out
    assert said.count("done before, skipped") == 3 * FOLDS
    assert "0 of 60 labels are to be made" in said
    assert (trained / "choice.json").read_bytes() == before
    assert exit_code("run", str(trained / "experiment.yaml"), "-o", str(trained)) == 0  # it is an experiment's run


def test_the_report_names_validation(trained, tmp_path, capfd):
    assert exit_code("report", str(trained), "-o", str(tmp_path)) == 0
    text = (tmp_path / "report.md").read_text()
    assert "### Validation errors" in text
    assert "Test " not in text
    assert "5** validation configurations have one among the" in text
    assert "validation errors" in " ".join(capfd.readouterr().out.split())


def test_steps_and_settings_of_the_stages(trained):
    experiment = read_experiment(trained / "experiment.yaml")
    assert experiment.data["eip_energy_zero"] == experiment.data["energy_zero"]["mode"] == "least_squares"
    fine = [read_json(trained / f"split-{n}" / "seed-0" / "mp" / "fit.json")["gradient_steps"] for n in (1, 2)]
    assert fine == [4, 4]


def test_what_is_learned_is_told(capfd):
    frames = copper(4, 0)
    for atoms, name in zip(frames, "abcd", strict=True):
        atoms.info["config_id"] = name
        del atoms.calc.results["stress"]
    for atoms in frames[1:]:
        del atoms.calc.results["forces"]
    folds = [Split(("a", "b"), ("c", "d"), (), ()), Split(("c", "d"), ("a", "b"), (), ())]
    assert properties(StructureStore.of(frames), folds) == ["energy"]
    said = " ".join(capfd.readouterr().out.split())
    assert said == (
        "learned of 4 DFT frames: energy (4); not forces (1), as a fold has none to train on; "
        "no frame has stress (under another key? --stress-key)"
    )


def test_a_dry_run_tells_and_trains_nothing(place, tmp_path, capfd):
    out = tmp_path / "dry"
    assert exit_code(*arguments(place, output=[out], recipes=["baseline", "mp", "la"]), "--dry-run") == 0
    said = capfd.readouterr().out
    assert "60 of 60 labels are to be made" in said
    assert "learned of 10 DFT frames: energy (10), forces (10), stress (10)" in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.startswith("  ") and line.strip()}
    assert rows["baseline"][:2] == rows["mp"][:2] == ["2", "8"]
    assert {"classify", "pretrain", "la"} <= set(rows)
    assert not list(out.glob("split-*"))


@pytest.mark.parametrize(
    ("scores", "taken"),
    [
        ({"baseline": [4.0, 5.0, 6.0], "mp": [3.0, 3.9, 5.1]}, "mp"),
        ({"baseline": [3.0, 4.0, 5.0], "mp": [4.0, 5.0, 6.0]}, "baseline"),
        ({"baseline": [2.0, 5.5, 5.9], "mp": [4.0, 5.0, 6.0]}, "mp"),  # lower by 0.53 with an error of 0.76
        ({"baseline": [4.0, 5.0, 6.0, 7.0], "mp": [4.5, 4.9, 6.1, 7.5]}, "mp"),  # by 0.25 with an error of 0.15
        ({"baseline": [4.0, 5.0, 6.0, 7.0], "mp": [4.4, 5.0, 6.2, 7.6]}, "baseline"),  # by 0.30 with an error of 0.13
        ({"baseline": [1.0, 2.0], "mp": [1.0, 2.0]}, "mp"),
        ({"la": [2.0, 5.5, 5.9], "baseline": [4.0, 5.0, 6.0]}, "baseline"),
        ({"delta": [1.0, 1.0, 1.3], "mp": [1.1, 1.0, 1.2], "baseline": [2.0, 2.1, 2.2]}, "mp"),
        ({"mp": [1.0, 2.0]}, "mp"),
    ],
)
def test_the_lowest_recipe_or_one_before_it_that_is_as_good(scores, taken):
    choice = choose(scores)
    assert choice.recipe == taken
    said = sentence(choice, len(scores[taken]))
    assert said.count(taken) >= 1
    assert (f"within {CHANCE:g} of these" in said) == (choice.recipe != choice.lowest)


def test_pretraining_comes_first_and_what_needs_its_teacher_last():
    assert PREFERRED[:2] == ("mp", "baseline")
    assert sorted(PREFERRED) == sorted(RECIPES)
    assert all("delta" in recipe for recipe in PREFERRED[-2:])


def test_folds_share_the_sizes_and_keep_every_element_in_training():
    def cell(symbol: str, n: int, name: str, edge: float) -> Atoms:
        return Atoms([symbol] * n, np.arange(3 * n).reshape(n, 3), cell=[edge] * 3, pbc=True, info={"config_id": name})

    frames = [cell("Cu", 1 + k % 3, f"cu_{k}", 30 + k) for k in range(9)]
    frames += [cell("Au", 2, f"au_{k}", 30 + k) for k in range(3)]
    folds = make_folds(StructureStore.of(frames), 3, 0, "f")
    for fold in folds:
        sizes = sorted(len(a) for a in frames if a.info["config_id"] in fold.val and "Cu" in a.symbols)
        assert sizes == [1, 2, 3]
        assert sum(name.startswith("au") for name in fold.val) == 1
    assert folds == make_folds(StructureStore.of(frames), 3, 0, "f")
    assert folds != make_folds(StructureStore.of(frames), 3, 1, "f")
    with pytest.raises(InputError, match="f: au_0 holds Au, and no frame outside of its fold does"):
        make_folds(StructureStore.of(frames[:10]), 3, 0, "f")
    frames[7] = cell("Cu", 1 + 4 % 3, "cu_7", 34)
    with pytest.raises(InputError, match="f: cu_7 is cu_4 again, atom by atom"):
        make_folds(StructureStore.of(frames), 3, 0, "f")
    pooled = with_pool(folds, {"child": {folds[0].val[0]}, "other": set()})
    assert [fold.pool for fold in pooled] == [("other",), ("child", "other"), ("child", "other")]


def test_parents_are_known_by_the_ids_that_they_had_alone(tmp_path, capfd):
    """A pool made from one file, whose name two files share now."""
    (tmp_path / "dft").mkdir()
    (tmp_path / "pool").mkdir()
    dft, pool = str(tmp_path / "dft" / "si.extxyz"), str(tmp_path / "pool" / "si.extxyz")
    ase.io.write(dft, copper(3, 0), format="extxyz")
    children = [copper(1, seed)[0] for seed in range(10, 13)]
    for child, parent in zip(children, ("si_000001", "fcc-Cu", None), strict=True):
        child.calc = None
        if parent:
            child.info["parent"] = parent
    ase.io.write(pool, children, format="extxyz")
    known = open_structures([dft], beside=[pool])
    assert known.ids[1] == "dft_si_000001"
    assert list(parents_of([pool], [dft], known).values()) == [{"dft_si_000001"}, set(), set()]
    assert "1 of 3 structures of the pool name a parent that is none of the DFT frames" in capfd.readouterr().out


def test_parents_are_known_where_a_frame_was_removed_since(tmp_path, capfd):
    """By number alone, the children of the second frame would be the third one's, and of frames to test on none's."""
    dft, less, held = (str(tmp_path / name / "dft.extxyz") for name in ("before", "after", "test"))
    for file in (dft, less, held):
        Path(file).parent.mkdir()
    ase.io.write(dft, copper(5, 0), format="extxyz")
    pool = tmp_path / "pool.extxyz"
    assert exit_code("generate", "--from", dft, "--rattle", "30", "-o", pool) == 0
    told = {a.info["config_id"]: int(a.info["parent"].rpartition("_")[2]) for a in read_structures(pool)}
    assert set(told.values()) == set(range(5))
    frames = ase.io.read(dft, ":")
    ase.io.write(less, frames[1:4], format="extxyz")
    ase.io.write(held, frames[4:], format="extxyz")
    known, tested = open_structures([less]), open_structures([held])
    capfd.readouterr()
    parents = parents_of([str(pool)], [less], known)
    expected = {name: {known.ids[number - 1]} if 1 <= number <= 3 else set() for name, number in told.items()}
    expected |= {name: {known.ids[0]} for name, number in told.items() if number == 0}  # which is no frame: by its name
    assert parents == expected
    assert folds.tested_in([str(pool)], [less], known, tested) == {name for name, number in told.items() if number == 4}


def test_a_frame_that_was_chosen_from_the_pool_is_its_own_parent(tmp_path):
    """Else the pool of the fold in which it validates would hold it."""
    dft, pool = str(tmp_path / "dft.extxyz"), str(tmp_path / "pool.extxyz")
    frames = copper(4, 0)
    ase.io.write(dft, frames, format="extxyz")
    candidates = [atoms.copy() for atoms in (frames[2], *copper(2, 9))]
    ase.io.write(pool, candidates, format="extxyz")
    known = open_structures([dft], beside=[pool])
    assert list(parents_of([pool], [dft], known).values()) == [{known.ids[2]}, set(), set()]


@pytest.mark.parametrize(("core", "expected"), [("none", None), ("zbl", "zbl")])
def test_another_core(place, tmp_path, core, expected):
    assert exit_code(*arguments(place, output=[tmp_path / "out"], core=[core], dry_run=[])) == 0
    assert read_experiment(tmp_path / "out" / "experiment.yaml").core == expected


def test_a_kill_while_splits_are_written_is_no_end(place, tmp_path):
    out = tmp_path / "out"
    assert exit_code(*arguments(place, output=[out], dry_run=[])) == 0
    (out / "splits" / "fold_2.csv").unlink()
    (out / "experiment.yaml").unlink()
    assert exit_code(*arguments(place, output=[out], dry_run=[])) == 0


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"representation": "schnet.yaml"}, "representation must be a mapping"),
        ({"pretrain": None}, None),
        ({"finetune": {"trainer": {"max_epochs": -1}}}, "max_epochs must be a whole number from 1 on, not -1"),
        ({"finetune": {"trainer": {"max_epochs": None}}}, "max_epochs must be a whole number from 1 on, not None"),
    ],
)
def test_settings_of_one_s_own(tmp_path, change, problem):
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(NETWORK | change))
    if problem is None:
        assert with_steps(network_settings(str(file), ["Cu"], ["energy"]), 10, 20)["pretrain"]["trainer"]
    else:
        with pytest.raises(InputError, match=problem):
            network_settings(str(file), ["Cu"], ["energy"])


def test_what_is_tested_on_is_left_out_of_the_pool(place, tmp_path, capfd):
    tested, others = ase.io.read(place / "test.extxyz", ":"), copper(4, 7)
    pool = [Atoms(a.symbols, a.positions, cell=a.cell, pbc=True) for a in (tested[1], *others)]
    for atoms, parent in zip(pool[1:], ("test_000002", "dft_000001", "elsewhere_000000", ""), strict=True):
        atoms.info["parent"] = parent
    ase.io.write(tmp_path / "pool.extxyz", pool)
    given = {"pool": [tmp_path / "pool.extxyz"], "test": [place / "test.extxyz"], "output": [tmp_path / "out"]}
    assert exit_code(*arguments(place, **given, dry_run=[])) == 0
    assert "2 structures of the pool are among the frames of --test, or children of them" in capfd.readouterr().out
    pools = [set(read_split(tmp_path / "out" / "splits" / f"fold_{k + 1}.csv").pool) for k in range(FOLDS)]
    assert set().union(*pools) == {"pool_000002", "pool_000003", "pool_000004"}


def test_the_generated_pool_has_a_name_of_its_own(tmp_path):
    file = tmp_path / "children.extxyz"
    file.touch()
    assert children_name([str(file)]) == "children_.extxyz"


def test_a_pool_of_other_frames_is_named_with_its_mend(tmp_path):
    file, frames = tmp_path / "children.extxyz", StructureStore.of(copper(4, 2))
    assert generate_pool(frames, 4, 0, file, 1) == 4
    assert generate_pool(frames, 4, 0, file, 1) == 0
    with pytest.raises(
        InputError, match=r"a pool of other DFT frames or options.*\nremove it and .*labels, or .*--pool"
    ):
        generate_pool(frames.take(np.arange(3)), 4, 0, file, 1)


def test_the_closest_teachers_are_kept(tmp_path, monkeypatch, capfd):
    structures = copper(6, 2)
    for number, atoms in enumerate(structures):
        atoms.info["config_id"] = f"cu_{number}"
    frames = StructureStore.of(structures)
    frames.energies = frames.energies - 7 * frames.sizes  # an offset, which is no error
    emt, again = ({"name": name, "ase": "ase.calculators.emt.EMT"} for name in ("emt", "again"))
    monkeypatch.setattr(teachers, "KEPT", 2)
    found = teachers.closest([*TEACHERS, emt, again], frames, tmp_path, 1)
    assert [entry["name"] for entry in found] == ["emt-asap", "emt"]  # in their order, whatever their scores
    said = capfd.readouterr().out
    assert "emt: 0.00 meV/atom, 0.000 eV/Å" in said
    assert "left out, as one of these says nearly the same: 1 more" in said
    fewer = teachers.closest([*TEACHERS, emt], frames.take(np.arange(4)), tmp_path, 1)
    assert [entry["name"] for entry in fewer] == ["emt-asap", "emt"]


def test_teachers_are_found_again_for_other_dft_frames(tmp_path, monkeypatch, capfd):
    calls = []
    monkeypatch.setattr(train_command, "found_teachers", lambda *given: calls.append(given) or TEACHERS[:1])
    frames = StructureStore.of(copper(4, 2))
    for _ in range(2):
        train_command.gather_teachers(None, frames, tmp_path, 1)
    assert len(calls) == 1
    frames.energies = frames.energies + np.eye(4)[2]  # a mistake that was mended
    train_command.gather_teachers(None, frames, tmp_path, 1)
    assert len(calls) == 2
    found = tmp_path / "candidates" / "found.yaml"
    found.write_text(yaml.safe_dump(["Cu"]))  # as before 0.3
    train_command.gather_teachers(None, frames, tmp_path, 1)
    assert len(calls) == 2
    found.write_text(yaml.safe_dump({"elements": ["Cu"], "judged_by": "other"}))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "index.json").touch()
    train_command.gather_teachers(None, frames, tmp_path, 1)
    assert len(calls) == 2
    assert "which stay, as their labels are there" in " ".join(capfd.readouterr().out.split())


@pytest.mark.parametrize(("forces", "expected"), [(True, (0.0, 0.5)), (False, (0.0, np.nan))])
def test_a_distance_is_of_what_both_know(forces, expected):
    frames = StructureStore.of(copper(3, 4))
    one = teachers.Labels(frames.energies + 7 * frames.sizes, frames.forces + 0.5)
    other = teachers.Labels(frames.energies * [1, np.nan, 1], frames.forces if forces else frames.forces * np.nan)
    assert teachers.distance(frames, one, other) == pytest.approx(expected, abs=1e-10, nan_ok=True)
    assert teachers.score((0.04, 0.01)) == pytest.approx(0.02)
    assert teachers.score((0.04, np.nan)) == 0.04


def test_the_table_is_whole_on_a_narrow_terminal():
    errors = [
        {"atom_mae": 0.03244, "force_mae": 0.189, "stress_mae": 1.333},
        {"atom_mae": 0.0262, "force_mae": 0.2, "stress_mae": 1.0},
    ]
    console = Console(width=80, file=io.StringIO())
    console.print(errors_table("Validation", {"mp+delta": errors}, {"mp+delta": [0.3048, 0.2664]}))
    shown = console.file.getvalue()
    for text in ("mp+delta", "29.32 ± 4.41", "0.195 ± 0.008", "1.167 ± 0.235", "0.2856 ± 0.0272"):
        assert text in shown


def test_maes_of_what_is_known():
    frames = StructureStore.of(copper(2, 3))
    prediction = {"energy": frames.energies + 4, "forces": frames.forces - 0.5, "stress": frames.stresses}
    found = maes(prediction, frames)
    assert found["atom_mae"] == pytest.approx(np.mean(4 / frames.sizes))
    assert found["force_mae"] == pytest.approx(0.5)
    assert found["stress_mae"] == 0
    bare = frames.take(np.arange(2))
    bare.forces = np.full_like(frames.forces, np.nan)
    assert maes(prediction, bare)["force_mae"] is None


@pytest.mark.parametrize("name", sorted(file.stem for file in PRESETS.glob("*.yaml")))
def test_presets_are_settings_of_a_stage(name):
    found = network_settings(name, ["Cu", "O"], ["energy", "forces"])
    assert found["representation"]["init_args"].get("elements", ["Cu", "O"]) == ["Cu", "O"]
    weights = found["finetune"]["model"].get("weights")
    assert weights is None or set(weights) == {"energy", "forces"}
    timed = with_steps(found, 2400, 2000)
    assert timed["finetune"]["trainer"]["max_epochs"] * timed["finetune"]["data"]["epoch_steps"] == 2400
    assert timed["pretrain"]["trainer"]["max_epochs"] * 125 == pytest.approx(2400, abs=125)


@pytest.mark.parametrize(
    ("steps", "atoms", "compiler", "gpu", "expected"),
    [
        (2400, 4, True, False, {"pretrain": True, "finetune": True}),
        (2400, 12, True, False, {"pretrain": False, "finetune": True}),  # batches of 16 and 8
        (2400, 40, True, False, {"pretrain": False, "finetune": False}),
        (20, 4, True, False, {"pretrain": False, "finetune": False}),
        (2400, 4, False, False, {"pretrain": False, "finetune": False}),
        (2400, 4, True, True, {"pretrain": False, "finetune": False}),
        (2400, 4, True, "unused", {"pretrain": True, "finetune": True}),
    ],
)
def test_steps_are_compiled_where_it_pays(steps, atoms, compiler, gpu, expected, monkeypatch, capfd):
    monkeypatch.setattr("eipnn.train.settings.has_compiler", lambda: compiler)
    monkeypatch.setattr("torch.cuda.is_available", lambda: bool(gpu))
    settings = network_settings("mace", ["Cu"], ["energy", "forces"])
    if gpu == "unused":
        settings["trainer"]["accelerator"] = "cpu"
    found = with_compiled(settings, steps, atoms)
    assert {stage: found[stage]["model"]["compiled"] for stage in expected} == expected
    said = capfd.readouterr().out
    assert ("Steps are compiled" in said) == any(expected.values())
    assert ("is not found: steps are not compiled" in said) == (not compiler)


def test_a_compiler_needs_the_headers_of_python(tmp_path, monkeypatch):
    monkeypatch.setattr("eipnn.train.settings.get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr("eipnn.train.settings.which", lambda name: f"/usr/bin/{name}")
    assert not has_compiler()
    given = {"pretrain": {}, "finetune": {"model": {"compiled": True, "ema": 0.99}}}
    assert with_compiler_here(given) == {"pretrain": {}, "finetune": {"model": {"ema": 0.99}}}
    assert given["finetune"]["model"]["compiled"]
    (tmp_path / "Python.h").touch()
    assert has_compiler()
    monkeypatch.setattr("eipnn.train.settings.which", lambda name: None)
    assert not has_compiler()


def test_energies_alone_are_not_compiled(monkeypatch, capfd):
    monkeypatch.setattr("eipnn.train.settings.has_compiler", lambda: True)
    found = with_compiled(network_settings("mace", ["Cu"], ["energy"]), 2400, 4)
    assert [found[stage]["model"]["compiled"] for stage in ("pretrain", "finetune")] == [True, False]


def test_what_says_whether_to_compile_is_kept():
    for given in (True, False):
        settings = {"pretrain": {}, "finetune": {"model": {"compiled": given}}}
        assert with_compiled(settings, 10, 100) == settings


def test_without_mace_torch_it_names_the_mend(monkeypatch):
    monkeypatch.setattr("eipnn.train.settings.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'eipnn\[mace\]', or .* --network schnet"):
        network_settings(None, ["Cu"], ["energy"])


def test_what_cannot_be_is_said_in_two_lines(place, refused, tmp_path, monkeypatch):
    out = [tmp_path / "out"]
    assert "10 DFT frames are too few for 6 folds" in refused(*arguments(place, output=out, folds=[6]))
    assert "give more, or --folds 5" in refused(*arguments(place, output=out, folds=[6]))
    assert "--network no: neither mace, schnet" in refused(*arguments(place, output=out, network=["no"]))
    assert "no/such.ckpt: no such checkpoint" in refused(*arguments(place, output=out, teachers=["no/such.ckpt"]))
    assert "none of these: a set" in refused(*arguments(place, output=out, teachers=["nothing"]))
    assert "none stands alone" in refused(*arguments(place, output=out, teachers=["none", "silicon"]))
    needs = arguments(place, output=out, teachers=["none"], recipes=["baseline", "mp"])
    assert "the recipe mp needs teachers" in refused(*needs)
    shutil.copy(place / "dft.extxyz", tmp_path / "again.extxyz")
    twin = refused(*arguments(place, output=out, test=[tmp_path / "again.extxyz"]))
    assert "again_000000 is the training frame dft_000000 (10 such frames)" in twin
    frames = copper(4, 4)
    frames[2].calc = None
    ase.io.write(tmp_path / "bare.extxyz", frames, format="extxyz")
    words = arguments(place, output=out)
    words[1] = str(tmp_path / "bare.extxyz")
    said = refused(*words)
    assert "bare.extxyz" in said
    assert "energy" in said
    given = tmp_path / "atoms.json"
    given.write_text(json.dumps({"Si": -0.8}))
    assert "has no Cu" in refused(*arguments(place, output=out, isolated_atoms=[given]))
    monkeypatch.setattr(teachers, "covering", lambda elements: ([], []))
    words = arguments(place, output=out)
    del words[words.index("--teachers") : words.index("--teachers") + 2]
    said = refused(*words)
    assert "no installed OpenKIM model covers Cu" in said
    assert "--teachers none trains on DFT alone" in said
