"""Which installed KIM models cover given elements.

Models are loaded in a process of its own, in a scratch folder: one that crashes as it is loaded costs its own line
only, and what models print stays out of the table.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from eipnn.eips import kim
from eipnn.processes import interpreter


class Model(NamedTuple):
    """An installed KIM model. `problem` tells why it cannot be loaded; then the rest is empty."""

    name: str
    elements: tuple[str, ...] = ()
    cutoff: float = 0.0  # A, the model's influence distance
    problem: str = ""


def covering(elements: Sequence[str]) -> tuple[list[Model], list[Model]]:
    """The installed models that cover all of `elements`, and those that could not be loaded.

    Raises `EIPError` without kimpy.
    """
    names = kim.portable_models()
    models: list[Model] = []
    with TemporaryDirectory() as scratch:
        while rest := names[len(models) :]:
            models += (found := _probe_apart(rest, Path(scratch)))
            if len(found) < len(rest):
                models.append(Model(rest[len(found)], problem="crashes as it is loaded"))
    broken = [model for model in models if model.problem]
    return [m for m in models if set(elements) <= set(m.elements)], broken


def _probe_apart(names: list[str], scratch: Path) -> list[Model]:
    """What a process of its own finds about `names`, up to the first one that crashes it."""
    answers = scratch / "answers.jsonl"
    answers.write_text("", encoding="utf-8")
    command = interpreter("from eipnn.eips.installed import probe; probe()")
    subprocess.run(command, cwd=scratch, input="\n".join(names), text=True, capture_output=True, check=False)
    lines = map(json.loads, answers.read_text(encoding="utf-8").splitlines())
    return [Model(name, tuple(elements), cutoff, problem) for name, elements, cutoff, problem in lines]


def probe() -> None:
    """Write one answer for each model named on standard input, as soon as it is known."""
    with Path("answers.jsonl").open("w", encoding="utf-8") as answers:
        for name in sys.stdin.read().split():
            try:
                elements, cutoff = kim.elements_and_cutoff(name)
                model = Model(name, tuple(sorted(elements)), cutoff)
            except Exception as error:
                model = Model(name, problem=" ".join(str(error).split()))
            print(json.dumps(model), file=answers, flush=True)
