"""A model with one activation scale fifty times too large is caught in every INT8 backend, and the right role is named.

Each format's file is edited where it keeps the scale of what a branch's last convolution reads.
"""

import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.evaluate.gate import BEFORE, judge
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.manifest import append_zip
from edgeseg.quantize.floors import Floors
from edgeseg.registry import target_by_name
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import Opened, has_runtime, open_model

pytestmark = pytest.mark.slow
FACTOR = 50.0
OUTPUTS = ("box_8", "score_8", "coeff_8", "proto")


def ruin_tflite(path: Path, output: str) -> None:
    """The input of the last convolution before ``output``; of the backbone, what its second convolution gives its SiLU."""
    pytest.importorskip("ai_edge_litert")
    flatbuffer = target_by_name("tflite").load("flatbuffer")
    manifest, content = open_model(path).manifest, path.read_bytes()
    model = flatbuffer.read(content)
    graph = model.subgraphs[0]
    producer = {int(o): op for op in graph.operators for o in op.outputs}
    kinds = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]
    conv = 3  # CONV_2D in the schema
    if output == "backbone":
        convolutions = [op for op in graph.operators if kinds[op.opcodeIndex] == conv]
        index = int(convolutions[1].outputs[0])
    else:
        index = next(int(i) for i in graph.outputs if graph.tensors[i].name.decode() == output)
        while kinds[producer[index].opcodeIndex] != conv:
            index = int(next(i for i in producer[index].inputs if int(i) in producer))
        index = int(producer[index].inputs[0])
    quantization = graph.tensors[index].quantization
    quantization.scale = np.asarray(quantization.scale, np.float32) * np.float32(FACTOR)
    path.write_bytes(flatbuffer.pack(model, len(content) + 4096))
    append_zip(path, manifest)


def ruin_onnx(path: Path, output: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(path))
    nodes = list(model.graph.node)
    producer = {o: n for n in nodes for o in n.output}
    if output == "backbone":
        node = [n for n in nodes if n.op_type == "Conv"][2]
    else:
        node = producer[output]
        while node.op_type != "Conv":
            node = producer[next(i for i in node.input if i in producer)]
    dequantize = producer[node.input[0]]
    assert dequantize.op_type == "DequantizeLinear"
    names = {dequantize.input[1], producer[dequantize.input[0]].input[1]}
    changed = 0
    for tensor in model.graph.initializer:
        if tensor.name in names:
            scale = onnx.numpy_helper.to_array(tensor) * np.float32(FACTOR)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.asarray(scale, np.float32), tensor.name))
            changed += 1
    assert changed == len(names)
    onnx.save(model, str(path))


def ruin_openvino(path: Path, output: str) -> None:
    """The limits of the FakeQuantize that the convolution reads: float32 constants in the .bin file."""
    root = ET.parse(path / "model.xml").getroot()
    layers = {layer.get("id"): layer for layer in root.iter("layer")}
    source = {(e.get("to-layer"), e.get("to-port")): e.get("from-layer") for e in root.iter("edge")}

    def inputs(layer):
        ports = [p.get("id") for p in layer.findall("input/port")]
        return [layers[source[(layer.get("id"), p)]] for p in ports]

    if output == "backbone":
        layer = [x for x in layers.values() if x.get("type") == "Convolution"][2]
    else:
        layer = next(x for x in layers.values() if output in [p.get("names") for p in x.findall("output/port")])
        while layer.get("type") != "Convolution":
            layer = next(x for x in inputs(layer) if x.get("type") != "Const")
    rounding = inputs(layer)[0]
    assert rounding.get("type") == "FakeQuantize"
    content = bytearray((path / "model.bin").read_bytes())
    offsets = {(int(c.find("data").get("offset")), int(c.find("data").get("size"))) for c in inputs(rounding)[1:]}
    for offset, size in offsets:
        values = np.frombuffer(content, "<f4", size // 4, offset) * np.float32(FACTOR)
        content[offset : offset + size] = values.astype("<f4").tobytes()
    (path / "model.bin").write_bytes(content)


def ruin_ncnn(path: Path, output: str) -> None:
    """ncnn keeps the reciprocal of the scale behind the weights of the convolution; stem and last ones are float."""
    names = [o.name for o in open_model(path, apart=True).manifest.outputs]
    lines = [line.split() for line in (path / "model.ncnn.param").read_text().splitlines()[2:]]
    blob = lambda words, side: words[4 : 4 + int(words[2])] if side == "in" else words[4 + int(words[2]) :][: int(words[3])]  # noqa: E731
    producer = {b: words for words in lines for b in blob(words, "out")}
    if output == "backbone":
        # Behind a concatenation, where all must pass: a bottleneck's sum would carry most past its convolutions.
        joined = {b for w in lines if w[0] == "Concat" for b in blob(w, "out")}
        layer = next(w for w in lines if w[0] == "Convolution" and "8=2" in w and blob(w, "in")[0] in joined)
    else:
        order = ("box_8", "score_8", "coeff_8", "", "", "", "", "", "", "proto")
        layer = producer[names[order.index(output)]]
        while layer[0] != "Convolution" or "8=2" not in layer:
            layer = producer[blob(layer, "in")[0]]
    content, at = bytearray((path / "model.ncnn.bin").read_bytes()), 0
    for words in lines:
        if words[0] not in ("Convolution", "Deconvolution"):
            continue
        p = dict(w.split("=") for w in words[4 + int(words[2]) + int(words[3]) :])
        size, channels = int(p["6"]), int(p["0"])
        at += 4 + (size + -size % 4 if "8" in p else 4 * size) + 4 * channels * int(p.get("5", 0))
        if "8" in p:
            at += 4 * channels
            if words is layer:
                scale = np.frombuffer(content, "<f4", 1, at) / np.float32(FACTOR)
                content[at : at + 4] = scale.astype("<f4").tobytes()
            at += 4
    assert at == len(content) and "8=2" in layer
    (path / "model.ncnn.bin").write_bytes(content)


RUIN = {"tflite": ruin_tflite, "onnx": ruin_onnx, "openvino": ruin_openvino, "ncnn": ruin_ncnn}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_shapes(tmp_path_factory.mktemp("ruined") / "shapes", train=40, val=32, size=160, seed=20)


@pytest.fixture(scope="module")
def reference():
    pytest.importorskip("torch")
    from edgeseg.network.runtime import NetworkRuntime

    runtime = NetworkRuntime(demo_checkpoint(), threads=1)
    return Opened(demo_checkpoint(), "PyTorch fp32", runtime, runtime.manifest)


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    made: dict[str, Path] = {}

    def make(format: str) -> Path:
        if format not in made:
            if not has_runtime(target_by_name(format)):
                pytest.skip(f"no runtime of {format} here")
            options = ExportOptions(imgsz=160, int8=True, data=data, images=32)
            (result,) = export(demo_checkpoint(), [format], options, out=tmp_path_factory.mktemp(format), gate=False)
            if result.path is None:
                pytest.fail(str(result.error))
            made[format] = result.path
        return made[format]

    return make


def verdict(path: Path, reference: Opened, data: Path):
    artifact = open_model(path, threads=1, apart=True)
    try:
        subject = Opened(path, path.name, artifact.runtime, artifact.manifest)
        return judge(reference, subject, load_dataset(data).images("val"), Floors())
    finally:
        artifact.runtime.close()


@pytest.mark.parametrize("format", sorted(RUIN))
def test_a_ruined_scale_is_caught_with_the_right_role(format, exported, reference, data, tmp_path):
    sound = exported(format)
    found = verdict(sound, reference, data)
    assert found.passed, found.blame()
    for output in (*OUTPUTS, "backbone"):
        copy = tmp_path / output / sound.name
        copy.parent.mkdir()
        (shutil.copytree if sound.is_dir() else shutil.copy)(sound, copy)
        RUIN[format](copy, output)
        found = verdict(copy, reference, data)
        expected = BEFORE if output == "backbone" else output.partition("_")[0]
        assert found.culprits == (expected,), f"{format} {output}: {found.blame() or found.summary()} {found.snr}"
