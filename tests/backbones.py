"""Every representation at a tiny size, and structures of all kinds, for the contract tests.

The contract is tests/test_physics.py and tests/test_contract.py. A class of your own takes it by

    EIPNN_REPRESENTATION=my_backbone.MyNet pytest tests/test_physics.py tests/test_contract.py
"""

import importlib
import inspect
import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from torch_geometric.data import Batch

import eipnn.representations
from eipnn import FinetuneModule
from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph, Graph, graph_of
from eipnn.potential import Potential
from eipnn.potential.potential import derivatives
from eipnn.reference import Reference
from eipnn.representations import Representation

CUTOFF = 4.5  # more than the default of a triplet cutoff, so that both count
ELEMENTS = ["C", "Si"]


def find_backbones() -> list[type[Representation]]:
    """The class that ``EIPNN_REPRESENTATION`` names, or all that `eipnn.representations` holds."""
    if name := os.environ.get("EIPNN_REPRESENTATION"):
        module, _, cls = name.rpartition(".")
        return [getattr(importlib.import_module(module), cls)]
    return [
        cls
        for cls in vars(eipnn.representations).values()
        if isinstance(cls, type) and issubclass(cls, Representation) and not inspect.isabstract(cls)
    ]


BACKBONES = find_backbones()


LARGEST = {"interactions": 2, "convolutions": 2, "layers": 2, "n_max": 4, "l_max": 3}
"""Of what costs time by its number: a second block takes what a first one gave, and so do further ones."""


def arguments(cls: type[Representation], elements: list[str], cutoff: float = CUTOFF) -> dict:
    """Arguments of a quick instance: every whole number of the defaults cut to at most `LARGEST`, or 8."""
    parameters = inspect.signature(cls).parameters.values()
    sizes = {p.name: min(p.default, LARGEST.get(p.name, 8)) for p in parameters if type(p.default) is int}
    known = {"elements": list(elements)} if "elements" in (p.name for p in parameters) else {}
    return {**known, **sizes, "cutoff": cutoff}


def small(cls: type[Representation]) -> Representation:
    """A quick instance."""
    torch.manual_seed(0)
    return build(cls, **arguments(cls, ELEMENTS))


def build(make: Callable[..., Representation], *args, **kwargs) -> Representation:
    """What `make` returns; where the representation's library is not installed the test is skipped."""
    try:
        return make(*args, **kwargs)
    except InputError as error:
        if isinstance(error.__cause__, ModuleNotFoundError):
            pytest.skip(str(error))
        raise


def calibrated(cls: type[Representation]) -> Representation:
    """A quick instance that knows its training configurations."""
    net = small(cls)
    with torch.no_grad():
        net.calibrate([graph(net, *CRYSTALS), graph(net, FRAMES["molecule"], FRAMES["wire"])])
    return net


def make_potential(cls: type[Representation]) -> FinetuneModule:
    """An untrained potential whose energies vary by about 1 eV an atom."""
    module = FinetuneModule(calibrated(cls)).eval()
    net = module.representation
    with torch.no_grad():
        spread = module.head.mlp(net(graph(net, *FRAMES.values()))).std()
    module.head.set_scale([(1 / spread).item()], [Reference("least_squares", {"Si": -2.0, "C": 1.5})])
    module.elements = list(ELEMENTS)
    module.zeros = {"dft": {"mode": "isolated_atoms", "energies": {"C": -10.25, "Si": -100.5}}}
    return module


def batch_of(net: Representation, *frames: Atoms, dtype: torch.dtype = torch.float32) -> Batch:
    return Batch.from_data_list([net.inputs(atoms, dtype) for atoms in frames])


def graph(net: Representation, *frames: Atoms, dtype: torch.dtype = torch.float32) -> AtomicGraph:
    """What a representation is given of the frames."""
    return graph_of(batch_of(net, *frames, dtype=dtype))


def energy_forces_virial(
    potential: FinetuneModule | Potential, batch: Batch, virial: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Energies (B,) in eV on the aligned zero, forces (N, 3) in eV/A and, if asked for, virials (B, 3, 3) in eV."""
    made = potential if isinstance(potential, Potential) else potential.potential
    found = made.predict(graph_of(batch), ("forces", "stress"), cohesive=True)
    moving = graph_of(batch)
    moving = moving._replace(vectors=moving.vectors.requires_grad_(), features=None)
    with torch.enable_grad():
        forces, virials = derivatives(made(moving).sum(), moving)
    torch.testing.assert_close(forces, found.forces, rtol=0, atol=0)
    return found.energy, forces, virials if virial else None


def with_skin(net: Representation, *frames: Atoms) -> Batch:
    """The batch with the pairs up to 1 A beyond the cutoff too, as simulation codes list them."""
    exact = batch_of(net, *frames, dtype=torch.float64)
    lists = Batch.from_data_list([Graph(net.cutoff + 1)(a, torch.float64) for a in frames])
    assert lists.edge_index.shape[1] > exact.edge_index.shape[1]
    exact.edge_index, exact.edge_shift = lists.edge_index, lists.edge_shift
    return exact


def energies(potential: FinetuneModule | Potential, *frames: Atoms) -> np.ndarray:
    """Energies (B,) in eV of the frames in one batch, in float64, on the aligned zero."""
    made = potential if isinstance(potential, Potential) else potential.potential
    with torch.no_grad():
        given = graph(made.representation, *frames, dtype=torch.float64)
        return made.predict(given, cohesive=True).energy.numpy()


def rattled(atoms: Atoms, seed: int = 0) -> Atoms:
    atoms.rattle(0.15, seed=seed)
    return atoms


def carbide(**kwargs) -> Atoms:
    return rattled(bulk("SiC", "zincblende", a=4.36, **kwargs))


def sheared() -> Atoms:
    """A skewed cell with atoms several cells away from their images."""
    atoms = carbide(cubic=True)
    atoms.set_cell(atoms.cell @ [[1, 0.4, -0.3], [0, 1, 0.7], [0, 0.1, 1.1]], scale_atoms=True)
    atoms.positions += np.random.default_rng(1).integers(-3, 4, (len(atoms), 3)) @ atoms.cell
    return atoms


def slab() -> Atoms:
    atoms = carbide(cubic=True)
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    return atoms


def wire() -> Atoms:
    atoms = carbide(cubic=True)
    atoms.pbc = (False, True, False)  # the cell vectors of the open axes stay: they mean nothing
    return atoms


FRAMES = {
    "crystal": carbide(),
    "cubic": carbide(cubic=True),
    "sheared, outside its cell": sheared(),
    "one atom a cell": bulk("Si", "fcc", a=3.9),
    "cell smaller than the cutoff": Atoms("Si", cell=np.diag([2.1, 2.3, 9.0]), pbc=True),
    "one atom a skewed slab cell": Atoms(
        "C", cell=[[2.6, 0.2, 0], [0.9, 2.4, 0.3], [0, 0, 0]], pbc=(True, True, False)
    ),
    "slab": slab(),
    "wire": wire(),
    "molecule": Atoms("SiC2Si", rattled(bulk("Si", "diamond", 5.4, cubic=True)).positions[:4]),
    "single atom": Atoms("C"),
}
"""Tests copy what they change."""
CRYSTALS = [FRAMES[name] for name in ("crystal", "cubic", "one atom a cell")]
every_frame = pytest.mark.parametrize("atoms", FRAMES.values(), ids=FRAMES.keys())
