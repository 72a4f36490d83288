"""Label files: what is read, and what is said when a line is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.data.labels import Label, _is_flat, read_label_file, write_labels
from edgeseg.errors import EdgesegError

GOOD = "0 0.1 0.1 0.5 0.1 0.5 0.5"


def test_reads_polygons(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"{GOOD}\n\n  2 0 0 1 0 1 1 0 1.005 \n", encoding="utf-8")
    first, second = read_label_file(file, 3).labels
    assert (first.cls, second.cls) == (0, 2)
    np.testing.assert_allclose(first.polygon, [(0.1, 0.1), (0.5, 0.1), (0.5, 0.5)], atol=1e-7)
    assert second.polygon.dtype == np.float32 and second.polygon.max() == 1.0  # clipped
    assert second.box == (0.0, 0.0, 1.0, 1.0)
    np.testing.assert_allclose(first.pixels((100, 200))[2], (100, 50))


def test_no_file_and_an_empty_file_are_background(tmp_path: Path) -> None:
    assert read_label_file(tmp_path / "none.txt", 1).labels == ()
    (tmp_path / "empty.txt").write_text("\n \n")
    assert read_label_file(tmp_path / "empty.txt", 1).labels == ()


def test_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(
        b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n" + GOOD.replace("0.1", "0.2").encode() + b"\r\n"
    )
    assert len(read_label_file(tmp_path / "a.txt", 1).labels) == 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("3 0.1 0.1 0.5 0.1 0.5 0.5", "class 3 is out of range"),
        ("-1 0.1 0.1 0.5 0.1 0.5 0.5", "class -1 is out of range"),
        ("0.5 0.1 0.1 0.5 0.1 0.5 0.5", "not a whole number"),
        ("0 0.5 0.5 0.2 0.2", "a box .* not a polygon"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.5 0.7", "odd number of coordinates"),
        ("0 0.1 0.1", "1 points are no polygon"),
        ("0", "0 points are no polygon"),
        ("0 0.1 0.1 0.5 x 0.5 0.5", "'x' is not a number"),
        ("person 0.1 0.1 0.5 0.1 0.5 0.5", "'person' is not a number"),
        ("0 0.1 0.1 0.5 1.2 0.5 0.5", "1.2 is outside 0..1"),
        ("0 -0.3 0.1 0.5 1 0.5 0.5", "-0.3 is outside 0..1"),
        ("0 nan 0.1 0.5 1 0.5 0.5", "nan is no coordinate"),
        ("inf 0.1 0.1 0.5 1 0.5 0.5", "inf is no coordinate"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "bad.txt"
    file.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(EdgesegError, match=what) as caught:
        read_label_file(file, 3)
    assert str(caught.value).startswith(f"{file}:2: ") and caught.value.hint


def test_binary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\x80\x04\x95\xff")
    with pytest.raises(EdgesegError, match="cannot be read"):
        read_label_file(tmp_path / "a.txt", 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 79), st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=12)),
        max_size=5,
    )
)
def test_what_is_written_is_read_again(tmp_path: Path, objects: list[tuple[int, list[tuple[float, float]]]]) -> None:
    labels = [Label(c, np.array(p, np.float32).round(6)) for c, p in objects]
    labels = [x for x in labels if not _is_flat(x.polygon)]
    labels = list({(x.cls, x.polygon.tobytes()): x for x in labels}.values())
    write_labels(tmp_path / "x.txt", labels)
    again = read_label_file(tmp_path / "x.txt", 80).labels
    assert [x.cls for x in again] == [x.cls for x in labels]
    for a, b in zip(labels, again):
        np.testing.assert_allclose(a.polygon, b.polygon, atol=6e-7)


def test_rows_that_repeat_or_have_no_area_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [GOOD, GOOD, "0 0.5 0.5 0.5 0.5 0.5 0.5", "0 0.1 0.1 0.5 0.5 0.9 0.9", "0 0.1 0.2 0.5 0.2 0.9 0.2 0.3 0.2", GOOD]
    (tmp_path / "a.txt").write_text("\n".join(rows))
    found = read_label_file(tmp_path / "a.txt", 1)
    assert (len(found.labels), found.repeated, found.flat) == (1, 2, 3)
    # One pixel of an image of 8000 is an object, and so is what two parts joined by a bridge enclose.
    pixel, bridged = "0.5 0.5 0.500125 0.5 0.500125 0.500125", "0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.1 0.5 0.5 0.6 0.5 0.5 0.5"
    (tmp_path / "b.txt").write_text(f"0 {pixel}\n0 {bridged}\n")
    assert len(read_label_file(tmp_path / "b.txt", 1).labels) == 2


def test_boxes_where_boxes_will_do(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text(f"1 0.5 0.4 0.2 0.6\n{GOOD}\n1 0.5 0.4 0.2 0\n1 0.005 0.5 0.02 0.2\n", encoding="utf-8")
    found = read_label_file(file, 2, boxes=True)
    assert [label.cls for label in found.labels] == [1, 0, 1] and found.flat == 1
    np.testing.assert_allclose(found.labels[0].box, (0.4, 0.1, 0.6, 0.7), atol=1e-6)
    np.testing.assert_allclose(found.labels[1].box, (0.1, 0.1, 0.5, 0.5), atol=1e-6)
    assert found.labels[2].box[0] == 0.0  # clipped
    with pytest.raises(EdgesegError, match="5 numbers are a box") as error:
        read_label_file(file, 2)
    assert "detector" in error.value.hint
    for line, words in (("0 0.5 0.5 -0.1 0.2", "a box of -0.1 x 0.2"), ("0 0.9 0.5 0.4 0.2", "outside 0..1")):
        file.write_text(line)
        with pytest.raises(EdgesegError, match=words):
            read_label_file(file, 2, boxes=True)
