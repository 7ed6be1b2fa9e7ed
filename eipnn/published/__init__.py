"""The published data sets of Shui et al. (arXiv 2210.08047): downloaded, read, written as eipnn's own files."""

from pathlib import Path

NAMES = ("ani-al", "kim-si", "agau")


def fetch_hint(path: str | Path) -> str | None:
    """The command that makes the file `path`, if it lies in a folder named after a published set (`data/kim_si`)."""
    for folder in Path(path).parents:
        if (name := folder.name.replace("_", "-")) in NAMES:
            return f"make it with `eipnn fetch {name} -o {folder}`"
    return None
