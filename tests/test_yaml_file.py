"""YAML of strangers: bounded, one sentence for every fault, names as they are written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.yaml_file import LIMIT_BYTES, load_yaml

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfpath: .\nn: 3\n")
    assert load_yaml(tmp_path / "a.yaml") == {"path": ".", "n": 3}
    (tmp_path / "empty.yaml").write_text("")
    assert load_yaml(tmp_path / "empty.yaml") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "anchors stand for more than"),
        ("&a [*a]", "anchors stand for more than"),
        ("[" * 100_000, "nested too deeply|nesting depth"),
        ("{a: " * 100_000, "nested too deeply|nesting depth"),
        ("- " * 100_000 + "x", "nested too deeply|nesting depth"),
        ("\n".join(" " * i + "a:" for i in range(400)), "nested too deeply|nesting depth"),
        ("a: " + "9" * 5000, "a value that cannot be"),
        ("a: 2020-99-99", "a value that cannot be"),
        ("a: !!timestamp x", "a value that cannot be"),
        ("a: !!float x", "a value that cannot be"),
        ("? [a]\n: b", "no valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "no valid YAML"),
        ("a: b: c", "no valid YAML"),
        ("a: \x07", "no valid YAML"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content.encode())
    with pytest.raises(EdgesegError, match=words) as error:
        load_yaml(tmp_path / "x.yaml", hint="Do this")
    assert (
        len(str(error.value)) - len(str(tmp_path)) < 300 and "x.yaml" in str(error.value) and "Do this" in str(error.value)
    )


def test_sizes_kinds_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text("a: b\n" * (LIMIT_BYTES // 5 + 1))
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    for name, words in (
        ("long.yaml", "too much"),
        ("latin.yaml", "no text in UTF-8"),
        (".", "no file"),
        ("none", "no such"),
    ):
        with pytest.raises(EdgesegError, match=words):
            load_yaml(tmp_path / name)


def test_names_stay_as_they_are_written(tmp_path: Path) -> None:
    said: list[tuple[str, Any]] = []
    text = "names: {0: yes, 1: 7, 2: 1.10, 3: 'no', 4: cat, 5: 012}\nnc: 6\nother: [yes, 7]\n"
    (tmp_path / "x.yaml").write_text(text)
    found = load_yaml(tmp_path / "x.yaml", text="names", on_text=lambda written, value: said.append((written, value)))
    assert found == {"names": {0: "yes", 1: "7", 2: "1.10", 3: "no", 4: "cat", 5: "012"}, "nc": 6, "other": [True, 7]}
    assert said == [("yes", True), ("7", 7), ("1.10", 1.1), ("012", 10)]
