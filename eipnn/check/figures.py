"""What a section finds: figures with the limits that judge them, and what its picture shows."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isnan, nan
from typing import Any, NamedTuple

VERDICTS = ("good", "fair", "bad")


class Limits(NamedTuple):
    """Where a value begins to be bad and where it ceases to be good; `bad` may be the lower one."""

    good: float
    bad: float

    def verdict(self, value: float) -> str:
        """One of `VERDICTS`."""
        sign = 1 if self.good < self.bad else -1
        if sign * value >= sign * self.bad:
            return "bad"
        return "good" if sign * value <= sign * self.good else "fair"

    def __str__(self) -> str:
        return f"{self.good:.3g} / {self.bad:.3g}"


@dataclass(frozen=True)
class Figure:
    """One value.

    Args:
        key: as in a file of reference values.
        of: crystal, pair or whatever else it is of.
        value: NaN where it could not be found.
        unit: of the value.
        limits: of the value itself.
        against: of its distance from a reference value, in the same unit.
        note: what there is to know, in a few words.
    """

    key: str
    of: str
    value: float
    unit: str = ""
    limits: Limits | None = None
    against: Limits | None = None
    note: str = ""

    def verdict(self, given: float = nan) -> str:
        """The worse of both; empty where nothing judges it, bad without a value. `given` is the reference value."""
        if isnan(self.value):
            return "bad"
        own = [self.limits.verdict(self.value)] if self.limits else []
        apart = [self.against.verdict(abs(self.value - given))] if self.against and not isnan(given) else []
        return worst([*own, *apart])


@dataclass(frozen=True)
class Found:
    """What a section finds by one calculator: its figures, and for its picture arrays by crystal, pair, ..."""

    figures: list[Figure] = field(default_factory=list)
    curves: Mapping[str, Any] = field(default_factory=dict)

    def value(self, figure: Figure) -> float:
        """The value of the same figure here; NaN without one."""
        return next((f.value for f in self.figures if (f.key, f.of) == (figure.key, figure.of)), nan)


class NotRun(Exception):
    """A section cannot be run here; the message says why, and the mend."""


def worst(verdicts: Iterable[str]) -> str:
    """The worst of verdicts; empty where none is one."""
    return max((v for v in verdicts if v), key=VERDICTS.index, default="")
