"""Committees of a run: the potentials of a row that differ in their seed alone, calibrated on validation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eipnn.errors import InputError
from eipnn.metrics import ATOM, FORCE, STRESS
from eipnn.run.execute import say
from eipnn.run.plan import Plan, Row
from eipnn.structures import StructureStore

SHOWN = (ATOM, FORCE, STRESS)


def seeds_of(seeds: Sequence[int], members: int) -> list[int]:
    """The seeds of a committee: the given one and those that follow it.

    Raises `InputError` where several seeds are given beside a number of members.
    """
    if members == 1:
        return list(seeds)
    if len(seeds) > 1:
        raise InputError("--ensemble takes seeds one after another from a single one: give one --seed, the first")
    return [seeds[0] + k for k in range(members)]


def make_committees(rows: Sequence[Row], results: Sequence[dict[str, Any]]) -> Table:
    """Write a committee for each row, split and number of frames into the folder of the split, and what they reach.

    Args:
        rows: of one experiment, of several seeds each.
        results: of these rows, see `carry_out`.
    """
    groups: dict[Path, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(committee_file(row), []).append(number)
    tested = " and ".join(sorted({row.plan.parts.tested_on for row in rows}))
    table = Table(title=f"Committees on {tested}", box=SIMPLE_HEAD, collapse_padding=True)
    table.add_column("committee", overflow="fold")
    for heading in (*(metric.heading.replace(" (", "\n(") for metric in SHOWN), "Spearman", "68 %", "90 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for file, numbers in groups.items():
        plans = [rows[number].plan for number in numbers]
        try:
            table.add_row(str(file), *_cells(file, plans, [results[number]["potential"] for number in numbers]))
        except InputError as error:  # delta learning takes the EIP that is best on the frames of each seed
            say(f"{file} is not made: {error}")
    say("Spearman: rank correlation of spread and error, energies and forces; 68 %, 90 %: share of their errors within")
    say("the intervals that are to hold so many, by the spread that was calibrated on validation")
    return table


def committee_file(row: Row) -> Path:
    """Where the committee of a row lies: beside the folders of its seeds."""
    plan = row.plan
    fold = plan.folder.parent if plan.frames is None else plan.folder.parent.parent / plan.folder.name
    return fold / f"committee-{row.strategy}.pt"


def validation_ids(plans: Sequence[Plan]) -> list[str]:
    """Ids of the frames that validate some member. No member has trained on one: smaller sets of DFT frames, which
    each seed draws for itself, are of the same split."""
    return list(dict.fromkeys(name for plan in plans for name in plan.parts.val))


def _cells(file: Path, plans: Sequence[Plan], potentials: Sequence[str]) -> Iterator[str]:
    """Make a committee; its errors on test, and how its spread goes with them."""
    from eipnn.evaluate.errors import maes  # here: they import torch
    from eipnn.evaluate.predict import predict
    from eipnn.evaluate.spread import factors, spreads
    from eipnn.potential import Committee

    committee = Committee.load(potentials)
    frames = _frames(plans[0], validation_ids(plans))
    committee.factors = factors(spreads(predict(committee, frames, shown=False), frames))
    committee.save(file)
    frames = _frames(plans[0], plans[0].parts.tested)
    found = predict(committee, frames, shown=False)
    errors, known = maes(found.mean(), frames), spreads(found, frames)
    yield from (metric.text(errors[metric.name]) for metric in SHOWN)
    there = [name for name in ("energy", "forces") if name in known]
    yield " / ".join(f"{known[name].spearman():.2f}" for name in there)
    factor = {name: committee.factors[name].value for name in there if name in committee.factors}
    # a split without a test part is tested on the frames that calibrate, which cannot tell
    told = factor if plans[0].parts.test else {}
    coverage = [known[name].coverage(value) for name, value in told.items()]
    yield from (" / ".join(f"{100 * shares[k]:.0f}" for shares in coverage) for k in range(2))


def _frames(plan: Plan, ids: Sequence[str]) -> StructureStore:
    dft = plan.experiment.structures[0]
    return dft.take(np.sort(dft.rows(ids)))
