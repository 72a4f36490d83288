import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgeseg import store
from edgeseg.errors import EdgesegError
from edgeseg.export import cache
from edgeseg.export.options import ExportOptions
from edgeseg.hashing import content_hash

FOLDER = """
def convert(job):
    job.output.mkdir()
    (job.output / "a").write_bytes(job.source.read_bytes())
    (job.output / "b").write_text("bbbb")
"""


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def entry_of(result) -> Path:
    return cache.entry_folder(result.key)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: os.truncate(d / "data" / "model.web" / "b", 2), "is truncated"),
        (lambda d: (d / "data" / "model.web" / "b").write_text("bbbc"), "was changed"),
        (lambda d: (d / "data" / "model.web" / "b").write_text("bbbbb"), "was changed"),
        (lambda d: (d / "data" / "model.web" / "b").unlink(), "lost or gained files"),
        (lambda d: (d / "data" / "model.web" / "c").write_text(""), "lost or gained files"),
        (lambda d: (d / "entry.json").unlink(), "cannot be read"),
        (lambda d: (d / "entry.json").write_text('{"schema": 1'), "cannot be read"),
        (lambda d: (d / "entry.json").write_text("[]"), "cannot be read"),
        (lambda d: (d / "entry.json").write_text('{"schema": 0}'), "another version"),
        (lambda d: shutil.rmtree(d / "data"), "lost or gained files"),
        (lambda d: _replace(d / "entry.json", '"artifact": "model.web"', '"artifact": "mode0.web"'), "names another file"),
        (lambda d: _replace(d / "entry.json", '"artifact": "model.web"', '"artifact": 7'), "names another file"),
    ],
)
def test_a_damaged_entry_is_noticed_dropped_and_made_again(toys, damage, words) -> None:
    toys.add("web", FOLDER)
    (first,) = toys.export("web")
    damage(entry_of(first))
    (second,) = toys.export("web")
    assert second.ok and not second.cached and words in toys.said() and str(entry_of(first)) in toys.said()
    (third,) = toys.export("web")
    assert third.cached and toys.said() == "" and (third.path / "b").read_text() == "bbbb"
    assert toys.hidden() == []


def test_a_damaged_intermediate_is_made_again_only_when_it_is_needed(toys) -> None:
    toys.counting("first")
    toys.counting("second", reads=["first"])
    (first, _) = toys.export("first", "second")
    os.truncate(entry_of(first) / "data" / "model.first", 1)
    assert toys.export("second")[0].cached
    toys.counting("third", reads=["first"])
    assert toys.export("third")[0].path.read_bytes() == b"weights|first|third"
    assert toys.runs == ["first", "second", "first", "third"]


def test_whatever_decides_the_content_is_in_the_key(toys, monkeypatch) -> None:
    toys.counting("toy", options=["imgsz", "batch", "opset", "head", "half"], precisions=["fp32", "fp16"])
    toys.counting("next", reads=["toy"])
    keys = set()

    def fresh(*formats: str, **options) -> None:
        for result in toys.export(*(formats or ("toy",)), options=ExportOptions.of(**options)):
            assert not result.cached and result.key not in keys
            keys.add(result.key)

    fresh()
    for options in ({"imgsz": 320}, {"batch": 2}, {"opset": 17}, {"head": "decoded"}, {"half": True}):
        fresh(**options)
    fresh("next")
    with open(toys.root / "toy" / "convert.py", "a") as f:
        f.write("# another line\n")
    fresh("toy", "next")
    (toys.root / "toy" / "toolchain.txt").write_text("packaging>=1\n")
    fresh("toy", "next")
    toys.model.write_bytes(b"trained longer")
    fresh("toy", "next")
    monkeypatch.setattr(cache, "core_hash", lambda quantized: "edited")
    fresh("toy", "next")
    # What has no part in the conversion has none in the key; nor has the model's name or place.
    (toys.root / "toy" / "runtime.py").write_text("x = 1\n")
    shutil.copy(toys.model, toys.root / "copy.pt")
    assert all(r.cached for r in toys.export("toy", "next"))
    toys.model = toys.root / "copy.pt"
    assert all(r.cached for r in toys.export("toy", "next"))


def test_rebuild_takes_nothing_from_the_cache(toys) -> None:
    toys.counting("first")
    toys.counting("second", reads=["first"])
    toys.export("second")
    assert not toys.export("second", rebuild=True)[0].cached
    assert toys.runs == ["first", "second"] * 2
    assert toys.export("second")[0].cached


def test_prune_removes_what_was_used_longest_ago(toys, monkeypatch) -> None:
    names = ["a", "b", "c"]
    for i, name in enumerate(names):
        toys.add(name, "def convert(job):\n    job.output.write_bytes(bytes(100_000))\n")
        (result,) = toys.export(name)
        then = time.time() - 10_000 + i
        os.utime(entry_of(result) / "entry.json", (then, then))
    toys.export("a")
    assert len(cache.usage()) == 3 and cache.prune() == 0
    freed = cache.prune(250_000)
    assert 100_000 <= freed < 110_000
    assert [toys.export(n)[0].cached for n in ("a", "c", "b")] == [True, True, False]
    # Entries in use stay, whatever the limit.
    assert cache.prune(0) == 0
    with store.lock(f"key-{cache.usage()[0][0]}"):
        cache.prune(0, in_use_s=-1)
        assert len(cache.usage()) == 1
    monkeypatch.setenv("EDGESEG_CACHE_GB", "lots")
    with pytest.raises(EdgesegError, match="EDGESEG_CACHE_GB"):
        cache.prune()


def test_a_full_disk_at_the_artifacts_place(toys, monkeypatch) -> None:
    toys.add("toy")
    (old,) = toys.export("toy")
    before = old.path.read_bytes()

    def full(source, place, _):
        place.write(b"half")
        raise OSError(28, "No space left on device", place.name)

    monkeypatch.setattr(store.shutil, "copyfileobj", full)
    (result,) = toys.export("toy")
    assert "the disk is full, nothing was written" in str(result.error) and "--out" in str(result.error)
    assert old.path.read_bytes() == before and toys.hidden() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
def test_a_disk_that_is_full_from_the_start(toys) -> None:
    """No file may grow beyond 20 kB: the worker's artifact does not fit, and nothing is left of it anywhere."""
    toys.add("big", "def convert(job):\n    job.output.write_bytes(bytes(100_000))\n")
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from edgeseg.export.api import export\n"
        f"r, = export({str(toys.model)!r}, ['big'])\nprint(r.error)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert "the disk is full, nothing was written" in done.stdout
    assert toys.hidden() == [] and cache.usage() == []
    assert toys.export("big")[0].ok


def test_a_cache_that_cannot_be_created(toys, monkeypatch) -> None:
    toys.add("toy")
    (toys.root / "file").write_text("")
    monkeypatch.setenv("EDGESEG_HOME", str(toys.root / "file" / "home"))
    with pytest.raises(EdgesegError, match="file"):
        toys.export("toy")


def test_hashes_are_remembered_by_size_and_time(toys, tmp_path) -> None:
    file = tmp_path / "w"
    file.write_bytes(b"one")
    first = content_hash(file)
    assert not (toys.home / "hashes").exists(), "a file of this very moment may change within a tick of its clock"
    os.utime(file, (1, 1))
    assert content_hash(file) == first
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    assert content_hash(file) != first


def test_the_hash_of_a_folder_sees_names_and_contents(toys, tmp_path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "a").write_text("1")
    seen = {content_hash(tmp_path / "d")}
    (tmp_path / "d" / "e" / "b").write_text("1")
    seen.add(content_hash(tmp_path / "d"))
    (tmp_path / "d" / "e" / "b").rename(tmp_path / "d" / "e" / "c")
    seen.add(content_hash(tmp_path / "d"))
    assert len(seen) == 3
    with pytest.raises(EdgesegError, match="cannot be read"):
        content_hash(tmp_path / "absent")


def test_locks_across_threads_and_stop(toys) -> None:
    with store.lock("x") as held:
        assert held
        with store.lock("x", wait=False) as second:
            assert not second
        with store.lock("x", stop=lambda: True) as third:
            assert not third
        with store.lock("y", wait=False) as other:
            assert other
    with store.lock("x", wait=False) as again:
        assert again
