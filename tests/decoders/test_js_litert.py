"""The JavaScript decoder on what LiteRT.js gives in Chromium, against Python on the same artifact.

Floats alone: LiteRT.js 2.5 opens no file whose tensors are int8 ("Element type INT8 is not supported").
"""

from __future__ import annotations

import base64
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.shapes import shapes_image
from edgeseg.decoders.page import JS
from edgeseg.demo import CHECKPOINT
from edgeseg.environments import npm
from edgeseg.environments.toolchains import is_offline
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.running.open import open_model

_file = Path(__file__).parents[1] / "targets" / "chromium.py"
_spec = importlib.util.spec_from_file_location("chromium_for_tests", _file)
assert _spec and _spec.loader
chromium = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = chromium
_spec.loader.exec_module(chromium)

PACKAGES = Path(__file__).parent / "js" / "litert"
SITE = """<!doctype html><link rel="icon" href="data:,">
<script type="importmap">{ "imports": { "@litertjs/wasm-utils": "./npm/@litertjs/wasm-utils/dist/bundle.js" } }</script>
<script type="module">
import { loadLiteRt, loadAndCompile, Tensor } from "./npm/@litertjs/core/dist/index.js";
import { Postprocessor, Preprocessor, readManifest } from "./edgeseg/edgeseg.js";
window.done = (async () => {
  await loadLiteRt("./npm/@litertjs/core/wasm/");
  const model = await loadAndCompile("./model.tflite", { accelerator: "wasm" });
  const manifest = readManifest(await (await fetch("manifest.json")).text());
  const data = new Uint8Array(await (await fetch("picture.rgba")).arrayBuffer()), side = Math.sqrt(data.length / 4);
  const before = new Preprocessor(manifest).prepare({ data, width: side, height: side });
  const input = new Tensor(before.data, before.shape), made = await model.run(input);
  const outputs = made.map((t) => ({ data: t.toTypedArray(), shape: [...t.type.layout.dimensions] }));
  const found = new Postprocessor(manifest).detect(outputs, before.letterbox);
  return {
    names: model.getOutputDetails().map((o) => o.name),
    boxes: [...found.boxes], scores: [...found.scores], classes: [...found.classes],
    masks: found.masks.map(({ data, ...place }) => ({ ...place, data: btoa(String.fromCharCode(...data)) })),
  };
})();
</script>"""


@pytest.mark.slow
@pytest.mark.skipif(chromium.CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm")
@pytest.mark.parametrize("half", [False, True])
def test_litert_js(tmp_path: Path, half: bool) -> None:
    if is_offline() and not npm.is_installed(PACKAGES):
        pytest.skip("offline")
    (result,) = export(CHECKPOINT, ["tflite"], ExportOptions.of(half=half), out=tmp_path / "out")
    if result.error is not None:
        raise result.error
    opened, image = open_model(result.path), shapes_image((11, 4), 320)[0]
    wanted = opened.pipeline()(image)
    site = tmp_path / "site"
    shutil.copytree(JS, site / "edgeseg")
    (site / "npm").symlink_to(npm.ensure(PACKAGES) / "node_modules")
    shutil.copyfile(result.path, site / "model.tflite")
    (site / "index.html").write_text(SITE)
    (site / "manifest.json").write_text(opened.manifest.to_json())
    (site / "picture.rgba").write_bytes(np.dstack((image[..., ::-1], np.full(image.shape[:2], 255, np.uint8))).tobytes())
    with chromium.served(site) as url:
        view = chromium.Browser(tmp_path)
        try:
            view.send("Page.navigate", url=url)
            view.wait("'done' in window")
            found = view.js("window.done")
        finally:
            view.close()
    assert found["names"] == [o.name for o in opened.manifest.outputs]
    assert found["classes"] == wanted.classes.tolist() and len(wanted) >= 2
    boxes = np.abs(np.reshape(found["boxes"], (-1, 4)) - wanted.boxes).max()
    scores = np.abs(np.array(found["scores"]) - wanted.scores).max()
    different, area = 0, int(wanted.masks.sum())
    for mask, truth in zip(found["masks"], wanted.masks):
        full = np.zeros(wanted.shape, bool)
        tile = np.frombuffer(base64.b64decode(mask["data"]), np.uint8).reshape(mask["height"], mask["width"])
        full[mask["y"] : mask["y"] + mask["height"], mask["x"] : mask["x"] + mask["width"]] = tile
        different += int((full != truth).sum())
    print(f"{len(wanted)} objects, boxes {boxes:.2g} px, scores {scores:.2g}, {different} of {area} mask pixels")
    assert boxes < 1e-2 and scores < 1e-3 and different <= 1e-4 * area
