"""Code that people bring from other YOLO tools runs when its import is changed, or says what to use."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgeseg import YOLO, EdgesegError, Model, cli
from edgeseg.data.dataset import load_dataset
from edgeseg.export.options import ExportOptions
from edgeseg.habits import EXPORT
from edgeseg.predict.sources import Frame, frames
from edgeseg.resources import demo_checkpoint
from edgeseg.training import TrainOptions

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).with_name("porting")))
from options import DOES, SAME, VALUES

CALLS = Path(__file__).with_name("porting") / "calls.py"
REFUSED = {
    "r.boxes.xyxy[0] = 0": "read-only",
    "model.predict(half=True)": "Export with half=True",
    "model.predict(embed=[1])": "model.model, the network",
    "model.predict(visualize=True)": "model.model, the network",
    "model.predict(augment=True)": "Leave it out",
    "model.track(tracker='botsort.yaml')": "ByteTrack's way",
}


def ran(package: str, python: str, model: Path, picture: Path, data: Path, size: int) -> dict:
    command = [python, str(CALLS), package, str(model), str(picture), str(data), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.rpartition("@@@")[2])


def test_their_calls_run_here(shapes_yaml: str) -> None:
    picture = load_dataset(shapes_yaml).images("val")[0]
    found = ran("edgeseg", sys.executable, demo_checkpoint(), picture, Path(shapes_yaml), 160)
    refused = {k: v["refused"] for k, v in found.items() if "refused" in v}
    if "list(r.to_df()['name'])" in refused:  # needs pandas or polars
        assert "pip install pandas" in refused.pop("list(r.to_df()['name'])")
    assert set(refused) == set(REFUSED), refused
    for call, hint in REFUSED.items():
        assert hint in refused[call] and refused[call].startswith(("EdgesegError", "ValueError: assignment destination"))
    gave = {k: v["gave"] for k, v in found.items() if "gave" in v}
    n = gave["len(r)"]
    assert n > 1 and gave["r.boxes.data"] == [n, 6] and gave["for box in r.boxes: box.xyxy[0]"] == [4] * n
    assert gave["model.predict(tensor)"] == 1 and gave["model.predict(max_det=1)"] == 1
    assert gave["model.predict(save=True, project, name)"] == 1 and gave["model.predict(save_crop=True)"] == n
    assert gave["r.save_txt(...)"] == n == gave["len(json.loads(r.to_json()))"]
    assert len(gave["sorted(metrics.results_dict)"]) == 9 and gave["metrics.fitness > 0"] is True
    first, *others = gave["model.track(frame, persist=True, tracker='bytetrack.yaml')[0].boxes.id"]
    assert first == list(range(1, n + 1)) and all(set(first) <= set(ids) for ids in others)
    assert gave["next(model.track(video, stream=True)).boxes.is_track"] is True


def test_tensors_lists_of_files_and_generators_are_sources(tmp_path: Path) -> None:
    import torch

    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    tensor = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) / 255
    (tmp_path / "list.txt").write_text("a.png\n\n" + str(tmp_path / "a.png"))
    every = [
        tensor,
        torch.stack([tensor, tensor]),
        tmp_path / "list.txt",
        (image for _ in range(2)),
        iter([str(tmp_path / "a.png")]),
    ]
    for source, count in zip(every, (1, 2, 2, 2, 1)):
        got = list(frames(source))
        assert len(got) == count and all(isinstance(f, Frame) and np.array_equal(f.image, image) for f in got)
    assert [f.name for f in frames([image, tensor, image])] == ["image0.jpg", "image1.jpg", "image2.jpg"]
    endless = frames(image for _ in iter(int, 1))
    assert isinstance(next(endless), Frame)  # read as it goes
    for wrong in (tensor * 255, tensor[:2], torch.zeros(3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(EdgesegError, match="a tensor of images"):
            list(frames(wrong))
    (got,) = frames(np.clip(image.astype(np.float32) + np.float32(0.3), 0, 255))
    assert isinstance(got, Frame) and got.image.dtype == np.uint8 and np.array_equal(got.image, image)
    assert not next(iter(frames(np.zeros((4, 4, 3))))).image.any()
    for bad in (image / 255, image * 2.0, image - 1.0, np.full((4, 4, 3), np.nan)):
        with pytest.raises(EdgesegError, match=r"floats is BGR in 0\.\.255"):
            list(frames(bad))
    for wrong in (b"0123", {"a.png": 1}):
        with pytest.raises(EdgesegError, match="cannot read images from a"):
            list(frames(wrong))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(EdgesegError, match="no line of it"):
        list(frames(tmp_path / "empty.txt"))


def test_what_cannot_be_says_what_to_use(tmp_path: Path) -> None:
    model = Model(demo_checkpoint())
    with pytest.raises(EdgesegError, match="Did you mean 'on_train_end'"):
        model.add_callback("on_train_ends", print)
    with pytest.raises(EdgesegError, match="task 'pose'"):
        YOLO("x.pt", task="pose")
    with pytest.raises(EdgesegError, match="for task segment, not detect"):
        YOLO(demo_checkpoint(), task="detect").names  # noqa: B018
    with pytest.raises(EdgesegError, match="vid_stride"):
        model.predict(np.zeros((9, 9, 3), np.uint8), vid_stride=0)
    with pytest.raises(EdgesegError, match="no option 'nonsense'"):
        model.predict(np.zeros((9, 9, 3), np.uint8), nonsense=1)
    with pytest.raises(EdgesegError, match="a folder is in the way"):
        model.save(tmp_path)
    assert model.save(tmp_path / "new" / "copy.pt").read_bytes() == demo_checkpoint().read_bytes()
    with pytest.raises(EdgesegError, match="cuda:7"):
        model.to("cuda:7")


def test_callbacks_hear_of_training() -> None:
    heard: list[tuple[str, object]] = []
    model = Model(demo_checkpoint())
    assert model._listeners() == []
    model.add_callback("on_train_start", lambda trainer: heard.append(("start", trainer)))
    model.add_callback("on_fit_epoch_end", lambda trainer: heard.append(("epoch", trainer)))
    (listener,) = model._listeners()
    listener.on_start("T")
    listener.on_epoch("T", {}, True)
    listener.on_stop("T")
    assert heard == [("start", "T"), ("epoch", "T")]


def test_saving_makes_no_folder_before_something_is_in_it(tmp_path: Path, shapes_yaml: str) -> None:
    model, picture = Model(demo_checkpoint()), load_dataset(shapes_yaml).images("val")[0]
    with pytest.raises(EdgesegError):
        model.predict(str(tmp_path / "no.jpg"), save=True, project=str(tmp_path / "p"))
    assert not (tmp_path / "p").exists()
    for name in ("exp", "exp2"):
        model.predict(str(picture), save=True, save_txt=True, project=str(tmp_path / "p"), show_labels=False)
        assert sorted(p.name for p in (tmp_path / "p" / name).iterdir()) == [picture.name, "labels"]


def test_the_command_line_takes_their_words(
    tmp_path: Path, shapes_yaml: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    picture, model = str(load_dataset(shapes_yaml).images("val")[0]), str(demo_checkpoint())
    assert (
        cli.run(["val", f"model={model}", f"data={shapes_yaml}", "limit=2", "save_json", "plots", "agnostic_nms=True"]) == 0
    )
    assert {"predictions.json", "BoxPR_curve.png"} <= {p.name for p in Path("runs/validate/exp").iterdir()}
    assert cli.run(["val", model, f"data={shapes_yaml}", "limit=2", "rect", "save_json=True", "out=o"]) == 0
    assert [p.name for p in Path("o").iterdir()] == ["predictions.json"] and "saved in o" in capsys.readouterr().out
    assert cli.run(["predict", model, picture, "agnostic_nms", "rect", "save_crop", "save_txt", "save_conf", "out=p"]) == 0
    found = Model(model).predict(picture, agnostic_nms=True, rect=True)[0]
    assert len(list(Path("p/crops").rglob("*.jpg"))) == len(found) > 0
    text = next(Path("p/labels").iterdir()).read_text()
    assert [float(line.split()[-1]) for line in text.splitlines()] == pytest.approx(found.boxes.conf.tolist(), rel=1e-4)
    capsys.readouterr()
    refused = {
        "Leave --reference out": ["val", model, f"data={shapes_yaml}", "reference=x.pt", "plots"],
        "Add --save-json": ["val", model, f"data={shapes_yaml}", "out=q"],
        "less than 1": ["predict", model, picture, "vid_stride=0"],
    }
    for said, argv in refused.items():
        assert cli.run(argv) == 2 and said in capsys.readouterr().err


def test_frames_of_a_video_are_saved_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film = cv2.VideoWriter(str(tmp_path / "f.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 5, (96, 64))
    for i in range(6):
        film.write(np.full((64, 96, 3), 40 * i, np.uint8))
    film.release()
    model, out = Model(demo_checkpoint()), {"project": tmp_path, "name": "r", "imgsz": 96}
    got = model.predict(str(tmp_path / "f.mp4"), save_frames=True, vid_stride=2, **out)
    assert [r.number for r in got] == [0, 2, 4] and {r.save_dir for r in got} == {str(tmp_path / "r")}
    assert sorted(p.name for p in (tmp_path / "r" / "f_frames").iterdir()) == ["0.jpg", "2.jpg", "4.jpg"]
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if sys.platform == "linux":
        with pytest.raises(EdgesegError, match="there is no display"):
            model.predict(str(tmp_path / "f.mp4"), show=True, **out)


def test_a_benchmark_gives_the_table(shapes_yaml: str, tmp_path: Path) -> None:
    pytest.importorskip("faster_coco_eval")
    table = YOLO(demo_checkpoint()).benchmark(
        data=shapes_yaml, format="torchscript", imgsz=160, limit=1, out=tmp_path, verbose=False, device="cpu"
    )
    first, second = table.rows()
    assert (first["format"], second["format"]) == ("network", "torchscript") and second["agreement"] == 1.0
    assert list(table) == [first, second] and len(str(table).splitlines()) == 3 and first["ms"] > 0
    assert (tmp_path / "demo-seg.torchscript").exists()
    with pytest.raises(EdgesegError, match="timed on the CPU"):
        YOLO(demo_checkpoint()).benchmark(data=shapes_yaml, device=0)


@pytest.mark.parametrize("mode", DOES)
def test_every_option_of_theirs_does_what_it_says_or_is_refused(mode: str, shapes_yaml: str, tmp_path: Path) -> None:
    """All that they document: run with a value that is not the default, or refused with a hint."""
    model, here = Model(demo_checkpoint()), {"project": str(tmp_path / "r"), "exist_ok": True}
    picture = str(load_dataset(shapes_yaml).images("val")[0])
    does, same = DOES[mode].split(), SAME[mode].split()
    for key, value in VALUES.items():
        value = {"data": shapes_yaml, "project": here["project"]}.get(key, value)
        if key == "show" and not os.environ.get("DISPLAY"):
            continue  # it needs a display: see above
        refused = None
        try:
            if mode in ("predict", "track"):
                list(getattr(model, mode)(picture, **{**here, "imgsz": 96, key: value}))
            elif mode == "val":
                model.val(**{**here, "data": shapes_yaml, "limit": 1, "imgsz": 96, key: value})
            elif mode == "train":
                TrainOptions.from_flat({"model": str(demo_checkpoint()), "data": shapes_yaml, key: value})
            elif key in does:
                ExportOptions.of(**{k: v for k, v in {key: value}.items() if k not in EXPORT and k != "format"})
            else:
                model.export(format="onnx", **{key: value, "out": tmp_path})
        except EdgesegError as e:
            refused = e
        if key in does or (key in same and mode != "export"):
            assert refused is None, (key, str(refused))
        elif key not in same:
            assert refused is not None and refused.hint and key in str(refused), key


def test_options_of_another_mode_say_so() -> None:
    model = Model(demo_checkpoint())
    for mode, key in (("predict", "epochs"), ("val", "vid_stride"), ("export", "lr0"), ("predict", "tracker")):
        with pytest.raises(EdgesegError, match=r"It is an option of (train|predict|track)"):
            getattr(model, mode)("x.yaml", **{key: VALUES[key]}) if mode != "export" else model.export(**{key: 1})
    with pytest.raises(EdgesegError, match="It is an option of predict"):
        TrainOptions.from_flat({"data": "x.yaml", "conf": 0.3})
    with pytest.raises(EdgesegError, match="split: of a search"):
        model.export(split="train")
    with pytest.raises(EdgesegError, match="built for the GPU of its board"):
        model.export(device="dla:0")
    assert (
        TrainOptions.from_flat({"resume": True}).resume == "true"
        and TrainOptions.from_flat({"data": "x.yaml", "resume": False}).resume is None
    )


def test_the_table_names_every_call() -> None:
    text = (Path(__file__).parents[1] / "docs" / "porting.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([^`]*)` \| ((?:equal|different|refused).*) \|$", text, re.M))
    tree = ast.parse(CALLS.read_text(encoding="utf-8"))
    (calls,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "CALLS")
    assert isinstance(calls, ast.Dict) and set(table) == {ast.literal_eval(k) for k in calls.keys if k is not None}
    refused = {call for call, outcome in table.items() if outcome.startswith("refused")}
    assert refused == set(REFUSED) - {"r.boxes.xyxy[0] = 0"}
    equal, different = (sum(v.startswith(word) for v in table.values()) for word in ("equal", "different"))
    assert f"**{equal} are equal, {different} differ by design, {len(refused)} are refused**" in text


def test_training_is_asked_for_its_files(tmp_path: Path, shapes_yaml: str) -> None:
    (tmp_path / "tiny.yaml").write_text("variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n")
    heard: list[object] = []
    model = YOLO(tmp_path / "tiny.yaml")
    model.add_callback("on_train_end", heard.append)
    more = {"batch": 4, "workers": 0, "plots": False, "val": False, "verbose": False, "device": "cpu"}
    results = model.train(data=shapes_yaml, epochs=1, imgsz=64, project=str(tmp_path / "runs"), name="a", **more)
    assert len(heard) == 1 and model.trainer is results and results.save_dir == tmp_path / "runs" / "a"
    assert Path(model.trainer.last).is_file() and results.results_dict is results.metrics
    last = results.save_dir / "weights" / "last.pt"
    with pytest.raises(EdgesegError) as caught:
        YOLO(last).train(resume=True)
    assert caught.value.path == last  # that run is complete


def test_what_a_model_lacks_says_what_to_use() -> None:
    model = Model(demo_checkpoint())
    assert not hasattr(model, "tune") and model.info(detailed=True, verbose=False)["task"] == "segment"
    with pytest.raises(AttributeError, match=r"no attribute 'ckpt_path': it is model\.path"):
        model.ckpt_path  # noqa: B018
    with pytest.raises(EdgesegError) as error:
        model.predict("x.jpg", confidence=0.3)
    assert error.value.hint == "Did you mean 'conf'?"
