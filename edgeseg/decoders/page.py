"""The static page beside a model: the decoder in JavaScript, the model, and a runtime for browsers, in one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from edgeseg.errors import EdgesegError
from edgeseg.manifest import Manifest

JS = Path(__file__).resolve().parent / "js"
SUFFIX = "_page"
"""Behind the artifact's own name."""
NOTE = f"a page lies beside it, for any static server: python -m http.server --directory NAME{SUFFIX}"
AGAIN = "With a network, export with page once: its packages stay"


def write_page(model: Path, manifest: Manifest, web: Path, packages: Path, libraries: Iterable[str]) -> Path:
    """Write the page of an artifact beside it, and return its folder. It works from any static server, and offline.

    Args:
        model: the artifact, a file or a folder.
        manifest: what it holds.
        web: a target's folder with ``engine.js``, which runs the model, and ``LICENSES.txt``.
        packages: the folder with ``node_modules`` that ``edgeseg.environments.npm.ensure`` gave for it.
        libraries: files below ``node_modules`` that the engine loads from ``lib/``.

    Raises:
        EdgesegError: a library is not in the packages, or the artifact takes several pictures at once.
    """
    if manifest.input.shape[0] not in (1, -1):
        raise EdgesegError(
            f"a page has one picture at a time, not {manifest.input.shape[0]}", hint="Leave batch or page out"
        )
    page = model.with_name(model.name + SUFFIX)
    shutil.copytree(JS / "page", page)
    shutil.copytree(JS, page / "edgeseg", ignore=shutil.ignore_patterns("page"))
    (page / "manifest.json").write_text(json.dumps({"edgeseg": json.loads(manifest.to_json())}), encoding="utf-8")
    for name in ("engine.js", "LICENSES.txt"):
        shutil.copyfile(web / name, page / name)
    if model.is_dir():
        shutil.copytree(model, page / "model")
    else:
        (page / "model").mkdir()
        shutil.copyfile(model, page / "model" / f"model{model.suffix}")
    (page / "lib").mkdir()
    for name in libraries:
        source = packages / "node_modules" / name
        if not source.is_file():
            raise EdgesegError("the packages of npm lack a file", path=source, hint=f"Remove {packages} and export again")
        shutil.copyfile(source, page / "lib" / source.name)
    return page
