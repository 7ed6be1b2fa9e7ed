"""The scripts of `experiments/paper`, loaded by their paths."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

FOLDER = Path(__file__).parents[1] / "experiments" / "paper"


def script(name: str) -> SimpleNamespace:
    """What a script defines."""
    return SimpleNamespace(**runpy.run_path(str(FOLDER / f"{name}.py")))


def call(loaded: SimpleNamespace, *arguments: str) -> None:
    """Its command line."""
    with patch.object(sys, "argv", [loaded.__file__, *arguments]):
        loaded.main()
