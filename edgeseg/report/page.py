"""One self-contained HTML page: its figures as JSON, its looks and its code from ``assets``, nothing from elsewhere.

The page may load nothing and run nothing but what is written here: its policy names the hashes of its one style and its one
script. Words of strangers (names of files, classes, models) are JSON in which no tag can end, and become text on the page.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import platform
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from edgeseg import __version__
from edgeseg.store import disk_error, make_folder, write_atomically

ASSETS = Path(__file__).with_name("assets")
STYLES = ("page.css", "viewer.css")
SCRIPTS = ("page.js", "plot.js", "charts.js", "viewer.js")
Section = Mapping[str, Any]
Facts = Sequence[tuple[str, object]]


def write_page(path: Path, title: str, about: Facts, sections: Sequence[Section], *, note: str = "") -> Path:
    """Write a page; a file that exists is replaced.

    Args:
        about: names and values above everything else.
        sections: in this order; each has a ``kind`` (``table``, ``plot``, ``confusion``, ``curves``, ``viewer``, ``choice``)
            and what that kind wants (see ``edgeseg.report.sections`` and ``assets``), on request ``title`` and ``note``.
        note: what is to be known of all figures.

    Raises:
        EdgesegError: the file cannot be written.
    """
    make_folder(path.parent)
    try:
        write_atomically(path, page(title, about, sections, note=note))
    except OSError as e:
        raise disk_error(e, path) from e
    return path


def page(title: str, about: Facts, sections: Sequence[Section], *, note: str = "") -> str:
    """The text of a page; see ``write_page``."""
    style = "\n".join(_asset(name) for name in STYLES)
    script = "\n".join(_asset(name) for name in SCRIPTS) + "edgesegPage.start();\n"
    data = {"title": title, "note": note, "about": [[k, str(v)] for k, v in about], "sections": list(sections)}
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "title": html.escape(_written(title)),
        "style": style,
        "data": embedded(data),
        "script": script,
    }
    return re.sub(r"@(\w+)@", lambda found: parts[found[1]], _asset("page.html"))


def here() -> Facts:
    """On what was measured, with what and when."""
    cores = os.cpu_count()
    return [
        ("Machine", f"{platform.system()} {platform.machine()}, {cores} cores"),
        ("edgeseg", f"{__version__}, Python {platform.python_version()}"),
        ("Made", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
    ]


def embedded(data: Any) -> str:
    """JSON that may stand between two tags of HTML: no tag, entity or comment can begin or end in it.

    A number that is NaN or infinite, which JSON does not know, becomes null.
    """
    text = json.dumps(_known(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return _written(text)


def _written(text: str) -> str:
    """Text that UTF-8 can hold: names of files may have lone surrogates."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _known(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _known(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_known(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode('utf-8')).digest()).decode('ascii')}'"
