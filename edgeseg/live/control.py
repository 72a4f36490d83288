"""How a running loop is watched and steered, and where its results go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from edgeseg.predict.result import Result


class Control(Protocol):
    """A loop as its page, its service manager and its command see it. Every method may be called from any thread."""

    def stats(self) -> dict[str, Any]:
        """Figures of now, plain values for JSON.

        ``frames`` (inferred), ``dropped`` (captured, never inferred), ``reconnects``, ``objects`` (of the last frame),
        ``fps`` (over the last seconds), ``ms`` (of the last frame: ``preprocess``, ``inference``, ``postprocess``),
        ``temperature`` (degrees Celsius, or None), ``uptime_s``, ``paused``, ``source``, ``model``, and ``state``:
        ``running``, ``reconnecting``, ``paused`` or ``ended``.
        """

    @property
    def paused(self) -> bool:
        """Whether frames are left alone for now."""

    def pause(self) -> None:
        """Leave frames alone until ``resume``."""

    def resume(self) -> None:
        """Go on after ``pause``."""

    def stop(self) -> None:
        """End the loop; what was inferred is still written. Returns at once."""


class Sink(Protocol):
    """Where results go."""

    def put(self, result: Result) -> None:
        """Take one result; called from one thread, in order.

        Raises:
            EdgesegError, OSError: it cannot be written.
        """

    def close(self) -> None:
        """Complete what was written."""
