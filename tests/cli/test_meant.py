"""'Did you mean': what a person would expect for each command, and nothing that is not close."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg import cli
from edgeseg.errors import did_you_mean, distance

MEANT = [
    ("run --stream", None),
    ("export --precision int8", None),
    ("predict --exit-eof", None),
    ("predict --weights a.pt", "model"),
    ("export --weights a.pt", "model"),
    ("validate --weights a.pt", "model"),
    ("benchmark --weights a.pt", "model"),
    ("train weights=a.pt data=x", "model"),
    ("predict a.pt img-size=320", "imgsz"),
    ("export --img-size 320", "imgsz"),
    ("train img_size=320 data=x", "imgsz"),
    ("export batch-size=2", "batch"),
    ("train batch_size=2 data=x", "batch"),
    ("predict conf-thres=0.1", "conf"),
    ("run --conf-thres 0.1", "conf"),
    ("validate iou-thres=0.1", "iou"),
    ("predict --nosave", "no-save"),
    ("predict --view-img", "show"),
    ("export --fp16", "half"),
    ("export --ptq", "int8"),
    ("benchmark --fp16", "half"),
    ("train epoch=3 data=x", "epochs"),
    ("train epcohs=3 data=x", "epochs"),
    ("train modle=a.pt data=x", "model"),
    ("train learning_rate=1 data=x", "lr"),
    ("train mosaci=1 data=x", "mosaic"),
    ("export modle=a.pt", "model"),
    ("export fromat=onnx", "format"),
    ("export --include onnx", "format"),
    ("search fromat=onnx", "format"),
    ("validate --dta x.yaml", "data"),
    ("doctor --baord pi5", "board"),
    ("run --imgsize 320", "imgsz"),
    ("sensitivity imgs=3", "imgsz"),
    ("expotr a.pt", "export"),
    ("trian", "train"),
    ("valdiate", "validate"),
    ("quantise", None),
    ("board rnu", "run"),
    ("toolchain instal onnx", "install"),
    ("data covnert", "convert"),
]


@pytest.mark.parametrize(("line", "meant"), MEANT)
def test_what_a_person_would_expect(line: str, meant: str | None, capsys: Any) -> None:
    assert cli.run(line.split()) == 2
    said = capsys.readouterr().err
    found = re.search(r"Did you mean '([^']+)'\?", said)
    assert (found[1] if found else None) == meant, said
    assert meant is not None or re.search(r"It (has .*, .*|is an option of \w+)\. See: edgeseg|Commands: ", said), said


WORDS = st.text("abcdeiorst-", min_size=1, max_size=12)


@given(WORDS, st.lists(WORDS, max_size=6))
def test_a_suggestion_is_close(word: str, known: list[str]) -> None:
    found = re.search(r"'(.*)'", did_you_mean(word, known))
    if found:
        assert distance(word, found[1]) <= max(len(word), len(found[1])) / 3
    assert not found or found[1] in known
    assert word not in known or (found and found[1] == word)


@given(WORDS, WORDS)
def test_distance(a: str, b: str) -> None:
    assert distance(a, b) == distance(b, a) <= max(len(a), len(b)) and (distance(a, b) == 0) == (a == b)


def test_neighbours_that_are_swapped_are_one_mistake() -> None:
    assert distance("fromat", "format") == 1 and distance("stream", "threads") == 4


def test_an_option_that_only_training_knows_is_not_the_model(capsys: Any) -> None:
    """``edgeseg train mosaic=0.5 data=x`` names no model; click would take the first further word for it."""
    assert cli.run(["train", "mosaic=2", "data=x"]) == 2
    assert "mosaic=2.0 is no probability" in capsys.readouterr().err


def test_help_in_place_of_an_error_says_nothing_more(capsys: Any) -> None:
    assert cli.run(["board"]) == 2
    assert "error" not in capsys.readouterr().err
