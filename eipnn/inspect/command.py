"""The command `eipnn inspect`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import fill
from typing import Any

from rich.console import Console

from eipnn.errors import InputError
from eipnn.structures import StructureError, isolated_atoms, open_structures

SHOWN = 15  # lines of a table


def inspect(
    structures: list[str],
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    output: Path = Path("inspect.png"),
) -> None:
    """A look at structure files before training: what they hold, in tables and a picture, and likely mistakes.

    Args:
        structures: files that ASE reads, patterns such as 'runs/*/OUTCAR', or bundled:NAME.
        energy_key: key of the DFT energy (default: what ASE recognises, or energy_reference, dft_energy, ...).
        forces_key: the same of the forces.
        stress_key: the same of the stress, or of virials if "virial" is in the name.
        output: the picture (png, pdf or svg).
    """
    # here: the help need not wait for them
    from eipnn.inspect.mistakes import mistakes
    from eipnn.inspect.picture import picture
    from eipnn.inspect.survey import Survey

    if output.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--output {output}: must end in .png, .pdf or .svg")
    store = open_structures(structures, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key)
    survey = Survey(store)
    file = structures[0] if len(structures) == 1 else f"{structures[0]} and {len(structures) - 1} more"
    counts = ", ".join(f"{name} of {known.sum()}" for name, known in survey.labelled.items())
    head = f"{len(store)} frames, {len(store.numbers)} atoms; {counts} frames"
    print(f"{file}: {head}")
    formulas = [f"{formula} {count}" for formula, count in survey.formulas().items()]
    others = [f"{len(formulas) - SHOWN} more"] if len(formulas) > SHOWN else []
    print(fill(f"compositions: {', '.join(formulas[:SHOWN] + others)}", 80))
    for lines in (survey.of_elements(), survey.ranges(), survey.closest()):
        print(*_table(lines), sep="\n", end="\n" if lines else "")
    with suppress(StructureError):  # told with the mistakes
        if free := isolated_atoms(store):
            print(f"\nfree atoms: {', '.join(f'{symbol} {value:g} eV' for symbol, value in free.items())}")
    output.parent.mkdir(parents=True, exist_ok=True)
    picture(output, survey, f"{Path(file).name}\n{head}")
    print(f"\n{output}: histograms")
    for text in mistakes(survey, file):
        Console().print(f"WARNING: {text}", style="bold yellow", soft_wrap=True, markup=False, highlight=False)


def _table(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The first `SHOWN` of them, after an empty line; nothing without any."""
    if not lines:
        return
    import pandas as pd  # here: as above

    cells = [[_cell(value) for value in line.values()] for line in lines[:SHOWN]]
    align = ["right" if isinstance(value, float | int) else "left" for value in lines[0].values()]
    table = pd.DataFrame(cells, columns=list(lines[0]))
    yield ""
    yield table.to_markdown(index=False, tablefmt="simple", colalign=align, disable_numparse=True)
    if len(lines) > SHOWN:
        yield f"and {len(lines) - SHOWN} more"


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) >= 1 else f"{round(value, 9) + 0.0:.3g}"
