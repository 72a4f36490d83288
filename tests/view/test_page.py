"""The server of the viewer: who may ask, what may be read, what may be brought, and that nothing ends it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset
from edgeseg.errors import EdgesegError
from edgeseg.view.gallery import Gallery, Subject
from edgeseg.view.page import MOST_BYTES, WAITING, ViewPage

aiohttp = pytest.importorskip("aiohttp")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def page(gallery: Callable[..., Gallery], served: Callable[..., ViewPage]) -> ViewPage:
    return served(gallery())


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


def test_the_page_carries_all_it_needs(page: ViewPage, ask: Any) -> None:
    status, headers, body = ask(page, "/")
    text, policy = body.decode(), headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert status == 200 and nonce and text.count(f'nonce="{nonce[1]}"') == 2
    assert not re.search(r"@[a-z]+(\.[a-z]+)?@", text) and "edgesegViewer" in text
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)  # the name of SVG is no address


def test_what_there_is_and_each_picture(page: ViewPage, ask: Any, shapes: Dataset) -> None:
    _, headers, body = ask(page, "/about")
    about = json.loads(body)
    assert headers["Content-Type"].startswith("application/json") and headers["Cache-Control"] == "no-store"
    assert about["pictures"] == [p.name for p in shapes.images("val")] and about["labels"] is True
    assert about["conf"] == 0.25 and about["lowest"] == 0.1 and about["most"] == MOST_BYTES
    status, _, body = ask(page, "/picture/3")
    picture = json.loads(body)
    assert status == 200 and picture["name"] == about["pictures"][3] and len(picture["found"]) == len(about["models"]) == 2
    assert picture["found"][0] and ask(page, "/picture/3")[2] == body


@pytest.mark.parametrize(
    "what", ["12", "-1", "", "3.5", "999999999999", "%2e%2e%2fetc%2fpasswd", "../../../etc/passwd", "%E0%A5%A9"]
)
def test_only_the_pictures_of_the_data_can_be_read(page: ViewPage, ask: Any, what: str) -> None:
    assert ask(page, f"/picture/{what}")[0] == 404
    for path in ("/viewer.js", "/page.html", "/etc/passwd", "//etc/passwd"):
        assert ask(page, path)[0] == 404


def test_a_picture_of_ones_own_leaves_nothing_on_the_disk(
    gallery: Any, served: Any, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(tmp_path)
    page = served(gallery())
    noise = np.random.default_rng(0).integers(0, 255, (1500, 1500, 3), np.uint8)  # 6 MB as a file
    status, _, body = ask(page, "/picture?name=%3Cb%3Emine%3C%2Fb%3E", "POST", png(noise))
    picture = json.loads(body)
    assert status == 200 and picture["name"] == "<b>mine</b>" and (picture["width"], picture["height"]) == (1500, 1500)
    assert picture["found"][1] is None  # no labels
    assert list(tmp_path.iterdir()) == [] and len(json.loads(ask(page, "/about")[2])["pictures"]) == 12


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the image file is empty"),
        (b"GIF87a, perhaps", "not a readable image"),
        (b"\xff\xd8\xff\xe0 no end", "cut off"),
        (bomb(60000, 60000), "60000x60000 pixels is too large"),
        (bomb(1 << 31 - 1, 1), "too large"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
    ],
    ids=["empty", "text", "cut", "bomb", "wide", "svg"],
)
def test_what_is_no_picture_is_told(page: ViewPage, ask: Any, data: bytes, words: str) -> None:
    status, _, body = ask(page, "/picture?name=mine.png", "POST", data)
    error = json.loads(body)["error"]
    assert status == 200 and words in error and error.startswith("mine.png: ")
    assert ask(page, "/picture/0")[0] == 200


def test_a_file_that_is_too_large_is_told(page: ViewPage, ask: Any) -> None:
    status, _, body = ask(page, "/picture", "POST", b"x" * 100, Content_Length=str(MOST_BYTES + 1))
    assert status == 413 and "64 MiB are the most" in json.loads(body)["error"]

    def pieces() -> Iterator[bytes]:  # sent in chunks: nobody says before how much it is
        for _ in range(MOST_BYTES // (1 << 20) + 1):
            yield bytes(1 << 20)

    status, _, body = ask(page, "/picture", "POST", pieces())
    assert status == 413 and "64 MiB are the most" in json.loads(body)["error"]
    assert ask(page, "/picture/0")[0] == 200


def test_only_the_page_itself_may_ask(page: ViewPage, ask: Any) -> None:
    data = png(np.zeros((32, 32, 3), np.uint8))
    for origin in ("null", "http://evil.example", "http://127.0.0.1:1", "", "https://evil.example"):
        assert ask(page, "/picture", "POST", data, Origin=origin)[0] == 403
    assert ask(page, "/picture", "POST", data)[0] == 200
    for site in ("cross-site", "same-site"):  # a picture is work for the models
        assert ask(page, "/picture/0", Sec_Fetch_Site=site)[0] == ask(page, "/about", Sec_Fetch_Site=site)[0] == 403
        assert ask(page, "/", Sec_Fetch_Site=site)[0] == 200  # a link to it
    assert ask(page, "/picture/0", Sec_Fetch_Site="same-origin")[0] == 200
    for host in ("evil.example:PORT", "127.0.0.1:1", "localhost.evil.example:PORT"):
        assert ask(page, "/picture/0", Host=host)[0] == 403
    assert ask(page, "/picture/0", Host="localhost:PORT")[0] == 200


def test_beyond_this_machine_a_token_is_needed(gallery: Any, served: Any, ask: Any) -> None:
    one = served(gallery(), host="0.0.0.0")
    token = one.url.partition("?token=")[2]
    assert len(token) >= 20 and not one.url.startswith("http://0.0.0.0")
    for path in ("/", "/about", "/picture/0"):
        status, _, body = ask(one, path)
        assert status == 401 and b"edgeseg view printed" in body
    assert ask(one, "/picture", "POST", b"x")[0] == 401 and ask(one, "/about?token=wrong")[0] == 403
    cookie = ask(one, f"/?token={token}")[1]["Set-Cookie"].partition(";")[0]
    assert ask(one, "/picture/0", Cookie=cookie)[0] == 200


def test_a_model_that_fails_is_told_and_the_server_lives_on(
    gallery: Any, network: Any, remote: Any, served: Any, ask: Any
) -> None:
    one = gallery(network, remote)
    page = served(one)
    assert "error" not in json.loads(ask(page, "/picture/0")[2])["about"][1]
    one.subjects[1]._opened.runtime._child.kill()
    status, _, body = ask(page, "/picture/1")
    assert status == 200 and "ended (signal 9)" in json.loads(body)["about"][1]["error"]
    assert "error" not in json.loads(ask(page, "/picture/2")[2])["about"][1]


def test_a_picture_that_is_gone_is_told(gallery: Any, served: Any, ask: Any, tmp_path: Path) -> None:
    one = gallery()
    one.images = [tmp_path / "gone.jpg"]
    status, _, body = ask(served(one), "/picture/0")
    assert status == 200 and "gone.jpg: no such image" in json.loads(body)["error"]


def test_too_many_at_once_are_refused_and_who_left_is_not_looked_at(
    gallery: Any, served: Any, ask: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., bool]
) -> None:
    one, looked, go = gallery(), [], threading.Event()
    look = Subject.look
    page = served(one)
    page._models.submit(lambda: None).result()  # warm

    def slow(self: Subject, image: np.ndarray) -> Any:
        looked.append(1)
        go.wait(30)
        return look(self, image)

    monkeypatch.setattr(Subject, "look", slow)

    async def crowd() -> list[int]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:

            async def get(index: int) -> int:
                async with session.get(f"{page.url}picture/{index}") as answer:
                    return answer.status

            first = [asyncio.create_task(get(i % 12)) for i in range(WAITING)]
            while page._waiting < WAITING:
                await asyncio.sleep(0.01)
            refused = await asyncio.gather(*(get(0) for _ in range(3)))
            for task in first[1:]:  # the browser went on to another picture
                task.cancel()
            await asyncio.gather(*first[1:], return_exceptions=True)
            while page._waiting > 1:
                await asyncio.sleep(0.01)
            go.set()
            return [*refused, await first[0]]

    assert asyncio.run(crowd()) == [503, 503, 503, 200]
    assert until(lambda: page._waiting == 0) and len(looked) == 1
    assert ask(page, "/picture/5")[0] == 200


def test_it_ends_while_a_picture_is_looked_at(
    gallery: Any, ask: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., bool]
) -> None:
    began = threading.Event()
    look = Subject.look

    def slow(self: Subject, image: np.ndarray) -> Any:
        began.set()
        time.sleep(1.5)
        return look(self, image)

    page = ViewPage(gallery(), port=0)
    page.start()
    page._models.submit(lambda: None).result()
    monkeypatch.setattr(Subject, "look", slow)

    def give_up() -> None:
        try:
            ask(page, "/picture/0")
        except (OSError, ValueError, EOFError):
            pass
        except Exception as e:  # http.client has a family of its own
            assert type(e).__module__ == "http.client"

    asking = threading.Thread(target=give_up)
    asking.start()
    assert began.wait(10)
    start = time.monotonic()
    page.close()
    asking.join(5)
    assert time.monotonic() - start < 6 and not asking.is_alive()
    assert not [t for t in threading.enumerate() if t.name.startswith(("edgeseg-page", "edgeseg-view"))]


def test_what_cannot_be_says_what_to_type(gallery: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = gallery()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EdgesegError, match=f"port {port} is taken. Use another one: --port {port + 1}"):
            ViewPage(one, port=port).start()
    with pytest.raises(EdgesegError, match=r"no page can be at 192\.0\.2\.1"):
        ViewPage(one, host="192.0.2.1", port=0).start()
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(EdgesegError, match=re.escape('the viewer needs aiohttp. pip install "edgeseg[page]"')):
        ViewPage(one).start()
    ViewPage(one).close()  # one that never began


def resident(pid: int | str = "self") -> float:
    """MB of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory_is_flat_over_500_pictures(gallery: Any, served: Any, ask: Any, shapes: Dataset) -> None:
    """Pictures of the data one after the other, and one's own between them; results are kept within 1 MB here."""
    one = gallery(keep=1 << 20)
    files = shapes.images("val")
    one.images = files * 40
    page = served(one)
    own = cv2.resize(cv2.imread(str(files[0])), (640, 480))
    measured = []
    for number in range(500):
        if number % 5 == 4:
            assert ask(page, "/picture?name=own", "POST", png(own))[0] == 200
        else:
            assert ask(page, f"/picture/{number % 480}")[0] == 200
        if number % 50 == 49:
            measured.append(resident())
    print([round(m, 1) for m in measured])
    assert measured[-1] - measured[2] < 12, measured
    assert one._bytes <= 1 << 20
