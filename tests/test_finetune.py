"""The fine-tuning stage: Eq. 3, the data of label augmentation, and the zero of energies."""

import logging
from contextlib import nullcontext
from copy import deepcopy

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from backbones import arguments, build
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lightning.pytorch import Trainer, seed_everything
from tiny import (
    FREE,
    MISSING,
    N_DFT,
    N_TEST,
    N_TRAIN,
    SMALL,
    attached,
    best,
    eipnn_stage,
    read_json,
    stage_config,
    targets_of,
    total_energy,
    write_dft,
    write_labels,
)
from torch_geometric.data import Batch

from eipnn import FinetuneDataModule, FinetuneModule
from eipnn.errors import InputError
from eipnn.losses import tukey_scale
from eipnn.potential.heads import EnergyHead
from eipnn.reference import Reference
from eipnn.representations import SchNet
from eipnn.stages.source import EnergyZero


def module(**kwargs) -> FinetuneModule:
    torch.manual_seed(0)
    return FinetuneModule(SchNet(**SMALL), **kwargs)


def equation_3(residual: np.ndarray, is_dft: np.ndarray, alpha: float, form: str) -> float:
    """Mean square over DFT + alpha x mean biweight over EIP, k from all residuals, written out."""
    sizes = sorted(abs(r) for r in residual)
    half = len(sizes) // 2
    mar = sizes[half] if len(sizes) % 2 else (sizes[half - 1] + sizes[half]) / 2
    sigma = mar / 0.6745
    k = 4.685 * sigma
    dft_part = [r**2 for r, d in zip(residual, is_dft, strict=True) if d]
    eip_part = []
    for r in residual[~is_dft]:
        inside = k > 0 and abs(r) <= k
        rho = k**2 / 6 * (1 - (1 - (r / k) ** 2) ** 3) if inside else k**2 / 6
        forms = {"tukey": rho, "mse": r**2, "tukey_normalised": rho / sigma**2 if sigma else 0}
        eip_part.append(forms[form])
    loss = sum(dft_part) / len(dft_part) if dft_part else 0.0
    return loss + (alpha * sum(eip_part) / len(eip_part) if eip_part else 0.0)


def loss_of(net: FinetuneModule, residual: torch.Tensor, is_dft: torch.Tensor, n_atoms=None):
    """The loss of a batch with these residuals; of configurations of one atom each where no numbers are given."""
    targets = targets_of(torch.zeros_like(residual), is_dft, n_atoms)
    return sum(t.weight * t(residual, targets) for t in (net.dft_terms["energy"], net.eip_terms["energy"]))


some = st.floats(-100, 100).filter(lambda r: r == 0 or abs(r) > 1e-3)
residuals = arrays(np.float64, st.integers(1, 40), elements=some)


@pytest.mark.parametrize("form", ["tukey", "mse", "tukey_normalised"])
@given(residual=residuals, data=st.data(), alpha=st.floats(0.01, 10))
def test_the_loss_is_equation_3_whatever_the_mix(form, residual, data, alpha):
    is_dft = np.array(data.draw(st.lists(st.booleans(), min_size=len(residual), max_size=len(residual))))
    net = module(alpha=alpha, eip_loss=form)
    loss = loss_of(net, torch.tensor(residual), torch.tensor(is_dft))
    expected = equation_3(residual, is_dft, alpha, form)
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_without_eip_configurations_it_is_the_mean_square():
    net = module(alpha=5.0)
    residual = torch.tensor([1.0, -2.0, 3.0])
    assert loss_of(net, residual, torch.tensor([True] * 3)).item() == pytest.approx(14 / 3)


def test_k_is_a_constant_of_the_gradient():
    net = module(alpha=0.7)
    is_dft = torch.tensor([True, False, False, False, False])
    residual = torch.tensor([0.5, 0.2, -0.4, 1.0, 9.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(net, residual, is_dft), residual)
    r = residual.detach()
    k = 4.685 * 0.5 / 0.6745
    expected = 0.7 * r * (1 - (r / k) ** 2) ** 2 / 4  # with k held
    expected[r.abs() > k] = 0
    expected[0] = 2 * r[0]
    torch.testing.assert_close(slope, expected)
    assert slope[4] == 0


def test_residuals_of_zero_reject_the_eip_labels_and_it_is_said(caplog):
    net = module(alpha=1.0)
    residual = torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0], requires_grad=True)
    is_dft = torch.tensor([True, True, False, True, False])
    for _ in range(2):
        loss = loss_of(net, residual, is_dft)
        loss.backward()
    assert loss.item() == pytest.approx(4 / 3)
    assert residual.grad.isfinite().all()
    assert residual.grad[4] == 0
    assert caplog.text.count("more than half of a batch's residuals are exactly 0") == 1


def test_per_atom_the_size_of_a_cell_does_not_decide_what_is_rejected():
    """Labels of 2 and of 64 atoms with equal errors an atom, of which one in ten is an outlier."""
    draws = torch.Generator().manual_seed(0)
    per_atom = torch.randn(400, generator=draws, dtype=torch.float64)
    per_atom[::10] *= 20
    n_atoms = torch.tensor([2, 64]).repeat_interleave(400)
    residual = per_atom.repeat(2) * n_atoms
    shares = {}
    for per in ("configuration", "atom"):
        net = module(energy_per=per)
        loss_of(net, residual, torch.zeros(800, dtype=torch.bool), n_atoms)
        size = n_atoms if per == "atom" else 1
        k = net.eip_terms["energy"].k
        torch.testing.assert_close(k, tukey_scale(residual / size))
        kept = (residual / size).abs() <= k
        shares[per] = [(~kept[n_atoms == size]).double().mean().item() for size in (2, 64)]
    assert shares["atom"][0] == shares["atom"][1] == pytest.approx(0.08, abs=0.02)
    assert shares["configuration"][0] < 0.03
    assert shares["configuration"][1] > 0.4


def test_per_atom_the_loss_is_that_of_energies_an_atom():
    n_atoms = torch.tensor([2, 64, 4, 4])
    residual = torch.tensor([2e-4, 64e-4, 4.0, -4.0], dtype=torch.float64)
    is_dft = torch.tensor([False, False, True, True])
    net = module(alpha=1.0, energy_per="atom")
    assert loss_of(net, residual, is_dft, n_atoms).item() == pytest.approx(1 + 1e-8 / 2, rel=1e-9)


def test_k_of_small_batches_is_that_of_the_batch_that_they_make():
    """From the first whole step on; k of the part of four alone is too large on average, and scatters."""
    term = module().eip_terms["energy"]
    draws = torch.Generator().manual_seed(0)
    parts = torch.randn(100 * 8, 4, generator=draws, dtype=torch.float64)
    assert torch.equal(term.rejection(parts[0]), tukey_scale(parts[0]))
    term.parts = 8
    found = torch.stack([term.rejection(part) for part in parts])
    for last in range(7, len(parts)):
        assert found[last] == tukey_scale(parts[last - 7 : last + 1])
    alone = torch.stack([tukey_scale(part) for part in parts])
    assert found[7:].std() < alone.std() / 2
    assert found[7:].mean().item() == pytest.approx(4.685, rel=0.05)


def test_residuals_of_earlier_small_batches_outlive_a_resumption(tiny, selection, tmp_path):
    """A training that is resumed has the weights of one that was not interrupted."""
    config = stage_config(tiny, "Finetune", tmp_path / "whole", accumulate_grad_batches=2)
    config["data"]["init_args"] |= {"selection": str(selection[0]), "batch_size": 4}
    config["model"]["init_args"]["scheduler"] = None
    whole = eipnn_stage("fit", config)
    config["trainer"] |= {"default_root_dir": str(tmp_path / "cut"), "max_epochs": 1}
    cut = eipnn_stage("fit", config)
    config["trainer"]["max_epochs"] = 2
    last = str(cut / "checkpoints" / "last.ckpt")
    kept = torch.load(last, weights_only=True)["residuals"]
    assert {name: len(parts) for name, parts in kept.items()} == {"energy": 1, "forces": 0}
    assert len(kept["energy"][0]) == 4
    eipnn_stage("fit", config, "--ckpt_path", last)
    one, other = (
        torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for root in (whole, cut)
    )
    torch.testing.assert_close(other, one, rtol=0, atol=0)


@pytest.fixture
def selection(tiny, tmp_path):
    """Sixteen pool frames under three EIPs; one of them has no label."""
    names = tiny.ids("pool")[:16]
    chosen = {name: ("cu.1", "au", "far")[k % 3] for k, name in enumerate(names)}
    assert MISSING in chosen
    chosen[MISSING] = "au"
    return tiny.select(tmp_path / "selection.csv", chosen), chosen


def augmented(tiny, file, **kwargs) -> dict:
    return tiny.arguments | {"selection": str(file)} | kwargs


def test_selected_frames_have_the_energy_of_their_eip(tiny, selection, caplog):
    file, chosen = selection
    data = attached(FinetuneDataModule(**augmented(tiny, file)), module())
    items = [data.train_set[k] for k in range(len(data.train_set))]
    dft, eip = items[:N_TRAIN], items[N_TRAIN:]
    assert all(item.is_dft for item in dft)
    assert not any(item.is_dft for item in eip)
    for name, item in zip(tiny.ids("train"), dft, strict=True):
        assert item.energy.item() == pytest.approx(tiny.cohesive[name], rel=1e-6)
        assert (item.energy + item.zero).item() == pytest.approx(
            total_energy(tiny.frames[name], tiny.cohesive[name]), rel=1e-12
        )
    del chosen[MISSING]
    assert "1 of 16 selected structures have no label from their EIP: left out" in caplog.text
    columns = {"cu.1": 0, "au": 1, "far": 2}
    for (name, eip_name), item in zip(chosen.items(), eip, strict=True):
        assert item.energy.item() == pytest.approx(tiny.eip[name][columns[eip_name]], rel=1e-6)
        assert item.n_atoms == len(tiny.frames[name])


def test_every_batch_holds_both_kinds(tiny, selection):
    data = attached(
        FinetuneDataModule(**augmented(tiny, selection[0], batch_size=8, dft_fraction=0.25)),
        module(),
    )
    loader = data.train_dataloader()
    shares = [batch.is_dft.tolist() for batch in loader]
    assert [(sum(s), len(s)) for s in shares] == [(2, 8)] * 2  # 15 labelled frames, six a batch


def test_a_training_step_is_equation_3_of_its_batch(tiny, selection):
    net = module(alpha=0.3)
    data = attached(FinetuneDataModule(**augmented(tiny, selection[0], batch_size=12)), net)
    batch = next(iter(data.train_dataloader()))
    with torch.no_grad():
        step = net.training_step(batch, 0)
        residual = (net(batch) - batch.energy[:, 0]).double().numpy()
    expected = equation_3(residual, batch.is_dft.numpy(), 0.3, "tukey")
    assert step["loss"].item() == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose((step["energy"] - batch.energy[:, 0]).numpy(), residual, rtol=1e-6)


def test_a_selection_of_none_trains_on_dft_and_says_so(tiny, tmp_path, caplog):
    file = tiny.select(tmp_path / "selection.csv", {})
    data = attached(FinetuneDataModule(**augmented(tiny, file)), module())
    assert "the classifier chose no EIP for any structure: training on DFT alone" in caplog.text
    assert len(data.train_set) == N_TRAIN
    assert all(batch.is_dft.all() for batch in data.train_dataloader())


def test_a_selection_without_any_label_trains_on_dft_and_says_so(tiny, tmp_path, caplog):
    file = tiny.select(tmp_path / "selection.csv", {MISSING: "au"})
    data = attached(FinetuneDataModule(**augmented(tiny, file)), module())
    assert "1 of 1 selected structures have no label from their EIP" in caplog.text
    assert len(data.train_set) == N_TRAIN
    assert len(data.train_dataloader()) == N_TRAIN // 4


def test_notes_of_the_batch_plan_are_said(tiny, tmp_path, caplog):
    names = tiny.ids("pool")[10:12]
    file = tiny.select(tmp_path / "selection.csv", dict.fromkeys(names, "au"))
    data = attached(FinetuneDataModule(**augmented(tiny, file, batch_size=32)), module())
    assert len(data.train_dataloader()) == 1
    assert "2 EIP configurations fill no batch" in caplog.text


def test_elements_are_those_that_are_trained_on(tiny, tmp_path):
    """Elements of pool frames that were not selected are not known."""
    copper = [n for n in tiny.ids("train") if set(tiny.frames[n].symbols) == {"Cu"}]
    gold = next(n for n in tiny.ids("pool") if "Au" in tiny.frames[n].symbols)
    assert len(copper) >= 2
    rows = [f"{copper[0]},val\n", *(f"{n},train\n" for n in copper[1:])]
    rows += [f"{name},pretrain\n" for name in tiny.ids("pool")]
    (tmp_path / "split.csv").write_text("configs,mark\n" + "".join(rows))
    arguments = tiny.arguments | {"split": str(tmp_path / "split.csv")}
    net = module()
    attached(FinetuneDataModule(**arguments), net)
    assert net.elements == ["Cu"]
    zero = EnergyZero("none")
    file = tiny.select(tmp_path / "selection.csv", {gold: "au"})
    both = arguments | {"selection": str(file), "energy_zero": zero}
    attached(FinetuneDataModule(**both), net)
    assert net.elements == ["Au", "Cu"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "config_id,eip\ndft_000000,au\n",
            "the selection names dft_000000, which the split does not",
        ),
        ("config_id,eip\npool_000001,sw\n", "has no labels of the EIP 'sw'"),
        ("name,eip\npool_000001,au\n", r"selection.csv: column 'config_id' is missing"),
    ],
)
def test_selections_that_do_not_fit(tiny, tmp_path, content, message):
    file = tmp_path / "selection.csv"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        attached(FinetuneDataModule(**augmented(tiny, file)), module())


def test_arguments_that_cannot_be(tiny):
    with pytest.raises(InputError, match="alpha must be positive, not 0; for no EIP labels leave out"):
        module(alpha=0)
    for alpha in (-1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"alpha must be positive, not {alpha}"):
            module(alpha=alpha)
    with pytest.raises(InputError, match="dft_fraction must lie between 0 and 1, not 1"):
        FinetuneDataModule(**tiny.arguments, dft_fraction=1)
    with pytest.raises(InputError, match="batch_size and eval_batch_size must be at least 1"):
        FinetuneDataModule(**tiny.arguments | {"batch_size": 0})
    assert FinetuneDataModule(**tiny.arguments | {"batch_size": 3, "eval_batch_size": None}).eval_batch_size == 3


def test_test_errors_and_totals_are_those_of_the_predictions(tiny, trained, tmp_path):
    config = stage_config(tiny, "Finetune", tmp_path)
    root = eipnn_stage("test", config, "--ckpt_path", best(trained["Finetune"]))
    found, metrics = pd.read_csv(root / "predictions_test.csv"), read_json(root / "test.json")
    assert found.columns.tolist() == ["config_id", "n_atoms", "energy", "prediction"]
    assert found["config_id"].tolist() == tiny.ids("test")
    frames = [tiny.frames[name] for name in found["config_id"]]
    truth = [total_energy(a, tiny.cohesive[n]) for n, a in zip(found["config_id"], frames, strict=True)]
    np.testing.assert_allclose(found["energy"], truth, rtol=1e-12)
    assert found["n_atoms"].tolist() == [len(atoms) for atoms in frames]
    error = (found["prediction"] - found["energy"]).abs()
    assert metrics["test_config_mae"] == pytest.approx(error.mean(), rel=1e-4)
    assert metrics["test_atom_mae"] == pytest.approx((error / found["n_atoms"]).mean(), rel=1e-4)
    # on the zero of the file, where an atom is some 50 eV down
    assert (error / found["n_atoms"]).max() < 2


def trained_predictions(tiny, folder, shift, zero, selection, eip_shift=None) -> np.ndarray:
    """Totals (eV) predicted for the test split after a training in which all DFT energies have another zero.

    Args:
        shift: eV an atom of each element that every DFT energy is off by.
        eip_shift: the same of the EIP labels, whose zero is then fitted.
    """
    folder.mkdir()
    free = {s: FREE[s] + shift[s] for s in FREE}
    ids = list(tiny.frames)[: N_TRAIN + 5 + N_TEST]
    frames = [tiny.frames[n] for n in ids]
    totals = [total_energy(a, tiny.cohesive[n], free) for n, a in zip(ids, frames, strict=True)]
    arguments = augmented(tiny, selection, batch_size=12) | {
        "dft": str(write_dft(folder / "dft.extxyz", frames, totals)),
        "energy_zero": EnergyZero(zero, free if zero == "isolated_atoms" else None),
        "eip_energy_zero": {"*": EnergyZero("none" if eip_shift is None else "least_squares")},
    }
    if eip_shift is not None:
        every = list(tiny.frames.values())
        off = np.array([sum(eip_shift[s] for s in atoms.symbols) for atoms in every])
        energies = np.array(list(tiny.eip.values())) + off[:, None]
        arguments["labels"] = str(write_labels(folder / "labels", every, energies))
    seed_everything(0)
    net = FinetuneModule(SchNet(**SMALL))
    data = FinetuneDataModule(**arguments, handover=net.handover)
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(net, datamodule=data)
    test = data.labelled(data.source.split.test)
    batch = Batch.from_data_list([test[k] for k in range(len(test))])
    with torch.no_grad():
        return net.eval().predict_step(batch, 0)["prediction"].numpy()


@pytest.fixture(scope="module")
def zeros(tiny, tmp_path_factory):
    """Predictions by (zero, shift), each trained once, with the totals taken off that the shift adds."""
    root = tmp_path_factory.mktemp("zeros")
    chosen = dict.fromkeys(tiny.ids("pool")[10:30], "au")
    file = tiny.select(root / "selection.csv", chosen)
    found: dict[tuple, np.ndarray] = {}

    def predict(zero: str, copper: float, gold: float, eip_shift=None) -> np.ndarray:
        key = (zero, copper, gold, str(eip_shift))
        if key not in found:
            shift = {"Cu": copper, "Au": gold}
            totals = trained_predictions(tiny, root / str(len(found)), shift, zero, file, eip_shift)
            off = [sum(shift[s] for s in tiny.frames[n].symbols) for n in tiny.ids("test")]
            found[key] = totals - off
        return found[key]

    return predict


@pytest.mark.parametrize("zero", ["isolated_atoms", "least_squares"])
@pytest.mark.parametrize(("copper", "gold"), [(7.5, -3.0), (-1e5, -2e5)], ids=["some", "huge"])
def test_a_shift_of_all_dft_energies_shifts_the_predictions(zeros, zero, copper, gold):
    np.testing.assert_allclose(zeros(zero, copper, gold), zeros(zero, 0.0, 0.0), rtol=0, atol=1e-5)


def test_a_shift_of_the_eip_labels_changes_nothing_with_least_squares(zeros):
    base = zeros("isolated_atoms", 0.0, 0.0, {"Cu": 0.0, "Au": 0.0})
    shifted = zeros("isolated_atoms", 0.0, 0.0, {"Cu": 300.0, "Au": -20.0})
    np.testing.assert_allclose(shifted, base, rtol=0, atol=1e-5)


def test_the_scale_does_not_depend_on_the_zero(tiny):
    """Even with no alignment at all, the network sees targets of the order of one."""
    scales = []
    for zero in (EnergyZero("none"), EnergyZero("isolated_atoms", dict(FREE))):
        net = module()
        attached(FinetuneDataModule(**tiny.arguments | {"energy_zero": zero}), net)
        scales.append(net.head.scale.item())
        assert net.head.shift[[29, 79], 0].min() < -1
    assert scales[0] == pytest.approx(scales[1], rel=1e-4)


def test_energies_far_from_every_eip_are_said_before_training(tiny, caplog):
    caplog.set_level(logging.WARNING)
    attached(FinetuneDataModule(**tiny.arguments), module())
    assert not caplog.records
    attached(FinetuneDataModule(**tiny.arguments | {"energy_zero": EnergyZero("none")}), module())
    assert caplog.records
    assert "zero" in caplog.text


def test_what_is_trained_on_is_said(tiny, tmp_path, caplog):
    """How many frames have which label, in one line; what is not used is not among what is trained on."""
    caplog.set_level(logging.INFO)
    data = FinetuneDataModule(**tiny.arguments)
    net = module(weights={"energy": 1.0})
    attached(data, net)
    text = f"energies of {N_TRAIN}, forces of 0, stress of 0 training frames; trained on: energy"
    assert text in caplog.text
    frames = ase.io.read(tiny.data["dft"], ":")
    train = set(data.source.split.train)
    with_stress = next(atoms for atoms in frames if atoms.info["config_id"] in train)
    for atoms in frames:
        energy = atoms.get_potential_energy()
        more = {"stress": np.zeros(6)} if atoms is with_stress else {}
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=np.zeros((len(atoms), 3)), **more)
    ase.io.write(tmp_path / "dft.extxyz", frames, format="extxyz")
    caplog.clear()
    attached(FinetuneDataModule(**tiny.arguments | {"dft": str(tmp_path / "dft.extxyz")}), net)
    (line,) = [record.getMessage() for record in caplog.records if "training frames" in record.getMessage()]
    assert f"energies of {N_TRAIN}, forces of {N_TRAIN}, stress of 1 training frames" in line


@pytest.mark.parametrize(("stage", "part"), [("validate", "val"), ("test", "test"), ("fit", "val")])
def test_elements_that_were_not_trained_on_are_refused(tiny, tmp_path, stage, part):
    """Without a zero there is nothing else that knows the elements."""
    strange = tiny.ids(part)[1]
    frames = ase.io.read(tiny.data["dft"], ":")
    energies = [atoms.get_potential_energy() for atoms in frames]
    next(a for a in frames if a.info["config_id"] == strange).symbols[0] = "Ag"
    file = write_dft(tmp_path / "dft.extxyz", frames, energies)
    arguments = tiny.arguments | {
        "dft": str(file), "labels": None, "energy_zero": EnergyZero("none")
    }  # fmt: skip
    net = module()
    net.elements = ["Au", "Cu"]
    FinetuneDataModule(**arguments, handover=net.handover).setup(stage)
    start = {
        "fit": lambda: net.setup("fit"),
        "validate": net.on_validation_start,
        "test": net.on_test_start,
    }
    message = f"{file}: {strange}: the potential was trained on Au, Cu, not on Ag"
    with pytest.raises(InputError, match=message):
        start[stage]()


@pytest.mark.parametrize("free", [{"Cu": -500.123, "Au": -512.3}, {"Cu": -4e4, "Au": -5e5}])
def test_large_totals_lose_no_digits(tiny, tmp_path, free):
    """Whatever the zero, a network in float32 sees the residuals that one in float64 sees."""
    frames = [a for n, a in list(tiny.frames.items())[:N_DFT] if a.pbc.all()]
    large = [atoms.repeat((5, 5, 1)) for atoms in frames]  # 100 atoms
    totals = []
    for number, atoms in enumerate(large):
        atoms.info["config_id"] = f"large_{number}"
        cohesive = 25 * tiny.cohesive[frames[number].info["config_id"]]
        totals.append(total_energy(atoms, cohesive, free))
    dft = str(write_dft(tmp_path / "dft.extxyz", large, totals))
    marks = ["train"] * (len(large) - 2) + ["val", "test"]
    rows = [f"large_{n},{mark}\n" for n, mark in enumerate(marks)]
    (tmp_path / "split.csv").write_text("configs,mark\n" + "".join(rows))
    split = str(tmp_path / "split.csv")
    arguments = tiny.arguments | {"dft": dft, "split": split, "energy_zero": EnergyZero("none")}
    net = module().eval()
    data = attached(FinetuneDataModule(**arguments | {"labels": None, "pool": None}), net)
    batch = Batch.from_data_list([data.train_set[n] for n in range(8)])
    assert batch.energy[:, 0].tolist() == totals[:8]
    exact = deepcopy(net).double()
    double = batch.clone()
    double.pos, double.cell, double.edge_shift = (batch[name].double() for name in ("pos", "cell", "edge_shift"))
    with torch.no_grad():
        single, wanted = (network(given) - batch.energy[:, 0] for network, given in ((net, batch), (exact, double)))
    assert single.dtype == torch.float64
    assert wanted.abs().max() < 50  # of 5 10^4 or 5 10^7 eV
    assert wanted.abs().max() > 1e-2
    torch.testing.assert_close(single, wanted, rtol=0, atol=1e-4)


def test_the_shift_stays_float64_and_old_checkpoints_load():
    head = EnergyHead(4)
    head.set_scale([1.0], [Reference("least_squares", {"Cu": -500.123456789})])
    for moved in (head.float(), head.double().float(), head.to(torch.bfloat16)):
        assert moved.shift.dtype == torch.float64
        assert moved.shift[29].item() == -500.123456789
    old = EnergyHead(4)
    state = head.float().state_dict()
    old.load_state_dict(state | {"shift": state["shift"].float()})  # as before, in float32
    assert old.shift[29].item() == np.float32(-500.123456789)


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_every_network_trains_in_mixed_precision(tiny, backbone, tmp_path, precision):
    """On a CPU Lightning takes bf16 in place of 16 and says so."""
    net = FinetuneModule(build(backbone, **arguments(backbone, ["Au", "Cu"])))
    before = deepcopy(net.head.mlp[0].weight)
    plain = tiny.arguments | {"labels": None, "pool": None, "energy_key": None}
    data = FinetuneDataModule(**plain, handover=net.handover)
    said = pytest.warns(UserWarning, match="fp16 is not supported on CPU") if precision == "16-mixed" else nullcontext()
    with said:
        trainer = Trainer(
            accelerator="cpu", precision=precision, max_epochs=1, limit_train_batches=2, limit_val_batches=1,
            logger=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
    trainer.fit(net, data)
    assert not torch.equal(before, net.head.mlp[0].weight)
    assert trainer.callback_metrics["val_config_mae"].isfinite()


def test_a_cutoff_that_no_neighbour_is_within_is_said_before_training(tiny):
    blind = FinetuneModule(SchNet(**SMALL | {"cutoff": 0.5}))
    with pytest.raises(InputError, match=r"no two atoms .* within the cutoff of 0\.5 A: give the"):
        attached(FinetuneDataModule(**tiny.arguments), blind)
