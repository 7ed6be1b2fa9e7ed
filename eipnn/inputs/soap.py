"""Smooth overlap of atomic positions (SOAP; Bartok, Kondor & Csanyi, Phys. Rev. B 87, 184115, 2013)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers
from ase.geometry import complete_cell as with_full_rank
from torch import Tensor
from torch_geometric.data import Data

from eipnn.errors import InputError
from eipnn.inputs.base import AtomicGraph, Inputs
from eipnn.inputs.graph import Graph
from eipnn.neighbours import complete_cell

if TYPE_CHECKING:
    from dscribe.descriptors import SOAP


@dataclass(frozen=True)
class Soap(Inputs):
    """The SOAP power spectrum of every atom, from dscribe, beside the neighbour graph.

    Adds to the fields of `Graph`:

    ======== ====== ===== ==========================================================
    field    shape  dtype what
    ======== ====== ===== ==========================================================
    features (N, F) float power spectrum in dscribe's order; `power_spectrum` is the
                          same in torch, with gradients
    ======== ====== ===== ==========================================================

    The radial basis is dscribe's orthonormalised Gaussian-type orbitals (``rbf="gto"``). A neighbour counts with the
    weight ``1 - 3 (r/cutoff)^2 + 2 (r/cutoff)^3``, which ends with zero slope, so that energies and forces are
    continuous. With ``smooth=False``, dscribe's form without weights and likely the paper's, every atom counts fully
    out to `reach`, the cutoff and 3.7 sigma, and there drops out with a step.

    Args:
        elements: symbols of all elements that may occur.
        cutoff: in A, more than 1; dscribe's ``r_cut``.
        n_max: number of radial functions.
        l_max: highest degree of the spherical harmonics.
        sigma: width in A of the Gaussian that stands for an atom. dscribe's default is 1.
        smooth: whether neighbours fade out towards the cutoff.
    """

    elements: tuple[str, ...]
    cutoff: float
    n_max: int = 8
    l_max: int = 6
    sigma: float = 0.5
    smooth: bool = True

    costly: ClassVar[bool] = True

    def __call__(self, atoms: Atoms, dtype: torch.dtype = torch.float32) -> Data:
        if strangers := set(atoms.symbols) - set(self.elements):
            raise InputError(
                f"{atoms.info.get('config_id', atoms.symbols)}: holds {min(strangers)}, but the SOAP features are "
                f"for {', '.join(self.elements)}: name every element in the representation's `elements`"
            )
        data = Graph(self.reach)(atoms, dtype)
        features = self.descriptor.create_single(_for_dscribe(atoms))
        data.features = torch.as_tensor(features, dtype=dtype)
        return data

    def key(self) -> str:
        return f"soap-v2 {self!r}"

    @property
    def descriptor(self) -> SOAP:
        """dscribe's object with these settings."""
        return _descriptor(self)

    @property
    def dim(self) -> int:
        """Number of features F."""
        functions = len(set(self.elements)) * self.n_max
        return functions * (functions + 1) // 2 * (self.l_max + 1)

    @property
    def reach(self) -> float:
        """Radius in A beyond which an atom is not seen."""
        return self.cutoff if self.smooth else self.cutoff + self.descriptor.get_cutoff_padding()


@lru_cache
def _descriptor(soap: Soap) -> SOAP:
    from dscribe.descriptors import SOAP  # takes seconds: it brings numba

    weighting = {"function": "poly", "r0": soap.cutoff, "c": 1.0, "m": 1.0}
    try:
        return SOAP(
            species=sorted(set(soap.elements)),
            r_cut=soap.cutoff,
            n_max=soap.n_max,
            l_max=soap.l_max,
            sigma=soap.sigma,
            weighting=weighting if soap.smooth else None,
            periodic=True,  # along the axes of atoms.pbc
        )
    except ValueError as error:
        raise InputError(f"{soap}: dscribe cannot make such features: {error}") from error


def _for_dscribe(atoms: Atoms) -> Atoms:
    """The atoms wrapped into their cell, as dscribe counts images from the home cell, and with a full cell."""
    cell = with_full_rank(complete_cell(atoms))
    wrapped = Atoms(atoms.numbers, atoms.positions, cell=cell, pbc=atoms.pbc)
    wrapped.wrap()
    return wrapped


def power_spectrum(graph: AtomicGraph, soap: Soap) -> Tensor:
    """The features of dscribe (N, F), differentiable in the vectors.

    A neighbour's Gaussian has the closed-form overlap ``pi^1.5 b_nl(r) r^l Y_lm`` with a Gaussian-type orbital (Himanen
    et al., Comput. Phys. Commun. 247, 106949, 2020), summed over neighbours of an element into the coefficients
    ``c_znlm``; the features are ``pi sqrt(8 / (2l + 1)) sum_m c_znlm c_z'n'lm``. In float64 throughout, as the
    orthonormalised orbitals are sums of large terms of both signs; the result has the dtype of the vectors.

    Args:
        graph: its `features` are not read.
        soap: the settings that made them.
    """
    numbers = sorted(atomic_numbers[symbol] for symbol in set(soap.elements))
    species = torch.searchsorted(torch.tensor(numbers, device=graph.z.device), graph.z)  # (N,)
    exponents, mixing = (torch.from_numpy(a).to(graph.z.device) for a in _orbitals(soap))
    i, j = graph.edge_index
    vectors = graph.vectors.double()  # (P, 3)
    square = vectors.square().sum(dim=-1)  # (P,)
    weight = _fade(square, soap.cutoff) if soap.smooth else (square <= soap.reach**2).double()
    harmonics = solid_harmonics(vectors, square, soap.l_max)
    size = graph.z.shape[0] * len(numbers)  # shape[0]: torch.export takes len() for a constant
    coefficients = []
    for degree, exponent in enumerate(exponents):  # (n_max,)
        radial = weight.unsqueeze(-1) * torch.exp(-exponent * square.unsqueeze(-1))  # (P, n_max)
        overlap = radial.unsqueeze(-1) * harmonics[degree].unsqueeze(-2)  # (P, n_max, 2l + 1)
        summed = overlap.new_zeros(size, *overlap.shape[1:])
        summed = summed.index_add(0, i * len(numbers) + species[j], overlap)
        # from j, the neighbour i lies in the opposite direction
        summed = summed.index_add(0, j * len(numbers) + species[i], (-1) ** degree * overlap)
        if degree == 0:  # the atom itself, at r = 0
            own = torch.arange(species.shape[0], device=species.device) * len(numbers) + species
            summed = summed.index_add(0, own, summed.new_full((own.shape[0], soap.n_max, 1), Y_00))
        mixed = torch.einsum("nk,akm->anm", mixing[degree], summed)
        coefficients.append(mixed.view(species.shape[0], len(numbers), soap.n_max, -1))
    return _spectrum(coefficients).to(graph.vectors.dtype)


Y_00 = math.sqrt(1 / (4 * math.pi))


def _spectrum(coefficients: list[Tensor]) -> Tensor:
    """Coefficients (N, S, n_max, 2l + 1) of each l -> power spectrum (N, F).

    Order of dscribe: pairs of elements z <= z', within them l, within them n, n'; n <= n' where z = z'.
    """
    _, species, n_max, _ = coefficients[0].shape
    first, second = torch.triu_indices(n_max, n_max, device=coefficients[0].device)
    blocks = []
    for z, other in combinations_with_replacement(range(species), 2):
        for degree, c in enumerate(coefficients):
            product = math.pi * math.sqrt(8 / (2 * degree + 1)) * c[:, z] @ c[:, other].transpose(1, 2)
            blocks.append(product[:, first, second] if z == other else product.flatten(1))  # (N, n_max, n_max)
    return torch.cat(blocks, dim=1)


@lru_cache
def _orbitals(soap: Soap) -> tuple[np.ndarray, np.ndarray]:
    """Exponents (l_max + 1, n_max) and mixing (l_max + 1, n_max, n_max) of the overlaps, float64.

    ``b_nl(r) = sum_k mixing_lnk exp(-exponent_lk r^2)``: dscribe's orbitals, each ``sum_k beta_lnk r^l
    exp(-alpha_lk r^2)``, convolved with the Gaussian ``exp(-eta r^2)`` of an atom.
    """
    alphas, betas = soap.descriptor.get_basis_gto(soap.cutoff, soap.n_max, soap.l_max)
    eta = 1 / (2 * soap.sigma**2)
    shrink = 1 / (1 + alphas / eta)  # (L, n_max)
    power = np.arange(soap.l_max + 1)[:, None] + 1.5
    norm = (math.pi / eta) ** 1.5 * shrink**power
    return alphas * shrink, betas * norm[:, None, :]


def _fade(square: Tensor, cutoff: float) -> Tensor:
    """``1 - 3 x^2 + 2 x^3`` of x = r / cutoff up to 1, then 0; from r^2: dscribe's ``poly`` weighting with m = 1."""
    ratio = (square / cutoff**2).clamp(max=1)
    return 1 - 3 * ratio + 2 * ratio.pow(1.5)


def solid_harmonics(vectors: Tensor, square: Tensor, l_max: int) -> list[Tensor]:
    """Real solid harmonics ``r^l Y_lm`` (P, 2l + 1) of l = 0 ... l_max, m = -l ... l, orthonormal on the sphere.

    By recursion, polynomials in x, y, z throughout: smooth at r = 0 and on the z axis.

    Args:
        vectors: (P, 3).
        square: their squared lengths (P,).
    """
    x, y, z = vectors.unbind(-1)
    zero, one = torch.zeros_like(z), torch.ones_like(z)
    cosine, sine = one, zero  # of m phi, times sin(theta)^m r^m
    columns: list[dict[int, Tensor]] = [{} for _ in range(l_max + 1)]
    for m in range(l_max + 1):
        before, legendre = zero, one  # of degree l - 1 and l, over (2m - 1)!!
        for degree in range(m, l_max + 1):
            scaled = _harmonic_norm(degree, m) * legendre
            columns[degree] |= {m: scaled * cosine} if m == 0 else {m: scaled * cosine, -m: scaled * sine}
            following = ((2 * degree + 1) * z * legendre - (degree + m) * square * before) / (degree + 1 - m)
            before, legendre = legendre, following
        cosine, sine = x * cosine - y * sine, x * sine + y * cosine
    return [torch.stack([column[m] for m in sorted(column)], dim=-1) for column in columns]


def _harmonic_norm(degree: int, m: int) -> float:
    """Of the harmonics above: that of Y_lm times (2m - 1)!!, which their recursion leaves out."""
    double_factorial = math.prod(range(1, 2 * m, 2))
    ratio = math.factorial(degree - m) / math.factorial(degree + m)
    return double_factorial * math.sqrt((2 * degree + 1) / ((2 if m else 4) * math.pi) * ratio)
