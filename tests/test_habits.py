"""Command lines and options of people who come from other YOLO tools."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from edgeseg import EdgesegError
from edgeseg.cli import COMMANDS, run
from edgeseg.data.dataset import load_dataset
from edgeseg.data.images import read_image
from edgeseg.habits import PREDICTION, VALIDATION, check, command_line
from edgeseg.resources import demo_checkpoint

sys.path.insert(0, str(Path(__file__).with_name("porting")))
from options import DOES, SAME, VALUES


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("segment train data=a.yaml model=b.pt", "train data=a.yaml model=b.pt task=segment"),
        ("detect train data=a.yaml", "train data=a.yaml task=detect"),
        ("detect predict model=b.pt source=c.jpg", "predict model=b.pt source=c.jpg"),
        ("segment val model=b.pt", "val model=b.pt"),
        ("val segment model=b.pt", "val model=b.pt"),
        ("train segment data=a.yaml", "train data=a.yaml task=segment"),
        ("task=segment mode=train data=a.yaml", "train data=a.yaml task=segment"),
        ("mode=predict model=b.pt source=c.jpg", "predict model=b.pt source=c.jpg"),
        ("export model=b.pt format=onnx", "export model=b.pt format=onnx"),
        ("val task=segment", "val"),
        ("yolo segment predict model=b.pt source=c.jpg", "predict model=b.pt source=c.jpg"),
        ("--version", "--version"),
        ("", ""),
    ],
)
def test_their_command_lines(words: str, ours: str) -> None:
    assert command_line(words.split(), list(COMMANDS)) == ours.split()


@pytest.mark.parametrize("words", ["obb train data=a", "val pose", "task=obb mode=train", "classify predict x.jpg"])
def test_other_tasks_are_refused(words: str) -> None:
    with pytest.raises(EdgesegError, match="is not to be had"):
        command_line(words.split(), list(COMMANDS))


def test_other_modes_and_files_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EdgesegError, match="no command 'track'"):
        command_line(["segment", "track", "x"], list(COMMANDS))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "segment").mkdir()
    assert command_line(["predict", "segment"], list(COMMANDS)) == ["predict", "segment"]


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"batch": 16, "verbose": False, "save_txt": False, "half": False, "workers": 8}, VALIDATION),
        ({"retina_masks": True, "batch": 1, "visualize": False, "augment": False, "half": None}, PREDICTION),
    ],
)
def test_what_is_done_anyway_is_accepted(given: dict[str, Any], known: Any) -> None:
    check("val", given, known)


@pytest.mark.parametrize(("key", "value"), [("half", True), ("single_cls", True), ("augment", True), ("half", 0)])
def test_what_is_not_done_says_what_to_use(key: str, value: Any) -> None:
    with pytest.raises(EdgesegError, match=f"cannot do {key}={value}") as error:
        check("val", {key: value}, VALIDATION)
    assert error.value.hint
    with pytest.raises(EdgesegError, match="no option 'nonsense'"):
        check("val", {"nonsense": 1}, VALIDATION)


def test_a_whole_command_line(tiny: Path, shapes_yaml: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    raw, data = yaml.safe_load(shapes_yaml.read_text()), tmp_path / "two.yaml"
    data.write_text(yaml.safe_dump({**raw, "path": str(shapes_yaml.parent / raw.get("path", "."))}))
    assert run(["segment", "val", f"model={tiny}", f"data={data}", "batch=16", "augment=True"]) == 2
    assert "cannot do augment=True" in capsys.readouterr().err
    assert run(["val", "segment", f"model={tiny}", f"data={data}", "batch=1", "device=cuda:9"]) == 2
    assert "device=cuda:9 is not to be had here" in capsys.readouterr().err
    assert run(["segment", "predict", f"model={tiny}", "source=nothing.jpg", "--verbose", "device=cpu", "half=True"]) == 2
    assert "cannot do half=True" in capsys.readouterr().err
    assert run(["val", f"model={tiny}", "cnof=1"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_as_a_module_and_the_shells_completion() -> None:
    def out(*words: str, **env: str) -> str:
        command = [sys.executable, "-m", "edgeseg", *words]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert out("--version").startswith("edgeseg ")
    for line, wanted in (("edgeseg ex", "export"), ("edgeseg export --im", "--imgsz")):
        assert wanted in out(_EDGESEG_COMPLETE="bash", COMP_LINE=line)
    assert "--install-completion" in out("--help")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("yolo segment predict model=a.onnx source=b.jpg epochs=3", "It is an option of train. See: edgeseg predict --help"),
        ("val model=a.onnx tracker=botsort.yaml", "It is an option of track. See: edgeseg val --help"),
        ("benchmark a.pt device=0", "benchmark cannot do device=0. Leave it out"),
        ("export a.pt project=x", "Use out=FOLDER"),
        ("run a.onnx source=0", "Did you mean 'camera'?"),
        ("predict a.onnx camera=0", "Did you mean 'source'?"),
        ("calibrate inspect a b", "See: edgeseg calibrate inspect --help"),
        ("help", "Use: edgeseg --help"),
        ("yolo settings", "EDGESEG_HOME"),
        ("predict a.onnx b.jpg out=x project=y", "Leave one of them out"),
    ],
)
def test_the_line_says_what_to_type(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words.split()) == 2
    told = capsys.readouterr().err
    assert says in told and "It has" not in told


@pytest.mark.parametrize("key", sorted(VALUES))
@pytest.mark.parametrize("mode", ["predict", "val", "export"])
def test_every_option_of_theirs_is_read_or_refused_with_a_hint_by_the_line(
    mode: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sources = {"predict": ["none.onnx", "none.jpg"], "val": ["none.onnx"], "export": ["none.pt"]}[mode]
    assert run([mode, *sources, f"{key}={VALUES[key]}"]) == 2
    told = capsys.readouterr().err
    does = key in (*DOES[mode].split(), *SAME[mode].split(), *{"export": ["split"]}.get(mode, []))
    assert (sources[0] in told or "no display" in told) == does, told
    assert does or "cannot do" in told or ("It has" not in told and told.strip().endswith("--help")), told


def test_predicting_writes_where_their_words_say(shapes_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (video, picture), words = (
        _sources(shapes_yaml, tmp_path),
        ["project=runs/mine", "name=a", "save_txt", "save_crop", "save_frames"],
    )
    how = ["conf=0.05", "line_width=1", "show_conf=False", "show_labels=False", "show_boxes=False"]
    for _ in range(2):
        assert run(["predict", f"model={demo_checkpoint()}", f"source={video}", *words, *how]) == 0
    assert run(["predict", f"model={demo_checkpoint()}", f"source={picture}", *words, "exist_ok", *how, "save=False"]) == 0
    first = tmp_path / "runs" / "mine" / "a"
    assert sorted(p.name for p in first.parent.iterdir()) == ["a", "a2"]
    assert sorted(p.name for p in first.iterdir()) == ["crops", "labels", "v.mp4", "v_frames"]
    assert sorted(p.name for p in (first / "v_frames").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    labels = {p.stem: len(p.read_text().splitlines()) for p in (first / "labels").iterdir()}
    assert set(labels) == {"v_0", "v_1", "v_2", picture.stem} and labels["v_2"] > 0
    crops = [p.name for p in (first / "crops").rglob("*.jpg")]
    assert len(crops) == len(set(crops)) == sum(labels.values())  # no frame's crop replaces another's


def _sources(shapes_yaml: Path, folder: Path) -> tuple[Path, Path]:
    """A video of three pictures, and a picture."""
    pictures = load_dataset(shapes_yaml).images("val")[:3]
    writer = cv2.VideoWriter(str(folder / "v.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5.0, (160, 160))
    for picture in pictures:
        writer.write(cv2.resize(read_image(picture), (160, 160)))
    writer.release()
    return folder / "v.mp4", pictures[0]
