"""The command `eipnn generate`."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eipnn.eips import EIP, load_eips, named_sets
from eipnn.errors import InputError, exit_code
from eipnn.generate.distance import (
    COVALENT_SHARE,
    PARENT_SHARE,
    DistanceRule,
    closest,
    parents_rule,
    uniform_rule,
)
from eipnn.generate.parents import COORDINATION, Frame, Prototype, make_prototypes, read_parents
from eipnn.generate.pool import make_pool
from eipnn.generate.recipe import KINDS, Dynamics, Recipe
from eipnn.structures import Split, read_structures, write_split

LARGEST_STRAIN = 0.3  # below 1/3 a cell cannot collapse


def main_generate(argv: Sequence[str]) -> int:
    """`eipnn generate`: the exit code."""
    options = parser().parse_args(argv)
    console = Console(stderr=True)
    return exit_code("generate", lambda: _generate(options, console))


def parser() -> argparse.ArgumentParser:
    """Arguments of `eipnn generate`."""
    p = argparse.ArgumentParser(
        prog="eipnn generate",
        description="Structures without labels: a pool for `eipnn label` and `eipnn run`. Parents are your own frames, "
        "crystals of given elements, or both (half of the structures each). The same command writes the same file, "
        "byte for byte; larger numbers, or further kinds, extend it; a killed run goes on from where it was.",
    )
    p.add_argument("-o", "--output", required=True, type=Path, metavar="FILE.extxyz")
    p.add_argument("--seed", type=_natural, default=0, metavar="S", help="default: 0")
    p.add_argument(
        "--workers", type=_positive_int, default=1, metavar="N", help="processes (default: 1)"
    )
    _add_parents(p.add_argument_group("parents"))
    _add_kinds(p.add_argument_group("how many of each kind (default: none)"))
    _add_settings(p.add_argument_group("settings"))
    return p


def _add_parents(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--from", dest="files", nargs="+", default=[], metavar="FILE", help="your frames")
    add(
        "--split",
        metavar="CSV",
        help="take frames of the training part alone (recommended); random:K is the split K of `eipnn run` with "
        "`splits: random`. Children of test frames in the pool would tell a network what it is tested on",
    )
    add(
        "--pool-split",
        type=Path,
        metavar="CSV",
        help="write the split with the structures as its pool",
    )
    add(
        "--energy-key",
        metavar="KEY",
        help="where frames carry energies that differ (they are not used)",
    )
    add(
        "--elements",
        nargs="+",
        default=[],
        metavar="EL",
        help="crystals of these, alloys of all compositions",
    )
    add(
        "--prototypes",
        nargs="+",
        default=[],
        choices=tuple(COORDINATION),
        metavar="NAME",
        help=f"of {', '.join(COORDINATION)} (default: all, the first element's own structure first)",
    )
    add(
        "--lattice-constant",
        type=_positive,
        metavar="A",
        help="of the first prototype (default: from the density of the frames, else ASE's table of the elements); "
        "neighbours in the other prototypes are as far apart as Pauling's rule says",
    )


def _add_kinds(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rattle", type=_natural, default=0, metavar="N", help="displaced atoms")
    add("--strain", type=_natural, default=0, metavar="N", help="strained and scaled cells")
    add(
        "--packed",
        type=_natural,
        default=0,
        metavar="N",
        help="random packings at the parents' density",
    )
    add(
        "--md",
        type=_natural,
        default=0,
        metavar="N",
        help="Langevin dynamics, five frames a trajectory",
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--min-distance",
        type=_positive,
        metavar="A",
        help=f"no two atoms come closer (default, for each pair of elements: {PARENT_SHARE} of the shortest distance "
        f"in the frames, else {COVALENT_SHARE} of the sum of covalent radii)",
    )
    add(
        "--max-atoms",
        type=_pair_or_more,
        default=32,
        metavar="N",
        help="largest supercell (default: 32)",
    )
    add(
        "--rattle-max",
        type=_positive,
        default=0.3,
        metavar="A",
        help="largest standard deviation of displacements along an axis (default: 0.3)",
    )
    add(
        "--strain-max",
        type=_strain,
        default=0.1,
        metavar="X",
        help="largest strain component (default: 0.1)",
    )
    add(
        "--volumes",
        nargs=2,
        type=_positive,
        default=(0.85, 1.25),
        metavar=("LOW", "HIGH"),
        help="volume relative to the parent, strain and packed (default: 0.85 1.25)",
    )
    add(
        "--eip",
        metavar="NAME_OR_YAML[:EIP]",
        help=f"potential for --md: a set ({', '.join(named_sets())}) or a YAML file as in `eipnn label`, and one of it",
    )
    add(
        "--temperatures",
        nargs=2,
        type=_positive,
        default=(300.0, 1500.0),
        metavar=("LOW", "HIGH"),
        help="K, for --md (default: 300 1500)",
    )
    add(
        "--timestep",
        type=_positive,
        default=2.0,
        metavar="FS",
        help="for --md (default: 2; with hydrogen 0.5)",
    )
    add(
        "--md-steps",
        type=_positive_int,
        default=200,
        metavar="N",
        help="between two frames (default: 200)",
    )


def _number(text: str, kind: type, lowest: float, what: str) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = np.nan
    if not (np.isfinite(value) and value >= lowest):
        raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
    return value


def _natural(text: str) -> int:
    return int(_number(text, int, 0, "a whole number from 0 on"))


def _positive_int(text: str) -> int:
    return int(_number(text, int, 1, "a whole number from 1 on"))


def _pair_or_more(text: str) -> int:
    return int(_number(text, int, 2, "a whole number from 2 on"))


def _positive(text: str) -> float:
    return _number(text, float, np.finfo(float).tiny, "a positive number")


def _strain(text: str) -> float:
    value = _positive(text)
    if value > LARGEST_STRAIN:
        raise argparse.ArgumentTypeError(f"{text!r} is above {LARGEST_STRAIN}")
    return value


def _generate(options: argparse.Namespace, console: Console) -> None:
    counts = {kind: getattr(options, kind) for kind in KINDS}
    _check(options, counts)
    frames, total, split = read_parents(options.files, options.split, options.energy_key)
    prototypes = make_prototypes(
        options.elements, options.prototypes, options.lattice_constant, frames, options.max_atoms
    )
    elements = _elements(frames, options.elements)
    rule = _rule(frames, prototypes, options.min_distance)
    console.print(
        f"parents: {len(frames)} of {total} frames, {len(prototypes)} prototypes; shortest distances "
        f"allowed (A): {rule.text(atomic_numbers[e] for e in elements)}",
        soft_wrap=True,
        highlight=False,
    )
    recipe = Recipe(
        frames,
        prototypes,
        rule,
        seed=options.seed,
        max_atoms=options.max_atoms,
        rattle_max=options.rattle_max,
        strain_max=options.strain_max,
        volumes=tuple(options.volumes),
        dynamics=_dynamics(options, elements) if options.md else None,
    )
    made = make_pool(recipe, counts, options.output, options.workers, shown=True)
    pool = read_structures(options.output)
    if options.pool_split:
        ids = tuple(atoms.info["config_id"] for atoms in pool)
        write_split(replace(split or Split((), (), (), ()), pool=ids), options.pool_split)
    Console().print(summary(pool))
    console.print(f"{options.output}: {len(pool)} structures, {made} of them new", soft_wrap=True)


def _check(options: argparse.Namespace, counts: dict[str, int]) -> None:
    """Raise where options do not fit together."""
    problems = {
        "no structures are asked for; give --rattle, --strain, --packed or --md": not any(
            counts.values()
        ),
        "no parents; give your frames with --from, or --elements": not (
            options.files or options.elements
        ),
        "--split chooses among the frames of --from; give those": bool(
            options.split and not options.files
        ),
        "--pool-split writes the split of --split; give that": bool(
            options.pool_split and not options.split
        ),
        "--prototypes and --lattice-constant are about the crystals of --elements; give those": bool(
            (options.prototypes or options.lattice_constant) and not options.elements
        ),
        "--md and --eip go together; give both": bool(options.md) != bool(options.eip),
        "--output: must end in .extxyz, the format that is written": options.output.suffix
        != ".extxyz",
    }
    for key in ("volumes", "temperatures"):
        low, high = getattr(options, key)
        problems[f"--{key} {low:g} {high:g}: the lower number comes first"] = low > high
    for problem, found in problems.items():
        if found:
            raise InputError(problem)


def _elements(frames: Sequence[Frame], elements: Sequence[str]) -> list[str]:
    return sorted({*elements, *(symbol for f in frames for symbol in set(f.atoms.symbols))})


def _rule(
    frames: Sequence[Frame], prototypes: Sequence[Prototype], minimum: float | None
) -> DistanceRule:
    if minimum is not None:
        return uniform_rule(minimum)
    ideal = min((prototype.shortest() for prototype in prototypes), default=np.inf)
    return parents_rule([frame.atoms for frame in frames], ideal)


def _dynamics(options: argparse.Namespace, elements: Sequence[str]) -> Dynamics:
    eip = _eip(options.eip)
    covered = eip.elements()
    if covered is not None and not set(elements) <= covered:
        raise InputError(
            f"--eip {options.eip}: {eip.name} covers {', '.join(sorted(covered))}, and the parents hold "
            f"{', '.join(elements)}; name another potential, or other parents"
        )
    return Dynamics(eip, tuple(options.temperatures), options.timestep, options.md_steps)


def _eip(text: str) -> EIP:
    """One EIP of a set, by its name after a colon or because it is alone."""
    source, _, name = text.rpartition(":")
    if text in named_sets() or Path(text).is_file() or not source:
        source, name = text, ""
    eips = load_eips(source)
    found = [eip for eip in eips if name in ("", eip.name)]
    if len(found) != 1:
        names = ", ".join(eip.name for eip in eips)
        raise InputError(f"--eip {text}: name one of {names}, as in {source}:{eips[0].name}")
    return found[0]


def summary(pool: Sequence[Atoms]) -> Table:
    """Kind, number, atoms, closest distance, volume per atom of fully periodic cells, and draws."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("kind", no_wrap=True)
    for heading in ("number", "atoms", "closest\n(A)", "volume\n(A^3/atom)", "draws\n(mean)"):
        table.add_column(heading, justify="right", no_wrap=True)
    for kind, group in groupby(pool, lambda atoms: str(atoms.info["kind"])):
        structures = list(group)
        volumes = [a.get_volume() / len(a) for a in structures if a.pbc.all()]
        table.add_row(
            kind,
            str(len(structures)),
            _range([len(atoms) for atoms in structures], "d"),
            f"{min(closest(atoms) for atoms in structures):.2f}",
            _range(volumes, ".1f"),
            f"{np.mean([atoms.info['draws'] for atoms in structures]):.1f}",
        )
    return table


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    return f"{min(values):{form}} to {max(values):{form}}"
