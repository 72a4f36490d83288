"""Bad input through the command line: one line on standard error with the file and the next step, exit code 2."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import pytest

from edgeseg import cli

pytest.importorskip("torch")


class Shell:
    """Runs command lines in this process and checks what every one of them must keep to."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *words: object, code: int = 0) -> str:
        self.capsys.readouterr()
        got = cli.run([str(w) for w in words])
        self.out, self.err = self.capsys.readouterr()
        assert got == code, f"{got}: {self.err}"
        assert "Traceback" not in self.err
        return self.out + self.err

    def refuses(self, *words: object, says: tuple[str, ...], code: int = 2) -> None:
        self(*words, code=code)
        errors = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, self.err
        for part in says:
            assert part in errors[0], errors[0]


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESEG_OFFLINE", "1")
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("EDGESEG_DEBUG", raising=False)
    return Shell(capsys)


def picture(path: Path | str, image: np.ndarray | None = None) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8) if image is None else image
    assert cv2.imwrite(str(path), noise)
    return path


# Checkpoints


def test_truncated_checkpoint(shell: Shell, tiny: Path) -> None:
    Path("cut.pt").write_bytes(tiny.read_bytes()[:2000])
    picture("a.png")
    for command in (("predict", "cut.pt", "a.png"), ("info", "cut.pt"), ("export", "cut.pt", "format=onnx")):
        shell.refuses(*command, says=("cut.pt",))


def test_malicious_checkpoint_runs_nothing(shell: Shell, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/was-run",)

    picture("a.png")
    with zipfile.ZipFile("zip.pt", "w") as z:
        z.writestr("archive/data.pkl", pickle.dumps({"model": Evil()}, protocol=2))
        z.writestr("archive/version", "3")
        z.writestr("archive/byteorder", "little")
    Path("bare.pt").write_bytes(pickle.dumps({"model": Evil()}))
    for name in ("zip.pt", "bare.pt"):
        shell.refuses("predict", name, "a.png", says=(name,))
        shell.refuses("info", name, says=(name,))
    assert not (tmp_path / "was-run").exists()


def test_what_is_no_checkpoint(shell: Shell) -> None:
    picture("a.png")
    Path("empty.pt").touch()
    Path("text.pt").write_text("hello")
    Path("folder.pt").mkdir()
    for name in ("empty.pt", "text.pt", "folder.pt", "none.pt"):
        shell.refuses("predict", name, "a.png", says=(name,))


# Images


@pytest.fixture
def images() -> dict[str, Path]:
    rng = np.random.default_rng(0)
    made = {
        "one pixel": picture("in/one.png", np.full((1, 1, 3), 7, np.uint8)),
        "a line": picture("in/line.png", rng.integers(0, 255, (1, 300, 3), np.uint8)),
        "grey": picture("in/grey.png", rng.integers(0, 255, (40, 30), np.uint8)),
        "rgba": picture("in/rgba.png", rng.integers(0, 255, (40, 30, 4), np.uint8)),
        "16-bit": picture("in/deep.png", rng.integers(0, 65535, (40, 30, 3), np.uint16)),
        "16-bit grey": picture("in/deepgrey.tiff", rng.integers(0, 65535, (40, 30), np.uint16)),
    }
    turned = picture("in/turned.jpg", rng.integers(0, 255, (40, 30, 3), np.uint8))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    data = turned.read_bytes()
    turned.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])
    return {**made, "turned": turned}


def test_strange_images_are_read(shell: Shell, tiny: Path, images: dict[str, Path]) -> None:
    shell("predict", tiny, "in", "conf=0.01", "out=out", "--json", "o.json", "--save-txt")
    found = json.loads(Path("o.json").read_text())
    sizes = {Path(i["path"]).name: (i["height"], i["width"]) for i in found["images"]}
    assert found["count"] == len(images) and not found["skipped"]
    assert sizes["one.png"] == (1, 1) and sizes["deep.png"] == (40, 30)
    assert sizes["turned.jpg"] == (30, 40), "the orientation in EXIF counts"
    assert len(list(Path("out").glob("*.*"))) == len(images)


def test_empty_and_corrupt_images_alone(shell: Shell, tiny: Path) -> None:
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("no image")
    for name in ("empty.jpg", "text.jpg"):
        shell.refuses("predict", tiny, name, says=("could be read",))
        assert name in shell.err and not Path("runs").exists()


def test_corrupt_among_good_is_skipped_and_counted(shell: Shell, tiny: Path, images: dict[str, Path]) -> None:
    bad = picture("in/bad.jpg")
    bad.write_bytes(bad.read_bytes()[:300])
    said = shell("predict", tiny, "in", "out=out", "json=o.json")
    found = json.loads(Path("o.json").read_text())
    assert [Path(s["path"]).name for s in found["skipped"]] == ["bad.jpg"] and found["count"] == len(images)
    assert "bad.jpg" in shell.err and "1 skipped" in said


def test_sources_that_are_not_there(shell: Shell, tiny: Path) -> None:
    Path("void").mkdir()
    for source in ("none.jpg", "void", "*.jpg"):
        shell.refuses("predict", tiny, source, says=(source,))
    shell.refuses("predict", tiny, says=("edgeseg predict",))


# Datasets


def dataset(root: Path, label: str = "0 0.1 0.1 0.9 0.1 0.9 0.9", body: str | None = None) -> Path:
    for k in range(3):
        picture(root / f"images/val/{k}.png", np.random.default_rng(k).integers(0, 255, (48, 64, 3), np.uint8))
        file = root / f"labels/val/{k}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("1 0.2 0.2 0.7 0.2 0.5 0.8\n" + (f"{label}\n" if k == 1 else ""))
    yaml = root / "data.yaml"
    yaml.write_text(body if body is not None else "path: .\ntrain: images/val\nval: images/val\nnames: [cat, dog]\n")
    return yaml


def test_validate_on_good_data(shell: Shell, tiny: Path) -> None:
    yaml = dataset(Path("d"))
    said = shell("val", tiny, f"data={yaml}", "--json", "o.json", "--per-class")
    found = json.loads(Path("o.json").read_text())
    assert found["images"] == 3 and set(found["speed_ms"]) == {"preprocess", "inference", "postprocess"}
    assert {"map", "map50", "map75", "maps"} <= set(found["metrics"]["box"]) and found["size"] == tiny.stat().st_size
    assert "dog" in said


def test_validate_beside_a_reference(shell: Shell, tiny: Path) -> None:
    yaml = dataset(Path("d"))
    said = shell("val", tiny, f"data={yaml}", "--json", "o.json", f"--reference={tiny}", "--html", "page.html")
    reference, model = json.loads(Path("o.json").read_text())["models"]
    assert model["fidelity"]["extra"] == 0 and not model["diverges"] and model["metrics"] == reference["metrics"]
    assert "nowhere" in said and Path("page.html").read_text().startswith("<!doctype html>")


def test_validate_skips_corrupt_images(shell: Shell, tiny: Path) -> None:
    yaml = dataset(Path("d"))
    Path("d/images/val/1.png").write_bytes(b"broken")
    shell("validate", tiny, "--data", yaml, "json=o.json")
    assert "1.png" in shell.err and len(json.loads(Path("o.json").read_text())["skipped"]) == 1


@pytest.mark.parametrize(
    "label", ["2 0.1 0.1 0.9 0.1 0.9 0.9", "-1 0.1 0.1 0.9 0.1 0.9 0.9", "0 0.5 0.5 0.2 0.2", "0 a b c d e f", "cat"]
)
def test_bad_labels_name_file_and_line(shell: Shell, tiny: Path, label: str) -> None:
    shell.refuses("validate", tiny, "--data", dataset(Path("d"), label), says=("1.txt:2:",))


@pytest.mark.parametrize(
    "body",
    [
        "path: .\ntrain: images/val\nval: images/val\n",
        "names: [a, b]\n",
        "",
        "[1, 2]",
        "a: [",
        "path: nowhere\nval: x\ntrain: x\nnames: [a, b]\n",
    ],
)
def test_bad_yaml(shell: Shell, tiny: Path, body: str) -> None:
    yaml = dataset(Path("d"), body=body)
    shell.refuses("validate", tiny, "--data", yaml, says=())
    assert "data.yaml" in shell.err or "nowhere" in shell.err


def test_no_images_in_the_dataset(shell: Shell, tiny: Path) -> None:
    yaml = dataset(Path("d"))
    for file in Path("d/images/val").iterdir():
        file.unlink()
    shell.refuses("validate", tiny, "--data", yaml, says=("images/val",))


def test_dataset_of_other_classes(shell: Shell, tiny: Path) -> None:
    body = "path: .\ntrain: images/val\nval: images/val\nnames: [cat, dog, cow]\n"
    shell.refuses("validate", tiny, "--data", dataset(Path("d"), body=body), says=("2 classes", "3"))


def test_no_such_dataset(shell: Shell, tiny: Path) -> None:
    shell.refuses("validate", tiny, "data=coco1288-seg", says=("coco1288-seg",))


# Artifacts


def test_onnx_of_another_network(shell: Shell) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 64, 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "other", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "other.onnx")
    Path("broken.onnx").write_bytes(b"nothing")
    picture("a.png")
    for name in ("other.onnx", "broken.onnx"):
        shell.refuses("predict", name, "a.png", says=(name,))
        shell.refuses("info", name, says=(name,))


def test_files_that_are_no_models(shell: Shell) -> None:
    picture("a.png")
    Path("model").mkdir()
    for name in ("none.onnx", "none.xyz", "model", "a.png"):
        shell.refuses("predict", name, "a.png", says=(name,))


# Exports


def test_words_that_are_no_options(shell: Shell, tiny: Path) -> None:
    shell.refuses("export", tiny, "--fromat", "onnx", says=("fromat", "Did you mean 'format'"))
    shell.refuses("export", tiny, "format=onxx", says=("onxx", "Did you mean 'onnx'"))
    shell.refuses("export", tiny, "format=torchscript", "half=True", says=("half", "takes"))
    shell.refuses("export", tiny, "format=onnx", "imgsz=100", says=("imgsz", "96"))
    shell.refuses("export", tiny, "format=onnx", "imgsz=big", says=("imgsz",))
    shell.refuses("export", tiny, "format=onnx", "half=perhaps", says=("perhaps",))
    shell.refuses("exprot", says=("Did you mean 'export'",))
    shell.refuses("predict", tiny, "a.png", "conf=2", says=("conf",))
    shell.refuses("predict", tiny, "a.png", "conf=abc", says=("conf",))
    shell.refuses("export", "none.pt", says=("none.pt",))


def test_offline_without_weights(shell: Shell) -> None:
    shell.refuses("export", "yolov8n-seg.pt", "format=onnx", says=("yolov8n-seg.pt",))


TOY = """
import errno
def convert(job):
    job.output.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device", str(job.output))
"""


def test_disk_full_in_a_converter(shell: Shell, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "targets/toy"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text('name = "toy"\ntitle = "Toy"\nsuffix = ".toy"\nreads = ["network"]\n')
    (folder / "convert.py").write_text(TOY)
    monkeypatch.setenv("EDGESEG_TARGETS", str(tmp_path / "targets"))
    shell.refuses("export", tiny, "format=toy", "out=out", says=("disk is full",))
    assert not list(Path("out").rglob("*") if Path("out").exists() else [])


def test_disk_full_while_putting_in_place(shell: Shell, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last copy, beside the model, fails half-way: the old artifact stays whole."""
    import errno

    from edgeseg import store

    shell("export", tiny, "format=torchscript", "imgsz=32", "out=out", code=0)
    old = Path("out/tiny-seg.torchscript")
    before = old.read_bytes()

    def full(source: IO[bytes], place: IO[bytes], _: int) -> None:
        place.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device", place.name)

    monkeypatch.setattr(store.shutil, "copyfileobj", full)
    shell("export", tiny, "format=torchscript", "imgsz=64", "out=out", code=2)
    assert "disk is full" in shell.err
    assert [p.name for p in Path("out").iterdir()] == [old.name] and old.read_bytes() == before


def test_places_that_cannot_be_written(shell: Shell, tiny: Path) -> None:
    picture("a.png")
    Path("file").touch()
    shell.refuses("predict", tiny, "a.png", "out=file/inside", says=("file",))
    shell.refuses("export", tiny, "format=torchscript", "out=file", says=("file",))
    shell.refuses("predict", tiny, "a.png", "json=nowhere/o.json", says=("nowhere", "mkdir"))
    shell.refuses("predict", tiny, "a.png", "out=.", says=("a.png", "--out"))
    if os.geteuid() != 0:
        Path("locked").mkdir(mode=0o500)
        shell.refuses("predict", tiny, "a.png", "out=locked/deep", says=("locked",))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_standard_output_full(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edgeseg.cli", "data", "list"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "Traceback" not in done.stderr
