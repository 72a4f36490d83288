"""A page that this machine serves: where it listens, who may come in, and the thread that it runs in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hmac
import ipaddress
import secrets
import socket
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edgeseg.errors import EdgesegError
from edgeseg.record import dataclass

if TYPE_CHECKING:
    from aiohttp import web

LEAVE_S = 1.0
"""How long a visitor may take to leave."""
POLICY = (
    "default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; connect-src 'self'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Site:
    """Serves routes in a thread and event loop of its own.

    On this machine alone (``host`` is a loopback address) anybody on it may look. Elsewhere a token is needed: it is part of
    ``url``, and a cookie from then on. The connection is not encrypted. Only the site's own pages may ask for anything but a
    whole page.

    Args:
        what: what is served, for messages: "the live page".
        command: what started it, for messages. option: how that is told the port.
        host: address to listen at, such as ``0.0.0.0``. port: 0 takes a free one.
        token: who shows it may come in; by default a new one where one is needed.
        body: bytes that a request may bring.

    Attributes:
        loop: the event loop while the site is served.
    """

    def __init__(
        self, what: str, command: str, option: str, *, host: str, port: int, token: str | None = None, body: int = 1024
    ) -> None:
        self._what, self._command, self._option, self._body = what, command, option, body
        self._host, self._port = host, port
        self._token = token or (None if _is_loopback(host) else secrets.token_urlsafe(16))
        self._over = asyncio.Event()
        self._thread: threading.Thread | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """The address to open, with the token where one is needed."""
        host = _outward(self._host)
        where = f"http://{f'[{host}]' if ':' in host else host}:{self._port}/"
        return where if self._token is None else f"{where}?token={self._token}"

    def listen(
        self, routes: Callable[[web.UrlDispatcher], object], leaving: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Listen, and return.

        Args:
            routes: adds what is served. leaving: awaited before the end.

        Raises:
            EdgesegError: aiohttp is not installed, or the address cannot be listened at.
        """
        try:
            import aiohttp  # noqa: F401
        except ImportError as e:
            raise EdgesegError(f"{self._what} needs aiohttp", hint='pip install "edgeseg[page]"') from e
        listening = _listen(self._host, self._port, self._option)
        self._port = listening.getsockname()[1]
        self.loop = asyncio.new_event_loop()
        work = (self.loop, listening, routes, leaving)
        self._thread = threading.Thread(target=self._run, args=work, name="edgeseg-page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End what is served, and stop listening."""
        loop, self.loop = self.loop, None
        if loop is not None:
            loop.call_soon_threadsafe(self._over.set)
        if self._thread is not None:
            self._thread.join()

    def _run(self, loop: asyncio.AbstractEventLoop, *work: Any) -> None:
        try:
            loop.run_until_complete(self._serve(*work))
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    async def _serve(self, listening: socket.socket, routes: Any, leaving: Any) -> None:
        from aiohttp import web

        door = _Door(self._host, self._port, self._token, self._command)
        app = web.Application(middlewares=[_guard(door)], client_max_size=self._body)
        routes(app.router)
        # Whoever goes away does not keep those waiting who are still there.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=LEAVE_S, handler_cancellation=True)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        await self._over.wait()
        if leaving is not None:
            await leaving()
        await runner.cleanup()


def page(text: str) -> web.Response:
    """A page of HTML in which ``@nonce@`` stands for what marks its own scripts and styles: no others run."""
    from aiohttp import web

    nonce = secrets.token_urlsafe(16)
    headers = {"Content-Security-Policy": POLICY.format(nonce)}
    return web.Response(text=text.replace("@nonce@", nonce), content_type="text/html", headers=headers)


@dataclass(frozen=True)
class _Door:
    """Who may come in."""

    host: str
    port: int
    token: str | None
    command: str

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

    def own(self, request: web.Request) -> bool:
        """Whether a page of this site asks, or somebody opens a page; browsers say where a request comes from."""
        steers = request.method not in ("GET", "HEAD") or "Upgrade" in request.headers
        if steers and request.headers.get("Origin") not in (f"http://{request.host}", f"https://{request.host}"):
            return False
        return request.path == "/" or request.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin")


def _guard(door: _Door) -> Any:
    from aiohttp import web

    @web.middleware
    async def guard(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response = await _admitted(door, request, handler)
        except web.HTTPException as e:
            e.headers.update(HEADERS)
            raise
        if not response.prepared:
            response.headers.update(HEADERS)
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
        raise refused(text=f"Open the address that {door.command} printed, with its token.")
    if not door.own(request):
        raise web.HTTPForbidden(text="Only this page itself may do that.")
    return await handler(request)


def _listen(host: str, port: int, option: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server((host, port), family=family, dualstack_ipv6=both)
    except OSError as e:
        if e.errno == errno.EADDRINUSE:
            raise EdgesegError(f"port {port} is taken", hint=f"Use another one: {option} {port + 1}") from e
        if e.errno == errno.EACCES:
            raise EdgesegError(f"port {port} is for the administrator", hint=f"Use one from 1024 on: {option} 8080") from e
        hint = "Name an address of this machine, 0.0.0.0 for all of them"
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
