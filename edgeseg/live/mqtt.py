"""Results as MQTT messages (paho-mqtt, the extra ``mqtt``)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from edgeseg.errors import EdgesegError
from edgeseg.live.sinks import Record
from edgeseg.predict.result import Result

ROOM = 200
"""Messages that wait for a broker that is away; further ones are lost, and counted."""
PORTS = {"mqtt": 1883, "mqtts": 8883}
_CLOSE_S = 3.0


class Mqtt:
    """Publishes each result as one line of JSON (see ``Record``) at least once (QoS 1), in a thread of paho's own.

    The loop never waits for the broker: it is connected to whenever it is there, again and again.

    Args:
        url: ``mqtt://[USER:PASSWORD@]HOST[:PORT]/TOPIC``; ``mqtts`` for TLS.
        say: told when the broker is lost or refuses.

    Attributes:
        lost: messages that found no room.

    Raises:
        EdgesegError: no such address, or paho-mqtt is not installed.
    """

    def __init__(self, url: str, say: Callable[[str], None] = lambda sentence: None) -> None:
        try:
            parts = urlsplit(url)
            host, port, self._topic = parts.hostname, parts.port or PORTS[parts.scheme], unquote(parts.path.lstrip("/"))
        except (KeyError, ValueError):
            host, port, self._topic = None, 0, ""
        if not host or not self._topic or set("#+") & set(self._topic):
            raise EdgesegError(f"no MQTT address: {url!r}", hint="Write mqtt://HOST:1883/TOPIC (mqtts:// for TLS)")
        self._say, self._broker = say, f"{host}:{port}"
        self._record, self._away = Record(), False
        self.lost = self._handed = self._arrived = 0
        self._client = self._connected(host, port, parts)

    def _connected(self, host: str, port: int, parts: Any) -> Any:
        try:
            from paho.mqtt.client import Client
            from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
        except ImportError as e:
            raise EdgesegError("MQTT needs paho-mqtt 2", hint='pip install "edgeseg[mqtt]"') from e
        self._no_room = MQTTErrorCode.MQTT_ERR_QUEUE_SIZE
        client = Client(CallbackAPIVersion.VERSION2)
        if parts.username:
            client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            client.tls_set()
        client.max_queued_messages_set(ROOM)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_connect_fail = lambda *_: self._gone("cannot be reached")
        client.on_disconnect = lambda _c, _u, _f, reason, _p: self._gone("is lost") if reason.is_failure else None
        client.on_publish = self._on_publish
        client.connect_async(host, port)
        client.loop_start()
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._gone(f"refuses: {reason}")
        elif self._away:
            self._away = False
            self._say(f"MQTT broker {self._broker}: there again")

    def _on_publish(self, *_: Any) -> None:
        self._arrived += 1

    def _gone(self, how: str) -> None:
        if not self._away:
            self._away = True
            self._say(f"MQTT broker {self._broker} {how}; trying again, {ROOM} messages wait meanwhile")

    def put(self, result: Result) -> None:
        """Hand one message to paho's thread."""
        info = self._client.publish(self._topic, self._record.line(result), qos=1)
        if info.rc == self._no_room:
            self.lost += 1
        else:
            self._handed += 1

    def close(self) -> None:
        """Wait a moment for what is under way, and say goodbye."""
        until = time.monotonic() + _CLOSE_S
        while self._arrived < self._handed and time.monotonic() < until:
            time.sleep(0.02)
        self._client.disconnect()
        self._client.loop_stop()
        if missing := self.lost + self._handed - self._arrived:
            self._say(f"MQTT broker {self._broker}: {missing} of {self.lost + self._handed} messages were lost")
