"""Whole runs of a tiny network: reproducible, resumable after a kill, clear about bad input."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.network.checkpoint import load_checkpoint, load_training_state
from edgeseg.training import TrainOptions, newest_trained, train
from edgeseg.training.api import stale
from edgeseg.training.loop import Listener, Position, Trainer

TINY = "variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n"


@pytest.fixture(autouse=True)
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    data = make_shapes(tmp_path / "shapes", train=6, val=2, size=64, seed=3)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return TrainOptions(
        data=str(data), model=str(tmp_path / "tiny.yaml"), epochs=2, imgsz=64, batch=2, nominal_batch=4, workers=0,
        device="cpu", warmup_epochs=1, project=str(tmp_path / "runs"), plots=False, tensorboard=False, close_mosaic=1,
        augment=AugmentOptions(mixup=0.2),
    )  # fmt: skip


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_training_state(path)["trainer"]["weights"]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class StopAt(Listener):
    """Asks for the end after some batches, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_batch(self, trainer: Trainer, batch: object, rates: object) -> None:
        if trainer.position.step == self.step:
            trainer.stop_requested = True


def test_a_run_leaves_everything_behind_and_the_seed_decides(options: TrainOptions) -> None:
    first, second = train(options), train(replace(options, workers=1))
    assert first.folder.name == "exp" and second.folder.name == "exp2"
    assert first.complete and first.epochs == 2 and first.best_epoch in (1, 2)
    assert same(weights(first.last), weights(second.last))
    rows = list(csv.DictReader((first.folder / "results.csv").open()))
    assert [r["epoch"] for r in rows] == ["1", "2"] and all(float(r["train/box"]) > 0 for r in rows)
    assert {"val/box", "box/map50", "seg/map", "fitness", "lr"} <= rows[0].keys()
    best = load_checkpoint(first.best)
    assert best.names == ("circle", "square", "triangle", "star") and best.info["imgsz"] == 64
    assert newest_trained(options.project) == second.best
    other = train(replace(options, seed=9))
    assert not same(weights(first.last), weights(other.last))


@pytest.mark.parametrize(("family", "task"), [("yolo11", "segment"), ("yolo26", "segment"), ("yolo26", "detect")])
def test_training_moves_every_weight_of_every_family(options: TrainOptions, family: str, task: str) -> None:
    Path(options.model).write_text(f"{TINY}family: {family}\ntask: {task}\n")
    before = load_checkpoint(options.model, nc=4).state_dict()
    run = train(replace(options, task=task))
    rows = list(csv.DictReader((run.folder / "results.csv").open()))
    after = weights(run.last)
    still = [k for k, v in before.items() if torch.equal(v, after[k])]
    # No object is so large that the coarsest cells answer for it alone.
    still = [k for k in still if not k.startswith(("head.single.box.2.", "head.single.coeff.2."))]
    assert still == (["head.bins"] if family == "yolo11" else [])
    assert ("seg/map" in rows[0]) == (task == "segment")
    assert (float(rows[0]["train/mask"]) > 0) == (task == "segment")
    found = load_checkpoint(run.best)
    assert (found.definition.family, found.task) == (family, task)


def test_a_detector_learns_from_boxes_and_a_segmentation_network_does_not(options: TrainOptions) -> None:
    folder = Path(options.data).parent
    for file in folder.rglob("labels/**/*.txt"):
        rows = []
        for line in file.read_text().splitlines():
            cls, *values = line.split()
            points = np.array(values, float).reshape(-1, 2)
            low, high = points.min(0), points.max(0)
            rows.append(f"{cls} " + " ".join(f"{v:.6f}" for v in (*((low + high) / 2), *(high - low))))
        file.write_text("\n".join(rows) + "\n")
    with pytest.raises(EdgesegError, match="5 numbers are a box") as error:
        train(options)
    assert "yolov8n.yaml" in error.value.hint
    Path(options.model).write_text(f"{TINY}task: detect\n")
    with pytest.raises(EdgesegError, match="made to detect"):
        train(replace(options, task="segment"))
    assert train(replace(options, epochs=1)).metrics.keys() >= {"box/map", "fitness"}
    Path(options.model).write_text(TINY)
    with pytest.raises(EdgesegError, match="5 numbers are a box"):  # whatever is remembered of the files
        train(options)


@pytest.mark.parametrize("step", [1, 4])
def test_an_interrupted_run_goes_on_exactly(options: TrainOptions, step: int) -> None:
    whole = train(replace(options, name="whole"))
    part = train(replace(options, name="part"), listeners=[StopAt(step)])
    assert not part.complete and part.last.exists()
    newest = TrainOptions(data="", resume="true", project=options.project, device="cpu", workers=0)
    rest = train(newest if step == 4 else replace(newest, resume=str(part.last)))
    assert rest.complete and rest.folder == part.folder
    assert same(weights(whole.last), weights(rest.last))
    assert (whole.folder / "results.csv").read_text() == (rest.folder / "results.csv").read_text()
    with pytest.raises(EdgesegError, match="are done"):
        train(TrainOptions(data="", resume=str(rest.last), device="cpu"))


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=4)
    whole = train(replace(options, name="whole"))
    script = (
        "import torch, time; torch.set_num_threads(1)\n"
        "from edgeseg.training import TrainOptions, train\n"
        "from edgeseg.training.loop import Listener\n"
        "class Slow(Listener):\n"
        "    def on_batch(self, trainer, batch, rates):\n"
        "        if trainer.position.epoch == 2: time.sleep(60)\n"
        f"train(TrainOptions.from_flat({replace(options, name='killed').to_flat()!r}), listeners=[Slow()])\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    table = Path(options.project) / "killed" / "results.csv"
    deadline = time.monotonic() + 120
    while not (table.exists() and table.read_text().count("\n") >= 3):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    last = table.parent / "weights" / "last.pt"
    rest = train(TrainOptions(data="", resume=str(last), device="cpu", workers=0))
    assert same(weights(whole.last), weights(rest.last))
    assert (whole.folder / "results.csv").read_text() == table.read_text()


def test_weights_are_carried_into_another_number_of_classes(options: TrainOptions, tmp_path: Path) -> None:
    first = train(replace(options, epochs=1))
    data = Path(options.data)
    data.write_text(data.read_text().replace("circle", "disc") + "  4: moon\n")
    result = train(replace(options, epochs=1, pretrained=str(first.best), lr=1e-9, warmup_epochs=0))
    a, b = load_checkpoint(first.best).state_dict(), load_checkpoint(result.best).state_dict()
    assert b["head.score.0.out.bias"].shape == (5,)
    key = "backbone.p3.down.conv.weight"
    assert torch.allclose(a[key], b[key], atol=1e-6)
    # square, triangle and star keep their rows, disc and moon are new.
    assert torch.allclose(a["head.score.1.out.bias"][1:4], b["head.score.1.out.bias"][1:4], atol=1e-6)
    assert not torch.allclose(a["head.score.1.out.weight"][0], b["head.score.1.out.weight"][0], atol=1e-4)


def test_frozen_parts_keep_weights_and_statistics(options: TrainOptions) -> None:
    result = train(replace(options, epochs=1, freeze=("backbone",), ema=0))
    before = load_checkpoint(options.model, seed=options.seed)
    after = load_checkpoint(result.best).state_dict()
    # The start has the dataset's names, and the same fresh weights for the seed.
    moved = {k for k, v in before.state_dict().items() if not torch.equal(v, after[k])}
    assert moved and not any(k.startswith("backbone.") for k in moved)


def test_multi_scale_and_sgd_run(options: TrainOptions) -> None:
    result = train(replace(options, epochs=1, multi_scale=0.5, optimizer="sgd", schedule="cosine", cache="ram"))
    assert result.complete


@pytest.mark.filterwarnings("ignore:.*")
def test_a_single_image_is_learned_with_a_warning(options: TrainOptions) -> None:
    dataset = load_dataset(options.data)
    for image in dataset.images("train")[1:]:
        image.unlink()
    result = train(replace(options, epochs=1))
    assert any("only one training image" in w for w in result.warnings)


def test_no_labels_at_all(options: TrainOptions) -> None:
    dataset = load_dataset(options.data)
    for image in dataset.images("train"):
        dataset.label_path(image).unlink()
    with pytest.raises(EdgesegError, match="none of the 6 training images has a label"):
        train(options)
    assert not Path(options.project).exists()


def test_a_class_beyond_nc(options: TrainOptions) -> None:
    dataset = load_dataset(options.data)
    dataset.label_path(dataset.images("train")[3]).write_text("7 0.1 0.1 0.5 0.1 0.5 0.5\n")
    with pytest.raises(EdgesegError, match=r"000003\.txt:1: class 7 is out of range"):
        train(options)


def test_corrupt_images_are_reported(options: TrainOptions) -> None:
    load_dataset(options.data).images("train")[0].write_bytes(b"\xff\xd8 broken")
    result = train(replace(options, epochs=1))
    assert any("1 images cannot be read" in w for w in result.warnings)


def test_a_batch_that_does_not_fit(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("edgeseg.training.loss.flatten", full)
    with pytest.raises(EdgesegError, match=r"a batch of 2 images does not fit in memory\. Use batch=1"):
        train(options)


def test_a_full_disk_leaves_the_last_checkpoint_intact(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    real, calls = os.replace, []

    def replace_until_full(source: str, target: str) -> None:
        if str(target).endswith("last.pt"):
            calls.append(target)
            if len(calls) > 1:
                raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("os.replace", replace_until_full)
    with pytest.raises(EdgesegError, match="No space left"):
        train(options)
    last = Path(options.project) / "exp" / "weights" / "last.pt"
    assert load_training_state(last)["trainer"]["position"]["epoch"] == 1
    assert list(last.parent.glob(".*")) == []


def test_a_loss_that_is_no_number_stops_the_run(options: TrainOptions) -> None:
    with pytest.raises(EdgesegError, match="no number any more"):
        train(replace(options, lr=1e30, warmup_epochs=0, clip=1e30, epochs=5))


def test_wrong_files_to_resume_from(options: TrainOptions, tmp_path: Path) -> None:
    result = train(replace(options, epochs=1))
    with pytest.raises(EdgesegError, match="no run can go on"):
        train(TrainOptions(data="", resume=str(result.best)))


def test_options_are_checked() -> None:
    with pytest.raises(EdgesegError, match="Did you mean 'epochs'"):
        TrainOptions.from_flat({"data": "x", "epoch": 3})
    with pytest.raises(EdgesegError, match="Use imgsz=320"):
        TrainOptions.from_flat({"data": "x", "imgsz": 321})
    with pytest.raises(EdgesegError, match="needs a dataset"):
        TrainOptions.from_flat({"epochs": 3})
    with pytest.raises(EdgesegError, match="mosaic=2"):
        TrainOptions.from_flat({"data": "x", "mosaic": 2})
    flat = TrainOptions.from_flat({"data": "x", "mosaic": 0.5, "box_gain": 3.0, "freeze": "backbone"}).to_flat()
    assert flat["mosaic"] == 0.5 and flat["box_gain"] == 3.0 and flat["freeze"] == ["backbone"]
    assert TrainOptions.from_flat(flat).to_flat() == flat


class Interrupt(Listener):
    """Presses Ctrl-C after the first batch."""

    def on_batch(self, trainer: Trainer, batch: object, rates: object) -> None:
        if trainer.position.step == 1:
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_saves_and_the_old_handler_comes_back(options: TrainOptions) -> None:
    before = signal.getsignal(signal.SIGINT)
    result = train(replace(options, warmup_epochs=0, nominal_batch=2), listeners=[Interrupt()])
    assert not result.complete and load_training_state(result.last)["trainer"]["position"]["batch"] == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_early_stopping_counts_epochs_since_the_best() -> None:
    assert not stale(Position(epoch=9, best=0.1, best_epoch=5), 5)
    assert stale(Position(epoch=10, best=0.1, best_epoch=5), 5)
    assert not stale(Position(epoch=99, best=0.1, best_epoch=5), 0)
    assert not stale(Position(epoch=99), 5)


def test_faults_of_the_validation_split_appear_before_the_first_epoch(options: TrainOptions) -> None:
    dataset = load_dataset(options.data)
    for image in dataset.images("val"):
        dataset.label_path(image).unlink(missing_ok=True)
    for file in dataset.path.rglob("*.json"):
        file.unlink()
    with pytest.raises(EdgesegError, match="none of the 2 images of split 'val' has labels"):
        train(options)
    assert not Path(options.project).exists()


class Told(Listener):
    """Keeps what is said of the data."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def on_data(self, split: str, inventory: object, warnings: object) -> None:
        self.said[split] = str(inventory)


def test_what_the_splits_hold_is_told(options: TrainOptions) -> None:
    told = Told()
    train(replace(options, epochs=1), listeners=[told])
    assert told.said["train"].startswith("6 images, ") and told.said["val"].startswith("2 images, ")


def test_other_options_beside_resume_are_said(options: TrainOptions) -> None:
    part = train(replace(options, epochs=1, name="part"), listeners=[StopAt(1)])
    asked = TrainOptions.from_flat({"resume": str(part.last), "epochs": 100, "lr0": 0.5, "device": "cpu", "workers": 0})
    rest = train(asked)
    assert rest.complete and rest.epochs == 1
    assert "epochs=1 (not 100)" in rest.warnings[0] and "lr=None (not 0.5)" in rest.warnings[0]
    again = train(replace(options, epochs=1, name="other"), listeners=[StopAt(1)])
    assert not any(
        "goes on" in w for w in train(TrainOptions.from_flat({"resume": str(again.last), "device": "cpu"})).warnings
    )
