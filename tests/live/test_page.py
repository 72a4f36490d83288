"""The live page: who may look, what is sent, and the page itself in Chromium on a running loop."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.live import Loop, open_camera, page
from edgeseg.live.page import Page
from edgeseg.predict.result import Result
from edgeseg.running.open import Opened
from edgeseg.running.pipeline import Pipeline
from edgeseg.vision.detections import Detections

aiohttp = pytest.importorskip("aiohttp")
_spec = importlib.util.spec_from_file_location("chromium_for_live", Path(__file__).parents[1] / "targets" / "chromium.py")
assert _spec and _spec.loader
chromium = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = chromium
_spec.loader.exec_module(chromium)
browser = pytest.mark.skipif(chromium.CHROMIUM is None, reason="needs chromium")

HOSTILE = ("<img src=x onerror=alert(1)>", "</script><b>", "a" * 90, "star")
TEXT = "document.getElementById('{}')?.textContent"
ROOT = Path(__file__).resolve().parents[2]


def shade(value: int, size: tuple[int, int] = (48, 64)) -> Result:
    """A result on a picture of one grey, with two objects of two classes (boxes of no size leave the grey alone)."""
    found = Detections(np.zeros((2, 4)), [0.9, 0.8], [1, 0], None, ("cat", "dog"), size)
    return Result(found, np.full((*size, 3), value, np.uint8))


class Steered:
    """A loop as far as a page needs one."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.paused = False

    def stats(self) -> dict[str, Any]:
        return {"state": "running", "objects": 2, "paused": self.paused}

    def pause(self) -> None:
        self.done.append("pause")

    def resume(self) -> None:
        self.done.append("resume")

    def stop(self) -> None:
        self.done.append("stop")


@pytest.fixture
def shown() -> Iterator[Callable[..., Page]]:
    """Starts pages; closes them at the end."""
    started: list[Page] = []

    def start(control: Any = None, **options: Any) -> Page:
        started.append(Page(control or Steered(), port=0, **options))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.close()


def ask(shown_page: Page, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of an answer; ``Host``, ``Origin`` and the like may be given."""
    port = int(re.search(r":(\d+)/", shown_page.url)[1])  # type: ignore[index]
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(
            method, path, headers={k.replace("_", "-"): v.replace("PORT", str(port)) for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


HOME = "http://127.0.0.1:PORT"


def test_on_this_machine_all_may_look_and_only_the_page_steers(shown: Any) -> None:
    control = Steered()
    one = shown(control)
    status, headers, body = ask(one, "/")
    nonce = re.search(r"script-src 'nonce-([^']+)'", headers["Content-Security-Policy"])
    assert status == 200 and nonce and body.count(nonce[1]) == 2 and "@nonce@" not in body
    assert "default-src 'none'" in headers["Content-Security-Policy"] and headers["X-Content-Type-Options"] == "nosniff"
    assert "http:" not in body and "https://" not in body  # nothing from elsewhere
    for action in ("pause", "resume", "stop"):
        assert ask(one, f"/{action}", "POST", Origin=HOME)[0] == 204
    assert control.done == ["pause", "resume", "stop"]
    for origin in (
        {},
        {"Origin": "null"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
    ):
        assert ask(one, "/stop", "POST", **origin)[0] == 403
        assert ask(one, "/live", Upgrade="websocket", Connection="Upgrade", **origin)[0] == 403
    assert ask(one, "/stop", Origin=HOME)[0] == 405 and ask(one, "/nothing", Origin=HOME)[0] == 404
    assert control.done == ["pause", "resume", "stop"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("127.0.0.1:PORT", 200), ("localhost:PORT", 200), ("[::1]:PORT", 200), ("evil.example:PORT", 403)),
        *(("127.0.0.1.evil.example:PORT", 403), ("127.0.0.1:1", 403), ("127.0.0.1", 403), ("127.0.0.1:x", 403), ("", 403)),
    ],
)
def test_a_name_that_was_pointed_here_is_refused(shown: Any, host: str, status: int) -> None:
    assert ask(shown(), "/", Host=host)[0] == status


@pytest.mark.parametrize("options", [{"host": "0.0.0.0"}, {"host": "0.0.0.0", "token": "given"}, {"token": "given"}])
def test_a_token_opens_once_and_a_cookie_from_then_on(shown: Any, options: dict[str, str]) -> None:
    control = Steered()
    one = shown(control, **options)
    token = one.url.partition("?token=")[2]
    assert token == options.get("token", token) and (len(token) >= 20 or "token" in options)
    assert ask(one, "/")[0] == 401
    for wrong in ("wrong", token[:-1], f"{token}x", "", "%ff", "%ED%A0%80"):
        assert ask(one, f"/?token={wrong}")[0] == 403
    assert ask(one, "/stop", "POST", Origin=HOME)[0] == 401
    status, headers, _ = ask(one, f"/?token={token}")
    assert status == 303 and headers["Location"] == "/" and "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Lax" in headers["Set-Cookie"] and headers["Referrer-Policy"] == "no-referrer"
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert ask(one, "/", Cookie=cookie)[0] == 200
    assert ask(one, "/", Cookie=cookie + "x")[0] == 403 and ask(one, "/", Cookie=cookie[:-1] + "\xff")[0] == 403
    assert ask(one, "/stop", "POST", Cookie=cookie)[0] == 403 and control.done == []
    assert ask(one, "/stop", "POST", Cookie=cookie, Origin=HOME)[0] == 204 and control.done == ["stop"]


def test_beyond_this_machine_another_name_is_fine_with_the_token(shown: Any) -> None:
    one = shown(host="0.0.0.0", token="t")
    assert (
        ask(one, "/?token=t", Host="raspberrypi.local:PORT")[0] == 303 and ask(one, "/", Host="raspberrypi.local")[0] == 401
    )
    assert not one.url.startswith("http://0.0.0.0")


def test_what_cannot_be_says_what_to_type(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EdgesegError, match=f"port {port} is taken. Use another one: --page {port + 1}"):
            Page(Steered(), port=port).start()
    with pytest.raises(EdgesegError, match=r"no page can be at 192\.0\.2\.1"):
        Page(Steered(), host="192.0.2.1", port=0).start()
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(EdgesegError, match=re.escape('pip install "edgeseg[page]"')):
        Page(Steered()).start()
    Page(Steered()).close()  # one that never began


def grey(data: bytes) -> int:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return int(np.median(image))


def look(one: Page, watch: Callable[[Any], Any]) -> Any:
    """What ``watch(connect)`` gives; ``await connect()`` is one more WebSocket on the page."""

    async def run() -> Any:
        home = one.url.rstrip("/")
        async with aiohttp.ClientSession() as session:
            return await asyncio.wait_for(watch(lambda: session.ws_connect(f"{home}/live", origin=home)), 20)

    return asyncio.run(run())


async def frame(connection: Any) -> bytes:
    while True:
        message = await connection.receive()
        if message.type == aiohttp.WSMsgType.BINARY:
            return message.data


def test_who_looks_gets_the_newest_frame_when_it_asks(shown: Any) -> None:
    one = shown()

    async def watch(connect: Any) -> list[int]:
        connection = await connect()
        figures = json.loads((await connection.receive()).data)
        assert figures["state"] == "running" and figures["classes"] == []
        await connection.send_str("next")
        await asyncio.sleep(0.2)
        one.put(shade(40))
        seen = [grey(await frame(connection))]
        for value in range(50, 200):  # nobody asks meanwhile
            one.put(shade(value))
        await connection.send_str("next")
        seen.append(grey(await frame(connection)))
        while not (message := await connection.receive()).data.startswith("{") or not json.loads(message.data)["classes"]:
            pass
        assert json.loads(message.data)["classes"] == [["cat", 1], ["dog", 1]]
        return seen

    first, second = look(one, watch)
    assert abs(first - 40) <= 2 and abs(second - 199) <= 2


def test_nothing_is_encoded_while_nobody_looks_and_once_for_all_who_do(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Result] = []
    jpeg = page._jpeg
    monkeypatch.setattr(page, "_jpeg", lambda result: encoded.append(result) or jpeg(result))
    one = shown()
    for value in range(20):
        one.put(shade(value))
    assert encoded == []

    async def watch(connect: Any) -> None:
        everyone = [await connect() for _ in range(4)]
        for number in range(1, 4):
            for each in everyone:
                await each.send_str("next")
            for each in everyone:
                await frame(each)
            assert len(encoded) == number
            one.put(shade(100))

    look(one, watch)


def test_a_large_picture_is_scaled_down(shown: Any) -> None:
    image = cv2.imdecode(np.frombuffer(page._jpeg(shade(90, (600, 2560))), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (300, 1280, 3)


def test_the_end_is_told_and_comes_at_once(shown: Any) -> None:
    one = shown()
    one.put(shade(1))

    async def watch(connect: Any) -> str:
        connection = await connect()
        await connection.receive()
        threading.Thread(target=one.close).start()
        states = []
        async for message in connection:
            states.append(json.loads(message.data)["state"])
        return states[-1]

    start = time.monotonic()
    assert look(one, watch) == "ended" and time.monotonic() - start < 5
    one.close()
    one.put(shade(1))
    with pytest.raises(ConnectionRefusedError):
        ask(one, "/")
    assert not [t for t in threading.enumerate() if t.name == "edgeseg-page"]


@pytest.mark.slow
def test_a_line_that_is_dead_holds_nothing_up(shown: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody asks for frames and takes none: a few fill the system's buffers, then none is encoded, and the end comes."""
    encoded: list[bytes] = []
    jpeg = page._jpeg
    monkeypatch.setattr(page, "_jpeg", lambda result: encoded.append(jpeg(result)) or encoded[-1])
    one = shown()
    noise = np.random.default_rng(0).integers(0, 255, (720, 1280, 3), np.uint8)
    result = replace(shade(1, (720, 1280)), image=noise)
    port = int(one.url.split(":")[2].rstrip("/"))
    upgrade = f"Host: 127.0.0.1:{port}\r\nOrigin: {one.url.rstrip('/')}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    upgrade += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    with socket.socket() as dead:
        dead.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        dead.connect(("127.0.0.1", port))
        dead.sendall(f"GET /live HTTP/1.1\r\n{upgrade}".encode())
        for _ in range(50):
            dead.sendall(b"\x81\x84\0\0\0\0next")
            one.put(result)
            time.sleep(0.03)
        assert len(one._watchers) == 1 and 0 < len(encoded) < 25 and len(encoded[0]) > 200_000
        start = time.monotonic()
        one.close()
    assert time.monotonic() - start < 10


def test_pages_come_and_go_and_leave_nothing(shown: Any) -> None:
    """Closed at once, before it has begun to listen; nothing stays open."""
    shown().close()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for number in range(30):
        one = shown()
        one.put(shade(1))
        if number % 3 == 0:
            assert ask(one, "/")[0] == 200
        one.close()
    assert not before or len(os.listdir("/proc/self/fd")) <= before


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``visit(url)``: Chromium on that address."""
    open_ones: list[Any] = []

    def go(url: str) -> Any:
        open_ones.append(chromium.Browser(tmp_path))
        open_ones[-1].send("Page.navigate", url=url)
        return open_ones[-1]

    yield go
    for view in open_ones:
        view.close()


@pytest.mark.slow
def test_everybody_can_use_it(demo: Opened, pictures: list[np.ndarray], shown: Any, audit: Callable[..., list[str]]) -> None:
    """Lighthouse finds no fault in the page of a running loop, on a desktop by day and on a phone by night."""
    loop = Loop(demo.pipeline(), open_camera(itertools.cycle(pictures)))
    loop.sinks.append(one := shown(loop, token="secret"))
    running = threading.Thread(target=loop.run)
    running.start()
    try:
        assert audit(one.url) == [] and audit(one.url, narrow=True, dark=True) == []
    finally:
        loop.stop()
        running.join(10)


@browser
def test_in_chromium_on_a_running_loop(
    demo: Opened, pictures: list[np.ndarray], visit: Any, shown: Any, until: Callable[..., bool], tmp_path: Path
) -> None:
    """Names that are markup stay text, the picture moves, pause and end work, nothing is wider than the window."""

    def film() -> Iterator[np.ndarray]:
        while True:
            for picture in pictures:
                time.sleep(0.02)
                yield picture

    pipeline = Pipeline(demo.runtime, replace(demo.manifest, names=HOSTILE))
    loop = Loop(pipeline, open_camera(film()), model="demo <b>seg</b>")
    one = shown(loop, token="secret")
    loop.sinks.append(one)
    running = threading.Thread(target=loop.run)
    running.start()
    try:
        view = visit(one.url)
        view.wait(f"{TEXT.format('state')} === 'running' && document.querySelectorAll('#classes tr').length > 0")
        view.wait("document.getElementById('waiting').hidden && document.getElementById('view').width === 160")
        assert view.js("location.search") == "" and view.js("document.cookie") == ""
        names = view.js("[...document.querySelectorAll('#classes th')].map((cell) => cell.textContent)")
        assert names and set(names) <= set(HOSTILE) and view.js("document.querySelectorAll('img, b').length") == 0
        assert view.js(TEXT.format("model")) == "demo <b>seg</b>" and float(view.js(TEXT.format("fps"))) > 0
        look_of = "document.getElementById('view').toDataURL().length"
        before = view.js(look_of)
        assert until(lambda: view.js(look_of) != before)
        for width in (400, 1280):
            for scheme in ("light", "dark"):
                view.shoot(tmp_path / f"{width}-{scheme}.png", width, 800, scheme)
                assert view.js("document.documentElement.scrollWidth") <= width
        view.js("document.getElementById('pause').click()")
        view.wait(f"{TEXT.format('state')} === 'paused' && {TEXT.format('pause')} === 'Resume'")
        frames = loop.stats()["frames"]
        time.sleep(0.4)
        assert loop.stats()["frames"] == frames
        view.js("document.getElementById('pause').click()")
        view.wait(f"{TEXT.format('state')} === 'running'")
        assert until(lambda: loop.stats()["frames"] > frames)
        assert view.errors == []
        view.js("window.confirm = () => false; document.getElementById('stop').click()")
        assert loop.stats()["state"] != "ended" and running.is_alive()
        view.js("window.confirm = () => true; document.getElementById('stop').click()")
        view.wait(f"{TEXT.format('state')} === 'ended' && document.getElementById('pause').disabled")
        running.join(10)
        assert not running.is_alive()
    finally:
        loop.stop()
        running.join(10)


@browser
@pytest.mark.slow
def test_the_command_with_a_video_as_camera(artifact: Path, pictures: list[np.ndarray], visit: Any, tmp_path: Path) -> None:
    """``edgeseg run demo.onnx --camera clip.mp4 --realtime --page 0``: looked at, paused, and ended by SIGTERM."""
    clip = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"mp4v"), 20, (640, 480))
    for number in range(1200):
        writer.write(cv2.resize(pictures[number // 20 % len(pictures)], (640, 480)))
    writer.release()
    words = ["run", str(artifact), "--camera", str(clip), "--realtime", "--track", "--page", "0"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgeseg", *words]
    process = subprocess.Popen(command, text=True, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        url = next(m[1] for m in (re.search(r"live page: (http://127\.0\.0\.1:\d+/)", s) for s in process.stderr) if m)
        view = visit(url)
        view.wait(f"{TEXT.format('state')} === 'running' && Number({TEXT.format('frames')}) > 20")
        view.wait("document.getElementById('waiting').hidden && document.getElementById('view').width === 640")
        view.shoot(tmp_path / "1280.png", 1280, 800)
        view.shoot(tmp_path / "400.png", 400, 800, "dark")
        view.js("document.getElementById('pause').click()")
        view.wait(f"{TEXT.format('state')} === 'paused'")
        still = view.js(TEXT.format("frames"))
        time.sleep(1.5)
        assert view.js(TEXT.format("frames")) == still
        view.js("document.getElementById('pause').click()")
        view.wait(f"{TEXT.format('state')} === 'running' && {TEXT.format('frames')} !== '{still}'")
        assert view.errors == []
        process.send_signal(signal.SIGTERM)
        view.wait(f"{TEXT.format('state')} === 'ended'")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
