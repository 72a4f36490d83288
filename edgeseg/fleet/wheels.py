"""The packages of a bundle: edgeseg's own wheel, those of the board's platform, and a list that locks them by hash."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from edgeseg.errors import EdgesegError
from edgeseg.fleet.platform import Platform
from edgeseg.hashing import sha256_file
from edgeseg.resources import PACKAGE

_OWN = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")  # what an installer adds to a wheel's files
_EPOCH = (2020, 2, 2, 0, 0, 0)


def own_wheel(folder: Path) -> Path:
    """The wheel of the edgeseg that runs here, in ``folder``: built in a checkout, else made again from what is installed.

    Raises:
        EdgesegError: it cannot be built, or an installed file is not what was installed.
    """
    found = distribution("edgeseg")
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    checkout = PACKAGE.parent
    if origin.get("dir_info", {}).get("editable") and (checkout / "pyproject.toml").is_file():
        alone = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        before = set(folder.glob("*.whl"))
        _pip("wheel", "--no-deps", "--no-cache-dir", *alone, "-w", str(folder), str(checkout))
        (made,) = set(folder.glob("*.whl")) - before
        return made
    return wheel_again(found, folder)


def wheel_again(found: Distribution, folder: Path) -> Path:
    """The wheel from which a pure Python distribution was installed, made again from its files.

    Raises:
        EdgesegError: it has no list of files, is not pure, or a file differs from that list.
    """
    name, where = found.metadata["Name"], found.read_text("WHEEL") or ""
    if not found.files or "Root-Is-Purelib: true" not in where:
        raise EdgesegError(f"{name} was not installed from a pure wheel", hint="Install it with pip")
    members = {}
    for file in found.files:
        if ".." in file.parts or file.suffix == ".pyc" or file.name in _OWN or file.is_absolute():
            continue
        data = Path(str(file.locate())).read_bytes()
        if file.hash is not None and _digest(data) != file.hash.value:
            hint = f"Install {name} again"
            raise EdgesegError("this file was changed after it was installed", path=str(file.locate()), hint=hint)
        members[PurePosixPath(file).as_posix()] = data
    info = next(p for p in members if p.endswith(".dist-info/METADATA")).rpartition("/")[0]
    rows = [(path, f"sha256={_digest(data)}", str(len(data))) for path, data in sorted(members.items())]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([*rows, (f"{info}/RECORD", "", "")])
    tags = [line.partition(": ")[2] for line in where.splitlines() if line.startswith("Tag: ")]
    pythons = ".".join(dict.fromkeys(t.split("-")[0] for t in tags))
    place = folder / f"{info.removesuffix('.dist-info')}-{pythons}-none-any.whl"
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as z:
        for path, data in [*sorted(members.items()), (f"{info}/RECORD", text.getvalue().encode())]:
            z.writestr(zipfile.ZipInfo(path, _EPOCH), data, zipfile.ZIP_DEFLATED)
    return place


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def gather(folder: Path, own: Path, extras: Iterable[str], platform: Platform) -> None:
    """Put into ``folder`` the wheels of edgeseg, of pip, and of all that edgeseg with ``extras`` needs on ``platform``.

    Raises:
        EdgesegError: a package has no wheel for that platform, or cannot be downloaded.
    """
    from packaging.utils import canonicalize_name

    named = f"[{','.join(sorted(extras))}]"
    # Downloaded into one folder, whatever is asked for next is chosen beside it: nothing is loaded twice.
    wanted = {"edgeseg": f"{own}{'' if named == '[]' else named}", "pip": "pip"}
    wanted |= {r: r for r in _holding(own, extras, platform)}
    for _ in range(9):
        _pip("download", "-d", str(folder), *platform.options(), "--find-links", str(folder), *wanted.values())
        needed = _closure(folder, extras, platform)
        missing = {name: text for name, text in needed.items() if name not in _by_name(folder)}
        if not missing:
            break
        wanted |= missing  # pip judged their conditions by the machine that it ran on
    for name, wheel in _by_name(folder).items():
        if name not in needed and name != canonicalize_name("pip"):
            wheel.unlink()


def _closure(folder: Path, extras: Iterable[str], platform: Platform) -> dict[str, str]:
    """What edgeseg with ``extras`` needs on ``platform``, by name: the requirement, as far as the wheels here tell."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    here = _by_name(folder)
    needed: dict[str, str] = {"edgeseg": "edgeseg"}
    todo: list[tuple[str, frozenset[str]]] = [("edgeseg", frozenset(extras))]
    seen = set()
    while todo:
        name, asked = one = todo.pop()
        if one in seen or name not in here:
            continue
        seen.add(one)
        for text in _requires(here[name]):
            requirement = Requirement(text)
            places = [{**platform.markers(), "extra": e} for e in (asked or {""})]
            if requirement.marker is not None and not any(requirement.marker.evaluate(p) for p in places):
                continue
            key = canonicalize_name(requirement.name)
            needed.setdefault(key, f"{requirement.name}{requirement.specifier}")
            todo.append((key, frozenset(requirement.extras)))
    return needed


def _holding(own: Path, extras: Iterable[str], platform: Platform) -> list[str]:
    """The conditional requirements of edgeseg with ``extras`` that hold on ``platform``, whatever holds here."""
    from packaging.requirements import Requirement

    found = [r for text in _requires(own) if (r := Requirement(text)).marker is not None]
    places = [{**platform.markers(), "extra": e} for e in (*extras, "")]
    held = [r for r in found if r.marker is not None and any(r.marker.evaluate(p) for p in places)]
    return [f"{r.name}{r.specifier}" for r in held if r.name != "edgeseg"]


def _requires(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as z:
        member = next(n for n in z.namelist() if n.count("/") == 1 and n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(z.read(member).decode("utf-8")).get_all("Requires-Dist") or []


def _by_name(folder: Path) -> dict[str, Path]:
    from packaging.utils import parse_wheel_filename

    return {str(parse_wheel_filename(w.name)[0]): w for w in sorted(folder.glob("*.whl"))}


def lock(folder: Path, extras: Iterable[str]) -> str:
    """The lines of a requirements file: every wheel of ``folder`` with its version and SHA-256, edgeseg with ``extras``."""
    from packaging.utils import parse_wheel_filename

    lines = []
    for name, wheel in _by_name(folder).items():
        chosen = f"[{','.join(sorted(extras))}]" if name == "edgeseg" and extras else ""
        lines.append(f"{name}{chosen}=={parse_wheel_filename(wheel.name)[1]} --hash=sha256:{sha256_file(wheel)}\n")
    return "".join(lines)


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", words[0], "-q", "--disable-pip-version-check", *words[1:]]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        reason = (said or done.stderr.strip().splitlines() or ["it did not say why"])[0]
        hint = "Is there a network here, and a wheel of every package for that Python? Another one: --python 3.11"
        raise EdgesegError(f"pip {words[0]} failed: {reason}", hint=hint)
