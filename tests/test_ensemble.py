"""`eipnn run --ensemble`: a committee of the seeds, calibrated on frames that no member has seen."""

import ase.io
import numpy as np
import pytest
import yaml
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from run_stages import fold
from tiny import N_TEST, N_VAL, exit_code, in_process

from eipnn.errors import InputError
from eipnn.evaluate import spread
from eipnn.evaluate.errors import maes
from eipnn.evaluate.predict import predict
from eipnn.evaluate.spread import spreads
from eipnn.potential import Committee
from eipnn.run import execute
from eipnn.run.ensemble import committee_file, make_committees, seeds_of, validation_ids
from eipnn.run.experiment import read_experiment
from eipnn.run.plan import Plan
from eipnn.structures import open_structures, read_split


def test_seeds_follow_one_another():
    assert seeds_of([3], 4) == [3, 4, 5, 6]
    assert seeds_of([3, 9], 1) == [3, 9]
    with pytest.raises(InputError, match="give one --seed, the first"):
        seeds_of([3, 9], 2)


@pytest.fixture
def plans(experiment, tmp_path):
    """Those of two seeds, whole or of fewer frames."""
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    content = read_experiment(tmp_path / "experiment.yaml")

    def make(frames: int | None) -> list[Plan]:
        folders = [tmp_path / "run" / "split-1" / f"seed-{seed}" for seed in (0, 1)]
        places = folders if frames is None else [folder / f"frames-{frames}" for folder in folders]
        return [Plan(content, place, 1, seed, None, frames) for seed, place in enumerate(places)]

    return make


@pytest.mark.parametrize(("frames", "place"), [(None, "split-1"), (12, "split-1/frames-12")])
def test_no_member_has_trained_on_a_frame_that_calibrates(plans, tmp_path, frames, place):
    """Although each seed draws smaller sets of its own."""
    made = plans(frames)
    found = validation_ids(made)
    trained, validated = ({name for plan in made for name in getattr(plan.parts, part)} for part in ("train", "val"))
    assert set(found) == validated
    assert not validated & trained
    assert len(found) == len(set(found)) > (0 if frames is None else len(made[0].parts.val))
    assert committee_file(made[0].row("baseline", [0.1])) == tmp_path / "run" / place / "committee-baseline.pt"


def test_a_run_leaves_a_committee(experiment, tmp_path, monkeypatch, capfd, tiny):
    frames = ase.io.read(tiny.data["dft"], ":")
    for atoms in frames:
        forces = EMT().get_forces(atoms.copy())
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy(), forces=forces)
    experiment["data"]["dft"] = str(tmp_path / "dft.extxyz")
    ase.io.write(tmp_path / "dft.extxyz", frames, format="extxyz")
    monkeypatch.setattr(execute, "call", in_process)
    monkeypatch.setattr(spread, "FEW", N_VAL)
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(experiment))
    words = ["run", str(file), "-o", str(tmp_path / "run"), "--strategy", "baseline", "--ensemble", "2"]
    assert exit_code(*words) == 0
    said = capfd.readouterr().out
    committee = Committee.load(fold(tmp_path).parent / "committee-baseline.pt")
    assert len(committee) == 2
    assert committee.factors["energy"].frames == N_VAL
    assert committee.factors["forces"].value > 0
    alone = [Committee.load(fold(tmp_path, seed) / "baseline/checkpoints/potential.pt") for seed in (0, 1)]
    split = read_split(experiment["splits"].format(split=1))
    dft = open_structures(experiment["data"]["dft"])
    frames = dft.take(dft.rows(split.test))
    found = predict(committee, frames, shown=False)
    each = [predict(member, frames, shown=False).energy[0] for member in alone]
    np.testing.assert_allclose(found.energy, each, rtol=1e-6)
    assert abs(found.energy[0] - found.energy[1]).max() > 1e-6
    assert len(frames) == N_TEST
    assert f"{1000 * maes(found.mean(), frames)['atom_mae']:.1f}"[:4] in said
    coverage = spreads(found, frames)["forces"].coverage(committee.factors["forces"].value)
    assert all(f"/ {100 * share:.0f}" in said for share in coverage)


def test_what_is_no_committee_is_said_and_the_others_are_made(plans, monkeypatch, capfd):
    """Of few frames, another EIP may be the best for each seed."""

    def refuse(*_):
        raise InputError("b.pt: trained with another EIP under it than a.pt; give equals")

    monkeypatch.setattr(Committee, "load", refuse)
    rows = [plan.row("baseline", [0.1]) for plan in plans(None)]
    table = make_committees(rows, [{"potential": "a.pt"}, {"potential": "b.pt"}])
    assert table.row_count == 0
    assert "committee-baseline.pt is not made: b.pt: trained with another EIP" in capfd.readouterr().out
