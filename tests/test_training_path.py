"""The derivatives that training on forces and stress takes, of every backbone, against finite differences in float64.

In training mode and with ``create_graph=True``, as the stages take them; for the potential in use see
tests/test_physics.py.
"""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from backbones import FRAMES, batch_of
from torch import Tensor

from eipnn import FinetuneModule
from eipnn.inputs import graph_of
from eipnn.potential import Potential
from eipnn.potential.potential import Properties, derivatives, differentiable, volumes

CRYSTAL, CLUSTER = FRAMES["sheared, outside its cell"], FRAMES["molecule"]
STEP = 2e-5


@pytest.fixture
def trained(potential) -> Potential:
    """In training mode."""
    return deepcopy(potential).potential.train()


@pytest.fixture
def batch(trained):
    """A mixed crystal and a cluster. Without features that were made beforehand, which follow no change."""
    made = batch_of(trained.representation, CRYSTAL, CLUSTER, dtype=torch.float64)
    if "features" in made:
        del made.features
    return made


def test_mixed_precision_does_not_round_the_products_of_forces(potential):
    """What autocast rounds in the energy is enough: forces made within it and after it are the same."""
    single = deepcopy(potential).potential.float().train()
    found = []
    for within in (True, False):
        graph = differentiable(graph_of(batch_of(single.representation, CRYSTAL)))
        with torch.autocast("cpu", torch.bfloat16):
            energy = single(graph).sum()
            if within:
                found += derivatives(energy, graph, create_graph=True)
        if not within:
            found += derivatives(energy, graph, create_graph=True)
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


def in_training(potential: Potential, batch) -> Properties:
    return potential.predict(graph_of(batch), ("energy", "forces", "stress"), create_graph=True)


def slope(function: Callable[[], Tensor], tensors: list[Tensor], directions: list[Tensor]) -> float:
    """Of a scalar function as the tensors move in their directions, by differences of fourth order."""

    def value(step: float) -> float:
        places = [tensor.detach().clone() for tensor in tensors]
        for tensor, direction in zip(tensors, directions, strict=True):
            tensor.data.add_(direction, alpha=step)
        found = function().item()
        for tensor, place in zip(tensors, places, strict=True):
            tensor.data.copy_(place)
        return found

    near, far = (value(n * STEP) - value(-n * STEP) for n in (1, 2))
    return (8 * near - far) / (12 * STEP)


def test_forces_and_stress_are_slopes_of_the_energy(trained, batch):
    def energy() -> Tensor:
        return trained.predict(graph_of(batch)).energy.sum()

    found = in_training(trained, batch)
    torch.testing.assert_close(found.energy.sum(), energy())
    assert found.forces.abs().max() > 1e-2
    torch.manual_seed(1)
    for _ in range(3):
        direction = torch.randn_like(batch.pos)
        expected = -(direction * found.forces).sum().item()
        assert slope(energy, [batch.pos], [direction]) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    stress, volume = found.stress[0], volumes(batch.cell)[0]
    assert found.stress[1].isnan().all()  # of a cluster there is none
    assert stress.abs().max() > 1e-3
    inside = (batch.batch == 0).double().unsqueeze(-1)
    for _ in range(3):
        strain = torch.randn(3, 3, dtype=torch.float64)
        directions = [inside * (batch.pos @ strain), torch.stack([batch.cell[0] @ strain, 0 * batch.cell[1]])]
        found_slope = slope(energy, [batch.pos, batch.cell], directions) / volume.item()
        symmetric = (strain + strain.T) / 2
        assert found_slope == pytest.approx((symmetric * stress).sum().item(), rel=1e-6, abs=1e-8)


def test_a_loss_on_forces_and_stress_has_exact_gradients(trained, batch):
    """In a random direction of all weights, and for the single weights that matter most."""
    torch.manual_seed(2)
    pull, tension = torch.randn(len(batch.pos), 3), 0.1 * torch.randn(3, 3)

    def loss() -> Tensor:
        found = in_training(trained, batch)
        return (found.forces - pull).square().mean() + 10 * (found.stress[0] - tension).square().mean()

    loss().backward()
    weights = [p for p in trained.parameters() if p.grad is not None]
    directions = [torch.randn_like(p) * (p.abs().mean() + 1e-3) for p in weights]
    expected = sum((p.grad * d).sum() for p, d in zip(weights, directions, strict=True)).item()
    assert abs(expected) > 1e-4
    assert slope(loss, weights, directions) == pytest.approx(expected, rel=1e-6)
    for weight in sorted(weights, key=lambda p: p.grad.abs().max(), reverse=True)[:3]:
        single = torch.zeros_like(weight)
        place = weight.grad.abs().argmax()
        single[torch.unravel_index(place, weight.shape)] = 1.0
        expected = (weight.grad * single).sum().item()
        assert slope(loss, [weight], [single]) == pytest.approx(expected, rel=1e-5)


def test_forces_train_in_mixed_precision(trained):
    """As with ``trainer.precision: bf16-mixed``."""
    batch = batch_of(trained.representation, CRYSTAL, CLUSTER)
    exact = in_training(trained.float(), batch).forces
    with torch.autocast("cpu", torch.bfloat16):
        found = in_training(trained, batch).forces
    torch.testing.assert_close(found, exact, rtol=0, atol=0.15 * exact.abs().max().item())
    found.square().mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in trained.parameters())


def test_float32_leaves_the_gradient_of_a_loss_on_forces_its_digits(trained):
    gradients = []
    for dtype in (torch.float64, torch.float32):
        single = deepcopy(trained).to(dtype)
        batch = batch_of(single.representation, FRAMES["cubic"], CLUSTER, dtype=dtype)
        in_training(single, batch).forces.square().mean().backward()
        gradients.append(torch.cat([p.grad.double().flatten() for p in single.parameters() if p.grad is not None]))
    exact, found = gradients
    assert (found - exact).norm() < 1e-4 * exact.norm()


def test_a_step_finds_gradients_of_trained_weights_alone(trained, batch):
    """Neither of what a loss is a function of besides, nor of frozen weights; others as ever."""
    net = FinetuneModule(trained.representation)
    frozen, other = next(net.parameters()).requires_grad_(False), torch.ones((), requires_grad=True)

    def loss() -> torch.Tensor:
        return other * in_training(trained, batch).forces.square().mean()

    loss().backward()
    expected = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    other.grad = None
    net.backward(loss())
    assert other.grad is None
    assert frozen.grad is None
    torch.testing.assert_close({name: p.grad for name, p in net.named_parameters()}, expected)
