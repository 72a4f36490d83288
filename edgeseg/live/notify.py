"""What systemd is told: ready, alive, stopping, and one line of status (the protocol of ``sd_notify(3)``)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeseg.live.loop import Loop

STATUS_S = 5.0


def notify(*lines: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send lines such as ``READY=1`` to the socket that NOTIFY_SOCKET names; False where there is none or nobody listens.

    A name that begins with ``@`` lies in Linux's abstract namespace.
    """
    place = environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return False
    import socket

    if not hasattr(socket, "AF_UNIX"):
        return False
    address = "\0" + place[1:] if place.startswith("@") else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.settimeout(1)
            s.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def watchdog_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds after which systemd takes this process for dead; None where it does not watch."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or not int(text) or (pid and pid != str(os.getpid())):
        return None
    return int(text) / 1e6


class Service(threading.Thread):
    """Tells systemd of a loop, until ``end``.

    READY=1 with the first result. WATCHDOG=1 at half of WATCHDOG_USEC, only if results came since the last one: a loop whose
    camera or runtime hangs is started again. One that is paused, or opening its camera again, is not taken for hung.
    """

    def __init__(self, loop: Loop, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__(name="edgeseg-notify", daemon=True)
        self._loop, self._environ = loop, environ
        watched = watchdog_s(environ)
        self._pulse_s = None if watched is None else watched / 2
        self._over = threading.Event()

    def run(self) -> None:
        """Until ``end``."""
        ready, seen, status_at = False, 0, 0.0
        pulse_at = time.monotonic()
        while not self._over.wait(min(0.25, (self._pulse_s or 1) / 4)):
            now, stats = time.monotonic(), self._loop.stats()
            if not ready and stats["frames"]:
                ready = notify("READY=1", environ=self._environ)
            if now - status_at >= STATUS_S:
                notify(f"STATUS={status(stats)}", environ=self._environ)
                status_at = now
            moving = stats["frames"] != seen or stats["state"] in ("paused", "reconnecting")
            if self._pulse_s is not None and now - pulse_at >= self._pulse_s and moving:
                notify("WATCHDOG=1", environ=self._environ)
                pulse_at, seen = now, stats["frames"]

    def end(self) -> None:
        """Say that the loop stops, and be quiet from then on."""
        self._over.set()
        notify("STOPPING=1", environ=self._environ)


def status(stats: Mapping[str, object]) -> str:
    """One line for people: state, rate, counts."""
    hot = "" if stats["temperature"] is None else f", {stats['temperature']:.0f} °C"
    return (
        f"{stats['state']}, {stats['fps']:.1f} fps, {stats['frames']} frames, {stats['dropped']} dropped, "
        f"{stats['reconnects']} reconnects, {stats['objects']} objects{hot}"
    )
