"""The viewer in a browser: turning pages, the slider, scores, models against each other, and pictures of one's own."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.dataset import Dataset
from edgeseg.data.images import read_image
from edgeseg.evaluate.fidelity import match
from edgeseg.running.open import Opened
from edgeseg.view.gallery import Gallery, Subject
from edgeseg.vision.detections import Detections

pytest.importorskip("aiohttp")
HOSTILE = ("<img src=x onerror=alert(1)>", "</script><b>", "a" * 90, "star")
TITLE = "(document.querySelector('.ev-title')?.textContent ?? '')"
PROBLEM = "document.getElementById('problem')"
CELLS = "[...document.querySelectorAll('#rows tr')].map(row => [...row.children].slice(1).map(cell => cell.textContent))"


def key(view: Any, name: str) -> None:
    view.js(f"document.body.dispatchEvent(new KeyboardEvent('keydown', {{key: {name!r}, bubbles: true, cancelable: true}}))")


def shown(view: Any, words: str) -> None:
    """Wait until the title of the picture begins so, and the figures are there."""
    view.wait(f"{TITLE}.startsWith({words!r}) && !document.getElementById('figures').hidden")


def choose(view: Any, side: str, model: int) -> None:
    view.js(f"(box => {{ box.value = {model}; box.onchange(); }})(document.getElementById({side!r}))")


def score(view: Any, value: float) -> None:
    view.js(f"(box => {{ box.value = {value}; box.oninput(); }})(document.getElementById('score'))")


def found(view: Any, side: str) -> int:
    return view.js(f"document.querySelectorAll('.ev-{side} .ev-found:not(.ev-ghost)').length")


def only_from(view: Any, url: str) -> bool:
    return all(u.startswith((url, "data:", "about:", "blob:")) for u in view.urls)


@pytest.fixture
def hostile(network: Callable[[], Opened], shapes: Dataset, tmp_path: Path) -> Gallery:
    """The demo network whose classes have names that are markup, on a picture that has one too."""
    place = tmp_path / "<img src=x onerror=alert(2)>.png"
    place.write_bytes(shapes.images("val")[0].read_bytes())
    subject = Subject(network)
    subject.manifest = replace(subject.manifest, names=HOSTILE)
    return Gallery([subject, Subject(network)], [place, *shapes.images("val")])


def detections(network: Any, path: Path, conf: float) -> Detections:
    with network() as opened:
        return opened.sized((160, 160)).pipeline(conf=conf)(read_image(path))


def test_two_models_and_labels(
    gallery: Any, network: Any, remote: Any, shapes: Dataset, served: Any, visit: Any, tmp_path: Path
) -> None:
    page = served(gallery(network, remote))
    view = visit(page.url)
    images = shapes.images("val")
    shown(view, f"1 of 12 · {images[0].name}")
    assert view.js("[...document.querySelectorAll('#names button')].map(b => b.textContent)") == [p.name for p in images]
    for word, press in (("2 of 12", "n"), ("3 of 12", "n"), ("2 of 12", "p")):
        key(view, press)
        shown(view, word)
    view.js("[...document.querySelectorAll('.ev button')].find(b => b.textContent.includes('Next')).click()")
    shown(view, f"3 of 12 · {images[2].name}")
    assert view.js("document.querySelector('#names button[aria-current]').textContent") == images[2].name
    # The slider, by its keys: more of the left model.
    wide = "Number(document.querySelector('.ev clipPath rect').getAttribute('width'))"
    before = view.js(wide)
    right = "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})"
    view.js(f"document.querySelector('.ev-handle').dispatchEvent({right})")
    assert view.js(wide) > before and view.js("document.querySelector('.ev-handle').ariaValueNow") == "52"
    # Scores: what the pipeline finds at each of them.
    for conf in (0.1, 0.25, 0.7):
        score(view, conf)
        expected = len(detections(network, images[2], conf))
        assert found(view, "left") == expected and view.js(CELLS)[0][0] == str(expected)
        assert view.js("document.getElementById('shownScore').textContent") == f"{conf:.2f}"
    # Against the labels: pairs as fidelity counts them.
    score(view, 0.25)
    choose(view, "left", 2)
    choose(view, "right", 0)
    ours = detections(network, images[2], 0.25)
    truth = labels_as_detections(shapes, images[2])
    pairs = len(match(truth, ours))
    cells = view.js(CELLS)
    agreement = 200 * pairs / (len(truth) + len(ours))
    assert cells[0][:4] == [str(len(ours)), f"{agreement:.1f} %", str(len(truth) - pairs), str(len(ours) - pairs)]
    assert cells[2][1] == "reference" and cells[1][:4] == cells[0][:4] and float(cells[1][4]) > 0
    assert view.js("document.querySelectorAll('.ev-left .ev-is-missing').length") == len(truth) - pairs
    assert view.js("document.querySelectorAll('.ev-right .ev-is-extra').length") == len(ours) - pairs
    key(view, "s")
    assert view.js("[left.value, right.value]") == ["0", "2"]
    # Switches stay as they are while scores and models change.
    view.js("document.querySelector('.ev-switch.ev-boxes input').click()")
    box = "getComputedStyle(document.querySelector('.ev-found .ev-box')).visibility"
    assert view.js(box) == "hidden"
    score(view, 0.3)
    assert view.js(box) == "hidden"
    assert view.errors == [] and only_from(view, page.url)


def labels_as_detections(shapes: Dataset, image: Path) -> Detections:
    from edgeseg.data.labels import read_label_file

    labels = read_label_file(shapes.label_path(image), shapes.nc).labels
    boxes = np.array([np.multiply(label.box, 160) for label in labels], np.float32)
    return Detections(boxes, np.ones(len(labels)), [label.cls for label in labels], None, shapes.names, (160, 160))


def test_names_stay_text_and_a_search_finds_them(hostile: Gallery, served: Any, visit: Any) -> None:
    page = served(hostile)
    view = visit(page.url)
    shown(view, "1 of 13 · <img src=x onerror=alert(2)>.png")
    assert view.js("document.querySelectorAll('img, b').length") == 0
    labels = view.js("[...document.querySelectorAll('.ev-left .ev-label')].map(l => l.textContent)")
    assert labels and all(any(name in text for name in HOSTILE) for text in labels)
    search = "(box => {{ box.value = {!r}; box.oninput(); }})(document.getElementById('search'))"
    view.js(search.format("ONERROR png"))
    assert view.js("document.querySelectorAll('#names button').length") == 1
    assert view.js("document.getElementById('count').textContent") == "1 of 13"
    view.js(search.format("nothing like it"))
    assert view.js("document.querySelectorAll('#names button').length") == 0
    view.js(search.format(hostile.images[5].name))
    view.js("document.getElementById('search').onkeydown({key: 'Enter'})")
    shown(view, f"1 of 1 · {hostile.images[5].name}")
    assert view.errors == [] and only_from(view, page.url)


def test_pictures_of_ones_own(gallery: Any, served: Any, visit: Any, shapes: Dataset, tmp_path: Path, network: Any) -> None:
    page = served(gallery(labels=False))
    view = visit(page.url)
    shown(view, "1 of 12")
    assert view.js("document.querySelector('.alone .ev-handle').offsetParent === null")  # one model: no slider
    own = tmp_path / "mine.png"
    cv2.imwrite(str(own), cv2.resize(read_image(shapes.images("val")[4]), (320, 320)))
    view.give("#file", own)
    shown(view, "1 of 13 · mine.png")
    assert found(view, "left") == len(detections(network, own, 0.25)) > 0
    coded = base64.b64encode(own.read_bytes()).decode()
    view.js(f"""
        window.made = (name, bytes) => {{
            const carried = new DataTransfer();
            carried.items.add(new File([bytes], name, {{type: "image/png"}}));
            return carried;
        }};
        window.bytes = Uint8Array.from(atob("{coded}"), c => c.charCodeAt(0));
    """)
    drop = "document.body.dispatchEvent(new DragEvent('{}', {{dataTransfer: {}, bubbles: true, cancelable: true}}))"
    view.js(drop.format("dragenter", "made('x', bytes)"))
    assert not view.js("document.getElementById('dropping').hidden")
    view.js(drop.format("drop", "made('dropped.png', bytes)"))
    assert view.js("document.getElementById('dropping').hidden")
    shown(view, "1 of 14 · dropped.png")
    view.js(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: made('pasted.png', bytes), bubbles: true}))"
    )
    shown(view, "1 of 15 · pasted.png")
    assert view.errors == []
    view.js(drop.format("drop", "made('broken.png', new Uint8Array([137, 80, 78, 71, 13, 10, 26, 10, 1, 2]))"))
    view.wait(f"{PROBLEM}.textContent.includes('broken.png: the image is cut off')")
    assert view.js("document.querySelector('.ev-stage').offsetParent === null")
    assert view.js("document.getElementById('figures').hidden")
    view.js(drop.format("drop", "made('huge.tif', new Uint8Array(64 * 2 ** 20 + 1))"))
    view.wait(f"{PROBLEM}.textContent.includes('huge.tif: more than 64 MiB')")
    view.js(drop.format("drop", "new DataTransfer()"))
    view.wait(f"{PROBLEM}.textContent.includes('no picture file')")
    key(view, "n")
    shown(view, "2 of 16 · pasted.png")
    assert view.js(f"{PROBLEM}.hidden") and view.js("document.querySelector('.ev-stage').offsetParent !== null")
    assert view.errors == [] and only_from(view, page.url)


def test_without_data_the_page_asks_for_pictures(
    gallery: Any, served: Any, visit: Any, shapes: Dataset, tmp_path: Path
) -> None:
    one = gallery(labels=False)
    one.images = []
    page = served(one)
    view = visit(page.url)
    view.wait("document.getElementById('models').textContent === 'demo-seg.pt'")
    assert not view.js("document.getElementById('empty').hidden") and view.js("document.getElementById('card').hidden")
    for width in (400, 1280):
        view.shoot(tmp_path / f"{width}.png", width, 800)
        assert view.js("document.documentElement.scrollWidth") <= width
    view.give("#file", shapes.images("val")[0])
    shown(view, f"1 of 1 · {shapes.images('val')[0].name}")
    assert view.js("document.getElementById('empty').hidden") and view.errors == []


def test_a_model_that_fails_and_a_server_that_ends_are_told(
    gallery: Any, network: Any, remote: Any, served: Any, visit: Any, tmp_path: Path
) -> None:
    one = gallery(network, remote, labels=False)
    page = served(one)
    view = visit(page.url)
    shown(view, "1 of 12")
    time.sleep(0.5)  # the next one is looked at ahead
    one.subjects[1]._opened.runtime._child.kill()
    view.js("[...document.querySelectorAll('#names button')][6].click()")
    shown(view, "7 of 12")
    assert "ended (signal 9)" in view.js("document.querySelector('#rows td.failure').textContent")
    assert "failed: see below" in view.js("document.querySelector('.ev-tag-right').textContent")
    assert found(view, "left") > 0 and found(view, "right") == 0
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            view.shoot(tmp_path / f"{width}-{scheme}.png", width, 800, scheme)
            assert view.js("document.documentElement.scrollWidth") <= width
    assert view.errors == []
    page.close()
    view.js("[...document.querySelectorAll('#names button')][2].click()")
    view.wait(f"{PROBLEM}.textContent.includes('is it still running?')")


def test_thousands_of_pictures_are_a_list_of_a_few_rows(gallery: Any, served: Any, visit: Any) -> None:
    one = gallery(labels=False)
    one.images = one.images * 2000
    view = visit(served(one).url)
    shown(view, "1 of 24000")
    rows = "document.querySelectorAll('#names li').length"
    assert view.js(rows) < 60
    view.js("document.getElementById('list').scrollTop = 40 * 20000")
    view.wait("[...document.querySelectorAll('#names li')].some(row => row.style.top === '800000px')")
    assert view.js(rows) < 60
    view.js("[...document.querySelectorAll('#names li')].find(row => row.style.top === '800000px').firstChild.click()")
    shown(view, "20001 of 24000")
    for _ in range(40):  # nothing is asked for that nobody waits for
        key(view, "n")
    shown(view, "20041 of 24000")
    asked = [u for u in view.urls if "/picture/" in u]
    assert len(asked) <= 90 and view.errors == []
