"""Targets found by name: one folder a format, described by its ``target.toml``. The core names no format."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import shutil
import sys
import warnings
from dataclasses import field
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeseg.errors import EdgesegError, brief, did_you_mean
from edgeseg.record import dataclass
from edgeseg.resources import parse_toml, target_roots

PACKAGE = "edgeseg_targets"
DEFINITIONS = (".yaml", ".yml")
NETWORK = "network"
"""What stands for a network of PyTorch where a format is named."""

CHECKPOINTS = (".pt", ".pth", *DEFINITIONS)
"""Suffixes of what is a network rather than an artifact: its weights, or its definition alone."""


SETTINGS = {
    *("source_precision", "weights_only", "int8_heads", "runtime_files", "toolchain", "python", "executes"),
    *("needs_mb", "all_cores", "readers"),
}
"""What ``[settings]`` may say; each is explained where it is read."""


class BrokenTarget(UserWarning):
    """A folder whose ``target.toml`` cannot be used."""


@dataclass(frozen=True)
class Option:
    """An option of one format's own, ``[options.<name>]`` in its ``target.toml``.

    ``type`` is a key of ``TYPES``; ``least`` and ``most`` bound numbers, ``least_int8`` those of int8 exports; ``default``
    is what the converter does without it; ``embeds`` a folder of edgeseg whose files go into what is written.
    """

    name: str
    type: str
    help: str = ""
    least: float | None = None
    most: float | None = None
    least_int8: float | None = None
    default: Any = None
    embeds: str = ""

    def check(self, value: Any, where: str, precision: str = "") -> None:
        """Raise an ``EdgesegError`` that begins with ``where`` unless the value is one that it takes."""
        kind, expected = TYPES[self.type]
        accepted: Any = (int, float) if kind is float else kind
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, accepted):
            raise EdgesegError(f"{where} takes {expected} for {self.name}, not {brief(value)}")
        narrow = precision == "int8" and self.least_int8 is not None
        least = self.least_int8 if narrow else self.least
        words = [f"{end} {n}" for end, n in (("from", least), ("to", self.most)) if n is not None] + ["with int8"] * narrow
        low: float = -math.inf if least is None else least
        high: float = math.inf if self.most is None else self.most
        if words and not low <= value <= high:
            raise EdgesegError(f"{where} takes {self.name} {' '.join(words)}, not {brief(value)}")


TYPES: dict[str, tuple[type, str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "str": (str, "a word"),
}


@dataclass(frozen=True)
class Target:
    """What ``target.toml`` says of one format.

    ``reads`` lists what its converter accepts, best first (``network`` is the checkpoint itself). ``suffix`` completes the
    artifact's name: ``.onnx`` a file, ``_ncnn_model`` a folder; ``folder_artifact`` marks a folder whose suffix has a dot.
    ``modules`` must be importable to run the format (``a|b``: either will do) and ``extra`` is the pip extra that brings
    them; ``programs`` must be on the PATH for it.

    ``kit_suffix`` ends the name of the folder that is written in place of the artifact where the last step cannot run: what
    it needs on the machine where it can. ``kit_modules`` and ``kit_extra`` are what runs the network inside the kit.

    ``takes`` names the options that all formats share and this one has (``half``, ``int8`` and ``nms`` follow from
    ``precisions`` and ``heads``; ``end2end`` and ``boxes_only`` are the network's affair), ``own`` declares its own ones.

    ``quantize``: what its integers can follow (``Constraints``); a format with this table gets decisions when it quantizes.

    ``members``: how the file ends that stands for a folder artifact; given itself, or in a folder of another name, it opens.
    """

    name: str
    title: str
    folder: Path
    suffix: str
    reads: tuple[str, ...]
    precisions: tuple[str, ...] = ("fp32",)
    takes: tuple[str, ...] = ("imgsz",)
    heads: tuple[str, ...] = ("raw", "decoded")
    aliases: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    extra: str = ""
    timeout_s: int = 1800
    memory_mb: int = 12_000
    note: str = ""
    folder_artifact: bool = False
    kit_suffix: str = ""
    kit_modules: tuple[str, ...] = ()
    kit_extra: str = ""
    members: tuple[str, ...] = ()
    own: dict[str, Option] = field(default_factory=dict, compare=False, hash=False)
    quantize: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)
    settings: dict[str, Any] = field(default_factory=dict, compare=False, hash=False)

    @property
    def options(self) -> tuple[str, ...]:
        """Every option that it takes, but for those of quantization."""
        others = self.precisions[1:]  # the first is what it is without an option
        words = {"half": "fp16" in others, "int8": "int8" in others, "nms": "nms" in self.heads}
        return (*self.takes, "end2end", "boxes_only", *(w for w, has in words.items() if has), *self.own)

    def is_kit(self, path: Path) -> bool:
        """Whether ``path`` is named like a kit of this format."""
        return bool(self.kit_suffix) and path.name.lower().endswith(self.kit_suffix.lower())

    def stem(self, path: Path) -> str:
        """Name of the model in the name of its artifact or kit."""
        return path.name[: -len(self.kit_suffix if self.is_kit(path) else self.suffix)]

    def artifact_name(self, stem: str) -> str:
        """File or folder name of the artifact made from a model called ``stem``."""
        return stem + self.suffix

    def load(self, part: str) -> ModuleType:
        """Import ``convert`` or ``runtime`` from the target's folder, a package called ``edgeseg_targets.<name>``."""
        if not (self.folder / f"{part}.py").is_file():
            raise EdgesegError(f"the target {self.name} has no {part}.py", path=self.folder)
        package = f"{PACKAGE}.{self.name}"
        if package in sys.modules and list(sys.modules[package].__path__) != [str(self.folder)]:
            # Another folder took this format's name: nothing of the old one stays.
            for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
                del sys.modules[name]
        return importlib.import_module(f"{package}.{part}")

    def missing_modules(self, path: Path | None = None) -> list[str]:
        """Modules and programs of the runtime that cannot be found here (nothing is imported).

        Of alternatives, the first is named. ``path`` is what is to be opened: a kit has modules of its own.
        """
        kit = path is not None and self.is_kit(path)
        wanted = [m.split("|") for m in (self.kit_modules if kit else self.modules)]
        missing = [alternatives[0] for alternatives in wanted if not any(_findable(m) for m in alternatives)]
        return missing if kit else [*missing, *(p for p in self.programs if shutil.which(p) is None)]


class _Packages:
    """Makes the folder of every target a package, wherever it lies: ``from . import helper``, ``from ..onnx import qdq``."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        root, _, name = fullname.partition(".")
        if root != PACKAGE or (name and name not in targets()):
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = [str(targets()[name].folder)] if name else []
        return spec


if not any(type(f).__name__ == _Packages.__name__ for f in sys.meta_path):
    sys.meta_path.append(_Packages())


def _findable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _read(folder: Path) -> Target:
    file = folder / "target.toml"
    text = file.read_text(encoding="utf-8")
    known, table = _parsed(folder.parent).get(folder.name, ("", ""))
    raw = json.loads(table) if known == text else _parse(text, file)
    runtime, convert = raw.pop("runtime", {}), raw.pop("convert", {})
    raw.update(modules=runtime.pop("modules", ()), programs=runtime.pop("programs", ()))
    raw.update(extra=runtime.pop("extra", ""), settings=raw.pop("settings", {}))
    raw.update({k: convert.pop(k) for k in ("timeout_s", "memory_mb") if k in convert})
    kit = raw.pop("kit", {})
    raw.update({f"kit_{k}": kit.pop(k) for k in ("suffix", "modules", "extra") if k in kit})
    declared = raw.pop("options", {})
    if not isinstance(declared, dict):
        raise EdgesegError("options is a table: [options.NAME]; those that all formats share go into takes", path=file)
    own = {name: _option(name, table, file) for name, table in declared.items()}
    left = [*runtime, *convert, *kit, *(k for k in raw.get("settings", {}) if k not in SETTINGS)]
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    try:
        target = Target(folder=folder, own=own, **values)
    except TypeError as e:
        raise EdgesegError(f"a key is missing or unknown ({e})", path=file) from e
    if left or target.name != folder.name:
        raise EdgesegError(f"unknown keys {left}" if left else f"name {target.name!r} is not the folder's", path=file)
    return target


@lru_cache(maxsize=8)
def _parsed(root: Path) -> dict[str, tuple[str, str]]:
    """What the wheel's build parsed (see hatch_build.py): texts by target, each with its table as JSON; {} elsewhere."""
    try:
        return dict(json.loads((root / "parsed.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _parse(text: str, file: Path) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as e:
        raise EdgesegError(f"no valid TOML ({e})", path=file) from e


def _option(name: str, table: Any, file: Path) -> Option:
    try:
        option = Option(name=name, **table)
        if option.type not in TYPES or not name.isidentifier():
            raise TypeError(f"type is one of {', '.join(TYPES)}")
    except TypeError as e:
        raise EdgesegError(f"[options.{name}] cannot be used ({e})", path=file) from e
    return option


@lru_cache(maxsize=8)
def _scan(roots: tuple[Path, ...]) -> dict[str, Target]:
    found: dict[str, Target] = {}
    for root in roots:
        for file in sorted(root.glob("*/target.toml")):
            try:
                target = _read(file.parent)
            except EdgesegError as e:
                # One folder that somebody is still writing must not stop every command.
                warnings.warn(f"{e}; this target is left out", BrokenTarget, stacklevel=2)
                continue
            found[target.name] = target
    return found


def targets() -> dict[str, Target]:
    """All targets by name; a later root (``EDGESEG_TARGETS``) replaces a built-in one of the same name."""
    return _scan(tuple(target_roots()))


def own_options() -> dict[str, Option]:
    """The options that formats declare for themselves, by name; where several declare one, as the first of them does."""
    return {name: o for t in reversed(targets().values()) for name, o in t.own.items()}


def target_by_name(name: str) -> Target:
    """The target called ``name`` or by one of its aliases (case-insensitive).

    Raises:
        EdgesegError: there is none (names the nearest one and lists all), or its ``target.toml`` is broken.
    """
    key, known = name.strip().lower(), targets()
    words = {w: t for t in known.values() for w in (t.name, *t.aliases)}
    if key in words:
        return words[key]
    for folder in (root / key for root in target_roots() if key.isidentifier()):
        if (folder / "target.toml").is_file():
            _read(folder)  # says what is wrong with it
    raise EdgesegError(f"unknown format {name!r}", hint=did_you_mean(key, words, f"Formats: {', '.join(known)}"))


def target_by_path(path: Path) -> Target | None:
    """The target whose suffix, or kit's suffix, ends ``path``'s name (the longest wins), or None."""
    name = path.name.lower()
    known = targets().values()
    fits = [t for t in known if name.endswith(t.suffix.lower()) or t.is_kit(path)]
    if not fits:
        names = [p.name.lower() for p in path.iterdir()] if path.is_dir() else [name]
        fits = [t for t in known if any(n.endswith(m) for n in names for m in t.members)]
    return max(fits, key=lambda t: len(t.suffix), default=None)
