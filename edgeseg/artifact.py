"""An exported model on disk: opened through its target's runtime, with the manifest that travels in it.

Nothing here names a format. A target's runtime reads the metadata where its format keeps it; the two places that several
formats share, a ZIP appended to the file and a ``metadata.yaml`` beside it, are read and written here.
"""

from __future__ import annotations

import ast
import json
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest, Tensor
from edgeseg.registry import Target, target_by_path, targets
from edgeseg.store import recover
from edgeseg.yaml_file import load_yaml

SIDECAR = "metadata.yaml"
SIDECAR_BYTES = 8 << 20
ZIP_MEMBER = "metadata.json"
MOST_METADATA = 8 << 20


class Runtime(Protocol):
    """What a target's ``runtime.py`` offers as ``class Runtime``: it loads an artifact and returns output tensors.

    ``input`` and ``outputs`` are read from the file itself. ``metadata`` is what the file (or its sidecar) says, {} if
    nothing. ``run`` takes the input in the file's own shape and dtype and returns the outputs in the order of ``outputs``;
    the arrays stay valid until the next ``run``.
    """

    input: Tensor
    outputs: tuple[Tensor, ...]
    metadata: Mapping[str, Any]

    def __init__(self, path: Path, *, threads: int | None = None) -> None: ...

    def run(self, x: np.ndarray) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Artifact:
    """An opened artifact: where it lies, which target it belongs to, its runtime and manifest."""

    path: Path
    target: Target
    runtime: Runtime
    manifest: Manifest

    @property
    def size(self) -> int:
        """Bytes on disk, of the file or of the whole folder."""
        return size_on_disk(self.path)

    @property
    def title(self) -> str:
        """Format and precision for people. A kit is called one: what runs it here stands in for its format."""
        kit = " kit" if self.target.is_kit(self.path) else ""
        return f"{self.target.title}{kit} {self.manifest.precision}"


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def open_artifact(
    path: str | Path, *, threads: int | None = None, names: tuple[str, ...] | None = None, input: str | None = None
) -> Artifact:
    """Open an exported model with the runtime of its format.

    Args:
        path: file or folder; its suffix tells the format.
        threads: CPU threads of the runtime (None: the runtime's choice).
        names: class names, for files of other tools that carry none.
        input: what the input of such a file holds (see ``edgeseg.infer``); files of ours say that themselves.

    Raises:
        EdgesegError: no such file, unknown suffix, the runtime is not installed, or the file is not a YOLOv8-seg network.
    """
    path = Path(path)
    if not recover(path):
        raise EdgesegError("no such file or folder", path=path, hint="Check the path, or make it with: edgeseg export")
    target = target_by_path(path)
    if target is None:
        known = ", ".join(t.suffix for t in targets().values())
        raise EdgesegError("no known format has this suffix", path=path, hint=f"Known: .pt, .yaml, {known}")
    missing = target.missing_modules(path)
    if missing:
        brings = target.kit_extra if target.is_kit(path) else target.extra
        extra = f'pip install "edgeseg[{brings}]"' if brings else f"install {', '.join(missing)}"
        raise EdgesegError(f"to run {target.title}, {', '.join(missing)} is needed", path=path, hint=extra)
    try:
        runtime: Runtime = target.load("runtime").Runtime(path, threads=threads)
    except EdgesegError:
        raise
    except Exception as e:
        raise EdgesegError(
            f"the {target.title} runtime cannot load it ({_first(e)})", path=path, hint="Export it again"
        ) from e
    runtime.run = _told(runtime.run, path, target)  # type: ignore[method-assign]
    manifest = Manifest.from_metadata(runtime.metadata, path=str(path))
    if manifest is None:
        from edgeseg.infer import infer_manifest

        manifest = infer_manifest(path, target, runtime, names=names, input=input)
    elif input:
        raise EdgesegError("edgeseg wrote this file: it knows its input", path=path, hint="Leave input= out")
    return Artifact(path, target, runtime, manifest)


def _told(run: Callable[[np.ndarray], list[np.ndarray]], path: Path, target: Target) -> Callable[..., list[np.ndarray]]:
    """``run`` whose faults name the file: some runtimes find out only there what is wrong with it."""

    def guarded(x: np.ndarray) -> list[np.ndarray]:
        try:
            return run(x)
        except EdgesegError:
            raise
        except Exception as e:
            what = f"the {target.title} runtime cannot run it ({_first(e)})"
            raise EdgesegError(what, path=path, hint="Export it again") from e

    return guarded


def _first(e: Exception) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]


def append_zip(path: Path, manifest: Manifest) -> None:
    """Append the metadata to a file as a ZIP archive with one member; flatbuffer readers ignore what follows their data."""
    with zipfile.ZipFile(path, "a") as z:
        z.writestr(zipfile.ZipInfo(ZIP_MEMBER), json.dumps(manifest.to_metadata()))


def read_zip(path: Path) -> dict[str, Any]:
    """Metadata from a ZIP appended to the file, {} when there is none. Reads Python literals of older tools too."""
    if not zipfile.is_zipfile(path):
        return {}
    try:
        with zipfile.ZipFile(path) as z:
            member = z.infolist()[0]
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


def read_sidecar(path: Path) -> dict[str, Any]:
    """Metadata beside or inside ``path``, {} when there is none.

    Raises:
        EdgesegError: the file is no YAML mapping.
    """
    file = _sidecar(path)
    if not file.is_file():
        return {}
    value = load_yaml(file, limit_bytes=SIDECAR_BYTES, hint="Export the model again")
    if not isinstance(value, dict):
        raise EdgesegError("no YAML mapping", path=file, hint="Export the model again")
    return value


def _sidecar(path: Path) -> Path:
    return path / SIDECAR if path.is_dir() else path.with_name(path.name + ".yaml")
