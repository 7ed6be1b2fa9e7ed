"""What the members of a committee say of many structures, in batches."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from ase.stress import voigt_6_to_full_3x3_stress

from eipnn.eips.in_cell import InCell
from eipnn.errors import InputError
from eipnn.inputs import AtomicGraph
from eipnn.potential import Committee, Potential
from eipnn.potential.potential import check_device
from eipnn.progress import progress_bar
from eipnn.structures import StructureStore

ATOMS = 1000
"""Of a batch, where not more is asked for: a few GiB of the largest networks."""


class Predictions(NamedTuple):
    """What each of m members says of n structures with N atoms, that of the EIP of delta learning in it."""

    energy: np.ndarray
    """(m, n), eV, on the zero of the DFT data."""
    forces: np.ndarray
    """(m, N, 3), eV/A."""
    stress: np.ndarray
    """(m, n, 3, 3), eV/A^3, positive under tension; NaN where an axis is open, or the EIP knows none."""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of several members, or committees, as of one."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def mean(self) -> dict[str, np.ndarray]:
        """``energy`` (n,), ``forces`` (N, 3) and ``stress`` (n, 3, 3)."""
        return {name: values.mean(axis=0) for name, values in self._asdict().items()}


def predict(
    committee: Committee,
    structures: StructureStore,
    device: str = "cpu",
    dtype: str = "float32",
    batch_atoms: int = ATOMS,
    shown: bool = True,
) -> Predictions:
    """Energies, forces and stress by each member.

    Args:
        committee: is left on that device, in that precision.
        structures: at least one.
        device: of torch.
        dtype: precision of the networks, float32 or float64.
        batch_atoms: atoms of a batch; a larger structure is a batch of its own.
        shown: whether there is a progress bar.

    Raises:
        InputError: an element that the training data did not hold, a GPU that is not there, NaN from a network, an EIP
            of delta learning that cannot be made or fails; of a structure the message names file and frame.
    """
    check_device(device)
    check_elements(committee.elements, structures)
    eip = committee.eip()
    for potential in committee.potentials:
        potential.to(device=device, dtype=getattr(torch, dtype)).requires_grad_(False)
    parts = []
    with progress_bar("evaluate", len(structures), "frames", shown) as advance:
        for rows in batches(structures.sizes, batch_atoms):
            parts.append(_of_batch(committee, eip, structures, rows))
            advance(len(rows))
    return Predictions(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


def check_elements(elements: Sequence[str], structures: StructureStore, among: np.ndarray | None = None) -> None:
    """Raise `InputError` where a structure, one of these rows if they are given, holds another element; the message
    names file and frame."""
    strange = ~np.isin(structures.numbers, [atomic_numbers[symbol] for symbol in elements])
    if among is not None:
        taken = np.zeros(len(structures), dtype=bool)
        taken[among] = True
        strange &= np.repeat(taken, structures.sizes)
    if strange.any():
        atom = int(strange.argmax())
        place = structures.place(int(np.searchsorted(structures.offsets, atom, side="right")) - 1)
        stranger = chemical_symbols[structures.numbers[atom]]
        raise InputError(f"{place}: the potential was trained on {', '.join(elements)}, not on {stranger}")


def batches(sizes: np.ndarray, atoms: int) -> Iterator[range]:
    """Rows of structures (n,), in order, with so many atoms together at most, or one alone."""
    first, filled = 0, 0
    for row, size in enumerate(sizes.tolist()):
        if row > first and filled + size > atoms:
            yield range(first, row)
            first, filled = row, 0
        filled += size
    yield range(first, len(sizes))


def _of_batch(committee: Committee, eip: InCell | None, structures: StructureStore, rows: range) -> Predictions:
    frames = [structures[row] for row in rows]
    members = zip(committee.potentials, committee.graphs(frames), strict=True)
    joined = Predictions.joined([_of_member(potential, graph, frames) for potential, graph in members])
    _check_finite(joined, structures, rows)
    if eip is None:
        return joined
    added = _of_eip(eip, frames, structures, rows)
    return Predictions(*(values + more for values, more in zip(joined, added, strict=True)))


def _of_member(potential: Potential, graph: AtomicGraph, frames: Sequence[Atoms]) -> Predictions:
    said = potential.predict(graph, ("forces", "stress"))
    assert said.forces is not None
    assert said.stress is not None
    zero = np.array([potential.eip_zero(atoms.symbols) for atoms in frames])
    energy, forces, stress = (values.double().cpu().numpy() for values in (said.energy, said.forces, said.stress))
    periodic = np.array([atoms.pbc.all() for atoms in frames])[:, None, None]
    return Predictions((energy - zero)[None], forces[None], np.where(periodic, stress, np.nan)[None])


def _check_finite(found: Predictions, structures: StructureStore, rows: range) -> None:
    energies = np.isfinite(found.energy).all(axis=0)
    forces = np.isfinite(found.forces).all(axis=(0, 2))
    frames = np.repeat(np.arange(len(rows)), structures.sizes[rows.start : rows.stop])
    energies[frames[~forces]] = False
    if not energies.all():
        place = structures.place(rows[int(np.argmin(energies))])
        raise InputError(f"{place}: the potential gives NaN or infinite values; did its training diverge?")


def _of_eip(eip: InCell, frames: Sequence[Atoms], structures: StructureStore, rows: range) -> Predictions:
    """The same of an EIP, as one member."""
    results = []
    for row, atoms in zip(rows, frames, strict=True):
        try:
            eip.calculate(atoms, ["stress"])
        except Exception as error:  # each potential has its own kinds
            raise InputError(f"{structures.place(row)}: the EIP under the potential fails: {error}") from error
        results.append({"stress": np.full(6, np.nan)} | eip.results)
    energy = np.array([found["energy"] for found in results])
    stress = np.array([voigt_6_to_full_3x3_stress(found["stress"]) for found in results])
    return Predictions(energy[None], np.concatenate([found["forces"] for found in results])[None], stress[None])
