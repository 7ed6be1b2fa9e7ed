"""The classifier stage: which EIP is closest to DFT."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import (
    EIPS,
    N_POOL,
    SMALL,
    Tiny,
    attached,
    best,
    eipnn_stage,
    give_forces,
    make_tiny,
    mostly_gold,
    read_json,
    stage_config,
)
from torch_geometric.data import Batch

from eipnn import ClassifierDataModule, ClassifierModule
from eipnn.errors import InputError
from eipnn.potential.heads import ClassHead
from eipnn.representations import SchNet
from eipnn.stages.classify import best_eip_class, distances, limits_of


def brute_force(energy: np.ndarray, forces: np.ndarray, limits: dict[str, float]) -> int:
    """argmin over the EIPs of the mean error over the limits, of one configuration; none where that exceeds 1."""
    best, smallest = len(energy) - 1, np.inf
    for p in range(1, len(energy)):
        errors = []
        if "energy" in limits:
            errors.append(abs(energy[p] - energy[0]) / len(forces) / limits["energy"])
        if "forces" in limits:
            squares = [(atom[p, x] - atom[0, x]) ** 2 for atom in forces for x in range(3)]
            errors.append((sum(squares) / len(squares)) ** 0.5 / limits["forces"])
        if (error := sum(errors) / len(errors)) < smallest and error <= 1:
            best, smallest = p - 1, error
    return best


@pytest.mark.parametrize("judge", ["energy", "forces", "both"])
def test_classes_are_those_of_a_plain_loop(judge):
    rng = np.random.default_rng(0)
    limits = limits_of(judge, 0.5, 0.8)
    for _ in range(100):
        n, eips = rng.integers(1, [8, 6])
        sizes = rng.integers(1, 4, n)
        energy, forces = rng.normal(size=(n, 1 + eips)), rng.normal(size=(sizes.sum(), 1 + eips, 3))
        energy[:, 1:][rng.random((n, eips)) < 0.2] = np.nan
        forces[:, 1:][rng.random((len(forces), eips)) < 0.2] = rng.choice([np.nan, np.inf])
        per_frame = np.split(forces, np.cumsum(sizes)[:-1])
        expected = [brute_force(*row, limits) for row in zip(energy, per_frame, strict=True)]
        found = best_eip_class(distances({"energy": energy, "forces": forces}, sizes, limits))
        assert found.tolist() == expected


def test_distances_by_hand():
    """One atom, and two; the last EIP says nothing of the first configuration's forces."""
    energy = np.array([[-1.0, -1.3, -1.1, -1.0], [-4.0, -4.1, -3.0, -4.0]])
    forces = np.zeros((3, 4, 3))
    forces[0, 1] = [3.0, 0.0, 0.0]
    forces[0, 2] = [0.0, 0.3, -0.4]
    forces[0, 3] = np.nan
    forces[:, 0] += 1.0  # of DFT, and of all
    forces[:, 1:] += 1.0
    forces[1, 1] += [0.0, 0.0, 0.6]
    forces[2, 2] -= [1.2, 0.0, 0.0]
    targets, sizes = {"energy": energy, "forces": forces}, np.array([1, 2])
    by_energy = np.array([[3.0, 1.0, 0.0], [0.5, 5.0, 0.0]])  # over c = 0.1 eV/atom
    of_forces = np.array([[3 / 3**0.5, 0.5 / 3**0.5, np.nan], [0.6 / 6**0.5, 1.2 / 6**0.5, 0.0]])
    np.testing.assert_allclose(distances(targets, sizes, {"energy": 0.1}), by_energy, atol=1e-12)
    np.testing.assert_allclose(distances(targets, sizes, {"forces": 0.5}), 2 * of_forces, atol=1e-12)
    both = distances(targets, sizes, {"energy": 0.1, "forces": 0.5})
    np.testing.assert_allclose(both, (by_energy + 2 * of_forces) / 2, atol=1e-12)
    assert best_eip_class(distances(targets, sizes, {"energy": 0.1})).tolist() == [2, 2]
    assert best_eip_class(distances(targets, sizes, {"forces": 0.25})).tolist() == [3, 2]  # 0.289 eV/A is beyond
    assert best_eip_class(both).tolist() == [1, 2]  # (1 + 0.577) / 2
    assert best_eip_class(distances(targets, sizes, {"energy": 0.1, "forces": 0.25})).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("eip", "n_atoms", "expected"),
    [
        ([0.3, -0.2, 9.0], 2, 1),  # 0.1 eV/atom is not beyond c
        ([0.3, -0.21, 9.0], 2, 3),
        ([5.0, np.nan, 6.0], 64, 0),  # 5 eV, but 0.08 eV/atom
        ([np.nan, np.nan, np.nan], 2, 3),
        ([np.inf, 0.0, -np.inf], 2, 1),
        ([0.1, -0.1, 0.1], 2, 0),  # a tie is the first one's
    ],
)
def test_none_where_no_eip_is_within_c(eip, n_atoms, expected):
    distance = distances({"energy": np.array([[0.0, *eip]])}, np.array([n_atoms]), {"energy": 0.1})
    assert best_eip_class(distance).tolist() == [expected]


def module(**kwargs) -> ClassifierModule:
    return ClassifierModule(SchNet(**SMALL), list(EIPS), **kwargs)


def test_targets_of_the_data_module(tiny, caplog):
    caplog.set_level(logging.INFO)
    data = attached(ClassifierDataModule(**tiny.arguments), module())
    ids = tiny.ids("train")
    expected = [1 if mostly_gold(tiny.frames[name]) else 0 for name in ids]
    assert [int(data.train_set[k].label) for k in range(len(ids))] == expected
    assert set(expected) == {0, 1}
    assert data.train_set.ids == ids
    message = f"classes by energy: cu.1 {expected.count(0)}, au {expected.count(1)}, far 0, none 0"
    assert message in caplog.text


def test_a_smaller_c_makes_more_of_them_none(tiny):
    data = attached(ClassifierDataModule(**tiny.arguments), module(c=0.02))
    found = [int(data.train_set[k].label) for k in range(len(tiny.ids("train")))]
    expected = []
    for name in tiny.ids("train"):
        error = np.abs(tiny.eip[name] - tiny.cohesive[name]) / len(tiny.frames[name])
        expected.append(int(error.argmin()) if error.min() <= 0.02 else 3)
    assert found == expected
    assert 0 < found.count(3) < len(found)


@pytest.fixture
def copied(tmp_path) -> Tiny:
    """The tiny set, to be changed."""
    return make_tiny(tmp_path)


def classes(data) -> list[int]:
    return [int(data[k].label) for k in range(len(data))]


@pytest.mark.parametrize(
    ("arguments", "gold", "copper"),
    [
        ({"judge": "energy"}, 1, 0),
        ({"judge": "forces"}, 2, 2),  # 0.05 eV/A
        ({"judge": "forces", "c_forces": 0.04}, 3, 3),
        ({"judge": "both"}, 1, 3),  # (0.02 / 0.1 + 0.2 / 0.5) / 2, (0.02 / 0.1 + 1.2 / 0.5) / 2
        ({}, 1, 3),
        ({"c_forces": 0.8}, 1, 0),  # (0.2 + 1.5) / 2
    ],
)
def test_the_judge_chooses(copied, arguments, gold, copper):
    give_forces(copied, (1.2, 0.2, 0.05))
    data = attached(ClassifierDataModule(**copied.arguments), module(**arguments))
    expected = [gold if mostly_gold(copied.frames[name]) else copper for name in copied.ids("train")]
    assert classes(data.train_set) == expected
    assert len(data.val_set) == len(copied.ids("val"))


def test_frames_without_forces_are_left_out(copied, caplog):
    train, val = copied.ids("train"), copied.ids("val")
    give_forces(copied, (0.2, 0.2, 0.2), without=[*train[1:7], val[0]])
    data = attached(ClassifierDataModule(**copied.arguments), module(judge="both"))
    assert data.train_set.ids == [train[0], *train[7:]]
    assert data.val_set.ids == val[1:]
    assert sum(batch.num_graphs for batch in data.train_dataloader()) == len(train) - 6  # three batches
    said = [record.message for record in caplog.records if "left out" in record.message]
    assert len(said) == 1
    assert said[0].startswith(f"7 of 30 DFT frames, of which {train[1]} is the first, have no forces")
    for judge in ("energy", None):  # by default forces are not taken where some frames lack them
        by_energy = attached(ClassifierDataModule(**copied.arguments), module(judge=judge))
        assert by_energy.train_set.ids == train


@pytest.mark.parametrize("lacks", ["dft", "eip"])
def test_forces_that_nothing_has(copied, lacks, caplog):
    """Asked for they are an error, else the EIPs are judged by energies."""
    caplog.set_level(logging.INFO)
    give_forces(copied, (np.nan if lacks == "eip" else 0.2,) * 3, list(copied.frames) if lacks == "dft" else ())
    for judge in ("forces", "both"):
        with pytest.raises(InputError, match=r"dft.extxyz: dft_000000, as every training frame, has no forces of both"):
            attached(ClassifierDataModule(**copied.arguments), module(judge=judge))
    data = attached(ClassifierDataModule(**copied.arguments), module())
    assert classes(data.train_set) == [1 if mostly_gold(copied.frames[name]) else 0 for name in copied.ids("train")]
    assert "classes by energy: " in caplog.text


def test_no_validation_frame_has_forces(copied):
    give_forces(copied, (0.2, 0.2, 0.2), without=copied.ids("val"))
    with pytest.raises(InputError, match=r"dft_000018, as every frame of its part of the split, has no DFT forces"):
        attached(ClassifierDataModule(**copied.arguments), module(judge="both"))


def silent(net):
    """The module, able to run its steps without a trainer."""
    net.log = lambda *_, **__: None
    return net.eval()


def test_accuracy_and_loss_leave_padding_out(tiny):
    net = silent(module())
    data = attached(ClassifierDataModule(**tiny.arguments), net).val_set
    n = len(data)
    with torch.no_grad():
        net.validation_step(Batch.from_data_list([data[k] for k in range(3)]), 0)
        net.validation_step(Batch.from_data_list([data[k] for k in range(3, n + 3)]), 1)
        logits = net(Batch.from_data_list([data[k] for k in range(n)]))
    label = torch.tensor([int(data[k].label) for k in range(n)])
    assert data[n].weight == 0  # beyond the end
    assert data[n].row == 0
    assert net.means[0].compute() == pytest.approx((logits.argmax(-1) == label).float().mean())
    expected = torch.nn.functional.cross_entropy(logits, label)
    assert net.means[1].compute() == pytest.approx(expected.item(), rel=1e-5)


def test_head_normalises_the_sum_over_atoms():
    torch.manual_seed(0)
    head = ClassHead(4, 3)
    features, batch = torch.randn(10, 4), torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    pooled = torch.stack([features[batch == k].sum(0) for k in range(3)])
    normed = (pooled - pooled.mean(0)) / (pooled.var(0, unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(head(features, batch, 3), head.mlp(normed))


def test_a_batch_of_one_trains_by_the_running_statistics():
    torch.manual_seed(0)
    head = ClassHead(4, 3)
    head(torch.randn(20, 4), torch.arange(20) % 5, 5)  # some statistics to run on
    before = {k: v.clone() for k, v in head.norm.state_dict().items()}
    features, batch = torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)
    alone = head(features, batch, 1)
    alone.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    for name, value in head.norm.state_dict().items():
        torch.testing.assert_close(value, before[name])
    torch.testing.assert_close(head.eval()(features, batch, 1), alone)


def test_batches_of_one_train(tiny, tmp_path):
    config = stage_config(tiny, "Classifier", tmp_path, max_epochs=1)
    config["data"]["init_args"]["batch_size"] = 1
    root = eipnn_stage("fit", config)
    assert read_json(root / "fit.json")["gradient_steps"] == len(tiny.ids("train"))


def test_it_learns_and_selects_for_the_whole_pool(tiny, tmp_path):
    config = stage_config(tiny, "Classifier", tmp_path, max_epochs=12)
    config["model"]["init_args"]["optimizer"] = {
        "class_path": "torch.optim.Adam",
        "init_args": {"lr": 0.02},
    }
    root = eipnn_stage("fit", config)
    eipnn_stage("test", config, "--ckpt_path", best(root))
    eipnn_stage("predict", config, "--ckpt_path", best(root))
    selection = pd.read_csv(root / "selection.csv", keep_default_na=False)
    assert selection.columns.tolist() == ["config_id", "eip", "probability"]
    assert selection["config_id"].tolist() == tiny.ids("pool")
    assert len(selection) == N_POOL
    assert set(selection["eip"]) <= {*EIPS, "none"}
    assert selection["probability"].between(0.25, 1).all()
    right = ["au" if mostly_gold(tiny.frames[name]) else "cu.1" for name in tiny.ids("pool")]
    assert (selection["eip"] == right).mean() > 0.8
    tested = pd.read_csv(root / "predictions_test.csv", keep_default_na=False)
    assert tested["config_id"].tolist() == tiny.ids("test")
    accuracy = (tested["eip"] == tested["best_eip"]).mean()
    assert read_json(root / "test.json")["test_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eips": []}, "the classifier needs at least one EIP"),
        ({"eips": ["a"], "c": 0.0}, "c must be positive, not 0.0 eV/atom"),
        ({"eips": ["a"], "c_forces": -1.0}, "c_forces must be positive, not -1.0 eV/A"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        ClassifierModule(SchNet(**SMALL), **arguments)


def test_an_eip_that_the_store_lacks(tiny):
    net = ClassifierModule(SchNet(**SMALL), ["au", "tersoff"])
    with pytest.raises(InputError, match=r"no labels of the EIP 'tersoff'; it has cu.1, au, far"):
        attached(ClassifierDataModule(**tiny.arguments), net)
