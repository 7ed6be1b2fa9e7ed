"""All that a generated structure is a function of, besides its kind and number."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eipnn.eips import EIP
from eipnn.errors import InputError
from eipnn.generate.distance import DistanceRule
from eipnn.generate.parents import Frame, Prototype

SETTINGS = {
    "rattle": ("max_atoms", "rattle_max"),
    "strain": ("strain_max", "volumes"),
    "packed": ("max_atoms", "strain_max", "volumes"),
    "md": ("max_atoms", "eip", "temperatures", "timestep", "md_steps"),
}
"""What structures of each kind depend on, in the order of the file."""
KINDS = tuple(SETTINGS)
"""A kind's place seeds its random numbers, so that it never changes."""
FORM = 1  # raised where the same recipe comes to give other structures


@dataclass(frozen=True)
class Recipe:
    """What structures are made from, and how: the options of `eipnn generate`, which tells of each.

    Where there are frames and prototypes, half of the structures come from each. No structure goes below the distances
    of `rule`.
    """

    frames: Sequence[Frame]
    prototypes: Sequence[Prototype]
    rule: DistanceRule
    seed: int = 0
    max_atoms: int = 32
    rattle_max: float = 0.3  # A
    strain_max: float = 0.1  # before the volume is scaled
    volumes: tuple[float, float] = (0.85, 1.25)  # relative to the parent's
    eip: EIP | None = None
    temperatures: tuple[float, float] = (300.0, 1500.0)  # K
    timestep: float = 2.0  # fs
    md_steps: int = 200

    def rng(self, kind: str, number: int) -> np.random.Generator:
        """The random numbers of one structure (of `md`: of one trajectory)."""
        return np.random.default_rng([self.seed, KINDS.index(kind), number])

    def parents(self, kind: str) -> tuple[Sequence[Frame], Sequence[Prototype]]:
        """Frames and prototypes that suit a kind; raises `InputError` where there are none."""
        frames = self.frames
        if kind == "packed":
            frames = [frame for frame in frames if frame.dense]
        if not frames and not self.prototypes:
            raise InputError(
                f"{kind}: the density is that of frames which are periodic along all axes and hold no vacuum, and "
                "there are none; give such frames, or --elements"
            )
        return frames, self.prototypes

    def pick(self, kind: str, rng: np.random.Generator) -> Frame | Prototype:
        """A parent drawn at random."""
        sources = [source for source in self.parents(kind) if source]
        source = sources[rng.integers(len(sources))]
        return source[int(rng.integers(len(source)))]

    def digest(self, kind: str) -> str:
        """A short text that differs where structures of this kind differ. No number, whoever reads it."""
        parents = [parent.description() for source in self.parents(kind) for parent in source]
        rule = hashlib.sha256(self.rule.shortest.tobytes()).hexdigest()
        if kind == "md" and self.eip is None:
            raise InputError("md: needs a potential; give --eip")
        settings = [getattr(self, key) for key in SETTINGS[kind]]
        content = json.dumps([FORM, kind, self.seed, rule, settings, parents], default=EIP.description)
        return "r" + hashlib.sha256(content.encode()).hexdigest()[:12]
