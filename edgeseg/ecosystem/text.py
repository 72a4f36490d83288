"""Names as files of other tools can hold them."""

from __future__ import annotations

import re

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def for_xml(text: str) -> str:
    """The text with what no XML 1.0 document can hold (control characters, halves of surrogate pairs) as U+FFFD."""
    return _NO_XML.sub("\ufffd", text)


def one_line(text: str) -> str:
    """The text on one line; ``_`` for nothing at all."""
    return " ".join(text.split()) or "_"
