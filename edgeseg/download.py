"""Files from the network: resumed where they broke off, checked by SHA-256, and in place only when complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any

from edgeseg.errors import EdgesegError, printable
from edgeseg.kernel import wait_for_lock
from edgeseg.progress import progress
from edgeseg.resources import cache_root
from edgeseg.store import make_folder

WEIGHTS_URL = "https://github.com/ultralytics/assets/releases/download"
RELEASES = {"yolov8": "v8.3.0", "yolo11": "v8.3.0", "yolo26": "v8.4.0"}
"""The public release that has the weights, by the word that their names begin with."""
TIMEOUT_S = 30.0
_ATTEMPTS = 4
_CHUNK = 1 << 18
_HEX = re.compile(r"[0-9a-f]{64}")


class _Broken(Exception):
    """The connection failed or ended early; what has arrived stays for the next attempt."""


def fetch_weights(name: str) -> Path:
    """The public weights called ``name`` (``yolov8n-seg.pt``): from the working folder, the cache, or the public release.

    ``EDGESEG_WEIGHTS_URL`` replaces the address of the release (the name is appended), ``EDGESEG_WEIGHTS_SHA256`` is the
    digest that the file must have.

    Raises:
        EdgesegError: offline, not found, or another digest than expected; says where to put the file by hand.
    """
    here, cached = Path(name), cache_root() / "weights" / name
    for path in (here, cached):
        if path.is_file():
            return path
    release = next((tag for family, tag in RELEASES.items() if name.startswith(family)), RELEASES["yolov8"])
    base = os.environ.get("EDGESEG_WEIGHTS_URL") or f"{WEIGHTS_URL}/{release}"
    sha256 = os.environ.get("EDGESEG_WEIGHTS_SHA256") or None
    return download(f"{base.rstrip('/')}/{name}", cached, sha256=sha256, label=name)


def download(url: str, path: str | Path, sha256: str | None = None, label: str = "") -> Path:
    """Fetch ``url`` into ``path`` once; a file that is there already is returned as it is.

    A broken transfer leaves ``<path>.part``, which the next call continues (HTTP Range, guarded by the server's ETag or
    date). The digest is compared with ``sha256``, else with ``<path>.sha256`` beside the file; where neither exists, the
    digest of this first download is recorded there, and said.

    Args:
        url: http or https. path: the file to make; missing folders are made.
        sha256: expected digest, 64 hexadecimal digits.
        label: what the progress bar says, by default the file's name.

    Raises:
        EdgesegError: offline, refused by the server, wrong digest, disk full; says where to put the file by hand.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not url.lower().startswith(("http://", "https://")):
        raise EdgesegError(f"no http or https address: {url}", path=path)
    expected = _expected(path, sha256)
    part = path.with_name(path.name + ".part")
    try:
        make_folder(path.parent)
        with part.open("a+b") as file:
            wait_for_lock(file.fileno())  # one process at a time writes the part; closing it gives the lock back
            if path.is_file():  # another process was faster
                return path
            _fetch(url, path, file, label or path.name)
            digest = _digest(file)
            if expected is not None and digest != expected:
                _forget(part)
                raise EdgesegError(f"{url} has the SHA-256 {digest}, expected {expected}; deleted", hint=_by_hand(path))
            if os.name == "nt":  # there an open file cannot be renamed
                file.close()
            os.replace(part, path)
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            _forget(part)
            raise EdgesegError(
                "the disk is full; what had arrived is deleted",
                path=path,
                hint="Free some space, or set EDGESEG_HOME to another disk",
            ) from e
        raise EdgesegError(f"cannot be written ({e.strerror or e})", path=path, hint="Check the folder's permissions") from e
    finally:
        with contextlib.suppress(OSError):  # nothing arrived: leave nothing
            if not part.stat().st_size:
                _forget(part)
    _tag(part).unlink(missing_ok=True)
    if expected is None:
        _record(path, digest)
    return path


def _expected(path: Path, sha256: str | None) -> str | None:
    beside = _beside(path)
    if sha256 is None and beside.is_file():
        words = beside.read_text(encoding="utf-8", errors="replace").split()
        if not words or not _HEX.fullmatch(words[0].lower()):
            raise EdgesegError("holds no SHA-256", path=beside, hint="Delete it, or write the file's digest into it")
        sha256 = words[0]
    if sha256 is None:
        return None
    if not _HEX.fullmatch(sha256.lower()):
        raise EdgesegError(f"{sha256!r} is no SHA-256 (64 hexadecimal digits)", path=path)
    return sha256.lower()


def _fetch(url: str, path: Path, file: IO[bytes], label: str) -> None:
    """Bring ``file`` (the ``.part``) to completion, over as many connections as that takes."""
    for attempt in range(_ATTEMPTS):
        try:
            _transfer(url, path, file, label)
            return
        except urllib.error.HTTPError as e:
            if e.code == 416:  # the part is longer than the file: another version of it
                file.truncate(0)
            elif e.code < 500 and e.code != 429:
                raise EdgesegError(f"{url} answers {e.code} {e.reason}", hint=_by_hand(path)) from e
            reason = f"answers {e.code} {e.reason}"
        except _Broken as e:
            reason = f"cannot be reached ({e})"
        if attempt < _ATTEMPTS - 1:
            time.sleep(_pause(attempt))
    raise EdgesegError(f"{url} {reason}", hint=_by_hand(path))


def _pause(attempt: int) -> float:
    return 0.5 * 2.0**attempt


def _transfer(url: str, path: Path, file: IO[bytes], label: str) -> None:
    have = file.seek(0, os.SEEK_END)
    tag = _tag(Path(file.name))
    validator = tag.read_text(encoding="utf-8") if tag.is_file() else ""
    headers = {"User-Agent": "edgeseg", "Accept-Encoding": "identity"}
    if have and validator:
        headers.update({"Range": f"bytes={have}-", "If-Range": validator})
    with _open(url, headers) as answer:
        resumed = answer.status == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if not resumed:
            if answer.status == 206:
                raise _Broken("it sent another range than asked for")
            file.truncate(0)
            have = 0
            tag.write_text(_validator(answer.headers), encoding="utf-8")
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if total is not None and shutil.disk_usage(path.parent).free < total - have:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with progress(label, total, have, lambda n: f"{n / 1e6:.1f} MB") as job:
            while chunk := _receive(answer):
                file.write(chunk)
                job.advance(len(chunk))
                have += len(chunk)
        file.flush()
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have} of {total} bytes")
    os.fsync(file.fileno())


def _open(url: str, headers: dict[str, str]) -> Any:
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as e:
        raise _Broken(str(getattr(e, "reason", e)) or type(e).__name__) from e


def _receive(answer: Any) -> bytes:
    try:
        data: bytes = answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as e:
        raise _Broken(str(e) or type(e).__name__) from e
    return data


def _validator(headers: Any) -> str:
    """What guards a resumed transfer: a strong ETag, else the date; without one the next attempt starts over."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _digest(file: IO[bytes]) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


def _record(path: Path, digest: str) -> None:
    with contextlib.suppress(OSError):
        _beside(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    said = f"no SHA-256 to compare with; this first download's ({digest[:16]}...) is kept in {_beside(path)}"
    print(printable(f"{path.name}: {said}"), file=sys.stderr, flush=True)


def _beside(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)


def _by_hand(path: Path) -> str:
    return f"Without a connection, fetch that elsewhere and put it here: {path.absolute()}"
