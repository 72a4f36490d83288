"""The boards of a fleet and how to reach them: ``fleet.toml`` in the current folder, which a person may edit too."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from edgeseg.boards import board_by_name
from edgeseg.errors import EdgesegError, did_you_mean
from edgeseg.resources import parse_toml
from edgeseg.store import disk_error, write_atomically

FILE = Path("fleet.toml")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_HEAD = "# The boards of edgeseg board run: written by edgeseg board add, yours to edit.\n"


@dataclass(frozen=True)
class Host:
    """One board: ``address`` is ``user@host`` for ssh, ``board`` its kind in ``boards.toml``, ``python`` its version 3.N.

    ``port`` 0 and ``key`` "" leave them to ssh and its own configuration.

    Raises:
        EdgesegError: a name, address or kind that cannot be.
    """

    name: str
    address: str
    board: str
    python: str
    port: int = 0
    key: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise EdgesegError(f"{self.name!r} is no name for a board", hint="Letters, digits, - and _")
        if not re.fullmatch(r"[^\s-][^\s]*", self.address):
            raise EdgesegError(f"{self.address!r} is no address", hint="Write it as for ssh: pi@192.168.0.7")
        if not isinstance(self.port, int) or not 0 <= self.port < 65536:
            raise EdgesegError(f"port {self.port} is none")
        board_by_name(self.board)


def read_hosts(file: Path = FILE) -> dict[str, Host]:
    """The boards by name; empty where there is no file.

    Raises:
        EdgesegError: the file cannot be read, or a board in it cannot be.
    """
    if not file.is_file():
        return {}
    try:
        raw = parse_toml(file.read_text(encoding="utf-8"))
        return {name: Host(name=name, **values) for name, values in raw.items()}
    except (OSError, ValueError, TypeError) as e:
        hint = "Mend it, or remove it and type: edgeseg board add NAME USER@HOST"
        raise EdgesegError(f"no list of boards ({e})", path=file, hint=hint) from e


def write_hosts(hosts: dict[str, Host], file: Path = FILE) -> None:
    """Replace the file.

    Raises:
        EdgesegError: it cannot be written.
    """
    parts = [_HEAD]
    for name, host in sorted(hosts.items()):
        values = {k: v for k, v in asdict(host).items() if k != "name" and v not in ("", 0)}
        # A string of JSON is a string of TOML.
        parts.append(f"\n[{name}]\n" + "".join(f"{k} = {json.dumps(v, ensure_ascii=False)}\n" for k, v in values.items()))
    try:
        write_atomically(file, "".join(parts))
    except OSError as e:
        raise disk_error(e, file) from e


def chosen_hosts(words: str | None, file: Path = FILE) -> list[Host]:
    """The boards that ``words`` names, with commas; None: all.

    Raises:
        EdgesegError: none is known, or one of those is not.
    """
    known = read_hosts(file)
    if not known:
        raise EdgesegError("no board is known here", path=file, hint="Type: edgeseg board add NAME USER@HOST")
    names = list(known) if words is None else [w.strip() for w in words.split(",") if w.strip()]
    for name in names:
        if name not in known:
            raise EdgesegError(f"no board is called {name!r}", hint=did_you_mean(name, known, f"Boards: {', '.join(known)}"))
    return [known[name] for name in dict.fromkeys(names)]
