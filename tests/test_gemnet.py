"""GemNet-T against SciPy's special functions and explicit loops over triplets."""

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from backbones import batch_of, graph
from scipy.integrate import quad_vec
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn

from eipnn import FinetuneModule
from eipnn.errors import InputError
from eipnn.inputs import graph_of
from eipnn.representations import GemNet
from eipnn.representations.gemnet.basis import BesselBasis, envelope, zonal_harmonics
from eipnn.representations.gemnet.layers import ScalingFactor, variance
from eipnn.representations.gemnet.neighbourhoods import among_nearest
from eipnn.stages.weights import WEIGHTS

ORDERS, RADIAL = 7, 6
SMALL = {
    "cutoff": 4.5,
    "triplet_cutoff": 3.8,
    "features": 6,
    "edge_features": 7,
    "triplet_features": 5,
    "rbf_features": 3,
    "cbf_features": 4,
    "bilinear_features": 2,
    "interactions": 1,
}


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.15, seed=seed)
    return atoms


FRAMES = {
    "carbide": rattled(bulk("SiC", "zincblende", a=4.36)),
    "cell smaller than the cutoff": Atoms("Si", cell=np.diag([2.1, 2.6, 9.0]), pbc=True),
    "one atom a cell": bulk("Si", "fcc", a=3.9),
    "slab": rattled(Atoms("SiC", [[0, 0, 0], [1, 1, 1.4]], cell=[2.8, 3, 0], pbc=(1, 1, 0))),
    "molecule": rattled(Atoms("SiC2Si", [[0, 0, 0], [2, 0, 0], [2, 2, 0], [2, 2, 3.9]])),
    "two atoms": Atoms("SiC", [[0, 0, 0], [0, 0, 1.9]]),
    "one atom": Atoms("Si"),
}
every_frame = pytest.mark.parametrize("atoms", FRAMES.values(), ids=FRAMES.keys())


def network(seed: int = 0, calibrate: bool = True, **arguments) -> GemNet:
    """A small network in float64."""
    torch.manual_seed(seed)
    net = GemNet(**SMALL | arguments).double()
    if calibrate:
        with torch.no_grad():
            net.calibrate([graph(net, *FRAMES.values(), dtype=torch.float64)])
    return net


# --- basis functions


def zeros_of_bessel(order: int) -> np.ndarray:
    """By the changes of sign on a grid."""
    grid = np.arange(0.5, 60, 0.05)
    values = spherical_jn(order, grid)
    changes = np.flatnonzero(values[:-1] * values[1:] < 0)
    return np.array([brentq(lambda x: spherical_jn(order, x), *grid[k : k + 2]) for k in changes])[:RADIAL]


def damping(x: np.ndarray) -> np.ndarray:
    """The envelope with p = 5."""
    return np.where(x < 1, 1 - 21 * x**5 + 35 * x**6 - 15 * x**7, 0)


def scipy_basis(distance: np.ndarray, cutoff: float) -> np.ndarray:
    """Radial part of the circular basis with its envelope, (P, L, N)."""
    columns = []
    for order in range(ORDERS):
        z = zeros_of_bessel(order)
        norm = np.sqrt(2 / (cutoff**3 * spherical_jn(order + 1, z) ** 2))
        columns.append(norm * spherical_jn(order, distance[:, None] / cutoff * z))
    return np.stack(columns, axis=1) * damping(distance / cutoff)[:, None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bessel_functions_equal_scipy(dtype):
    cutoff = 4.7
    distance = torch.linspace(0.3, 5.0, 200, dtype=dtype)
    ours = BesselBasis(ORDERS, RADIAL, cutoff)(distance)
    assert ours.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8
    np.testing.assert_allclose(ours, scipy_basis(distance.numpy(), cutoff), atol=tolerance)


def test_the_radial_basis_is_that_of_the_paper():
    cutoff, d = 4.7, np.linspace(0.3, 4.7, 50)
    expected = np.sqrt(2 / cutoff) * np.sin(np.outer(d, np.arange(1, 7)) * np.pi / cutoff)
    expected *= (damping(d / cutoff) / d)[:, None]
    ours = BesselBasis(1, RADIAL, cutoff)(torch.from_numpy(d))[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_bessel_functions_are_orthonormal():
    cutoff = 4.7
    basis = BesselBasis(ORDERS, RADIAL, cutoff)

    def products(d: float) -> np.ndarray:
        x = torch.tensor([d], dtype=torch.float64)
        values = (basis(x) / envelope(x / cutoff)).numpy()[0]  # (L, N)
        return d**2 * np.einsum("ln,lm->lnm", values, values)

    overlap, _ = quad_vec(products, 0.05, cutoff - 1e-6, epsabs=1e-9)
    np.testing.assert_allclose(overlap, np.tile(np.eye(RADIAL), (ORDERS, 1, 1)), atol=1e-3)


def test_zonal_harmonics_equal_scipy_and_are_orthonormal():
    nodes, weights = np.polynomial.legendre.leggauss(20)
    ours = np.stack([y.numpy() for y in zonal_harmonics(torch.from_numpy(nodes), ORDERS)])
    orders = np.arange(ORDERS)[:, None]
    expected = np.sqrt((2 * orders + 1) / (4 * np.pi)) * eval_legendre(orders, nodes)
    np.testing.assert_allclose(ours, expected, atol=1e-14)
    overlap = 2 * np.pi * (ours * weights) @ ours.T
    np.testing.assert_allclose(overlap, np.eye(ORDERS), atol=1e-13)


def test_the_envelope_ends_with_zero_value_slope_and_curvature():
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    value = envelope(x)
    for _ in range(3):
        assert value.abs() < 1e-12
        (value,) = torch.autograd.grad(value, x, create_graph=True)
    assert abs(value) > 1
    np.testing.assert_allclose(envelope(torch.linspace(0, 1, 9)), damping(np.linspace(0, 1, 9)), atol=1e-6)


# --- the network, by loops over triplets


def brute_force_edges(atoms: Atoms, cutoff: float) -> list[tuple[int, int, np.ndarray]]:
    """(a, c, vector from a to c) of every directed edge, periodic images among them."""
    images = [range(-4, 5) if periodic else (0,) for periodic in atoms.pbc]
    edges = []
    for shift in itertools.product(*images):
        for a, c in itertools.product(range(len(atoms)), repeat=2):
            vector = atoms.positions[c] + shift @ atoms.cell.array - atoms.positions[a]
            if 1e-9 < np.linalg.norm(vector) < cutoff:
                edges.append((a, c, vector))
    return edges


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x)) / 0.6


class Reference:
    """GemNet-T from its equations, one edge and one triplet at a time, with the weights of `net`."""

    def __init__(self, net: GemNet, atoms: Atoms) -> None:
        self.weights = {name: value.numpy() for name, value in net.state_dict().items()}
        self.triplet_cutoff, self.numbers = net.triplet_cutoff, atoms.numbers
        self.edges = brute_force_edges(atoms, net.cutoff)
        self.distance = np.array([np.linalg.norm(v) for *_, v in self.edges])
        self.radial = scipy_basis(self.distance, net.cutoff)[:, 0] if self.edges else []
        self.inner = [e for e, d in enumerate(self.distance) if d < self.triplet_cutoff]
        self.reverse = [
            next(
                f
                for f, (c, a, w) in enumerate(self.edges)
                if (c, a) == self.edges[e][1::-1] and np.allclose(w, -self.edges[e][2])
            )
            for e in range(len(self.edges))
        ]

    def dense(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.weights[f"{name}.weight"] @ x

    def residual(self, name: str, x: np.ndarray) -> np.ndarray:
        inner = silu(self.dense(f"{name}.first", x))
        return (x + silu(self.dense(f"{name}.second", inner))) / np.sqrt(2)

    def features(self) -> np.ndarray:
        h = self.weights["embedding.weight"][self.numbers]
        m = [
            silu(self.weights["edge_embedding.weight"] @ np.concatenate([h[c], h[a], rbf]))
            for (a, c, _), rbf in zip(self.edges, self.radial, strict=True)
        ]
        features = self.output("outputs.0", m)
        h, m = self.block("blocks.0", h, m)
        features += self.output("outputs.1", m)
        return features / np.sqrt(2)

    def output(self, name: str, m: list[np.ndarray]) -> np.ndarray:
        update = self.update(f"{name}.update", m, "rbf_out")
        return np.array([self.dense(f"{name}.linear", x) for x in update])

    def update(self, name: str, m: list[np.ndarray], embedding: str) -> np.ndarray:
        rows = []
        for atom in range(len(self.numbers)):
            total = np.zeros(SMALL["edge_features"])
            for e, (a, _, _) in enumerate(self.edges):
                if a == atom:
                    rbf = self.dense(embedding, self.radial[e])
                    total += m[e] * self.dense(f"{name}.rbf", rbf)
            x = silu(self.dense(f"{name}.dense", total * self.weights[f"{name}.scale.factor"]))
            rows.append(self.residual(f"{name}.residual.1", self.residual(f"{name}.residual.0", x)))
        return np.array(rows)

    def block(self, name: str, h: np.ndarray, m: list) -> tuple[np.ndarray, list]:
        from_triplets = self.triplets(f"{name}.triplets", m)
        new = []
        for e in range(len(self.edges)):
            x = (silu(self.dense(f"{name}.skip", m[e])) + from_triplets[e]) / np.sqrt(2)
            x = (m[e] + self.residual(f"{name}.before", x)) / np.sqrt(2)
            new.append(self.residual(f"{name}.after", x))
        h = (h + self.update(f"{name}.update", new, "rbf_atom")) / np.sqrt(2)
        joined = []
        for e, (a, c, _) in enumerate(self.edges):
            x = silu(self.weights[f"{name}.join.weight"] @ np.concatenate([h[c], h[a], new[e]]))
            joined.append((new[e] + self.residual(f"{name}.joined", x)) / np.sqrt(2))
        return h, joined

    def triplets(self, name: str, m: list[np.ndarray]) -> list[np.ndarray]:
        if not self.inner:
            return [np.zeros(SMALL["edge_features"])] * len(self.edges)
        basis = scipy_basis(self.distance, self.triplet_cutoff)  # (E, L, N)
        x = {}
        for b in self.inner:
            rbf = self.dense(f"{name}.rbf", self.dense("rbf_triplet", basis[b, 0]))
            scaled = silu(self.dense(f"{name}.dense", m[b])) * rbf
            scaled *= self.weights[f"{name}.scale_rbf.factor"]
            x[b] = silu(self.dense(f"{name}.down", scaled))
        y = {}
        for c in self.inner:
            total = np.zeros((SMALL["cbf_features"], SMALL["triplet_features"]))
            for b in self.inner:
                if b != c and self.edges[b][0] == self.edges[c][0]:
                    total += np.outer(self.circular(basis[c], c, b), x[b])
            y[c] = self.dense(f"{name}.bilinear", total.ravel())
            y[c] = y[c] * self.weights[f"{name}.scale_sum.factor"]
        updates = [np.zeros(SMALL["edge_features"])] * len(self.edges)
        for e in self.inner:
            there = silu(self.dense(f"{name}.up", y[e]))
            back = silu(self.dense(f"{name}.up_reverse", y[self.reverse[e]]))
            updates[e] = (there + back) / np.sqrt(2)
        return updates

    def circular(self, radial: np.ndarray, c: int, b: int) -> np.ndarray:
        """Embedded circular basis of the triplet c -> a <- b; radial (L, N) of c -> a."""
        cosine = self.edges[c][2] @ self.edges[b][2] / self.distance[c] / self.distance[b]
        orders = np.arange(ORDERS)
        angular = np.sqrt((2 * orders + 1) / (4 * np.pi)) * eval_legendre(orders, cosine)
        return np.einsum("ln,l,lnk->k", radial, angular, self.weights["cbf"])


@every_frame
@pytest.mark.parametrize("triplet_cutoff", [3.8, None], ids=["two cutoffs", "one cutoff"])
def test_a_network_of_one_block_equals_loops_over_triplets(atoms, triplet_cutoff):
    net = network(triplet_cutoff=triplet_cutoff)
    with torch.no_grad():
        ours = net(graph(net, atoms, dtype=torch.float64))
    np.testing.assert_allclose(ours, Reference(net, atoms).features(), rtol=1e-7, atol=1e-9)
    assert len(atoms) == 1 or ours.abs().max() > 0.01


def triplets_of(net: GemNet, atoms: Atoms) -> list[tuple]:
    """(a, vector to c, vector to b) of every triplet that the network sums over."""
    batch = batch_of(net, atoms, dtype=torch.float64)
    _, around = net.surroundings(graph_of(batch))
    pairs = around.layout.place.shape[0] // 2
    target = around.target[:, :pairs] + 1  # 0 fills the tables up
    unit = net_vectors(net, batch)[:pairs]
    both = torch.stack([unit, -unit])
    found = []
    for ends, vectors, cbf in zip(around.layout.spread(target), around.layout.spread(both), around.cbf, strict=True):
        n, k = ends.shape
        there = (cbf.detach().view(n, k, SMALL["cbf_features"], k) != 0).any(dim=2) & (ends > 0).unsqueeze(1)
        for row, c, b in there.nonzero().tolist():
            found.append((ends[row, c].item() - 1, vectors[row, c], vectors[row, b]))
    return found


def net_vectors(net: GemNet, batch) -> torch.Tensor:
    """Vectors of the pairs in the order of `GemNet.surroundings`."""
    vectors = graph_of(batch).vectors
    inner = vectors.norm(dim=-1) < net.triplet_cutoff
    return torch.cat([vectors[inner], vectors[~inner]])


@every_frame
def test_triplets_are_those_of_a_search_over_all_images(atoms):
    net = network(calibrate=False)
    edges = brute_force_edges(atoms, net.triplet_cutoff)
    expected = [
        (a, *c, *b)
        for (k, (a, _, c)), (n, (e, _, b)) in itertools.product(enumerate(edges), repeat=2)
        if a == e and k != n
    ]
    found = [(a, *c.tolist(), *b.tolist()) for a, c, b in triplets_of(net, atoms)]
    assert len(found) == len(expected)
    np.testing.assert_allclose(sorted_rows(found), sorted_rows(expected), atol=1e-6)


def sorted_rows(rows: list[tuple]) -> np.ndarray:
    return np.array(sorted(np.round(row, 6).tolist() for row in rows))


# --- scaling factors, checkpointing, cutoffs


def test_scaling_factors_bring_each_output_to_the_variance_of_its_input():
    net = network(interactions=2)
    seen = []

    def compare(module: ScalingFactor, inputs: tuple, output: torch.Tensor) -> None:
        ratio = variance(output) / variance(inputs[1])
        seen.append((float(ratio), float(module.factor)))

    factors = [module for module in net.modules() if isinstance(module, ScalingFactor)]
    for factor in factors:
        factor.register_forward_hook(compare)
    with torch.no_grad():
        net(graph(net, *FRAMES.values(), dtype=torch.float64))
    assert len(seen) == len(factors) == 3 * 2 + 3  # three a block, one an output
    ratios, values = np.array(seen).T
    np.testing.assert_allclose(ratios, 1, rtol=1e-9)
    assert (np.abs(values - 1) > 1e-3).all()
    assert sum(name.endswith(".factor") for name in net.state_dict()) == len(factors)
    with torch.no_grad():
        before = dict(net.state_dict())
        net(graph(net, FRAMES["carbide"], dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_where_nothing_passes_scaling_factors_stay_1():
    net = network(calibrate=False)
    with torch.no_grad():
        net.calibrate([graph(net, FRAMES["one atom"], FRAMES["two atoms"], dtype=torch.float64)])
    assert net.blocks[0].triplets.scale_sum.factor == 1
    assert all(value.isfinite().all() for value in net.state_dict().values())


def test_calibration_reads_no_more_than_it_needs():
    net = network(calibrate=False)
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield graph(net, bulk("Si", cubic=True) * (4, 4, 4), dtype=torch.float64)

    with torch.no_grad():
        net.calibrate(batches())
    assert len(read) < 5


@pytest.mark.parametrize("name", ["features", "forces"])
def test_checkpointing_changes_nothing(name):
    results = []
    for checkpointing in (False, True):
        net = network(interactions=2, checkpointing=checkpointing)
        batch = batch_of(net, *FRAMES.values(), dtype=torch.float64)
        batch.pos.requires_grad_(name != "features")
        features = net(graph_of(batch))
        features.square().sum().backward()
        gradients = {k: v.grad for k, v in net.named_parameters()}
        results.append((features, gradients, batch.pos.grad))
    (features, gradients, forces), again = results
    assert torch.equal(features, again[0])
    for key, gradient in gradients.items():
        assert gradient is not None, f"{key} takes part in nothing"
        torch.testing.assert_close(again[1][key], gradient, rtol=0, atol=0)
    if name != "features":
        torch.testing.assert_close(again[2], forces, rtol=0, atol=0)


def test_checkpointing_changes_no_step_of_training_on_forces():
    """Of fine-tuning, which derives its loss on forces and stress a second time, for the weights alone."""
    frames = [FRAMES["carbide"], FRAMES["one atom a cell"]]
    rng = torch.Generator().manual_seed(0)
    shapes = {"energy": (2, 1), "forces": (3, 1, 3), "stress": (2, 1, 3, 3)}
    labels = {name: torch.randn(*shape, dtype=torch.float64, generator=rng) for name, shape in shapes.items()}
    results = []
    for checkpointing in (False, True):
        module = FinetuneModule(network(interactions=2, checkpointing=checkpointing), weights=WEIGHTS).double()
        batch = batch_of(module.representation, *frames, dtype=torch.float64)
        batch.update({**labels, "is_dft": torch.tensor([True, True]), "weight": torch.ones(2)})
        loss = module.training_step(batch, 0)["loss"]
        module.backward(loss)
        results.append({"loss": loss.detach()} | {k: v.grad for k, v in module.named_parameters()})
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_weight_has_a_gradient_where_there_is_no_pair(checkpointing):
    # processes of one training would wait for each other's gradients
    net = network(calibrate=False, interactions=2, checkpointing=checkpointing)
    net(graph(net, FRAMES["one atom"], dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("cutoff", ["cutoff", "triplet_cutoff"])
def test_energies_and_forces_are_smooth_where_an_atom_leaves(cutoff):
    net = network(interactions=2)
    crossing = getattr(net, cutoff)

    def slopes(distance: float) -> np.ndarray:
        """Sum of all features, and its first and second derivatives by the distance."""
        x = torch.tensor(distance, dtype=torch.float64, requires_grad=True)
        atoms = Atoms("SiCSi", [[0, 0, 0], [1.4, 1.2, 0], [0, 0, distance]])
        batch = batch_of(net, atoms, dtype=torch.float64)
        batch.pos = batch.pos.index_put((torch.tensor(2), torch.tensor(2)), x)
        values = [net(graph_of(batch)).sum()]
        for _ in range(2):
            values += torch.autograd.grad(values[-1], x, create_graph=True)
        return torch.stack(values).detach().numpy()

    inside, outside = slopes(crossing - 1e-7), slopes(crossing + 1e-7)
    largest = np.abs([slopes(d) for d in np.linspace(0.5, 0.95, 10) * crossing]).max(axis=0)
    assert (largest > 1e-2).all()
    np.testing.assert_array_less(np.abs(inside - outside) / largest, 1e-5)


def test_no_triplet_cutoff_is_the_cutoff():
    features = []
    for value in (None, 4.5, 9.0):
        net = network(triplet_cutoff=value, calibrate=False)
        features.append(net(graph(net, FRAMES["carbide"], dtype=torch.float64)))
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])


def test_a_cap_keeps_the_nearest_neighbours_of_both_atoms():
    atoms = rattled(bulk("Al", cubic=True) * (2, 2, 2))
    vectors = net_vectors(net := network(cutoff=5.0, triplet_cutoff=5.0), batch := batch_of(net, atoms))
    distance = vectors.norm(dim=-1)
    kept = among_nearest(batch.edge_index, distance, len(atoms), 10)
    assert 0 < kept.sum() < len(kept)
    degree = torch.bincount(batch.edge_index[:, kept].flatten(), minlength=len(atoms))
    assert degree.max() <= 10
    for atom in range(len(atoms)):
        ends = (batch.edge_index == atom).any(dim=0)
        nearest = distance[ends].sort().values[9]
        assert (distance[ends & kept] <= nearest * 1.001).all()


def test_a_cap_takes_a_shell_of_equal_distances_whole():
    atoms = bulk("Al") * (2, 2, 2)  # 12 nearest neighbours
    full = network(triplet_cutoff=3.5, calibrate=False)
    for number in (2, 11, 12):
        capped = network(max_neighbours=number, triplet_cutoff=3.5, calibrate=False)
        with torch.no_grad():
            given = graph(full, atoms, dtype=torch.float64)
            torch.testing.assert_close(capped(given), full(given))


def test_a_cap_does_not_depend_on_the_order_of_atoms():
    atoms = rattled(bulk("Al", cubic=True) * (2, 2, 2))
    net = network(max_neighbours=5)
    order = np.random.default_rng(0).permutation(len(atoms))
    with torch.no_grad():
        one, other = (net(graph(net, a, dtype=torch.float64)) for a in (atoms, atoms[order]))
        uncapped = network()(graph(net, atoms, dtype=torch.float64))
    torch.testing.assert_close(other, one[order], rtol=0, atol=1e-9)
    assert (one - uncapped).abs().max() > 1e-3


@pytest.mark.parametrize(("setting", "value"), [("triplet_cutoff", 0.0), ("max_neighbours", 1), ("radial", 1)])
def test_settings_without_triplets_are_refused(setting, value):
    with pytest.raises(InputError, match=f"{setting} must be"):
        GemNet(**{setting: value})
