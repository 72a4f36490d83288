"""What systemd hears, on real sockets."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgeseg.live.notify import Service, notify, watchdog_s

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


class Ear:
    """The end of systemd."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.settimeout(0.05)
        self.heard: list[str] = []

    def listen(self, seconds: float = 0) -> list[str]:
        """All that was ever heard, after so long."""
        end = time.monotonic() + seconds
        while True:
            try:
                self.heard += self.socket.recv(4096).decode().split("\n")
            except TimeoutError:
                if time.monotonic() >= end:
                    return self.heard


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    ear = Ear(str(tmp_path / "notify"))
    yield ear
    ear.socket.close()


class Figures:
    """What a loop says of itself."""

    def __init__(self) -> None:
        self.frames, self.state, self.paused = 0, "running", False

    def stats(self) -> dict[str, Any]:
        counts = {"dropped": 1, "reconnects": 2, "objects": 3, "fps": 4.5, "temperature": 51.2}
        return {"frames": self.frames, "state": self.state, **counts}

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...


def test_lines_arrive(ear: Ear, tmp_path: Path) -> None:
    assert notify("READY=1", "STATUS=fine", environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
    assert ear.listen() == ["READY=1", "STATUS=fine"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="abstract sockets are Linux's")
def test_an_abstract_socket() -> None:
    ear = Ear(f"\0edgeseg-{os.getpid()}")
    assert notify("WATCHDOG=1", environ={"NOTIFY_SOCKET": f"@edgeseg-{os.getpid()}"})
    assert ear.listen() == ["WATCHDOG=1"]
    ear.socket.close()


def test_nobody_listens(tmp_path: Path) -> None:
    for place in ("", "relative", str(tmp_path / "none"), "@edgeseg-nobody"):
        assert not notify("READY=1", environ={"NOTIFY_SOCKET": place})


def test_the_watchdog_of_this_process() -> None:
    assert watchdog_s({"WATCHDOG_USEC": "30000000"}) == 30
    assert watchdog_s({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 2
    for other in ({}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}):
        assert watchdog_s(other) is None


def test_the_life_of_a_service(ear: Ear, tmp_path: Path, until: Callable[..., bool]) -> None:
    figures = Figures()
    service = Service(figures, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"})
    service.start()
    assert not {"READY=1", "WATCHDOG=1"} & set(ear.listen(0.5)), "nothing was found yet"
    figures.frames = 1
    assert until(lambda: {"READY=1", "WATCHDOG=1"} <= set(ear.listen()))
    assert "STATUS=running, 4.5 fps, 0 frames, 1 dropped, 2 reconnects, 3 objects, 51 °C" in ear.heard
    ear.listen(0.3)
    ear.heard.clear()
    assert "WATCHDOG=1" not in ear.listen(0.6), "frames stand still: systemd is to notice"
    for state in ("paused", "reconnecting"):
        figures.state = state
        assert until(lambda: "WATCHDOG=1" in ear.listen()), state
        ear.heard.clear()
    service.end()
    service.join(5)
    ear.heard.clear()
    figures.frames = 9
    assert set(ear.listen(0.4)) <= {"STOPPING=1"} and not service.is_alive()


def test_pings_come_at_half_of_the_time(ear: Ear, tmp_path: Path) -> None:
    figures = Figures()
    service = Service(figures, {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"})
    service.start()
    start = time.monotonic()
    for _ in range(20):
        figures.frames += 1
        ear.listen(0.1)
    service.end()
    halves = (time.monotonic() - start) / 0.2
    assert halves / 2 <= ear.heard.count("WATCHDOG=1") <= halves + 1 and ear.heard.count("READY=1") == 1
