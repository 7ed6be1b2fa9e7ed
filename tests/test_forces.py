"""Training on forces and stress: what is learned, by which weights, and what chooses the best epoch."""

from pathlib import Path
from types import SimpleNamespace

import ase.io
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch import Callback
from tiny import EIPS, MISSING, OUTLIER, SMALL, attached, best, eipnn_stage, read_json, stage_config
from torch_geometric.data import Batch

from eipnn import EIPNNCalculator, FinetuneDataModule, FinetuneModule, PretrainDataModule, PretrainModule
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.labels import LabelStore
from eipnn.losses import tukey_biweight, tukey_scale
from eipnn.representations import SchNet
from eipnn.stages.pretrain import counted_labels, random_signs
from eipnn.stages.terms import ForceError, ForceTukey
from eipnn.targets import Targets

GPA = 160.21766208
"""Of one eV/A^3."""


def network(**arguments) -> FinetuneModule:
    torch.manual_seed(0)
    return FinetuneModule(SchNet(**SMALL), **arguments)


def pretraining(**arguments) -> PretrainModule:
    torch.manual_seed(0)
    return PretrainModule(SchNet(**SMALL), list(EIPS), **arguments)


def batch_of(data) -> Batch:
    return Batch.from_data_list([data[row] for row in range(len(data))])


def test_all_that_frames_have_is_trained_on(forced):
    """Means over components, of forces of all atoms and of the stress of periodic frames alone."""
    net = network(weights={"energy": 2.0, "forces": 5.0, "stress": 7.0})
    data = attached(FinetuneDataModule(**forced.arguments), net).train_set
    batch = batch_of(data)
    found = net.potential.predict(graph_of(batch), ("forces", "stress"), cohesive=True)
    energy = (found.energy - batch.energy[:, 0]).square().mean()
    forces = (found.forces - batch.forces[:, 0]).square().mean()
    periodic = batch.stress[:, 0].isfinite().all(dim=(1, 2))
    assert 0 < periodic.sum() < len(periodic)
    stress = (found.stress - batch.stress[:, 0])[periodic].square().mean()
    net.train()
    loss = net.training_step(batch, 0)["loss"]
    torch.testing.assert_close(loss, 2 * energy + 5 * forces + 7 * stress, rtol=1e-5, atol=0)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_a_property_that_no_frame_has_is_an_error_where_it_was_asked_for(tiny, forced):
    with pytest.raises(InputError, match=r"weights names forces, and no training label has any"):
        attached(FinetuneDataModule(**tiny.arguments), network(weights={"energy": 1.0, "forces": 1.0}))
    data = attached(FinetuneDataModule(**tiny.arguments), network()).train_set
    assert "forces" not in data[0]
    data = attached(FinetuneDataModule(**forced.arguments), network(weights={"energy": 1.0})).train_set
    assert "forces" not in data[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {"energy": 1.0, "force": 1.0}}, "weights.force: there is no such property"),
        ({"weights": {"energy": 0.0}}, "weights.energy must be positive, not 0.0"),
        ({"weights": {"forces": 1.0}}, "weights must name energy"),
        ({"patience": 2, "second_weights": {"energy": 2.0}}, "patience may end a training before second_weights come"),
        (
            {"weights": {"energy": 1.0}, "second_weights": {"forces": 1.0}},
            "second_weights.forces: weights does not",
        ),
        ({"second_from": 1.0}, "second_from must lie between 0 and 1"),
        ({"ema": 1.0}, "ema must lie between 0 and 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"huber": -1.0}, "huber must be positive"),
        ({"representation_rate": 0.0}, "representation_rate must be positive"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        network(**arguments)


def test_the_signed_forces_are_on_average_those_of_all_heads(forced):
    """Loss and gradient of one backward pass, over many draws, against the plain sum over the heads."""
    net = pretraining(weights={"energy": 1e-9, "forces": 1.0}).double()
    data = attached(PretrainDataModule(**forced.arguments), net).train_set
    batch = batch_of(data)
    for key in ("pos", "cell", "edge_shift"):
        batch[key] = batch[key].double()
    targets = Targets.of(batch)
    net.train()
    exact = forces_of_each(net, batch)
    torch.testing.assert_close(net.properties(batch, {"forces"})["forces"], exact)
    plain = ForceError()(exact, targets)
    names = [name for name, p in net.named_parameters() if p.requires_grad]
    parameters = dict(net.named_parameters())

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        found = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True, retain_graph=True)
        return torch.cat([g.flatten() for g in found if g is not None])

    expected = gradient(plain)
    losses, slopes = [], []
    for draw in range(1000):
        direction = random_signs(targets.known_of("forces"), batch.row, draw).double()
        mixed = targets.along(direction)
        along = torch.einsum("nk,nkc->nc", direction[batch.batch], exact).unsqueeze(1)
        loss = ForceError()(along, mixed)
        losses.append(loss.item())
        slopes.append(torch.autograd.grad(loss, exact, retain_graph=True)[0].detach())
    spread = np.std(losses) / np.sqrt(len(losses))
    assert np.mean(losses) == pytest.approx(plain.item(), abs=4 * spread)
    assert spread < 0.02 * plain.item()
    # the gradient in the weights is linear in that in the forces
    mean = torch.stack(slopes).mean(dim=0)
    found = gradient((exact * mean).sum())
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.99
    assert found.norm().item() == pytest.approx(expected.norm().item(), rel=0.1)
    # and the training step is one of these draws
    step = net.training_step(batch, 0)["loss"].item()
    assert step == pytest.approx(losses[0], rel=1e-6)


def forces_of_each(net: PretrainModule, batch: Batch) -> torch.Tensor:
    """Of each head (N, K, 3), eV/A, by a backward pass of its own; for a loss."""
    alone = torch.eye(len(net.eips), dtype=torch.float64)
    each = [net.derived(batch, row.expand(batch.num_graphs, -1))[1]["forces"] for row in alone]
    return torch.stack(each, dim=1)


def test_of_one_eip_the_signed_forces_are_the_forces(forced):
    net = pretraining(weights={"energy": 1e-9, "forces": 1.0})
    net = PretrainModule(net.representation, ["au"], weights=net.weights)
    data = attached(PretrainDataModule(**forced.arguments), net).train_set
    batch = batch_of(data)
    net.train()
    plain = ForceError()(forces_of_each(net, batch), Targets.of(batch))
    torch.testing.assert_close(net.training_step(batch, 0)["loss"], plain, rtol=1e-5, atol=0)


def test_outliers_and_missing_labels_have_no_forces_either(forced):
    data = attached(PretrainDataModule(**forced.arguments), pretraining()).train_set
    rows = {name: row for row, name in enumerate(data.ids)}
    for name, column in ((MISSING, 1), (OUTLIER, 2)):
        known = data[rows[name]].forces.isfinite().all(dim=(0, 2)).tolist()
        assert known == [k != column for k in range(3)]


def test_forces_of_eips_are_robust_over_the_mixed_batch(forced, tmp_path):
    """Eq. 4 on force vectors, with k of the components of DFT and EIP residuals, written out."""
    chosen = {name: EIPS[k % 3] for k, name in enumerate(forced.ids("pool"))}
    selection = forced.select(
        tmp_path / "selection.csv", {n: e for n, e in chosen.items() if n not in (MISSING, OUTLIER)}
    )
    net = network(alpha=0.3, weights={"energy": 1e-9, "forces": 2.0})
    parts = attached(FinetuneDataModule(**forced.arguments, selection=str(selection)), net).train_set.datasets
    batch = Batch.from_data_list([part[row] for part in parts for row in range(8)])
    predicted = net.potential.predict(graph_of(batch), ("forces",)).forces
    error = (predicted - batch.forces[:, 0]).double()
    dft = batch.is_dft[batch.batch]
    k = tukey_scale(error)
    lengths = error[~dft].norm(dim=1)
    assert 0 < (lengths > k).sum() < len(lengths)
    expected = 2 * error[dft].square().mean() + 0.3 * 2 * tukey_biweight(lengths, k).mean() / 3
    net.train()
    loss = net.training_step(batch, 0)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_dft_forces_the_eips_still_teach_theirs(forced, tmp_path):
    selection = forced.select(tmp_path / "selection.csv", dict.fromkeys(forced.ids("pool")[:4], EIPS[0]))
    arguments = forced.arguments | {"selection": str(selection), "energies_only": True}
    net = network(weights={"energy": 1e-9, "forces": 1.0})
    data = attached(FinetuneDataModule(**arguments), net)
    dft, eip = data.train_set.datasets
    assert dft.targets["forces"].isnan().all()
    assert eip.targets["forces"].isfinite().all()
    assert "forces" not in data.val_set.targets
    assert set(data.wanted) == {"energy", "forces"}
    net.train()
    assert net.training_step(Batch.from_data_list([dft[0], dft[1], eip[0]]), 0)["loss"] > 1e-4
    data.setup("test")
    assert data.test_set.targets["forces"].isfinite().all()


def test_weights_may_name_what_is_left_aside(forced, tmp_path):
    """Where the classifier chose no EIP too."""
    selection = forced.select(tmp_path / "selection.csv", {})
    net = network(weights={"energy": 1.0, "forces": 5.0, "stress": 7.0})
    data = attached(FinetuneDataModule(**forced.arguments, selection=str(selection), energies_only=True), net)
    net.setup("fit")
    assert set(data.wanted) == {"energy"}


def test_an_eip_without_stress_leaves_the_others_theirs(forced):
    """Every other epoch the combination is of those with stress; in between, the forces of all count."""
    data = attached(PretrainDataModule(**forced.arguments), pretraining()).train_set
    batch = batch_of(data)
    batch.stress[:, 1] = torch.nan
    targets = Targets.of(batch)
    forces, stress = targets.known_of("forces"), targets.known_of("stress")
    periodic = stress.any(dim=1)
    even, odd = (counted_labels(targets, ["forces", "stress"], epoch) for epoch in (0, 1))
    assert torch.equal(odd, forces)
    assert torch.equal(even[periodic], (forces & stress)[periodic])
    assert torch.equal(even[~periodic], forces[~periodic])
    mixed = targets.along(random_signs(even, batch.row, 0))
    assert torch.equal(mixed.known["stress"][:, 0], periodic)


def test_forces_that_are_no_numbers_end_the_training(forced):
    net = network()
    data = attached(FinetuneDataModule(**forced.arguments), net)
    predicted = net.evaluated(batch_of(data.val_set))
    predicted = {**predicted, "forces": torch.full_like(predicted["forces"], torch.inf)}
    net.evaluated = lambda *_: predicted
    with pytest.raises(InputError, match="its training has diverged"):
        net.validation_step(batch_of(data.val_set), 0)


def test_huber_is_linear_from_there_on():
    term = ForceError(huber=0.5)
    forces = torch.tensor([[[0.3, 0.0, 0.0]], [[3.0, 0.0, 4.0]]])
    targets = Targets(
        {"forces": torch.zeros(2, 1, 3)},
        {"forces": torch.ones(2, 1, dtype=torch.bool)},
        torch.ones(2, 1),
        torch.ones(2, dtype=torch.bool),
        torch.ones(2, dtype=torch.long),
    )
    far = np.sqrt(25 / 3)
    assert term(forces, targets).item() == pytest.approx((0.09 / 3 + 2 * 0.5 * far - 0.25) / 2)


def test_forces_that_are_exact_have_a_finite_gradient():
    """As of symmetric sites: the length of a vector has none at zero by itself."""
    forces = torch.zeros(4, 1, 3, requires_grad=True)
    targets = Targets(
        {"forces": torch.tensor([0.0, 0.0, 1.0, 2.0]).view(4, 1, 1).expand(4, 1, 3)},
        {"forces": torch.ones(4, 1, dtype=torch.bool)},
        torch.ones(4, 1),
        torch.zeros(4, dtype=torch.bool),
        torch.ones(4, dtype=torch.long),
    )
    ForceTukey()(forces, targets).backward()
    assert forces.grad is not None
    assert forces.grad.isfinite().all()


@pytest.fixture(scope="module")
def tuned(forced, tmp_path_factory) -> Path:
    """A training with forces, stress, averaged weights and two phases, on all but the last settings' defaults."""
    config = stage_config(forced, "Finetune", tmp_path_factory.mktemp("tuned"), max_epochs=4)
    config["model"]["init_args"] |= settings()
    return eipnn_stage("fit", config)


def settings() -> dict:
    weights = {"energy": 1.0, "forces": 5.0, "stress": 100.0}
    second = {"energy": 50.0, "stress": 10.0}
    return {"weights": weights, "second_weights": second, "second_from": 0.5, "ema": 0.8}


def test_the_best_epoch_has_the_smallest_geometric_mean(forced, tuned):
    log = pd.concat(pd.read_csv(file) for file in (tuned / "logs").rglob("metrics.csv")).dropna(subset="val_error")
    expected = (log.val_config_mae * log.val_force_mae * log.val_stress_mae) ** (1 / 3)
    np.testing.assert_allclose(log.val_error, expected, rtol=1e-5)
    fit = read_json(tuned / "fit.json")
    assert fit["monitor"] == "val_error"
    assert fit["best_score"] == pytest.approx(log.val_error[log.epoch >= 2].min())


def rising(forced, folder: Path, epochs: int, second_from: float) -> dict:
    """A training in two phases whose errors grow from epoch to epoch."""
    config = stage_config(forced, "Finetune", folder, max_epochs=epochs)
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.02, "maximize": True}}
    weights = settings() | {"ema": None, "optimizer": optimizer, "scheduler": None, "second_from": second_from}
    config["model"]["init_args"] |= weights
    return config


@pytest.mark.parametrize("cut", [4, 3, 2])
def test_the_best_epoch_has_the_second_weights(forced, tmp_path, cut):
    """Of four whose errors grow it is the third, wherever the training was cut and went on."""
    config = rising(forced, tmp_path, cut, min(2 / cut, 0.99))
    root = eipnn_stage("fit", config)
    if cut < 4:
        config["trainer"]["max_epochs"] = 4
        config["model"]["init_args"]["second_from"] = 0.5
        eipnn_stage("fit", config, "--ckpt_path", str(root / "checkpoints" / "last.ckpt"))
    log = pd.concat(pd.read_csv(file) for file in (root / "logs").rglob("metrics.csv")).dropna(subset="val_error")
    assert log.val_error.is_monotonic_increasing
    assert read_json(root / "fit.json")["best_score"] == pytest.approx(log.val_error[log.epoch == 2].item())
    assert torch.load(best(root), weights_only=True)["epoch"] == 2


def test_a_second_phase_that_begins_in_the_past_has_the_best_epoch(forced, tmp_path):
    """After three epochs of the first the second is made to begin after two, then after four: the fourth stays."""
    config = rising(forced, tmp_path, 3, 0.99)
    root = eipnn_stage("fit", config)
    for epochs in (5, 6):
        config["trainer"]["max_epochs"] = epochs
        config["model"]["init_args"]["second_from"] = {5: 0.4, 6: 0.6}[epochs]
        eipnn_stage("fit", config, "--ckpt_path", str(root / "checkpoints" / "last.ckpt"))
        assert torch.load(best(root), weights_only=True)["epoch"] == 3


def test_where_no_epoch_with_second_weights_is_validated_the_best_of_the_first_is_kept(forced, tmp_path):
    config = rising(forced, tmp_path, 3, 0.5)
    config["trainer"]["check_val_every_n_epoch"] = 2
    root = eipnn_stage("fit", config)
    assert read_json(root / "fit.json")["best_score"] is not None
    assert torch.load(best(root), weights_only=True)["epoch"] == 1


def test_too_few_epochs_for_second_weights_are_told(forced, tmp_path, caplog):
    eipnn_stage("fit", rising(forced, tmp_path, 2, 0.75))
    assert "second_weights: none of 2 epochs has them" in caplog.text


def test_errors_of_forces_and_stress_in_their_units(forced, tuned):
    """Of the kept weights, on the test frames; by the calculator."""
    config = stage_config(forced, "Finetune", tuned)
    config["model"]["init_args"] |= settings()
    eipnn_stage("test", config, "--ckpt_path", str(best(tuned)))
    found = read_json(tuned / "test.json")
    calculator = EIPNNCalculator(best(tuned))
    frames = {atoms.info["config_id"]: atoms for atoms in ase.io.read(forced.data["dft"], ":")}
    forces, stress = [], []
    for name in forced.ids("test"):
        atoms = frames[name].copy()
        atoms.calc = calculator
        forces.append(np.abs(atoms.get_forces() - frames[name].get_forces()).ravel())
        if atoms.pbc.all():
            stress.append(np.abs(atoms.get_stress(voigt=False) - frames[name].get_stress(voigt=False)).mean())
    assert found["test_force_mae"] == pytest.approx(np.concatenate(forces).mean(), rel=1e-4)
    assert found["test_stress_mae"] == pytest.approx(np.mean(stress) * GPA, rel=1e-4)


@pytest.mark.parametrize("stage", ["Finetune", "Pretrain"])
def test_a_resumed_training_is_as_if_it_was_not_cut(forced, tmp_path, stage):
    """With averaged weights, two phases and random signs."""
    config = stage_config(forced, stage, tmp_path / "whole", max_epochs=4)
    weights = settings() if stage == "Finetune" else {"ema": 0.8}
    config["model"]["init_args"] |= weights | {"scheduler": None}
    whole = eipnn_stage("fit", config)
    config["trainer"] |= {"default_root_dir": str(tmp_path / "cut"), "max_epochs": 2}
    config["model"]["init_args"] |= {"second_from": 0.99}  # two epochs of the first phase, as in the whole
    cut = eipnn_stage("fit", config)
    config["trainer"]["max_epochs"] = 4
    config["model"]["init_args"] |= {"second_from": 0.5}
    eipnn_stage("fit", config, "--ckpt_path", str(cut / "checkpoints" / "last.ckpt"))
    one, other = (torch.load(root / "checkpoints" / "last.ckpt", weights_only=True) for root in (whole, cut))
    for key in ("state_dict", "unaveraged"):
        torch.testing.assert_close(other[key], one[key], rtol=0, atol=0)


def test_the_average_is_what_is_kept(forced, tmp_path):
    """The exponential average over the steps, written out; a checkpoint's weights, and what the module ends with."""
    config = stage_config(forced, "Finetune", tmp_path, max_epochs=2)
    light = {"save_weights_only": True, "filename": "light", "monitor": None}
    light = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": light}
    config["trainer"]["callbacks"] = [{"class_path": "test_forces.EveryStep"}, light]
    config["model"]["init_args"] |= {"ema": 0.8}
    root = eipnn_stage("fit", config)
    last = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
    steps = torch.load(root / "steps.pt", weights_only=True)
    mean = steps[0]
    for step, weights in enumerate(steps[1:], start=1):
        decay = min(0.8, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * weights
    flat = torch.cat([last["state_dict"][name].flatten() for name in last["unaveraged"]])
    torch.testing.assert_close(flat, mean)
    raw = torch.cat([value.flatten() for value in last["unaveraged"].values()])
    torch.testing.assert_close(raw, steps[-1])
    assert not torch.allclose(raw, flat)
    light = torch.load(root / "checkpoints" / "light.ckpt", weights_only=True)["state_dict"]
    for name, value in last["state_dict"].items():
        torch.testing.assert_close(light[name], value, rtol=0, atol=0)


class EveryStep(Callback):
    """Notes the weights before the first step and after each."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self.note(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.note(pl_module)

    def note(self, module) -> None:
        self.steps.append(torch.cat([p.detach().flatten() for p in module.parameters()]))

    def on_train_end(self, trainer, pl_module) -> None:
        torch.save(self.steps, Path(trainer.default_root_dir) / "steps.pt")


def test_the_second_phase_has_other_weights():
    net = network(**settings(), alpha=0.1)
    found = {}
    for epoch in (4, 5, 0):
        net._trainer = SimpleNamespace(current_epoch=epoch, max_epochs=10)
        net.on_train_epoch_start()
        terms = {"dft": net.dft_terms, "eip": net.eip_terms}
        found[epoch] = {kind: {n: term.weight for n, term in of.items()} for kind, of in terms.items()}
    first = {"energy": 1.0, "forces": 5.0, "stress": 100.0}
    second = {"energy": 50.0, "forces": 5.0, "stress": 10.0}
    for epoch, weights in ((0, first), (4, first), (5, second)):
        assert found[epoch]["dft"] == weights
        assert found[epoch]["eip"] == pytest.approx({n: 0.1 * weights[n] for n in ("energy", "forces")})


def test_the_pretrained_representation_has_a_rate_of_its_own(forced, tmp_path):
    pretrained = eipnn_stage("fit", stage_config(forced, "Pretrain", tmp_path / "pretrain"))
    net = network(init_from=str(best(pretrained)), representation_rate=0.1)
    optimizer, _ = net._optimisation(net.groups())
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rates[id(p)] == pytest.approx(1e-3) for p in net.head.parameters())
    assert all(rates[id(p)] == pytest.approx(1e-4) for p in net.representation.parameters())
    assert len(rates) == len(list(net.parameters()))


def test_it_ends_early_where_nothing_improves(forced, tmp_path):
    config = stage_config(forced, "Finetune", tmp_path, max_epochs=30)
    config["model"]["init_args"] |= {"patience": 2, "scheduler": None}
    config["model"]["init_args"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1e-12}}
    fit = read_json(eipnn_stage("fit", config) / "fit.json")
    assert fit["ended"] == "early_stopping"
    assert fit["epochs"] < 30


def test_pretraining_learns_forces(forced, tmp_path):
    """Validation has the errors of all EIPs, each by a derivative of its own."""
    config = stage_config(forced, "Pretrain", tmp_path, max_epochs=3)
    root = eipnn_stage("fit", config)
    eipnn_stage("test", config, "--ckpt_path", str(best(root)))
    found = read_json(root / "test.json")
    net = PretrainModule.load_from_checkpoint(best(root))
    store = LabelStore.open(forced.data["labels"])
    data = attached(PretrainDataModule(**forced.arguments), net, "test").test_set
    predicted = net.evaluated(batch_of(data))["forces"].numpy()
    label = np.concatenate([store.forces(name) for name in data.ids])
    error = np.abs(predicted - label).mean(axis=2)
    keep = np.repeat(
        np.abs([forced.eip[n][2] / len(forced.frames[n]) for n in data.ids]) < 200, data.inputs.structures.sizes
    )
    error[~keep, 2] = np.nan
    assert found["test_eip_force_mae"] == pytest.approx(np.nanmean(error), rel=1e-4)


def test_stratified_batches_keep_the_means_of_both_kinds(forced, tmp_path):
    """Over an epoch the gradient is that of DFT's mean and alpha x the EIP labels' mean, once a batch (Eq. 3)."""
    chosen = [name for name in forced.ids("pool") if name != MISSING][:36]
    selection = forced.select(tmp_path / "selection.csv", dict.fromkeys(chosen, "au"))
    net = network(weights={"energy": 1.0}, eip_loss="mse", alpha=0.5)
    arguments = {"selection": str(selection), "dft_fraction": 0.5, "batch_size": 8, "stratified": True}
    data = attached(FinetuneDataModule(**forced.arguments | arguments), net)
    batches = list(data.train_dataloader())
    assert len({len(batch.z) for batch in batches}) <= 3  # as many trimers as the proportion says, or one more
    assert [batch.is_dft.tolist() for batch in batches] == [[True] * 4 + [False] * 4] * 9
    net.train()
    for batch in batches:
        net.training_step(batch, 0)["loss"].backward()
    epoch = [weight.grad.clone() for weight in net.parameters()]
    net.zero_grad()
    every = batch_of(data.train_set)
    squares = (net(every) - every.energy[:, 0]).square()
    (len(batches) * (squares[every.is_dft].mean() + 0.5 * squares[~every.is_dft].mean())).backward()
    for found, weight in zip(epoch, net.parameters(), strict=True):
        torch.testing.assert_close(found, weight.grad, rtol=1e-3, atol=1e-4 * float(weight.grad.abs().max()))
