"""What a person who cannot see, point or tell colours apart would meet on a page: Lighthouse's audits, in Chromium.

Lighthouse comes from npm, pinned by ``tests/lighthouse``, into the cache folder (``EDGESEG_HOME``), once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edgeseg.environments import npm
from edgeseg.errors import EdgesegError

_HERE = Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("chromium_for_accessible", _HERE / "targets" / "chromium.py")
assert _spec and _spec.loader
chromium = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = chromium
_spec.loader.exec_module(chromium)

_TIMEOUT_S = 180
_SETTINGS = {
    "onlyCategories": ["accessibility"],
    "onlyAudits": ["errors-in-console"],
    "output": "json",
    # The others wait until nothing has come for five seconds, which only figures of speed need.
    "throttlingMethod": "simulate",
    "maxWaitForLoad": 20_000,
}
_DESKTOP = {"mobile": False, "width": 1350, "height": 940, "deviceScaleFactor": 1, "disabled": False}


def audit(page: Path | str, *, narrow: bool = False, dark: bool = False) -> list[str]:
    """What is wrong with a page: audits of accessibility that fail, each with its places, and errors of the console.

    Args:
        page: an address, a file, or a folder with ``index.html``; files are served on loopback for as long as it takes.
        narrow: on a phone (412 px) in place of a desktop (1350 px).
        dark: with ``prefers-color-scheme: dark``.

    Returns:
        A line a failure, empty for a page that is good. The test is skipped, with a reason, where Chromium, node or
        npm is missing, or Lighthouse cannot be installed.
    """
    lighthouse = _lighthouse()
    with ExitStack() as stack:
        url = page if isinstance(page, str) else _address(page, stack)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = _run(lighthouse, url, folder, narrow, dark)
    if found.get("runtimeError"):
        return [f"Lighthouse: {found['runtimeError']['message']}"]
    return [line for audit in found["audits"].values() for line in _failures(audit)]


def _lighthouse() -> Path:
    if chromium.CHROMIUM is None:
        pytest.skip("needs chromium")
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    try:
        place = npm.ensure(_HERE / "lighthouse", again="Run the tests again with a network")
    except EdgesegError as e:
        pytest.skip(f"Lighthouse cannot be installed: {e}")
    return place / "node_modules" / "lighthouse" / "cli" / "index.js"


def _address(page: Path, stack: ExitStack) -> str:
    file = page / "index.html" if page.is_dir() else page
    assert file.is_file(), file
    return stack.enter_context(chromium.served(file.parent)) + file.name


def _run(lighthouse: Path, url: str, folder: Path, narrow: bool, dark: bool) -> dict[str, Any]:
    flags = [flag for flag in chromium.FLAGS if flag != "--remote-debugging-pipe"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    flags = [f"'{flag}'" if " " in flag else flag for flag in flags]  # chrome-launcher splits them as a shell does
    settings = _SETTINGS | ({} if narrow else {"formFactor": "desktop", "screenEmulation": _DESKTOP})
    config, out = folder / "config.json", folder / "report.json"
    config.write_text(json.dumps({"extends": "lighthouse:default", "settings": settings}), encoding="utf-8")
    command = ["node", str(lighthouse), url, "--quiet", "--no-enable-error-reporting", "--output=json"]
    command += [f"--config-path={config}", f"--output-path={out}", f"--chrome-flags={' '.join(flags)}"]
    environment = os.environ | {"CHROME_PATH": str(shutil.which(str(chromium.CHROMIUM))), "TMPDIR": str(folder), "CI": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
    )
    assert out.is_file(), f"Lighthouse ended with {done.returncode}: {done.stderr[-2000:]}"
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def _failures(audit: dict[str, Any]) -> list[str]:
    if audit["scoreDisplayMode"] == "error":
        return [f"{audit['id']}: {audit.get('errorMessage', 'could not be done')}"]
    if audit["score"] is None or audit["score"] >= 1:
        return []
    items = (audit.get("details") or {}).get("items") or [{}]
    # The browser itself asks for this one.
    items = [i for i in items if not str((i.get("sourceLocation") or {}).get("url", "")).endswith("/favicon.ico")]
    return [f"{audit['id']}: {audit['title']}{_place(item)}" for item in items]


def _place(item: dict[str, Any]) -> str:
    node = item.get("node") or {}
    says = [node.get("selector"), node.get("snippet"), node.get("explanation"), item.get("description")]
    says += [(item.get("sourceLocation") or {}).get("url")]
    text = " | ".join(re.sub(r"\s+", " ", str(part)) for part in says if part)
    return f" | {text}" if text else ""
