"""How each EIP stands against DFT frames, once both share an energy zero.

"Config MAE" is the mean of |E_EIP - E_DFT| in eV, "atom MAE" that of |E_EIP - E_DFT| / n_atoms in eV/atom, as in Shui
et al. (arXiv 2210.08047). "Force MAE" and "stress MAE" are means over the components that both have.

A constant factor teaches a network as little wrong as a constant offset does: where asked for, both are taken off
before a source is judged (Cui, Reuter and Margraf, Mach. Learn.: Sci. Technol. 6, 015071).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from ase.units import GPa

from eipnn.files import write_atomically
from eipnn.labels.layout import LabelError
from eipnn.labels.store import LabelStore
from eipnn.metrics import METRICS
from eipnn.reference import fit_composition, fit_reference
from eipnn.structures import Split, StructureStore

log = logging.getLogger("eipnn")

FAR = 0.5
"""eV/atom. Where zeros agree, half of the frames have an EIP far closer to DFT than this: on `si_mini` the median
frame's best EIP is 0.07 eV/atom away, and a single poor EIP 0.6. Zeros that do not agree put every EIP off by 0.8
eV/atom or more (spin-paired reference atoms: 0.87 on `si_mini`; other codes' totals: hundreds). The classifier accepts
EIPs within 0.1 eV/atom, so beyond five times that there is nothing to learn from."""

EVERYTHING = "all"


class Comparison(NamedTuple):
    """Aligned DFT and EIP energies of n frames, and errors of the EIPs' forces and stress."""

    ids: tuple[str, ...]
    elements: tuple[str, ...]  # the elements of each frame, sorted and joined as in "Ag-Au"
    n_atoms: np.ndarray  # (n,)
    dft: np.ndarray  # (n,) eV
    eips: tuple[str, ...]
    labels: np.ndarray  # (n, n_eips) eV, NaN where a label is missing
    forces: np.ndarray  # (n, n_eips) eV/A, mean of |F_EIP - F_DFT| over components, NaN where either is missing
    stress: np.ndarray  # (n, n_eips) GPa, likewise
    scale: np.ndarray | None = None  # (n_eips,), by what all that an EIP says was multiplied


class Standing(NamedTuple):
    """One line of the leaderboard: one EIP on the frames of one part with one set of elements."""

    eip: str
    elements: str
    part: str
    frames: int
    missing: int
    config_mae: float  # eV
    atom_mae: float  # eV/atom
    force_mae: float  # eV/A, of frames where both have forces; NaN where there are none
    stress_mae: float  # GPa, likewise
    offset: float  # eV/atom, mean of (E_EIP - E_DFT) / n_atoms
    correlation: float  # Pearson's, of energies per atom
    best_share: float  # share of frames on which no other EIP is closer to DFT in energy
    scale: float = 1.0  # by what energies, forces and stress were multiplied before


HEADINGS = {metric.name: metric.heading for metric in METRICS} | {
    "eip": "EIP",
    "missing": "failed",
    "offset": "offset (meV/atom)",
    "correlation": "corr.",
    "best_share": "best",
}
"""Of the fields of a `Standing` that have other names for people."""
TEXTS: dict[str, Callable[[float], str]] = {metric.name: metric.text for metric in METRICS} | {
    "offset": lambda value: f"{1000 * value:+.1f}",
    "correlation": "{:.3f}".format,
    "best_share": "{:.0%}".format,
    "scale": "{:.3f}".format,
}
"""And how these read."""


class BestEIP(NamedTuple):
    """The EIP with the lowest config MAE on train + validation, and its errors on what is tested on."""

    eip: str
    chosen_config_mae: float  # eV, on train + validation
    config_mae: float  # eV, on `part`
    atom_mae: float  # eV/atom, on `part`
    force_mae: float  # eV/A, on `part`; NaN where none is known
    stress_mae: float  # GPa, likewise
    frames: int  # of `part` that have its label
    part: str = "test"  # or validation, see `Split.tested`


def compare(
    structures: Sequence[Atoms],
    store: LabelStore,
    energy_zero: str = "none",
    isolated: Mapping[str, float] | None = None,
    eip_zero: str | None = None,
    eip_isolated: Mapping[str, float] | None = None,
    split: Split | None = None,
    eip_scale: bool = False,
) -> Comparison:
    """Align the frames that have a DFT energy with their EIP labels.

    The modes are those of `eipnn.reference`, `eip_zero` by default that of each EIP in the store; fits are made on the
    split's training frames, without a split on all frames. `eip_scale`: all that an EIP says is multiplied by its
    `scale_factors` first. Raises `LabelError` where no frame has an energy, and `ZeroError` as `fit_reference` does.
    """
    structures = StructureStore.of(structures)
    given = structures.take(np.flatnonzero(np.isfinite(structures.energies)))
    if not given:
        raise LabelError("no frame has a DFT energy to compare the EIPs with; name its energy key")
    train = np.isin(given.ids, split.train) if split else np.ones(len(given), dtype=bool)
    fitted = given.take(np.flatnonzero(train))
    zeros = [fit_reference(energy_zero, fitted, fitted.energies, isolated)]
    dft = zeros[0].aligned(given, given.energies, "DFT")
    scale = scale_factors(fitted, store) if eip_scale else np.ones(len(store.eips))
    labels = store.energies_of(given.ids, store.eips) * scale
    for eip, column, factor in zip(store.eips, labels.T, scale.tolist(), strict=True):  # views into `labels`
        free = eip_isolated and {element: energy * factor for element, energy in eip_isolated.items()}
        if not np.isfinite(column[train]).any():
            column[:] = np.nan  # no zero, nothing to compare
            continue
        zeros.append(fit_reference(eip_zero or store.zeros[eip], fitted, column[train], free, dft[train], source=eip))
        column[:] = zeros[-1].aligned(given, column, eip)
    for zero in zeros:
        if zero.note:
            log.warning(zero.note)
    errors = derivative_errors(given, store, scale)
    return Comparison(
        tuple(given.ids), given.element_sets(), given.sizes, dft, store.eips, labels, **errors, scale=scale
    )


def scale_factors(frames: StructureStore, store: LabelStore) -> np.ndarray:
    """For each EIP the factor that brings it closest to DFT on these frames (n_eips,).

    It is that of the least sum of |F_DFT - factor x F_EIP| over components, or, where no frame has both forces, of the
    same of energies less what the composition explains of them.
    """
    forces = store.forces_of(frames.ids, store.eips)  # (N, n_eips, 3)
    energies, counts = store.energies_of(frames.ids, store.eips), frames.composition()[1]
    factors = np.full(len(store.eips), np.nan)
    for column in range(len(factors)):
        factors[column] = _factor(forces[:, column], frames.forces)
        known = np.isfinite(energies[:, column])
        if np.isnan(factors[column]) and known.any():
            both = (fit_composition(counts[known], e[known]).left for e in (energies[:, column], frames.energies))
            factors[column] = _factor(*both)
    return np.where(np.isnan(factors), 1.0, factors)


def _factor(eip: np.ndarray, dft: np.ndarray) -> float:
    """The factor of the least sum of |dft - factor x eip|: the median of dft / eip with weights |eip|; NaN of none."""
    known = np.isfinite(eip) & np.isfinite(dft) & (np.abs(eip) > 1e-6)
    if not known.any():
        return np.nan
    ratios, weights = dft[known] / eip[known], np.abs(eip[known])
    order = np.argsort(ratios)
    total = np.cumsum(weights[order])
    return float(ratios[order][np.searchsorted(total, total[-1] / 2)])


def derivative_errors(
    frames: StructureStore, store: LabelStore, scale: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """``forces`` and ``stress`` of a `Comparison` of these frames, which the store has, with factors (n_eips,)."""
    factors = np.ones(len(store.eips)) if scale is None else scale
    forces = store.forces_of(frames.ids, store.eips) * factors[:, None]
    of_atoms = np.abs(forces - frames.forces[:, None]).mean(axis=2)  # (N, n_eips)
    sums = np.add.reduceat(of_atoms, frames.offsets[:-1]) if len(frames) else of_atoms
    full = voigt_6_to_full_3x3_stress(store.stress_of(frames.ids, store.eips))
    stress = full * factors[:, None, None] - frames.stresses[:, None]
    return {"forces": sums / frames.sizes[:, None], "stress": np.abs(stress).mean(axis=(2, 3)) / GPa}


def leaderboard(comparison: Comparison, split: Split | None = None) -> list[Standing]:
    """The standing of every EIP, best config MAE first within a part.

    Over all frames and for each set of elements; with a split, on train + validation and on test as well.
    """
    kinds = {kind: np.array(comparison.elements) == kind for kind in sorted(set(comparison.elements))}
    if len(kinds) > 1:
        kinds = {EVERYTHING: np.ones(len(comparison.ids), dtype=bool)} | kinds
    return [
        line
        for part, in_part in _parts(comparison, split).items()
        for kind, of_kind in kinds.items()
        if (in_part & of_kind).any()
        for line in _standings(comparison, in_part & of_kind, kind, part)
    ]


def best_eip(comparison: Comparison, split: Split) -> BestEIP:
    """Choose the EIP on the split's train + validation frames and report it on those that are tested on.

    The choice is made on the frames that every EIP has labelled, so that failing on hard frames does not pay; EIPs
    without any label stand aside. Raises `LabelError` where there is no such frame.
    """
    parts = _parts(comparison, split)
    errors = _errors(comparison.labels, comparison.dft, comparison.eips).abs().dropna(axis=1, how="all")
    common = errors[parts["train+val"]].dropna()
    if common.empty:
        raise LabelError(
            "no frame of train and validation has labels of all EIPs, so none can be called the best; leave out the "
            "EIP that fails most, or use `eipnn label --retry-failed`"
        )
    scores = common.mean()
    eip = str(scores.idxmin())
    tested = np.isin(comparison.ids, split.tested)
    test = errors.loc[tested, eip].dropna()
    if test.empty:
        raise LabelError(f"no {split.tested_on} frame has a label of the EIP {eip}")
    atom_mae = (test / comparison.n_atoms[test.index]).mean()
    derived = _derivative_maes(comparison, tested, comparison.eips.index(eip))
    errors_there = (float(test.mean()), float(atom_mae), *derived)
    return BestEIP(eip, float(scores.min()), *errors_there, len(test), split.tested_on)


def alignment_warning(
    dft: np.ndarray, labels: np.ndarray, n_atoms: np.ndarray, eips: Sequence[str], threshold: float = FAR
) -> str | None:
    """A warning where DFT is far from every EIP on most frames, which mostly means different zeros.

    dft: (n,) aligned, eV; labels: (n, n_eips) aligned, eV, NaN where missing; n_atoms: (n,). The measure is the median
    over frames of the closest EIP's |E_EIP - E_DFT| / n_atoms, in eV/atom; why `threshold` is 0.5 is said at `FAR`.
    None where all is well or no frame has a label.
    """
    errors = _errors(labels, dft, eips).div(n_atoms, axis=0).dropna(how="all")
    distance = errors.abs().min(axis=1).median()
    if not distance > threshold:
        return None
    offsets = errors.median().dropna()
    closest = offsets.abs().idxmin()
    return (
        f"DFT energies are far from every EIP: on half of the frames even the closest EIP is more than "
        f"{distance:.2f} eV/atom away (limit {threshold:g}); the closest EIP overall, {closest}, is off by "
        f"{offsets[closest]:+.2f} eV/atom. The energy zeros probably differ: set energy_zero to isolated_atoms (with "
        "the isolated atoms' energies in the DFT settings), or to least_squares for DFT and EIPs both"
    )


def readable(standings: Sequence[Standing]) -> pd.DataFrame:
    """As text in the units of the headings; without forces or stress where none are known, or factors of 1."""
    table = pd.DataFrame(standings, columns=Standing._fields)
    table = table.drop(columns=[name for name in ("force_mae", "stress_mae") if table[name].isna().all()])
    table = table.drop(columns=["scale"] if table["scale"].eq(1.0).all() else [])
    for name, text in TEXTS.items():
        if name in table:
            table[name] = ["-" if np.isnan(value) else text(value) for value in table[name]]
    return table.rename(columns=HEADINGS)


def write_leaderboard(folder: Path, standings: Sequence[Standing], best: BestEIP | None) -> None:
    """Write `leaderboard.csv` and `leaderboard.md` into `folder`, each whole or not at all."""
    table = pd.DataFrame(standings, columns=Standing._fields)
    write_atomically(folder / "leaderboard.csv", table.to_csv(index=False))
    note = f"\n\n{sentence(best)}" if best else ""
    shown = readable(standings).to_markdown(index=False, disable_numparse=True)
    write_atomically(folder / "leaderboard.md", shown + note + "\n")


def sentence(best: BestEIP) -> str:
    """What is to be said about the best EIP."""
    found = {metric: getattr(best, metric.name) for metric in METRICS}
    errors = [
        f"{m.heading.partition(' (')[0]} {m.with_unit(value)}" for m, value in found.items() if np.isfinite(value)
    ]
    return f"Best EIP, chosen on train + val: {best.eip}; {best.part} {', '.join(errors)} over {best.frames} frames."


def _errors(labels: np.ndarray, dft: np.ndarray, eips: Sequence[str]) -> pd.DataFrame:
    """E_EIP - E_DFT, eV; a row a frame, a column an EIP."""
    return pd.DataFrame(labels - dft[:, None], columns=list(eips))


def _derivative_maes(comparison: Comparison, use: np.ndarray, eip: int) -> tuple[float, float]:
    """Force MAE in eV/A and stress MAE in GPa of an EIP over the frames of `use`; NaN where none is known."""
    found = []
    for errors, weights in ((comparison.forces, comparison.n_atoms), (comparison.stress, np.ones(len(use)))):
        known = use & np.isfinite(errors[:, eip])
        found.append(float(np.average(errors[known, eip], weights=weights[known])) if known.any() else np.nan)
    return found[0], found[1]


def _parts(comparison: Comparison, split: Split | None) -> dict[str, np.ndarray]:
    parts = {EVERYTHING: np.ones(len(comparison.ids), dtype=bool)}
    if split is not None:
        parts["train+val"] = np.isin(comparison.ids, [*split.train, *split.val])
        parts["test"] = np.isin(comparison.ids, split.test)
    return parts


def _standings(comparison: Comparison, use: np.ndarray, kind: str, part: str) -> list[Standing]:
    dft, labels, n_atoms = comparison.dft[use], comparison.labels[use], comparison.n_atoms[use]
    errors = _errors(labels, dft, comparison.eips)
    per_atom = errors.div(n_atoms, axis=0)
    closest = errors.abs().dropna(how="all").idxmin(axis=1)
    derived = [_derivative_maes(comparison, use, column) for column in range(len(comparison.eips))]
    lines = [
        Standing(
            eip=eip,
            elements=kind,
            part=part,
            frames=int(errors[eip].count()),
            missing=int(errors[eip].isna().sum()),
            config_mae=errors[eip].abs().mean(),
            atom_mae=per_atom[eip].abs().mean(),
            force_mae=derived[column][0],
            stress_mae=derived[column][1],
            offset=per_atom[eip].mean(),
            correlation=pd.Series(labels[:, column] / n_atoms).corr(pd.Series(dft / n_atoms)),
            best_share=(closest == eip).mean(),
            scale=1.0 if comparison.scale is None else float(comparison.scale[column]),
        )
        for column, eip in enumerate(comparison.eips)
    ]
    return sorted(lines, key=lambda line: (np.isnan(line.config_mae), line.config_mae))
