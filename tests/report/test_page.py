"""The text of a page: what it may load, what strangers' words can do in it, and that its figures come back."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.report.page import ASSETS, SCRIPTS, STYLES, embedded, here, page, write_page

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>&amp;\u2028@data@@policy@"


def data_of(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(found)


def hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_only_what_is_written_in_it_may_run(tmp_path: Path) -> None:
    text = write_page(tmp_path / "page.html", "Title", [("Fact", 1)], []).read_text(encoding="utf-8")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    (style,), (script,) = (
        re.findall(r"<style>(.*?)</style>", text, re.DOTALL),
        re.findall(r"<script>(.*?)</script>", text, re.DOTALL),
    )
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hashed(style),
        "script-src": hashed(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    assert all((ASSETS / name).read_text() in style for name in STYLES)
    assert all((ASSETS / name).read_text() in script for name in SCRIPTS)
    assert set(re.findall(r"https?://[^\"' )]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, which nothing loads
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function)\b", script)


def test_words_of_strangers_stay_words() -> None:
    section = {"kind": "table", "title": HOSTILE, "columns": [{"label": HOSTILE}], "rows": [{"cells": [HOSTILE]}]}
    text = page(HOSTILE, [(HOSTILE, HOSTILE)], [section], note=HOSTILE)
    assert text.count("<script") == 2 and text.count("</script") == 2 and "<img" not in text and "<!--" not in text
    assert data_of(text) == {"title": HOSTILE, "note": HOSTILE, "about": [[HOSTILE, HOSTILE]], "sections": [section]}


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_what_is_embedded_comes_back(value: Any) -> None:
    text = embedded(value)
    assert json.loads(text) == value and not set("<>&\u2028\u2029") & set(text)


def test_what_json_does_not_know_is_unknown_and_broken_names_do_not_break_the_page() -> None:
    assert json.loads(embedded({"a": [float("nan"), (float("inf"), 1.5)]})) == {"a": [None, [None, 1.5]]}
    assert json.loads(embedded("caf\udce9.jpg")) == "caf?.jpg"


def test_it_says_where_and_when() -> None:
    facts = dict(here())
    assert set(facts) == {"Machine", "edgeseg", "Made"} and "cores" in str(facts["Machine"])


@pytest.mark.slow
def test_the_wheel_has_the_assets(tmp_path: Path) -> None:
    """Some seconds: it is built as a bundle for a board has it."""
    from edgeseg.fleet.wheels import own_wheel

    try:
        wheel = own_wheel(tmp_path)
    except Exception as e:
        pytest.skip(f"edgeseg's wheel cannot be made here: {e}")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"edgeseg/report/assets/{n}" for n in (*STYLES, *SCRIPTS, "page.html")} <= set(names)
