"""The page of ``edgeseg view``: pictures of the data by their number, and pictures that somebody brings.

What is brought stays in memory: it is read, looked at, and forgotten with the answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import report
from edgeseg.errors import EdgesegError
from edgeseg.serving import Site, page
from edgeseg.view.gallery import Gallery

if TYPE_CHECKING:
    from aiohttp import web

MOST_BYTES = 1 << 26
"""A picture that somebody brings has no more."""
WAITING = 16
"""Pictures that may wait for the models at once."""
_LARGE = f"this file is too large: {MOST_BYTES >> 20} MiB are the most. Save it smaller, or as JPEG"
_PIECES = Path(report.__file__).with_name("assets")


class ViewPage(Site):
    """Serves a gallery, which is closed with the page; ``conf`` is the score that it begins with, 0..1. See ``Site``."""

    def __init__(
        self,
        gallery: Gallery,
        *,
        conf: float = 0.25,
        host: str = "127.0.0.1",
        port: int = 8080,
        token: str | None = None,
    ) -> None:
        super().__init__("the viewer", "edgeseg view", "--port", host=host, port=port, token=token, body=MOST_BYTES)
        self._gallery, self._conf = gallery, conf
        self._models = ThreadPoolExecutor(1, "edgeseg-view")  # one picture at a time, always in the same thread
        self._waiting = 0

    def start(self) -> None:
        """Listen, and return.

        Raises:
            EdgesegError: aiohttp is not installed, or the address cannot be listened at.
        """
        self.listen(self._routes)
        self._models.submit(self._gallery.warm)

    def close(self) -> None:
        """Stop listening, wait for the picture that is looked at, and let go of the models."""
        super().close()
        self._models.shutdown(cancel_futures=True)
        self._gallery.close()

    def _routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", _index)
        router.add_get("/about", self._about)
        router.add_get("/picture/{index:[0-9]{1,9}}", self._picture)
        router.add_post("/picture", self._brought)

    async def _about(self, request: web.Request) -> web.Response:
        about = {"names": self._gallery.names, "models": self._gallery.about(), "pictures": self._gallery.listed()}
        limits = {"conf": self._conf, "lowest": self._gallery.lowest, "most": MOST_BYTES}
        return _json({**about, "labels": self._gallery.labels is not None, **limits})

    async def _picture(self, request: web.Request) -> web.Response:
        index = int(request.match_info["index"])
        if index >= len(self._gallery.images):
            return _error(404, f"there are {len(self._gallery.images)} pictures")
        return await self._in_turn(self._looked(lambda: self._gallery.of(index)))

    async def _brought(self, request: web.Request) -> web.Response:
        if (request.content_length or 0) > MOST_BYTES:
            return _error(413, _LARGE)
        return await self._in_turn(self._read(request))

    async def _read(self, request: web.Request) -> web.Response:
        from aiohttp import web

        try:
            data = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _error(413, _LARGE)
        name = request.query.get("name", "")[:200] or "picture"
        return await self._looked(lambda: self._gallery.of_file(data, name))

    async def _looked(self, look: Callable[[], bytes]) -> web.Response:
        """The answer of the models' thread."""
        try:
            return _json(await asyncio.get_running_loop().run_in_executor(self._models, look))
        except EdgesegError as e:
            return _error(200, str(e))  # the answer: browsers write of every other status as of a fault of the page
        except MemoryError:
            return _error(200, "there is not enough memory for this picture")

    async def _in_turn(self, work: Coroutine[Any, Any, web.Response]) -> web.Response:
        """The answer to one of those that wait; who goes away meanwhile is not looked at."""
        if self._waiting >= WAITING:  # before another one is in memory
            work.close()
            return _error(503, f"{WAITING} pictures are waiting already. Try again in a moment")
        self._waiting += 1
        try:
            return await work
        finally:
            self._waiting -= 1


async def _index(request: web.Request) -> web.Response:
    here = Path(__file__).parent
    text = (here / "page.html").read_text(encoding="utf-8")
    for place in (_PIECES / "viewer.css", here / "page.css", _PIECES / "viewer.js", here / "page.js"):
        text = text.replace(f"@{place.name}@", place.read_text(encoding="utf-8"))
    return page(text)


def _json(value: Any, status: int = 200) -> web.Response:
    from aiohttp import web

    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def _error(status: int, message: str) -> web.Response:
    return _json({"error": message}, status)
