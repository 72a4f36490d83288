"""The figures of an epoch: of the masks only those that can be right are built."""

from __future__ import annotations

import pytest
import torch

from edgeseg.data.cache import scan
from edgeseg.data.dataset import Dataset
from edgeseg.demo import CHECKPOINT
from edgeseg.evaluate.metrics import Told
from edgeseg.network.checkpoint import load_checkpoint
from edgeseg.training import validation
from edgeseg.training.distributed import Processes
from edgeseg.training.validation import Validator


def test_masks_that_cannot_be_right_are_not_built_and_no_figure_sees_it(
    shapes_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    records, network = scan(shapes_dataset, "val").records, load_checkpoint(CHECKPOINT)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p *= 1 + 0.05 * torch.randn_like(p)  # not too good: it finds much that is not there

    def run() -> tuple[Validator, dict[str, float]]:
        one = Validator(shapes_dataset, records, 320, 2, Processes.start("cpu"))
        return one, one(network)

    lazy, figures = run()
    monkeypatch.setattr(validation, "measured", lambda truth, path, d: ([], Told.of(d)))  # all masks
    whole, same = run()
    assert figures == same and figures["seg/map"] > 0.05
    assert lazy.confusion is not None and whole.confusion is not None
    assert (lazy.confusion.matrix == whole.confusion.matrix).all()
    pairs = [
        (a, b) for (_, one), (_, other) in zip(lazy.found, whole.found) for a, b in zip(one.runs or (), other.runs or ())
    ]
    other = sum(a != b for a, b in pairs)
    assert len(pairs) > 40 and 0 < other < len(pairs)
