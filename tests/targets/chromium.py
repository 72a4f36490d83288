"""A headless Chromium that tests steer: its DevTools protocol over two pipes, which needs no package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHROMIUM = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)
FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"]
# Nothing but this machine can be reached.
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]


class Browser:
    """One page in one Chromium. ``errors``: what the console complained of; ``urls``: what was asked for."""

    def __init__(self, folder: Path, *flags: str, timeout_s: float = 400) -> None:
        self.timeout_s, self.errors, self.urls = timeout_s, [], []
        self._buffer, self._number, self._session, self._answers = b"", 0, "", {}
        mine_in, its_out = os.pipe()
        its_in, mine_out = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (its_in, its_out)]

        def move() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self._log = (folder / "chromium.log").open("wb")
        command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", *flags, "about:blank"]
        self.child = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, preexec_fn=move, pass_fds=(3, 4), start_new_session=True
        )
        for fd in (its_in, its_out, *high):
            os.close(fd)
        self._read, self._write = mine_in, mine_out
        (page,) = (t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.send("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Network", "Page", "DOM"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": params} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout_s
        while number not in self._answers:
            self._listen(end)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _listen(self, end: float) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0, end - time.monotonic()))
        assert ready, f"Chromium does not answer; {self.errors}"
        got = os.read(self._read, 1 << 16)
        assert got, "Chromium has ended"
        *messages, self._buffer = (self._buffer + got).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._heard(message["method"], message["params"])

    def _heard(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])

    def js(self, expression: str) -> Any:
        """The value of an expression on the page; promises are awaited."""
        got = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def wait(self, condition: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + self.timeout_s
        while not self.js(condition):
            assert time.monotonic() < end, (condition, self.js("document.body.innerText"), self.errors)
            time.sleep(0.1)

    def give(self, selector: str, file: Path) -> None:
        """Choose a file in an input."""
        node = self.send("Runtime.evaluate", expression=f"document.querySelector({selector!r})")["result"]["objectId"]
        self.send("DOM.setFileInputFiles", files=[str(file.resolve())], objectId=node)

    def shoot(self, file: Path, width: int, height: int, scheme: str = "light") -> None:
        """A screenshot of the whole page at a width, in light or dark."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        time.sleep(0.3)
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        self.child.kill()
        self.child.wait()
        os.close(self._read)
        os.close(self._write)
        self._log.close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, served as ``python -m http.server`` serves it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
