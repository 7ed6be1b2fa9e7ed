"""Which recipe is taken, by validation over the folds, and what it reached."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Recipe = Literal["baseline", "mp", "la", "mp+la", "delta", "mp+delta"]
RECIPES: tuple[str, ...] = get_args(Recipe)
"""The simplest first. Delta learning comes last: its potentials need their teacher in every simulation."""
PREFERRED: tuple[str, ...] = ("mp", *(recipe for recipe in RECIPES if recipe != "mp"))
"""Where validation cannot tell. Pretraining comes first: what teachers show of other structures than those for
validation, such as larger cells, does not count there (experiments/results/forces: with few frames of silicon it gains
much on these, with aluminium nothing)."""

CHANCE = 2.0
"""Standard errors within which validation cannot tell: of four folds chance exceeds one in two cases of five (Student's
t), two in one case of seven."""


class Choice(NamedTuple):
    """A recipe, and the one with the lowest mean error, which may be another."""

    recipe: str
    lowest: str
    difference: float
    """Mean over the folds of the error of the first other recipe (or of `recipe`, where it is not the lowest) less
    that of the lowest; 0 where there is one recipe."""
    error: float
    """Standard error of the difference over the folds."""
    other: str
    """What the lowest was compared with."""


def choose(scores: Mapping[str, Sequence[float]]) -> Choice:
    """The recipe with the lowest mean validation error or, where others are not worse by more than `CHANCE` standard
    errors of their difference, the first of these in `PREFERRED`.

    Args:
        scores: recipe -> validation errors of K folds, the same folds in the same order.
    """
    order = [recipe for recipe in PREFERRED if recipe in scores]
    lowest = min(order, key=lambda recipe: float(np.mean(scores[recipe])))
    found = {recipe: _difference(scores[recipe], scores[lowest]) for recipe in order}
    taken = next(recipe for recipe in order if found[recipe][0] <= CHANCE * found[recipe][1] or recipe == lowest)
    other = taken if taken != lowest else next((recipe for recipe in order if recipe != lowest), lowest)
    return Choice(taken, lowest, *found[other], other)


def _difference(mine: Sequence[float], lowest: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error of paired differences."""
    apart = np.subtract(mine, lowest)
    return float(apart.mean()), float(apart.std(ddof=1) / np.sqrt(len(apart)))


def sentence(choice: Choice, folds: int) -> str:
    """The choice in words."""
    if choice.other == choice.lowest:
        return f"{choice.recipe} is the only recipe."
    apart = f"by {choice.difference:.4f} ± {choice.error:.4f} (standard error over {folds} folds)"
    lower = f"{choice.lowest} has a lower mean validation error than {choice.other} {apart}"
    if choice.recipe == choice.lowest:
        return f"{lower}: {choice.recipe} is taken."
    return f"{lower}, which is within {CHANCE:g} of these: {choice.recipe} is taken."


def by_recipe(results: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The results of an `eipnn run` by recipe, the simplest first, in order of the folds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for result in sorted(results, key=lambda r: (RECIPES.index(r["strategy"]), r["split"])):
        found.setdefault(result["strategy"], []).append(result)
    return found
