"""What annotation tools write into their files: mended and said, or refused before the first write."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgeseg.data.cache import scan
from edgeseg.data.coco import is_segmentation, read_coco
from edgeseg.data.convert import Conversion, Converted, convert_coco
from edgeseg.data.dataset import load_dataset
from edgeseg.data.labels import read_label_file
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.truth import load_truth
from edgeseg.vision import rle
from edgeseg.vision.outline import fill

BOX = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
CATEGORIES = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
SIZE = (20, 30)


def picture(file: Path, size: tuple[int, int] = SIZE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(file.suffix, np.zeros((*size, 3), np.uint8))[1].tofile(file)
    return file


def image(number: Any, name: str, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    return {"id": number, "file_name": name, "height": size[0], "width": size[1]}


def thing(number: Any, of: Any, segmentation: Any = None, **more: Any) -> dict[str, Any]:
    value = [BOX] if segmentation is None else segmentation
    base = {"id": number, "image_id": of, "category_id": 1, "iscrowd": 0, "bbox": [2, 2, 6, 6], "segmentation": value}
    return base | more


def write(file: Path, images: list[Any], annotations: list[Any], categories: list[Any] = CATEGORIES) -> Path:
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return file


def run(tmp_path: Path, images: list[Any], annotations: list[Any], **more: Any) -> Conversion:
    """Convert the split train from tmp_path/imgs to tmp_path/out, and open the result as training and validation do."""
    categories = more.pop("categories", CATEGORIES)
    file = write(tmp_path / "train.json", images, annotations, categories)
    done = convert_coco({"train": file}, {"train": tmp_path / "imgs"}, tmp_path / "out", **more)
    opens(done, tmp_path)
    return done


def opens(done: Conversion, tmp_path: Path) -> None:
    dataset = load_dataset(done.yaml)
    for split, part in done.splits.items():
        found = scan(dataset, split, folder=tmp_path / "cache")
        assert (len(found.records), found.instances) == (part.images, part.objects)
        truth = load_truth(dataset, split)
        assert truth.source is not None and truth.names == done.names
        every = [a for r in found.records for a in truth.of(r.path, r.shape) if not a["iscrowd"]]
        assert len(every) == part.objects


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refuse(tmp_path: Path, what: str, images: list[Any], annotations: list[Any]) -> None:
    before = state(tmp_path)
    with pytest.raises(EdgesegError, match=what) as caught:
        run(tmp_path, images, annotations)
    assert caught.value.hint and not (tmp_path / "out").exists()
    assert set(state(tmp_path)) == {*before, "train.json"}


def labels_of(tmp_path: Path, name: str) -> list[np.ndarray]:
    return [x.polygon * (SIZE[1], SIZE[0]) for x in read_label_file(tmp_path / f"out/labels/train/{name}.txt", 2).labels]


def test_everything_left_out_is_counted_and_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "spare.jpg"):
        picture(tmp_path / "imgs" / name)
    (tmp_path / "imgs/broken.png").write_bytes(b"nothing")
    done = run(
        tmp_path,
        [image(1, "a.jpg"), image(2, "gone.jpg"), image(3, "b.jpg"), image(4, "broken.png")],
        [
            thing(1, 1),
            thing(2, 1),
            thing(3, 7),
            thing(4, 3, rle.encode(np.ones(SIZE, bool)), iscrowd=1),
            thing(5, 3, [[1.0, 1.0, 5.0, 1.0, 9.0, 1.0]]),
            thing(6, 3, "text"),
        ],
    )
    assert done.splits["train"] == Converted(
        2,
        1,
        {
            "objects of no listed image": ["3"],
            "listed images without a file": ["gone.jpg"],
            "images that cannot be read": ["broken.png"],
            "files that are not listed": ["broken.png", "spare.jpg"],
            "repeated objects": ["2"],
            "crowds": ["4"],
            "objects without area": ["5"],
            "objects that cannot be read: it has no segmentation": ["6"],
        },
        {},
    )
    assert (tmp_path / "out/train.txt").read_text() == "./images/train/a.jpg\n./images/train/b.jpg\n"


def test_crowds_become_objects_on_request(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    mask = np.zeros(SIZE, bool)
    mask[5:15, 5:20] = True
    painted = thing(1, 1, {"size": list(SIZE), "counts": rle.from_text(rle.encode(mask)["counts"]).tolist()}, iscrowd=1)
    done = run(tmp_path, [image(1, "a.jpg")], [painted], crowds=True)
    assert done.splits["train"].objects == 1 and not done.splits["train"].left_out
    np.testing.assert_array_equal(fill(labels_of(tmp_path, "a"), SIZE), mask)


def test_one_file_name_under_two_ids_is_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    other = [12.0, 2.0, 18.0, 2.0, 18.0, 8.0]
    done = run(tmp_path, [image(1, "a.jpg"), image(2, "a.jpg")], [thing(1, 1), thing(2, 2, [other]), thing(3, 2)])
    part = done.splits["train"]
    assert (part.images, part.objects) == (1, 2) and part.left_out == {"repeated objects": ["3"]}
    assert part.notes == {"images listed twice, joined": ["a.jpg"]}
    file = write(tmp_path / "b.json", [image(1, "a.jpg"), image(2, "a.jpg", (9, 9))], [])
    with pytest.raises(EdgesegError, match=r"a\.jpg is listed twice, with two sizes"):
        read_coco(file)
    file = write(tmp_path / "b.json", [image(1, "a.jpg"), image(1, "b.jpg")], [])
    with pytest.raises(EdgesegError, match=r"a\.jpg and b\.jpg have the same id 1"):
        read_coco(file)


def test_images_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        picture(tmp_path / "imgs" / name)
    images = [image(1, "a.jpg"), image(2, "a.png")]
    refuse(tmp_path, r"a\.jpg and a\.png would share one label file", images, [thing(1, 1)])
    refuse(tmp_path, r"x/b\.png and y/b\.png would be one file", [image(1, "x/b.png"), image(2, "y/b.png")], [])


def test_sizes_are_compared_with_the_images(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "imgs" / name)
    wide, turned = [thing(1, 1, [[2.0, 2.0, 28.0, 2.0, 28.0, 8.0]])], SIZE[::-1]
    done = run(tmp_path, [image(1, "a.jpg", turned), image(2, "b.jpg", turned)], [*wide, thing(2, 2)])
    assert list(done.splits["train"].notes.values()) == [["a.jpg", "b.jpg"]]
    np.testing.assert_allclose(labels_of(tmp_path, "b")[0].ravel(), BOX, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "segmentation", "what"),
    [
        (SIZE[::-1], [BOX], r"width and height are exchanged for a\.jpg, and nothing shows"),
        (SIZE[::-1], [[2.0, 2.0, 8.0, 2.0, 8.0, 28.0]], r"a\.jpg is 30x20, there 20x30"),
        ((20, 20), [BOX], r"a\.jpg is 30x20, there 20x20"),
        ((10, 15), [[2.0, 2.0, 28.0, 2.0, 28.0, 18.0]], r"a\.jpg is 30x20, there 15x10"),
        ((-1, 30), [BOX], "height and width are no sizes"),
        ((float("inf"), 30), [BOX], "height and width are no sizes"),
        (SIZE, rle.encode(np.ones((30, 20), bool)), r"annotation 1 has run lengths of 20x30, image a\.jpg has 30x20"),
        ((200000, 300000), {"size": [200000, 300000], "counts": [60_000_000_000]}, r"a\.jpg is 30x20"),
    ],
)
def test_sizes_that_explain_nothing_are_refused(tmp_path: Path, size: Any, segmentation: Any, what: str) -> None:
    picture(tmp_path / "imgs/a.jpg")
    refuse(tmp_path, what, [image(1, "a.jpg", size)], [thing(1, 1, segmentation)])


@pytest.mark.parametrize("lengths", [False, True])
def test_scaled_annotations_are_scaled(tmp_path: Path, lengths: bool) -> None:
    picture(tmp_path / "imgs/a.jpg")
    mask = np.zeros((40, 60), bool)
    mask[4:16, 4:16] = True
    value: Any = rle.encode(mask) if lengths else [[2 * v for v in BOX]]
    done = run(tmp_path, [image(1, "a.jpg", (40, 60))], [thing(1, 1, value, bbox=[4, 4, 12, 12])])
    assert done.splits["train"].notes == {"images of another size in the file, scaled": ["a.jpg"]}
    (label,) = labels_of(tmp_path, "a")
    np.testing.assert_allclose([*label.min(0), *label.max(0)], [2, 2, 8, 8], atol=1e-4)
    found = json.loads((tmp_path / "out/annotations/instances_train.json").read_text())
    assert found["annotations"][0]["bbox"] == [2, 2, 6, 6] and found["annotations"][0]["area"] == 36
    assert found["images"][0]["height"] == SIZE[0]


def test_an_image_that_exif_turns_has_no_certain_frame(tmp_path: Path) -> None:
    data = picture(tmp_path / "imgs/a.jpg").read_bytes()
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    (tmp_path / "imgs/a.jpg").write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    refuse(tmp_path, r"a\.jpg is 20x30, there 30x20", [image(1, "a.jpg")], [thing(1, 1)])
    assert run(tmp_path, [image(1, "a.jpg", (30, 20))], [thing(1, 1)]).splits["train"].objects == 1


def test_sizes_that_are_missing_come_from_the_images(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    done = run(tmp_path, [{"id": 1, "file_name": "a.jpg"}], [thing(1, 1, bbox=None)])
    assert done.splits["train"].objects == 1


def test_ids_that_are_text_and_a_byte_order_mark(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    categories = [{"id": "1", "name": "a"}, {"id": "dog", "name": "b"}]
    annotations = [thing("x", "uuid-1"), thing("y", "uuid-1", [[12.0, 2.0, 18.0, 2.0, 18.0, 8.0]], category_id="dog")]
    file = write(tmp_path / "t.json", [image("uuid-1", "a.jpg")], annotations, categories)
    file.write_text(file.read_text(), encoding="utf-8-sig")
    done = convert_coco({"train": file}, {"train": tmp_path / "imgs"}, tmp_path / "out")
    opens(done, tmp_path)
    assert done.names == ("a", "b")
    assert [x.cls for x in read_label_file(tmp_path / "out/labels/train/a.txt", 2).labels] == [0, 1]


def test_the_root_category_that_nothing_uses(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    root = {"id": 0, "name": "objects", "supercategory": "none"}
    categories = [root, {"id": 1, "name": "fish", "supercategory": "objects"}]
    done = run(tmp_path, [image(1, "a.jpg")], [thing(1, 1)], categories=categories)
    assert done.names == ("fish",) and done.unused == ("objects",)
    used = write(tmp_path / "u.json", [image(1, "a.jpg")], [thing(1, 1, category_id=0)], categories)
    assert convert_coco({"train": used}, {"train": tmp_path / "imgs"}, tmp_path / "o").names == ("objects", "fish")


@pytest.mark.parametrize(
    "name",
    [
        *("images/a.jpg", "images\\a.jpg", "C:\\Users\\me\\a.jpg", "/data/upload/1/0abc12de-a.jpg", "a.jpg"),
        *("http://host:8080/data/upload/1/a.jpg", "/data/local-files/?d=images/a.jpg", "file:///x/a.jpg"),
    ],
)
@pytest.mark.parametrize("folder", ["", "images"])
def test_names_of_other_machines(tmp_path: Path, name: str, folder: str) -> None:
    picture(tmp_path / "imgs/images/a.jpg")
    file = write(tmp_path / "t.json", [image(1, name)], [thing(1, 1)])
    if not folder and "images" not in name:  # nothing says in which folder it lies
        with pytest.raises(EdgesegError, match="1 of 1 images are not in"):
            convert_coco({"train": file}, {"train": tmp_path / "imgs"}, tmp_path / "out")
        return
    done = convert_coco({"train": file}, {"train": tmp_path / "imgs" / folder}, tmp_path / "out")
    opens(done, tmp_path)
    assert (tmp_path / "out/labels/train/a.txt").is_file()


def test_splits_that_share_an_image_folder_become_lists(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "imgs" / name)
    files = {
        "train": write(tmp_path / "train.json", [image(1, "a.jpg")], [thing(1, 1)]),
        "val": write(tmp_path / "val.json", [image(1, "b.jpg")], [thing(1, 1), thing(2, 1, category_id=2)]),
    }
    done = convert_coco(files, dict.fromkeys(files, tmp_path / "imgs"), tmp_path / "out")
    opens(done, tmp_path)
    dataset = load_dataset(done.yaml)
    assert [[p.name for p in dataset.images(s)] for s in files] == [["a.jpg"], ["b.jpg"]]
    assert done.splits["val"].left_out == {"files that are not listed": ["a.jpg"]}


def test_a_second_run_adds_and_never_changes(tmp_path: Path) -> None:
    for name in ("t/a.jpg", "v/b.jpg"):
        picture(tmp_path / name)
    train = write(tmp_path / "train.json", [image(1, "a.jpg")], [thing(1, 1)])
    other = [{"id": 5, "name": "c"}, {"id": 6, "name": "b"}]
    val = write(tmp_path / "val.json", [image(1, "b.jpg")], [thing(1, 1, category_id=5)], other)
    out = tmp_path / "out"
    convert_coco({"train": train}, {"train": tmp_path / "t"}, out)
    first = state(out)
    done = convert_coco({"val": val}, {"val": tmp_path / "v"}, out)
    opens(done, tmp_path)
    assert done.names == ("a", "b", "c") and load_dataset(done.yaml).images("train")
    assert (out / "labels/val/b.txt").read_text().startswith("2 ")
    both = state(out)
    assert {k: both[k] for k in first if k != "out.yaml"} == {k: v for k, v in first.items() if k != "out.yaml"}
    convert_coco({"train": train}, {"train": tmp_path / "t"}, out)  # the same again
    assert state(out) == both
    write(train, [image(1, "a.jpg")], [thing(1, 1, [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]])])
    for folder, what in ((tmp_path / "t", "split is there already"), (tmp_path / "v", "another image folder")):
        (tmp_path / "v/a.jpg").write_bytes((tmp_path / "t/a.jpg").read_bytes())
        with pytest.raises(EdgesegError, match=what):
            convert_coco({"train": train}, {"train": folder}, out)
        assert state(out) == both and not list(tmp_path.glob(".*"))


def test_a_folder_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/9.jpg")
    picture(tmp_path / "out/images/train/0.jpg")
    (tmp_path / "out/labels/train").mkdir(parents=True)
    (tmp_path / "out/labels/train/0.txt").write_text("0 0 0 1 0 1 1\n")
    before = state(tmp_path / "out")
    with pytest.raises(EdgesegError, match="another image folder"):
        run(tmp_path, [image(1, "9.jpg")], [thing(1, 1)])
    assert state(tmp_path / "out") == before
    # Its own images, in place: labels that are there and differ are not touched either.
    file = write(tmp_path / "train.json", [image(1, "0.jpg")], [thing(1, 1)])
    with pytest.raises(EdgesegError, match="split is there already"):
        convert_coco({"train": file}, {"train": tmp_path / "out/images/train"}, tmp_path / "out")
    assert state(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("image_size", "annotation", "what"),
    [
        (SIZE, thing(1, 1, {"size": [100_000, 100_000], "counts": [10**10]}), "run lengths for 100000x100000 pixels"),
        (SIZE, thing(1, 1, category_id=float("inf")), "inf is no id"),
        (SIZE, thing(1, float("nan")), "nan is no id"),
        (SIZE, thing(1, [[1]]), "list is no id"),
        (SIZE, thing(1, 1, category_id=10**300), "int is no id"),
        ((10**6, 10**6), thing(1, 1, {"size": [10**6, 10**6], "counts": [10**12]}), "a.jpg is 30x20"),
    ],
)
def test_hostile_claims_end_at_once(tmp_path: Path, image_size: Any, annotation: Any, what: str) -> None:
    picture(tmp_path / "imgs/a.jpg")
    start = time.process_time()
    refuse(tmp_path, what, [image(1, "a.jpg", image_size)], [annotation])
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "segmentation",
    [
        [[10**400, 1, 2, 3, 4, 5]],
        [[float("inf"), 1, 2, 3, 4, 5]],
        [[[1, 2], [3, 4], [5, 6]]],
        [["x"] * 6],
        {"size": [20, 30], "counts": [2**62] * 4 + [600]},
        {"size": [20, 30], "counts": [10**30]},
        {"size": [20, 30], "counts": {"a": 1}},
        {"size": [20, 30]},
        {"size": "20", "counts": "0"},
        7,
    ],
)
def test_outlines_that_cannot_be_read_are_counted(tmp_path: Path, segmentation: Any) -> None:
    picture(tmp_path / "imgs/a.jpg")
    done = run(tmp_path, [image(1, "a.jpg")], [thing(1, 1, segmentation), thing(2, 1)])
    part = done.splits["train"]
    assert part.objects == 1 and list(part.left_out.values()) == [["1"]]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}", '{"images": [1], "annotations": [], "categories": []}']
)
def test_json_that_is_no_coco(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(EdgesegError):
        read_coco(tmp_path / "t.json")


def test_validation_compares_run_lengths_with_the_image(tmp_path: Path) -> None:
    picture(tmp_path / "imgs/a.jpg")
    done = run(tmp_path, [image(1, "a.jpg")], [thing(1, 1, rle.encode(np.ones(SIZE, bool)))])
    dataset = load_dataset(done.yaml)
    (file,) = dataset.images("train")
    with pytest.raises(EdgesegError, match=r"run lengths of a\.jpg are not of its 20x31 pixels"):
        load_truth(dataset, "train").of(file, (20, 31))


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), "x", None, [1]])
def test_boxes_and_areas_that_are_no_numbers(tmp_path: Path, value: Any) -> None:
    picture(tmp_path / "imgs/a.jpg")
    thing_ = {**thing(1, 1), "bbox": [1, value, 2, 3], "area": value}
    done = run(tmp_path, [image(1, "a.jpg")], [thing_])
    assert done.splits["train"].objects == 1
    (kept,) = next(iter(read_coco(next(done.yaml.parent.rglob("*.json"))).annotations.values()))
    assert all(isinstance(v, int | float) and abs(v) < 1000 for v in kept["bbox"])
    dataset = load_dataset(done.yaml)
    (file,) = dataset.images("train")
    assert len(load_truth(dataset, "train").of(file, (20, 30))) == 1


@pytest.mark.parametrize(
    "value",
    [
        [[0, 0, 1e30, 0, 1e30, 1e30]],  # its outline alone would fill any memory
        [[0, 0, float("nan"), 0, 5, 5]],
        [[0, 0, 5, 0, 5]],
        [["0", "0", "5", "0", "5", "5"]],
        [[10**400, 0, 5, 0, 5, 5]],
        [{"x": 1}],
        "polygon",
        7,
        {"size": [20, 30], "counts": [-5, 605]},
        {"size": [20, 30], "counts": [600.0]},
        {"size": [20, 30], "counts": [10**12]},
        {"size": [20, 30], "counts": "\x00zzz~~~~"},
        {"size": [20, 30], "counts": "é"},
        {"size": [20, 30]},
        {"size": [20], "counts": [600]},
    ],
)
def test_a_segmentation_that_cannot_be_is_found_before_a_network_runs(value: Any, tmp_path: Path) -> None:
    assert not is_segmentation(value)
    picture(tmp_path / "imgs/a.jpg")
    done = run(tmp_path, [image(1, "a.jpg")], [thing(1, 1)])
    write(next(done.yaml.parent.rglob("*.json")), [image(1, "a.jpg")], [thing(1, 1, value)])
    with pytest.raises(EdgesegError, match="the segmentation of annotation 1 is neither polygons nor run lengths"):
        load_truth(load_dataset(done.yaml), "train")
    good = [[[0, 0, 5, 0, 5, 5]], [[-3.5, 2, 40, 2, 9, 9], [1, 1]], rle.encode(np.ones((20, 30), bool))]
    assert all(map(is_segmentation, [*good, {"size": [20, 30], "counts": [100, 500]}]))
