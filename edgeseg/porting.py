"""What only people who come from other YOLO tools ask of ``Model``: saving while predicting, callbacks by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.habits import PREDICTION, check
from edgeseg.runs import new_folder

if TYPE_CHECKING:
    from edgeseg.predict.result import Result
    from edgeseg.training.loop import Listener

EVENTS = {
    "on_train_start": "on_start",
    "on_train_batch_end": "on_batch",
    "on_train_epoch_end": "on_epoch",
    "on_fit_epoch_end": "on_epoch",
    "on_train_end": "on_stop",
}
"""Names of events of training, with the method of ``edgeseg.training.loop.Listener`` that they are."""
DRAWING = {"line_width": "line_width", "show_labels": "labels", "show_conf": "conf", "show_boxes": "boxes"}


class Ported:
    """Methods that ``Model`` has for their sake."""

    def __init__(self) -> None:
        self._callbacks: list[tuple[str, Callable[[Any], object]]] = []

    def add_callback(self, event: str, function: Callable[[Any], object]) -> None:
        """Call ``function(trainer)`` when training comes to ``event``, one of ``EVENTS``.

        Raises:
            EdgesegError: there is no such event.
        """
        if event not in EVENTS:
            raise EdgesegError(f"training has no event {event!r}", hint=did_you_mean(event, EVENTS, ", ".join(EVENTS)))
        self._callbacks.append((EVENTS[event], function))

    def track(self, *args: Any, **options: Any) -> Any:
        """Refused: objects are not followed from frame to frame."""
        raise EdgesegError("objects are not followed from frame to frame", hint="Use predict(source, stream=True)")

    def benchmark(self, *args: Any, **options: Any) -> Any:
        """Refused: it is a command."""
        raise EdgesegError("a benchmark is a command", hint="edgeseg benchmark MODEL --int8")

    def _listeners(self) -> list[Listener]:
        """The callbacks as training takes them."""
        if not self._callbacks:
            return []
        from edgeseg.training.loop import Listener

        made = Listener()
        for method in set(EVENTS.values()):
            wanted = [function for m, function in self._callbacks if m == method]

            def call(trainer: Any, *rest: Any, wanted: list[Callable[[Any], object]] = wanted) -> None:
                for function in wanted:
                    function(trainer)

            setattr(made, method, call)
        return [made]


@dataclass
class Saving:
    """What ``predict`` writes and shows beside what it returns; ``folder`` is made with the first thing in it."""

    pictures: bool = False
    labels: bool = False
    scores: bool = False
    crops: bool = False
    show: bool = False
    project: str = "runs/predict"
    name: str = "exp"
    exist_ok: bool = False
    drawing: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Saving:
        """Take these options out of ``options``; what is left must ask for nothing that is not done.

        Raises:
            EdgesegError: it does.
        """
        words = {"save": "pictures", "save_txt": "labels", "save_conf": "scores", "save_crop": "crops"}
        words |= {k: k for k in ("show", "project", "name", "exist_ok")}
        given = {ours: options.pop(theirs) for theirs, ours in words.items() if theirs in options}
        drawing = {ours: options.pop(theirs) for theirs, ours in DRAWING.items() if theirs in options}
        check("predict", options, PREDICTION)
        return cls(**{k: v for k, v in given.items() if v is not None}, drawing=drawing)

    def each(self, results: Iterator[Result]) -> Iterator[Result]:
        """The results, each written and shown as it comes."""
        if not (self.pictures or self.labels or self.crops or self.show):
            yield from results
            return
        from edgeseg.predict.writer import Writer

        with Writer(self._folder, pictures=self.pictures, labels=self.labels, scores=self.scores, drawing=self.drawing) as w:
            for result in results:
                w.write(result)
                if self.crops:
                    result.save_crop(self._folder() / "crops")
                if self.show:
                    result.show()
                yield result

    def _folder(self) -> Path:
        if self.folder is None:
            self.folder = new_folder(self.project, self.name, self.exist_ok)
        return self.folder
