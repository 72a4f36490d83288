from __future__ import annotations

import errno
import hashlib
import http.server
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import edgeseg.download as module
from edgeseg.download import download, fetch_weights
from edgeseg.errors import EdgesegError

DATA = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves ``data`` at every path; the attributes say how it misbehaves."""

    data, etag, ranges, length = DATA, '"one"', True, True
    cut_after: int | None = None
    cuts, fails, status = 0, 0, 503
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[SimpleNamespace] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        s, asked = self.server, self.headers.get("Range")
        s.requests.append(SimpleNamespace(range=asked, guard=self.headers.get("If-Range"), path=self.path))
        if s.fails:
            s.fails -= 1
            self.send_error(s.status)
            return
        start = 0
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if match and s.ranges and self.headers.get("If-Range") in (None, s.etag):
            start = int(match.group(1))
            if start >= len(s.data):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(s.data) - 1}/{len(s.data)}")
        else:
            self.send_response(200)
        if s.etag:
            self.send_header("ETag", s.etag)
        if s.length:
            self.send_header("Content-Length", str(len(s.data) - start))
        self.end_headers()
        body = s.data[start:]
        if s.cuts:
            s.cuts -= 1
            body = body[: s.cut_after]
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "_pause", lambda attempt: 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as s:
        thread = threading.Thread(target=s.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield s
        s.shutdown()
        thread.join()


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_whole_file_and_its_digest(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = download(server.url, tmp_path / "new" / "file.bin")
    assert path.read_bytes() == DATA and left(path.parent) == ["file.bin", "file.bin.sha256"]
    assert (path.parent / "file.bin.sha256").read_text() == f"{DIGEST}  file.bin\n"
    assert "no SHA-256 to compare with" in capfd.readouterr().err
    download(server.url, path)
    assert len(server.requests) == 1, "a file that is there is not fetched again"
    path.unlink()
    download(server.url, path)
    server.data = DATA[:-1] + b"x"
    path.unlink()
    with pytest.raises(EdgesegError, match="SHA-256"):
        download(server.url, path)
    assert left(path.parent) == ["file.bin.sha256"]


def test_known_digest(server: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = download(server.url, tmp_path / "a.bin", sha256=DIGEST.upper())
    assert left(tmp_path) == ["a.bin"] and not capfd.readouterr().err
    path.unlink()
    with pytest.raises(EdgesegError, match="expected 0000") as error:
        download(server.url, path, sha256="0" * 64)
    assert "a.bin" in str(error.value) and "put it here" in error.value.hint and left(tmp_path) == []
    with pytest.raises(EdgesegError, match="no SHA-256"):
        download(server.url, path, sha256="abc")
    (tmp_path / "a.bin.sha256").write_text("nonsense")
    with pytest.raises(EdgesegError, match="holds no SHA-256"):
        download(server.url, path)


def test_a_cut_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.cuts = 300_000, 2
    path = download(server.url, tmp_path / "file.bin", sha256=DIGEST)
    assert path.read_bytes() == DATA and left(tmp_path) == ["file.bin"]
    assert [r.range for r in server.requests] == [None, "bytes=300000-", "bytes=600000-"]
    assert server.requests[1].guard == '"one"'


def test_the_next_call_resumes(server: Server, tmp_path: Path) -> None:
    server.cut_after, server.cuts = 200_000, 4
    with pytest.raises(EdgesegError, match="ended after 800000 of 1024000 bytes"):
        download(server.url, tmp_path / "file.bin")
    assert left(tmp_path) == ["file.bin.part", "file.bin.part.tag"]
    assert download(server.url, tmp_path / "file.bin").read_bytes() == DATA
    assert server.requests[-1].range == "bytes=800000-"


@pytest.mark.parametrize("change", [{"ranges": False}, {"etag": '"two"'}])
def test_no_resume_onto_something_else(server: Server, tmp_path: Path, change: dict[str, Any]) -> None:
    """A server that ignores Range, or that has a new version, sends the whole file, and the part is dropped."""
    server.cut_after, server.cuts = 200_000, 4
    server.ranges = True
    with pytest.raises(EdgesegError):
        download(server.url, tmp_path / "file.bin")
    for key, value in change.items():
        setattr(server, key, value)
    server.data = DATA[::-1]
    assert download(server.url, tmp_path / "file.bin").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("etag", ["", 'W/"weak"'])
def test_without_a_strong_tag_it_starts_over(server: Server, tmp_path: Path, etag: str) -> None:
    server.etag, server.cut_after, server.cuts = etag, 1000, 1
    assert download(server.url, tmp_path / "file.bin").read_bytes() == DATA
    assert [r.range for r in server.requests] == [None, None]


def test_a_part_longer_than_the_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(DATA + b"more")
    (tmp_path / "file.bin.part.tag").write_text('"one"')
    assert download(server.url, tmp_path / "file.bin", sha256=DIGEST).read_bytes() == DATA


def test_unknown_length(server: Server, tmp_path: Path) -> None:
    server.length = False
    assert download(server.url, tmp_path / "file.bin", sha256=DIGEST).read_bytes() == DATA


def test_server_errors(server: Server, tmp_path: Path) -> None:
    server.fails = 2
    assert download(server.url, tmp_path / "file.bin").read_bytes() == DATA
    server.fails, server.status = 1, 404
    with pytest.raises(EdgesegError, match="answers 404") as error:
        download(server.url, tmp_path / "other.bin")
    assert str(tmp_path / "other.bin") in error.value.hint and "other.bin.part" not in left(tmp_path)
    server.fails, server.status = 99, 500
    with pytest.raises(EdgesegError, match="answers 500"):
        download(server.url, tmp_path / "other.bin")


def test_offline_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_pause", lambda attempt: 0.0)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
        monkeypatch.setenv("EDGESEG_WEIGHTS_URL", url)
        monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
        with pytest.raises(EdgesegError, match="cannot be reached") as error:
            fetch_weights("yolov8n-seg.pt")
    assert f"{url}/yolov8n-seg.pt" in str(error.value)
    assert str(tmp_path / "home" / "weights" / "yolov8n-seg.pt") in error.value.hint
    assert left(tmp_path / "home" / "weights") == []


def test_only_http(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="no http"):
        download("file:///etc/passwd", tmp_path / "x")


def full(*args: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_disk_full(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(EdgesegError, match="disk is full"):
            download(server.url, tmp_path / "file.bin")
    assert left(tmp_path) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    with pytest.raises(EdgesegError, match="disk is full"):
        download(server.url, tmp_path / "file.bin")
    assert left(tmp_path) == []


def test_a_folder_in_the_way(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EdgesegError, match="cannot be written"):
        download(server.url, tmp_path / "file" / "file.bin")


def test_two_at_once_fetch_once(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    threads = [threading.Thread(target=download, args=(server.url, tmp_path / "file.bin")) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert (tmp_path / "file.bin").read_bytes() == DATA and left(tmp_path) == ["file.bin", "file.bin.sha256"]
    assert len(server.requests) == 1


def test_weights_by_name(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EDGESEG_WEIGHTS_URL", server.url.removesuffix("/file.bin") + "/v1/")
    monkeypatch.setenv("EDGESEG_WEIGHTS_SHA256", DIGEST)
    path = fetch_weights("yolov8s-seg.pt")
    assert path == tmp_path / "home" / "weights" / "yolov8s-seg.pt" and server.requests[0].path == "/v1/yolov8s-seg.pt"
    assert fetch_weights("yolov8s-seg.pt") == path and len(server.requests) == 1
    Path("yolov8s-seg.pt").write_bytes(b"mine")
    assert fetch_weights("yolov8s-seg.pt") == Path("yolov8s-seg.pt")
