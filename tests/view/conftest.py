"""What the tests of the viewer share: generated pictures with labels, the demo network in two runtimes, a browser."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.demo import CHECKPOINT
from edgeseg.running.open import Opened, open_model
from edgeseg.view.gallery import Gallery, Subject
from edgeseg.view.labels import labels_if_any
from edgeseg.view.page import ViewPage


@pytest.fixture(scope="session")
def chromium() -> ModuleType:
    """The module that steers Chromium; skips where there is none."""
    file = Path(__file__).parents[1] / "targets" / "chromium.py"
    spec = importlib.util.spec_from_file_location("chromium_for_view", file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if module.CHROMIUM is None:
        pytest.skip("needs chromium")
    return module


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """12 pictures of 160 px with YOLO labels. Do not write into its folder."""
    made = load_dataset(make_shapes(tmp_path_factory.mktemp("view") / "shapes", train=8, val=12, size=160, seed=5))
    return replace(made, annotation_files={"val": None})


@pytest.fixture(scope="session")
def network() -> Callable[[], Opened]:
    """Opens the demo network."""
    pytest.importorskip("torch")
    return partial(open_model, CHECKPOINT, threads=1)


@pytest.fixture
def remote(artifact: Path) -> Iterator[Callable[[], Opened]]:
    """Opens that artifact in a process of its own."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(open_model(artifact, threads=1, apart=True))


@pytest.fixture
def gallery(shapes: Dataset, network: Any) -> Callable[..., Gallery]:
    """``gallery(opener, ...)``: models (default: the demo network) on the pictures and their labels."""

    def make(*openers: Callable[[], Opened], labels: bool = True, **options: Any) -> Gallery:
        images = shapes.images("val")
        subjects = [Subject(one) for one in openers or (network,)]
        return Gallery(subjects, images, labels_if_any(shapes, "val", images) if labels else None, **options)

    return make


@pytest.fixture
def served() -> Iterator[Callable[..., ViewPage]]:
    """``served(gallery, ...)``: its page; closed at the end."""
    started: list[ViewPage] = []

    def start(gallery: Gallery, **options: Any) -> ViewPage:
        started.append(ViewPage(gallery, **{"port": 0, **options}))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def ask() -> Callable[..., tuple[int, dict[str, str], bytes]]:
    """``ask(page, path, method, body, Header=...)``: status, headers and body of an answer."""

    def asked(
        page: ViewPage, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        port = int(page.url.partition("?")[0].rstrip("/").rpartition(":")[2])
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        given = {k.replace("_", "-"): v.replace("PORT", str(port)) for k, v in headers.items()}
        if method == "POST":
            given.setdefault("Origin", f"http://127.0.0.1:{port}")
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    return asked


@pytest.fixture
def visit(chromium: ModuleType, tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """``visit(url)``: Chromium on that address."""
    open_ones: list[Any] = []

    def go(url: str) -> Any:
        open_ones.append(chromium.Browser(tmp_path, timeout_s=60))
        open_ones[-1].send("Page.navigate", url=url)
        open_ones[-1].wait("document.getElementById('rows') !== null")
        return open_ones[-1]

    yield go
    for view in open_ones:
        view.close()
