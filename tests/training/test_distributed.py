"""Two gloo processes with half the batch each do what one process does.

In double precision: assignment is a discrete choice, and in single precision rounding alone makes an anchor change sides now
and then, in any two runs that add up in another order, after which they part by thousandths.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edgeseg.data.augment import AugmentOptions
from edgeseg.data.shapes import make_shapes
from edgeseg.network.checkpoint import load_checkpoint, load_training_state
from edgeseg.training import TrainOptions

TINY = "variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n"
STEPS = 6

WORKER = """
import torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
torch.nn.Module.float = torch.nn.Module.double
from edgeseg.training import TrainOptions, train
train(TrainOptions.from_flat({flat!r}))
"""


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_processes_give_the_weights_of_one(tmp_path: Path, accumulate: int) -> None:
    data = make_shapes(tmp_path / "shapes", train=4 * STEPS * accumulate, val=3, size=64, seed=3)
    (tmp_path / "tiny.yaml").write_text(TINY)
    options = TrainOptions(
        data=str(data), model=str(tmp_path / "tiny.yaml"), epochs=1, imgsz=64, batch=4, nominal_batch=4 * accumulate,
        workers=0, device="cpu", optimizer="sgd", lr=2e-3, warmup_epochs=0, project=str(tmp_path / "runs"), plots=False,
        tensorboard=False, close_mosaic=1, multi_scale=0.5, augment=AugmentOptions(mosaic=0.5),
    )  # fmt: skip
    many = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port()}"]
    env = {**os.environ, "EDGESEG_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    for name, through in (("one", []), ("two", many)):
        script = tmp_path / f"{name}.py"
        script.write_text(WORKER.format(flat=replace(options, name=name).to_flat()))
        subprocess.run([sys.executable, *through, str(script)], check=True, timeout=300, env=env)
    one, two = Path(options.project) / "one", Path(options.project) / "two"
    assert sorted(p.name for p in two.parent.iterdir()) == ["one", "two"]  # one process writes
    a, b = (load_training_state(p / "weights" / "last.pt")["trainer"] for p in (one, two))
    assert a["position"]["step"] == b["position"]["step"] == STEPS * accumulate
    assert a["weights"]["backbone.stem.conv.weight"].dtype == torch.float64
    worst = max((a["weights"][k].double() - b["weights"][k].double()).abs().max().item() for k in a["weights"])
    assert worst < 1e-9
    start = load_checkpoint(options.model, seed=options.seed).state_dict()
    kernels = [k for k, v in start.items() if v.ndim == 4 and v.shape == a["weights"][k].shape]
    assert max((a["weights"][k] - start[k]).abs().max().item() for k in kernels) > 5e-3
    for mine, theirs in zip(a["position"]["history"], b["position"]["history"]):
        # Losses of the validation are means over its batches, and those of two processes are smaller.
        mine, theirs = ({k: v for k, v in row.items() if not k.startswith("val/")} for row in (mine, theirs))
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)
