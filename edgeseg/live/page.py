"""The live page of a loop: what the camera sees, what was found, figures, and buttons to pause and end it.

The picture travels over a WebSocket, one frame when the browser asks for the next: the newest one, so that nothing piles up
on a slow line, and nothing is drawn or encoded while nobody looks.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from edgeseg.data.images import reduced
from edgeseg.serving import LEAVE_S, Site, page

if TYPE_CHECKING:
    from aiohttp import web

    from edgeseg.live.loop import Loop
    from edgeseg.predict.result import Result

FIGURES_S = 0.5
"""Seconds between two sets of figures."""
WIDEST = 1280
"""Larger pictures are scaled down to so many pixels a side before they are sent."""
WATCHERS = 16
"""Browsers that may look at once."""
_QUALITY = 80


class Page(Site):
    """A sink that serves a page on which ``control``, the loop, is watched and steered; see ``Site`` for who may."""

    def __init__(self, control: Loop, *, host: str = "127.0.0.1", port: int = 8080, token: str | None = None) -> None:
        super().__init__("the live page", "edgeseg run", "--page", host=host, port=port, token=token)
        self._control = control
        self._newest = _Newest()
        self._watchers: set[web.WebSocketResponse] = set()

    def start(self) -> None:
        """Listen, and return.

        Raises:
            EdgesegError: aiohttp is not installed, or the address cannot be listened at.
        """
        self.listen(self._routes, self._say_goodbye)

    def put(self, result: Result) -> None:
        """Show this result from now on."""
        loop = self.loop
        if loop is not None:
            self._newest.put(result)
            loop.call_soon_threadsafe(self._newest.arrived)

    def _routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", _index)
        router.add_get("/live", self._live)
        steering = {"pause": self._control.pause, "resume": self._control.resume, "stop": self._control.stop}
        for name, action in steering.items():
            router.add_post(f"/{name}", _does(action))

    async def _say_goodbye(self) -> None:
        async def leave(watcher: web.WebSocketResponse) -> None:
            await watcher.send_str(figures)
            await watcher.close()

        figures = self._figures("ended")
        leaving = (asyncio.wait_for(leave(watcher), LEAVE_S) for watcher in self._watchers)
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
    return cv2.imencode(".jpg", reduced(result.plot(), WIDEST), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1].tobytes()


async def _index(request: web.Request) -> web.Response:
    return page(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))


def _does(action: Any) -> Any:
    async def handler(request: web.Request) -> web.Response:
        from aiohttp import web

        action()
        return web.Response(status=204)

    return handler
