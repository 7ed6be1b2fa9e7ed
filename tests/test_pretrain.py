"""The pretraining stage: all EIPs at once."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import (
    EIPS,
    MISSING,
    OUTLIER,
    SMALL,
    attached,
    best,
    eipnn_stage,
    read_json,
    stage_config,
    write_labels,
)
from torch_geometric.data import Batch

from eipnn import PretrainDataModule, PretrainModule
from eipnn.errors import InputError
from eipnn.representations import SchNet


def module(eips=EIPS, **kwargs) -> PretrainModule:
    torch.manual_seed(0)
    net = PretrainModule(SchNet(**SMALL), list(eips), **kwargs)
    net.log = lambda *_, **__: None
    return net


def batch_of(data, *rows: int) -> Batch:
    return Batch.from_data_list([data[row] for row in rows])


@pytest.fixture
def rows(tiny) -> dict[str, int]:
    return {name: row for row, name in enumerate(tiny.ids("pool"))}


def test_outliers_and_missing_labels_are_masked_alone(tiny, rows, caplog):
    data = attached(PretrainDataModule(**tiny.arguments), module()).train_set
    assert data.ids == tiny.ids("pool")
    for name, row in rows.items():
        item = data[row]
        known = [name != OUTLIER if p == "far" else not (p == "au" and name == MISSING) for p in EIPS]
        assert item.energy.isfinite().tolist() == [known]
        expected = torch.tensor(tiny.eip[name], dtype=torch.float64)[None]
        torch.testing.assert_close(item.energy[:, known], expected[:, known])
    assert "of 40 configurations, labels left out as missing or outliers: au 1, far 1" in caplog.text


@pytest.mark.parametrize("stage", ["fit", "predict"])
def test_what_is_gone_through_once_is_not_kept(tiny, stage):
    data = attached(PretrainDataModule(**tiny.arguments), module(), stage)
    parts = [data.train_set, data.val_set] if stage == "fit" else [data.predict_set]
    assert [part[3] is part[3] for part in parts] == [stage == "fit"] * len(parts)


def test_the_threshold_is_an_atom(tiny, rows):
    net = module(outlier=300.5)
    data = attached(PretrainDataModule(**tiny.arguments), net).train_set
    assert data[rows[OUTLIER]].energy.isfinite().all()
    assert not data[rows[MISSING]].energy.isfinite().all()


def test_the_loss_is_the_mean_over_the_labels_that_count(tiny, rows):
    net = module()
    data = attached(PretrainDataModule(**tiny.arguments), net).train_set
    chosen = [rows[MISSING], rows[OUTLIER], 20]
    batch = batch_of(data, *chosen)
    prediction = net(batch)
    squares = [
        (prediction[b, p] - float(tiny.eip[data.ids[row]][p])) ** 2
        for b, row in enumerate(chosen)
        for p in range(3)
        if data[row].energy[0, p].isfinite()
    ]
    assert len(squares) == 7
    loss = net.training_step(batch, 0)["loss"]
    torch.testing.assert_close(loss, torch.stack(squares).mean())


def test_masked_labels_have_no_gradient(tiny, rows):
    net = module()
    data = attached(PretrainDataModule(**tiny.arguments), net).train_set
    net.training_step(batch_of(data, rows[MISSING]), 0)["loss"].backward()
    last = net.head.mlp[-1]  # one row an EIP
    assert last.weight.grad.isfinite().all()
    assert last.weight.grad[1].abs().max() == 0
    assert (last.weight.grad[[0, 2]].abs().max(dim=1).values > 0).all()


def test_a_batch_without_any_label_is_no_trouble(tiny, rows):
    net = module(["au"])
    data = attached(PretrainDataModule(**tiny.arguments), net).train_set
    loss = net.training_step(batch_of(data, rows[MISSING]), 0)["loss"]
    loss.backward()
    assert loss.item() == 0


def test_scales_come_from_the_labels_that_count(tiny):
    net = module()
    attached(PretrainDataModule(**tiny.arguments), net)
    for p, name in enumerate(EIPS):
        pool = [tiny.frames[i] for i in tiny.ids("pool")]
        energy = np.array([tiny.eip[i][p] for i in tiny.ids("pool")])
        n_atoms = np.array([len(atoms) for atoms in pool])
        counts = np.array([[np.sum(atoms.symbols == s) for s in ("Cu", "Au")] for atoms in pool])
        use = np.isfinite(energy) & (np.abs(energy) / n_atoms < 200)
        shift = np.linalg.lstsq(counts[use], energy[use], rcond=None)[0]
        left = (energy[use] - counts[use] @ shift) / n_atoms[use]
        scale = np.sqrt(np.mean(left**2))
        np.testing.assert_allclose(net.head.shift[[29, 79], p], shift, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(net.head.scale[p], scale, rtol=1e-5, err_msg=name)


def test_test_errors_are_those_of_the_predictions(tiny, trained, tmp_path):
    config = stage_config(tiny, "Pretrain", tmp_path)
    root = eipnn_stage("test", config, "--ckpt_path", best(trained["Pretrain"]))
    found, metrics = pd.read_csv(root / "predictions_test.csv"), read_json(root / "test.json")
    assert found.columns.tolist() == ["config_id", *EIPS]
    assert found["config_id"].tolist() == tiny.ids("test")
    truth = np.array([tiny.eip[name] for name in found["config_id"]])
    errors = np.abs(found[list(EIPS)].to_numpy() - truth).mean(axis=0)
    for p, name in enumerate(EIPS):
        assert metrics[f"test_mae_{name}"] == pytest.approx(errors[p], rel=1e-5)
    assert metrics["test_eip_mae"] == pytest.approx(errors.mean(), rel=1e-5)


def test_an_eip_without_labels_is_an_error(tiny, tmp_path):
    frames = list(tiny.frames.values())
    energies = np.array([tiny.eip[name] for name in tiny.frames])
    for value, message in (
        (
            np.nan,
            "the EIP far has no label of any of the 40 structures; leave it out, or mend that",
        ),
        (1e6, "EIP far has no usable label in the pool: leave it out"),
    ):
        energies[:, 2] = value
        labels = write_labels(tmp_path / f"labels-{value}", frames, energies)
        with pytest.raises(InputError, match=message):
            attached(PretrainDataModule(**tiny.arguments | {"labels": str(labels)}), module())


def test_validation_without_labels_of_one_eip_uses_the_others(tiny, tmp_path):
    """The mean over EIPs, which selects the checkpoint, must not be NaN."""
    frames = list(tiny.frames.values())
    energies = {name: tiny.eip[name].copy() for name in tiny.frames}
    for name in tiny.ids("val"):
        energies[name][0] = np.nan
    labels = write_labels(tmp_path / "labels", frames, np.array(list(energies.values())))
    config = stage_config(tiny, "Pretrain", tmp_path / "run", max_epochs=1)
    config["data"]["init_args"]["labels"] = str(labels)
    root = eipnn_stage("fit", config)
    assert read_json(root / "fit.json")["best_score"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eips": []}, "pretraining needs at least one EIP"),
        ({"outlier": 0.0}, "outlier must be positive, not 0.0 eV/atom"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        module(**arguments)


def test_data_without_labels_or_pool(tiny):
    without = dict(tiny.arguments)
    del without["labels"]
    with pytest.raises(InputError, match=r"data\.labels is not set"):
        attached(PretrainDataModule(**without), module())
    without = dict(tiny.arguments)
    del without["pool"]
    with pytest.raises(InputError, match=r"pool_000000: the split .* set data\.pool to the file"):
        attached(PretrainDataModule(**without), module())


def test_an_id_in_both_files_is_an_error(tiny):
    twice = tiny.arguments | {"pool": tiny.data["dft"]}
    with pytest.raises(InputError, match=r"dft.extxyz: is named twice; name every file once"):
        attached(PretrainDataModule(**twice), module())


def test_a_store_of_other_structures_is_refused(tiny, tmp_path):
    names = list(tiny.frames)
    frames = [tiny.frames[name].copy() for name in names]
    for atoms, name in zip(frames, names, strict=True):
        atoms.info["config_id"] = name
    energies = np.array([tiny.eip[name] for name in names])
    some = write_labels(tmp_path / "some", frames[:-1], energies[:-1])
    arguments = tiny.arguments | {"labels": str(some)}
    with pytest.raises(InputError, match="no labels of the configuration 'pool_000039'"):
        attached(PretrainDataModule(**arguments), module())
    del frames[-1][0]
    other = write_labels(tmp_path / "other", frames, energies)
    arguments = tiny.arguments | {"labels": str(other)}
    with pytest.raises(InputError, match="labels of another structure 'pool_000039'"):
        attached(PretrainDataModule(**arguments), module())


def test_a_part_of_the_split_that_is_empty_is_said(tiny, tmp_path):
    rows = (tiny.folder / "split.csv").read_text().splitlines()
    for mark in ("val", "pretrain"):
        file = tmp_path / f"without-{mark}.csv"
        file.write_text("\n".join(row for row in rows if not row.endswith(mark)) + "\n")
        with pytest.raises(InputError, match=re.escape(f"the split {file} marks none for this stage")):
            attached(PretrainDataModule(**tiny.arguments | {"split": str(file)}), module())
