from __future__ import annotations

import json
import sys
import zipfile

import numpy as np
import pytest

from edgeseg import registry
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Output, Tensor, append_zip, read_sidecar, read_zip, size_on_disk, write_sidecar
from edgeseg.running.open import open_model

MANIFEST = Manifest(
    "fake", ("a", "ü"), (64, 64), Tensor("images", (1, 3, 64, 64)), (Output("proto", (1, 32, 16, 16), role="proto"),)
)
RUNTIME = """
import numpy as np
from edgeseg.manifest import read_zip
from edgeseg.manifest import Tensor
class Runtime:
    def __init__(self, path, *, threads=None):
        if path.stat().st_size < 4:
            raise ValueError("too short\\nand a long story about it")
        self.threads, self.metadata = threads, read_zip(path)
        self.input, self.outputs = Tensor("images", (1, 3, 64, 64)), (Tensor("proto", (1, 32, 16, 16)),)
    def run(self, x):
        if x.ndim != 4:
            raise RuntimeError("no such group\\nand so on")
        return [np.zeros((1, 32, 16, 16), np.float32)]
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A target of its own, outside the tree, with suffix .fake; returns the folder of its ``target.toml``."""
    folder = tmp_path / "targets" / "fake"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text('name = "fake"\ntitle = "Fake"\nsuffix = ".fake"\nreads = ["network"]\n')
    (folder / "runtime.py").write_text(RUNTIME)
    monkeypatch.setattr(registry, "target_roots", lambda: [folder.parent])
    monkeypatch.setattr(registry, "_scan", registry._scan.__wrapped__)
    yield folder
    sys.modules.pop("edgeseg_targets.fake.runtime", None)


@pytest.mark.parametrize("before", [b"", b"x", b"some flatbuffer", bytes(70_000)])
def test_zip_behind_a_file(tmp_path, before):
    file = tmp_path / "m.bin"
    file.write_bytes(before)
    append_zip(file, MANIFEST)
    assert file.read_bytes().startswith(before)
    assert Manifest.from_metadata(read_zip(file)) == MANIFEST


def test_zip_of_older_tools_holds_python_literals(tmp_path):
    file = tmp_path / "m.bin"
    file.write_bytes(b"flat")
    with zipfile.ZipFile(file, "a") as z:
        z.writestr("temp_meta.txt", str({"names": {0: "it's"}, "stride": 32}))
    assert read_zip(file) == {"names": {0: "it's"}, "stride": 32}


@pytest.mark.parametrize("text", ["", "no dict", "[1, 2]", '{"a": ', "__import__('os').system('echo')"])
def test_zip_with_something_else_says_nothing(tmp_path, text):
    file = tmp_path / "m.bin"
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("a.txt", text)
    assert read_zip(file) == {}


def test_no_zip_says_nothing(tmp_path):
    file = tmp_path / "m.bin"
    file.write_bytes(b"flat")
    assert read_zip(file) == {}


@pytest.mark.parametrize("folder", [True, False])
def test_sidecar(tmp_path, folder):
    path = tmp_path / "m"
    path.mkdir() if folder else path.write_bytes(b"x")
    assert read_sidecar(path) == {}
    file = write_sidecar(path, MANIFEST)
    assert file == (path / "metadata.yaml" if folder else tmp_path / "m.yaml")
    assert Manifest.from_metadata(read_sidecar(path)) == MANIFEST
    for bad in ("a: [", "- 1", "just text"):
        file.write_text(bad)
        with pytest.raises(EdgesegError, match=file.name):
            read_sidecar(path)
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(EdgesegError, match=file.name):
        read_sidecar(path)


def test_size_of_a_folder_is_that_of_its_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(bytes(10))
    (tmp_path / "c").write_bytes(bytes(5))
    assert size_on_disk(tmp_path) == 15 and size_on_disk(tmp_path / "c") == 5


def test_open(fake, tmp_path):
    file = tmp_path / "m.fake"
    file.write_bytes(bytes(9))
    append_zip(file, MANIFEST)
    artifact = open_model(str(file), threads=3)
    assert artifact.manifest == MANIFEST and artifact.target.name == "fake" and artifact.size == file.stat().st_size
    assert artifact.runtime._runtime.threads == 3
    assert artifact.runtime.run(np.zeros((1, 3, 64, 64), np.float32))[0].shape == (1, 32, 16, 16)


def test_a_runtime_that_fails_while_running_names_the_file(fake, tmp_path):
    file = tmp_path / "m.fake"
    file.write_bytes(bytes(9))
    append_zip(file, MANIFEST)
    runtime = open_model(file).runtime
    with pytest.raises(EdgesegError, match=r"m\.fake: its runtime cannot run it \(no such group\)"):
        runtime.run(np.zeros(1, np.float32))


def test_open_without_our_manifest_infers_one(fake, tmp_path):
    file = tmp_path / "m.fake"
    file.write_bytes(bytes(9))
    with pytest.raises(EdgesegError, match="gives one map"):
        open_model(file)


def test_open_with_a_broken_manifest(fake, tmp_path):
    file = tmp_path / "m.fake"
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("metadata.json", json.dumps({"edgeseg": "{}"}))
    with pytest.raises(EdgesegError, match="manifest cannot be read"):
        open_model(file)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("absent.fake", None, "no such file"),
        ("m.gif", b"x", "no known format"),
        ("short.fake", b"x", r"the Fake runtime cannot load it \(too short\)"),
    ],
)
def test_open_says_what_is_wrong_in_one_line(fake, tmp_path, name, content, what):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(EdgesegError, match=what) as caught:
        open_model(file)
    assert str(file) in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_open_without_the_runtime_says_what_to_install(fake, tmp_path):
    toml = fake / "target.toml"
    toml.write_text(toml.read_text() + '[runtime]\nmodules = ["no_such_module|nor_this", "json"]\nextra = "fake"\n')
    file = tmp_path / "m.fake"
    file.write_bytes(bytes(9))
    with pytest.raises(EdgesegError, match="no_such_module is needed") as caught:
        open_model(file)
    assert 'pip install "edgeseg[fake]"' in caught.value.hint


def test_a_kit_is_not_called_like_its_format(fake, tmp_path):
    (fake / "target.toml").write_text((fake / "target.toml").read_text() + '\n[kit]\nsuffix = "_fake_kit"\n')
    titles = []
    for name in ("x.fake", "x_fake_kit"):
        (tmp_path / name).write_bytes(bytes(9))
        append_zip(tmp_path / name, MANIFEST)
        titles.append(open_model(tmp_path / name).title)
    assert titles == ["Fake fp32", "Fake kit fp32"]
