"""The shared cache: entries whole or not at all, one builder a key, damage noticed."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export import cache, shared
from edgeseg.export.shared import ENTRY, Shared
from edgeseg.resources import cache_root
from edgeseg.store import make_folder

KEY = "ab" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shared:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(shared.VARIABLE, str(tmp_path / "store"))
    found = shared.shared()
    assert found is not None
    return found


def made(text: str = "artifact") -> cache.Entry:
    """An entry in the local cache, and so in the shared one."""
    data = make_folder(cache_root() / "work" / "test" / "data")
    (make_folder(data / "model_folder") / "weights.bin").write_text(text)
    return cache.write(KEY, data, "model_folder", notes=("a note",))


def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another machine: another cache folder, the same store."""
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "other"))


def test_an_entry_of_one_machine_is_one_of_the_other(store: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = made()
    elsewhere(monkeypatch, tmp_path)
    found, problem = cache.read(KEY)
    assert found == first and not problem
    assert (found.path / "weights.bin").read_text() == "artifact" and found.notes == ("a note",)
    assert found.path.is_relative_to(tmp_path / "other")


def test_what_was_interrupted_is_never_read(store: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made()
    (tmp_path / "store" / KEY / ENTRY).unlink()  # it goes last: without it the upload was cut off
    elsewhere(monkeypatch, tmp_path)
    assert cache.read(KEY) == (None, "")


def test_a_file_that_is_missing_there_is_no_entry(store: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made()
    (tmp_path / "store" / KEY / "data" / "model_folder" / "weights.bin").unlink()
    elsewhere(monkeypatch, tmp_path)
    assert cache.read(KEY) == (None, "")
    assert not cache.entry_folder(KEY).exists()


def test_damage_is_noticed_and_taken_out(store: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made()
    (tmp_path / "store" / KEY / "data" / "model_folder" / "weights.bin").write_text("Artifact")
    elsewhere(monkeypatch, tmp_path)
    found, problem = cache.read(KEY)
    assert found is None and "was changed" in problem
    assert not (tmp_path / "store" / KEY / ENTRY).exists()


def test_names_that_lead_out_are_refused(store: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made()
    file = tmp_path / "store" / KEY / ENTRY
    values = json.loads(file.read_text())
    values["files"] = {"../../../escaped": [1, "0"]}
    file.write_text(json.dumps(values))
    elsewhere(monkeypatch, tmp_path)
    assert cache.read(KEY)[0] is None
    assert not list(tmp_path.rglob("escaped"))


def test_two_machines_build_a_key_once(store: Shared) -> None:
    order: list[str] = []
    building = threading.Event()

    def first() -> None:
        with store.building(KEY, lambda: False) as ours:
            assert ours
            building.set()
            time.sleep(0.3)
            made()
            order.append("built")

    thread = threading.Thread(target=first)
    thread.start()
    assert building.wait(5)
    with store.building(KEY, lambda: False) as ours:
        order.append("waited")
        assert not ours
    thread.join()
    assert order == ["built", "waited"]
    with store.building(KEY, lambda: False) as ours:
        assert not ours  # it is there


def test_a_claim_whose_machine_fell_silent_counts_for_nothing(store: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "SILENT_S", 0.2)
    monkeypatch.setattr(shared, "POLL_S", 0.02)
    assert store._claim(f"claims/{KEY}.json", "a dead one")
    with store.building(KEY, lambda: False) as ours:
        assert ours
    assert store._read(f"claims/{KEY}.json") is None


def test_who_waits_can_be_stopped(store: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "POLL_S", 0.02)
    assert store._claim(f"claims/{KEY}.json", "another")
    with store.building(KEY, lambda: True) as ours:
        assert not ours


def test_a_store_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path))
    monkeypatch.setenv(shared.VARIABLE, "nosuchthing://bucket/x")
    with pytest.raises(EdgesegError, match="EDGESEG_STORE cannot be used"):
        cache.read(KEY)


def test_without_the_variable_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(shared.VARIABLE, raising=False)
    assert shared.shared() is None
    with shared.building(KEY, lambda: False) as ours:
        assert ours
