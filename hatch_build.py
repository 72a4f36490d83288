"""The build of the wheel: every ``target.toml`` is parsed once, here, so that no cold start on a board parses twelve.

``edgeseg.registry`` takes a table from ``parsed.json`` only where the text beside it is still the file's.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

try:
    import tomllib
except ImportError:
    import tomli as tomllib


class Parsed(BuildHookInterface):  # type: ignore[misc]
    """Adds ``edgeseg/_targets/parsed.json``: for each target its text and the same as JSON."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling. An editable install reads the files themselves."""
        if version == "editable":
            return
        found = {}
        for file in sorted((Path(self.root) / "targets").glob("*/target.toml")):
            text = file.read_text(encoding="utf-8")
            found[file.parent.name] = (text, json.dumps(tomllib.loads(text)))
        self._scratch = tempfile.mkdtemp()
        place = Path(self._scratch) / "parsed.json"
        place.write_text(json.dumps(found), encoding="utf-8")
        build_data["force_include"][str(place)] = "edgeseg/_targets/parsed.json"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """See hatchling."""
        if version != "editable":
            shutil.rmtree(self._scratch, ignore_errors=True)
