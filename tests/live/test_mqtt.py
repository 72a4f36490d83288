"""MQTT with a real broker (mosquitto), that is late, goes away and comes back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.live.mqtt import ROOM, Mqtt
from edgeseg.predict.result import Result
from edgeseg.vision.detections import Detections

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/sbin")
NONE = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0), None, ("cat",), (8, 8))
PICTURE = np.zeros((8, 8, 3), np.uint8)


def result(number: int) -> Result:
    return Result(NONE, PICTURE, number=number, time=float(number))


class Broker:
    """mosquitto on a port of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.config = folder / "mosquitto.conf"
        self.config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert MOSQUITTO is not None
        command = [MOSQUITTO, "-c", str(self.config)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("no MQTT broker here (apt install mosquitto)")
    pytest.importorskip("paho.mqtt.client")
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


@pytest.fixture
def listener(broker: Broker) -> Iterator[list[dict[str, Any]]]:
    """What somebody hears who listens to everything below ``shed/``; the broker runs."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    broker.start()
    heard: list[dict[str, Any]] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.reconnect_delay_set(1, 1)
    client.on_connect = lambda c, *_: c.subscribe("shed/#", qos=1)
    client.on_message = lambda _c, _u, message: heard.append({"topic": message.topic, **json.loads(message.payload)})
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    time.sleep(0.3)
    yield heard
    client.disconnect()
    client.loop_stop()


def test_results_arrive_and_the_broker_may_go_and_come_back(
    broker: Broker, listener: list[dict[str, Any]], until: Callable[..., bool]
) -> None:
    said: list[str] = []
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}/shed/door%201", said.append)
    for number in range(10):
        sink.put(result(number))
    assert until(lambda: len(listener) == 10)
    assert [m["frame"] for m in listener] == list(range(10)) and {m["topic"] for m in listener} == {"shed/door 1"}
    broker.stop()
    assert until(lambda: bool(said)) and "lost" in said[0]
    start = time.monotonic()
    for number in range(10, 20):
        sink.put(result(number))
    assert time.monotonic() - start < 0.5, "the loop waits for no broker"
    broker.start()
    assert until(lambda: "there again" in said[-1])
    sink.close()
    # Who listens has to come back too; what matters here is that the broker confirmed each message.
    assert sink.lost == 0 and len(said) == 2
    assert broker.process is not None


def test_a_broker_that_is_late(broker: Broker) -> None:
    said: list[str] = []
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}/shed", said.append)
    for number in range(5):
        sink.put(result(number))
    time.sleep(0.2)
    broker.start()
    sink.close()
    assert len(said) == 2 and "cannot be reached" in said[0] and "there again" in said[1]


def test_a_broker_that_never_comes(broker: Broker) -> None:
    said: list[str] = []
    sink = Mqtt(f"mqtt://127.0.0.1:{broker.port}/shed", said.append)
    start = time.monotonic()
    for number in range(ROOM + 50):
        sink.put(result(number))
    assert time.monotonic() - start < 1 and sink.lost == 50
    sink.close()
    assert time.monotonic() - start < 6
    assert said[-1].endswith(f"{ROOM + 50} of {ROOM + 50} messages were lost")


def test_a_broker_that_wants_a_password(broker: Broker, tmp_path: Path, until: Callable[..., bool]) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("no mosquitto_passwd here")
    subprocess.run([tool, "-b", "-c", str(tmp_path / "passwords"), "door", "p@ss/word"], check=True)
    (tmp_path / "passwords").chmod(0o644)
    text = broker.config.read_text().replace("allow_anonymous true", f"password_file {tmp_path / 'passwords'}\nuser root")
    broker.config.write_text(text)
    broker.start()
    said: list[str] = []
    sink = Mqtt(f"mqtt://door:wrong@127.0.0.1:{broker.port}/shed", said.append)
    assert until(lambda: bool(said)) and "refuses: Not authorized" in said[0] and "wrong" not in said[0]
    sink.close()
    said.clear()
    sink = Mqtt(f"mqtt://door:p%40ss%2Fword@127.0.0.1:{broker.port}/shed", said.append)
    sink.put(result(0))
    sink.close()
    assert said == []


@pytest.mark.parametrize(
    "url", ["mqtt://host", "mqtt://host/", "http://host/topic", "host", "mqtt://host:x/t", "mqtt://h/a%23"]
)
def test_no_address(url: str) -> None:
    with pytest.raises(EdgesegError, match="no MQTT address"):
        Mqtt(url)
