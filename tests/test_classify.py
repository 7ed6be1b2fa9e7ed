"""The classifier stage: which EIP is closest to DFT."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny import (
    EIPS,
    N_POOL,
    SMALL,
    attached,
    best,
    eipnn_stage,
    mostly_gold,
    read_json,
    stage_config,
)
from torch_geometric.data import Batch

from eipnn import ClassifierDataModule, ClassifierModule
from eipnn.errors import InputError
from eipnn.potential.heads import ClassHead
from eipnn.representations import SchNet
from eipnn.stages.classify import best_eip_class

energies = st.floats(-50, 50)
labels = energies | st.just(np.nan) | st.just(np.inf)


def brute_force(dft: float, eip: np.ndarray, n_atoms: int, c: float) -> int:
    """argmin over the EIPs of the total-energy error; none where that error an atom exceeds c."""
    best, smallest = len(eip), np.inf
    for p, energy in enumerate(eip):
        if np.isfinite(energy) and abs(energy - dft) < smallest:
            best, smallest = p, abs(energy - dft)
    return best if smallest / n_atoms <= c else len(eip)


@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.floats(0.01, 5))
def test_classes_are_those_of_a_plain_loop(data, n, eips, c):
    dft = data.draw(arrays(np.float64, n, elements=energies))
    eip = data.draw(arrays(np.float64, (n, eips), elements=labels))
    n_atoms = data.draw(arrays(np.int64, n, elements=st.integers(1, 64)))
    expected = [brute_force(*row, c) for row in zip(dft, eip, n_atoms, strict=True)]
    assert best_eip_class(dft, eip, n_atoms, c).tolist() == expected


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
    found = best_eip_class(np.array([0.0]), np.array([eip]), np.array([n_atoms]), 0.1)
    assert found.tolist() == [expected]


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
    message = f"classes: cu.1 {expected.count(0)}, au {expected.count(1)}, far 0, none 0"
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
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        ClassifierModule(SchNet(**SMALL), **arguments)


def test_an_eip_that_the_store_lacks(tiny):
    net = ClassifierModule(SchNet(**SMALL), ["au", "tersoff"])
    with pytest.raises(InputError, match=r"no labels of the EIP 'tersoff'; it has cu.1, au, far"):
        attached(ClassifierDataModule(**tiny.arguments), net)
