from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgeseg.environments import npm
from edgeseg.errors import EdgesegError

FAKE = """#!/bin/sh
echo "$@" >> "$CALLS"
test -n "$FAIL" && { echo "npm error 404 no such package"; echo "npm error A complete log"; exit 1; }
mkdir -p node_modules/thing && cp package.json node_modules/thing/
mkdir -p .npm/stuff
sleep 0.2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A target's folder with pins, an empty cache, and an npm of our own on the PATH."""
    target = tmp_path / "toy"
    target.mkdir()
    (target / "package.json").write_text('{"dependencies": {"thing": "1.0.0"}}')
    (target / "package-lock.json").write_text('{"lockfileVersion": 3}')
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "npm").write_text(FAKE)
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.delenv("EDGESEG_OFFLINE", raising=False)
    return target


def calls(folder: Path) -> list[str]:
    file = folder.parent / "calls"
    return file.read_text().splitlines() if file.is_file() else []


def test_installed_once_in_the_cache(folder: Path) -> None:
    said: list[str] = []
    assert npm.has_packages(folder) and not npm.is_installed(folder)
    place = npm.ensure(folder, say=said.append)
    assert npm.ensure(folder) == place == npm.place_of(folder) and npm.is_installed(folder)
    assert place.is_relative_to(folder.parent / "home") and (place / "node_modules" / "thing").is_dir()
    assert not (place / ".npm").exists() and said == ["installing the npm packages of toy"]
    (call,) = calls(folder)
    assert call.startswith("ci --ignore-scripts") and "--cache" in call
    assert not list(place.parent.glob("*-part-*"))


def test_other_pins_lie_elsewhere(folder: Path) -> None:
    first = npm.place_of(folder)
    (folder / "package-lock.json").write_text('{"lockfileVersion": 4}')
    assert npm.place_of(folder) != first


def test_several_at_once_install_once(folder: Path) -> None:
    threads = [threading.Thread(target=npm.ensure, args=(folder,)) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert npm.is_installed(folder) and len(calls(folder)) == 1


def test_a_failure_leaves_nothing_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(EdgesegError, match="404 no such package") as caught:
        npm.ensure(folder)
    assert "edgeseg toolchain install toy" in caught.value.hint and Path(str(caught.value.path)).is_file()
    assert not npm.is_installed(folder) and not list(npm.place_of(folder).parent.glob("*-part-*"))
    monkeypatch.delenv("FAIL")
    assert npm.ensure(folder).is_dir()


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_offline_says_what_to_type(folder: Path, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    if by == "variable":
        monkeypatch.setenv("EDGESEG_OFFLINE", "1")
    with pytest.raises(EdgesegError, match="offline") as caught:
        npm.ensure(folder, offline=by == "argument")
    assert "edgeseg toolchain install toy" in caught.value.hint and not calls(folder)


def test_no_npm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder.parent))
    with pytest.raises(EdgesegError, match="npm is needed") as caught:
        npm.ensure(folder)
    assert "Node.js" in caught.value.hint


def test_removed(folder: Path) -> None:
    assert not npm.remove(folder)
    npm.ensure(folder)
    assert npm.remove(folder) and not npm.is_installed(folder) and not npm.remove(folder)


def test_what_a_killed_installation_left_is_cleared(folder: Path) -> None:
    place = npm.place_of(folder)
    left = place.with_name(f"{place.name}-part-dead")
    left.mkdir(parents=True)
    npm.ensure(folder)
    assert not left.exists()


def test_a_folder_without_a_lock_has_no_packages(tmp_path: Path) -> None:
    (tmp_path / "package.json").write_text("{}")
    assert not npm.has_packages(tmp_path)
