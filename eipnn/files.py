"""Small files, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any


def write_atomically(file: Path, text: str) -> None:
    """Write `text` beside `file` and move it into place, so that a reader never meets half of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def write_json(file: Path, content: Any) -> None:
    """`write_atomically` of indented JSON with sorted keys."""
    write_atomically(file, json.dumps(content, indent=2, sort_keys=True) + "\n")


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left of `write_atomically`. Only where no other process writes."""
    for part in folder.glob(".*.part"):
        part.unlink()
