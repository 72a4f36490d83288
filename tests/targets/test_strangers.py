"""Files as other tools write them, in real runtimes: opened from any of their files, their precision read from inside."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.manifest import read_zip
from edgeseg.model import Model
from edgeseg.registry import target_by_name
from edgeseg.running.open import open_model

pytest.importorskip("torch")


Made = dict[str, Path]


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The tiny network in the formats that run here; "half onnx" and so on: with half floats."""
    out, found = tmp_path_factory.mktemp("made"), {}
    for name in ("onnx", "openvino", "ncnn"):
        pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
        found[name] = Model(tiny).export(format=name, out=out, imgsz=64)
        found[f"half {name}"] = Model(tiny).export(format=name, out=out / "half", imgsz=64, half=True)
    return found


def bare(folder: Path, place: Path) -> Path:
    """A folder artifact without its metadata, and without what tells that edgeseg wrote it."""
    shutil.copytree(folder, place)
    (place / "metadata.yaml").unlink()
    for file in (*place.glob("*.xml"), *place.glob("*.param")):
        text = re.sub(r"(?<=[\">])(box|score|coeff|proto)(?=[_\"<])", r"their_\1", file.read_text())
        file.write_text(text.replace(" edgeseg ", " in0 "))
    return place


@pytest.mark.parametrize("name", ["openvino", "ncnn"])
@pytest.mark.parametrize("half", ["", "half "])
def test_a_folder_of_ours_says_that_its_metadata_was_lost(made: Made, tmp_path: Path, name: str, half: str) -> None:
    folder = Path(shutil.copytree(made[half + name], tmp_path / "on the board"))
    assert open_model(folder).manifest.names[:2] == ("cat", "dog")
    (folder / "metadata.yaml").unlink()
    (graph,) = (*folder.glob("*.xml"), *folder.glob("*.param"))
    for path in (folder, graph):
        with pytest.raises(EdgesegError, match="that file is missing") as caught:
            open_model(path)
        assert caught.value.path == folder / "metadata.yaml" and "Copy metadata.yaml" in str(caught.value.hint)


def test_an_openvino_folder_by_its_file_and_by_any_name(made: Made, tmp_path: Path) -> None:
    folder = bare(made["openvino"], tmp_path / "whatever")
    (file,) = folder.glob("*.xml")
    for path in (file, folder):
        manifest = open_model(path).manifest
        assert manifest.format == "openvino" and manifest.precision == "fp32" and manifest.head == "raw"
        assert any("no metadata.yaml" in n for n in manifest.notes)
    own = next(made["openvino"].glob("*.xml"))
    assert open_model(own).manifest.names[:2] == ("cat", "dog")
    file.with_suffix(".bin").unlink()
    with pytest.raises(EdgesegError, match="its weights are not there"):
        open_model(file)


def test_an_ncnn_folder_by_its_file_says_that_it_guesses(made: Made, tmp_path: Path) -> None:
    folder = bare(made["ncnn"], tmp_path / "other")
    (folder / "metadata.yaml").write_text("imgsz: [64, 64]\n")
    assert open_model(folder / "model.ncnn.param").manifest.imgsz == (64, 64)
    (folder / "metadata.yaml").unlink()
    manifest = open_model(folder).manifest
    assert manifest.imgsz == (640, 640) and any("size 640x640 is a guess" in n for n in manifest.notes)


@pytest.mark.parametrize("name", ["onnx", "openvino", "ncnn"])
def test_the_precision_is_what_is_inside(made: Made, tmp_path: Path, name: str) -> None:
    path = made[f"half {name}"]
    target = tmp_path / path.name
    if path.is_dir():
        bare(path, target)
        (target / "metadata.yaml").write_text("imgsz: [64, 64]\n")
    else:
        onnx = pytest.importorskip("onnx")
        model = onnx.load(str(path))
        del model.metadata_props[:]
        onnx.save(model, str(target))
    assert open_model(target).manifest.precision == "fp16"


def test_integers_inside_an_onnx_file(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.ones((1, 3, 1, 1), np.int8), "w")
    scale = numpy_helper.from_array(np.float32(0.1), "s")
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["wf"]), helper.make_node("Conv", ["x", "wf"], ["y"])]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 64, 64]) for n, c in (("x", 3), ("y", 1)))
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], [weights, scale]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, str(tmp_path / "q.onnx"))
    assert target_by_name("onnx").load("runtime").Runtime(tmp_path / "q.onnx").precision() == "int8"


def _rewired(text: str) -> str:
    """The first concatenation reads what the stem wrote, which is larger."""
    lines = [line.split() for line in text.splitlines()]
    stem, joined = (next(w for w in lines if w[0] == kind) for kind in ("Convolution", "Concat"))
    blobs = joined[4 : 4 + int(joined[2])]
    return text.replace(" ".join(blobs), " ".join([*blobs[:-1], stem[5]]), 1)


DAMAGE = {
    "a blob that nobody makes": (lambda t: t.replace(" 1 1 in0 1 ", " 1 1 nothing 1 ", 1), "read before it is made"),
    "a blob made twice": (lambda t: t.replace(" 1 1 1 2", " 1 1 1 1", 1), "made twice"),
    "fewer layers than it names": (lambda t: "\n".join(t.splitlines()[:-3]), "it names"),
    "no magic": (lambda t: t.replace("7767517", "7767518"), "no ncnn graph"),
    "no input": (lambda t: t.replace("Input ", "Noop ", 1), "no input"),
    "a parameter that is none": (lambda t: t.replace("0=8 ", "0:8 ", 1), "is no parameter"),
    "more weights than there are": (
        lambda t: re.sub(r"6=(\d+)", lambda m: f"6={int(m[1]) * 99999}", t, count=1),
        "its weights end",
    ),
    "weights that fit no kernel": (lambda t: t.replace("6=", "6=1", 1), "sizes contradict"),
    "weights from a second input": (lambda t: t.replace(" 11=3 ", " 19=3 ", 1), "sizes contradict"),
    "a kernel without a side": (lambda t: t.replace(" 1=3 ", " 1=0 ", 1), "sizes contradict"),
    "empty": (lambda t: "", "no ncnn graph"),
    "a tensor of another size": (lambda t: _rewired(t), "are not for the .* channels that it reads|different sizes"),
    "an output of another name": (lambda t: t.replace(" out0 ", " :  ", 1), "has no out0"),
}


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_ncnn_graph_is_an_error_and_no_crash(made: Made, tmp_path: Path, fault: str) -> None:
    folder = tmp_path / "x_ncnn_model"
    shutil.copytree(made["ncnn"], folder)
    change, words = DAMAGE[fault]
    param = folder / "model.ncnn.param"
    text = param.read_text()
    changed = change(text)
    assert changed != text
    param.write_text(changed)
    with pytest.raises(EdgesegError, match=words):
        open_model(folder)


def test_what_is_sound_in_ncnn_and_not_in_ours_passes(tmp_path: Path) -> None:
    """Joined along the width, and a transposed convolution that pads what it writes: neither is a fault."""
    layers = [
        "Input in 0 1 a",
        "Convolution c 1 1 a b 0=4 1=3 3=2 4=1 5=1 6=108",
        "Concat j 2 1 a b d 0=2",
        "Deconvolution u 1 1 b e 0=2 1=2 3=2 6=32 18=1 19=1",
    ]
    (tmp_path / "x.param").write_text("\n".join(["7767517", "4 4", *layers]))
    (tmp_path / "x.bin").write_bytes(bytes(4 + 108 * 4 + 4 * 4 + 4 + 32 * 4))
    check = target_by_name("ncnn").load("check").check
    assert check(tmp_path / "x.param", tmp_path / "x.bin") == {0}
    (tmp_path / "x.param").write_text("\n".join(["7767517", "4 4", *layers]).replace("0=2\nDe", "0=0\nDe"))
    with pytest.raises(EdgesegError, match="different sizes"):
        check(tmp_path / "x.param", tmp_path / "x.bin")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_ncnn_weights_that_are_cut_short(made: Made, tmp_path: Path, share: float) -> None:
    folder = tmp_path / "x_ncnn_model"
    shutil.copytree(made["ncnn"], folder)
    weights = folder / "model.ncnn.bin"
    weights.write_bytes(weights.read_bytes()[: int(share * weights.stat().st_size)])
    with pytest.raises(EdgesegError, match="its weights end"):
        open_model(folder)


def test_sound_ncnn_files_pass_the_check(made: Made) -> None:
    for folder in (made["ncnn"], made["half ncnn"]):
        assert open_model(folder).manifest.names[:2] == ("cat", "dog")


def test_input_is_for_strangers_only(made: Made) -> None:
    with pytest.raises(EdgesegError, match="edgeseg wrote this file"):
        open_model(made["onnx"], input="bgr")
    assert read_zip(made["onnx"]) == {}
