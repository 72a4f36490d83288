"""The live page of a loop: what the camera sees, what was found, figures, and buttons to pause and end it.

The picture travels over a WebSocket, one frame when the browser asks for the next: the newest one, so that nothing piles up
on a slow line, and nothing is drawn or encoded while nobody looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import json
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import cv2
import numpy as np

from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from aiohttp import web

    from edgeseg.live.control import Control
    from edgeseg.predict.result import Result

FIGURES_S = 0.5
"""Seconds between two sets of figures."""
WIDEST = 1280
"""Larger pictures are scaled down to so many pixels a side before they are sent."""
WATCHERS = 16
"""Browsers that may look at once."""
_QUALITY = 80
_LEAVE_S = 1.0
_POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Page:
    """A sink that serves a page, in a thread and event loop of its own.

    On this machine alone (``host`` is a loopback address) anybody on it may look. Elsewhere a token is needed: it is part of
    ``url``, and a cookie from then on. The connection is not encrypted.

    Args:
        control: the loop.
        host: address to listen at, such as ``0.0.0.0``. port: 0 takes a free one.
        token: who shows it may look and steer; by default a new one where one is needed.
    """

    def __init__(self, control: Control, *, host: str = "127.0.0.1", port: int = 8080, token: str | None = None) -> None:
        self._control, self._host, self._port = control, host, port
        self._token = token or (None if _is_loopback(host) else secrets.token_urlsafe(16))
        self._newest = _Newest()
        self._watchers: set[web.WebSocketResponse] = set()
        self._over = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed."""
        host = _outward(self._host)
        where = f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"
        return where if self._token is None else f"{where}?token={self._token}"

    def start(self) -> None:
        """Listen, and return.

        Raises:
            EdgesegError: aiohttp is not installed, or the address cannot be listened at.
        """
        try:
            import aiohttp  # noqa: F401
        except ImportError as e:
            raise EdgesegError("the live page needs aiohttp", hint='pip install "edgeseg[page]"') from e
        listening = _listen(self._host, self._port)
        self._port = listening.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(self._loop, listening), name="edgeseg-page", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> None:
        """Show this result from now on."""
        if self._loop is not None:
            self._newest.put(result)
            self._loop.call_soon_threadsafe(self._newest.arrived)

    def close(self) -> None:
        """Tell the browsers that it has ended, and stop listening."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._over.set)
        if self._thread is not None:
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, listening: socket.socket) -> None:
        try:
            loop.run_until_complete(self._serve(listening))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    async def _serve(self, listening: socket.socket) -> None:
        from aiohttp import web

        app = web.Application(middlewares=[_guard(_Door(self._host, self._port, self._token))], client_max_size=1024)
        app.router.add_get("/", _index)
        app.router.add_get("/live", self._live)
        steering = {"pause": self._control.pause, "resume": self._control.resume, "stop": self._control.stop}
        for name, action in steering.items():
            app.router.add_post(f"/{name}", _does(action))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_LEAVE_S)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        await self._over.wait()
        await self._say_goodbye()
        await runner.cleanup()

    async def _say_goodbye(self) -> None:
        async def leave(watcher: web.WebSocketResponse) -> None:
            await watcher.send_str(figures)
            await watcher.close()

        figures = self._figures("ended")
        leaving = (asyncio.wait_for(leave(watcher), _LEAVE_S) for watcher in self._watchers)
        await asyncio.gather(*leaving, return_exceptions=True)  # a line that is dead is no matter

    def _figures(self, state: str | None = None) -> str:
        figures = self._control.stats()
        return json.dumps({**figures, "state": state or figures["state"], "classes": self._newest.counts()})

    async def _live(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        if len(self._watchers) >= WATCHERS:
            raise web.HTTPServiceUnavailable(text=f"{WATCHERS} browsers are looking already")
        watcher = web.WebSocketResponse(heartbeat=15, max_msg_size=64, compress=False)
        await watcher.prepare(request)
        asked = asyncio.Event()
        self._watchers.add(watcher)
        work = [asyncio.create_task(self._send_figures(watcher)), asyncio.create_task(self._send_frames(watcher, asked))]
        try:
            async for _ in watcher:  # whatever it says, it wants the next frame
                asked.set()
        finally:
            self._watchers.discard(watcher)
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        return watcher

    async def _send_figures(self, watcher: web.WebSocketResponse) -> None:
        while not watcher.closed:
            await watcher.send_str(self._figures())
            await asyncio.sleep(FIGURES_S)

    async def _send_frames(self, watcher: web.WebSocketResponse, asked: asyncio.Event) -> None:
        shown = 0
        while not watcher.closed:
            await asked.wait()
            asked.clear()
            shown, data = await self._newest.after(shown)
            await watcher.send_bytes(data)


class _Newest:
    """The newest result, and its picture once somebody asks."""

    def __init__(self) -> None:
        self._held: tuple[int, Result | None] = (0, None)
        self._encoded: tuple[int, bytes] = (0, b"")
        self._arrival, self._encoding = asyncio.Event(), asyncio.Lock()

    def put(self, result: Result) -> None:
        """Take a result; called by one thread, any. ``arrived`` is to be called by the event loop afterwards."""
        self._held = self._held[0] + 1, result

    def arrived(self) -> None:
        """Wake who waits for a result."""
        self._arrival.set()
        self._arrival = asyncio.Event()

    def counts(self) -> list[tuple[str, int]]:
        """Name and number of each class that the result has, in the order of their numbers."""
        result = self._held[1]
        if result is None:
            return []
        found = result.detections
        classes, counts = np.unique(found.classes, return_counts=True)
        return [(found.names[c], int(n)) for c, n in zip(classes, counts)]

    async def after(self, number: int) -> tuple[int, bytes]:
        """Number and JPEG of the newest result, as soon as there is one later than ``number``."""
        while self._held[0] <= number:
            await self._arrival.wait()
        async with self._encoding:  # once for all who look
            newest, result = self._held
            if result is not None and self._encoded[0] < newest:
                self._encoded = newest, await asyncio.to_thread(_jpeg, result)
        return self._encoded


def _jpeg(result: Result) -> bytes:
    picture = result.plot()
    scale = WIDEST / max(picture.shape[:2])
    if scale < 1:
        size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


@dataclass(frozen=True)
class _Door:
    """Who may come in."""

    host: str
    port: int
    token: str | None

    @property
    def cookie(self) -> str:
        """Its name: browsers keep the cookies of one host together, whatever the port."""
        return f"edgeseg-{self.port}"

    def knows(self, address: str) -> bool:
        """Whether a ``Host`` header is ours: on loopback, another name is a stranger's site that was pointed here."""
        if not _is_loopback(self.host):
            return True
        with contextlib.suppress(ValueError):
            given = urlsplit(f"//{address}")
            return (given.port or 80) == self.port and given.hostname is not None and _is_loopback(given.hostname)
        return False

    def opens(self, token: str | None) -> bool:
        """Whether it is the token."""
        if self.token is None or token is None:
            return self.token is None
        return hmac.compare_digest(token.encode(errors="replace"), self.token.encode())


def _guard(door: _Door) -> Any:
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response = await _admitted(door, request, handler)
        except web.HTTPException as e:
            e.headers.update(_HEADERS)
            raise
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    return guard


async def _admitted(door: _Door, request: web.Request, handler: Any) -> web.StreamResponse:
    from aiohttp import web

    if not door.knows(request.host):
        raise web.HTTPForbidden(text="This is not the address of this page.")
    shown, kept = request.query.get("token"), request.cookies.get(door.cookie)
    if door.token is not None and shown is not None and door.opens(shown):
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(door.cookie, door.token, httponly=True, samesite="Lax")
        return response
    if not door.opens(kept):
        wrong = shown is not None or kept is not None
        refused = web.HTTPForbidden if wrong else web.HTTPUnauthorized
        raise refused(text="Open the address that edgeseg run printed, with its token.")
    steers = request.method not in ("GET", "HEAD") or request.path == "/live"
    if steers and request.headers.get("Origin") not in (f"http://{request.host}", f"https://{request.host}"):
        raise web.HTTPForbidden(text="Only this page itself may do that.")
    return await handler(request)


async def _index(request: web.Request) -> web.Response:
    from aiohttp import web

    nonce = secrets.token_urlsafe(16)
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8").replace("@nonce@", nonce)
    headers = {"Content-Security-Policy": _POLICY.format(nonce)}
    return web.Response(text=text, content_type="text/html", headers=headers)


def _does(action: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        from aiohttp import web

        action()
        return web.Response(status=204)

    return handler


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            raise EdgesegError(f"port {port} is taken", hint=f"Use another one: --page {port + 1}") from e
        if e.errno == errno.EACCES:
            raise EdgesegError(f"port {port} is for the administrator", hint="Use one from 1024 on: --page 8080") from e
        hint = "Name an address of this machine: --page 0.0.0.0:8080 for all"
        raise EdgesegError(f"no page can be at {host}:{port} ({(e.strerror or str(e)).lower()})", hint=hint) from e


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _outward(host: str) -> str:
    """A host that others can type: of "every address" the one that leads to other machines."""
    if host not in ("", "0.0.0.0", "::"):
        return host
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: the system says from where it would
        return str(probe.getsockname()[0])
    return socket.gethostname()
