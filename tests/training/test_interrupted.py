"""Ctrl-C in every part of a training: what is there, what is said, and that the run goes on as if nothing had been."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg.data.augment import NO_AUGMENTATION
from edgeseg.training import TrainOptions, train
from edgeseg.training.loop import Listener
from edgeseg.training.record import left_behind

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


class StopsAt(Listener):
    """Sends the signal after a batch; twice: a second one at once."""

    def __init__(self, epoch: int, batch: int, times: int = 1) -> None:
        self.at, self.times = (epoch, batch), times

    def on_batch(self, trainer: Any, batch: Any, rates: Any) -> None:
        if (trainer.position.epoch, trainer.position.batch) == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def options(tiny: Path, shapes_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainOptions:
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    return TrainOptions(
        data=str(shapes_yaml), model=str(tiny), epochs=2, imgsz=64, batch=2, workers=0, device="cpu", nominal_batch=2,
        project=str(tmp_path / "runs"), augment=NO_AUGMENTATION, close_mosaic=0, plots=False, tensorboard=False,
    )  # fmt: skip


@pytest.mark.parametrize("batch", [1, 3])
def test_before_the_first_epoch_is_finished(options: TrainOptions, batch: int) -> None:
    """In the middle of the epoch, and in its last step, when the validation is to come: the run resumes to the same end."""
    whole = train(replace(options, name="whole"))
    stopped = train(options, listeners=[StopsAt(0, batch)])
    weights = stopped.folder / "weights"
    assert not stopped.complete and [p.name for p in weights.iterdir()] == ["last.pt"]
    said = left_behind(stopped.folder)
    assert said.startswith(f"interrupted: {weights} holds last.pt, and no best.pt")
    assert said.endswith(f"edgeseg train resume={weights / 'last.pt'}")
    again = train(TrainOptions(data="", resume=str(weights / "last.pt")))
    assert again.complete and again.metrics == whole.metrics
    assert (again.folder / "results.csv").read_text() == (whole.folder / "results.csv").read_text()


def test_a_second_signal_ends_it_at_once_and_says_what_is_there(options: TrainOptions) -> None:
    with pytest.raises(KeyboardInterrupt, match="interrupted before anything was saved in"):
        train(options, listeners=[StopsAt(0, 1, times=2)])
    with pytest.raises(KeyboardInterrupt, match=r"holds best.pt and last.pt. Go on with: edgeseg train resume="):
        train(options, listeners=[StopsAt(1, 1, times=2)])
