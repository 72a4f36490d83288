"""SavedModel, GraphDef and TF.js through the graph, in the toolchain of TensorFlow; TF.js in node and in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from edgeseg.environments import npm
from edgeseg.environments.toolchains import install, interpreter_for, is_offline, toolchain_of
from edgeseg.errors import EdgesegError
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.registry import target_by_name
from edgeseg.running.open import Opened, open_model

pytestmark = pytest.mark.slow
TFJS = target_by_name("tfjs")
SIZE = (64, 96)
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
CHROMIUM = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)


@pytest.fixture(scope="module", autouse=True)
def toolchain():
    """TensorFlow's toolchain, installed on first use."""
    chain = toolchain_of(TFJS)
    if chain.unmet() and not chain.installed:
        if is_offline():
            pytest.skip("no toolchain of TensorFlow, and offline")
        install("saved_model")
    return chain


@pytest.fixture(scope="module")
def make(tiny, tmp_path_factory):
    """``make("pb", head=...)``: the tiny network exported, opened here or in the toolchain."""

    def run(name: str, source: Path = tiny, **options) -> Opened:
        out = tmp_path_factory.mktemp(name)
        (result,) = export(source, [name], ExportOptions.of(**{"imgsz": SIZE, **options}), out=out, gate=False)
        if result.error is not None:
            raise result.error
        return open_model(result.path)

    return run


def outputs(opened: Opened, x: np.ndarray) -> dict[str, np.ndarray]:
    """Outputs by name, channels first, for an input (N, 3, H, W)."""
    given = x if opened.manifest.input.layout == "nchw" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    names = [o.name for o in opened.runtime.outputs]
    got = dict(zip(names, opened.runtime.run(given)))
    return {
        o.name: got[o.name].transpose(0, 3, 1, 2) if o.layout == "nhwc" and got[o.name].ndim == 4 else got[o.name]
        for o in opened.manifest.outputs
    }


def picture(batch: int = 1) -> np.ndarray:
    return np.random.default_rng(3).random((batch, 3, *SIZE), np.float32)


def apart(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> float:
    """Largest difference over all outputs, as a share of each one's largest value."""
    assert set(found) == set(wanted) or len(found) == len(wanted)
    rows = zip(found.values(), wanted.values()) if set(found) != set(wanted) else ((found[k], v) for k, v in wanted.items())
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in rows)


@pytest.mark.parametrize(("name", "batch"), [("saved_model", 2), ("pb", 2), pytest.param("tfjs", 1, marks=needs_node)])
@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_same_numbers_as_onnx(make, name, batch, head) -> None:
    more = {"batch": batch} if batch > 1 else {}
    opened, onnx = make(name, head=head, **more), make("onnx", head=head, **more)
    assert opened.manifest.format == name and opened.manifest.batch == batch and opened.manifest.head == head
    assert opened.manifest.input.shape == (batch, *SIZE, 3)
    for spec in opened.manifest.outputs:
        real = next(o for o in opened.runtime.outputs if o.name == spec.name)
        assert real.shape == spec.shape and real.dtype == "float32"
    assert apart(outputs(opened, picture(batch)), outputs(onnx, picture(batch))) < 1e-4


@pytest.mark.parametrize("act", ["relu6", "hardswish"])
def test_other_activations(make, tmp_path, act) -> None:
    import torch

    from edgeseg.network.checkpoint import save_checkpoint
    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    torch.manual_seed(5)
    network = Network(Definition(variant="n", nc=2, depth=0.33, width=0.125, act=act), ("a", "b"))
    source = save_checkpoint(tmp_path / "other.pt", network)
    for opset in (13, 17):
        onnx = make("onnx", source, opset=opset)
        assert apart(outputs(make("saved_model", onnx.path), picture()), outputs(onnx, picture())) < 1e-4


def test_from_a_dynamic_onnx_file(make) -> None:
    onnx = make("onnx", dynamic=True)
    assert apart(outputs(make("saved_model", onnx.path), picture()), outputs(onnx, picture())) < 1e-4


def test_an_operator_that_no_network_has(make, tmp_path) -> None:
    import onnx

    source = make("onnx").path
    model = onnx.load(source)
    node = next(n for n in model.graph.node if n.op_type == "Sigmoid")
    node.op_type = "Tan"
    onnx.save(model, tmp_path / "odd.onnx")
    with pytest.raises(EdgesegError, match="operator Tan"):
        make("saved_model", tmp_path / "odd.onnx")


def test_keras_file_is_small_and_the_same(make, toolchain) -> None:
    opened = make("saved_model", keras=True)
    file = opened.path / "model.keras"
    weights = sum(f.stat().st_size for f in (opened.path / "variables").iterdir())
    assert file.stat().st_size < 1.5 * weights + 400_000
    x, y = opened.path.parent / "x.npy", opened.path.parent / "y.npz"
    np.save(x, picture().transpose(0, 2, 3, 1))
    script = "import sys, keras, numpy as np; m = keras.models.load_model(sys.argv[1]); "
    script += "np.savez(sys.argv[3], *[np.asarray(o) for o in m(np.load(sys.argv[2]))])"
    python = interpreter_for(toolchain)[0]
    subprocess.run([python, "-c", script, file, x, y], check=True, capture_output=True)
    wanted = outputs(opened, picture())
    with np.load(y) as found:
        for spec, a in zip(opened.manifest.outputs, found.values()):
            assert np.allclose(a.transpose(0, 3, 1, 2), wanted[spec.name], atol=1e-5)


@pytest.mark.parametrize("name", ["saved_model", "pb", pytest.param("tfjs", marks=needs_node)])
@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_files_of_others_carry_no_manifest(make, name, head) -> None:
    """The same file without its sidecar is what another tool would have written."""
    opened = make(name, head=head)
    wanted = outputs(opened, picture())
    path = opened.path
    sidecar = path / "metadata.yaml" if path.is_dir() else path.with_name(path.name + ".yaml")
    sidecar.unlink()
    if name != "tfjs":
        with pytest.raises(EdgesegError, match="that file is missing"):
            open_model(path)
        sidecar.write_text(f"imgsz: {list(SIZE)}")
    if (path / "model.json").is_file():
        content = json.loads((path / "model.json").read_text())
        del content["userDefinedMetadata"]
        (path / "model.json").write_text(json.dumps(content))
    foreign = open_model(path)
    manifest = foreign.manifest
    assert manifest.head == head and manifest.names == ("class0", "class1", "class2") and manifest.imgsz == SIZE
    assert "inferred" in manifest.notes[0] and not manifest.normalized_boxes
    roles = {(o.role, o.stride) for o in opened.manifest.outputs}
    assert {(o.role, o.stride) for o in manifest.outputs} == roles
    assert apart(outputs(foreign, picture()), {n: wanted[n] for n in (o.name for o in manifest.outputs)}) == 0


@needs_node
@pytest.mark.parametrize(("option", "low", "high"), [("half", 1e-6, 5e-3), ("int8", 1e-4, 0.2)])
def test_smaller_weights_in_node(make, option, low, high) -> None:
    opened, full = make("tfjs", **{option: True}), make("tfjs")
    said = " ".join(opened.manifest.notes)
    assert ("half floats" in said) if option == "half" else ("weights only" in said and "arithmetic are float" in said)
    assert opened.manifest.calibration is None and opened.manifest.input.dtype == "float32"
    assert low < apart(outputs(opened, picture()), outputs(full, picture())) < high

    def size(o: Opened) -> int:
        return sum(f.stat().st_size for f in o.path.glob("*.bin"))

    assert size(opened) < (0.6 if option == "half" else 0.4) * size(full)


PAGE = """<!doctype html><meta charset="utf-8"><title>edgeseg</title>
<script src="/npm/@tensorflow/tfjs/dist/tf.min.js"></script>
<script src="/npm/@tensorflow/tfjs-backend-wasm/dist/tf-backend-wasm.min.js"></script>
<script type="module">
const say = (kind, body) => fetch("/said/" + kind, { method: "POST", body });
try {
  tf.wasm.setWasmPaths("/npm/@tensorflow/tfjs-backend-wasm/dist/");
  await tf.setBackend("wasm");
  const model = await tf.loadGraphModel("/model/model.json");
  const x = new Float32Array(await (await fetch("/x.bin")).arrayBuffer());
  const made = model.predict(tf.tensor(x, model.inputs[0].shape));
  for (const [name, t] of Object.entries(made)) await say(name, await t.data());
  await say("done", tf.getBackend() + " " + tf.version_core);
} catch (e) {
  await say("failed", String(e));
}
</script>"""


class Server(SimpleHTTPRequestHandler):
    """Serves a folder and keeps what the page posts to ``/said/...``."""

    def __init__(self, *args, said: dict[str, bytes], **kwargs) -> None:
        self.said = said
        super().__init__(*args, **kwargs)

    def do_POST(self) -> None:
        self.said[self.path.removeprefix("/said/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args) -> None:
        pass


def in_browser(model: Path, x: np.ndarray, folder: Path, timeout_s: float = 180) -> dict[str, bytes]:
    """Run a web model in headless Chromium; what the page sent, by tensor name, and ``done`` or ``failed``."""
    site, said = folder / "site", {}
    site.mkdir()
    (site / "index.html").write_text(PAGE)
    (site / "x.bin").write_bytes(x.tobytes())
    (site / "model").symlink_to(model)
    (site / "npm").symlink_to(npm.ensure(TFJS.folder) / "node_modules")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=site, said=said))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder / 'profile'}"]
    log = folder / "chromium.log"
    with (
        log.open("wb") as sink,
        subprocess.Popen([CHROMIUM, *flags, f"http://127.0.0.1:{server.server_port}/"], stdout=sink, stderr=sink) as browser,
    ):
        try:
            waited = threading.Event()
            for _ in range(int(timeout_s * 10)):
                if {"done", "failed"} & set(said) or browser.poll() is not None:
                    break
                waited.wait(0.1)
        finally:
            browser.kill()
            server.shutdown()
            server.server_close()
    assert said, log.read_text(errors="replace")[-2000:]
    return said


@pytest.mark.skipif(CHROMIUM is None or shutil.which("npm") is None, reason="needs chromium and npm")
@pytest.mark.parametrize(("head", "option", "limit"), [("raw", "", 1e-4), ("decoded", "", 1e-4), ("raw", "int8", 0.2)])
def test_in_a_browser(make, tmp_path, head, option, limit) -> None:
    """Chromium, @tensorflow/tfjs on WebAssembly, against ONNX Runtime."""
    opened = make("tfjs", head=head, **({option: True} if option else {}))
    said = in_browser(opened.path, np.ascontiguousarray(picture().transpose(0, 2, 3, 1)), tmp_path)
    assert "failed" not in said, said["failed"].decode()
    assert said.pop("done").decode() == "wasm 4.22.0"
    wanted = outputs(make("onnx", head=head), picture())
    assert set(said) == set(wanted)
    for spec in opened.manifest.outputs:
        found = np.frombuffer(said[spec.name], np.float32).reshape(spec.shape)
        found = found.transpose(0, 3, 1, 2) if found.ndim == 4 else found
        assert np.abs(found - wanted[spec.name]).max() / np.abs(wanted[spec.name]).max() < limit, spec.name
