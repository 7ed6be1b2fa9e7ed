"""Representations before and after pretraining: features, the error of nearest neighbours, Fig. 4 of a run."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from backbones import ELEMENTS, FRAMES, arguments, calibrated, small
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from paper import call, script
from tiny import EIPS, N_DFT, N_TEST, REPRESENTATION, SMALL
from torch_geometric.data import Batch

from eipnn import FinetuneModule, PretrainModule
from eipnn.errors import InputError
from eipnn.files import write_json
from eipnn.inputs import graph_of
from eipnn.representations import Representation, SchNet

EMBED = script("embed")
TRIVIAL, project = EMBED.TRIVIAL, EMBED.project
neighbour_errors, trivial_errors = EMBED.neighbour_errors, EMBED.trivial_errors
random_candidate, represent = EMBED.random_candidate, EMBED.represent

whole = st.integers(-20, 20).map(float)


def brute_force(features: np.ndarray, energies: np.ndarray, k: int) -> np.ndarray | None:
    """The errors by a loop; None where neighbours are equally far, so that the k nearest are not told apart."""
    deviation = features.std(axis=0)
    scaled = (features - features.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    errors = []
    for i, energy in enumerate(energies):
        others = [j for j in range(len(energies)) if j != i]
        distance = {j: np.sqrt(((scaled[i] - scaled[j]) ** 2).sum()) for j in others}
        order = sorted(others, key=distance.get)
        if len(order) > k and distance[order[k]] - distance[order[k - 1]] < 1e-6:
            return None
        errors.append(abs(np.mean([energies[j] for j in order[:k]]) - energy))
    return np.array(errors)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), n=st.integers(6, 25), d=st.integers(1, 4), k=st.integers(1, 5))
def test_the_error_of_neighbours_equals_a_brute_force(seed, n, d, k):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4, d)
    features[:, 0] = np.where(rng.random() < 0.2, 1.0, features[:, 0])  # now and then a constant
    energies = rng.normal(size=n)
    expected = brute_force(features, energies, k)
    if expected is not None:
        np.testing.assert_allclose(neighbour_errors(features, energies, k), expected, atol=1e-12)


def test_a_configuration_is_not_its_own_neighbour_although_another_is_the_same():
    features = np.repeat(np.arange(4.0), 2)[:, None]
    energies = np.arange(8.0)
    np.testing.assert_allclose(neighbour_errors(features, energies, 1), 1)


def test_a_perfect_representation_and_one_that_knows_nothing():
    rng = np.random.default_rng(0)
    energies = rng.uniform(-5, -3, 2000)
    trivial = trivial_errors(energies).mean()
    perfect = np.stack([energies, 3 * energies + 1], axis=1)
    assert neighbour_errors(perfect, energies).mean() < 0.005 * trivial
    nothing = neighbour_errors(rng.normal(size=(2000, 3)), energies).mean()
    # the mean of five has noise of its own
    assert trivial < nothing < 1.2 * trivial


@given(energies=arrays(np.float64, st.integers(3, 20), elements=whole))
def test_the_trivial_prediction_is_the_mean_of_the_others(energies):
    n = len(energies)
    expected = [abs(np.delete(energies, i).mean() - energies[i]) for i in range(n)]
    np.testing.assert_allclose(trivial_errors(energies), expected, atol=1e-9)
    features = np.arange(float(n))[:, None]
    np.testing.assert_allclose(neighbour_errors(features, energies, n - 1), expected, atol=1e-9)


def test_too_few_configurations_are_refused():
    with pytest.raises(InputError, match="5 configurations: more than 5 are needed"):
        neighbour_errors(np.ones((5, 2)), np.ones(5))


def test_the_plane_is_seeded():
    features = np.random.default_rng(0).normal(size=(20, 6))
    first = project(features, seed=1)
    assert first.shape == (20, 2)
    np.testing.assert_array_equal(project(features, seed=1), first)


def test_features_are_means_over_the_atoms(backbone):
    net = calibrated(backbone).eval()
    frames = list(FRAMES.values())
    found = represent(net, frames)
    assert found.shape == (len(frames), net.dim)
    for row, atoms in zip(found, frames, strict=True):
        with torch.no_grad():
            one = net(graph_of(Batch.from_data_list([net.inputs(atoms)])))
        np.testing.assert_allclose(row, one.mean(dim=0).numpy(), rtol=1e-3, atol=1e-5)


def test_random_weights_are_those_of_the_seed_and_calibrated(backbone):
    config = small(backbone).config()
    frames = list(FRAMES.values())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    nets = [random_candidate(config, seed, frames).net for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (represent(net, frames) for net in nets)
    np.testing.assert_array_equal(again, first)
    assert not np.allclose(other, first)
    torch.manual_seed(1)
    plain = backbone(**arguments(backbone, ELEMENTS))
    same = np.array_equal(represent(plain, frames), first)
    assert same == (backbone.calibrate is Representation.calibrate)


def save(module, file: Path) -> None:
    file.parent.mkdir(parents=True)
    torch.save({"state_dict": module.state_dict(), "eipnn": module.record()}, file)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    """A run with a pretraining and what was fine-tuned from it, as far as `embed.py` looks."""
    root = tmp_path_factory.mktemp("run")
    fold = root / "split-1" / "seed-3"
    config = {
        "model": {"init_args": {"representation": REPRESENTATION}},
        "data": {"init_args": tiny.data},
    }
    torch.manual_seed(0)
    stages = {
        "pretrain": PretrainModule(SchNet(**SMALL), list(EIPS)),
        "mp": FinetuneModule(SchNet(**SMALL)),
    }
    for name, module in stages.items():
        config["trainer"] = {"default_root_dir": str(fold / name)}
        save(module, fold / name / "checkpoints" / "best.ckpt")
        (fold / name / "config.yaml").write_text(yaml.safe_dump(config))
        write_json(fold / name / "done.json", {"fingerprint": name})
    numbers = dict.fromkeys(["test_config_mae", "test_atom_mae", "epochs", "gradient_steps"], 1)
    result = {"split": 1, "seed": 3, "strategy": "mp", "alpha": None, "alphas": {}}
    write_json(fold / "result-mp.json", result | {"result": numbers, "fingerprint": "mp"})
    return root


def embed(*options: str) -> None:
    call(EMBED, *options)


def test_the_command_writes_picture_and_tables(tiny, run, tmp_path, capsys):
    embed(str(run), "-o", str(tmp_path), "--random", "0", "1")
    assert "| pretrained" in capsys.readouterr().out
    assert (tmp_path / "embedding.png").read_bytes().startswith(b"\x89PNG")
    places = pd.read_csv(tmp_path / "embedding.csv")
    assert places["representation"].value_counts().to_dict() == {
        "random": N_DFT,
        "pretrained": N_DFT,
        "fine-tuned": N_DFT,
    }
    ids = [*tiny.ids("train"), *tiny.ids("val"), *tiny.ids("test")]
    for _, table in places.groupby("representation"):
        assert table["config_id"].tolist() == ids
        assert table[["x", "y"]].std().min() > 0
        energies = [tiny.cohesive[i] / len(tiny.frames[i]) for i in ids]
        np.testing.assert_allclose(table["energy_eV_per_atom"], energies, atol=1e-6)
        assert table["periodic"].tolist() == [tiny.frames[i].pbc.sum() for i in ids]
    assert json.loads((tmp_path / "about.json").read_text())["pretraining"] == "pretrain"
    smooth = pd.read_csv(tmp_path / "smoothness.csv")
    assert smooth["representation"].tolist() == [
        *("random", "random", "pretrained", "fine-tuned"),
        TRIVIAL,
    ]
    assert smooth["seed"].tolist()[:4] == [0, 1, 3, 3]
    assert (smooth["n"] == N_DFT).all()
    assert (smooth["n_test"] == N_TEST).all()
    assert smooth["k"].tolist() == [5, 5, 5, 5, N_DFT - 1]
    net = SchNet(**SMALL)
    state = torch.load(run / "split-1/seed-3/pretrain/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    prefix = "representation."
    net.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    errors = neighbour_errors(represent(net, [tiny.frames[i] for i in ids]), np.array(energies))
    line = smooth.set_index("representation").loc["pretrained"]
    assert line["knn_mae_eV_per_atom"] == pytest.approx(errors.mean(), rel=1e-6)
    assert line["knn_mae_test_eV_per_atom"] == pytest.approx(errors[-N_TEST:].mean(), rel=1e-6)


def test_without_a_fine_tuned_network_there_are_two_panels(run, tmp_path):
    alone = shutil.copytree(run, tmp_path / "run")
    (alone / "split-1/seed-3/result-mp.json").unlink()
    embed(str(alone), "--random", "0")
    smooth = pd.read_csv(alone / "embedding" / "smoothness.csv")
    assert smooth["representation"].tolist() == ["random", "pretrained", TRIVIAL]


def test_folders_that_cannot_be_embedded(run, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(run, both / "schnet")
    (tmp_path / "empty").mkdir()
    for options, message in (
        ([str(tmp_path / "empty")], "no finished pretraining in it"),
        ([str(both)], f"holds several runs; name one of them, for example {both / 'schnet'}"),
        ([str(run), "--split", "2"], "there is split 1 seed 3"),
    ):
        with pytest.raises(SystemExit, match=re.escape(message)):
            embed(*options)
    damaged = shutil.copytree(run, tmp_path / "damaged")
    (damaged / "split-1/seed-3/pretrain/checkpoints/best.ckpt").unlink()
    with pytest.raises(SystemExit, match=r"best\.ckpt: no such checkpoint"):
        embed(str(damaged))
    assert not (damaged / "embedding").exists()
