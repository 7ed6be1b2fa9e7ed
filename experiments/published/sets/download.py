"""Published files: downloaded, resumed, checked; or put in place by hand."""

import json
import re
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from eipnn.errors import InputError
from eipnn.files import digest_file
from sets import COMMAND
from sets.base import PublishedSet, RemoteFile, UnreachableError
from sets.progress import byte_bar

CHUNK = 1 << 20  # bytes
TIMEOUT = 60.0  # s without an answer
PART = ".part"


class DownloadError(InputError):
    """A download that was cut off, or that is not what was published."""


def obtain(published: PublishedSet, folder: Path) -> list[Path]:
    """The published files in `folder`; those that are not there are downloaded.

    Files that were put there by hand are taken: under their published names or, where these cannot be found out, all.
    Raises `UnreachableError` where nothing is there and nothing can be downloaded, with what to do by hand, and
    `DownloadError` for a file that is cut off or is not what was published.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        remote = published.remote_files()
    except UnreachableError as error:
        if not (found := _put_by_hand(folder)):
            raise UnreachableError(f"{error}. {_by_hand(published.page, folder / 'FILE', published)}") from error
        print(f"{error}: taking what is in {folder}, without a list to compare it with")
        for path in found:
            print(f"{path}: SHA-256 {digest_file(path)}")
        return found
    return [_obtained(file, folder, published) for file in remote]


def _obtained(file: RemoteFile, folder: Path, published: PublishedSet) -> Path:
    path = folder / file.name
    if path.exists():
        check(file, path)
        return path
    try:
        download(file, path)
    except UnreachableError as error:
        raise UnreachableError(f"{error}. {_by_hand(file.url, path, published)}") from error
    return path


def _put_by_hand(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != PART)


def _by_hand(url: str, path: Path, published: PublishedSet) -> str:
    return (
        f"By hand: download {url} on any machine, put it at {path} and give the same command again, or name it: "
        f"`{COMMAND} {published.name} -o {path.parent.parent} --archive FILE`"
    )


def download(file: RemoteFile, path: Path) -> None:
    """Download to `path`, going on from `path` + `.part` where a part is there already.

    The part takes its final name when it is whole and, where the publisher states size and MD5 sum, has these.
    """
    part = path.with_name(path.name + PART)
    start = part.stat().st_size if part.exists() else 0
    try:
        with _open(file.url, start) as answer:
            if start and answer.status != HTTPStatus.PARTIAL_CONTENT:
                print(f"{file.url}: the server does not resume, starting anew")
                start = 0
            total = _receive(answer, part, start)
    except HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        error.close()
        total = start  # there is no byte behind the part: it is whole, or of another file
        if _range_total(error.headers.get("Content-Range")) not in (None, start):
            part.unlink()
            raise DownloadError(
                f"{part}: was the part of another file and is removed; give the same command again"
            ) from None
    except (OSError, HTTPException) as error:
        raise _broken_off(file.url, part, str(error) or type(error).__name__) from error
    if total is not None and (got := part.stat().st_size) != total:
        raise _broken_off(file.url, part, f"{got:,} of {total:,} bytes came")
    check(file, part)
    part.replace(path)


def _broken_off(url: str, part: Path, reason: str) -> DownloadError:
    return DownloadError(f"{url}: broken off ({reason}); the same command goes on from {part}")


def _receive(answer: HTTPResponse, part: Path, start: int) -> int | None:
    """Append the answer to the part; the size that is due for the whole file, None where the server does not say."""
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    with part.open("ab" if start else "wb") as stream, byte_bar(part.stem, total, start) as advance:
        while block := answer.read(CHUNK):
            stream.write(block)
            advance(len(block))
    return total


def _range_total(header: str | None) -> int | None:
    """The N of `Content-Range: bytes */N`."""
    found = re.fullmatch(r"bytes \*/(\d+)", header or "")
    return int(found[1]) if found else None


def _open(url: str, start: int = 0) -> HTTPResponse:
    """Ask for `url` from byte `start` on."""
    headers = {"User-Agent": "eipnn", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        answer: HTTPResponse = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        raise UnreachableError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (URLError, OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(f"{url}: cannot be reached ({reason})") from error
    if answer.status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        answer.close()
        raise UnreachableError(f"{url}: the server answers {answer.status} {answer.reason}")
    return answer


def read_json_of(url: str) -> Any:
    """The JSON that a server answers. Raises `UnreachableError` where it does not."""
    with _open(url) as answer:
        try:
            return json.load(answer)
        except (ValueError, OSError, HTTPException) as error:
            raise UnreachableError(f"{url}: answers something other than JSON") from error


def check(file: RemoteFile, path: Path) -> None:
    """Compare a whole file with what the publisher states of it.

    Raises `DownloadError` for another size or MD5 sum; a part is removed then, so that the next run starts anew.
    """
    if not (wrong := _difference(file, path)):
        return
    if path.suffix == PART:
        path.unlink()
        mend = "it is removed, give the same command again"
    else:
        mend = "remove it and give the same command again"
    raise DownloadError(f"{path}: {wrong} is published; {mend}")


def _difference(file: RemoteFile, path: Path) -> str | None:
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"has {size:,} bytes, and a file of {file.size:,} bytes"
    if not file.md5:
        print(f"{path.name}: SHA-256 {digest_file(path)}; no checksum is published to compare it with")
    elif (found := digest_file(path, "md5")) != file.md5:
        return f"has the MD5 sum {found}, and {file.md5}"
    return None
