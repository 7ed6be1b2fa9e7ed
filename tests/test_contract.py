"""What every representation promises as a module: dtypes, gradients, checkpoints (see tests/test_physics.py)."""

import inspect
import json
import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from ase import Atoms
from backbones import (
    CRYSTALS,
    FRAMES,
    batch_of,
    build,
    calibrated,
    energies,
    energy_forces_virial,
    every_frame,
    graph,
    small,
)

from eipnn import ClassifierModule, FinetuneModule, PretrainModule
from eipnn.errors import InputError
from eipnn.potential.checkpoints import build_representation

MODULES = {
    "classify": lambda net: ClassifierModule(net, ["a", "b"]),
    "pretrain": lambda net: PretrainModule(net, ["a", "b"]),
    "finetune": FinetuneModule,
}


@every_frame
def test_features_have_the_stated_shape_and_the_dtype_of_positions(potential, atoms):
    for dtype in (torch.float64, torch.float32):
        net = deepcopy(potential.representation).to(dtype)
        features = net(graph(net, atoms, dtype=dtype))
        assert features.shape == (len(atoms), net.dim)
        assert features.dtype == dtype
        assert features.isfinite().all()


def test_the_batch_stays_as_it_is(potential):
    batch = batch_of(potential.representation, *FRAMES.values(), dtype=torch.float64)
    before = batch.clone()
    potential(batch)
    energy_forces_virial(potential, batch, virial=True)
    assert batch.keys() == before.keys()
    for key, value in before.items():
        torch.testing.assert_close(batch[key], value, rtol=0, atol=0)
    assert not batch.pos.requires_grad


def test_it_says_the_same_twice(potential):
    frames = list(FRAMES.values())
    np.testing.assert_array_equal(energies(potential, *frames), energies(potential, *frames))


def test_float32_is_close(potential):
    atoms = FRAMES["cubic"]
    single = deepcopy(potential).float()
    exact, near = (
        energy_forces_virial(p, batch_of(p.representation, atoms, dtype=dtype), virial=True)
        for p, dtype in ((potential, torch.float64), (single, torch.float32))
    )
    for one, other in zip(exact, near, strict=True):
        assert other.dtype == (torch.float64 if other is near[0] else torch.float32)
        torch.testing.assert_close(other.double(), one, rtol=0, atol=1e-4 * one.abs().max().item())
    assert near[0].item() == pytest.approx(exact[0].item(), rel=1e-5)


@pytest.fixture(scope="module")
def trainable(backbone):
    return calibrated(backbone)


@pytest.mark.parametrize("stage", MODULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "16"])
def test_it_trains_in_mixed_precision(trainable, stage, dtype):
    """As with ``trainer.precision: bf16-mixed`` or ``16-mixed``."""
    module = MODULES[stage](deepcopy(trainable)).train()
    batch = batch_of(module.representation, *CRYSTALS, FRAMES["slab"])
    exact = module(batch)
    with torch.autocast("cpu", dtype):
        found = module(batch)
    torch.testing.assert_close(found.double(), exact.double(), rtol=0.05, atol=0.05)
    found.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("stage", MODULES)
@pytest.mark.parametrize(
    "frames",
    [CRYSTALS, [FRAMES["cubic"]], [FRAMES["one atom a cell"]], [Atoms("Si")], [Atoms("C")] * 2],
    ids=["batch", "one configuration", "one atom a cell", "single atom", "single atoms"],
)
def test_every_parameter_gets_a_gradient(trainable, stage, frames):
    """Whatever the batch: DDP waits for each of them."""
    module = MODULES[stage](deepcopy(trainable)).train()
    module(batch_of(module.representation, *frames)).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_step_of_training_moves_every_layer(trainable):
    """A layer that never moves is a dead one; rows of absent elements aside."""
    net = deepcopy(trainable).train()
    torch.manual_seed(1)
    features = net(graph(net, *CRYSTALS, FRAMES["molecule"], FRAMES["slab"]))
    (features * torch.randn_like(features)).sum().backward()
    still = [name for name, p in net.named_parameters() if not p.grad.any()]
    assert not still


def test_what_calibration_finds_is_in_the_checkpoint(backbone, trainable, tmp_path):
    module = FinetuneModule(deepcopy(trainable)).eval()
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": module.state_dict(), "eipnn": module.record()}, file)
    again = FinetuneModule.load_from_checkpoint(file)
    batch = batch_of(module.representation, *FRAMES.values())
    torch.testing.assert_close(again(batch), module(batch), rtol=0, atol=0)
    # and it is in buffers, which training leaves alone
    fresh, found = dict(small(backbone).named_parameters()), trainable.named_parameters()
    assert all(torch.equal(fresh[name], value) for name, value in found)


def test_calibration_is_the_same_on_every_process(backbone, trainable):
    again = calibrated(backbone).state_dict()
    for name, value in trainable.state_dict().items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_plain_values_rebuilds_it(potential, tmp_path):
    file = tmp_path / "potential.ckpt"
    torch.save({"state_dict": potential.state_dict(), "eipnn": potential.record()}, file)
    torch.load(file, weights_only=True)
    again = FinetuneModule.load_from_checkpoint(file).double()
    frames = list(FRAMES.values())
    expected = energies(potential, *frames)
    np.testing.assert_allclose(energies(again, *frames), expected, atol=1e-5, rtol=1e-5)
    config = potential.representation.config()
    assert json.loads(json.dumps(config)) == config
    assert build_representation(config).config() == config


def numbers(cls) -> list[str]:
    """The numeric arguments of a representation."""
    kinds = (int, float, int | None, float | None)
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.annotation in kinds]


def test_numbers_that_make_no_network_are_refused(backbone):
    known = {"elements": ["C", "Si"]} if "elements" in inspect.signature(backbone).parameters else {}
    names = numbers(backbone)
    assert "cutoff" in names
    for name in names:
        for value in (-1, math.nan):
            with pytest.raises(InputError, match=rf"^{backbone.__name__}: {name} must be .*not {value}"):
                build(backbone, **known, **{name: value})
        if name not in ("max_L", "max_ell", "l_max"):
            with pytest.raises(InputError, match=rf"^{backbone.__name__}: {name} must be positive, not 0"):
                build(backbone, **known, **{name: 0})


def test_an_element_that_was_not_named_is_refused(potential):
    net = potential.representation
    if "elements" not in inspect.signature(type(net)).parameters:
        pytest.skip("takes any element")
    with pytest.raises(InputError, match="elements"):
        net(graph(net, Atoms("SiGe", [[0, 0, 0], [0, 0, 2.4]]), dtype=torch.float64))
