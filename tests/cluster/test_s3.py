"""The shared cache in an object store: a real S3 server (moto's) and the client that people install (s3fs)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import edgeseg.demo
from edgeseg.resources import PACKAGE

pytestmark = pytest.mark.slow
DEMO = Path(edgeseg.demo.__path__[0]) / "demo-seg.pt"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Client and server beside the environment: they pin other versions of what it has."""
    folder = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "s3fs", "moto[s3]", "flask", "flask-cors"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no S3 server can be installed here: {done.stderr.strip().splitlines()[-1][:200]}")
    return folder


@pytest.fixture
def bucket(site: Path, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine that uses ``s3://models/cache``."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(site), str(PACKAGE.parent)))}
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    log = open(tmp_path / "server.log", "w+")  # noqa: SIM115
    command = [sys.executable, "-m", "moto.server", "-p", "0"]
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        environment["AWS_ENDPOINT_URL"] = _address(tmp_path / "server.log")
        make = "import s3fs; s3fs.S3FileSystem().mkdir('models')"
        subprocess.run([sys.executable, "-c", make], env=environment, check=True)
        yield {**environment, "EDGESEG_STORE": "s3://models/cache", "SOURCE_DATE_EPOCH": "1700000000"}
    finally:
        server.kill()
        server.wait()
        log.close()


def _address(log: Path) -> str:
    for _ in range(300):
        for line in log.read_text().splitlines():
            if "Running on http" in line:
                return line.split()[-1]
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def export(bucket: dict[str, str], home: Path) -> dict:
    words = ["export", str(DEMO), "--format", "onnx", "--imgsz", "64", "--out", str(home / "out"), "--json", "-"]
    environment = {**bucket, "EDGESEG_HOME": str(home)}
    done = subprocess.run([sys.executable, "-m", "edgeseg", *words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["exports"][0]


def files(bucket: dict[str, str]) -> list[str]:
    code = "import s3fs; print(*s3fs.S3FileSystem().find('models/cache'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], env=bucket, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_two_machines_and_a_bucket(bucket: dict[str, str], tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool:  # both want the same step at once
        first, second = pool.map(export, [bucket] * 2, [tmp_path / "one", tmp_path / "two"])
    assert sorted((first["cached"], second["cached"])) == [False, True]
    artifacts = [(tmp_path / home / "out" / "demo-seg.onnx").read_bytes() for home in ("one", "two")]
    assert artifacts[0] == artifacts[1]
    left = files(bucket)
    assert [f.rpartition("/")[2] for f in left] == ["model.onnx", "entry.json"] and not any("claims" in f for f in left)

    code = f"import s3fs; s3fs.S3FileSystem().rm('{next(f for f in left if f.endswith('entry.json'))}')"
    subprocess.run([sys.executable, "-c", code], env=bucket, check=True)  # as if the upload had been cut off
    third = export(bucket, tmp_path / "three")
    assert not third["cached"] and third["key"] == first["key"]
    assert len(files(bucket)) == 2
