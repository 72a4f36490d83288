"""The page in Chromium: tables sort, axes change, the slider moves, switches hide, keys work, and nothing is asked for."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseg.evaluate.confusion import Confusion
from edgeseg.evaluate.fidelity import FidelityMeter
from edgeseg.evaluate.metrics import AveragePrecision, Metrics, Told
from edgeseg.evaluate.parity import Disagreement, Verdict
from edgeseg.report.sections import write_comparison
from edgeseg.vision.detections import Detections

_spec = importlib.util.spec_from_file_location("chromium_for_report", Path(__file__).parents[1] / "targets" / "chromium.py")
assert _spec and _spec.loader
chromium = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = chromium
_spec.loader.exec_module(chromium)
pytestmark = pytest.mark.skipif(chromium.CHROMIUM is None, reason="needs chromium")

HOSTILE = "</script><img src=x onerror=document.title='taken'>"
NAMES = ("cat", HOSTILE, "hen")
SHAPE = (120, 200)


def found(*objects: tuple[int, tuple[int, int, int, int], float]) -> Detections:
    masks = np.zeros((len(objects), *SHAPE), bool)
    for mask, (_, (x1, y1, x2, y2), _) in zip(masks, objects):
        mask[y1:y2, x1:x2] = True
    boxes = np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4)
    return Detections(boxes, [s for *_, s in objects], [c for c, *_ in objects], masks, NAMES, SHAPE)


def verdict(path: str, precision: str, ms: float, size: int, pairs: list[tuple[Path, Detections, Detections]]) -> Verdict:
    fidelity = FidelityMeter()
    for _, first, other in pairs:
        fidelity.add(first, other)
    lost = [(len(a) + len(b), image, a, b) for image, a, b in pairs if len(a) != len(b)]
    curves = np.linspace((1.0, 0.8, np.nan), (0.2, 0.0, np.nan), 101, axis=1).astype(np.float32)
    ap = AveragePrecision(0.4 + ms / 1000, 0.6, 0.5, np.array([0.1, 0.7, np.nan]), curves.mean(1), curves=curves)
    confusion = Confusion(np.array([[5, 0, 0, 2], [1, 7, 0, 0], [0, 0, 0, 0], [0, 3, 0, 0]]), NAMES)
    return Verdict(
        Path(path),
        path,
        Path(path).suffix[1:],
        precision,
        "raw",
        size,
        fidelity=fidelity.result(),
        metrics=Metrics(ap, ap, NAMES, len(pairs), 16, confusion),
        speed_ms={"preprocess": 1.0, "inference": ms, "postprocess": 1.0},
        p95_ms={"inference": ms + 1},
        worst=tuple(
            Disagreement(n, image, Told.of(a), Told.of(b), NAMES) for n, image, a, b in sorted(lost, key=lambda w: -w[0])
        ),
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of a reference, two models that differ and one that failed, all with hostile names."""
    import cv2

    folder = tmp_path_factory.mktemp("page")
    images = [folder / f"{i}<b>.png" for i in range(3)]
    for i, image in enumerate(images):
        cv2.imwrite(str(image), np.full((*SHAPE, 3), 60 + 60 * i, np.uint8))
    a, b, c = (0, (10, 10, 60, 60), 0.9), (1, (80, 20, 150, 100), 0.8), (2, (120, 10, 190, 60), 0.7)
    first = [found(a, b), found(a), found(b)]
    second = [found(a), found(a), found(b, c)]
    third = [found(), found(a), found(b)]
    beside = [list(zip(images, first, other)) for other in (first, second, third)]
    verdicts = [
        verdict("reference.pt", "fp32", 90.0, 7_000_000, beside[0]),
        verdict("m/<b>10.onnx", "fp32", 100.0, 14_000_000, beside[1]),
        verdict("m/9.tflite", "int8", 40.0, 4_000_000, beside[2]),
        Verdict(Path("broken.xml"), "", "openvino", "fp16", "raw", 0, error=HOSTILE, diverges="opening"),
    ]
    return write_comparison(folder / "page.html", verdicts, "reference.pt", HOSTILE, title=HOSTILE)


@pytest.fixture(scope="module")
def browser(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with_page = chromium.Browser(tmp_path_factory.mktemp("browser"), timeout_s=60)
    try:
        with_page.send("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        with_page.send("Page.navigate", url=written.as_uri())
        with_page.wait("document.querySelector('.ev-found') !== null")
        yield with_page
    finally:
        with_page.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """Whatever a test does: the console is silent, and nothing but the file is asked for."""
    yield browser
    assert browser.errors == [] and browser.js("document.title") == HOSTILE
    assert {url.split(":", 1)[0] for url in browser.urls} <= {"file", "data"}


def press(page: Any, key: str, code: int = 0, modifiers: int = 0) -> None:
    text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        page.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, modifiers=modifiers, **text)


def choose(page: Any, selector: str, index: int, value: int) -> None:
    change = f"s => {{ s.value = {value}; s.dispatchEvent(new Event('change')); }}"
    page.js(f"({change})(document.querySelectorAll({selector!r})[{index}])")


def texts(page: Any, selector: str) -> list[str]:
    return page.js(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")


def test_words_of_strangers_are_text(page: Any) -> None:
    assert page.js("document.querySelectorAll('img').length") == 0
    assert page.js("document.querySelector('h1').textContent") == HOSTILE
    assert HOSTILE in texts(page, "section[data-kind=table] td.bad")[0]
    assert "0<b>.png" in page.js("document.querySelector('.ev-title').textContent")
    page.js("new Promise(done => { const s = document.createElement('script'); s.textContent = 'document.title = 1'; "
            "document.body.append(s); setTimeout(done, 50); })")  # fmt: skip
    assert page.errors and "Content Security Policy" in page.errors.pop()  # and even a hole would run nothing


def test_tables_sort_by_figures_and_say_so(page: Any) -> None:
    head = "[...document.querySelectorAll('#part0 thead th')].find(th => th.textContent === {!r})"
    names = "#part0 tbody th > span"
    assert texts(page, names) == ["reference.pt", "<b>10.onnx", "9.tflite", "broken.xml"]
    assert page.js(head.format("Inference, ms") + ".getAttribute('aria-sort')") == "none"
    page.js(head.format("Inference, ms") + ".querySelector('button').click()")
    assert texts(page, names) == ["<b>10.onnx", "reference.pt", "9.tflite", "broken.xml"]
    assert page.js(head.format("Inference, ms") + ".getAttribute('aria-sort')") == "descending"
    page.js(head.format("Inference, ms") + ".querySelector('button').focus()")
    press(page, "Enter", 13)
    assert page.js(head.format("Inference, ms") + ".getAttribute('aria-sort')") == "ascending"
    assert texts(page, names) == ["9.tflite", "reference.pt", "<b>10.onnx", "broken.xml"]  # what is unknown stays last
    page.js(head.format("Model") + ".querySelector('button').click()")
    assert (
        texts(page, names)[0] == "<b>10.onnx" and page.js(head.format("Model") + ".getAttribute('aria-sort')") == "ascending"
    )
    assert page.js(head.format("Inference, ms") + ".getAttribute('aria-sort')") == "none"
    assert page.js("getComputedStyle(document.querySelector('#part0 tbody th')).position") == "sticky"


def test_the_plot_has_axes_to_choose_and_points_that_tell(page: Any) -> None:
    part = "section[data-kind=plot]"
    assert len(texts(page, f"{part} .point")) == 3
    assert {page.js(f"document.querySelectorAll('{part} .point {kind}').length") for kind in ("rect",)} == {1}  # int8
    before = page.js(f"document.querySelector('{part} .frontier').getAttribute('points')")
    assert len(before.split()) == 2  # the reference beats the other float one
    choose(page, f"{part} select", 1, 1)
    assert "MB (less is better)" in texts(page, f"{part} text")
    choose(page, f"{part} select", 0, 2)
    assert "mask AP (more is better)" in texts(page, f"{part} text")
    assert page.js(f"document.querySelector('{part} .frontier').getAttribute('points')") != before
    assert page.js(f"document.querySelector('{part} .tip').hidden")
    page.js(f"document.querySelector('{part} .point').dispatchEvent(new FocusEvent('focus'))")
    assert not page.js(f"document.querySelector('{part} .tip').hidden") and "MB: " in texts(page, f"{part} .tip")[0]
    assert "none beats" in texts(page, f"{part} p")[0] and page.js(f"document.querySelector('{part} .point').tabIndex") == 0


SPLIT = "Number(document.querySelector('.ev-handle').getAttribute('aria-valuenow'))"
CLIP = "Number(document.querySelector('.ev clipPath rect').getAttribute('width'))"


def test_the_slider_is_dragged_and_moved_by_keys(page: Any) -> None:
    page.js("document.querySelector('.ev-stage').scrollIntoView({block: 'center'})")
    box = page.js("document.querySelector('.ev-stage').getBoundingClientRect().toJSON()")
    x, y, width, height = (box[key] for key in ("x", "y", "width", "height"))
    assert page.js(SPLIT) == 50 and page.js(CLIP) == pytest.approx(100)

    def mouse(kind: str, share: float) -> None:
        page.send(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x + share * width,
            y=y + height / 2,
            button="left",
            buttons=1,
            clickCount=1,
        )

    mouse("mousePressed", 0.5)
    mouse("mouseMoved", 0.3)
    mouse("mouseMoved", 0.25)
    mouse("mouseReleased", 0.25)
    assert page.js(SPLIT) == 25 and page.js(CLIP) == pytest.approx(50, abs=0.5)
    assert page.js("document.activeElement.className") == "ev-handle"
    press(page, "ArrowRight", 39)
    assert page.js(SPLIT) == 27
    press(page, "End", 35)
    assert page.js(SPLIT) == 100 and page.js(CLIP) == pytest.approx(200)
    press(page, "Home", 36)
    assert page.js(SPLIT) == 0 and "0 % reference.pt" in page.js(
        "document.querySelector('.ev-handle').getAttribute('aria-valuetext')"
    )


SEEN = "getComputedStyle(e).visibility === 'visible' && e.getClientRects().length"
VISIBLE = f"[...document.querySelectorAll('.ev-side {{}}')].filter(e => {SEEN}).length"


def test_switches_hide_what_they_name(page: Any) -> None:
    flip = "document.querySelector('.ev-switch.ev-{} input').click()"
    counts = {"boxes": ".ev-box", "masks": ".ev-mask", "missing": ".ev-is-missing", "matched": ".ev-is-matched"}
    counts = {key: f"{VISIBLE.format(what)}" for key, what in counts.items()}
    for key, count in counts.items():
        before = page.js(count)
        page.js(flip.format(key))
        assert page.js(count) == 0, key
        page.js(flip.format(key))
        assert page.js(count) == before and (before > 0 or key == "matched"), key


def test_pages_are_turned_and_models_chosen_worst_first(page: Any) -> None:
    title = "document.querySelector('.ev-title').textContent"
    choose(page, ".ev-models select", 1, 1)
    page.wait(f"{title}.startsWith('1 of 2')")
    said = ["Found: reference.pt: 2, <b>10.onnx: 1; 1 missing, 0 extra", f"{HOSTILE} 0.80, only in reference.pt"]
    assert texts(page, ".ev-words li") == said
    drawn = {side: texts(page, f".ev-{side} .ev-is-missing.ev-ghost") for side in ("left", "right")}
    assert not drawn["left"] and len(drawn["right"]) == 1  # on its side the lost one is an outline
    first = page.js(title)
    page.js("document.querySelector('.ev-handle').focus()")
    press(page, "n", 78)
    page.wait(f"{title}.startsWith('2 of 2')")
    assert page.js(title) != first and page.js(
        "[...document.querySelectorAll('.ev button')].find(b => b.textContent.startsWith('Next')).disabled"
    )
    kinds = {kind: len(texts(page, f".ev-is-{kind}:not(.ev-ghost)")) for kind in ("missing", "extra")}
    assert kinds == {"missing": 0, "extra": 1}
    press(page, "p", 80)
    page.wait(f"{title}.startsWith('1 of 2')")
    press(page, "+", 187)
    assert page.js("document.querySelector('.ev-stage svg').getAttribute('viewBox')") != "0 0 200 120"
    press(page, "0", 48)
    assert page.js("document.querySelector('.ev-stage svg').getAttribute('viewBox')") == "0 0 200 120"
    choose(page, ".ev-models select", 1, 0)
    choose(page, ".ev-models select", 1, 2)
    page.wait(f"{title}.startsWith('1 of 1')")


def test_classes_curves_and_mixups_are_there(page: Any) -> None:
    assert texts(page, "#part3 tbody th > span") == ["cat", HOSTILE]
    assert len(texts(page, "section[data-kind=curves] .curve")) == 3
    entries = texts(page, "section[data-kind=curves] .legend li")
    assert entries[0].startswith("reference.pt: 0.5")
    cells = texts(page, ".heat .cell title")
    assert f"{HOSTILE}: 7 (70 %) found" in cells and "cat: 1 (17 %) found as " + HOSTILE in cells
    assert "cat: 2 found where nothing is" in cells and f"{HOSTILE}: 3 (30 %) not found" in cells
    rows = texts(page, "#part5 tbody tr")
    assert rows[0] == f"{HOSTILE}(not found)330"


def test_it_fits_a_phone_and_a_wide_screen(page: Any) -> None:
    for width in (400, 700, 1600, 1280):
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        page.wait(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")  # plots are drawn anew
    assert page.js("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex === 0 && e.getAttribute('aria-label'))")


@pytest.mark.slow
@pytest.mark.parametrize("looks", [{}, {"dark": True, "narrow": True}])
def test_lighthouse_finds_nothing(written: Path, audit: Callable[..., list[str]], looks: dict[str, bool]) -> None:
    assert audit(written, **looks) == []
