"""What only people who come from other YOLO tools ask of ``Model``: saving while predicting, callbacks by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.habits import BENCHMARK, PREDICTION, check
from edgeseg.resources import new_folder
from edgeseg.store import put

if TYPE_CHECKING:
    from edgeseg.export.benchmark import Measured
    from edgeseg.predict.result import Result
    from edgeseg.predict.views import Names
    from edgeseg.running.open import Opened
    from edgeseg.training.loop import Listener
    from edgeseg.vision.track import Tracker

Self = TypeVar("Self", bound="Ported")
EVENTS = {
    "on_train_start": "on_start",
    "on_train_batch_end": "on_batch",
    "on_train_epoch_end": "on_epoch",
    "on_fit_epoch_end": "on_epoch",
    "on_train_end": "on_stop",
}
"""Names of events of training, with the method of ``edgeseg.training.loop.Listener`` that they are."""
ELSEWHERE = {
    "tune": "options of train are given, not searched; edgeseg search is for precisions",
    "embed": "take a feature from model.model, the network",
    "predictor": "predict gives all that it finds; model.opened is what runs",
    "overrides": "options are given to each call",
    "reset_weights": "begin with YOLO('yolov8n-seg.yaml')",
    "ckpt_path": "it is model.path",
}
"""Attributes of models there, with what to use here."""
DRAWING = {"line_width": "line_width", "show_labels": "labels", "show_conf": "conf", "show_boxes": "boxes"}


class Device(str):
    """``cpu`` or ``cuda:0``, which knows its ``type`` and ``index``."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """``cpu``, ``cuda``."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]
        """Which of several; None of one."""
        number = self.partition(":")[2]
        return int(number) if number else None


class Ported:
    """Methods that ``Model`` has for their sake."""

    predict: Callable[..., Any]
    path: Path
    threads: int | None
    default_data: Callable[[], str]
    _device: str | int | None
    if TYPE_CHECKING:

        @property
        def opened(self) -> Opened:
            """Of ``Model``."""

    def __init__(self) -> None:
        self._callbacks: list[tuple[str, Callable[[Any], object]]] = []
        self._tracker: Tracker | None = None

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            instead = f": {ELSEWHERE[name]}" if name in ELSEWHERE else ""
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{instead}", name=name, obj=self)

    @property
    def names(self) -> Names:
        """Class names, by number."""
        from edgeseg.predict.views import Names

        return Names(self.opened.manifest.names)

    @property
    def task(self) -> str:
        """``segment`` or ``detect``."""
        return self.opened.manifest.task

    @property
    def device(self) -> Device:
        """Where it runs: ``cpu``, ``cuda:0``."""
        return Device(self.opened.on(self._device).runtime.device)

    @property
    def model(self) -> Any:
        """The network of a checkpoint, a ``torch.nn.Module``; the runtime of an exported artifact."""
        return getattr(self.opened.runtime, "network", self.opened.runtime)

    def to(self: Self, device: str | int) -> Self:
        """Predict and validate there from now on, or say that it cannot run there; returns this model."""
        self.opened.on(device)
        self._device = device
        return self

    def save(self, filename: str | Path) -> Path:
        """Copy the checkpoint or the artifact, whole or not at all; a file there is replaced, a folder is an error."""
        place = Path(filename)
        if place.is_dir():
            raise EdgesegError("a folder is in the way", path=place, hint="Name a file or folder that is not there yet")
        put(self.opened.path, place)
        return place

    def add_callback(self, event: str, function: Callable[[Any], object]) -> None:
        """Call ``function(trainer)`` when training comes to ``event``, one of ``EVENTS``.

        Raises:
            EdgesegError: there is no such event.
        """
        if event not in EVENTS:
            raise EdgesegError(f"training has no event {event!r}", hint=did_you_mean(event, EVENTS, ", ".join(EVENTS)))
        self._callbacks.append((EVENTS[event], function))

    def clear_callback(self, event: str) -> None:
        """Forget what was to be called at ``event``; ``reset_callbacks`` forgets all."""
        self._callbacks = [c for c in self._callbacks if c[0] != EVENTS.get(event)]

    def reset_callbacks(self) -> None:
        """Forget all callbacks."""
        self._callbacks = []

    def fuse(self: Self, **options: Any) -> Self:
        """Itself: a network predicts with its batch norms folded in anyway."""
        return self

    def track(
        self,
        source: Any,
        *,
        conf: float = 0.1,
        persist: bool = False,
        tracker: Tracker | str | None = None,
        **options: Any,
    ) -> list[Result] | Iterator[Result]:
        """Predict on consecutive frames and give each object an id that it keeps: ``r.boxes.id``.

        Args:
            source: as in ``predict``; a video among several begins a new scene.
            conf: lowest score that is looked at: faint detections carry on what was surer before.
            persist: go on from the last call, where frames are given one by one.
            tracker: an ``edgeseg.vision.track.Tracker`` of other settings; ``bytetrack.yaml`` is what is done anyway.
            options: of ``predict``.

        Returns:
            What ``predict`` returns; each result has the objects that are followed, and no others.

        Raises:
            EdgesegError: another tracker, or what ``predict`` raises.
        """
        from edgeseg.vision.track import Tracker

        if isinstance(tracker, Tracker):
            self._tracker = tracker
        elif tracker not in (None, "bytetrack.yaml"):
            raise EdgesegError(f"there is no tracker {tracker!r}", hint="Leave it out: ByteTrack's way is what there is")
        elif self._tracker is None or not persist:
            self._tracker = Tracker()
        return self.predict(source, conf=conf, tracker=self._tracker, **options)

    def benchmark(
        self,
        data: str | Path | None = None,
        format: str | Sequence[str] = "",
        *,
        imgsz: int | Sequence[int] = 640,
        half: bool | None = None,
        int8: bool | None = None,
        split: str = "val",
        limit: int | None = None,
        out: str | Path | None = None,
        **others: Any,
    ) -> Measured:
        """Export to formats (default: all), then measure size, accuracy, agreement with this network and speed of each.

        Args:
            data: dataset YAML or name; by default what the model was trained on.
            format: names, with commas or as a list. half, int8: their precision.
            limit: only the first so many images of ``split``.
            out: where the artifacts go; by default ``runs/benchmark/expN``.

        Returns:
            The table of ``edgeseg benchmark``: ``rows()`` for a data frame, ``print`` for people.

        Raises:
            EdgesegError: bad options or data; a format that fails keeps its line with the reason.
        """
        from edgeseg.export.benchmark import measure
        from edgeseg.export.options import ExportOptions
        from edgeseg.running.open import parse_imgsz

        check("benchmark", others, BENCHMARK)
        names = format.split(",") if isinstance(format, str) else format
        options = ExportOptions(imgsz=parse_imgsz(imgsz), half=half, int8=int8)
        return measure(
            str(self.path),
            self.opened,
            str(data or self.default_data()),
            [n.strip() for n in names if n.strip()],
            options,
            folder=lambda: Path(out) if out else new_folder("runs/benchmark"),
            split=split,
            limit=limit,
            threads=self.threads,
        )

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
    """What ``predict`` writes and shows beside what it returns, ``folder`` being made with the first thing in it; and whose
    ids (``tracker``) the results get."""

    save: bool = False
    save_txt: bool = False
    save_conf: bool = False
    save_crop: bool = False
    save_frames: bool = False
    show: bool = False
    project: str = "runs/predict"
    name: str = "exp"
    exist_ok: bool = False
    drawing: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    tracker: Tracker | None = None

    @classmethod
    def of(cls, options: dict[str, Any]) -> Saving:
        """Take these options out of ``options``; what is left must ask for nothing that is not done.

        Raises:
            EdgesegError: it does.
        """
        words = {f.name for f in fields(cls)} - {"drawing", "folder"}
        words -= {"tracker"} if isinstance(options.get("tracker"), str) else set()
        given = {word: options.pop(word) for word in words if word in options}
        drawing = {ours: options.pop(theirs) for theirs, ours in DRAWING.items() if theirs in options}
        check("predict", options, PREDICTION)
        return cls(**{k: v for k, v in given.items() if v is not None}, drawing=drawing)

    def each(self, results: Iterator[Result]) -> Iterator[Result]:
        """The results, each written and shown as it comes."""
        from edgeseg.predict.result import need_display, shown

        if self.tracker is not None:
            results = followed(results, self.tracker)
        if self.show:
            need_display()
        if not (self.save or self.save_txt or self.save_crop or self.save_frames or self.show):
            yield from results
            return
        from edgeseg.predict.writer import Writer

        kinds: dict[str, Any] = {"pictures": self.save, "labels": self.save_txt, "scores": self.save_conf}
        kinds |= {"crops": self.save_crop, "frames": self.save_frames, "drawing": self.drawing}
        with Writer(self._folder, **kinds) as w:
            for result in results:
                w.write(result)
                going = not self.show or shown(result)
                yield result if self.folder is None else replace(result, save_dir=str(self.folder))
                if not going:
                    return

    def _folder(self) -> Path:
        if self.folder is None:
            self.folder = new_folder(self.project, self.name, self.exist_ok)
        return self.folder


def followed(results: Iterator[Result], tracker: Tracker) -> Iterator[Result]:
    """The results of consecutive frames with the ids of their objects; a further video begins with no tracks."""
    path = None
    for result in results:
        if result.number == 0 and path not in (None, result.path):
            tracker.reset()
        path = result.path
        yield result.tracked(tracker)
