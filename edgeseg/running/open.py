"""Any model that can run, opened the same way: a checkpoint, an exported artifact; here or in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.manifest import MOST_SIDE, Manifest, size_on_disk
from edgeseg.record import dataclass
from edgeseg.registry import CHECKPOINTS, DEFINITIONS, NETWORK, Target, target_by_path, targets
from edgeseg.running.pipeline import Pipeline
from edgeseg.running.runtime import Local, Runtime, TargetRuntime, first_line
from edgeseg.store import recover

DEFAULT_MODEL = "yolov8n-seg.pt"
MOST_THREADS = 1024


@dataclass(frozen=True)
class Opened:
    """A model ready to predict; leave its ``with`` block, or call ``close``, when it is done with.

    ``title`` says what the file is, for people. ``target`` is None for a network of PyTorch. ``manifest.imgsz`` is the size
    at which it runs, where it takes any (``manifest.dynamic``).
    """

    path: Path
    title: str
    runtime: Runtime
    manifest: Manifest
    target: Target | None = None

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the runtime, and end its process if it has one of its own."""
        self.runtime.close()

    @property
    def size(self) -> int:
        """Bytes on disk, 0 for a definition without weights."""
        return size_on_disk(self.path) if self.path.exists() else 0

    def sized(self, imgsz: tuple[int, int] | None) -> Opened:
        """The same model at another input size (height, width) in pixels.

        Raises:
            EdgesegError: the file was exported for one size and ``imgsz`` is another, or no multiple of the stride.
        """
        if imgsz is None or tuple(imgsz) == tuple(self.manifest.imgsz):
            return self
        have = f"{self.manifest.imgsz[0]}x{self.manifest.imgsz[1]}"
        if not self.manifest.dynamic:
            hint = f"Leave --imgsz out, or export again with --imgsz {imgsz[0]},{imgsz[1]}"
            raise EdgesegError(f"it was exported for {have} pixels, not {imgsz[0]}x{imgsz[1]}", path=self.path, hint=hint)
        bad = [n for n in imgsz if not 0 < n <= MOST_SIDE or n % self.manifest.stride]
        if bad:
            raise EdgesegError(f"imgsz {bad[0]} is no multiple of {self.manifest.stride} up to {MOST_SIDE}")
        return replace(self, manifest=replace(self.manifest, imgsz=(int(imgsz[0]), int(imgsz[1]))))

    def on(self, device: str | int | None) -> Opened:
        """The same model on ``cpu``, or where else it can run: ``cuda:0`` (``0``), ``mps``; None leaves it where it is.

        Raises:
            EdgesegError: it cannot run there.
        """
        word = "cpu" if device in (None, "", "auto") else str(device)
        word = f"cuda:{word}" if word.isdigit() else "cuda:0" if word == "cuda" else word
        if device is not None and word != self.runtime.device:
            try:
                self.runtime.to(word)
            except EdgesegError as e:
                raise EdgesegError(f"{self.title}: {e.what}", path=self.path, hint=e.hint) from e
        return self

    def pipeline(self, **settings: object) -> Pipeline:
        """The pipeline (preprocess, inference, postprocess) on this model."""
        return Pipeline(self.runtime, self.manifest, **settings)  # type: ignore[arg-type]


def open_model(
    path: str | Path,
    *,
    threads: int | None = None,
    names: tuple[str, ...] | None = None,
    input: str | None = None,
    head: str = "raw",
    apart: bool = False,
) -> Opened:
    """Open a checkpoint (``.pt``), a definition (``.yaml``) or any exported artifact.

    It runs in this process where its runtime is installed, else in a process of the format's own toolchain.

    Args:
        path: file or folder, or a well-known checkpoint by name (downloaded when absent).
        threads: CPU threads of the runtime (None: its own choice).
        names: class names for files of other tools that carry none.
        input: what the input of such a file holds: ``bgr``, ``0..255``, or both with a comma.
        head: the head layout that a network gives, ``raw`` or ``decoded``; artifacts have theirs.
        apart: always in a process of its own: some runtimes crash each other when they share one.

    Raises:
        EdgesegError: no such file, not a model, what it needs is not installed, or a number of threads that none has.
    """
    if threads is not None and not 0 < threads <= MOST_THREADS:
        raise EdgesegError(f"threads {threads} is no number from 1 to {MOST_THREADS}", hint="Leave it out: all cores")
    if is_checkpoint(path):
        return _open_network(path, threads, input, head, apart)
    path = Path(path)
    if not recover(path):
        raise EdgesegError("no such file or folder", path=path, hint="Check the path, or make it with: edgeseg export")
    target = target_by_path(path)
    if target is None:
        known = ", ".join(t.suffix for t in targets().values())
        raise EdgesegError("no known format has this suffix", path=path, hint=f"Known: .pt, .yaml, {known}")
    elsewhere = apart or target.missing_modules(path)
    runtime = _apart(path, interpreter(target, path), threads) if elsewhere else _here(path, target, threads)
    manifest = Manifest.from_metadata(runtime.metadata, path=str(path))
    if manifest is None:
        from edgeseg.running.infer import infer_manifest

        manifest = infer_manifest(path, target, runtime, names=names, input=input)
    elif input:
        raise EdgesegError("edgeseg wrote this file: it knows its input", path=path, hint="Leave input= out")
    kit = " kit" if target.is_kit(path) else ""  # what runs a kit here stands in for its format
    return Opened(path, f"{target.title}{kit} {manifest.precision}", runtime, manifest, target)


def _here(path: Path, target: Target, threads: int | None) -> Runtime:
    try:
        with unheard():
            runtime: TargetRuntime = target.load("runtime").Runtime(path, threads=threads)
        return Local(runtime, path, threads)
    except EdgesegError:
        raise
    except Exception as e:
        what = f"the {target.title} runtime cannot load it ({first_line(e)})"
        raise EdgesegError(what, path=path, hint="Export it again") from e


_ALONE = threading.Lock()


@contextmanager
def unheard() -> Iterator[None]:
    """While this is entered, what a library writes to standard error below Python is kept, and said only if it fails."""
    with _ALONE:
        kept = os.memfd_create("stderr") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
        before = os.dup(2)
        os.dup2(kept, 2)
        try:
            yield
        except BaseException:
            os.lseek(kept, 0, os.SEEK_SET)
            os.write(before, os.read(kept, 1 << 20))
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
            os.close(kept)


def _apart(path: Path, python: Path, threads: int | None, format: str = "") -> Runtime:
    from edgeseg.environments.python_env import python_env
    from edgeseg.hashing import sha256_json
    from edgeseg.resources import PACKAGE, cache_root
    from edgeseg.running.remote import RemoteRuntime

    # One folder for each place that edgeseg is installed in: the link in it stays valid for as long as that is.
    folder = cache_root() / "remote" / sha256_json([str(PACKAGE)])[:12]
    env = python_env(folder, str(python) == sys.executable)
    return RemoteRuntime(path, threads=threads, python=python, env=env, format=format)


def _open_network(path: str | Path, threads: int | None, input: str | None, head: str, apart: bool) -> Opened:
    if input:
        raise EdgesegError("input= is for exported files of other tools, and this is a network", path=path)
    if Path(path).is_dir():
        raise EdgesegError("this is a folder, not a checkpoint", path=path, hint="Give the .pt file inside it")
    if apart and not has_torch():
        where, runtime = Path(path), _apart(Path(path), _python_with_torch(path), threads, f"{NETWORK}-{head}")
    else:
        need_torch(path)
        # Read when torch is imported: threads that spin while they wait take ten times as long on a machine that is busy.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from edgeseg.network.definition import find_checkpoint

        where = Path(path) if Path(path).suffix.lower() in DEFINITIONS else find_checkpoint(path)
        if apart:
            runtime = _apart(where, Path(sys.executable), threads, f"{NETWORK}-{head}")
        else:
            from edgeseg.network.runtime import NetworkRuntime

            runtime = NetworkRuntime(where, threads=threads, head=head)
    manifest = Manifest.from_metadata(runtime.metadata, path=str(where))
    if manifest is None:
        raise EdgesegError("the network does not say what it is", path=where)
    return Opened(where, "PyTorch fp32", runtime, manifest)


def interpreter(target: Target, path: Path | None = None) -> Path:
    """The Python that can run ``target``; ``path`` is what is to be opened: a kit needs other modules than the artifact.

    Raises:
        EdgesegError: neither this environment nor an installed toolchain has the runtime.
    """
    missing = target.missing_modules(path)
    if not missing:
        return Path(sys.executable)
    if not (path is not None and target.is_kit(path)) and has_runtime(target):
        from edgeseg.environments.toolchains import toolchain_of

        return toolchain_of(target).interpreter
    brings = target.kit_extra if path is not None and target.is_kit(path) else target.extra
    extra = f'pip install "edgeseg[{brings}]"' if brings else f"install {', '.join(missing)}"
    hint = f"{extra}, or: edgeseg toolchain install {target.name}"
    raise EdgesegError(f"to run {target.title}, {', '.join(missing)} is needed", path=path, hint=hint)


def has_runtime(target: Target) -> bool:
    """Whether ``target`` runs here or in an installed toolchain (a lean install cannot look for those)."""
    if not target.missing_modules():
        return True
    try:
        from edgeseg.environments.toolchains import toolchain_of

        return toolchain_of(target).installed
    except ImportError:
        return False


def is_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` names a checkpoint or a network definition rather than an exported artifact."""
    name = Path(path).name.lower()
    if "." in name:
        return name.endswith(CHECKPOINTS)
    from edgeseg.network.definition import FAMILIES

    return name.startswith(tuple(FAMILIES)) and not Path(path).is_dir()


def has_torch() -> bool:
    """Whether networks can be opened in this environment."""
    return importlib.util.find_spec("torch") is not None


def need_torch(path: str | Path) -> None:
    """Raise a helpful error when a checkpoint is to be opened where torch is not installed."""
    if not has_torch():
        hint = 'pip install "edgeseg[torchscript]", or use an exported file (.tflite, .onnx) on this machine'
        raise EdgesegError("to open a checkpoint, torch is needed", path=path, hint=hint)


def _python_with_torch(path: str | Path) -> Path:
    from edgeseg.environments.toolchains import toolchain_of

    for target in targets().values():
        if NETWORK in target.reads and toolchain_of(target).installed:
            return toolchain_of(target).interpreter
    raise EdgesegError("torch is needed to run the float network", path=path, hint='pip install "edgeseg[export]"')


def newest_checkpoint(root: Path | None = None) -> str:
    """The newest ``runs/**/best.pt`` below ``root`` (default: here), else the smallest COCO network by name."""
    runs = (root or Path()) / "runs"
    found = sorted(runs.glob("**/best.pt"), key=lambda p: p.stat().st_mtime) if runs.is_dir() else []
    return str(found[-1]) if found else DEFAULT_MODEL


def parse_imgsz(text: str | int | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) from ``640``, ``"640"``, ``"480,640"``, ``"480x640"`` or a pair; None stays None.

    Raises:
        EdgesegError: not one or two positive whole numbers.
    """
    if text is None:
        return None
    parts = re.findall(r"[^\s,x\[\]()]+", text) if isinstance(text, str) else [text] if isinstance(text, int) else list(text)
    try:
        sides = [int(p) for p in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or min(sides) <= 0:
        raise EdgesegError(f"imgsz {text!r} is no size", hint="Write 640, or height,width: 480,640")
    return sides[0], sides[-1]
