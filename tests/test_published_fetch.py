"""Downloads from a server of this test: whole, resumed, cut off, changed; and what is said without one."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sets import COMMAND
from sets.agau import AgAu
from sets.ani_al import AniAl
from sets.base import PublishedSet, RemoteFile, UnreachableError
from sets.download import DownloadError, download, obtain
from sets.kim_si import KimSi

CONTENT = bytes(range(256)) * 40
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `files`; `ranges`: whether it resumes; `cut`: number of bytes after which it hangs up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/data.tgz": CONTENT}
        self.ranges = True
        self.cut: int | None = None
        self.status: int | None = None
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append(asked)
        content = self.server.files.get(self.path)
        if content is None or self.server.status:
            self.send_response(self.server.status or 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = 0
        if asked and self.server.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def server(running) -> Server:
    fresh(running)
    return running


def fresh(server: Server) -> None:
    server.files = {"/data.tgz": CONTENT}
    server.ranges, server.cut, server.status, server.asked = True, None, None, []


def remote(server: Server, **stated) -> RemoteFile:
    return RemoteFile("data.tgz", f"{server.url}/data.tgz", **stated)


class Set(AniAl):
    """A set whose only file is on the server of this test."""

    def __init__(self, *files: RemoteFile) -> None:
        self.files = list(files)

    def remote_files(self) -> list[RemoteFile]:
        return self.files


def test_a_whole_file(server, tmp_path, capsys):
    file = remote(server, size=len(CONTENT), md5=MD5)
    assert obtain(Set(file), tmp_path) == [tmp_path / "data.tgz"]
    assert (tmp_path / "data.tgz").read_bytes() == CONTENT
    assert "SHA-256" not in capsys.readouterr().out
    obtain(Set(file), tmp_path)
    assert len(server.asked) == 1  # what is there is not downloaded again
    assert not list(tmp_path.glob("*.part"))


def test_what_is_found_is_said_where_nothing_is_published_to_compare_with(server, tmp_path, capsys):
    download(remote(server), tmp_path / "data.tgz")
    out = capsys.readouterr().out
    assert hashlib.sha256(CONTENT).hexdigest() in out
    assert "no checksum is published" in out


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, len(CONTENT) - 1), max_size=4), ranges=st.booleans())
def test_however_often_it_is_cut_off_it_becomes_whole(running, tmp_path_factory, cuts, ranges):
    fresh(running)
    running.ranges = ranges
    path = tmp_path_factory.mktemp("cut") / "data.tgz"
    part = path.with_name("data.tgz.part")
    for cut in cuts:
        before = part.stat().st_size if part.exists() and ranges else 0
        running.cut = cut
        if before + cut >= len(CONTENT):
            continue
        with pytest.raises(DownloadError, match=r"broken off .* the same command goes on"):
            download(remote(running, md5=MD5), path)
        assert not path.exists()
        assert part.stat().st_size == before + cut
    running.cut, running.asked = None, []
    there = part.stat().st_size if part.exists() else 0
    download(remote(running, md5=MD5), path)
    assert path.read_bytes() == CONTENT
    assert running.asked == [f"bytes={there}-" if there else None]


def test_a_server_that_does_not_resume_is_told_of(server, tmp_path, capsys):
    server.ranges = False
    (tmp_path / "data.tgz.part").write_bytes(CONTENT[:1000])
    download(remote(server, md5=MD5), tmp_path / "data.tgz")
    assert (tmp_path / "data.tgz").read_bytes() == CONTENT
    assert "does not resume, starting anew" in capsys.readouterr().out


def test_a_part_that_is_whole_already(server, tmp_path):
    (tmp_path / "data.tgz.part").write_bytes(CONTENT)
    download(remote(server, md5=MD5), tmp_path / "data.tgz")
    assert (tmp_path / "data.tgz").read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file(server, tmp_path):
    part = tmp_path / "data.tgz.part"
    part.write_bytes(CONTENT + b"more")
    with pytest.raises(DownloadError, match="the part of another file and is removed"):
        download(remote(server, md5=MD5), tmp_path / "data.tgz")
    assert not part.exists()


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"size": len(CONTENT) - 1}, r"has 10,240 bytes, and a file of 10,239 bytes is published"),
        ({"md5": "0" * 32}, f"has the MD5 sum {MD5}, and {'0' * 32} is published"),
    ],
)
def test_another_file_than_is_published(server, tmp_path, stated, message):
    with pytest.raises(DownloadError, match=f"{message}; it is removed"):
        download(remote(server, **stated), tmp_path / "data.tgz")
    assert not list(tmp_path.iterdir())
    (tmp_path / "data.tgz").write_bytes(CONTENT)  # put there by hand: a person removes it
    with pytest.raises(DownloadError, match=f"{message}; remove it"):
        obtain(Set(remote(server, **stated)), tmp_path)
    assert (tmp_path / "data.tgz").exists()


@pytest.mark.parametrize(("status", "said"), [(404, "answers 404"), (202, "answers 202"), (500, "answers 500")])
def test_an_answer_without_the_file(server, tmp_path, status, said):
    server.status = status
    with pytest.raises(UnreachableError, match=said):
        obtain(Set(remote(server)), tmp_path / "out" / "download")


def test_without_a_network_it_is_said_what_to_do(tmp_path):
    file = RemoteFile("data.tgz", "http://127.0.0.1:9/data.tgz")
    folder = tmp_path / "al" / "download"
    with pytest.raises(UnreachableError) as error:
        obtain(Set(file), folder)
    for part in (
        "cannot be reached",
        f"download {file.url} on any machine, put it at {folder / 'data.tgz'}",
        f"{COMMAND} ani-al -o {tmp_path / 'al'} --archive FILE",
    ):
        assert part in str(error.value)
    (folder / "data.tgz").write_bytes(CONTENT)
    assert obtain(Set(file), folder) == [folder / "data.tgz"]


def figshare(server: Server, monkeypatch: pytest.MonkeyPatch, answer: object) -> PublishedSet:
    server.files["/article"] = json.dumps(answer).encode()
    monkeypatch.setattr(KimSi, "listing", f"{server.url}/article")
    return KimSi()


def test_the_files_that_figshare_lists(server, tmp_path, monkeypatch):
    """Names, sizes and MD5 sums come from there; a name with a path stays in the folder."""
    listed = {
        "name": "../data.tgz", "size": len(CONTENT), "computed_md5": MD5, "download_url": f"{server.url}/data.tgz",
    }  # fmt: skip
    published = figshare(server, monkeypatch, {"files": [listed]})
    assert published.remote_files() == [remote(server, size=len(CONTENT), md5=MD5)]
    assert obtain(published, tmp_path / "in") == [tmp_path / "in" / "data.tgz"]


@pytest.mark.parametrize("answer", [{}, [], {"files": [{"name": "x"}]}])
def test_a_listing_that_is_none(server, tmp_path, monkeypatch, answer):
    with pytest.raises(UnreachableError, match=r"without a list of files.*21266064.*--archive"):
        obtain(figshare(server, monkeypatch, answer), tmp_path)


def test_a_set_without_an_address(tmp_path, capsys):
    with pytest.raises(UnreachableError, match=r"aissquare.*By hand: download https://www\.aiss"):
        obtain(AgAu(), tmp_path)
    (tmp_path / "half.zip.part").write_bytes(b"")
    (tmp_path / "AgAu.zip").write_bytes(CONTENT)
    assert obtain(AgAu(), tmp_path) == [tmp_path / "AgAu.zip"]
    assert hashlib.sha256(CONTENT).hexdigest() in capsys.readouterr().out
