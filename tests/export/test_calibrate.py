import cv2
import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export.calibrate import choose_calibration
from edgeseg.export.options import ExportOptions


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        folder = tmp_path / "d" / "images" / split
        folder.mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 255, (40, 40, 3), np.uint8))
    yaml = tmp_path / "d" / "d.yaml"
    yaml.write_text("path: .\ntrain: images/train\nval: images/val\nnames: [a]\n")
    return yaml


def test_the_choice_is_remembered_until_a_file_changes(toys, data, monkeypatch) -> None:
    said: list[str] = []
    options = ExportOptions(int8=True, data=str(data), images=4)
    first = choose_calibration(options, said.append)
    assert len(first.images) == 4 and first.info is not None and first.info["images"] == 4
    assert all(p.is_absolute() for p in first.images) and first.recipe["name"] == "int8"
    warnings = list(said)
    assert warnings

    def again(*args: object, **kwargs: object) -> None:
        raise EdgesegError("chosen again")

    with monkeypatch.context() as m:
        m.setattr("edgeseg.quantize.calibration.choose", again)
        assert choose_calibration(options, said.append) == first
        assert said == warnings * 2
        for other in (
            ExportOptions(int8=True, data=str(data), images=5),
            ExportOptions(int8=True, data=str(data), images=4, seed=1),
        ):
            with pytest.raises(EdgesegError, match="chosen again"):
                choose_calibration(other, said.append)
        cv2.imwrite(str(data.parent / "images" / "train" / "0.png"), np.zeros((50, 40, 3), np.uint8))
        with pytest.raises(EdgesegError, match="chosen again"):
            choose_calibration(options, said.append)


def test_a_recipe_of_weights_only_needs_no_images(toys, tmp_path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[activations]\nbits = 32\n")
    said: list[str] = []
    chosen = choose_calibration(ExportOptions(int8=True, recipe=str(recipe), data="absent.yaml"), said.append)
    assert chosen.images == () and chosen.info is None and "weights only" in said[0]
    assert chosen.key()[0] is None


def test_without_data_it_says_which_it_takes(toys, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("EDGESEG_OFFLINE", "1")

    def refuse(name: str) -> None:
        raise EdgesegError(f"asked for {name}")

    monkeypatch.setattr("edgeseg.data.dataset.load_dataset", refuse)
    with pytest.raises(EdgesegError, match="asked for coco128-seg"):
        choose_calibration(ExportOptions(int8=True), said.append)
    assert "coco128-seg" in said[0]
