"""edgeseg's wheel made again from what is installed, and the packages of another platform."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from edgeseg.boards import board_by_name
from edgeseg.errors import EdgesegError
from edgeseg.fleet.wheels import Platform, gather, lock, platform_of, wheel_again


@pytest.fixture(scope="module")
def installed(own_wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    wheel = next(own_wheels.glob("edgeseg-*.whl"))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", folder, wheel]
    subprocess.run(pip, check=True)
    return folder


def distribution_in(folder: Path) -> Distribution:
    return Distribution.at(next(folder.glob("edgeseg-*.dist-info")))


def test_the_wheel_of_what_is_installed_is_the_one_that_was_installed(own_wheels, installed, tmp_path):
    first = next(own_wheels.glob("edgeseg-*.whl"))
    second = wheel_again(distribution_in(installed), tmp_path)
    assert second.name == first.name
    with zipfile.ZipFile(first) as a, zipfile.ZipFile(second) as b:
        assert set(a.namelist()) == set(b.namelist()) and len(b.namelist()) > 200
        assert all(a.read(n) == b.read(n) for n in a.namelist() if not n.endswith("/RECORD"))
        records = [sorted(z.read(next(n for n in z.namelist() if n.endswith("/RECORD"))).splitlines()) for z in (a, b)]
        assert records[0] == records[1]
    assert wheel_again(distribution_in(installed), tmp_path).read_bytes() == second.read_bytes()


def test_an_installed_file_that_was_changed_is_not_passed_on(installed, tmp_path):
    file = installed / "edgeseg" / "boards.py"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"\n")
        with pytest.raises(EdgesegError, match="changed after it was installed"):
            wheel_again(distribution_in(installed), tmp_path)
    finally:
        file.write_bytes(before)


def test_wheels_for_a_board_are_those_of_its_c_library():
    words = platform_of(board_by_name("jetson-orin")).options()
    assert "manylinux_2_35_aarch64" in words and "manylinux_2_36_aarch64" not in words and "cp310" in words
    assert "--only-binary=:all:" in words and Platform("x86_64", "3.13", 28).markers()["python_version"] == "3.13"


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_the_packages_are_those_of_the_board_not_of_this_machine(own_wheels, tmp_path, python):
    own = next(own_wheels.glob("edgeseg-*.whl"))
    try:
        gather(tmp_path, own, ["tflite"], platform_of(board_by_name("pi5"), python))
    except EdgesegError as e:
        pytest.skip(f"no packages to be had here: {e}")
    lines = lock(tmp_path, ["tflite"]).splitlines()
    found = {s.split("==")[0]: s for s in lines}
    assert ("tomli" in found) == (python == "3.10")  # asked for by Python below 3.11 alone
    assert {"edgeseg[tflite]", "numpy", "opencv-python-headless", "pyyaml", "pip", "ai-edge-litert"} <= set(found)
    tags = f"cp{python.replace('.', '')}|abi3"
    for wheel in tmp_path.glob("*.whl"):
        assert wheel.name.endswith("-none-any.whl") or re.search(rf"({tags})-.*aarch64\.whl$", wheel.name), wheel.name
    # What edgeseg asks of 64-bit ARM alone holds too, though this machine may be none.
    version = re.match(r"numpy==(\d+)\.(\d+)", found["numpy"])
    assert version is not None and (int(version[1]), int(version[2])) < (2, 2)
