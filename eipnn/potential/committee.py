"""Several potentials as one: a committee, whose mean is taken and whose spread tells how sure that is."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eipnn.eips.in_cell import InCell
from eipnn.eips.recorded import restore, same
from eipnn.errors import InputError
from eipnn.files import check_not_read
from eipnn.inputs import AtomicGraph
from eipnn.potential.checkpoints import COMMITTEE, CheckpointError, check_state, read_content
from eipnn.potential.potential import Potential
from eipnn.tensor_files import write_tensors
from eipnn.version import __version__

SPREADS = ("energy", "forces", "stress")
"""The properties whose spread is told."""


class Factor(NamedTuple):
    """By what a spread is multiplied to be the standard deviation of the error (`eipnn.evaluate.spread`)."""

    value: float
    frames: int
    """By how many labelled frames it was found."""


class Committee:
    """Potentials whose mean is taken; one alone has no spread.

    Args:
        potentials: of the same elements, the same mode of the energy zero and, with delta learning, the same EIP.
        factors: of the spread of some of `SPREADS`; without one it is left as it is.
        names: of the potentials in messages.

    Raises:
        InputError: there is none, or one of another kind than the first.
    """

    def __init__(
        self,
        potentials: Sequence[Potential],
        factors: Mapping[str, Factor] | None = None,
        names: Sequence[str | Path] = (),
    ) -> None:
        self.potentials, self.factors = list(potentials), dict(factors or {})
        self.names = [str(name) for name in names] or [f"potential {k}" for k in range(1, len(potentials) + 1)]
        self._check()

    def _check(self) -> None:
        if not self.potentials:
            raise InputError("no checkpoint of a potential is given")
        first = self.potentials[0]
        for name, other in zip(self.names[1:], self.potentials[1:], strict=True):
            differ = {
                "elements": set(first.elements) != set(other.elements),
                "energy zero": first.zeros.get("dft", {}).get("mode") != other.zeros.get("dft", {}).get("mode"),
                "EIP under it": not same(first.eip, other.eip),
            }
            for what, apart in differ.items():
                if apart:
                    raise InputError(f"{name}: trained with another {what} than {self.names[0]}; give equals")

    def __len__(self) -> int:
        return len(self.potentials)

    @property
    def elements(self) -> list[str]:
        """Symbols of all elements in the training data."""
        return self.potentials[0].elements

    def graphs(self, frames: Sequence[Atoms]) -> list[AtomicGraph]:
        """What each member's `Potential.predict` takes, of these structures; members of one kind of input share it."""
        made: dict[str, AtomicGraph] = {}
        keys = [potential.representation.inputs.key() for potential in self.potentials]
        for key, potential in zip(keys, self.potentials, strict=True):
            if key not in made:
                made[key] = potential.graph(frames)
        return [made[key] for key in keys]

    def eip(self, given: Calculator | None = None) -> InCell | None:
        """The EIP under delta learning, made as it is recorded, or the given one; None without delta learning.

        Raises `InputError` where it cannot be made, or where another one is given than the one of the training.
        """
        recorded = self.potentials[0].eip
        if recorded is None and given is not None:
            raise InputError(f"{self.names[0]}: was not trained on top of an EIP: give none")
        try:
            return None if recorded is None else restore(recorded, given)
        except InputError as error:
            raise InputError(f"{self.names[0]}: {error}") from error

    def spread(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`deviations` times the `factors`."""
        factors = {f"{name}_std": factor.value for name, factor in self.factors.items()}
        return {name: factors.get(name, 1.0) * values for name, values in deviations(found).items()}

    def save(self, file: str | Path) -> None:
        """Write one file that `load` reads: plain values and tensors, whole or not at all."""
        factors = {name: factor._asdict() for name, factor in self.factors.items()}
        members = [potential.content() for potential in self.potentials]
        write_tensors(Path(file), {COMMITTEE: members, "factors": factors, "version": __version__})

    @classmethod
    def load(cls, files: str | Path | Sequence[str | Path]) -> Self:
        """The members of a file, or of several together, on the CPU; a single potential is one member.

        Factors are those of a single file: of another committee the spread is another one.

        Raises:
            CheckpointError: a file is absent, damaged, not eipnn's, of another stage, or does not fit the code.
            InputError: see the class.
        """
        files = [files] if isinstance(files, str | Path) else list(files)
        potentials: list[Potential] = []
        names: list[str] = []
        factors: dict[str, Factor] = {}
        for file in files:
            members, factors = _read(file)
            names += [f"{file}: member {k}" for k in range(1, len(members) + 1)] if len(members) > 1 else [str(file)]
            potentials += [Potential.of(*pair) for pair in zip(members, names[len(potentials) :], strict=True)]
        return cls(potentials, factors if len(files) == 1 else None, names)


def deviations(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sample standard deviations over the members, as ``energy_std`` and so on.

    Args:
        found: of some of `SPREADS`, forces among them, what each of the m members says (m, ...).

    Returns:
        without the first axis; of forces (m, N, 3) the norm over the components, (N,).
    """
    spread = {f"{name}_std": np.std(found[name], axis=0, ddof=1) for name in SPREADS if name in found}
    return spread | {"forces_std": np.linalg.norm(spread["forces_std"], axis=-1)}


def _read(file: str | Path) -> tuple[list[dict[str, Any]], dict[str, Factor]]:
    """What a file holds of each member, and the factors of the spread."""
    content = read_content(file)
    if COMMITTEE not in content:
        return [check_state(content, file)], {}
    try:
        members = [check_state(member, file) for member in content[COMMITTEE]]
        factors = {str(name): Factor(**factor) for name, factor in content["factors"].items()}
        fine = bool(members) and set(factors) <= set(SPREADS)
        if not (fine and all(0 < factor.value < np.inf and factor.frames > 0 for factor in factors.values())):
            raise ValueError("members or factors")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: not a committee as eipnn writes it ({error}); make it again") from error
    return members, factors


def committee(potentials: list[Path], *, output: Path = Path("committee.pt")) -> None:
    """Write one file that holds several fine-tuned potentials: their mean is taken wherever it is used.

    Args:
        potentials: checkpoints of the fine-tuning stage, potentials or committees.
        output: the file.
    """
    check_not_read(output, potentials)
    made = Committee.load(potentials)
    if any(one.same_weights(other) for one, other in combinations(made.potentials, 2)):
        raise InputError("two of the potentials are the same, of which the spread would be too small: give each once")
    made.save(output)
    print(f"{output}: {len(made)} potentials of {', '.join(made.elements)}")
