"""Learning rates over a training."""

import pytest
import torch
from torch.optim import Adam, Optimizer

from eipnn.stages.schedules import LinearDecay, SlantedTriangular


def optimizer(lr: float = 1e-3) -> Optimizer:
    return Adam([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def rates(kind, epochs: int, lr: float = 1e-3, **arguments) -> list[float]:
    """The rate in each epoch, and what it would be after the last."""
    opt = optimizer(lr)
    schedule = kind(opt, epochs=epochs, **arguments)
    found = []
    for _ in range(epochs):
        found.append(opt.param_groups[0]["lr"])
        opt.step()
        schedule.step()
    return [*found, opt.param_groups[0]["lr"]]


def test_linear_decay_ends_at_its_final_rate():
    found = rates(LinearDecay, 100)
    assert found[0] == pytest.approx(1e-3)
    assert found[50] == pytest.approx((1e-3 + 1e-5) / 2)
    assert found[-1] == pytest.approx(1e-5)
    steps = torch.tensor(found).double().diff()
    torch.testing.assert_close(steps, torch.full_like(steps, -(1e-3 - 1e-5) / 100))


def test_linear_decay_of_several_groups():
    parameters = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": r} for r in (1e-2, 1e-4)]
    opt = Adam(parameters)
    schedule = LinearDecay(opt, final_lr=1e-6, epochs=2)
    for _ in range(5):  # beyond its end it stays
        opt.step()
        schedule.step()
    assert [g["lr"] for g in opt.param_groups] == pytest.approx([1e-6, 1e-6])


def test_slanted_triangular_rises_for_a_fifth_then_falls():
    found = rates(SlantedTriangular, 100)
    assert found[0] == pytest.approx(1e-3 / 32)
    assert max(found) == found[20] == pytest.approx(1e-3)
    assert found[-1] == pytest.approx(1e-3 / 32)
    assert found[:21] == sorted(found[:21])
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[10] == pytest.approx(1e-3 * (1 + 0.5 * 31) / 32)
    assert found[60] == pytest.approx(1e-3 * (1 + 0.5 * 31) / 32)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_short_trainings_have_positive_rates_and_reach_the_full_one(make, epochs):
    found = rates(make, epochs)
    assert all(0 < rate <= 1e-3 * (1 + 1e-12) for rate in found)
    if epochs > 1:
        assert max(found[:epochs]) == pytest.approx(1e-3)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
def test_a_resumed_schedule_goes_on(make):
    whole = rates(make, 10)
    first = optimizer()
    schedule = make(first, epochs=10)
    for _ in range(4):
        first.step()
        schedule.step()
    second = optimizer()
    again = make(second, epochs=10)
    second.load_state_dict(first.state_dict())
    again.load_state_dict(schedule.state_dict())
    for epoch in range(4, 10):
        assert second.param_groups[0]["lr"] == pytest.approx(whole[epoch], rel=1e-12)
        second.step()
        again.step()


@pytest.mark.parametrize("epochs", [1, 7, 50])
def test_the_arguments_change_the_shape(epochs):
    high = rates(SlantedTriangular, epochs, rise=0.5, ratio=10)
    assert high[0] == pytest.approx(1e-4)
    if epochs > 1:
        assert high.index(max(high)) == max(epochs // 2, 1)


@pytest.mark.parametrize("make", [LinearDecay, SlantedTriangular])
def test_the_number_of_epochs_is_needed(make):
    opt = optimizer()
    schedule = make(opt)
    opt.step()
    with pytest.raises(ValueError, match=f"{make.__name__} needs the number of epochs"):
        schedule.step()
