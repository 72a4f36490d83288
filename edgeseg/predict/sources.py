"""Where images come from: files, folders, globs, videos, webcams, URLs, arrays, PIL images, and lists of all these.

``frames`` reads one at a time, so that a folder of a million images or an endless camera needs constant memory.
"""

from __future__ import annotations

import glob
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgeseg.data.images import SUFFIXES, decode_image, read_image
from edgeseg.errors import EdgesegError
from edgeseg.record import dataclass
from edgeseg.registry import target_by_path
from edgeseg.running.open import is_checkpoint, newest_checkpoint

IMAGES = frozenset(SUFFIXES)
VIDEOS = frozenset({".asf", ".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"})
STREAMS = ("rtsp://", "rtmp://", "tcp://", "udp://")
MAX_DOWNLOAD = 200_000_000
TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Frame:
    """One image to predict on.

    ``image`` is uint8 BGR (H, W, 3). ``path`` is the file or URL it came from, "" for arrays. ``name`` is a file name for
    what is saved of it. Frames of a video or a camera have their number (from 0) and the frames per second.
    """

    image: np.ndarray
    path: str = ""
    name: str = "image.jpg"
    number: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Unreadable:
    """A source among others that could not be read; ``reason`` is one sentence without the path."""

    path: str
    reason: str


def frames(source: Any) -> Iterator[Frame | Unreadable]:
    """Yield every image of ``source`` in a fixed order.

    Args:
        source: path of an image, video or folder; a glob; a webcam's index (0, "0"); an http(s) or rtsp URL; an array of
            uint8, or floats in 0..255, (H, W, 3) BGR or (H, W) grey; a tensor (3, H, W) or (B, 3, H, W) of RGB in 0..1; a
            PIL image; a ``.txt`` file with one of these a line; or a list or any iterable of these, read as it goes.

    Yields:
        ``Frame``, or ``Unreadable`` for a broken file among others.

    Raises:
        EdgesegError: no such file, nothing to read in it, or an unsupported kind of source.
    """
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        source = _of_tensor(source)
    alone = isinstance(source, str | bytes | bytearray | Mapping | np.ndarray) or _is_picture(source)
    if isinstance(source, Iterable) and not alone:
        number = itertools.count()
        for one in source:
            if isinstance(one, str | Path | int):
                yield from frames(one)
            else:
                more = frames(one) if isinstance(one, list | tuple) or hasattr(one, "detach") else [_array(one, "image.jpg")]
                for frame in more:
                    name = f"image{next(number)}.jpg"
                    yield replace(frame, name=name) if isinstance(frame, Frame) and not frame.path else frame
        if isinstance(source, list | tuple) and not source:
            raise EdgesegError("the list of sources is empty")
        return
    if isinstance(source, bool) or source is None:
        raise EdgesegError(f"cannot read images from {source!r}")
    if isinstance(source, int) or (isinstance(source, str) and source.isdigit() and not Path(source).exists()):
        yield from _capture(int(source), f"webcam {source}", f"webcam{source}.mp4")
    elif isinstance(source, str | Path):
        yield from _named(str(source))
    else:
        yield _array(source, "image.jpg")


def _is_picture(value: Any) -> bool:
    """Whether it is a PIL image, recognised by its methods: PIL itself is not needed."""
    return hasattr(value, "convert") and hasattr(value, "getexif")


def _of_tensor(tensor: Any) -> list[np.ndarray]:
    """Images uint8 BGR of a tensor (3, H, W) or (B, 3, H, W) of RGB in 0..1.

    Raises:
        EdgesegError: another shape, or other values.
    """
    values = tensor.detach().cpu().numpy()
    values = values[None] if values.ndim == 3 else values
    if values.ndim != 4 or values.shape[1] != 3 or not values.size:
        shape = "x".join(map(str, tensor.shape))
        raise EdgesegError(f"a tensor of images is (3, H, W) or (B, 3, H, W), not {shape}")
    if values.dtype.kind != "f" or not (values.min() >= 0 and values.max() <= 1):
        raise EdgesegError("a tensor of images is float RGB in 0..1", hint="Divide by 255, or give a uint8 BGR array")
    return [np.ascontiguousarray(v) for v in np.rint(values[:, ::-1] * 255).astype(np.uint8).transpose(0, 2, 3, 1)]


def count(source: Any) -> int | None:
    """How many images ``source`` holds where that is known without reading them, else None."""
    if isinstance(source, list | tuple):
        known = [count(s) for s in source]
        return None if None in known else sum(k for k in known if k is not None)
    if isinstance(source, str | Path):
        if _is_url(str(source)):
            return None
        files = _files(str(source)) or ()
        return None if not files or any(f.suffix.lower() in VIDEOS for f in files) else len(files)
    return None if isinstance(source, int) else 1


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://", *STREAMS))


def _files(source: str) -> list[Path]:
    """Image and video files that a path or a glob names, sorted; [] when there are none."""
    path = Path(source).expanduser()
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGES | VIDEOS and not p.name.startswith("."))
    if path.exists():
        return [path]
    if glob.has_magic(source):
        found = (Path(p) for p in glob.iglob(str(path), recursive=True))
        return sorted(p for p in found if p.suffix.lower() in IMAGES | VIDEOS and p.is_file())
    return []


def _named(source: str) -> Iterator[Frame | Unreadable]:
    if not source.strip():
        raise EdgesegError("the source is empty", hint="Give an image, a folder, a video, a webcam's index or a URL")
    if _is_url(source):
        yield from _url(source)
        return
    path = Path(source).expanduser()
    files = _files(source)
    if not files:
        if path.is_dir():
            raise EdgesegError(
                "no images or videos in this folder", path=source, hint="Look for them with a glob: 'DIR/**/*.jpg'"
            )
        what = "no image matches" if glob.has_magic(source) else "no such file or folder"
        raise EdgesegError(what, path=source, hint="Give an image, a folder, a glob, a video, a webcam's index or a URL")
    for file in files:
        if file.suffix.lower() == ".txt":
            yield from frames(_listed(file))
            continue
        if file.suffix.lower() in VIDEOS:
            try:
                yield from _capture(str(file), str(file), file.name)
            except EdgesegError as e:
                yield Unreadable(str(file), e.what)
            continue
        try:
            image = read_image(file)
        except EdgesegError as e:
            yield Unreadable(str(file), e.what)
            continue
        yield Frame(image, str(file), file.name)


def _listed(file: Path) -> list[str]:
    """The sources that a text file names, one a line; relative paths count from its folder.

    Raises:
        EdgesegError: it names none.
    """
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    found = [line if _is_url(line) or Path(line).exists() else str(file.parent / line) for line in lines if line]
    if not found:
        raise EdgesegError("no line of it names an image", path=file)
    return found


def _array(value: Any, name: str) -> Frame:
    """A frame from an array or a PIL image (recognised by its methods: PIL itself is not needed)."""
    if _is_picture(value):
        if value.getexif().get(0x0112, 1) != 1:
            from PIL import ImageOps

            value = ImageOps.exif_transpose(value)
        rgb = np.asarray(value.convert("RGB"))
        return Frame(np.ascontiguousarray(rgb[..., ::-1]), getattr(value, "filename", "") or "", name)
    if not isinstance(value, np.ndarray):
        raise EdgesegError(f"cannot read images from a {type(value).__name__}")
    if value.dtype.kind == "f" and value.size:
        value = _of_floats(value)
    if value.dtype != np.uint8 or value.size == 0 or value.ndim not in (2, 3):
        shape = "x".join(map(str, value.shape))
        raise EdgesegError(f"an image is a non-empty uint8 array (H, W, 3) in BGR, not {value.dtype} {shape}")
    if value.ndim == 2 or value.shape[2] == 1:
        value = cv2.cvtColor(value.reshape(value.shape[:2]), cv2.COLOR_GRAY2BGR)
    elif value.shape[2] == 4:
        value = cv2.cvtColor(value, cv2.COLOR_BGRA2BGR)
    elif value.shape[2] != 3:
        raise EdgesegError(f"an image has 1, 3 or 4 channels, not {value.shape[2]}")
    return Frame(np.ascontiguousarray(value), "", name)


def _of_floats(value: np.ndarray) -> np.ndarray:
    """An array of whole or broken numbers in 0..255 as uint8.

    Raises:
        EdgesegError: other values, or all in 0..1, which may be a picture divided by 255 or a black one.
    """
    low, high = float(value.min()), float(value.max())
    if 0 < high <= 1 and low >= 0:
        raise EdgesegError("an array of floats is BGR in 0..255, and this is within 0..1", hint="Multiply it by 255")
    if not (low >= 0 and high <= 255):
        raise EdgesegError("an array of floats is BGR in 0..255", hint="Give uint8, or values in that range")
    return np.rint(value).astype(np.uint8)


def _capture(what: int | str, label: str, name: str) -> Iterator[Frame | Unreadable]:
    """Frames of a video file, a camera or a stream; ``Unreadable`` last where a file holds fewer than it says."""
    capture = cv2.VideoCapture(what)
    try:
        if not capture.isOpened():
            hint = "Check that it is plugged in and not in use" if isinstance(what, int) else "Check the file or address"
            raise EdgesegError("it cannot be opened", path=label, hint=hint)
        fps = capture.get(cv2.CAP_PROP_FPS)
        fps = float(fps) if 0 < fps < 1000 else 30.0
        number = 0
        while True:
            good, image = capture.read()
            if not good or image is None:
                break
            if image.ndim == 2:
                image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
            yield Frame(image, label, str(Path(name).with_suffix(".mp4")), number, fps)
            number += 1
        if number == 0:
            raise EdgesegError("not one frame could be read from it", path=label, hint="Check that it is a video")
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT) if Path(str(what)).is_file() else 0
        # Some containers know only their duration: a frame or one in a hundred too many is a matter of rounding.
        if math.isfinite(claimed) and claimed - number > max(1, claimed / 100):
            yield Unreadable(
                label, f"only {number} of its {claimed:.0f} frames could be read, the rest is cut off or damaged"
            )
    finally:
        capture.release()


def _url(url: str) -> Iterator[Frame | Unreadable]:
    """An image behind a URL, or else a stream."""
    import urllib.parse

    name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "image.jpg"
    suffix = Path(name).suffix.lower()
    if url.startswith(STREAMS) or suffix in VIDEOS or suffix in (".m3u8", ".mjpg", ".mjpeg"):
        yield from _video(url, Path(name).stem + ".mp4")
        return
    data = _fetch(url)
    if data is None:
        yield from _video(url, (Path(name).stem or "stream") + ".mp4")
        return
    try:
        image = decode_image(data, path=url)
    except EdgesegError as e:
        raise EdgesegError(e.what, path=url, hint="Check the address in a browser") from e
    yield Frame(image, url, name if suffix in IMAGES else (Path(name).stem or "image") + ".jpg")


def _video(url: str, name: str) -> Iterator[Frame | Unreadable]:
    """A stream, or a video file: one whose index is at its end is fetched first where the server gives no parts of it."""
    try:
        yield from _capture(url, url, name)
    except EdgesegError:  # before the first frame
        import tempfile

        data = None if url.startswith(STREAMS) else _fetch(url, endless=("multipart/",))
        if data is None:
            raise
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "video"
            file.write_bytes(data)
            yield from _capture(str(file), url, name)


def _fetch(url: str, endless: tuple[str, ...] = ("video/", "multipart/")) -> bytes | None:
    """The bytes behind ``url``, or None when it is a stream: a kind that ``endless`` begins, or a playlist."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(url, headers={"User-Agent": "edgeseg"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            kind = answer.headers.get_content_type()
            if kind.startswith(endless) or "mpegurl" in kind:
                return None
            data: bytes = answer.read(MAX_DOWNLOAD + 1)
    except urllib.error.HTTPError as e:
        raise EdgesegError(f"the server answers {e.code} {e.reason}", path=url, hint="Check the address in a browser") from e
    except (urllib.error.URLError, OSError, ValueError) as e:
        reason = getattr(e, "reason", None) or e
        raise EdgesegError(f"it cannot be fetched ({reason})", path=url, hint="Check the address and the network") from e
    if len(data) > MAX_DOWNLOAD:
        raise EdgesegError(f"it is larger than {MAX_DOWNLOAD // 1_000_000} MB", path=url)
    return data


def is_model(word: str) -> bool:
    """Whether ``word`` names a model: a checkpoint, a definition, or a file or folder with the suffix of a format."""
    return is_checkpoint(word) or target_by_path(Path(word)) is not None


def model_and_source(words: Sequence[str], model: str | None, source: str | None) -> tuple[str, list[str]]:
    """The model and the sources among the positional ``words`` and the two options.

    Without a model the newest trained one is taken, else the smallest COCO network.

    Raises:
        EdgesegError: there is no source.
    """
    left = list(words)
    if len(left) == 2 and is_model(left[1]) and not is_model(left[0]):
        left.reverse()
    if model is None and left and (is_model(left[0]) or (source is not None and len(left) == 1) or len(left) == 2):
        # Of two words the first is the model even when no format has its suffix: opening it then says which have.
        model = left.pop(0)
    sources = [*left, *([source] if source is not None else [])]
    if not sources:
        hint = "edgeseg predict MODEL image.jpg (or a folder, glob, video, webcam index, URL)"
        raise EdgesegError("there is no image to predict on", hint=hint)
    return model or newest_checkpoint(), sources
