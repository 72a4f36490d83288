from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from edgeseg.data.shapes import shapes_image
from edgeseg.errors import EdgesegError
from edgeseg.quantize.recipe import load_recipe
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

SMALL = """7767517
9 10
Input                    in0                      0 1 in0
Convolution              stem                     1 1 in0 1 0=4 1=3 11=3 12=1 13=2 14=1 2=1 3=2 4=1 5=1 6=108
Swish                    act                      1 1 1 2
Slice                    halves                   1 2 2 3 4 -23300=2,-233,-233 1=0
Convolution              inner                    1 1 4 5 0=2 1=1 11=1 12=1 13=1 14=0 2=1 3=1 4=0 5=1 6=4
Concat                   cat                      2 1 3 5 6 0=0
Interp                   up                       1 1 6 7 0=1 1=2.0 2=2.0 6=0
Pooling                  pool                     1 1 7 8 0=0 1=5 11=5 12=1 13=2 2=1 3=2 5=1
Deconvolution            deconv                   1 1 8 out0 0=3 1=2 11=2 12=1 13=2 14=0 18=0 19=0 2=1 3=2 4=0 5=1 6=48
"""
WEIGHTS = ((4, 3, 3, 3), (2, 2, 1, 1), (3, 4, 2, 2))


def layers_module():
    return target_by_name("ncnn").load("layers")


@pytest.fixture(scope="module")
def content() -> bytes:
    random = np.random.default_rng(0)
    parts = []
    for shape in WEIGHTS:
        parts += [b"\0\0\0\0", random.normal(size=shape).astype("<f4").tobytes()]
        parts.append(random.normal(size=shape[0]).astype("<f4").tobytes())
    return b"".join(parts)


@pytest.fixture(scope="session")
def calibration(tmp_path_factory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("calibration")
    paths = []
    for seed in range(2):
        paths.append(folder / f"{seed}.png")
        cv2.imwrite(str(paths[-1]), shapes_image(seed, 96)[0])
    return tuple(paths)


def test_graph_and_weights_survive_reading_and_writing(content):
    text, weights = layers_module().pack(layers_module().read(SMALL, content), {})
    assert weights == content and [line.split() for line in text.splitlines()] == [
        line.split() for line in SMALL.splitlines()
    ]


def test_int8_layer_as_it_lies_in_the_file(content):
    module = layers_module()
    layers = module.read(SMALL, content)
    scale = np.array([0.5, 0.25], np.float32)
    text, weights = module.pack(layers, {"5": (scale, 0.1)})
    (line,) = [line for line in text.splitlines() if " inner " in line]
    assert line.split()[-1] == "8=2" and text.count("8=2") == 1
    at = len(module.pack(layers[:4], {})[1])
    inner = layers[4]
    integers = np.frombuffer(weights, np.int8, 4, at + 4).reshape(2, 2, 1, 1)
    assert weights[at : at + 4] == (0x000D4B38).to_bytes(4, "little")
    np.testing.assert_array_equal(integers, np.rint(inner.weight / scale.reshape(-1, 1, 1, 1)))
    floats = np.frombuffer(weights, "<f4", 2 + 2 + 1, at + 8)
    np.testing.assert_allclose(floats, [*inner.bias, 2, 4, 10], rtol=1e-6)


def test_int8_weights_fill_whole_words():
    text = "7767517\n2 2\nInput in0 0 1 in0\nConvolution c 1 1 in0 out0 0=1 1=1 11=1 3=1 13=1 5=1 6=3\n"
    content = b"\0" * 4 + np.ones(4, "<f4").tobytes()
    _, weights = layers_module().pack(layers_module().read(text, content), {"out0": (np.ones(1, np.float32), 1.0)})
    assert len(weights) == 4 + 4 + 4 + 4 + 4 and weights[4:8] == b"\1\1\1\0"


def test_a_text_that_is_no_graph(content):
    with pytest.raises(EdgesegError, match="no ncnn graph"):
        layers_module().read(SMALL.replace("7767517", "1"), content)


def test_weights_that_do_not_fit(content):
    with pytest.raises(EdgesegError, match="belong to no convolution"):
        layers_module().read(SMALL, content + b"1234")
    with pytest.raises(EdgesegError, match="not float32"):
        layers_module().read(SMALL, b"\x47\x6b\x30\x01" + content[4:])


@pytest.fixture(scope="session")
def ncnn_of(convert, calibration):
    """``ncnn_of(precision, ...)``: the tiny network for ncnn, by way of TorchScript."""
    pytest.importorskip("ncnn")
    pytest.importorskip("pnnx")

    def run(precision="fp32", **job):
        if precision == "int8":
            job.setdefault("recipe", {**load_recipe("int8").to_dict(), "correction": {"method": "none"}})
            job.update(calibration=calibration, calibration_info={"hash": "00", "images": 2, "source": "shapes"})
        head = job.get("head", "raw")
        return convert("ncnn", source=convert("torchscript", head=head), precision=precision, **job)

    return run


@pytest.mark.parametrize("head", ["raw", "decoded"])
def test_float_is_the_network(ncnn_of, opened, difference, head):
    artifact = opened(ncnn_of(head=head))
    assert artifact.manifest.head == head and artifact.manifest.outputs[0].name == "out0"
    assert difference(artifact) < 1e-3


def test_half_weights_halve_the_folder(ncnn_of, opened, difference):
    full, half = (opened(ncnn_of(p)) for p in ("fp32", "fp16"))
    assert half.size < 0.7 * full.size and difference(half) < 1e-2


def test_half_files_are_computed_in_float_whatever_the_cpu_can(ncnn_of, opened, monkeypatch):
    """What half floats did to detections on an emulated Cortex-A76: docs/figures.md."""
    import ncnn

    monkeypatch.setattr(ncnn, "cpu_support_arm_asimdhp", lambda: True)
    for precision in ("fp32", "fp16"):
        options = opened(ncnn_of(precision)).runtime._runtime._net.opt
        assert not (options.use_fp16_arithmetic or options.use_fp16_packed or options.use_fp16_storage)


def test_a_batch_is_refused(ncnn_of):
    with pytest.raises(EdgesegError, match="one image at a time"):
        ncnn_of(batch=2)


def test_integers_need_the_raw_head(ncnn_of):
    with pytest.raises(EdgesegError, match="needs the raw head"):
        ncnn_of("int8", head="decoded")


def _picture(path):
    image = cv2.resize(cv2.imread(str(path)), (96, 64))[..., ::-1].transpose(2, 0, 1)[None]
    return np.ascontiguousarray(image, np.float32) / 255


def test_int8_file_says_what_it_is(ncnn_of, opened, calibration):
    artifact, reference = opened(ncnn_of("int8")), open_model(ncnn_of())
    manifest = artifact.manifest
    assert manifest.precision == "int8" and manifest.recipe == "int8" and manifest.calibration["images"] == 2
    text = (artifact.path / "model.ncnn.param").read_text()
    lines = [line for line in text.splitlines() if line.startswith("Convolution ")]
    # The first convolutions and those that write an output (out9 is the prototypes', behind a SiLU) are float.
    floating = [*lines[:3], *(line for line in lines if line.split()[5].startswith("out"))]
    assert len(floating) == 12
    assert [line.endswith(" 8=2") for line in lines] == [line not in floating for line in lines]
    x = _picture(calibration[0])
    for a, b in zip(artifact.runtime.run(x), reference.runtime.run(x), strict=True):
        assert 0 < np.sqrt(((a - b) ** 2).mean()) < 0.15 * np.sqrt((b**2).mean())


def test_ncnn_really_computes_in_integers(ncnn_of, calibration, tmp_path):
    """Convolution by convolution: the runtime gives what integers give of its own input, to the float rounding."""
    import ncnn

    module, folder = layers_module(), ncnn_of("int8")
    text, content = (folder / "model.ncnn.param").read_text(), (folder / "model.ncnn.bin").read_bytes()
    net = ncnn.Net()
    for name in ("use_fp16_arithmetic", "use_fp16_packed", "use_fp16_storage", "use_bf16_storage"):
        setattr(net.opt, name, False)
    net.opt.lightmode = False
    assert net.load_param(str(folder / "model.ncnn.param")) == net.load_model(str(folder / "model.ncnn.bin")) == 0
    reference = (ncnn_of() / "model.ncnn.param").read_text(), (ncnn_of() / "model.ncnn.bin").read_bytes()
    layers = {layer.outputs[0]: layer for layer in module.read(*reference)}
    checked = 0
    with net.create_extractor() as extractor:
        extractor.input("in0", ncnn.Mat(_picture(calibration[0])[0]).clone())
        for integers in _integer_layers(text, content):
            layer = layers[integers.output]
            given, found = (np.array(extractor.extract(b)[1]) for b in (layer.inputs[0], integers.output))
            q = np.clip(np.rint(given * integers.given), -127, 127).astype(np.float32)
            wanted = torch.nn.functional.conv2d(
                torch.from_numpy(q)[None].double(),
                torch.from_numpy(integers.weight).double().reshape(layer.weight.shape),
                stride=layer.number(3, 1),
                padding=layer.number(4),
            )[0].numpy()
            wanted = wanted / (integers.scale * integers.given)[:, None, None] + integers.bias[:, None, None]
            # Values on a half may go either way: one step of one input.
            near = np.abs(found - wanted) <= 1e-3 * np.abs(wanted).max()
            assert near.mean() > 0.97, integers.output
            checked += 1
    assert checked == text.count(" 8=2")


class _Integers:
    def __init__(self, output, weight, bias, scale, given):
        self.output, self.weight, self.bias, self.scale, self.given = output, weight, bias, scale, given


def _integer_layers(text, content):
    at = 0
    for line in text.splitlines()[2:]:
        words = line.split()
        if words[0] not in ("Convolution", "Deconvolution"):
            continue
        params = dict(w.split("=") for w in words[6:])
        size, outputs = int(params["6"]), int(params["0"])
        if params.get("8") != "2":
            at += 4 + 4 * size + 4 * outputs
            continue
        weight = np.frombuffer(content, np.int8, size, at + 4)
        at += 4 + size + -size % 4
        bias, scale = (np.frombuffer(content, "<f4", outputs, at + 4 * outputs * i) for i in range(2))
        (given,) = np.frombuffer(content, "<f4", 1, at + 8 * outputs)
        at += 8 * outputs + 4
        yield _Integers(words[5], weight, bias, scale, given)
    assert at == len(content)
