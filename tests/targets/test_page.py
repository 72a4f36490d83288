"""The page beside a model: its folder, and what it finds in headless Chromium against Python on the same artifact."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.shapes import make_shapes, shapes_image
from edgeseg.decoders.page import write_page
from edgeseg.demo import CHECKPOINT
from edgeseg.environments.toolchains import is_offline, toolchain_of
from edgeseg.errors import EdgesegError
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model
from edgeseg.vision.detections import Detections

_spec = importlib.util.spec_from_file_location("chromium_for_tests", Path(__file__).with_name("chromium.py"))
assert _spec and _spec.loader
chromium = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = chromium
_spec.loader.exec_module(chromium)

# Chromium's own words where it has no GPU.
HARMLESS = ("No available adapters.",)
SIZES = [(320, 320), (200, 320), (320, 150), (97, 211), (500, 700)]
RESULT = """new Promise((done) => document.addEventListener("detections", ({ detail }) => done({
  boxes: [...detail.boxes], scores: [...detail.scores], classes: [...detail.classes],
  masks: detail.masks.map(({ data, ...place }) => ({ ...place, data: btoa(String.fromCharCode(...data)) })),
}), { once: true }))"""
READY = "document.getElementById('state')?.textContent === 'Ready'"


def small() -> Manifest:
    outputs = (Output("prediction", (1, 39, 20)), Output("proto", (1, 32, 16, 16), role="proto"))
    return Manifest("onnx", ("a", "b", "c"), (64, 64), Tensor("images", (1, 3, 64, 64)), outputs, head="decoded")


def a_target(folder: Path) -> tuple[Path, Path]:
    """A model, and packages with one library."""
    model, packages = folder / "m.onnx", folder / "packages"
    model.write_bytes(b"model")
    (packages / "node_modules/some/dist").mkdir(parents=True)
    (packages / "node_modules/some/dist/lib.js").write_text("1")
    return model, packages


WEB = target_by_name("onnx").folder / "web"


def test_a_page_is_whole(tmp_path: Path) -> None:
    model, packages = a_target(tmp_path)
    page = write_page(model, small(), WEB, packages, ["some/dist/lib.js"])
    assert page == tmp_path / "m.onnx_page"
    assert (page / "model/model.onnx").read_bytes() == b"model" and (page / "lib/lib.js").read_text() == "1"
    assert Manifest.from_json(json.dumps(json.loads((page / "manifest.json").read_text())["edgeseg"])) == small()
    for name in ("index.html", "page.js", "page.css", "draw.js", "engine.js", "LICENSES.txt", "edgeseg/edgeseg.js"):
        assert (page / name).stat().st_size > 0
    assert not (page / "edgeseg/page").exists()
    assert not [f for f in page.rglob("*.js") if f.parent.name != "lib" and "http" in f.read_text().replace("https, or", "")]


def test_a_page_that_lacks_a_library(tmp_path: Path) -> None:
    model, packages = a_target(tmp_path)
    with pytest.raises(EdgesegError, match="lack a file") as caught:
        write_page(model, small(), WEB, packages, ["some/other.js"])
    assert "export again" in caught.value.hint


def test_a_page_has_one_picture_at_a_time(tmp_path: Path) -> None:
    model, packages = a_target(tmp_path)
    manifest = small().with_tensors(Tensor("images", (4, 3, 64, 64)), small().outputs)
    with pytest.raises(EdgesegError, match="one picture at a time, not 4"):
        write_page(model, manifest, WEB, packages, [])


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm")
def test_packages_that_are_missing_offline_are_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    (result,) = export(CHECKPOINT, ["onnx"], ExportOptions.of(page=True), out=tmp_path, offline=True)
    assert "the npm packages of web are not installed and this is offline" in str(result.error)
    assert "export with page once" in str(result.error.hint) and not list(tmp_path.glob("*.onnx*"))


def test_formats_without_a_page_say_so(tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="does not take page; onnx, tfjs can"):
        export(CHECKPOINT, ["openvino"], ExportOptions.of(page=True), out=tmp_path)


def test_the_decoder_is_a_part_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page in the cache was made with the decoder of its day: another decoder makes another page."""
    from edgeseg.export import cache
    from edgeseg.export.plan import make_plan
    from edgeseg.export.run import Run

    def key(**options: Any) -> str:
        plan = make_plan(["onnx"], ExportOptions.of(**options))
        return Run(plan, CHECKPOINT, "x").key(plan.wanted[0])

    plain, paged = key(), key(page=True)
    monkeypatch.setattr(cache, "folder_hash", lambda name: "another")
    assert key() == plain != paged and key(page=True) != paged


browser = pytest.mark.skipif(chromium.CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """``made("onnx", int8=True)``: the demo network's artifact, with its page beside it."""
    known: dict[str, Path] = {}

    def make(name: str, **options: Any) -> Path:
        key = f"{name}{options}"
        if key not in known:
            chain = toolchain_of(target_by_name(name))
            if is_offline() or (
                chain.unmet() and not chain.installed and shutil.which("uv") is None and not chain.requirements
            ):
                pytest.skip("offline")
            if options.get("int8"):
                options["data"] = str(
                    make_shapes(tmp_path_factory.mktemp("calibration") / "shapes", train=16, val=4, size=160)
                )
            given = ExportOptions.of(page=True, **options)
            (result,) = export(CHECKPOINT, [name], given, out=tmp_path_factory.mktemp(name), gate=False)
            if result.error is not None:
                raise result.error
            known[key] = result.path
        return known[key]

    return make


def page_of(artifact: Path) -> Path:
    return artifact.with_name(artifact.name + "_page")


@pytest.fixture
def visit(tmp_path: Path) -> Iterator[Any]:
    """``visit(page, *flags)``: Chromium on a page, served from this machine, the model loaded."""
    stack: list[Any] = []

    def go(page: Path, *flags: str, until: str = READY) -> Any:
        server = chromium.served(page)
        url = server.__enter__()
        view = chromium.Browser(tmp_path, *flags)
        stack.extend((view.close, lambda: server.__exit__(None, None, None)))
        view.home = url
        view.send("Page.navigate", url=url)
        view.wait(f"{until} || document.getElementById('state')?.classList.contains('wrong')")
        assert view.js(until), view.js("document.body.innerText")
        return view

    yield go
    for end in stack:
        end()


def looked_at(view: Any, file: Path) -> dict[str, Any]:
    view.js(f"void (window.found = {RESULT})")
    view.give("#file", file)
    return view.js("window.found")


def compare(found: dict[str, Any], wanted: Detections) -> tuple[float, float, int]:
    """Largest difference of boxes (pixels) and scores, and differing mask pixels."""
    assert found["classes"] == wanted.classes.tolist()
    boxes = np.abs(np.reshape(found["boxes"], (-1, 4)) - wanted.boxes).max(initial=0)
    scores = np.abs(np.array(found["scores"]) - wanted.scores).max(initial=0)
    full, different = np.zeros(wanted.shape, bool), 0
    for mask, truth in zip(found["masks"], wanted.masks):
        full[:] = False
        tile = np.frombuffer(base64.b64decode(mask["data"]), np.uint8).reshape(mask["height"], mask["width"])
        full[mask["y"] : mask["y"] + mask["height"], mask["x"] : mask["x"] + mask["width"]] = tile
        different += int((full != truth).sum())
    return boxes, scores, different


def picture(i: int) -> np.ndarray:
    height, width = SIZES[i]
    image = shapes_image((11, i), 320)[0]
    return cv2.resize(image, (700, 700))[:500] if height > 320 else np.ascontiguousarray(image[:height, :width])


BACKEND = "document.querySelector('#facts dd').textContent"


def beside_python(artifact: Path, view: Any, folder: Path, pictures: Sequence[int] = range(5)) -> dict[str, float]:
    """What a page finds on pictures of as many shapes, beside Python: counts, and the largest differences."""
    pipeline = open_model(artifact).pipeline()
    told = {"objects": 0.0, "boxes": 0.0, "scores": 0.0, "pixels": 0.0, "area": 0.0}
    for i in pictures:
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), picture(i))
        wanted = pipeline(picture(i))
        boxes, scores, pixels = compare(looked_at(view, file), wanted)
        told["boxes"], told["scores"] = max(told["boxes"], boxes), max(told["scores"], scores)
        told["objects"] += len(wanted)
        told["pixels"] += pixels
        told["area"] += wanted.masks.sum()
    print(
        f"{artifact.name}, {view.js(BACKEND)}:",
        ", ".join(f"{k} {v:.2g}" if v < 1 else f"{k} {v:.0f}" for k, v in told.items()),
    )
    return told


@browser
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "limit"),
    [
        ("onnx", {}, 1e-2),
        ("tfjs", {}, 1e-2),
        ("onnx", {"head": "decoded"}, 1e-2),
        ("onnx", {"nms": True}, 1e-2),
        ("onnx", {"int8": True}, 1.0),
    ],
)
def test_the_page_finds_what_python_finds(made, visit, tmp_path, name, options, limit) -> None:
    """Everything but this machine's server is out of reach. Integers may round otherwise on another kind of CPU."""
    artifact = made(name, **options)
    view = visit(page_of(artifact))
    told = beside_python(artifact, view, tmp_path)
    assert told["objects"] >= 8 and told["boxes"] < limit and told["scores"] < limit / 10
    assert told["pixels"] <= limit / 100 * told["area"]
    assert [e for e in view.errors if not e.startswith(HARMLESS)] == []
    assert {u for u in view.urls if not u.startswith((view.home, "about:", "blob:" + view.home))} == set()
    assert "WebAssembly" in view.js(BACKEND)


@browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "tfjs"])
def test_webgpu(made, visit, tmp_path, name) -> None:
    """WebGPU on Chromium's own software adapter."""
    artifact = made(name)
    view = visit(page_of(artifact), "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
    if not view.js("(async () => Boolean(await navigator.gpu?.requestAdapter()))()"):
        pytest.skip("this Chromium has no software adapter")
    told = beside_python(artifact, view, tmp_path, (1, 4))
    assert "WebGPU" in view.js(BACKEND)
    assert told["objects"] >= 4 and told["boxes"] < 0.1 and told["scores"] < 1e-2 and told["pixels"] <= 1e-3 * told["area"]
    assert view.errors == []


@browser
@pytest.mark.slow
def test_controls(made, visit, tmp_path) -> None:
    """The slider takes away and brings back, drop and keyboard work, names are text, what is no picture is said."""
    artifact = made("onnx")
    page = tmp_path / "page"
    shutil.copytree(page_of(artifact), page)
    content = json.loads((page / "manifest.json").read_text())
    content["edgeseg"]["names"] = [f"<img src=x onerror=alert({i})>" for i in range(4)]
    (page / "manifest.json").write_text(json.dumps(content))
    view = visit(page)
    file = tmp_path / "0.png"
    cv2.imwrite(str(file), picture(4))
    all_of_them = len(looked_at(view, file)["scores"])
    slide = "void ((conf) => { conf.value = %s; conf.dispatchEvent(new Event('input')); })(document.getElementById('conf'))"
    rows = "document.querySelectorAll('#rows tr').length"
    assert view.js(rows) == all_of_them > 1
    view.js(slide % 0.99)
    assert view.js(rows) == 0 and view.js("document.getElementById('summary').textContent") == "Nothing found"
    view.js(slide % 0.25)
    assert view.js(rows) == all_of_them
    assert "<img src=x" in view.js("document.getElementById('rows').innerText")
    assert view.js("document.images.length") == 0
    view.js(f"void (window.found = {RESULT})")
    view.js("""(async () => {
      const blob = await new Promise((done) => document.getElementById("canvas").toBlob(done)), bag = new DataTransfer();
      bag.items.add(new File([blob], "dropped.png", { type: "image/png" }));
      const event = new DragEvent("drop", { dataTransfer: bag, bubbles: true, cancelable: true });
      document.getElementById("drop").dispatchEvent(event);
    })()""")
    assert len(view.js("window.found")["scores"]) >= 1
    order = []
    for _ in range(3):
        view.send("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab", windowsVirtualKeyCode=9)
        order.append(view.js("document.activeElement.id"))
    assert {"file", "camera", "conf"} <= {*order, view.js("document.activeElement.id")}
    (tmp_path / "no.png").write_bytes(b"no picture")
    view.give("#file", tmp_path / "no.png")
    view.wait("document.getElementById('state').classList.contains('wrong')")
    assert "no.png is no picture that this browser can read" in view.js("document.getElementById('state').textContent")
    assert [e for e in view.errors if not e.startswith(HARMLESS)] == []


def film(file: Path, image: np.ndarray, frames: int = 4) -> None:
    """A YUV4MPEG2 film of one still, full chroma."""
    y, u, v = cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2YUV))
    head = f"YUV4MPEG2 W{image.shape[1]} H{image.shape[0]} F10:1 Ip A1:1 C420jpeg\n".encode()
    planes = y.tobytes() + u[::2, ::2].tobytes() + v[::2, ::2].tobytes()
    file.write_bytes(head + frames * (b"FRAME\n" + planes))


@browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "tfjs"])
def test_the_camera(made, visit, tmp_path, name) -> None:
    """A film as the camera: the same objects as in its picture, frame after frame, until it is stopped."""
    artifact = made(name)
    image = cv2.resize(picture(0), (640, 480))
    film(tmp_path / "film.y4m", image)
    wanted = open_model(artifact).pipeline()(image)
    flags = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    view = visit(page_of(artifact), *flags, f"--use-file-for-fake-video-capture={tmp_path / 'film.y4m'}")
    view.js("void (window.seen = [], document.addEventListener('detections', (e) => seen.push([...e.detail.classes])))")
    view.js("document.getElementById('camera').click()")
    view.wait("window.seen.length >= 5")
    assert sorted(view.js("window.seen.at(-1)")) == sorted(wanted.classes.tolist())
    assert view.js("document.getElementById('camera').getAttribute('aria-pressed')") == "true"
    view.js("document.getElementById('camera').click()")
    view.wait("document.getElementById('camera').getAttribute('aria-pressed') === 'false'")
    assert [e for e in view.errors if not e.startswith(HARMLESS)] == []


@browser
@pytest.mark.slow
def test_nothing_is_wider_than_the_window(made, visit, tmp_path) -> None:
    view = visit(page_of(made("onnx")))
    cv2.imwrite(str(tmp_path / "0.png"), picture(4))
    looked_at(view, tmp_path / "0.png")
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            view.shoot(tmp_path / f"{width}-{scheme}.png", width, 800, scheme)
            assert view.js("document.documentElement.scrollWidth") <= width


@browser
@pytest.mark.slow
def test_a_damaged_model_is_said(made, visit, tmp_path) -> None:
    page = tmp_path / "page"
    shutil.copytree(page_of(made("onnx")), page)
    (page / "model/model.onnx").write_bytes(b"no model")
    view = visit(page, until="document.getElementById('state')?.classList.contains('wrong')")
    assert "The model cannot be used here: wasm: " in view.js("document.getElementById('state').textContent")
