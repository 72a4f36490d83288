"""Every kind of source, and what happens to broken ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.predict.sources import Frame, Unreadable, count, frames, model_and_source


def picture(path: Path, value: int = 50, size: tuple[int, int] = (20, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))
    return path


def read(source: Any) -> list[Frame]:
    found = list(frames(source))
    assert all(isinstance(f, Frame) for f in found)
    return [f for f in found if isinstance(f, Frame)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, name in enumerate(("b.png", "a.png", "deep/c.png")):
        picture(tmp_path / name, 10 * k)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image either")
    return tmp_path


def test_file_folder_and_glob(folder: Path) -> None:
    assert [f.name for f in read(folder / "a.png")] == ["a.png"]
    assert [f.name for f in read(str(folder))] == ["a.png", "b.png"]
    assert [f.name for f in read(f"{folder}/**/*.png")] == ["a.png", "b.png", "c.png"]
    assert [f.name for f in read([folder / "b.png", str(folder / "deep")])] == ["b.png", "c.png"]
    assert count(str(folder)) == 2 and count([folder / "a.png", f"{folder}/**/*.png"]) == 4 and count(0) is None


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    assert [f.name for f in read(picture(tmp_path / "a[1].png"))] == ["a[1].png"]


def test_broken_files_are_reported_not_raised(folder: Path) -> None:
    (folder / "aa.jpg").write_bytes(b"\xff\xd8 nothing")
    (folder / "empty.png").touch()
    found = list(frames(folder))
    bad = [f for f in found if isinstance(f, Unreadable)]
    assert [Path(b.path).name for b in bad] == ["aa.jpg", "empty.png"]
    assert len(found) == 4 and all(b.reason for b in bad)


def test_arrays() -> None:
    grey, four = np.full((4, 6), 9, np.uint8), np.full((4, 6, 4), 9, np.uint8)
    for value in (grey, grey[..., None], four, four[..., :3][:, ::2]):
        frame = read(value)[0]
        assert frame.image.ndim == 3 and frame.image.shape[2] == 3 and frame.image.flags.c_contiguous and frame.path == ""
    assert [f.name for f in read([four, four])] == ["image0.jpg", "image1.jpg"]


@pytest.mark.parametrize(
    "value",
    [
        np.full((4, 6, 3), 0.5),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros((4, 6, 2), np.uint8),
        np.zeros((2, 4, 6, 3), np.uint8),
        1.5,
        None,
        True,
        [],
    ],
)
def test_what_is_no_image(value: Any) -> None:
    with pytest.raises(EdgesegError):
        list(frames(value))


def test_pil_image_with_orientation(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    red = image.new("RGB", (8, 4), (255, 0, 0))
    assert read(red)[0].image[0, 0].tolist() == [0, 0, 255]
    exif = red.getexif()
    exif[0x0112] = 6
    red.save(tmp_path / "turned.png", exif=exif)
    with image.open(tmp_path / "turned.png") as turned:
        assert read(turned)[0].image.shape == (8, 4, 3)


def test_missing_and_empty(tmp_path: Path) -> None:
    for source, says in (
        (tmp_path / "no.jpg", "no such file"),
        (tmp_path, "no images"),
        (f"{tmp_path}/*.jpg", "no image matches"),
        ("", "empty"),
    ):
        with pytest.raises(EdgesegError, match=says):
            list(frames(source))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no video")
    for k in range(5):
        writer.write(np.full((48, 64, 3), 40 * k, np.uint8))
    writer.release()
    return path


def test_video(video: Path) -> None:
    found = read(video)
    assert [f.number for f in found] == [0, 1, 2, 3, 4] and found[0].fps == pytest.approx(12) and found[0].name == "clip.mp4"
    assert count(video) is None
    video.write_bytes(video.read_bytes()[:100])
    assert isinstance(next(frames(video)), Unreadable)


def test_no_such_camera() -> None:
    with pytest.raises(EdgesegError, match="webcam 97"):
        list(frames("97"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_url(server: str, tmp_path: Path, video: Path) -> None:
    picture(tmp_path / "a b.png")
    frame = read(f"{server}/a%20b.png?size=1")[0]
    assert frame.name == "a b.png" and frame.image.shape == (20, 30, 3)
    assert len(read(f"{server}/clip.avi")) == 5
    writer = cv2.VideoWriter(str(tmp_path / "late.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 12.0, (64, 48))
    for k in range(5):  # its index is at its end, and this server gives no parts of files
        writer.write(np.full((48, 64, 3), 40 * k, np.uint8))
    writer.release()
    late = read(f"{server}/late.mp4?size=1")
    assert [f.number for f in late] == [0, 1, 2, 3, 4] and late[0].path == f"{server}/late.mp4?size=1"
    with pytest.raises(EdgesegError, match="404"):
        list(frames(f"{server}/none.mp4"))
    with pytest.raises(EdgesegError, match="404"):
        list(frames(f"{server}/none.png"))
    (tmp_path / "page.html").write_text("<html></html>")
    with pytest.raises(EdgesegError, match=r"page\.html"):
        list(frames(f"{server}/page.html"))


def test_nobody_answers() -> None:
    with pytest.raises(EdgesegError, match="cannot be fetched"):
        list(frames("http://127.0.0.1:9/a.jpg"))


def test_a_video_that_was_cut_off_is_said(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.avi", tmp_path / "cut.avi"
    writer = cv2.VideoWriter(str(whole), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    rng = np.random.default_rng(0)
    for _ in range(40):
        writer.write(rng.integers(0, 255, (48, 64, 3), np.uint8))
    writer.release()
    assert len(read(whole)) == 40
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    *found, last = list(frames(cut))
    assert isinstance(last, Unreadable) and last.path == str(cut) and 0 < len(found) < 40
    assert last.reason == f"only {len(found)} of its 40 frames could be read, the rest is cut off or damaged"


def test_of_two_words_the_one_that_is_a_model_is_it() -> None:
    assert model_and_source(["a.jpg", "b.onnx"], None, None) == ("b.onnx", ["a.jpg"])
    assert model_and_source(["a.onnx", "b.onnx"], None, None) == ("a.onnx", ["b.onnx"])
