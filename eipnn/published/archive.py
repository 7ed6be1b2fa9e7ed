"""Archives -> folders, without a file outside of them."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from eipnn.errors import InputError
from eipnn.progress import byte_bar, progress_bar

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
    size = source.stat().st_size
    with source.open("rb") as stream, tarfile.open(fileobj=stream) as archive:
        done = 0
        with byte_bar(f"unpacking {source.name}", size) as advance:
            for member in archive:
                archive.extract(member, folder, filter="data")
                advance(stream.tell() - done)
                done = stream.tell()
            advance(size - done)


def _unpack_zip(source: Path, folder: Path) -> None:
    with zipfile.ZipFile(source) as archive:
        members = archive.infolist()
        for member in members:
            path = PurePosixPath(member.filename.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts:
                raise ArchiveError(f"{source}: the member {member.filename!r} lies outside of it")
        with progress_bar(f"unpacking {source.name}", len(members), "files") as advance:
            for member in members:
                archive.extract(member, folder)
                advance(1)
