from __future__ import annotations

import pytest

from edgeseg.cli import console
from edgeseg.errors import EdgesegError


def test_names_of_strangers_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "cat\x1b[2J\x9b\u202e"
    assert str(EdgesegError(name, path=f"{name}.pt")).count(r"cat\x1b[2J\x9b\u202e") == 2
    console.error(name)
    console.warn(name)
    console.note(name)
    console.say(name)
    console.table(name, (name,), [(name,)])
    out, err = capsys.readouterr()
    assert (out + err).count(r"cat\x1b[2J\x9b\u202e") == 7
    assert not any(c in out + err for c in "\x1b\x9b\u202e")
