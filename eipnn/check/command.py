"""The command `eipnn check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console

from eipnn.command_line import Positive, Seed
from eipnn.errors import InputError, UsageError
from eipnn.progress import progress_bar

if TYPE_CHECKING:
    from eipnn.check.case import Case
    from eipnn.check.sections import Outcome, Section
    from eipnn.structures import StructureStore

NAMES = (
    *("crystals", "frames", "dimers", "eos", "elastic", "phonons", "vacancy"),
    *("nve", "heating", "symmetry", "smoothness"),
)
"""Of the sections, in their order."""


class BadPotential(InputError):
    """A figure of the check is bad."""


def check(
    potential: list[Path],
    *,
    crystal: list[Path] | None = None,
    reference: list[str] | None = None,
    numbers: Path | None = None,
    eip: list[str] | None = None,
    sections: list[Annotated[str, NAMES]] | None = None,
    temperature: Positive = 1000.0,
    time: Positive = 1.0,
    seed: Seed = 0,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float64",
    energy_key: str | None = None,
    forces_key: str | None = None,
    output: Path = Path("check"),
) -> None:
    """Whether a potential is safe to simulate with: dimers, crystals, phonons, a vacancy, dynamics, smoothness.

    Each figure is good, fair or bad. The exit code is 0 where nothing is bad, 1 where something is, 2 where the input
    cannot be used.

    Args:
        potential: checkpoint of the fine-tuning stage; several are an ensemble.
        crystal: structure files of crystals, each by its last frame (default: of each element, and of two together, the
            simple structure of least energy by the potential).
        reference: files of DFT frames, or bundled:NAME.
        numbers: YAML file of reference values, such as {bulk_modulus: 98, vacancy: 3.6}.
        eip: EIPs whose figures stand beside, SET:NAME each.
        sections: these alone (default: all).
        temperature: of dynamics at constant energy, K.
        time: of each dynamics, ps.
        seed: of what is random.
        device: of torch, such as cuda.
        dtype: precision of the network.
        energy_key: key of the DFT energy in --reference (default: what ASE recognises, or energy_reference, dft_energy,
            ...).
        forces_key: the same of the forces.
        output: folder of check.md, check.html, check.csv and the pictures.
    """
    # here: the help need not wait for them
    from eipnn.check.page import bad_ones, summary, write_page
    from eipnn.check.references import read_numbers
    from eipnn.check.sections import SECTIONS
    from eipnn.structures import open_structures

    console = Console()
    settings = {"temperature": temperature, "time": time, "seed": seed}
    try:
        if not reference and (energy_key or forces_key):
            raise UsageError("--energy-key and --forces-key are about the frames of --reference; give those")
        frames = open_structures(reference, energy_key=energy_key, forces_key=forces_key) if reference else None
        case, others = _cases(potential, crystal, frames, eip, {"device": device, "dtype": dtype}, settings)
        given = read_numbers(numbers, list(dict.fromkeys([*case.wanted, *case.crystals])))
    except InputError as error:
        raise UsageError(str(error)) from error
    chosen = [section for section in SECTIONS if section.name in (sections or NAMES)]
    outcomes = _run(console, chosen, case, others)
    write_page(output, " ".join(map(str, potential)), outcomes, given)
    console.print(summary(outcomes, given))
    console.print(f"{output / 'check.md'}, {output / 'check.html'}, {output / 'check.csv'}: written", soft_wrap=True)
    if bad := bad_ones(outcomes, given):
        raise BadPotential(f"{' '.join(map(str, potential))}: bad in {', '.join(bad)}; see {output / 'check.md'}")


def _cases(
    potential: Sequence[Path],
    crystal: Sequence[Path] | None,
    frames: StructureStore | None,
    eip: Sequence[str] | None,
    network: dict[str, str],
    settings: dict[str, Any],
) -> tuple[Case, dict[str, Case]]:
    """The case of the potential, and those of EIPs by name, each with the same crystals relaxed under it."""
    from eipnn.check.case import Case
    from eipnn.check.crystals import find_crystals, read_crystals, relaxed_all
    from eipnn.check.references import eip_calculators
    from eipnn.potential.calculator import EIPNNCalculator

    calculator = EIPNNCalculator(potential, guard="off", **network)  # type: ignore[arg-type]
    elements = tuple(calculator.potential.elements)
    beside = eip_calculators(eip or [], elements)
    problems: dict[str, str] = {}
    if crystal:
        start = read_crystals(crystal, elements)
        wanted = tuple(start)
        found, problems = relaxed_all(start, calculator)
    else:
        found, wanted = find_crystals(elements, calculator), elements
    case = Case(calculator, elements, found, wanted, problems, frames=frames, **settings)
    others = {}
    for name, other in beside.items():
        theirs, lost = relaxed_all(found, other)
        others[name] = Case(other, elements, theirs, problems=lost, **settings)
    return case, others


def _run(console: Console, sections: Sequence[Section], case: Case, others: dict[str, Case]) -> list[Outcome]:
    """Say what is to be done, and do it."""
    from eipnn.check.sections import estimates, run

    calls = [(1, 0.0)] * len(sections)
    if case.crystals:
        calls = list(estimates(list(sections), case))
        for section, (number, seconds) in zip(sections, calls, strict=True):
            console.print(f"{section.name:<11} {number:>6} evaluations, about {seconds:.0f} s", highlight=False)
        console.print(
            f"{'all':<11} {sum(n for n, _ in calls):>6} evaluations, about {sum(s for _, s in calls) / 60:.1f} min"
        )
    outcomes = []
    with progress_bar("check", sum(n for n, _ in calls), "evaluations") as move:
        for section, (number, _) in zip(sections, calls, strict=True):
            move(0, section.name)
            outcomes.append(run(section, case, others))
            move(number)
    return outcomes
