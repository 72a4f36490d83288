"""What is in a bundle, what install.sh refuses, and that the self-test sees what differs."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgeseg.boards import board_by_name
from edgeseg.errors import EdgesegError
from edgeseg.fleet.bundle import compose, order, pack, unpack
from edgeseg.fleet.cases import read_cases
from edgeseg.fleet.facts import throttle_words, throttled
from edgeseg.fleet.ready import images_for
from edgeseg.fleet.selftest import main, selftest, words
from edgeseg.fleet.wheels import platform_of
from edgeseg.running.open import open_model


def install(folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHON": sys.executable, **environ}
    return subprocess.run(["sh", folder / "install.sh"], capture_output=True, text=True, env=env)


@pytest.fixture
def copy(demo_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo_bundle, tmp_path / demo_bundle.name))


def test_every_file_is_named_with_its_hash(demo_bundle):
    named = dict(reversed(line.split("  ")) for line in (demo_bundle / "SHA256SUMS").read_text().splitlines())
    files = {f.relative_to(demo_bundle).as_posix(): f for f in demo_bundle.rglob("*") if f.is_file()}
    assert set(files) == {*named, "SHA256SUMS"}
    assert all(hashlib.sha256(files[n].read_bytes()).hexdigest() == digest for n, digest in named.items())
    assert {"install.sh", "run.sh", "selftest.sh", "README.md", "bundle.json", "demo-seg.onnx"} <= set(named)
    texts = [f.read_text() for n, f in files.items() if n.endswith((".sh", ".md", ".json")) and "/" not in n]
    left = {"@DIR@", "@USER@"}
    assert not [w for t in texts for w in re.findall(r"@[A-Z_]+@", t) if w not in left]


def test_requirements_are_locked(demo_bundle):
    lines = (demo_bundle / "requirements.txt").read_text().splitlines()
    assert len(lines) == len(list((demo_bundle / "wheels").glob("*.whl"))) == 2
    assert all(re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?==\S+ --hash=sha256:[0-9a-f]{64}", s) for s in lines)
    assert any(s.startswith("edgeseg[onnx]==") for s in lines)


def test_the_same_order_gives_the_same_archive(demo_onnx, own_wheels, demo_bundle, tmp_path):
    wish, own = order(demo_onnx, board_by_name("pc")), next(own_wheels.glob("edgeseg-*.whl"))
    archive = compose(wish, tmp_path / "a.tar.gz", own=own, packages=own_wheels, say=lambda text: None)
    pack(demo_bundle, tmp_path / "b.tar.gz")
    assert archive.read_bytes() == (tmp_path / "b.tar.gz").read_bytes()
    again = unpack(archive, tmp_path / "out")
    assert (again / "SHA256SUMS").read_bytes() == (demo_bundle / "SHA256SUMS").read_bytes()
    assert os.access(again / "install.sh", os.X_OK)


def test_the_expected_is_what_the_model_finds(demo_bundle, demo_onnx):
    with open_model(demo_onnx) as opened:
        pipeline = opened.pipeline(conf=0.25)
        for case in read_cases(demo_bundle / "selftest", opened.manifest.names):
            found = pipeline(case.image)
            assert np.array_equal(found.boxes, case.expected.boxes) and found.rle() == case.expected.rle() and len(found)
            assert all(np.array_equal(a, b) for a, b in zip(case.tensors, pipeline.raw(case.image)[0]))
            assert len(case.tensors) == 10


def test_the_selftest_agrees_with_itself(copy):
    report = selftest(copy, runs=3)
    assert report["passed"] and report["equal"] and report["agreement"] == 1 and report["tensor_difference"] == 0
    assert report["ms"]["inference"] > 0 and report["memory_mb"] > 20 and report["expected"] == report["fidelity"]["pairs"]
    assert json.loads((copy / "report.json").read_text()) == report
    assert "equal to the last bit" in words(report)


def test_the_selftest_sees_another_model(copy, tmp_path, capsys):
    pytest.importorskip("torch")
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions
    from edgeseg.resources import demo_checkpoint

    (other,) = export(demo_checkpoint(), ["onnx"], ExportOptions(imgsz=96), out=tmp_path / "other")
    shutil.copy(other.path, copy / "demo-seg.onnx")
    assert main([str(copy), "--runs", "1"]) == 1
    assert "DOES NOT AGREE" in capsys.readouterr().out
    report = json.loads((copy / "report.json").read_text())
    assert report["agreement"] < 0.95 and not report["passed"] and report["tensor_difference"] is None


@pytest.mark.parametrize("damage", ["remove", "cut"])
def test_a_broken_bundle_is_an_error(copy, damage, capsys):
    file = copy / ("bundle.json" if damage == "remove" else "selftest/00.json")
    file.unlink() if damage == "remove" else file.write_text(file.read_text()[:40])
    assert main([str(copy)]) == 2
    assert "error: " in capsys.readouterr().err


def test_install_refuses_what_it_is_not_for(copy):
    file = copy / "install.sh"
    text = file.read_text()
    file.write_text(text.replace("want_machine=x86_64", "want_machine=riscv64"))
    done = install(copy)
    assert done.returncode == 2 and "this bundle is for riscv64, this machine is" in done.stderr
    file.write_text(text.replace(f"want_python={sys.version_info[0]}.{sys.version_info[1]}", "want_python=3.99"))
    done = install(copy)
    assert done.returncode == 2 and "is for Python 3.99" in done.stderr and "--python" in done.stderr
    file.write_text(text)
    assert "there is no nothing-here" in install(copy, PYTHON="nothing-here").stderr
    wheel = next(copy.glob("wheels/edgeseg-*"))
    wheel.write_bytes(wheel.read_bytes()[:-9])
    done = install(copy)
    assert done.returncode == 2 and "missing or damaged" in done.stderr and not (copy / "venv").exists()


def test_without_an_installation_the_scripts_say_so(copy):
    for script in ("run.sh", "selftest.sh"):
        done = subprocess.run(["sh", copy / script], capture_output=True, text=True)
        assert done.returncode == 2 and "sh install.sh" in done.stderr


def test_bad_orders(demo_onnx, tmp_path, own_wheels):
    pc = board_by_name("pc")
    with pytest.raises(EdgesegError, match="runs no bundle"):
        order(demo_onnx, board_by_name("android"))
    with pytest.raises(EdgesegError, match=r"needs Python 3.10"):
        order(demo_onnx, pc, python="3.9")
    with pytest.raises(EdgesegError, match="no version"):
        order(demo_onnx, pc, python="three")
    with pytest.raises(EdgesegError, match="no such file"):
        order(tmp_path / "absent.onnx", pc)
    with pytest.raises(EdgesegError, match="boards run artifacts"):
        order(Path("yolov8n-seg.pt").absolute(), pc) if Path("yolov8n-seg.pt").exists() else order(_touch(tmp_path), pc)
    with pytest.raises(EdgesegError, match="quote"):
        order(demo_onnx, pc, run="--camera 'a b'")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    wish, own = order(demo_onnx, pc), next(own_wheels.glob("edgeseg-*.whl"))
    with pytest.raises(EdgesegError, match="no bundle"):
        compose(wish, tmp_path / "mine", own=own, packages=own_wheels)
    assert (tmp_path / "mine" / "file").read_text() == "x"


def _touch(folder: Path) -> Path:
    (folder / "x.pt").write_bytes(b"x")
    return folder / "x.pt"


def test_a_selftest_without_detections_is_refused(demo_onnx, own_wheels, tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "grey.png"), np.full((64, 64, 3), 114, np.uint8))
    wish = order(demo_onnx, board_by_name("pc"), images=[tmp_path / "grey.png"])
    own = next(own_wheels.glob("edgeseg-*.whl"))
    with pytest.raises(EdgesegError, match="finds nothing in the 1 images"):
        compose(wish, tmp_path / "b", own=own, packages=own_wheels, say=lambda text: None)
    assert not (tmp_path / "b").exists()


def test_an_engines_kit_is_built_on_the_jetson(own_wheels, tmp_path):
    pytest.importorskip("torch")
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions
    from edgeseg.resources import demo_checkpoint

    (kit,) = export(demo_checkpoint(), ["engine"], ExportOptions(imgsz=160), out=tmp_path)
    wish, own = order(kit.path, board_by_name("jetson-orin")), next(own_wheels.glob("edgeseg-*.whl"))
    folder = compose(wish, tmp_path / "bundle", own=own, packages=own_wheels, say=lambda text: None)
    text = (folder / "install.sh").read_text()
    assert "build='demo-seg_engine_kit/build.py'" in text and "! -e 'demo-seg_engine_kit/demo-seg.engine'" in text
    assert (folder / "demo-seg_engine_kit" / "build.py").is_file()
    assert selftest(folder, runs=1)["equal"]  # here the kit stands in for the engine
    assert platform_of(board_by_name("jetson-orin")).python == "3.10"


def test_throttling_in_words():
    assert throttle_words(0) == "no"
    assert throttle_words(0x50005) == "under-voltage now, throttled now"
    assert throttle_words(0x50000) == "under-voltage before, throttled before"


def test_a_tool_that_tells_of_throttling_is_asked(tmp_path, monkeypatch):
    """A script stands in for the Raspberry Pi's vcgencmd, which asks the firmware."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert throttled() is None or shutil.which("vcgencmd")
    for text, words_ in (("throttled=0x50000", "under-voltage before, throttled before"), ("error=1", None)):
        (tmp_path / "vcgencmd").write_text(f"#!/bin/sh\n[ $1 = get_throttled ] && echo {text}\n")
        (tmp_path / "vcgencmd").chmod(0o755)
        assert throttled() == words_


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "b/link"])
def test_an_archive_that_leads_elsewhere_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = (tarfile.SYMTYPE, "/etc") if name == "b/link" else (tarfile.REGTYPE, "")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(EdgesegError, match="has a member"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    (tmp_path / "a.tar.gz").write_bytes(b"no archive")
    with pytest.raises(EdgesegError, match="no bundle"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_pictures_of_the_selftest(demo_onnx, shapes_yaml, tmp_path):
    val = images_for(demo_onnx, str(shapes_yaml))
    assert val is not None and len(val) == 4 and all("val" in p.parts for p in val)
    assert images_for(demo_onnx, str(val[0].parent)) == val
    assert images_for(demo_onnx, None) is None  # the demo's own dataset is not on this machine
    with pytest.raises(EdgesegError):
        images_for(demo_onnx, str(tmp_path))
