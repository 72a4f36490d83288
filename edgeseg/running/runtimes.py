"""Which interpreter runs an artifact: this one when it has the runtime, else that of the format's toolchain."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from edgeseg.artifact import Artifact
from edgeseg.environments.python_env import python_env
from edgeseg.environments.toolchains import toolchain_of
from edgeseg.errors import EdgesegError
from edgeseg.hashing import sha256_json
from edgeseg.manifest import Manifest
from edgeseg.registry import Target, target_by_path
from edgeseg.resources import PACKAGE, cache_root
from edgeseg.running.infer import infer_manifest
from edgeseg.running.remote import RemoteRuntime
from edgeseg.store import recover


def interpreter(target: Target, path: Path | None = None) -> Path:
    """The Python that can run ``target``; ``path`` is what is to be opened: a kit needs other modules than the artifact.

    Raises:
        EdgesegError: neither this environment nor an installed toolchain has the runtime.
    """
    missing = target.missing_modules(path)
    if not missing:
        return Path(sys.executable)
    toolchain = toolchain_of(target)
    if toolchain.installed:
        return toolchain.interpreter
    extra = f'pip install "edgeseg[{target.extra}]"' if target.extra else f"install {', '.join(missing)}"
    raise EdgesegError(
        f"to run {target.title}, {', '.join(missing)} is needed",
        hint=f"{extra}, or: edgeseg toolchain install {target.name}",
    )


def has_runtime(target: Target) -> bool:
    """Whether ``target`` runs here or in an installed toolchain (a lean install cannot look for those)."""
    try:
        return not target.missing_modules() or toolchain_of(target).installed
    except ImportError:
        return False


def open_remote(
    path: str | Path, *, threads: int | None = None, names: tuple[str, ...] | None = None, input: str | None = None
) -> Artifact:
    """Open an artifact in a process of its own, in whatever environment has its runtime.

    Raises:
        EdgesegError: as ``edgeseg.artifact.open_artifact``.
    """
    path = Path(path)
    target = target_by_path(path)
    if not recover(path) or target is None:
        what = "no such file or folder" if not path.exists() else "no known format has this suffix"
        raise EdgesegError(what, path=path, hint="Check the path, or make it with: edgeseg export")
    python = interpreter(target, path)
    runtime = RemoteRuntime(path, threads=threads, python=python, env=remote_environment(str(python) == sys.executable))
    manifest = Manifest.from_metadata(runtime.metadata, path=str(path))
    if manifest is None:
        manifest = infer_manifest(path, target, runtime, names=names, input=input)
    return Artifact(path, target, runtime, manifest)


def remote_environment(current: bool) -> Mapping[str, str]:
    """The environment variables of a ``RemoteRuntime``, in this environment or in a toolchain's."""
    # One folder for each place that edgeseg is installed in: the link in it stays valid for as long as that is.
    return python_env(cache_root() / "remote" / sha256_json([str(PACKAGE)])[:12], current)
