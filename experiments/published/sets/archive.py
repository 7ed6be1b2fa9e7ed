"""Archives -> folders, without a file outside of them."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from eipnn.errors import InputError
from eipnn.progress import progress_bar
from sets.progress import byte_bar

SUFFIXES = {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"}
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, OSError)


class ArchiveError(InputError):
    """An archive that is damaged, cut short, or wants to write outside of its folder."""


def unpack(sources: Sequence[Path], scratch: Path) -> list[Path]:
    """The folders that hold the content of `sources`: tar and zip archives, folders, single files.

    Folders are used where they are; the rest goes to `scratch`. Raises `ArchiveError`.
    """
    folders = []
    for number, source in enumerate(sources):
        if source.is_dir():
            folders.append(source)
            continue
        if not source.exists():
            raise ArchiveError(f"{source}: no such file or folder; check the path")
        folder = scratch / str(number)
        folder.mkdir(parents=True)
        try:
            _unpack_file(source, folder)
        except DAMAGE as error:
            raise ArchiveError(f"{source}: damaged or cut short ({error}); get it again") from error
        folders.append(folder)
    return folders


def _unpack_file(source: Path, folder: Path) -> None:
    if zipfile.is_zipfile(source):
        _unpack_zip(source, folder)
    elif tarfile.is_tarfile(source):
        _unpack_tar(source, folder)
    elif source.suffix in SUFFIXES:
        raise ArchiveError(f"{source}: is neither a tar nor a zip archive; get it again")
    else:
        shutil.copy(source, folder)


def _unpack_tar(source: Path, folder: Path) -> None:
    """Files and folders alone: a link could lead outside. (Python's own filter came with 3.11.4.)"""
    size = source.stat().st_size
    with source.open("rb") as stream, tarfile.open(fileobj=stream) as archive:
        done = 0
        with byte_bar(f"unpacking {source.name}", size) as advance:
            for member in archive:
                _check_name(member.name, source)
                if content := archive.extractfile(member) if member.isfile() else None:
                    path = folder / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as target:
                        shutil.copyfileobj(content, target)
                elif not member.isdir():
                    raise ArchiveError(
                        f"{source}: the member {member.name!r} is neither a file nor a folder; unpack it by hand "
                        "and name the folder"
                    )
                advance(stream.tell() - done)
                done = stream.tell()
            advance(size - done)


def _unpack_zip(source: Path, folder: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        for member in members:
            _check_name(member.filename.replace("\\", "/"), source)
        with progress_bar(f"unpacking {source.name}", len(members), "files") as advance:
            for member in members:
                archive.extract(member, folder)
                advance(1)


def _check_name(name: str, source: Path) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ArchiveError(f"{source}: the member {name!r} lies outside of it")
