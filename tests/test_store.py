"""Files that are written whole or not at all, locks, and what is left where a run was killed."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeseg import kernel, store
from edgeseg.errors import EdgesegError

KILL9 = Path(__file__).resolve().parents[1] / "scripts" / "kill9.py"
posix = pytest.mark.skipif(os.name != "posix", reason="signals and locks of POSIX")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != "home")


def test_writing_replaces_or_leaves_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    store.write_atomically(file, "één")
    assert file.read_bytes() == "één".encode()
    with pytest.raises(KeyError), store.writing(file) as f:
        f.write(b"half")
        assert names(tmp_path)[0].startswith(".a.txt.") and file.read_text() == "één"
        raise KeyError
    with store.writing(file, durable=True) as f:
        f.write(b"new")
        f.seek(0)
        assert f.read() == b"new"
    assert file.read_bytes() == b"new" and names(tmp_path) == ["a.txt"]
    with pytest.raises(OSError), store.writing(tmp_path / "nowhere" / "x"):
        pass
    umask = os.umask(0o027)
    try:
        store.write_atomically(tmp_path / "b", "")
    finally:
        os.umask(umask)
    assert os.name == "nt" or (tmp_path / "b").stat().st_mode & 0o777 == 0o640


def filled(folder: Path, content: str) -> None:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "deep" / "a").write_text(content)


@pytest.mark.parametrize("swap", [True, False], ids=["exchanged", "two steps"])
def test_making_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swap: bool) -> None:
    if not swap:
        monkeypatch.setattr(store, "exchange", lambda a, b: False)
    place = tmp_path / "m"
    for content in ("one", "two"):
        with store.making(place, durable=True) as part:
            filled(part, content)
        assert (place / "deep" / "a").read_text() == content
    with pytest.raises(KeyError), store.making(place) as part:
        filled(part, "half")
        raise KeyError
    assert (place / "deep" / "a").read_text() == "two" and names(tmp_path) == ["m"]


def test_a_replacement_that_fails_half_way_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two names cannot be exchanged, and the second rename fails, or Ctrl-C comes between the two."""
    filled(tmp_path / "new", "new")
    filled(tmp_path / "m", "old")
    real = os.rename
    monkeypatch.setattr(store, "exchange", lambda a, b: False)
    for error in (OSError(errno.EIO, "broken"), KeyboardInterrupt()):

        def rename(a: Path, b: Path, error: BaseException = error) -> None:
            if str(a).endswith(".part"):
                raise error
            real(a, b)

        monkeypatch.setattr(os, "rename", rename)
        with pytest.raises((EdgesegError, KeyboardInterrupt)):
            store.put(tmp_path / "new", tmp_path / "m")
        assert (tmp_path / "m" / "deep" / "a").read_text() == "old" and names(tmp_path) == ["m", "new"]


def test_put_does_not_mix_files_and_folders(tmp_path: Path) -> None:
    filled(tmp_path / "folder", "x")
    (tmp_path / "file").write_text("y")
    with pytest.raises(EdgesegError, match="a folder is where the file must go"):
        store.put(tmp_path / "file", tmp_path / "folder")
    with pytest.raises(EdgesegError, match="a file is where the folder must go"):
        store.put(tmp_path / "folder", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "y" and (tmp_path / "folder" / "deep" / "a").read_text() == "x"


def test_the_sweep_takes_only_what_is_ours_and_dead(tmp_path: Path) -> None:
    place = tmp_path / "net.onnx"
    kept = [".net.onnx", ".x.part", ".net.onnx.ABCDEF01.part", "net.onnx.0123abcd.part", ".v.download.part", "film.part"]
    for name in kept:
        (tmp_path / name).write_text("")
    with store.writing(place) as f:
        live = names(tmp_path)
        (tmp_path / ".net.onnx.0123abcd.part").write_text("dead")
        filled(tmp_path / ".web.0123abcd.part", "dead")
        swept = store.sweep_folder(tmp_path)
        assert sorted(p.name for p in swept) == [".net.onnx.0123abcd.part", ".web.0123abcd.part"]
        assert names(tmp_path) == live
        f.write(b"whole")
    assert names(tmp_path) == sorted([*kept, "net.onnx"]) and place.read_bytes() == b"whole"
    assert store.sweep_folder(tmp_path / "absent") == []


def test_an_old_folder_gets_its_name_back(tmp_path: Path) -> None:
    """What runs left that were killed between two renames; also where the other hidden folder has another number."""
    filled(tmp_path / ".a.0123abcd.old", "old")
    filled(tmp_path / ".a.0123abcd.part", "new")  # complete, or the old one would not have stepped aside
    filled(tmp_path / ".b.0123abcd.old", "old")
    filled(tmp_path / ".b.89abcdef.part", "half")
    filled(tmp_path / ".c.0123abcd.old", "old")
    filled(tmp_path / "c", "new")
    assert store.recover(tmp_path / "a") and store.recover(tmp_path / "b") and store.recover(tmp_path / "c")
    store.sweep_folder(tmp_path)
    assert [(tmp_path / n / "deep" / "a").read_text() for n in "abc"] == ["new", "old", "new"]
    assert names(tmp_path) == ["a", "b", "c"] and not store.recover(tmp_path / "d")


def test_opening_brings_an_artifact_back(tmp_path: Path) -> None:
    from edgeseg.running.open import open_model

    filled(tmp_path / ".x_openvino_model.0123abcd.old", "old")
    with pytest.raises(EdgesegError) as error:
        open_model(tmp_path / "x_openvino_model")
    assert "no such file" not in str(error.value) and names(tmp_path) == ["x_openvino_model"]


def test_a_lock_is_gone_when_it_is_given_back(home: Path) -> None:
    with store.lock("a") as held, store.lock("b", wait=False) as other:
        assert held and other and names(home / "locks") == ["a.lock", "b.lock"]
    assert names(home / "locks") == []


@posix
def test_a_lock_across_processes_and_unlinking(tmp_path: Path) -> None:
    """Twelve processes add to a counter 20 times each, with nothing but the lock between reading and writing."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    script = (
        "from edgeseg.store import lock\nfrom pathlib import Path\n"
        f"file = Path({str(counter)!r})\n"
        "for _ in range(20):\n    with lock('count'):\n        file.write_text(str(int(file.read_text()) + 1))\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(12)]
    assert [p.wait(120) for p in running] == [0] * 12 and counter.read_text() == "240"


def test_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits; only what nobody wrote to for a day counts as left behind."""
    for module in (store, kernel):
        monkeypatch.setattr(module, "try_lock", lambda fd: None)
    with store.lock("x") as held, store.lock("x", wait=False) as second:
        assert held and not second
    new, old = tmp_path / ".a.0123abcd.part", tmp_path / ".a.89abcdef.part"
    new.write_text("")
    old.write_text("")
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    assert store.sweep_folder(tmp_path) == [old] and names(tmp_path) == [new.name]
    store.write_atomically(tmp_path / "b", "b")
    assert (tmp_path / "b").read_text() == "b"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2")
def test_an_exchange_that_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kernel.exchange(tmp_path / "a", tmp_path / "b")


def test_folders_of_the_cache_are_their_owners_alone(home: Path, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        store.make_folder(home / "a" / "b")
        store.make_folder(tmp_path / "mine" / "c")
    finally:
        os.umask(umask)
    if os.name == "posix":
        assert [p.stat().st_mode & 0o777 for p in (home, home / "a", home / "a" / "b")] == [0o700] * 3
        assert (tmp_path / "mine" / "c").stat().st_mode & 0o777 == 0o777
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgesegError, match="file"):
        store.make_folder(tmp_path / "file" / "x")


def kill9(*words: str) -> None:
    done = subprocess.run([sys.executable, str(KILL9), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fine" in done.stdout


@posix
@pytest.mark.parametrize("name", ["file, new", "file, replaced", "folder with notes", "folder in two steps", "dataset"])
def test_kill_9_at_every_operation(name: str) -> None:
    """Nothing visible is incomplete, nothing is missing, the next run leaves nothing behind."""
    kill9(name)


@posix
def test_kill_9_while_a_checkpoint_is_written() -> None:
    pytest.importorskip("torch")
    kill9("checkpoint")


@posix
@pytest.mark.slow
def test_kill_9_a_hundred_times_at_random() -> None:
    kill9("--random", "100")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["folder, new", "folder, replaced", "export", "export anew"])
def test_kill_9_at_every_operation_of_an_export(name: str) -> None:
    kill9(name)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"abc")
    assert store.read_bounded(file, 3) == b"abc"
    with pytest.raises(EdgesegError, match=r"f: 0\.0 MB are too much.*do this"):
        store.read_bounded(file, 2, "do this")
    with open(file, "wb") as f:
        f.truncate(1 << 40)  # of which the disk holds nothing
    with pytest.raises(EdgesegError, match=r"1099511\.6 MB"):
        store.read_bounded(file, 1 << 30)
    with pytest.raises(EdgesegError, match="no file"):
        store.read_bounded(tmp_path, 3)
    with pytest.raises(FileNotFoundError):
        store.read_bounded(tmp_path / "none", 3)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc, a folder in which nothing can be made")
def test_a_folder_that_takes_no_file_is_an_error_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError):
        store.write_atomically(Path("/proc/edgeseg.txt"), "x")
    with pytest.raises(EdgesegError) as error:
        store.make_folder(Path("/proc/edgeseg"))
    assert error.value.hint == "Name another folder: --out FOLDER"
    monkeypatch.setenv("EDGESEG_HOME", "/proc/edgeseg")
    with pytest.raises(EdgesegError) as error:
        store.make_folder(Path("/proc/edgeseg/logs"))
    assert error.value.hint == "Name another cache folder: EDGESEG_HOME=FOLDER"
