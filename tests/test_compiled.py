"""The compiled step of a training against the plain one: results, gradients, weights after steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import CRYSTALS, ELEMENTS, FRAMES, calibrated, graph
from tiny import best, eipnn_stage, stage_config

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph
from eipnn.potential.compiled import compiled
from eipnn.potential.core import core_of
from eipnn.potential.heads import EnergyHead
from eipnn.potential.potential import differentiable, slopes
from eipnn.representations import CGCNN, MACE, SchNet

ONE = [FRAMES["molecule"]]
GRAPHS = {
    "crystals": list(CRYSTALS),
    "all kinds": list(FRAMES.values()),
    "as many atoms as configurations": [FRAMES["one atom a cell"]] * 6,
    "a single configuration": ONE,
    "as many configurations as energies": [*CRYSTALS[:2], *ONE],
}


def gradients(step, given: AtomicGraph, factors: torch.Tensor, weights: list[torch.Tensor]) -> list[torch.Tensor]:
    """Energies, slope, and what a loss on both gives the weights."""
    atoms, slope = step(differentiable(given), factors)
    loss = (atoms * factors[given.batch]).square().mean() + slope.square().sum() + slope.abs().sum()
    found = torch.autograd.grad(loss, weights, allow_unused=True)
    return [atoms, slope, *(torch.zeros_like(w) if g is None else g for w, g in zip(weights, found, strict=True))]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "core"), [(SchNet, "zbl"), (MACE, None)])
@torch._dynamo.config.patch(error_on_recompile=True)
def test_equals_the_plain_step(cls, core) -> None:
    """For graphs of all sizes, and after the weights have changed, without being compiled anew."""
    representation = calibrated(cls).double()
    head, base = EnergyHead(representation.dim, 3).double(), core_of(core, representation.cutoff)
    step = compiled(representation, head, base, ELEMENTS, torch.float64)
    weights = [p for p in [*representation.parameters(), *head.parameters()] if p.requires_grad]

    def plain(given, factors):
        return slopes(given, factors, representation, head, base)

    for number, frames in enumerate(GRAPHS.values()):
        given = graph(representation, *frames, dtype=torch.float64)
        factors = torch.from_numpy(np.random.default_rng(number).normal(size=(given.size, 3)))
        expected = gradients(plain, given, factors, weights)
        assert expected[1].abs().max() > 1e-3
        for mine, theirs in zip(gradients(step, given, factors, weights), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)
        with torch.no_grad():
            for weight in weights:
                weight.mul_(1.05)


def test_lengths_stay_free_beside_many_energies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced, before Inductor: numbers of energies, elements and features that small examples would have."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    for count in (15, 35, 55):
        representation = SchNet(cutoff=4.0, features=count, filters=8, gaussians=count, interactions=1).double()
        head = EnergyHead(representation.dim, count).double()
        step = compiled(representation, head, None, ELEMENTS, torch.float64)
        given = differentiable(graph(representation, *FRAMES.values(), dtype=torch.float64))
        factors = torch.ones(given.size, count, dtype=torch.float64)
        expected = slopes(given, factors, representation, head, None)
        for mine, theirs in zip(step(given, factors), expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_vectors_may_be_less_precise_than_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of the inputs in a training in float64."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)
    representation = SchNet(cutoff=4.0, features=6, filters=8, gaussians=5, interactions=1).double()
    head = EnergyHead(representation.dim, 2).double()
    step = compiled(representation, head, None, ELEMENTS)
    given = differentiable(graph(representation, *CRYSTALS))
    factors = torch.ones(given.size, 2, dtype=torch.float64)
    expected = slopes(given, factors, representation, head, None)
    assert expected[1].dtype == torch.float32
    for mine, theirs in zip(step(given, factors), expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_batch_normalisation_is_refused() -> None:
    """CGCNN's running means would be those of the example."""
    representation = calibrated(CGCNN).train()
    with pytest.raises(InputError, match=r"model\.compiled: torch cannot compile CGCNN here"):
        compiled(representation, EnergyHead(representation.dim), None, ELEMENTS)


def test_both_stages_train_by_it(forced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the plain step in its place the weights are those of a training without it, and it is made once."""
    made = []

    def instead(representation, head, core, elements, dtype):
        made.append((elements, head.mlp[-1].out_features, dtype))
        return lambda given, factors: slopes(given, factors, representation, head, core)

    monkeypatch.setattr("eipnn.potential.compiled.compiled", instead)
    for stage, outputs in (("Pretrain", 3), ("Finetune", 1)):
        found = []
        for compiled_ in (True, False):
            config = stage_config(forced, stage, tmp_path / f"{stage}-{compiled_}", max_epochs=2)
            config["model"]["init_args"]["compiled"] = compiled_
            config["model"]["init_args"]["weights"] = {"energy": 1.0, "forces": 1.0}
            eipnn_stage("fit", config)
            found.append(torch.load(best(Path(config["trainer"]["default_root_dir"])), weights_only=True)["state_dict"])
        assert made == [(["Au", "Cu"], outputs, torch.float32)]
        made.clear()
        for mine, theirs in zip(found[0].values(), found[1].values(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_refused_in_mixed_precision(forced, tmp_path: Path) -> None:
    config = stage_config(forced, "Finetune", tmp_path, precision="bf16-mixed")
    config["model"]["init_args"]["compiled"] = True
    with pytest.raises(SystemExit, match=r"model\.compiled: not with trainer.precision bf16-mixed"):
        eipnn_stage("fit", config)


def test_what_torch_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", fails)
    representation = calibrated(SchNet)
    with pytest.raises(InputError, match=r"torch cannot compile SchNet here \(no C\+\+ compiler\);\nleave it out"):
        compiled(representation, EnergyHead(representation.dim), None, ELEMENTS)
