"""SOAP in torch against dscribe, and SOAPNet."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from dscribe.descriptors import SOAP
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import sph_harm_y
from torch_geometric.data import Batch

from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, Graph, Soap, graph_of
from eipnn.inputs.soap import power_spectrum, solid_harmonics
from eipnn.representations import SOAPNet

CUTOFF = 4.0


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.1, seed=seed)
    return atoms


def silicon(**kwargs) -> Atoms:
    return rattled(bulk("Si", "diamond", 5.43, **kwargs))


def skewed() -> Atoms:
    """A skewed cell of two elements with atoms several cells away from their images."""
    atoms = rattled(bulk("SiC", "zincblende", 4.36, cubic=True))
    atoms.set_cell(atoms.cell @ [[1, 0.4, -0.3], [0, 1, 0.7], [0, 0.1, 1.1]], scale_atoms=True)
    atoms.positions += np.random.default_rng(1).integers(-3, 4, (len(atoms), 3)) @ atoms.cell
    return atoms


def open_axes(pbc: tuple[bool, bool, bool], zero: bool) -> Atoms:
    """A crystal cut open; the vectors of the open axes are zero, or mean nothing."""
    atoms = rattled(bulk("SiC", "zincblende", 4.36, cubic=True))
    atoms.pbc = pbc
    for axis in np.flatnonzero(np.logical_not(pbc)):
        atoms.cell[axis] = 0 if zero else [0.3, 0.4, 0.5]
    return atoms


FRAMES = {
    "crystal": silicon(),
    "cubic cell": silicon(cubic=True),
    "two elements, skewed, outside its cell": skewed(),
    "one atom a cell": bulk("Si", "fcc", a=3.9),
    "cell smaller than the cutoff": Atoms("Si", cell=np.diag([2.1, 2.3, 9.0]), pbc=True),
    "slab": open_axes((True, True, False), zero=True),
    "wire": open_axes((False, True, False), zero=False),
    "molecule": Atoms("SiC2Si", silicon(cubic=True).positions[:4]),
    "linear molecule on the z axis": Atoms("SiC", [[0, 0, 0], [0, 0, 1.8]]),
    "single atom": Atoms("C"),
}
every_frame = pytest.mark.parametrize("atoms", FRAMES.values(), ids=FRAMES.keys())
OPTIONS = {
    "smooth": {},
    "as in the paper": {"smooth": False, "sigma": 1.0},
    "narrow, no angles": {"sigma": 0.4, "n_max": 3, "l_max": 0},
    "high degrees": {"n_max": 3, "l_max": 9},
}


def reference(atoms: Atoms, **options) -> np.ndarray:
    """dscribe's features of atoms in a large enough piece of their crystal, which has no periodicity."""
    smooth = options.pop("smooth", True)
    weighting = {"function": "poly", "r0": CUTOFF, "c": 1, "m": 1} if smooth else None
    soap = SOAP(species=["C", "Si"], r_cut=CUTOFF, weighting=weighting, **options)
    if atoms.pbc.all():
        atoms = atoms.copy()
        atoms.wrap()
    copies = [range(-6, 7) if periodic else (0,) for periodic in atoms.pbc]
    shifts = np.stack(np.meshgrid(*copies, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = np.concatenate([atoms.positions + shift @ atoms.cell.array for shift in shifts])
    near = np.full(len(positions), False)
    for start in range(0, len(positions), 1000):
        part = positions[start : start + 1000]
        distance = np.linalg.norm(part[:, None] - atoms.positions, axis=-1)
        near[start : start + 1000] = distance.min(axis=1) < 10
    numbers = np.tile(atoms.numbers, len(shifts))
    piece = Atoms(numbers[near], positions[near])
    return soap.create(piece, centers=atoms.positions.tolist())


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@every_frame
def test_features_are_those_of_dscribe(atoms, options):
    options = {"n_max": 8, "l_max": 6, "sigma": 0.5} | options
    soap = Soap(("Si", "C"), CUTOFF, **options)
    data = soap(atoms, torch.float64)
    expected = torch.from_numpy(reference(atoms, **options))
    assert data.features.shape == (len(atoms), soap.dim)
    torch.testing.assert_close(data.features, expected, rtol=0, atol=1e-8)
    ours = power_spectrum(graph_of(Batch.from_data_list([data])), soap)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-8)


def test_the_papers_sizes_have_252_features():
    data = Soap(("Si",), 5.0, sigma=1.0, smooth=False)(silicon())
    assert data.features.shape == (2, 252)
    expected = SOAP(species=["Si"], r_cut=5.0, n_max=8, l_max=6, periodic=True).create(silicon())
    np.testing.assert_allclose(data.features, expected, rtol=1e-6, atol=1e-6)


numbers = st.floats(-1, 1, allow_nan=False)


@st.composite
def cells(draw) -> Atoms:
    """One to four atoms in a skewed cell, some of whose axes may be open, at times far outside it."""
    lengths = np.diag(draw(st.tuples(*[st.floats(2.0, 9.0)] * 3)))
    shear = np.array(draw(st.lists(numbers, min_size=9, max_size=9))).reshape(3, 3)
    pbc = draw(st.tuples(*[st.booleans()] * 3))
    n = draw(st.integers(1, 4))
    positions = np.array(draw(st.lists(numbers, min_size=3 * n, max_size=3 * n))).reshape(n, 3)
    symbols = draw(st.lists(st.sampled_from(["C", "Si"]), min_size=n, max_size=n))
    cell = lengths @ (np.eye(3) + np.triu(0.9 * shear, 1))
    return Atoms(symbols, 20 * positions, cell=cell, pbc=pbc)


@settings(max_examples=40, derandomize=True)
@given(cells(), st.booleans())
def test_any_cell_gives_the_features_of_dscribe(atoms, smooth):
    soap = Soap(("C", "Si"), 3.0, n_max=3, l_max=3, smooth=smooth)
    data = soap(atoms, torch.float64)
    ours = power_spectrum(graph_of(Batch.from_data_list([data])), soap)
    torch.testing.assert_close(ours, data.features, rtol=1e-9, atol=1e-9)


def test_a_batch_equals_its_frames():
    soap = Soap(("C", "Si"), CUTOFF, n_max=4, l_max=3)
    items = [soap(atoms, torch.float64) for atoms in FRAMES.values()]
    together = power_spectrum(graph_of(Batch.from_data_list(items)), soap)
    alone = torch.cat([item.features for item in items])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smooth", [True, False])
def test_gradients_are_those_of_dscribe(smooth):
    """Its analytic ones for a molecule without weights, else its numerical ones."""
    atoms = FRAMES["molecule"]
    soap = Soap(("C", "Si"), CUTOFF, n_max=4, l_max=4, sigma=1.0, smooth=smooth)
    batch = Batch.from_data_list([soap(atoms, torch.float64)])
    batch.pos.requires_grad_()
    weights = torch.linspace(-1, 1, soap.dim, dtype=torch.float64)
    ours = torch.autograd.grad((power_spectrum(graph_of(batch), soap) @ weights).sum(), batch.pos)[0]
    weighting = {"function": "poly", "r0": CUTOFF, "c": 1, "m": 1} if smooth else None
    dscribe = SOAP(species=["C", "Si"], r_cut=CUTOFF, n_max=4, l_max=4, weighting=weighting)
    method = "numerical" if smooth else "analytical"
    slopes, _ = dscribe.derivatives(atoms, attach=True, method=method)
    theirs = torch.einsum("ijxf,f->jx", torch.from_numpy(slopes), weights)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 if smooth else 1e-8)


def test_harmonics_are_orthonormal_and_those_of_scipy():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 3))
    x, y, z = vectors.T
    r = np.linalg.norm(vectors, axis=1)
    ours = solid_harmonics(torch.from_numpy(vectors), torch.from_numpy(vectors**2).sum(dim=-1), l_max=7)
    for degree, values in enumerate(ours):
        for m in range(degree + 1):
            scipys = r**degree * sph_harm_y(degree, m, np.arccos(z / r), np.arctan2(y, x))
            scipys *= np.sqrt(2) * (-1) ** m if m else 1
            np.testing.assert_allclose(values[:, degree + m], scipys.real, rtol=1e-10, atol=1e-12)
            if m:
                np.testing.assert_allclose(values[:, degree - m], scipys.imag, atol=1e-10)


@pytest.mark.parametrize("smooth", [True, False])
def test_no_atom_beyond_the_stated_cutoff_is_seen(smooth):
    net = SOAPNet(["Si"], cutoff=CUTOFF, n_max=4, l_max=2, sigma=1.0, smooth=smooth)
    assert net.cutoff == CUTOFF if smooth else CUTOFF + 3.7 < net.cutoff < CUTOFF + 3.8
    alone = net.inputs(Atoms("Si"), torch.float64).features
    for gap, same in ((-0.1, False), (1e-6, True)):
        dimer = Atoms("Si2", [[0, 0, 0], [0, 0, net.cutoff + gap]])
        data = net.inputs(dimer, torch.float64)
        in_torch = power_spectrum(graph_of(Batch.from_data_list([data])), net.soap)
        for features in (data.features, in_torch):
            assert torch.allclose(features[:1], alone, rtol=0, atol=1e-12) == same


def test_an_unknown_element_is_said_with_the_mend():
    soap = Soap(("Si",), CUTOFF)
    atoms = molecule("CH4")
    atoms.info["config_id"] = "pool_17"
    with pytest.raises(InputError, match=r"pool_17: holds C, .* for Si: name every element"):
        soap(atoms)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"cutoff": 0.9}, "bigger than 1 angstrom"),
        ({"n_max": 0}, "at least one radial basis"),
        ({"l_max": -1}, "l_max cannot be negative"),
        ({"sigma": 0.0}, "sigma"),
    ],
)
def test_impossible_settings_are_said(options, match):
    with pytest.raises(InputError, match=match):
        Soap(("Si",), **({"cutoff": CUTOFF} | options))(silicon())


def test_the_key_tells_settings_apart():
    others = (
        Soap(("Si",), 5.0),
        Soap(("Si",), 4.0),
        Soap(("Si", "C"), 5.0),
        Soap(("Si",), 5.0, n_max=7),
        Soap(("Si",), 5.0, l_max=5),
        Soap(("Si",), 5.0, sigma=0.4),
        Soap(("Si",), 5.0, smooth=False),
    )
    assert len({soap.key() for soap in (*others, Graph(5.0))}) == len(others) + 1


def frames(n: int = 12) -> list[Atoms]:
    return [rattled(bulk("Si", "diamond", 5.2 + 0.05 * k), seed=k) for k in range(n)]


def batches(net: SOAPNet, atoms: list[Atoms], dtype: torch.dtype = torch.float32) -> list[Batch]:
    items = [net.inputs(a, dtype) for a in atoms]
    return [Batch.from_data_list(items[k : k + 5]) for k in range(0, len(items), 5)]


def graphs(*args) -> list[AtomicGraph]:
    return [graph_of(batch) for batch in batches(*args)]


def test_calibration_standardises_the_training_features():
    net = SOAPNet(["C", "Si"], cutoff=CUTOFF, n_max=4, l_max=3)
    parts = batches(net, frames())
    net.calibrate([graph_of(batch) for batch in parts])
    soap = torch.cat([batch.features for batch in parts])
    standard = (soap - net.mean) * net.scale
    varies = soap.std(dim=0) > 0
    assert 0 < varies.sum() < net.soap.dim  # carbon's features are constant zeros
    assert (net.scale[~varies] == 0).all()
    zero, one = torch.zeros(()), torch.ones(())
    torch.testing.assert_close(standard.mean(dim=0), zero.expand(net.soap.dim), atol=1e-4, rtol=0)
    deviation = standard[:, varies].std(dim=0, correction=0)
    torch.testing.assert_close(deviation, one.expand(len(deviation)), atol=1e-3, rtol=0)


def test_constant_features_do_not_blow_up():
    """Perfect crystals at a few volumes: by symmetry most features are zero but for rounding."""
    net = SOAPNet(["Si"], cutoff=CUTOFF, n_max=4, l_max=4).double()
    net.calibrate(graphs(net, [bulk("Si", "diamond", a) for a in (5.3, 5.4, 5.5)], torch.float64))
    (batch,) = batches(net, [silicon(cubic=True)], torch.float64)
    standard = (batch.features - net.mean) * net.scale
    assert standard.abs().max() < 1e3
    assert 0 < (net.scale == 0).sum() < net.soap.dim
    net.calibrate(graphs(net, [bulk("Si", "diamond", 5.4)] * 2, torch.float64))
    assert (net.scale == 0).all()  # one atom alone: nothing varies
    assert net(graph_of(batch)).isfinite().all()


def test_features_with_and_without_gradients_are_the_same():
    torch.manual_seed(0)
    net = SOAPNet(["C", "Si"], cutoff=CUTOFF)
    net.calibrate(graphs(net, frames()))
    net.double()
    (batch,) = batches(net, [skewed()], torch.float64)
    cached = net(graph_of(batch))
    batch.cell.requires_grad_()
    torch.testing.assert_close(net(graph_of(batch)), cached, rtol=0, atol=1e-8)
    batch.features += 1  # not read where gradients are asked for
    torch.testing.assert_close(net(graph_of(batch)), cached, rtol=0, atol=1e-8)


def test_config_rebuilds_it():
    net = SOAPNet(["Si"], cutoff=4.5, width=16)
    config = net.config()
    assert config["class_path"] == "eipnn.representations.soapnet.SOAPNet"
    assert SOAPNet(**config["init_args"]).config() == config
