import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.export.options import ExportOptions, check_imgsz, check_options, options_for, takes
from edgeseg.registry import target_by_name


@given(st.integers(1, 4096), st.integers(1, 4096))
def test_imgsz_is_a_multiple_or_the_hint_is_the_nearest(h: int, w: int) -> None:
    try:
        assert check_imgsz((h, w)) == (h, w)
        assert h % 32 == 0 and w % 32 == 0
    except EdgesegError as e:
        assert h % 32 or w % 32
        near = [int(n) for n in e.hint.split("=")[1].split(",")]
        for side, good in zip((h, w), near if len(near) == 2 else near * 2, strict=True):
            assert good % 32 == 0 and good > 0
            assert abs(side - good) <= min(abs(side - m) for m in range(32, 4160, 32))


@pytest.mark.parametrize("bad", [(320, 320, 320), (320.5, 320), True, (0,), ()])
def test_imgsz_that_is_no_size(bad: object) -> None:
    with pytest.raises(EdgesegError):
        ExportOptions(imgsz=bad)  # type: ignore[arg-type]


def test_one_side_makes_a_square() -> None:
    assert ExportOptions(imgsz=320).size == (320, 320)
    assert ExportOptions(imgsz=[320, 640]).size == (320, 640)
    assert ExportOptions().size == (640, 640)


@pytest.mark.parametrize(
    "values",
    [{"half": True, "int8": True}, {"head": "no"}, {"batch": 0}, {"batch": True}, {"images": -1}],
)
def test_values_that_no_format_takes(values: dict) -> None:
    with pytest.raises(EdgesegError):
        ExportOptions(**values)


def test_precision() -> None:
    assert ExportOptions().precision is None
    assert ExportOptions(half=True).precision == "fp16"
    assert ExportOptions(int8=True).precision == "int8"


def test_an_option_that_the_format_does_not_take_lists_those_it_takes(toys) -> None:
    toys.add("plain", options=["imgsz", "batch"])
    with pytest.raises(EdgesegError, match="does not take opset") as e:
        check_options(target_by_name("plain"), ExportOptions.of(opset=17))
    assert "plain takes: imgsz, batch" in str(e.value)
    for values in ({"half": True}, {"int8": True}, {"head": "decoded"}, {"simplify": False}):
        with pytest.raises(EdgesegError, match="does not take"):
            check_options(target_by_name("plain"), ExportOptions.of(**values))


def test_the_value_that_holds_anyway_asks_for_nothing(toys) -> None:
    toys.add("plain", options=["imgsz"])
    options = ExportOptions(imgsz=640, half=False, int8=False, dynamic=False, batch=1, nms=False)
    assert options.given() == {}
    assert check_options(target_by_name("plain"), options) == "fp32"


def test_quantizing_options_belong_to_int8(toys) -> None:
    toys.add("small", precisions=["fp32", "int8"], options=["imgsz", "int8"])
    small = target_by_name("small")
    assert check_options(small, ExportOptions(int8=True, data="d.yaml", recipe="int8", images=8, seed=1)) == "int8"
    assert check_options(small, ExportOptions(data="d.yaml")) == "fp32"  # people name the model's data with every command
    for values in ({"recipe": "int8"}, {"images": 8}, {"seed": 1}):
        with pytest.raises(EdgesegError, match="belongs to int8"):
            check_options(small, ExportOptions(**values))


def test_a_format_that_is_always_int8_needs_no_flag(toys) -> None:
    toys.add("stick", precisions=["int8"], options=["imgsz"])
    stick = target_by_name("stick")
    assert check_options(stick, ExportOptions(data="d.yaml")) == "int8"
    assert check_options(stick, ExportOptions(int8=True)) == "int8"
    with pytest.raises(EdgesegError, match="does not take half"):
        check_options(stick, ExportOptions(half=True))


def test_job_options_are_those_given_and_taken(toys) -> None:
    toys.add("rich", options=["imgsz", "opset", "dynamic", "batch", "half"], precisions=["fp32", "fp16"], heads=["raw"])
    rich = target_by_name("rich")
    assert options_for(rich, ExportOptions.of(opset=17, dynamic=True, batch=4, half=True, imgsz=320)) == {
        "opset": 17,
        "dynamic": True,
    }
    assert "head" not in takes(rich)


@pytest.mark.parametrize("values", [{"int8": True}, {"dynamic": True}, {"batch": 2}, {"head": "raw"}])
def test_what_nms_excludes(values: dict[str, object]) -> None:
    with pytest.raises(EdgesegError, match="exclude each other"):
        ExportOptions(nms=True, **values)  # type: ignore[arg-type]
    assert ExportOptions(nms=True).head == ExportOptions(head="nms").head == "nms"


def test_an_option_says_who_takes_it(toys) -> None:
    toys.add("plain", options=["imgsz"])
    toys.add("able", options=["imgsz", "keras"])
    with pytest.raises(EdgesegError, match=r"does not take keras; .*able can"):
        check_options(target_by_name("plain"), ExportOptions.of(keras=True))


def test_limits_are_the_formats_own(toys) -> None:
    toys.add("narrow", own={"opset": {"type": "int", "least": 3, "most": 5}, "speed": {"type": "float", "least": 0.5}})
    assert check_options(target_by_name("narrow"), ExportOptions.of(opset=5)) == "fp32"
    with pytest.raises(EdgesegError, match="takes opset from 3 to 5, not 6"):
        check_options(target_by_name("narrow"), ExportOptions.of(opset=6))
    with pytest.raises(EdgesegError, match="takes speed from"):
        check_options(target_by_name("narrow"), ExportOptions.of(speed=0.1))
    with pytest.raises(EdgesegError, match="takes a whole number for opset"):
        check_options(target_by_name("narrow"), ExportOptions.of(opset=4.5))
    with pytest.raises(EdgesegError, match="no option 'sped'") as e:
        ExportOptions.of(sped=1)
    assert "Did you mean 'speed'" in e.value.hint


def test_a_format_outside_the_tree_adds_an_option_of_its_own(toys, tmp_path) -> None:
    """It stands in the help, is bounded, and reaches the converter; the core knows nothing of it."""
    speed = {"type": "int", "least": 1, "most": 9, "default": 3, "help": "How fast the toy runs."}
    toys.add("quick", "def convert(job):\n    job.output.write_text(str(job.options['speed']))\n", own={"speed": speed})
    done = subprocess.run([sys.executable, "-m", "edgeseg", "export", "--help"], capture_output=True, text=True, check=True)
    assert "--speed" in done.stdout and "How fast the toy runs" in done.stdout and "default: (3)" in done.stdout
    words = [sys.executable, "-m", "edgeseg", "export", str(toys.model), "--format", "quick", "--out", str(tmp_path / "o")]
    subprocess.run([*words, "speed=7"], check=True, capture_output=True)
    assert (tmp_path / "o" / "net.quick").read_text() == "7"
    bad = subprocess.run([*words, "--speed", "10"], capture_output=True, text=True, check=False)
    assert bad.returncode == 2 and "takes speed from 1 to 9, not 10" in " ".join(bad.stderr.split())


def test_a_head_that_integers_cannot_serve_is_refused_before_any_work() -> None:
    with pytest.raises(EdgesegError, match="head=decoded with int8") as e:
        check_options(target_by_name("ncnn"), ExportOptions(int8=True, head="decoded"))
    assert "head=raw" in e.value.hint
    assert check_options(target_by_name("ncnn"), ExportOptions(head="decoded")) == "fp32"
    assert check_options(target_by_name("tflite"), ExportOptions(int8=True, head="decoded")) == "int8"
