"""The loop that a product runs: a camera, a model, and where its results go. Capture, inference and output overlap.

    from edgeseg import Model
    from edgeseg.live import JsonLines, Loop, open_camera

    loop = Loop(Model("model_int8.tflite").opened.pipeline(conf=0.4), open_camera("0"))
    for result in loop.results():  # the newest frame each time; the rest is dropped and counted
        print(result.number, result.verbose(), loop.stats()["fps"])

or ``loop.sinks.append(JsonLines("found.jsonl"))`` and ``loop.run()``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.live.cameras import Wish, open_camera
    from edgeseg.live.loop import Loop
    from edgeseg.live.mqtt import Mqtt
    from edgeseg.live.outlet import Sink
    from edgeseg.live.sinks import Events, JsonLines, Video

__all__ = ["Events", "JsonLines", "Loop", "Mqtt", "Sink", "Video", "Wish", "open_camera"]

_WHERE = {
    **dict.fromkeys(("Wish", "open_camera"), "cameras"),
    **dict.fromkeys(("Events", "JsonLines", "Video"), "sinks"),
    "Loop": "loop",
    "Mqtt": "mqtt",
    "Sink": "outlet",
}


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        from importlib import import_module

        return getattr(import_module(f"edgeseg.live.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'edgeseg.live' has no attribute {name!r}")
