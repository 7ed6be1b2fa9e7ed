"""The command `eipnn generate`."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from eipnn.command_line import Count, Natural, Positive, Seed, Which
from eipnn.eips import EIP, load_eips, named_sets
from eipnn.errors import InputError
from eipnn.generate.distance import distances, parents_rule, uniform_rule
from eipnn.generate.parents import COORDINATION, make_prototypes, read_parents
from eipnn.generate.pool import make_pool
from eipnn.generate.recipe import KINDS, Recipe
from eipnn.structures import Split, write_split
from eipnn.structures.read import iterate

AtomCount = Annotated[int, Which("a whole number from 2 on", lambda n: n >= 2)]
# below 1/3 a cell cannot collapse
StrainComponent = Annotated[float, Which("above 0 and up to 0.3", lambda x: 0 < x <= 0.3)]


def generate(
    *,
    output: Path,
    seed: Seed = 0,
    workers: Count = 1,
    from_: list[str] | None = None,
    split: str | None = None,
    pool_split: Path | None = None,
    elements: list[str] | None = None,
    prototypes: list[Annotated[str, COORDINATION]] | None = None,
    lattice_constant: Positive | None = None,
    rattle: Natural = 0,
    strain: Natural = 0,
    packed: Natural = 0,
    md: Natural = 0,
    min_distance: Positive | None = None,
    max_atoms: AtomCount = 32,
    rattle_max: Positive = 0.3,
    strain_max: StrainComponent = 0.1,
    volumes: tuple[Positive, Positive] = (0.85, 1.25),
    eip: str | None = None,
    temperatures: tuple[Positive, Positive] = (300.0, 1500.0),
    timestep: Positive = 2.0,
    md_steps: Count = 200,
) -> None:
    """Structures without labels: a pool for `eipnn label` and `eipnn run`.

    Parents are your own frames, crystals of given elements, or both (half of the structures each). The same command
    writes the same file, byte for byte; larger numbers, or further kinds, extend it; a killed run goes on from where it
    was.

    Args:
        output: the file that is written, in the format extxyz.
        seed: of everything random.
        workers: processes.
        from_: your frames: files that ASE reads, or bundled:NAME.
        split: CSV; take frames of the training part alone (recommended). random:K is the split K of `eipnn run` with
            `splits: random`. Children of test frames in the pool would tell a network what it is tested on.
        pool_split: CSV to write: the split with the structures as its pool.
        elements: crystals of these, alloys of all compositions.
        prototypes: of the crystals (default: all, the first element's own structure first).
        lattice_constant: A, of the first prototype (default: from the density of the frames, else ASE's table of the
            elements); neighbours in the other prototypes are as far apart as Pauling's rule says.
        rattle: how many structures with displaced atoms.
        strain: how many strained and scaled cells.
        packed: how many random packings at the parents' density.
        md: how many frames of Langevin dynamics, five of a trajectory.
        min_distance: A; no two atoms come closer (default, for each pair of elements: 0.9 of the shortest distance in
            the frames, else 0.8 of the sum of covalent radii).
        max_atoms: of the largest supercell.
        rattle_max: A, largest standard deviation of displacements along an axis.
        strain_max: largest strain component.
        volumes: lowest and highest volume relative to the parent, for strain and packed.
        eip: potential for --md: a named set or a YAML file as in `eipnn label`, and one of it, as in silicon:sw.
        temperatures: lowest and highest, K, for --md.
        timestep: fs, for --md (with hydrogen 0.5).
        md_steps: between two frames of a trajectory.
    """
    counts = dict(zip(KINDS, (rattle, strain, packed, md), strict=True))
    files, elements, prototypes = from_ or [], elements or [], prototypes or []
    asked = prototypes or lattice_constant
    problems = {
        "no structures are asked for; give --rattle, --strain, --packed or --md": not any(counts.values()),
        "no parents; give your frames with --from, or --elements": not (files or elements),
        "--split chooses among the frames of --from; give those": split and not files,
        "--pool-split writes the split of --split; give that": pool_split and not split,
        "--prototypes and --lattice-constant are about the crystals of --elements; give those": asked and not elements,
        "--md and --eip go together; give both": bool(md) != bool(eip),
        "--output: must end in .extxyz, the format that is written": output.suffix != ".extxyz",
    }
    for key, (low, high) in (("volumes", volumes), ("temperatures", temperatures)):
        problems[f"--{key} {low:g} {high:g}: the lower number comes first"] = low > high
    for problem, found in problems.items():
        if found:
            raise InputError(problem)
    frames, total, parts = read_parents(files, split)
    crystals = make_prototypes(elements, prototypes, lattice_constant, frames, max_atoms)
    present = sorted({*elements, *(symbol for frame in frames for symbol in frame.atoms.symbols)})
    rule = parents_rule([f.atoms for f in frames], min((c.shortest() for c in crystals), default=np.inf))
    if min_distance:
        rule = uniform_rule(min_distance)
    parents = f"{len(frames)} of {total} frames, {len(crystals)} prototypes"
    shortest = rule.text(atomic_numbers[e] for e in present)
    print(f"parents: {parents}; shortest distances allowed (A): {shortest}", file=sys.stderr)
    dynamics = (_covering(eip, present) if eip else None, temperatures, timestep, md_steps)
    recipe = Recipe(frames, crystals, rule, seed, max_atoms, rattle_max, strain_max, volumes, *dynamics)
    made = make_pool(recipe, counts, output, workers, shown=True)
    ids: list[str] = []
    print(summary(_read_back(output, ids)))
    if pool_split:
        write_split(replace(parts or Split((), (), (), ()), pool=tuple(ids)), pool_split)
    print(f"{output}: {len(ids)} structures, {made} of them new", file=sys.stderr)


def _read_back(file: Path, ids: list[str]) -> Iterator[Atoms]:
    """The frames of the file one by one; their ids are put into `ids`."""
    for _, atoms in iterate({file: file.stem}, {}):
        ids.append(atoms.info["config_id"])
        yield atoms


def _covering(text: str, elements: Sequence[str]) -> EIP:
    """One EIP of a set, by its name after a colon or because it is alone.

    Raises `InputError` where it does not cover the elements.
    """
    source, _, name = text.rpartition(":")
    if text in named_sets() or Path(text).is_file() or not source:
        source, name = text, ""
    eips = load_eips(source)
    found = [eip for eip in eips if name in ("", eip.name)]
    if len(found) != 1:
        names = ", ".join(eip.name for eip in eips)
        raise InputError(f"--eip {text}: name one of {names}, as in {source}:{eips[0].name}")
    covered = found[0].elements()
    if covered is not None and not set(elements) <= covered:
        raise InputError(
            f"--eip {text}: {found[0].name} covers {', '.join(sorted(covered))}, and the parents hold "
            f"{', '.join(elements)}; name another potential, or other parents"
        )
    return found[0]


def summary(pool: Iterable[Atoms]) -> str:
    """Kind, number, atoms, closest distance, volume per atom of fully periodic cells, and draws, as a table."""
    import pandas as pd  # here: the help need not wait for it

    lines = []
    for kind, group in groupby(pool, lambda atoms: str(atoms.info["kind"])):
        found = np.array([_figures(atoms) for atoms in group])  # no list of the structures: they may be very many
        sizes, closest, volumes, draws = found.T
        lines.append(
            {
                "kind": kind,
                "number": len(found),
                "atoms": _range(sizes.astype(int).tolist(), "d"),
                "closest\n(A)": closest.min(),
                "volume\n(A^3/atom)": _range(volumes[np.isfinite(volumes)].tolist(), ".1f"),
                "draws\n(mean)": draws.mean(),
            }
        )
    return pd.DataFrame(lines).to_markdown(index=False, tablefmt="simple", floatfmt=("", "", "", ".2f", "", ".1f"))


def _figures(atoms: Atoms) -> tuple[float, float, float, float]:
    """Atoms, closest distance (A), volume per atom (A^3; NaN without a full cell) and draws."""
    volume = atoms.get_volume() / len(atoms) if atoms.pbc.all() else np.nan
    return len(atoms), distances(atoms)[2].min(initial=np.inf), volume, atoms.info["draws"]


def _range(values: Sequence[float], form: str) -> str:
    return f"{min(values):{form}} to {max(values):{form}}" if values else "-"
