"""The cache folder: where it is, and who may write into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeseg import cli, resources
from edgeseg.errors import EdgesegError
from edgeseg.resources import cache_root

pytestmark = pytest.mark.skipif(os.name != "posix", reason="modes and owners of POSIX")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An existing cache folder with a space in its name, not looked at before."""
    folder = tmp_path / "my home"
    folder.mkdir(mode=0o755)
    monkeypatch.setattr(resources, "_private", set())
    monkeypatch.setenv("EDGESEG_HOME", str(folder))
    return folder


def refused() -> str:
    with pytest.raises(EdgesegError) as error:
        cache_root()
    return str(error.value)


def test_where_it_is(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_root() == home
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGESEG_HOME", "my home")
    assert cache_root() == home  # a converter's process has another current folder
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "not" / "there"))
    assert cache_root() == tmp_path / "not" / "there" and not cache_root().exists()


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_others_may_write(home: Path, mode: int, capsys: pytest.CaptureFixture[str]) -> None:
    home.chmod(mode)
    assert "others may write into the cache folder" in refused() and f"chmod -R go-w '{home}', or set" in refused()
    assert cli.run(["toolchain", "list"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert os.system(f"chmod -R go-w '{home}'") == 0
    assert cache_root() == home


def test_others_may_write_one_level_below(home: Path) -> None:
    (home / "toolchains").mkdir()
    (home / "toolchains").chmod(0o777)
    assert "others may write" in refused()


def test_everybody_may_rename_it(home: Path) -> None:
    home.parent.chmod(0o777)
    assert f"everybody may rename what lies in {home.parent}" in refused() and f"chmod o-w {home.parent}" in refused()
    home.rmdir()
    assert "everybody may rename" in refused()  # before it is made there
    home.mkdir()
    for mode in (0o1777, 0o775):  # as /tmp is; a group is often one person's own
        home.parent.chmod(mode)
        resources._private.clear()
        assert cache_root() == home


def test_a_link_is_followed(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to(home)
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "link"))
    home.chmod(0o777)
    assert "others may write" in refused()


def test_somebody_elses(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: real + 4242)
    if real == 0:
        assert cache_root() == home  # of root, who can do everything anyway
        os.chown(home, 4243, -1)
        resources._private.clear()
    assert "belongs to somebody else" in refused() and f"chown -R {real + 4242}" in refused()
