"""What `eipnn train` leaves and tells in the end: the errors of the recipes, the choice, the potentials."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eipnn.errors import InputError
from eipnn.files import write_json
from eipnn.metrics import ATOM, FORCE, STRESS
from eipnn.progress import progress_bar
from eipnn.run.execute import console, say
from eipnn.structures import StructureStore
from eipnn.train.choice import by_recipe, choose, sentence

if TYPE_CHECKING:
    from eipnn.potential import Potential

SHOWN = (ATOM, FORCE, STRESS)
COMMITTEE, FIRST = "committee of", "first fold of"
"""What ``potential.pt`` holds of a recipe."""


class Left(NamedTuple):
    """What ``potential.pt`` holds: the committee of all folds, or the potential of the first alone."""

    members: list[Path]
    """Of it."""
    problem: str | None
    """Why it is that of the first fold alone."""


def show_outcome(results: Sequence[Mapping[str, Any]], output: Path, tested: StructureStore | None) -> None:
    """Choose, leave ``potential.pt`` and ``choice.json``, and print the tables and what to do next.

    Args:
        results: of `carry_out`.
        output: folder of the training.
        tested: frames to test on, if there are any.
    """
    recipes = by_recipe(results)
    scores = {recipe: [r["result"]["best_score"] for r in mine] for recipe, mine in recipes.items()}
    choice = choose(scores)
    members = [Path(result["potential"]) for result in recipes[choice.recipe]]
    file = output / "potential.pt"
    left = leave_potential(members, file)
    errors = {r: [{m.name: one["result"].get(m.result) for m in SHOWN} for one in mine] for r, mine in recipes.items()}
    folds = len(members)
    console.print(errors_table(f"Validation frames of {folds} folds", errors, scores))
    found: dict[str, Any] = {"recipe": choice.recipe, "scores": scores, "validation": errors}
    if tested:
        potentials = {recipe: [Path(one["potential"]) for one in mine] for recipe, mine in recipes.items()}
        found["test"] = errors_on_test(potentials, choice.recipe, file, left, tested)
        console.print(errors_table(f"{len(tested)} test frames", found["test"]))
    write_json(output / "choice.json", found | {"potential": str(file), "members": [str(member) for member in members]})
    say(sentence(choice, folds))
    for line in next_steps(file, left.problem, output):
        say(line)


def leave_potential(members: Sequence[Path], file: Path) -> Left:
    """Write the committee of the folds' potentials into a file; where they have no mean the first one.

    A file that holds this committee stays as it is, with the factors of its spread.
    """
    from eipnn.potential import Committee, Potential  # here: they import torch

    potentials = [Potential.load(member) for member in members]
    try:
        made = Committee(potentials, names=members)
    except InputError as error:  # delta learning takes the EIP that is best on the training frames of each fold
        potentials[0].save(file)
        return Left([members[0]], str(error))
    if not (file.exists() and holds(file, potentials)):
        made.save(file)
    return Left(list(members), None)


def holds(file: Path, potentials: Sequence["Potential"]) -> bool:
    """Whether a file is of the committee of these potentials."""
    from eipnn.potential import Committee

    try:
        there = Committee.load(file).potentials
    except InputError:  # damaged, or of other code
        return False
    pairs = zip(there, potentials, strict=False)
    return len(there) == len(potentials) > 1 and all(a.record() == b.record() and a.same_weights(b) for a, b in pairs)


def errors_on_test(
    potentials: Mapping[str, Sequence[Path]], chosen: str, file: Path, left: Left, frames: StructureStore
) -> dict[str, list[dict[str, float | None]]]:
    """Errors on test frames: of each recipe's potentials, and of what was left of the chosen one's.

    These frames also calibrate the spread of a committee: no member knows them.

    Args:
        potentials: recipe -> files of its folds.
        chosen: recipe.
        file: what was left.
        left: its content.
        frames: with DFT labels.
    """
    from eipnn.evaluate.errors import maes  # here: they import torch
    from eipnn.evaluate.predict import Predictions, predict
    from eipnn.evaluate.spread import FEW, spreads, write_factors
    from eipnn.potential import Committee

    found, whole = {}, {}
    with progress_bar("test", sum(map(len, potentials.values())), "potentials") as advance:
        for recipe, files in potentials.items():
            predictions = {}
            for member in files:
                predictions[member] = predict(Committee.load(member), frames, shown=False)
                advance(1)
            found[recipe] = [maes(prediction.mean(), frames) for prediction in predictions.values()]
            if recipe == chosen:
                joined = Predictions.joined([predictions[member] for member in left.members])
                whole = {f"{FIRST if left.problem else COMMITTEE} {recipe}": [maes(joined.mean(), frames)]}
    if len(left.members) > 1:
        known = spreads(joined, frames)
        if made := write_factors(file, known):
            by = ", ".join(f"{name} {factor.value:.2f}" for name, factor in made.items())
            say(f"Spread of the committee, calibrated on the test frames by the factors: {by}")
        if few := [name for name in known if name not in made]:
            before = Committee.load(file).factors
            stays = ["calibrated as before" if name in before else "not calibrated" for name in few]
            said = ", ".join(f"{name} {how}" for name, how in zip(few, stays, strict=True))
            say(f"Spread of the committee: {said}, which takes {FEW} test frames with such labels")
    return found | whole


def errors_table(
    title: str, errors: Mapping[str, Sequence[Mapping[str, Any]]], scores: Mapping[str, Sequence[float]] | None = None
) -> Table:
    """Mean ± sample standard deviation over the folds.

    Args:
        title: what the errors are on.
        errors: recipe -> of each fold, error by name of the metric.
        scores: recipe -> of each fold, what the recipe is chosen by.
    """
    made = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True)
    made.add_column("recipe", no_wrap=True)
    shown = [m for m in SHOWN if any(e.get(m.name) is not None for mine in errors.values() for e in mine)]
    for metric in shown:
        made.add_column(metric.heading.replace(" (", "\n("), justify="right", no_wrap=True)
    if scores:
        made.add_column("val_error", justify="right", no_wrap=True)
    for recipe, mine in errors.items():
        cells = [spread([e[m.name] for e in mine if e[m.name] is not None], m.text) for m in shown]
        made.add_row(recipe, *cells, *([spread(scores[recipe], "{:.4f}".format)] if scores else []))
    return made


def spread(values: Sequence[float], text: Any) -> str:
    """Mean and, of several, sample standard deviation."""
    if not values:
        return ""
    return " ± ".join([text(np.mean(values)), *([text(np.std(values, ddof=1))] if len(values) > 1 else [])])


def next_steps(file: Path, problem: str | None, output: Path) -> list[str]:
    """How to use the potential, and what else there is; `problem` is why it is that of the first fold alone."""
    what = f"of the first fold; all have no mean ({problem})" if problem else "the committee of the folds"
    return [
        f"Potential: {file}, {what}. In ASE:",
        "    from eipnn import EIPNNCalculator",
        f'    atoms.calc = EIPNNCalculator("{file}")',
        f"Tables and pictures: `eipnn report {output}`",
        f"Experiment, to change and to give to `eipnn run`: {output / 'experiment.yaml'}",
    ]
