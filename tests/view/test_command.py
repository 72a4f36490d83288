"""``edgeseg view``: what it says, how it ends, what it refuses; and the INT8 model beside the float one, for people."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.cli import run
from edgeseg.demo import CHECKPOINT
from edgeseg.model import Model

pytest.importorskip("aiohttp")
pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def started(*words: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, and the address that it printed."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "edgeseg", "view", *words, "--port", "0"]
    process = subprocess.Popen(command, text=True, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        found = re.search(r"(http://127\.0\.0\.1:\d+)/", process.stdout.readline())
        assert found, process.communicate()
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: bytes) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
    connection.request("POST", "/picture?name=mine.jpg", body, {"Origin": url})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def claims(width: int, height: int) -> bytes:
    """A small JPEG whose head says that it is of this size."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.index(b"\xff\xc0")
    struct.pack_into(">HH", data, at + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_well(number: signal.Signals, shapes: Any, tmp_path: Path) -> None:
    pictures = shapes.images("val")[0].parent
    with started(str(CHECKPOINT), f"data={pictures}", cwd=tmp_path) as (process, url):
        status, picture = post(url, shapes.images("val")[0].read_bytes())
        assert status == 200 and picture["found"][0]
        for size in ((20000, 20000), (65000, 65000)):  # 400 million pixels: readers believe no head
            status, answer = post(url, claims(*size))
            assert status == 200 and "an image of more than 134 million pixels is too large" in answer["error"]
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "" and "Traceback" not in err and err.endswith("ended\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError):
        post(url, b"")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["view", str(CHECKPOINT), "--port", "70000"], "port 70000 is none. Ports are 1 to 65535; 0 takes a free one"),
        (["view", str(CHECKPOINT), "--conf", "2"], "conf 2 is not between 0 and 1"),
        (["view", "gone.onnx", "port=0"], "gone.onnx: no such file or folder"),
        (["view", str(CHECKPOINT), "data=gone.yaml"], "gone.yaml"),
        (["view", str(CHECKPOINT), "prot=0"], "view has no option 'prot'. Did you mean 'port'?"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_served(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "http://" not in err


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(["view", str(CHECKPOINT), f"port={port}"]) == 2
    assert f"port {port} is taken. Use another one: --port {port + 1}" in capsys.readouterr().err


@pytest.mark.slow
def test_float_beside_int8_for_everybody(
    shapes: Any, tmp_path: Path, visit: Any, audit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo network and its INT8 export: looked at in Chromium, and audited for people who cannot see or point."""
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name)
    with monkeypatch.context() as patch:
        patch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
        model = Model(shutil.copy(CHECKPOINT, tmp_path)).export(format="onnx", int8=True, data=str(shapes.yaml), imgsz=160)
    with started(str(CHECKPOINT), str(model), f"data={shapes.yaml}", cwd=tmp_path) as (process, url):
        view = visit(url)
        title = "(document.querySelector('.ev-title')?.textContent ?? '')"
        view.wait(f"{title}.startsWith('1 of 12') && !document.getElementById('figures').hidden")
        cells = "[...document.querySelectorAll('#rows tr')].map(row => row.children[2].textContent)"
        seen = set()
        for number in range(12):
            view.wait(f"{title}.startsWith('{number + 1} of 12')")
            seen.add(view.js(cells)[1])
            view.js("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'n', bubbles: true}))")
        assert len(seen) > 1 and "100.0 %" in seen  # a quantized network differs somewhere, and mostly does not
        for width in (400, 1280):
            for scheme in ("light", "dark"):
                view.shoot(tmp_path / f"{width}-{scheme}.png", width, 900, scheme)
                assert view.js("document.documentElement.scrollWidth") <= width
        assert view.errors == [] and all(u.startswith((url, "data:", "about:")) for u in view.urls)
        assert audit(url) == [] and audit(url, narrow=True, dark=True) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
