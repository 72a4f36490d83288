"""The Dockerfiles: built where Docker runs; elsewhere they are checked, and what their lines do is done without it."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from edgeseg.data.shapes import shapes_image
from edgeseg.model import Model
from edgeseg.resources import demo_checkpoint

ROOT = Path(__file__).resolve().parents[2]
FILES = ("Dockerfile", "Dockerfile.arm64")
Lines = list[tuple[str, str]]


def lines(name: str) -> Lines:
    """Instructions with what follows them."""
    text = re.sub(r"\\\n", " ", (ROOT / "docker" / name).read_text(encoding="utf-8"))
    return [tuple(line.split(None, 1)) for line in text.splitlines() if line and not line.startswith("#")]  # type: ignore[misc]


def ignored(path: str) -> bool:
    """By .dockerignore, whose last line that fits decides."""
    found = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.lstrip("!")
            if pattern == "*" or path == pattern or path.startswith(f"{pattern}/"):
                found = not line.startswith("!")
    return found


@pytest.mark.parametrize("name", FILES)
def test_what_any_linter_would_say(name: str) -> None:
    found = lines(name)
    stages = [rest for word, rest in found if word == "FROM"]
    assert len(stages) == 2 and all(re.match(r"python:3\.\d+-slim-\w+( AS \w+)?$", s) for s in stages)
    words = [word for word, _ in found]
    assert set(words) <= {"FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "ENTRYPOINT", "CMD"}
    last = found[len(words) - words[::-1].index("FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["1000:1000"]
    assert all(isinstance(json.loads(rest), list) for word, rest in last if word in ("ENTRYPOINT", "CMD"))
    for word, rest in found:
        if word == "COPY" and "--from" not in rest:
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists() and not ignored(source), source
        if word == "RUN" and "pip" in rest:
            assert "--no-cache-dir" in rest and ("-c " in rest or "--no-deps" in rest)
    assert ignored(".git") and ignored("tests") and ignored("runs") and ignored("shared/models")
    if shutil.which("hadolint"):
        subprocess.run(["hadolint", str(ROOT / "docker" / name)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_docker_builds_it(name: str) -> None:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker runs here")
    if name.endswith("arm64") != (platform.machine() in ("aarch64", "arm64")):
        pytest.skip(f"{name} is for another machine")
    tag = f"edgeseg-test-{os.getpid()}"
    subprocess.run(["docker", "build", "-q", "-f", f"docker/{name}", "-t", tag, "."], cwd=ROOT, check=True)
    try:
        run = ["docker", "run", "--rm", "--read-only", "--tmpfs", "/tmp", tag, "doctor"]
        assert subprocess.run(run, capture_output=True).returncode in (0, 1)
    finally:
        subprocess.run(["docker", "rmi", "-f", tag], capture_output=True)


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``/wheels`` as the first stage leaves it: its COPY and RUN lines done in a folder."""
    place, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    first = lines("Dockerfile.arm64")
    stage = first[: [w for w, _ in first].index("FROM", 1)]
    assert stage == lines("Dockerfile")[: len(stage)]
    for word, rest in stage:
        if word == "COPY":
            *sources, to = rest.split()
            for source in sources:
                where = place / to / (source if to == "./" else "")
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place / to, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, where)
        elif word == "RUN":
            shell(rest, out, place)
    return out


def shell(line: str, wheels: Path, place: Path, python: str = sys.executable, more: str = "") -> str:
    text = line.replace("python -m pip", f"{shlex.quote(python)} -m pip", 1).replace("/wheels", str(wheels))
    done = subprocess.run(["sh", "-ec", f"{text} {more}"], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install_line(name: str) -> str:
    (line,) = (rest for word, rest in lines(name) if word == "RUN" and "pip install" in rest)
    return line


@pytest.mark.slow
def test_the_workstation_s_pins_fit_each_other(wheels: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "constraints.txt", wheels / "constraints.txt")
    said = shell(install_line("Dockerfile"), wheels, tmp_path, more="--dry-run --ignore-installed --no-deps")
    assert "edgeseg" in said
    # With what it depends on, in an environment that has the pinned versions: nothing else is wanted.
    said = shell(install_line("Dockerfile"), wheels, tmp_path, more="--dry-run --quiet --report report.json")
    wanted = {p["metadata"]["name"] for p in json.loads((tmp_path / "report.json").read_text())["install"]}
    assert wanted <= {"edgeseg"}


@pytest.mark.slow
def test_the_board_s_lines_make_what_predicts(wheels: Path, tmp_path: Path) -> None:
    """Its install line in an environment of its own, on this machine's processor; then its entry point."""
    shutil.copy(ROOT / "docker" / "constraints.arm64.txt", wheels / "constraints.txt")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    python = str(tmp_path / "env" / "bin" / "python")
    shell(install_line("Dockerfile.arm64"), wheels, tmp_path, python)
    listed = json.loads(subprocess.check_output([python, "-m", "pip", "list", "--format", "json"]))
    pins = dict(line.split("==") for line in (wheels / "constraints.txt").read_text().splitlines() if "==" in line)
    same = lambda n: re.sub(r"[-_.]+", "-", n).lower()  # noqa: E731
    have = {same(p["name"]): p["version"] for p in listed}
    assert {same(n): v for n, v in pins.items()}.items() <= have.items()
    assert set(have) - {same(n) for n in pins} == {"edgeseg", "pip", "setuptools"} & set(have)
    model = Model(demo_checkpoint()).export("tflite", imgsz=160, out=tmp_path)
    cv2.imwrite(str(tmp_path / "street.jpg"), shapes_image(3, 160)[0])
    (tmp_path / "work").mkdir()
    command = [
        str(tmp_path / "env" / "bin" / "edgeseg"),
        "predict",
        str(model),
        str(tmp_path / "street.jpg"),
        "--no-save",
        "--json",
    ]
    environment = {"PATH": "/usr/bin:/bin", "EDGESEG_HOME": str(tmp_path / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["count"] == 1 and not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_every_pin_of_the_board_is_there_for_arm64(tmp_path: Path) -> None:
    tags = [w for tag in ("2014", "_2_17", "_2_27", "_2_28") for w in ("--platform", f"manylinux{tag}_aarch64")]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", *tags]
    command += ["--python-version", "3.11", "-d", str(tmp_path), "-r", str(ROOT / "docker" / "constraints.arm64.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Connection" in done.stderr or "NewConnectionError" in done.stderr:
        pytest.skip("no package index here")
    assert done.returncode == 0, done.stderr
    assert all("aarch64" in p.name or "none-any" in p.name for p in tmp_path.iterdir())
