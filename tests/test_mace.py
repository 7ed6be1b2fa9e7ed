"""The wrapper of mace-torch: the library's own features, and nothing of its side effects."""

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from backbones import FRAMES, batch_of, graph

from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.representations import MACE

CUTOFF = 4.0
needs_mace = pytest.mark.skipif(find_spec("mace") is None, reason="mace-torch is not installed")


def small(**settings) -> MACE:
    torch.manual_seed(0)
    return MACE(["C", "Si"], **{"cutoff": CUTOFF, "channels": 4, "bessel": 5} | settings)


@pytest.fixture(scope="module")
def net() -> MACE:
    """In float64, and calibrated on crystals."""
    net = small(max_ell=3, correlation=3).double()
    batches = [batch_of(net, FRAMES["cubic"], FRAMES["crystal"], dtype=torch.float64)]
    with torch.no_grad():
        net.calibrate([graph_of(batch) for batch in batches])
    return net


@pytest.fixture(scope="module")
def model(net) -> torch.nn.Module:
    """``mace.modules.MACE`` with the weights of `net`, in float64."""
    from e3nn.o3 import Irreps
    from mace import modules
    from mace.tools.compile import disable_e3nn_codegen
    from mace.tools.torch_tools import default_dtype

    with default_dtype(torch.float64), disable_e3nn_codegen():
        model = modules.MACE(
            r_max=CUTOFF,
            num_bessel=5,
            num_polynomial_cutoff=5,
            max_ell=3,
            interaction_cls=modules.RealAgnosticResidualInteractionBlock,
            interaction_cls_first=modules.RealAgnosticInteractionBlock,
            num_interactions=2,
            num_elements=2,
            hidden_irreps=Irreps("4x0e + 4x1o"),
            MLP_irreps=Irreps("16x0e"),
            atomic_energies=np.zeros(2),
            avg_num_neighbors=net.interactions[0].avg_num_neighbors.item(),
            atomic_numbers=[6, 14],
            correlation=3,
            gate=torch.nn.functional.silu,
            use_reduced_cg=False,
        )
    weights = dict(net.named_parameters())
    ours, theirs = ({name for name, _ in m.named_parameters() if not name.startswith("readouts")} for m in (net, model))
    assert ours == theirs
    model.load_state_dict(weights, strict=False)
    return model


@needs_mace
@pytest.mark.parametrize("name", ["cubic", "sheared, outside its cell", "one atom a cell", "wire"])
def test_features_are_the_scalars_of_the_librarys_own_model(net, model, name):
    atoms = FRAMES[name]
    expected = model(librarys_batch(atoms), compute_force=False)["node_feats"]
    layers = [expected[:, :4], expected[:, -4:]]  # 4 scalars and 4 vectors, 4 scalars
    with torch.no_grad():
        scalars = net.scalars(graph(net, atoms, dtype=torch.float64))
    torch.testing.assert_close(scalars, torch.cat(layers, dim=-1).detach(), rtol=0, atol=1e-12)


def librarys_batch(atoms: Atoms) -> dict[str, torch.Tensor]:
    """The library's own input of one configuration."""
    from mace import data
    from mace.tools import AtomicNumberTable, torch_geometric
    from mace.tools.torch_tools import default_dtype

    with default_dtype(torch.float64):
        configuration = data.config_from_atoms(atoms)
        elements = AtomicNumberTable([6, 14])
        item = data.AtomicData.from_config(configuration, z_table=elements, cutoff=CUTOFF)
    return torch_geometric.Batch.from_data_list([item]).to_dict()


@needs_mace
def test_calibration_counts_neighbours_and_standardises(net):
    frames = [FRAMES["cubic"], FRAMES["crystal"]]
    neighbours = np.concatenate([np.bincount(neighbor_list("i", a, CUTOFF), minlength=len(a)) for a in frames])
    for block in net.interactions:
        assert block.avg_num_neighbors.item() == pytest.approx(neighbours.mean())
    # a change of precision, or of the device, keeps what was found
    features = net.float()(graph(net, *frames))
    net.double()
    deviation, mean = torch.std_mean(features, dim=0, correction=0)
    torch.testing.assert_close(mean, torch.zeros(8), rtol=0, atol=1e-4)
    torch.testing.assert_close(deviation, torch.ones(8), rtol=0, atol=1e-4)


@needs_mace
def test_calibration_counts_some_batches_of_very_many(monkeypatch):
    """As of a million structures: the batches come in random order, and those after are not made at all."""
    monkeypatch.setattr("eipnn.representations.mace.COUNTED_BATCHES", 2)
    net, made = small(), []

    def batches():
        for name in ("cubic", "crystal", "cubic"):
            made.append(name)
            yield graph(net, FRAMES[name])

    class Graphs:
        def __iter__(self):
            return batches()

    with torch.no_grad():
        monkeypatch.setattr("eipnn.representations.mace.CALIBRATION_BATCHES", 1)
        net.calibrate(Graphs())
    assert made == ["cubic", "crystal", "cubic"]  # two are counted, one is standardised
    frames = [FRAMES["cubic"], FRAMES["crystal"]]
    neighbours = np.concatenate([np.bincount(neighbor_list("i", a, CUTOFF), minlength=len(a)) for a in frames])
    assert net.interactions[0].avg_num_neighbors.item() == pytest.approx(neighbours.mean())


@needs_mace
def test_calibration_without_any_neighbour():
    net = small()
    with torch.no_grad():
        net.calibrate([graph(net, Atoms("Si"), Atoms("C"))])
    assert net(graph(net, bulk("Si"), Atoms("C"))).isfinite().all()


@needs_mace
@pytest.mark.parametrize(
    "settings",
    [{"interactions": 1}, {"interactions": 3}, {"max_L": 0}, {"correlation": 1}, {"max_L": 2}],
    ids=str,
)
def test_every_weight_learns_whatever_the_sizes(settings):
    net = small(**settings)
    features = net(graph(net, FRAMES["cubic"], FRAMES["molecule"]))
    assert features.shape[1] == net.dim == 4 * settings.get("interactions", 2)
    features.square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None] == []


@needs_mace
def test_constants_are_not_rounded():
    """Coupling coefficients in float64 are exact after float32, so that the calculator's energies are invariant."""
    once, twice = small().double(), small().double().float().double()
    for name, value in dict(once.named_buffers()).items():
        torch.testing.assert_close(twice.get_buffer(name), value, rtol=0, atol=0)


@needs_mace
def test_importing_it_leaves_the_process_as_it_was(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


SCRIPT = """
import os, sys
import torch
import eipnn, eipnn.representations

assert not {"mace", "e3nn"} & set(sys.modules)  # imported only by those who use them
eipnn.representations.MACE(["Si"], channels=2)
assert "mace" in sys.modules
assert "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD" not in os.environ
assert torch.get_default_dtype() == torch.float32

class Anything: ...

torch.save(Anything(), "anything.pt")
try:
    torch.load("anything.pt")
except Exception as error:
    assert "weights_only" in str(error)
else:
    raise SystemExit("torch.load unpickles anything")
"""


@needs_mace
@needs_mace
def test_several_made_at_once_leave_the_process_as_it_was():
    # the run command writes the potentials of trainings that end together, each in its thread
    with ThreadPoolExecutor(8) as pool, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = list(pool.map(lambda _: MACE(["Si"], cutoff=4.0, channels=2, max_ell=1, correlation=1), range(16)))
    assert torch.get_default_dtype() == torch.float32
    assert not told  # TorchScript tells of itself
    assert not any(isinstance(part, torch.jit.ScriptModule) for net in made for part in net.modules())


def test_a_setting_of_the_users_stays(monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "0")
    small()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "0"


def test_without_the_library_the_message_says_how_to_get_it(monkeypatch):
    for name in ("e3nn", "e3nn.o3", "mace", "mace.modules"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'eipnn\[mace\]'"):
        MACE(["Si"])


@pytest.mark.parametrize("elements", [[], ["Si", "Si"], ["Silicon"]], ids=str)
def test_elements_that_are_none(elements):
    with pytest.raises(InputError, match="different chemical symbols"):
        MACE(elements)


@needs_mace
def test_an_element_that_was_not_named(net):
    with pytest.raises(InputError, match=r"atomic number 32 is none of C, Si: name every element"):
        net(graph(net, Atoms("SiGe", [[0, 0, 0], [0, 0, 2]]), dtype=torch.float64))
