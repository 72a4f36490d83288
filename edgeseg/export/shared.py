"""A cache that machines share: entries under a path or in an object store (``EDGESEG_STORE``), the local cache in front.

An entry's files go first, ``entry.json`` last: what was interrupted has none and is never read. What is read is checked by
size and SHA-256 like anything in the cache. A store has no locks: who builds a key says so in a claim, renewed while it
builds, and the others wait for the entry. Two who build the same key all the same write the same entry.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.store import make_folder

VARIABLE = "EDGESEG_STORE"
ENTRY = "entry.json"
BEAT_S, SILENT_S, POLL_S = 10.0, 60.0, 0.5
"""Seconds between two signs of life of a claim; without one, after which it counts for nothing; between two looks."""


class Shared:
    """The shared cache at a place that fsspec knows.

    Args:
        url: ``/mnt/models``, ``s3://bucket/edgeseg``, ...

    Raises:
        EdgesegError: what such a place needs is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            from fsspec.core import url_to_fs

            self.files, self.root = url_to_fs(url)
        except (ImportError, ValueError) as e:
            hint = "Give a folder or a URL such as s3://bucket/edgeseg"
            raise EdgesegError(
                f"{VARIABLE} cannot be used ({str(e).strip() or 'fsspec is missing'})", path=url, hint=hint
            ) from e
        # Listings that are remembered would hide what other machines write.
        self.files.use_listings_cache = False

    def pull(self, key: str, folder: Path) -> bool:
        """Copy the entry of ``key`` into ``folder`` (new), as it lies there: ``entry.json`` and ``data/``. False: none.

        Raises:
            EdgesegError: the store cannot be reached.
        """
        with self._said():
            text = self._read(f"{key}/{ENTRY}")
            if text is None:
                return False
            names = json.loads(text)["files"]
            for name in names:
                place = folder / "data" / name
                if not place.resolve().is_relative_to(folder.resolve()):
                    return False
                make_folder(place.parent)
                try:
                    self.files.get_file(self._at(f"{key}/data/{name}"), str(place))
                except FileNotFoundError:
                    return False
            (folder / ENTRY).write_bytes(text)
        return True

    def push(self, key: str, folder: Path) -> None:
        """Copy an entry of the local cache into the store, unless it is there.

        Raises:
            EdgesegError: the store cannot be reached, or is full.
        """
        with self._said():
            if self._read(f"{key}/{ENTRY}") is not None:
                return
            files = sorted(p for p in (folder / "data").rglob("*") if p.is_file())
            for file in files:
                place = self._at(f"{key}/{file.relative_to(folder).as_posix()}")
                self._folder_of(place)
                part = f"{place}.{uuid.uuid4().hex[:8]}.part"
                self.files.put_file(str(file), part)
                self.files.mv(part, place)
            self._write(f"{key}/{ENTRY}", (folder / ENTRY).read_bytes())

    def drop(self, key: str) -> None:
        """Take an entry away: ``entry.json`` first, so that nobody finds half of it."""
        with contextlib.suppress(OSError, EdgesegError), self._said():
            self.files.rm_file(self._at(f"{key}/{ENTRY}"))
            self.files.rm(self._at(key), recursive=True)

    @contextlib.contextmanager
    def building(self, key: str, stop: Callable[[], bool]) -> Iterator[bool]:
        """Claim a key, or wait while another machine builds it; False: it has its entry now, or ``stop()`` became true."""
        name, me = f"claims/{key}.json", uuid.uuid4().hex
        seen, since = b"", time.monotonic()
        while not self._claim(name, me):
            if stop() or self._read(f"{key}/{ENTRY}") is not None:
                yield False
                return
            now = self._read(name) or b""
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > SILENT_S:
                self._forget(name)
            time.sleep(POLL_S)
        done = threading.Event()
        beats = threading.Thread(target=self._beat, args=(name, me, done), daemon=True, name="edgeseg-claim")
        beats.start()
        try:
            yield self._read(f"{key}/{ENTRY}") is None
        finally:
            done.set()
            beats.join()
            self._forget(name)

    def _claim(self, name: str, me: str) -> bool:
        """Whether the claim is ours now; where a store cannot create exclusively, the last of several writers has it."""
        with self._said():
            self._folder_of(self._at(name))
            try:
                self.files.pipe_file(self._at(name), self._life(me), mode="create")
            except FileExistsError:
                return False
            except OSError as e:
                if "PreconditionFailed" in str(e) or "condition" in str(e):
                    return False
                raise
            found = self._read(name) or b"{}"
            return bool(json.loads(found).get("by") == me)

    def _beat(self, name: str, me: str, done: threading.Event) -> None:
        while not done.wait(BEAT_S):
            with contextlib.suppress(Exception):  # the next beat may reach it
                self.files.pipe_file(self._at(name), self._life(me))

    @staticmethod
    def _life(me: str) -> bytes:
        return json.dumps({"by": me, "beat": uuid.uuid4().hex}).encode()

    def _forget(self, name: str) -> None:
        with contextlib.suppress(OSError):
            self.files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def _folder_of(self, place: str) -> None:
        self.files.makedirs(place.rpartition("/")[0], exist_ok=True)

    def _read(self, name: str) -> bytes | None:
        with self._said():
            try:
                content: bytes = self.files.cat_file(self._at(name))
                return content
            except FileNotFoundError:
                return None

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all, where a store writes piece by piece: under another name first."""
        place = self._at(name)
        part = f"{place}.{uuid.uuid4().hex[:8]}.part"
        self.files.pipe_file(part, content)
        self.files.mv(part, place)

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """Whatever a store's driver raises, in one sentence; what says that a file is (not) there goes through."""
        try:
            yield
        except (FileNotFoundError, FileExistsError, EdgesegError):
            raise
        except Exception as e:
            what = f"the shared cache cannot be used ({type(e).__name__}: {str(e)[:200]})"
            raise EdgesegError(what, path=self.url, hint=f"Check {VARIABLE} and the credentials, or unset it") from e


def shared() -> Shared | None:
    """The store that ``EDGESEG_STORE`` names, None where it is unset."""
    url = os.environ.get(VARIABLE, "").strip()
    return _opened(url) if url else None


@lru_cache(maxsize=2)
def _opened(url: str) -> Shared:
    return Shared(url)


def building(key: str, stop: Callable[[], bool]) -> Any:
    """``Shared.building`` where there is a store; else there is nobody to wait for."""
    store = shared()
    return contextlib.nullcontext(True) if store is None else store.building(key, stop)
