"""Download a published data set of the paper and write it as the files that `eipnn` takes.

python experiments/published/fetch.py NAME -o FOLDER        # NAME: ani-al, kim-si or agau; see README.md
"""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from sets import COMMAND
from sets.agau import AgAu
from sets.ani_al import AniAl
from sets.archive import unpack
from sets.base import PublishedSet
from sets.convert import MARKER, OUTPUTS, convert
from sets.download import obtain
from sets.kim_si import KimSi

from eipnn.command_line import script
from eipnn.errors import InputError
from eipnn.files import alone, digest_file

SETS: tuple[PublishedSet, ...] = (AniAl(), KimSi(), AgAu())
DOWNLOAD, STAGING, SCRATCH, LOCK = "download", ".converting", ".unpacked", ".lock"


def fetch(name: Annotated[str, [s.name for s in SETS]], *, output: Path, archive: list[Path] | None = None) -> None:
    """Download a published data set and write it as the files that the other commands take.

    These are dft.extxyz, pool.extxyz, labels and splits. What is done is skipped, a download that broke off goes on.
    The archives stay in OUTPUT/download; a file that was put there by hand is not downloaded. README.md beside
    this file tells of the sets.

    Args:
        name: the data set.
        output: folder of the files.
        archive: the published archive, its files or a folder with what it holds, instead of a download.
    """
    published = next(s for s in SETS if s.name == name)
    output.mkdir(parents=True, exist_ok=True)
    with alone(output / LOCK, output, "fetch.py"):
        make_files(published, output, archive or [])


def make_files(published: PublishedSet, folder: Path, archives: Sequence[Path]) -> None:
    """Make the files of a published set in `folder`, from `archives` or from a download.

    Raises `InputError` where the folder holds something else, and for what `obtain`, `unpack` and `convert` refuse.
    """
    if _done(published, folder):
        print(f"{folder}: {_summary(_about(folder))}; done before, skipped")
        return
    staging = folder / STAGING
    if not (staging / MARKER).exists():
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        sources = list(archives) or obtain(published, folder / DOWNLOAD)
        try:
            folders = unpack(sources, folder / SCRATCH)
            convert(published, folders, staging, [_source(path) for path in sources])
        finally:
            shutil.rmtree(folder / SCRATCH, ignore_errors=True)
    _publish(staging, folder)
    print(f"{folder}: {_summary(_about(folder))}")


def _done(published: PublishedSet, folder: Path) -> bool:
    """Whether the files are there. Raises `InputError` for those of another origin."""
    staged = (folder / STAGING / MARKER).exists()
    for place in (folder, folder / STAGING):
        if (place / MARKER).exists() and (there := _about(place)["name"]) != published.name:
            raise InputError(f"{folder}: holds the data set {there}; give another folder for {published.name}")
    if (folder / MARKER).exists():
        about = _about(folder)
        needed = ["dft.extxyz", "splits"]
        needed += ["pool.extxyz"] if about["configurations"]["pool"] else []
        needed += ["labels"] if about["eips"] else []
        return not staged and all((folder / name).exists() for name in needed)
    strangers = [name for name in OUTPUTS if (folder / name).exists()]
    if strangers and not staged:
        raise InputError(
            f"{folder / strangers[0]}: was not made by `{COMMAND}` and would be overwritten; give another folder"
        )
    return False


def _publish(staging: Path, folder: Path) -> None:
    """Move what is finished into place, the marker last; a run that is killed here is taken up by the next."""
    for path in sorted(staging.iterdir(), key=lambda path: path.name == MARKER):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        path.replace(target)
    staging.rmdir()


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        _summary(about)
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / MARKER}: damaged; remove it and fetch again") from None
    return about


def _summary(about: dict[str, Any]) -> str:
    counts = about["configurations"]
    return (
        f"{about['name']}, {counts['dft']:,} configurations with DFT, {counts['pool']:,} without, energies of "
        f"{len(about['eips'])} EIPs, splits {', '.join(about['splits'])}"
    )


def _source(path: Path) -> dict[str, Any]:
    if path.is_dir():
        return {"folder": path.name}
    return {"file": path.name, "size": path.stat().st_size, "sha256": digest_file(path)}


def main() -> int:
    """The command line; the exit code."""
    return script(fetch)


if __name__ == "__main__":
    sys.exit(main())
