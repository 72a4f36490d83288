"""What travels with an exported model on disk: its metadata, in or beside the file.

A target's runtime reads the metadata where its format keeps it; the two places that several formats share, a ZIP appended
to the file and a ``metadata.yaml`` beside it, are read and written here.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest

SIDECAR = "metadata.yaml"
SIDECAR_BYTES = 8 << 20
ZIP_MEMBER = "metadata.json"
MOST_METADATA = 8 << 20
_OURS = re.compile(r"(box|score|coeff)_\d+|prediction|proto")


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def append_zip(path: Path, manifest: Manifest, others: Mapping[str, str] | None = None) -> None:
    """Append the metadata to a file as a ZIP archive; flatbuffer readers ignore what follows their data.

    ``metadata.json`` is its first member; ``others`` are texts for readers of other tools, by their names in the archive.
    """
    with zipfile.ZipFile(path, "a") as z:
        for name, text in {ZIP_MEMBER: json.dumps(manifest.to_native(), default=str), **(others or {})}.items():
            z.writestr(zipfile.ZipInfo(name), text)


def read_zip(path: Path) -> dict[str, Any]:
    """Metadata from a ZIP appended to the file, {} when there is none. Reads Python literals of older tools too."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as z:
            members = z.infolist()
            member = next((m for m in members if m.filename == ZIP_MEMBER), members[0])
            if member.file_size > MOST_METADATA:
                return {}
            text = z.read(member).decode("utf-8")
        value = json.loads(text) if text.lstrip().startswith('{"') else ast.literal_eval(text)
    except (ArithmeticError, EOFError, LookupError, MemoryError, NotImplementedError, OSError, RuntimeError):
        return {}
    except (SyntaxError, ValueError, zipfile.BadZipFile, zlib.error):
        return {}
    return value if isinstance(value, dict) else {}


def write_sidecar(path: Path, manifest: Manifest) -> Path:
    """Write ``metadata.yaml`` into a folder artifact, or ``<file>.yaml`` beside a file, and return where it is."""
    file = _sidecar(path)
    file.write_text(manifest.to_yaml(), encoding="utf-8")
    return file


def read_sidecar(path: Path, *, ours: bool = False) -> dict[str, Any]:
    """Metadata beside or inside ``path``, {} when there is none.

    Args:
        ours: edgeseg wrote the model (``named_by_us``, or a mark of the format's own), so there was metadata.

    Raises:
        EdgesegError: the file is no YAML mapping, or ``ours`` and it is not there.
    """
    file = _sidecar(path)
    if not file.is_file():
        if ours:
            what = "edgeseg wrote this model and, beside it, its classes, size and tensors: that file is missing"
            raise EdgesegError(what, path=file, hint=f"Copy {file.name} too, from where the model was exported")
        return {}
    from edgeseg.yaml_file import load_yaml  # a tenth of a cold start, and files carry their metadata inside

    value = load_yaml(file, limit_bytes=SIDECAR_BYTES, hint="Export the model again")
    if not isinstance(value, dict):
        raise EdgesegError("no YAML mapping", path=file, hint="Export the model again")
    return value


def named_by_us(outputs: Iterable[str]) -> bool:
    """Whether edgeseg gives outputs these names: ``box_8``, ``score_8`` ... ``proto``, or ``prediction`` and ``proto``."""
    names = set(outputs)
    return len(names) > 1 and all(_OURS.fullmatch(name) for name in names)


def _sidecar(path: Path) -> Path:
    return path / SIDECAR if path.is_dir() else path.with_name(path.name + ".yaml")
