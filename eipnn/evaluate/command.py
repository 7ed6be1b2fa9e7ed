"""The command `eipnn evaluate`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from ase.units import GPa

from eipnn.command_line import Count
from eipnn.errors import InputError
from eipnn.evaluate.errors import by_element, by_frame, by_group, mae, residuals
from eipnn.evaluate.predict import ATOMS, check_elements, predict
from eipnn.evaluate.spread import FEW, HELD, LEVELS, Spread, spreads, write_factors
from eipnn.files import check_not_read, write_atomically
from eipnn.metrics import ATOM, FORCE, STRESS, Metric
from eipnn.potential import Committee
from eipnn.potential.committee import Factor
from eipnn.predictions import predicted
from eipnn.report import plots
from eipnn.report.tables import markdown
from eipnn.structures import StructureStore, open_structures
from eipnn.structures.extxyz import write_extxyz
from eipnn.structures.paths import resolve_all

FRAMES = "predictions.extxyz"
PANELS = 6
"""Kinds of frames up to which each has a panel of its own."""
FORMS: dict[str, tuple[Metric, str]] = {
    "energy": (ATOM, "energy (eV/atom)"),
    "forces": (FORCE, "force on an atom (eV/Å)"),
    "stress": (STRESS, "stress component (GPa)"),
}
"""Of a property its metric, and what errors and spreads of it are called."""


def evaluate(
    potential: Path,
    structures: list[str],
    *,
    output: Path = Path("evaluation"),
    calibrate: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    batch_atoms: Count = ATOMS,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
) -> None:
    """Energies, forces and stress of structures, and their errors where there are labels.

    Tables go to the terminal; OUTPUT gets predictions.extxyz (labels beside them as dft_energy, ...), errors.csv (by
    frame), and pictures of predicted against DFT values. Of a committee also the spread against the error: rank
    correlation, coverage of intervals, and the factor that makes of it a standard deviation. Free atoms
    (config_type=IsolatedAtom) are left out.

    Args:
        potential: checkpoint of the fine-tuning stage, potential or committee (`eipnn committee` makes one of several).
        structures: files that ASE reads, patterns such as 'runs/*/OUTCAR', or bundled:NAME.
        output: folder of what is written.
        calibrate: write the factors that are found on these frames into the committee's file. No member may have been
            trained on one of them.
        device: where the networks run.
        dtype: precision of the networks.
        batch_atoms: atoms of a batch.
        energy_key: key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...).
        forces_key: the same of the forces.
        stress_key: the same of the stress, or of virials if "virial" is in the name.
    """
    check_not_read(output / FRAMES, resolve_all(structures))
    committee = Committee.load(potential)
    if calibrate and len(committee) == 1:
        raise InputError(f"--calibrate: {potential} is a single potential, which has no spread; give a committee")
    store = open_structures(structures, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key)
    rows = np.flatnonzero(~store.isolated)
    check_elements(committee.elements, store, rows)  # before they are taken: it names the file
    if not len(rows):
        raise InputError(f"{', '.join(structures)}: holds isolated atoms alone; give other structures")
    left_out = f" ({len(store) - len(rows)} free atoms left out)" if len(rows) < len(store) else ""
    store = store.take(rows)
    types = np.array(store.types or [""] * len(store))
    found = predict(committee, store, device, dtype, batch_atoms)
    for older in (output / "errors.csv", *output.glob("parity_*.png"), output / "spread.png"):
        older.unlink(missing_ok=True)  # of other structures, perhaps
    mean = found.mean()
    spread = committee.spread(found._asdict()) if len(committee) > 1 else {}
    write_extxyz(output / FRAMES, frames_of(mean, spread, store))
    print(f"{len(store)} frames, {len(store.numbers)} atoms{left_out}; {output / FRAMES}")
    errors = residuals(mean, store)
    if not any(np.isfinite(values).any() for values in errors.values()):
        if calibrate:
            raise InputError(f"--calibrate: {', '.join(structures)}: no labels")
        print("no labels, so no errors")
        return
    write_atomically(output / "errors.csv", by_frame(errors, store, types, spread).to_csv(index=False))
    print(f"errors of each frame: {output / 'errors.csv'}\n\nMAE / RMSE\n")
    groups = groups_of(types)
    print(markdown(by_group(errors, store, groups)))
    if len(store.elements()) > 1 and np.isfinite(errors[FORCE]).any():
        print(f"\n{markdown(by_element(errors, store))}")
    title = f"{potential.name}: {len(store)} frames"
    draw_parity(output, committee, mean, store, groups, title)
    if len(committee) > 1 and (known := spreads(found, store)):
        print("\n".join(told(committee, known)))
        draw_spread(output / "spread.png", committee, known, title)
    print(f"\npictures: {', '.join(str(file) for file in sorted(output.glob('*.png')))}")
    if calibrate:
        if not (made := write_factors(potential, known)):
            raise InputError(f"--calibrate: fewer than {FEW} frames have labels; give more")
        print(f"{potential}: " + ", ".join(f"{name} {f.value:.2f} ({f.frames} frames)" for name, f in made.items()))


def groups_of(types: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of all frames and, where there are several kinds, of each ``config_type``."""
    kinds = np.unique(types).tolist()
    each = {kind or "without config_type": np.flatnonzero(types == kind) for kind in kinds}
    return {"all": np.arange(len(types))} | (each if len(kinds) > 1 else {})


def frames_of(mean: Mapping[str, np.ndarray], spread: Mapping[str, np.ndarray], store: StructureStore) -> Iterator:
    """What goes into `FRAMES`."""
    for row, atoms in enumerate(predicted(store, mean["energy"], mean["forces"], mean["stress"])):
        if spread:
            atoms.info["energy_std"] = spread["energy_std"][row]
            atoms.arrays["forces_std"] = spread["forces_std"][slice(*store.offsets[row : row + 2])]
            if np.isfinite(spread["stress_std"][row]).all():
                atoms.info["stress_std"] = spread["stress_std"][row].flatten()
        yield atoms


def draw_parity(
    folder: Path,
    committee: Committee,
    mean: Mapping[str, np.ndarray],
    store: StructureStore,
    groups: Mapping[str, np.ndarray],
    title: str,
) -> None:
    """``parity_energy.png`` and so on, of all that there are labels of; of few kinds of frames, a panel each."""
    shown = dict(list(groups.items())[1:]) if 1 < len(groups) <= PANELS + 1 else {"all": groups["all"]}
    zeros = np.mean([potential.zero.numpy()[store.numbers] for potential in committee.potentials], axis=0)
    zero = np.add.reduceat(zeros, store.offsets[:-1])
    pairs = {
        "energy": (np.stack([store.energies - zero, mean["energy"] - zero], axis=-1) / store.sizes[:, None]),
        "forces": np.stack([store.forces, mean["forces"]], axis=-1),
        "stress": np.stack([store.stresses, mean["stress"]], axis=-1) / GPa,
    }
    for name, (metric, _) in FORMS.items():
        quantity = metric.heading.replace("MAE", "component")
        if name == "energy":
            quantity = "energy less those of elements (eV/atom)"
        panels = {}
        for group, rows in shown.items():
            known = pairs[name][store.atoms_of(rows) if name == "forces" else rows].reshape(-1, 2)
            known = known[np.isfinite(known).all(axis=1)]
            if len(known):
                panels[group] = known, f"MAE {metric.with_unit(mae(np.diff(known)) or 0.0)}"
        if panels:
            plots.parity(folder / f"parity_{name}.png", panels, quantity, title)


def told(committee: Committee, known: Mapping[str, Spread]) -> Iterator[str]:
    """The spread against the error, as a table with what it needs to be read."""
    percent = [f"{level:.0%}".replace("%", " %") for level in LEVELS]
    lines = []
    for name, spread in known.items():
        raw, here = committee.factors.get(name, Factor(1.0, 0)), spread.factor()
        line = {"": name, "frames": str(spread.frames), "Spearman": f"{spread.spearman():.2f}"}
        line["factor in the file"] = f"{raw.value:.2f} ({raw.frames} frames)" if raw.frames else "none"
        line |= dict(zip([f"{p} hold" for p in percent], _shares(spread, raw), strict=True))
        line["factor of these frames"] = f"{here.value:.2f}"
        line |= dict(zip([f"{p} then" for p in percent], _shares(spread, here), strict=True))
        lines.append(line)
    yield f"\nSpread of {len(committee)} members against their error\n"
    yield markdown(pd.DataFrame(lines))
    yield (
        "\nhold: share of the errors within the interval that is to hold so many, by the spread in the file; then:"
        "\nwith the factor of these frames. Intervals are Student's, as the spread of few members is uncertain itself."
    )
    if lost := {name: spread.left_out for name, spread in known.items() if spread.left_out}:
        counts = ", ".join(f"{name} {count}" for name, count in lost.items())
        yield f"Values that symmetry holds (spread below {HELD} of the usual) are left out: {counts}."


def _shares(spread: Spread, factor: Factor) -> list[str]:
    return [f"{share:.1%}".replace("%", " %") for share in spread.coverage(factor.value)]


def draw_spread(file: Path, committee: Committee, known: Mapping[str, Spread], title: str) -> None:
    """The absolute error over the spread, a panel a property."""
    panels = {}
    for name, spread in known.items():
        factor = committee.factors.get(name)
        deviation, error = spread.sizes
        form = f"calibrated by {factor.value:.2f}" if factor else "raw"
        panels[FORMS[name][1]] = (factor.value if factor else 1.0) * deviation, error, form
    plots.spread(file, panels, title)
