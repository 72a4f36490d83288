"""Options as people write them who come from other YOLO tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgeseg import EdgesegError
from edgeseg.cli.train import further
from edgeseg.training import TrainOptions
from edgeseg.training.aliases import translated
from edgeseg.training.record import new_folder


def read(**given: Any) -> TrainOptions:
    return TrainOptions.from_flat({"data": "x.yaml", **given})


def test_the_words_of_the_reference_page() -> None:
    o = read(lr0=0.02, lrf=0.1, cos_lr=True, box=6.0, cls=0.4, dfl=1.2, nbs=32, exist_ok=True, cache=False, optimizer="SGD")
    assert (o.lr, o.final_lr, o.schedule, o.nominal_batch) == (0.02, 0.1, "cosine", 32)
    assert (o.gains.box, o.gains.mask, o.gains.score, o.gains.dfl) == (6.0, 6.0, 0.4, 1.2)
    assert (o.exist_ok, o.cache, o.optimizer) == (True, "none", "sgd")
    assert read(cache=True).cache == "ram" and read(cache="disk").cache == "disk"
    assert read(cos_lr=False).schedule == "linear" and read(val=False).validate_every == 0
    assert read(multi_scale=True).multi_scale == 0.5 and read(device=0).device == "0" and read(device=[1]).device == "1"
    assert read(box=6.0, mask_gain=2.0).gains.mask == 2.0 and read(mask_gain=2.0, box=6.0).gains.mask == 2.0
    assert TrainOptions.from_flat(o.to_flat()) == o


def test_the_same_from_the_command_line() -> None:
    words = ["lr0=0.01", "lrf=0.01", "cos_lr=True", "box=7.5", "cls=0.5", "exist_ok=True", "cache=False", "optimizer=SGD"]
    o = read(**further(words), freeze="10")
    assert o.lr == 0.01 and o.schedule == "cosine" and o.exist_ok and o.optimizer == "sgd"
    assert o.freeze == tuple("0123456789")


def test_freeze_by_number_by_list_and_by_name() -> None:
    assert read(freeze=0).freeze == () and read(freeze=1).freeze == ("0",)
    assert read(freeze=[0, 9]).freeze == ("0", "9") == read(freeze="[0, 9]").freeze
    assert (
        read(freeze="backbone, neck.top4").freeze
        == ("backbone", "neck.top4")
        == read(freeze=["backbone", "neck.top4"]).freeze
    )
    for wrong in (101, "999", True):
        with pytest.raises(EdgesegError, match="freeze="):
            read(freeze=wrong)


def test_what_training_does_anyway_is_accepted_and_nothing_else() -> None:
    o = read(
        deterministic=True,
        save=True,
        rect=False,
        single_cls=False,
        fraction=1.0,
        verbose=False,
        overlap_mask=True,
    )
    assert o == read()
    for key, value in {
        "rect": True,
        "single_cls": True,
        "fraction": 0.5,
        "time": 2,
        "dropout": 0.1,
    }.items():
        with pytest.raises(EdgesegError, match=f"{key}={value}") as error:
            read(**{key: value})
        assert error.value.hint


def test_one_option_under_two_names() -> None:
    with pytest.raises(EdgesegError, match="lr0 and lr are the same option"):
        read(lr0=0.1, lr=0.2)


def test_pretrained_as_a_switch() -> None:
    assert read(pretrained=True, model="yolov8n-seg.pt").pretrained is None
    assert read(pretrained=False, model="yolov8n-seg.yaml").pretrained is None
    assert read(pretrained="yolov8n.pt", model="yolov8n-seg.yaml").pretrained == "yolov8n.pt"
    with pytest.raises(EdgesegError, match="names no weights"):
        read(pretrained=True, model="yolov8n-seg.yaml")
    with pytest.raises(EdgesegError, match="starts from a definition"):
        read(pretrained=False, model="yolov8n-seg.pt")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("momentum", "fast", "momentum=fast is no number"),
        ("epochs", "many", "epochs=many is no number"),
        ("epochs", 2.5, "no whole number"),
        ("epochs", [3], "is no number"),
        ("epochs", True, "is no number"),
        ("lr0", "high", "lr=high is no number"),
        ("box", None, ""),
        ("cls", "x", "score_gain=x is no number"),
        ("mosaic", ".inf.", "mosaic=.inf. is no number"),
        ("amp", "maybe", "neither True nor False"),
        ("name", {"a": 1}, "is no text"),
        ("optimizer", "Adam", "optimizer=adam is none of"),
        ("device", "0,1", "several devices"),
        ("cos_lr", "maybe", "neither"),
    ],
)
def test_values_of_the_wrong_type(key: str, value: Any, words: str) -> None:
    if value is None:
        assert read(**{key: value}) == read()
        return
    with pytest.raises(EdgesegError, match=words):
        read(**{key: value})


def test_exist_ok_takes_the_folder_that_is_there(tmp_path: Path) -> None:
    first = new_folder(str(tmp_path), "run")
    assert new_folder(str(tmp_path), "run", exist_ok=True) == first
    assert new_folder(str(tmp_path), "run").name == "run2"
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgesegError, match="a file is where"):
        new_folder(str(tmp_path), "file", exist_ok=True)


def test_a_last_checkpoint_with_resume_as_a_switch_is_the_run_that_goes_on(tmp_path: Path) -> None:
    last, best = tmp_path / "last.pt", tmp_path / "best.pt"
    for file in (last, best):
        file.touch()
    for value in (True, "true", "True"):
        assert translated({"resume": value, "model": str(last)}) == {"resume": str(last)}
    assert translated({"resume": True, "model": str(best)}) == {"resume": "true", "model": str(best)}
    assert translated({"resume": "x/last.pt", "model": str(last)}) == {"resume": "x/last.pt", "model": str(last)}
