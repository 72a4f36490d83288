"""The pictures that a run leaves."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest

from edgeseg.data.augment import NO_AUGMENTATION
from edgeseg.data.shapes import make_shapes
from edgeseg.training import TrainOptions, train


def test_a_run_leaves_its_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    data = make_shapes(tmp_path / "shapes", train=4, val=2, size=64, seed=3)
    (tmp_path / "tiny.yaml").write_text("variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n")
    result = train(
        TrainOptions(
            data=str(data), model=str(tmp_path / "tiny.yaml"), epochs=1, imgsz=64, batch=2, workers=0, device="cpu",
            project=str(tmp_path / "runs"), augment=NO_AUGMENTATION, close_mosaic=0,
        )
    )  # fmt: skip
    written = {p.name for p in result.folder.iterdir()}
    assert {"train_batch1.jpg", "train_batch2.jpg", "results.csv", "options.yaml"} <= written
    assert cv2.imread(str(result.folder / "train_batch1.jpg")).shape == (64, 128, 3)
    if result.best_epoch == 1:
        assert "val_predictions.jpg" in written
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    assert "results.png" in written
