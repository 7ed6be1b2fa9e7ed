"""Names of files -> files: `bundled:NAME`, patterns, lists; and the names that frames take from them."""

from collections import defaultdict
from collections.abc import Sequence
from glob import glob, has_magic
from importlib.resources import files
from itertools import product
from pathlib import Path

from eipnn.errors import InputError

BUNDLED = "bundled:"

PUBLISHED = ("ani-al", "kim-si", "agau")
"""Sets that `experiments/published` fetches."""

Paths = str | Path | Sequence[str | Path]
"""One file, or several; each may be a pattern or `bundled:NAME`."""


class StructureError(InputError):
    """A structure file that cannot be used; the message names file, frame and mend."""


def resolve(path: str | Path) -> Path:
    """The real path of `path`, where `bundled:NAME` is a file or folder of the package's own data.

    Raises `StructureError` where nothing is there.
    """
    found = _real(path)
    if not found.exists():
        raise StructureError(f"{path}: no such file; {fetch_hint(path) or 'check the path'}")
    return found


def fetch_hint(path: str | Path) -> str | None:
    """The command that makes the file `path`, if it lies in a folder named after a published set (`data/kim_si`)."""
    for folder in Path(path).parents:
        if (name := folder.name.replace("_", "-")) in PUBLISHED:
            return f"make it with `python experiments/published/fetch.py {name} -o {folder}`"
    return None


def resolve_all(paths: Paths) -> list[Path]:
    """The real paths of one file or several, patterns (`*`, `?`, `[...]`, `**`) in alphabetical order.

    Raises `StructureError` where nothing is there, and where a file is named twice.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        real = _real(path)
        if has_magic(str(path)) and not real.exists():
            matches = sorted(glob(str(real), recursive=True))  # noqa: PTH207  # Path.glob takes hidden files too
            if not matches:
                raise StructureError(f"{path}: matches no file; check the pattern")
            found += map(Path, matches)
        else:
            found.append(resolve(path))
    if not found:
        raise StructureError("no structure file is named; name at least one")
    check_different(found)
    return found


def check_different(files: Sequence[Path]) -> None:
    """Raise `StructureError` where a file is named twice."""
    seen: set[Path] = set()
    for file in files:
        if (place := file.resolve()) in seen:
            raise StructureError(f"{file}: is named twice; name every file once")
        seen.add(place)


def _real(path: str | Path) -> Path:
    text = str(path)
    if text.startswith(BUNDLED):
        return Path(str(files("eipnn"))) / "data" / text.removeprefix(BUNDLED)
    return Path(path)


def id_prefixes(paths: Sequence[Path]) -> dict[Path, str]:
    """What the ids of frames without an id of their own begin with, for each of several different files.

    It is the stem of the file's name. Where several files share it, as little more is added as tells them apart: the
    suffix, or folders above (`run1/OUTCAR` and `run2/OUTCAR` give `run1_OUTCAR` and `run2_OUTCAR`).
    """
    groups: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[path.stem].append(path)
    names: dict[Path, str] = {}
    for group in groups.values():
        folders = [path.parent.resolve().parts[1:] for path in group]
        for depth, name in product(range(max(map(len, folders)) + 1), ("stem", "name")):
            above = [parts[max(len(parts) - depth, 0) :] for parts in folders]
            chosen = ["_".join((*a, getattr(path, name))) for a, path in zip(above, group, strict=True)]
            if len(set(chosen)) == len(group):
                break
        else:
            raise StructureError(f"{group[0]}: its name is like another's; rename it or its folder")
        names |= dict(zip(group, chosen, strict=True))
    return {path: names[path] for path in paths}
