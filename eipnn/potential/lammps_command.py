"""`eipnn lammps`: an input script of LAMMPS with a fine-tuned potential."""

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any, Literal

from eipnn.errors import InputError, UsageError, exit_code
from eipnn.potential.calculator import EIPNNCalculator
from eipnn.potential.guard import Mode
from eipnn.potential.lammps import LINE, attach, start


def lammps(
    potential: list[Path],
    script: Path,
    *,
    elements: list[str] | None = None,
    var: list[str] | None = None,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    tabulate: bool = False,
    guard: Mode | None = None,
) -> None:
    """Run an input script of LAMMPS with a fine-tuned potential.

    The script is LAMMPS' own, with `units metal`; once the atoms are there it has the line
    `fix eipnn all external pf/callback 1 1`.

    Args:
        potential: checkpoint of the fine-tuning stage, potential or committee; several are a committee.
        script: input script.
        elements: symbol of each atom type, as in pair_coeff; not needed for a potential of one element.
        var: variables of the script, NAME=VALUE each.
        device: of torch, such as cuda.
        dtype: precision of the network.
        tabulate: read functions of the distance from tables (SchNet); about twice as quick.
        guard: when atoms come closer than in any training frame, or the density leaves the range of these: warn, error
            or off (default: warn, if the potential says what its training saw).
    """
    calculator = EIPNNCalculator(potential, device=device, dtype=dtype, tabulate=tabulate, guard=guard)
    lines = read(script)
    with start(*variables(var or [])) as lmp:  # at its end LAMMPS closes its files
        execute(lmp, script, lines, calculator, elements)


def read(script: Path) -> list[str]:
    """The lines of an input script; `InputError` where it cannot be read, or none is that of the potential."""
    try:
        lines = script.read_text().splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{script}: cannot be read as a script of LAMMPS ({error})") from error
    if not any(map(_fix_of, lines)):
        raise InputError(
            f"{script}: has no line `{LINE}`; put it where the potential begins, once the box and its atoms are there "
            "and before run, minimize or rerun"
        )
    return lines


def _fix_of(line: str) -> str | None:
    """The id of the fix, if it is that of the potential."""
    command, name, *others = [*line.partition("#")[0].split(), "", ""]
    return name if [command, *others[:-2]] == ["fix", *LINE.split()[2:]] else None


def execute(
    lmp: Any, script: Path, lines: Sequence[str], calculator: EIPNNCalculator, elements: Sequence[str] | None
) -> None:
    """Have LAMMPS read the script, and attach the potential after each line of it (`LINE`).

    It reads files, as loops (``label``, ``next``, ``jump SELF``) work in files alone; a loop ends in the part in which
    it began.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / script.name

        def failed(error: BaseException) -> None:
            lmp.flush_buffers()
            rmtree(folder)
            end_process(error)

        for part, fix in _parts(lines):
            file.write_text(part)
            try:
                lmp.file(str(file))
            except Exception as error:  # LAMMPS has no narrower one, and has printed where it was
                raise InputError(f"{script}: {error}") from error
            if fix:
                named = elements or _only_element(lmp, calculator, script)
                attach(lmp, calculator, named, fix).failed = failed  # type: ignore[method-assign]


def _parts(lines: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """The script up to each line of the potential, with the id of its fix, and the rest."""
    part: list[str] = []
    for line in lines:
        part.append(line)
        if fix := _fix_of(line):
            yield "".join(part), fix
            part = []
    yield "".join(part), None


def _only_element(lmp: Any, calculator: EIPNNCalculator, script: Path) -> list[str]:
    """The element of all atom types, where there can be but one."""
    known = calculator.potential.elements
    if len(known) > 1:
        raise UsageError(f"{script}: say which atom type is which element: --elements, of {' '.join(known)}")
    return known * lmp.extract_setting("ntypes")


def variables(given: Sequence[str]) -> list[str]:
    """``NAME=VALUE`` -> LAMMPS' own arguments."""
    arguments = []
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--var {text}: give it as NAME=VALUE")
        arguments += ["-var", name, value]
    return arguments


def end_process(error: BaseException) -> None:
    """End as the command does with this error: there is no way back through LAMMPS, which would go on in its script."""

    def again() -> None:
        raise error

    code = 1
    try:
        code = exit_code("lammps", again)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)
