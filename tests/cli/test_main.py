"""Exit codes, help, what is printed where."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg import __version__, cli
from edgeseg.cli import console
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.quantize.recipe import load_recipe
from edgeseg.resources import demo_checkpoint


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    return tmp_path


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0 and __version__ in capsys.readouterr().out
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name, (_, _, panel) in cli.COMMANDS.items() if panel)
    assert cli.run([]) in (0, 2)


@pytest.mark.parametrize("name", sorted({n for n, (_, _, panel) in cli.COMMANDS.items() if panel}))
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([name, "--help"]) == 0 and "Usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raised", "code", "says"),
    [
        (EdgesegError("bad", path="f.txt", line=3, hint="Do this"), 2, "error: f.txt:3: bad. Do this"),
        (StepFailed("crashed"), 1, "error: crashed"),
        (KeyboardInterrupt(), 130, "error: interrupted"),
        (OSError(28, "No space left on device", "x.bin"), 2, "error: x.bin: no space left on device. Free some space"),
        (PermissionError(13, "Permission denied", "x"), 2, "error: x: permission denied."),
        (MemoryError(), 2, "error: out of memory"),
        (ModuleNotFoundError("No module named 'q'", name="q"), 2, "error: the package q is needed"),
        (ValueError("two\nlines"), 70, "error: unexpected ValueError: two (set EDGESEG_DEBUG=1"),
    ],
)
def test_exit_codes(raised: BaseException, code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails(argv: list[str]) -> int:
        raise raised

    monkeypatch.delenv("EDGESEG_DEBUG", raising=False)
    monkeypatch.setattr(cli, "_run", fails)
    assert cli.run(["doctor"]) == code
    err = capsys.readouterr().err
    assert err.startswith(says) and err.count("\n") == 1
    monkeypatch.setenv("EDGESEG_DEBUG", "1")
    cli.run(["doctor"])
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_in_the_middle_keeps_what_is_done(
    here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from edgeseg.predict import result

    calls = iter([1, 2])
    real = result.predict_frame

    def stops(*words: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(result, "predict_frame", stops)
    cv2.imwrite("b.png", np.zeros((8, 8, 3), np.uint8))
    assert cli.run(["predict", str(tiny), "*.png", "json=o.json", "out=o"]) == 130
    assert capsys.readouterr().err.endswith("error: interrupted\n")
    assert json.loads(Path("o.json").read_text())["count"] == 1 and Path("o/a.png").exists()


def test_broken_pipe_is_quiet(here: Path, tiny: Path) -> None:
    words = [sys.executable, "-m", "edgeseg.cli", "predict", str(tiny), *["a.png"] * 200, "--no-save"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
        assert p.stdout is not None and p.stderr is not None
        p.stdout.readline()
        p.stdout.close()
        err = p.stderr.read()
    assert b"Traceback" not in err and b"error" not in err and p.returncode == 1


def test_predict_saves_pictures_labels_and_json(here: Path, tiny: Path, capsys: Any) -> None:
    assert cli.run(["predict", str(tiny), "source=a.png", "conf=0", "max_det=3", "--save-txt", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["out"] == str(Path("runs/predict/exp")) and "saved in" in err
    assert len(found["images"][0]["detections"]) == 3
    assert sorted(p.name for p in Path("runs/predict/exp").rglob("*.*")) == ["a.png", "a.txt"]
    assert cli.run(["predict", str(tiny), "a.png", "save=False"]) == 0 and not Path("runs/predict/exp2").exists()
    assert cli.run(["predict", str(tiny), "a.png"]) == 0 and Path("runs/predict/exp2/a.png").exists()


def test_info_of_an_artifact(here: Path, tiny: Path, capsys: Any) -> None:
    assert cli.run(["export", str(tiny), "format=torchscript", "imgsz=64", "out=x", "json=e.json"]) == 0
    made = json.loads(Path("e.json").read_text())["exports"][0]
    assert made["path"].endswith("tiny-seg.torchscript") and made["size"] > 0
    capsys.readouterr()
    assert cli.run(["info", made["path"]]) == 0
    assert "score_8" in capsys.readouterr().out
    assert cli.run(["info", made["path"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["names"] == ["cat", "dog"]


def test_the_newest_trained_model_is_the_default(here: Path, tiny: Path, capsys: Any) -> None:
    best = here / "runs/train/exp/weights/best.pt"
    best.parent.mkdir(parents=True)
    best.write_bytes(tiny.read_bytes())
    assert cli.run(["predict", "a.png"]) == 0 and cli.run(["info"]) == 0
    assert "best.pt" in capsys.readouterr().out


def test_doctor_toolchain_graph(capsys: Any) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    rows = {r["format"]: r for r in json.loads(capsys.readouterr().out)["formats"]}
    assert rows["torchscript"]["run"] == "yes"
    assert cli.run(["doctor"]) == 0 and cli.run(["toolchain", "list"]) == 0
    assert "torchscript" in capsys.readouterr().out
    assert cli.run(["graph", "format=torchscript,onnx"]) == 0
    assert "torchscript" in capsys.readouterr().out
    assert cli.run(["data", "list"]) == 0 and "coco128-seg" in capsys.readouterr().out


def test_show_needs_a_display(here: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform.startswith("linux"):
        assert cli.run(["predict", str(tiny), "a.png", "--show"]) == 2 and "display" in capsys.readouterr().err


def test_one_model_that_fails_does_not_lose_the_others(here: Path, tiny: Path, capsys: Any) -> None:
    data = make_shapes(here / "shapes", train=1, val=2, size=64, seed=1)
    demo, words = str(demo_checkpoint()), [f"data={data}", "imgsz=64", "--json", "o.json"]
    assert cli.run(["validate", demo, "no.onnx", str(tiny), *words]) == 1
    out, err = capsys.readouterr()
    assert [m["path"] for m in json.loads(Path("o.json").read_text())["models"]] == [demo] and "box AP" in out
    assert "no.onnx: no such file" in err and "the model has 2 classes, the dataset has 4" in err
    assert cli.run(["validate", "no.onnx", *words]) == 2 and cli.run(["validate", "no.onnx", "no.tflite", *words]) == 1
    assert cli.run(["validate", "no.onnx", str(tiny), "--reference", demo, "--html", "p.html", *words]) == 1
    err = capsys.readouterr().err
    assert f"{tiny}: the model has 2 classes, the dataset has 4" in err and "no.onnx: no.onnx" not in err


@pytest.mark.parametrize(
    ("word", "says"),
    [("limit=0", "limit"), ("limit=-1", "limit"), ("threads=0", "threads 0"), ("threads=100000", "threads 100000")],
)
def test_numbers_that_mean_nothing_are_refused(here: Path, tiny: Path, word: str, says: str, capsys: Any) -> None:
    data = make_shapes(here / "shapes", train=1, val=1, size=64, seed=1)
    assert cli.run(["validate", str(tiny), f"data={data}", word]) == 2 and says in capsys.readouterr().err


HINT = "Validate on the dataset that the model was trained for"


def test_what_is_odd_about_a_dataset_is_told_beside_a_reference(here: Path, capsys: Any) -> None:
    data = make_shapes(here / "shapes", train=1, val=3, size=64, seed=1)
    sorted((here / "shapes/images/val").iterdir())[1].write_bytes(b"no image")
    words = ["--reference", str(demo_checkpoint()), f"data={data}", "imgsz=64", "--html", "p.html", "--json", "o.json"]
    assert cli.run(["validate", str(demo_checkpoint()), *words]) == 0
    err = capsys.readouterr().err
    assert "1 of 3 images" in err and json.loads(Path("o.json").read_text())["images"] == 2
    shutil.rmtree(here / "shapes/annotations")
    text = Path(data).read_text()
    Path(data).write_text(text.replace("circle", "disc"))
    assert cli.run(["validate", str(demo_checkpoint()), *words]) == 0
    assert "'circle' is 'disc' in the dataset" in capsys.readouterr().err
    Path(data).write_text(text + "  4: hexagon\n")
    for command in (
        ["validate", str(demo_checkpoint()), *words],
        ["benchmark", str(demo_checkpoint()), f"data={data}", "format=onnx"],
    ):
        assert cli.run(command) == 2
        assert capsys.readouterr().err == f"error: {data}: the model has 4 classes, the dataset has 5. {HINT}\n"


def test_train_passes_further_options_on(here: Path, capsys: Any) -> None:
    assert cli.run(["train", "x.yaml", "data=d.yaml", "mosaik=0.5"]) == 2
    assert "Did you mean 'mosaic'" in capsys.readouterr().err


def test_tables_and_sizes(capsys: Any) -> None:
    console.table("title", ("name", "n"), [("a", 1), ("long name", 0.123456), ("c", float("nan")), ("d", 0.5)])
    out = "title\nname            n\na               1\nlong name  0.1235\nc               -\nd          0.5000\n"
    assert capsys.readouterr().out == out
    assert [console.size(n) for n in (999, 1500, 3_400_000)] == ["999 B", "1.5 kB", "3.4 MB"]


def test_json_is_written_whole_or_not_at_all(here: Path) -> None:
    with pytest.raises(ValueError), console.json_file("o.json") as stream:
        console.write_json(stream, {"a": 1})
        raise ValueError
    assert not list(here.glob("*.json*")) and not list(here.glob(".o.json*"))
    with console.json_file("o.json") as stream:
        console.write_json(stream, {"a": float("nan"), 1: (2, float("inf"))})
    assert json.loads(Path("o.json").read_text()) == {"a": None, "1": [2, None]}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_json_goes_into_a_pipe_that_stays_one(here: Path) -> None:
    os.mkfifo("pipe")
    words = [sys.executable, "-c", "import json; print(json.load(open('pipe')))"]
    reader = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    console.as_json("pipe", {"a": 1})
    assert reader.communicate(timeout=20)[0] == "{'a': 1}\n" and stat.S_ISFIFO(os.stat("pipe").st_mode)


def test_a_file_of_another_kind_is_not_lost_to_a_report(here: Path, capsys: Any) -> None:
    """A word in the wrong place: ``validate a.pt --json b.onnx`` for ``validate a.pt b.onnx --json``."""
    Path("b.onnx").write_bytes(b"\x08model")
    for words in (["--json", "b.onnx"], ["--html", "b.onnx"], ["--reference", "c.pt", "--html", "b.onnx"]):
        assert cli.run(["validate", "no.pt", *words]) == 2
        assert capsys.readouterr().err.startswith("error: b.onnx: another file is there, which would be lost. ")
    assert cli.run(["info", str(demo_checkpoint()), "--json", "b.onnx"]) == 2
    assert Path("b.onnx").read_bytes() == b"\x08model" and not list(here.glob(".b*"))
    Path("o.json").write_text("[1]")
    assert cli.run(["info", str(demo_checkpoint()), "--json", "o.json"]) == 0 and "demo" in Path("o.json").read_text()


def test_where_json_cannot_go_is_said_before_any_work(here: Path, capsys: Any) -> None:
    for place in ("nowhere/o.json", str(here)):
        for words in (["validate"], ["sensitivity"], ["benchmark"], ["validate", "--reference=no"]):
            assert cli.run([*words, "no.pt", f"--json={place}"]) == 2
            assert capsys.readouterr().err.startswith(f"error: {place}: ")


@pytest.mark.slow
def test_demo(here: Path, capsys: Any) -> None:
    assert cli.run(["demo", "--json", "o.json"]) == 0
    found = json.loads(Path("o.json").read_text())
    first, *others = found["models"]
    assert first["metrics"]["box"]["map"] > 0.5 and len(others) == 2
    for one in others:
        assert one["fidelity"]["matched"] > 0.95 and one["metrics"]["seg"]["map"] > first["metrics"]["seg"]["map"] - 0.02
    assert all(Path(p).is_file() for p in found["pictures"]) and "pictures in" in capsys.readouterr().out


@pytest.mark.slow
def test_interrupting_an_export_leaves_nothing(here: Path, tiny: Path) -> None:
    words = [sys.executable, "-m", "edgeseg.cli", "export", str(tiny), "format=onnx", "imgsz=64", "out=o", "--rebuild"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        assert p.stderr is not None
        p.stderr.readline()
        p.send_signal(signal.SIGINT)
        err = p.stderr.read()
    assert p.returncode == 130 and "error: interrupted. The steps that were done" in err and "Traceback" not in err
    assert not Path("o").exists() or not list(Path("o").iterdir())


def test_what_ascii_cannot_write_is_written_otherwise(tmp_path: Path) -> None:
    (tmp_path / "katze ü.jpg").touch()
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}

    def said(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "edgeseg", *words], capture_output=True, cwd=tmp_path, env=env)
        assert done.returncode in (0, 2), done.stderr
        return (done.stdout + done.stderr).decode("ascii")

    assert "|- onnx fp32" in said("graph", "--format", "onnx,tflite") and "`- " in said("graph", "--format", "onnx")
    assert "none of 1 images" in said("predict", str(demo_checkpoint()), "katze ü.jpg")


def test_a_calibration_set_is_looked_at_as_an_export_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_shapes(tmp_path / "shapes", train=40, val=2, size=32, seed=1)
    assert cli.run(["calibrate", "inspect", str(data)]) == 0
    assert f"{load_recipe('int8').images} of {load_recipe('int8').images} asked for" in capsys.readouterr().out
    assert cli.run(["calibrate", "inspect", f"data={data}", "images=5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 5


def test_a_command_without_options_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "list", "--jsom"]) == 2
    assert "data list has no option '--jsom'. It has none. See: edgeseg data list --help" in capsys.readouterr().err


def test_a_drawn_graph_goes_into_a_new_folder_or_says_why_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["graph", "--format", "onnx", "--svg", str(tmp_path / "new" / "g.svg")]) == 0
    assert (tmp_path / "new" / "g.svg").read_text(encoding="utf-8").startswith("<svg")
    (tmp_path / "file").touch()
    assert cli.run(["graph", "--format", "onnx", "--svg", str(tmp_path / "file" / "g.svg")]) == 2
    assert "cannot be written" in capsys.readouterr().err
    (tmp_path / "b.onnx").write_bytes(b"model")
    assert cli.run(["graph", "--format", "onnx", "--svg", str(tmp_path / "b.onnx")]) == 2
    assert (tmp_path / "b.onnx").read_bytes() == b"model" and "would be lost" in capsys.readouterr().err
