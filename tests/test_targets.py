"""Labels of several sources: each read once where it is wanted, on one zero, and what is not known never counts."""

import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from tiny import FREE, MISSING, N_DFT, Tiny, write_labels
from torch_geometric.data import Batch, Data

from eipnn.eips import DFT
from eipnn.inputs.graph import Graph
from eipnn.labels.layout import open_array, read_index
from eipnn.stages.finetune import FinetuneDataModule
from eipnn.stages.handover import Handover
from eipnn.stages.source import EnergyZero, Source, SourceConfig
from eipnn.stages.terms import SquaredError
from eipnn.targets import Targets

PROPERTIES = ("energy", "forces", "stress")


def random_forces(name: str, n_atoms: int, sources: int) -> np.ndarray:
    return np.random.default_rng(int(name[-6:])).normal(size=(n_atoms, sources, 3))


@pytest.fixture(scope="module")
def source(tiny: Tiny, tmp_path_factory) -> Source:
    """The tiny data with forces of DFT (every other frame) and of the EIPs, the stress of one frame and of one EIP."""
    folder = tmp_path_factory.mktemp("forces")
    frames = [tiny.frames[name].copy() for name in list(tiny.frames)[:N_DFT]]
    for row, atoms in enumerate(frames):
        name = atoms.info["config_id"]
        energy = tiny.cohesive[name] + sum(FREE[symbol] for symbol in atoms.symbols)
        labels = {"energy": energy}
        if row % 2 == 0:
            labels["forces"] = random_forces(name, len(atoms), 1)[:, 0]
        if row == 0:
            labels["stress"] = np.arange(6.0)
        atoms.calc = SinglePointCalculator(atoms, **labels)
    ase.io.write(folder / "dft.extxyz", frames, format="extxyz")
    every = list(tiny.frames.values())
    labels = write_labels(folder / "labels", every, np.array(list(tiny.eip.values())))
    open_array(labels, "forces", read_index(labels), "r+")[:] = np.concatenate(
        [random_forces(name, len(atoms), 3) for name, atoms in tiny.frames.items()]
    )
    open_array(labels, "stress", read_index(labels), "r+")[:, 1] = 10 + np.arange(6.0)  # of "au"
    paths = {"dft": str(folder / "dft.extxyz"), "labels": str(labels)}
    paths |= {name: tiny.data[name] for name in ("split", "pool")}
    return Source(SourceConfig(energy_zero=EnergyZero("isolated_atoms", dict(FREE)), **paths))


def test_what_the_sources_say(tiny: Tiny, source: Source) -> None:
    ids = [*tiny.ids("train")[:3], MISSING]
    sizes = [len(tiny.frames[name]) for name in ids]
    found = source.targets(source.structures(ids), ["au", DFT, "cu.1"], PROPERTIES)
    expected = np.array([[tiny.eip[name][1], tiny.cohesive[name], tiny.eip[name][0]] for name in ids])
    expected[3, :2] = np.nan  # no label of the EIP; no frame of the DFT file
    np.testing.assert_allclose(found["energy"], expected, atol=1e-6)
    forces = np.split(found["forces"], np.cumsum(sizes)[:-1])
    for row, (name, size) in enumerate(zip(ids, sizes, strict=True)):
        np.testing.assert_array_equal(forces[row][:, [2, 0]], random_forces(name, size, 3)[:, :2])
        of_dft = random_forces(name, size, 1)[:, 0] if row in (0, 2) else np.full((size, 3), np.nan)
        np.testing.assert_allclose(forces[row][:, 1], of_dft, atol=1e-7)
    known = np.isfinite(found["stress"]).all(axis=2)
    assert known.tolist() == [[True, row == 0, False] for row in range(4)]
    np.testing.assert_allclose(found["stress"][0, 1], np.arange(6))
    np.testing.assert_array_equal(found["stress"][:, 0] - found["stress"][0, 1], np.full((4, 6), 10))
    assert source.targets(source.structures(ids), [DFT]).keys() == {"energy"}


def test_a_selection_takes_each_label_from_its_source(tiny: Tiny, source: Source) -> None:
    names = tiny.ids("pool")[:5] + tiny.ids("train")[:1]
    chosen = dict(zip(names, ["far", "cu.1", "au", "cu.1", "far", DFT], strict=True))
    found = source.chosen(chosen, ("energy", "forces"))
    each = [source.targets(source.structures([name]), [eip], ("energy", "forces")) for name, eip in chosen.items()]
    for name in found:
        np.testing.assert_array_equal(found[name], np.concatenate([part[name] for part in each]))
    assert source.chosen({}, PROPERTIES)["forces"].shape == (0, 1, 3)


def test_delta_learning_is_on_what_both_know(tiny: Tiny, source: Source) -> None:
    """DFT less the EIP: energies, forces and stress."""
    handover = Handover(Graph(3.5), 3.5, [], wanted=PROPERTIES)
    arguments = {"energy_zero": source.config.energy_zero, "dft": source.config.dft, "labels": source.config.labels}
    data = FinetuneDataModule(**tiny.arguments | arguments, delta_eip="au", handover=handover)
    data.wanted = PROPERTIES
    frames = source.structures(tiny.ids("train")[:2])
    found = data.targets(frames)
    for row, (name, atoms) in enumerate(zip(frames.ids, frames, strict=True)):
        assert found["energy"][row, 0] == pytest.approx(tiny.cohesive[name] - tiny.eip[name][1], abs=1e-6)
        own = random_forces(name, len(atoms), 1)[:, 0] - random_forces(name, len(atoms), 3)[:, 1]
        forces = found["forces"][frames.atoms_of(np.array([row]))]
        np.testing.assert_allclose(forces, own[:, None] if row == 0 else np.full_like(forces, np.nan), atol=1e-7)
    np.testing.assert_allclose(found["stress"][:, 0], [np.full(6, -10), np.full(6, np.nan)])


def batch() -> Batch:
    """Configurations of two atoms and of one, two sources: one force, one stress and one energy are not known."""
    nan = torch.nan
    first = Data(
        energy=torch.tensor([[1.0, nan]]),
        forces=torch.tensor([[[1.0, 2, 3], [0, 0, 0]], [[1.0, nan, 3], [0, 0, 1]]]),
        stress=torch.ones(1, 2, 3, 3),
        is_dft=torch.tensor([True]),
    )
    second = Data(
        energy=torch.tensor([[2.0, 5.0]]),
        forces=torch.tensor([[[4.0, 0, 0], [nan, nan, nan]]]),
        stress=torch.tensor([1.0, nan]).view(1, 2, 1, 1).expand(1, 2, 3, 3),
        is_dft=torch.tensor([False]),
    )
    for data, atoms in ((first, 2), (second, 1)):
        data.update({"n_atoms": torch.tensor([atoms]), "weight": torch.ones(1), "num_nodes": atoms})
    return Batch.from_data_list([first, second])


def test_what_is_not_known_has_no_weight_and_no_error() -> None:
    targets = Targets.of(batch())
    assert targets.counts("energy").tolist() == [[1, 0], [1, 1]]
    assert targets.counts("forces").tolist() == [[1, 1], [0, 1], [1, 0]]
    assert targets.counts("stress").tolist() == [[1, 1], [1, 0]]
    assert targets.counts("forces", dft=True).tolist() == [[1, 1], [0, 1], [0, 0]]
    assert targets.counts("energy", dft=False).tolist() == [[0, 0], [1, 1]]
    prediction = torch.ones(3, 2, 3, requires_grad=True)
    error = targets.error("forces", prediction)
    assert error[0].tolist() == [[0, -1, -2], [1, 1, 1]]
    assert error[1].tolist() == [[0, 0, 0], [1, 1, 0]]
    error.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[:, :, 0].tolist() == [[1, 1], [0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("name", "dft", "expected"),
    [
        ("energy", None, (1 + 4 + 25) / 3),
        ("forces", None, (14 + 0 + 1 + 16) / 12),  # of components, of the atoms that are known
        ("forces", False, 16 / 3),
        ("stress", True, 1.0),
    ],
)
def test_squared_errors_of_any_property(name: str, dft: bool | None, expected: float) -> None:
    targets = Targets.of(batch())
    term = type("Squares", (SquaredError,), {"needs": name})(dft=dft)
    assert term(torch.zeros_like(targets.values[name]), targets).item() == pytest.approx(expected)
    padded = batch()
    padded.weight = torch.zeros(2)
    assert term(torch.zeros_like(targets.values[name]), Targets.of(padded)).item() == 0
