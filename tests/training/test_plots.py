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


def figures(epoch: int, value: float, *, val: bool = True, masks: bool = True) -> dict[str, float]:
    parts = ["box", "mask", "score", "dfl"] if masks else ["box", "score", "dfl"]
    row = {"epoch": float(epoch), **{f"train/{p}": 1 / epoch for p in parts}, "lr": 0.01}
    if val:
        row |= {f"val/{p}": value / epoch for p in parts}
        row |= {f"{kind}/{key}": value / 2 for kind in (("box", "seg") if masks else ("box",)) for key in ("map", "map50")}
    return row


@pytest.mark.filterwarnings("error")
def test_every_history_can_be_seen(tmp_path: Path) -> None:
    """One epoch is a point, what is no number leaves a gap, a long run is a line, a detector has fewer charts."""
    pytest.importorskip("matplotlib")
    from edgeseg.training.plots import history

    nan = float("nan")
    runs = {
        "one": [figures(1, 0.5)],
        "none": [figures(1, 0.5, val=False)],
        "nan": [figures(1, nan)],
        "gap": [figures(e, nan if e == 3 else float("inf") if e == 4 else 0.5) for e in range(1, 8)],
        "long": [figures(e, 0.5, val=e % 10 == 0) for e in range(1, 1001)],
        "boxes": [figures(e, 0.5, masks=False) for e in range(1, 4)],
    }
    colours = {}
    for name, rows in runs.items():
        history(rows, tmp_path / f"{name}.png")
        picture = cv2.imread(str(tmp_path / f"{name}.png")).astype(int)
        inside = picture[45:280, 60:370]  # the first chart
        inside = inside[:, : int(inside.shape[1] * 0.7)]  # without its legend
        colours[name] = int((inside.max(-1) - inside.min(-1) > 80).sum())
        assert colours[name] > 20, f"{name}: the chart is empty"
    assert colours["long"] > 5 * colours["one"] and colours["gap"] > colours["one"]
    right = cv2.imread(str(tmp_path / "boxes.png"))[340:, 500:]
    assert right.min() == 255, "a detector has no charts of masks"
