"""What is to be seen of labelled structures, in numbers."""

from collections import Counter
from functools import cached_property
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from ase.formula import Formula
from ase.units import GPa

from eipnn.generate.distance import RADII, distances
from eipnn.reference import fit_composition
from eipnn.structures import StructureStore


class Distances(NamedTuple):
    """The shortest distance of each pair of elements in each structure that has one, (m,) each."""

    rows: np.ndarray
    first: np.ndarray
    second: np.ndarray
    """Atomic numbers, first <= second."""
    lengths: np.ndarray
    """A."""


class Survey:
    """Numbers of n structures with N atoms; what is not known is NaN.

    Args:
        store: the structures, free atoms included.
    """

    def __init__(self, store: StructureStore) -> None:
        self.store, self.labelled = store, store.labelled()
        self.periodic = store.pbc.all(axis=1)
        self.volumes = np.where(self.periodic, np.abs(np.linalg.det(store.cells)), np.nan)
        """(n,), A^3."""

    @cached_property
    def left(self) -> np.ndarray:
        """What a fit of one energy an element leaves of the energies, (n,), eV/atom; NaN for free atoms."""
        rows = np.flatnonzero(self.labelled["energies"] & ~self.store.isolated)
        left = np.full(len(self.store), np.nan)
        if len(rows):
            counts = self.store.composition()[1][rows]
            left[rows] = fit_composition(counts, self.store.energies[rows]).left / self.store.sizes[rows]
        return left

    @cached_property
    def forces(self) -> np.ndarray:
        """Their lengths (N,), eV/A."""
        return np.linalg.norm(self.store.forces, axis=1)

    @cached_property
    def largest(self) -> dict[str, np.ndarray]:
        """The longest force (eV/A) and the largest component of the stress (eV/A^3) of each structure, (n,)."""
        force = np.maximum.reduceat(self.forces, self.store.offsets[:-1])
        return {"force": force, "stress": np.abs(self.store.stresses).max(axis=(1, 2))}

    @cached_property
    def tension(self) -> np.ndarray:
        """The mean normal stress (n,), GPa: positive under tension."""
        return np.trace(self.store.stresses, axis1=1, axis2=2) / 3 / GPa

    @cached_property
    def shear(self) -> np.ndarray:
        """The stress off its diagonal (n, 3), GPa."""
        return self.store.stresses[:, [1, 0, 0], [2, 2, 1]] / GPa

    @cached_property
    def distances(self) -> Distances:
        """Those of `Distances`, of atoms that can be neighbours."""
        found = [distances(atoms) for atoms in self.store]
        rows = np.repeat(np.arange(len(found)), [len(lengths) for _, _, lengths in found])
        first, second, lengths = (np.concatenate(part) for part in zip(*found, strict=True))
        first, second = np.minimum(first, second).astype(np.int64), np.maximum(first, second).astype(np.int64)
        keys = (rows * len(RADII) + first) * len(RADII) + second
        order = np.lexsort((lengths, keys))
        places = order[np.unique(keys[order], return_index=True)[1]]
        return Distances(rows[places], first[places], second[places], lengths[places])

    @cached_property
    def closest_share(self) -> np.ndarray:
        """The shortest distance in each structure over the sum of the covalent radii (n,), inf without neighbours."""
        d, shares = self.distances, np.full(len(self.store), np.inf)
        np.minimum.at(shares, d.rows, d.lengths / RADII[d.first, d.second])
        return shares

    def formulas(self) -> dict[str, int]:
        """Reduced formula -> how many frames have it, the most frequent one first."""
        numbers, counts = self.store.composition()
        symbols = [chemical_symbols[z] for z in numbers]
        reduced = counts // np.gcd.reduce(counts, axis=1)[:, None]
        kinds, times = np.unique(reduced, axis=0, return_counts=True)
        order = np.argsort(-times, kind="stable").tolist()
        present = [{s: n for s, n in zip(symbols, kinds[k].tolist(), strict=True) if n} for k in order]
        return {Formula.from_dict(c).format("metal"): int(times[k]) for k, c in zip(order, present, strict=True)}

    def of_elements(self) -> list[dict[str, object]]:
        """A line for each set of elements: frames, sizes, periodic axes, and how many frames have which label."""
        sets = np.array(self.store.element_sets(), dtype=object)
        return [self._line(name, np.flatnonzero(sets == name)) for name in sorted(set(sets))]

    def _line(self, name: str, rows: np.ndarray) -> dict[str, object]:
        sizes, axes = self.store.sizes[rows], Counter(self.store.pbc[rows].sum(axis=1).tolist())
        return {
            "elements": name,
            "frames": len(rows),
            "atoms": str(sizes.min()) if np.ptp(sizes) == 0 else f"{sizes.min()} to {sizes.max()}",
            "periodic axes": ", ".join(f"{n}: {axes[n]}" for n in sorted(axes, reverse=True)),
        } | {label: int(known[rows].sum()) for label, known in self.labelled.items()}

    def ranges(self) -> list[dict[str, object]]:
        """A line for each quantity that is known of some structures: how many, and quantiles."""
        energies = self.store.energies / self.store.sizes
        quantities = {
            "energy (eV/atom)": energies,
            "less a fit (eV/atom)": self.left,
            "force (eV/A)": self.forces,
            "normal stress (GPa)": self.tension,
            "shear stress (GPa)": self.shear.ravel(),
            "volume (A^3/atom)": self.volumes / self.store.sizes,
        }
        known = {name: values[np.isfinite(values)] for name, values in quantities.items()}
        cuts = {"lowest": 0, "5 %": 5, "median": 50, "95 %": 95, "highest": 100}
        return [
            {"": name, "known": len(values)} | {cut: float(np.percentile(values, q)) for cut, q in cuts.items()}
            for name, values in known.items()
            if len(values)
        ]

    def closest(self) -> list[dict[str, object]]:
        """A line for each pair of elements, the closest one first: the shortest distance, and the frame that has it."""
        d = self.distances
        lines = []
        for first, second in sorted(set(zip(d.first.tolist(), d.second.tolist(), strict=True))):
            places = np.flatnonzero((d.first == first) & (d.second == second))
            place = places[np.argmin(d.lengths[places])]
            lines.append(
                {
                    "pair": f"{chemical_symbols[first]}-{chemical_symbols[second]}",
                    "shortest\n(A)": float(d.lengths[place]),
                    "of covalent\nradii": float(d.lengths[place] / RADII[first, second]),
                    "median\n(A)": float(np.median(d.lengths[places])),
                    "frame": self.store.ids[d.rows[place]],
                }
            )
        return sorted(lines, key=lambda line: line["of covalent\nradii"])
