"""``Model``: the Python interface, with the habits of people who use YOLO tools.

Importing this module imports no torch and no runtime; whatever a call needs is imported by that call.
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.errors import EdgesegError, Notice, StepFailed
from edgeseg.porting import Ported, Saving

if TYPE_CHECKING:
    from edgeseg.evaluate.fidelity import Fidelity
    from edgeseg.evaluate.validate import ValidationResult
    from edgeseg.predict.result import Result
    from edgeseg.running.open import Opened
    from edgeseg.training import TrainResult

DEFAULT_DATA = "coco128-seg"


class Model(Ported):
    """A YOLO model for segmentation or detection: a checkpoint (``.pt``), a definition (``.yaml``) or any exported artifact.

    Args:
        path: the file or folder, or a well-known name such as ``yolov8n-seg.pt`` or ``yolo11n.pt`` (downloaded when absent).
        threads: CPU threads of the runtime (None: its own choice).
        input: what the input of another tool's file holds where it is not RGB in 0..1: ``bgr``, ``0..255``, or both.
        task: ``segment`` or ``detect`` where the file must be that; None: as it is.

    Raises:
        EdgesegError: on first use, when the file is missing or is no such model.
    """

    def __init__(
        self,
        path: str | Path = "yolov8n-seg.pt",
        task: str | None = None,
        *,
        threads: int | None = None,
        input: str | None = None,
        verbose: bool = False,
    ) -> None:
        if task not in (None, "segment", "detect"):
            raise EdgesegError(f"task {task!r} is not to be had", hint="There are segment and detect")
        self.path, self.threads, self.input = Path(path), threads, input
        super().__init__()
        self._task = task
        self._device: str | int | None = None
        self._opened: Opened | None = None
        self.trainer: TrainResult | None = None  # the latest training: best, last, save_dir
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    def __repr__(self) -> str:
        return f"Model({str(self.path)!r})"

    def __call__(self, source: Any, **options: Any) -> Any:
        """The same as ``predict``."""
        return self.predict(source, **options)

    @property
    def is_checkpoint(self) -> bool:
        """Whether this is a network rather than an exported artifact."""
        from edgeseg.running.open import is_checkpoint

        return is_checkpoint(self.path)

    @property
    def opened(self) -> Opened:
        """The runtime and the manifest; opened on first use."""
        if self._opened is None:
            from edgeseg.running.open import open_model

            opened = open_model(self.path, threads=self.threads, input=self.input)
            if self._task not in (None, opened.manifest.task):
                raise EdgesegError(f"it is for task {opened.manifest.task}, not {self._task}", path=self.path)
            self._opened = opened
        return self._opened

    def _at(self, device: str | int | None, imgsz: Any) -> Opened:
        from edgeseg.running.open import parse_imgsz

        return self.opened.on(self._device if device is None else device).sized(parse_imgsz(imgsz))

    def load(self, weights: str | Path) -> Model:
        """Take over the weights of another checkpoint wherever name and shape agree, and return this model.

        The rules are those of training from it: scores class by class where names agree; a detection network gives
        all but coefficients and prototypes (``yolov8n.pt``), one of another family the parts that both have.

        Raises:
            EdgesegError: this is an exported artifact, or less than a quarter of it is in ``weights``.
        """
        if not self.is_checkpoint:
            raise EdgesegError("weights go into a network, and this is an exported file", path=self.path)
        self._need_torch()
        from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
        from edgeseg.training.transfer import load_into

        network, other = load_checkpoint(self.path), load_checkpoint(weights)
        network = network.unfuse() if network.fused else network
        transfer = load_into(network, other)
        sizes = {k: v.numel() for k, v in network.state_dict().items()}
        if 4 * sum(sizes[k] for k in transfer.fresh) > 3 * sum(sizes.values()):
            raise EdgesegError(
                f"its weights do not fit {self.path}", path=weights, hint="Is it of another size (n, s, m, l, x)?"
            )
        file = self._scratch_folder() / f"{self.path.stem}.pt"
        save_checkpoint(file, network)
        self.path, self._opened = file, None
        return self

    def predict(
        self,
        source: Any,
        *,
        conf: float = 0.25,
        iou: float = 0.7,
        max_det: int = 300,
        imgsz: int | Sequence[int] | None = None,
        classes: str | int | Sequence[int] | None = None,
        masks: bool = True,
        stream: bool = False,
        device: str | int | None = None,
        vid_stride: int = 1,
        agnostic_nms: bool = False,
        rect: bool = False,
        **others: Any,
    ) -> list[Result] | Iterator[Result]:
        """Predict on images.

        Args:
            source: path, folder, glob, video, webcam index, URL, ``.txt`` file with one of these a line, uint8 BGR array
                (H, W, 3), tensor (3, H, W) or (B, 3, H, W) of RGB in 0..1, PIL image, or a list or generator of these.
            conf: lowest score that counts, 0..1.
            iou: overlap above which NMS drops the lower score, 0..1.
            max_det: most detections per image.
            imgsz: input size in pixels, one side or (height, width), for models that take any size.
            classes: only these classes (numbers, or names with commas).
            masks: compute masks.
            stream: return an iterator that reads as it goes, for videos and large folders.
            device: ``cpu``, or ``cuda:0`` (``0``) where the model can run there.
            vid_stride: of a video's frames only each so many-th.
            agnostic_nms: boxes of any class exclude each other. rect: pad to the stride only, of models that take any size.
            others: ``save save_txt save_conf save_crop save_frames`` into ``project/name`` (a new folder; ``exist_ok``: the
                same), ``show``, ``line_width show_labels show_conf show_boxes``; other options of YOLO tools are accepted
                where they ask for what is done anyway, else refused with a hint.

        Returns:
            One ``Result`` per image; unreadable images among others are left out with a warning.

        Raises:
            EdgesegError: nothing to read, or not one image was readable.
        """
        from edgeseg.predict.result import class_ids

        saving = Saving.of(others)
        if vid_stride < 1:
            raise EdgesegError(f"vid_stride={vid_stride} is no whole number above 0")
        opened = self._at(device, imgsz)
        wanted = class_ids(classes, opened.manifest.names)
        kinds: dict[str, Any] = {"masks": masks, "classes": wanted, "agnostic": agnostic_nms, "rect": rect}
        pipeline = opened.pipeline(conf=conf, iou=iou, max_det=max_det, **kinds)
        found = saving.each(self._results(pipeline, source, vid_stride))
        return found if stream else list(found)

    @staticmethod
    def _results(pipeline: Any, source: Any, stride: int) -> Iterator[Result]:
        from edgeseg.predict.result import Result, results

        good, last = 0, None
        for item in results(pipeline, source, stride):
            if isinstance(item, Result):
                good += 1
                yield item
            else:
                last = item
                warnings.warn(f"{item.path}: {item.reason}; skipped", stacklevel=3)
        if last is not None and not good:
            raise EdgesegError(last.reason, path=last.path)

    def validate(
        self,
        data: str | Path | None = None,
        *,
        split: str = "val",
        conf: float = 0.001,
        iou: float = 0.7,
        max_det: int = 300,
        imgsz: int | Sequence[int] | None = None,
        limit: int | None = None,
        progress: Any = None,
        device: str | int | None = None,
        cluster: Any = None,
        agnostic_nms: bool = False,
        rect: bool = False,
        **others: Any,
    ) -> ValidationResult:
        """Measure the model on a dataset with the COCO protocol.

        Args:
            data: dataset YAML or name; by default what the model was trained on, else ``coco128-seg``.
            split: ``train``, ``val`` or ``test``.
            limit: only the first so many images. progress: called with (done, total) after each image.
            device: ``cpu``, or ``cuda:0`` (``0``) where the model can run there.
            cluster: an ``edgeseg.cluster.driver.Cluster`` whose nodes share the images.
            agnostic_nms: boxes of any class exclude each other. rect: pad to the stride only, of models that take any size.
            others: ``save_json`` (COCO's results) and ``plots`` into ``project/name``; other options of YOLO tools are
                accepted where they ask for what is done anyway, else refused with a hint.

        Returns:
            A result with ``.box`` and ``.seg`` (``map map50 map75 maps p r f1``), ``.confusion_matrix``, ``.speed`` (ms).
        """
        from edgeseg.data.dataset import load_dataset
        from edgeseg.evaluate.validate import validate
        from edgeseg.evaluate.written import Written
        from edgeseg.habits import VALIDATION, check

        written = Written.of(others)
        check("validate", others, VALIDATION)
        if importlib.util.find_spec("faster_coco_eval") is None:
            raise EdgesegError("average precision needs faster-coco-eval", hint='pip install "edgeseg[evaluate]"')
        opened, dataset = self._at(device, imgsz), load_dataset(str(data or self.default_data()))
        how: dict[str, Any] = {"conf": conf, "iou": iou, "max_det": max_det}
        pipeline: Any = opened.pipeline(**how, multi_label=True, agnostic=agnostic_nms, rect=rect)
        if cluster is not None:
            if agnostic_nms or rect:
                raise EdgesegError("several machines do neither agnostic_nms nor rect", hint="Leave --ray out")
            pipeline = cluster.spread(opened, self.threads, {"input": self.input})
        how |= {"split": split, "limit": limit, "progress": progress, "seen": written.seen if written.json else None}
        return written.finish(validate(pipeline, dataset, **how))

    val = validate

    def compare(
        self,
        reference: Model | str | Path,
        data: str | Path | None = None,
        *,
        split: str = "val",
        conf: float = 0.25,
        imgsz: int | Sequence[int] | None = None,
        progress: Any = None,
    ) -> Fidelity:
        """How faithful the model is to ``reference`` at the operating threshold ``conf``, detection by detection.

        Average precision does not see all scores sink together; this does. Labels are not needed: ``data`` may be a
        folder of pictures. Images that cannot be read are left out.

        Raises:
            EdgesegError: the two models have different classes, or the dataset cannot be read.
        """
        from edgeseg.data.dataset import pictures
        from edgeseg.data.images import read_ahead
        from edgeseg.evaluate.fidelity import FidelityMeter
        from edgeseg.running.open import parse_imgsz

        other = reference if isinstance(reference, Model) else Model(reference, threads=self.threads)
        if len(other.names) != len(self.names):
            what = f"the reference has {len(other.names)} classes, this model has {len(self.names)}"
            raise EdgesegError(what, path=other.path, hint="Compare exports of one network")
        size = parse_imgsz(imgsz) or self.opened.manifest.imgsz
        first, second = (m.opened.sized(size).pipeline(conf=conf) for m in (other, self))
        images, _ = pictures(str(data or self.default_data()), split)
        meter = FidelityMeter(conf)
        for done, (_, image) in enumerate(read_ahead(images), 1):
            if not isinstance(image, EdgesegError):
                meter.add(first(image), second(image))
            if progress:
                progress(done, len(images))
        return meter.result()

    def default_data(self) -> str:
        """The dataset that the model was trained on; what should be known about that choice is a warning.

        Raises:
            EdgesegError: that dataset is not where it was.
        """
        from edgeseg.data.remembered import recall

        network = getattr(self.opened.runtime, "network", None)
        found, note = recall(network.info if network is not None else self.opened.manifest.source, self.path)
        if note:
            warnings.warn(note, Notice, stacklevel=2)
        return found

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int = 640) -> dict[str, Any]:
        """What the model is, as plain values: parameters and FLOPs of a network, manifest and tensors of an artifact.

        ``detailed`` and ``verbose`` are words of other YOLO tools: nothing is printed.
        """
        from edgeseg.about import artifact_info, network_info, unopened_info

        if self.is_checkpoint:
            self._need_torch()
            return network_info(self.path, imgsz)
        asleep = unopened_info(self.path)
        if asleep is not None:
            return asleep
        return artifact_info(self.opened)

    def export(self, format: str = "torchscript", **options: Any) -> Path:
        """Export to one format and return where the artifact lies.

        Args:
            format: name or alias of a format, such as ``onnx`` or ``tflite``.
            options: ``imgsz half int8 dynamic simplify opset optimize batch head data recipe images``, whatever the
                format takes; ``out`` (file or folder), ``offline``, ``force``; with int8 also ``decisions`` (a file that
                keeps or gives what was decided), ``judge`` (pictures on which the gate judges), and ``max_drop`` (points of
                AP) or ``min_agreement`` (0..1): the cheapest mixed precision within them is searched, on ``split``
                (val) and its first ``limit`` images, and written down at ``storage``.

        Raises:
            EdgesegError: an option that the format does not take, or an exported artifact as source.
            StepFailed: the conversion failed, or the gate refused an int8 artifact (``force`` keeps it).
        """
        from edgeseg.export.api import export
        from edgeseg.export.options import ExportOptions
        from edgeseg.habits import EXPORT, QUIET, check
        from edgeseg.running.open import parse_imgsz

        running: dict[str, Any]
        own = ("out", "jobs", "offline", "force", "rebuild", "on_event", "decisions", "judge", "performer")
        running = {k: options.pop(k) for k in own if k in options}
        wish = {k: options.pop(k) for k in ("split", "limit", "storage") if k in options}
        limits = {k: options.pop(k) for k in ("max_drop", "min_agreement") if k in options}
        check("export", {k: options.pop(k) for k in (*EXPORT, *QUIET) if k in options}, EXPORT)
        if "imgsz" in options:
            options["imgsz"] = parse_imgsz(options["imgsz"])
        if self._scratch is not None:
            running.setdefault("out", Path.cwd())
        given = ExportOptions.of(**options)
        if wish and not limits:
            raise EdgesegError(f"{', '.join(wish)}: of a search", hint="Give max_drop or min_agreement too, or leave it out")
        if limits:
            from edgeseg.export.mixed import cheapest_options
            from edgeseg.export.search import Limits

            given = cheapest_options(self.path, format, given, Limits(**limits), **wish, on_event=running.get("on_event"))
        (result,) = export(self.path, [format], given, **running)
        if result.error is not None:
            raise result.error
        if result.path is None:
            raise StepFailed(f"{format} was not made", path=result.log)
        return result.path

    def train(self, data: str | Path | None = None, **options: Any) -> TrainResult:
        """Train on a dataset and continue with the best weights.

        Args:
            data: dataset YAML or name.
            options: ``epochs``, ``imgsz``, ``batch`` and the other fields of ``edgeseg.training.TrainOptions``;
                ``listeners`` and ``progress`` as in ``edgeseg.training.train``.
        """
        self._need_torch()
        from edgeseg.training import TrainOptions, train

        running = {k: options.pop(k) for k in ("listeners", "progress") if k in options}
        running["listeners"] = [*running.get("listeners", ()), *self._listeners()]
        if options.get("resume") is True and self.path.name == "last.pt" and self.path.exists():
            options["resume"] = str(self.path)
        flat = {"data": None if data is None else str(data), **options}
        if not options.get("resume"):  # a run that goes on has both
            flat = {"model": str(self.path), **flat, "data": str(data or DEFAULT_DATA)}
        result = train(TrainOptions.from_flat(flat), **running)
        self.path, self._opened = result.best if result.best.is_file() else result.last, None
        self.trainer = result
        return result

    def _need_torch(self) -> None:
        from edgeseg.running.open import need_torch

        need_torch(self.path)

    def _scratch_folder(self) -> Path:
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="edgeseg-")
        return Path(self._scratch.name)
