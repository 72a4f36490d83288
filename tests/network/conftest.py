"""A writer of checkpoints as another trainer makes them: its class names, its numbered layers, its extra state."""

from __future__ import annotations

import datetime
import pathlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from edgeseg.network.blocks import SPPF, Branch, C2f, Conv, Proto
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network

PLACES = {
    "ultralytics.nn.tasks": ["SegmentationModel", "DetectionModel"],
    "ultralytics.nn.modules.conv": ["Conv", "Concat"],
    "ultralytics.nn.modules.block": ["C2f", "C3k2", "Bottleneck", "SPPF", "Proto", "DFL"],
    "ultralytics.nn.modules.head": ["Segment", "Detect", "Pose"],
    "ultralytics.utils": ["IterableSimpleNamespace"],
    "ultralytics.evil": ["Evil"],
}


def forward_fuse(self: Any, x: torch.Tensor) -> Any:
    return self.act(self.conv(x))


class Stubs:
    """Classes under the other package's names, importable while a file is written and gone afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.classes: dict[str, type] = {}
        for module, names in PLACES.items():
            for i in range(module.count(".") + 1):
                package = ".".join(module.split(".")[: i + 1])
                if package not in sys.modules:
                    monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
            for name in names:
                base = types.SimpleNamespace if "Namespace" in name else nn.Module
                methods = {"forward_fuse": forward_fuse} if name == "Conv" else {}
                self.classes[name] = type(name, (base,), {"__module__": module, **methods})
                setattr(sys.modules[module], name, self.classes[name])

    def make(self, name: str, **children: nn.Module) -> Any:
        made = self.classes[name]()
        for key, child in children.items():
            made.add_module(key, child)
        return made

    def translate(self, part: nn.Module) -> nn.Module:
        """One of our blocks with the other package's classes and attribute names, around the same leaves."""
        t = self.translate
        if isinstance(part, Conv):
            children = {"conv": part.conv, "act": part.act}
            if not isinstance(part.bn, nn.Identity):
                return self.make("Conv", **children, bn=part.bn)
            joined = self.make("Conv", **children)
            joined.forward = joined.forward_fuse  # as theirs is left: the pickle then looks a method up
            return joined
        if isinstance(part, C2f):
            chain = [self.make("Bottleneck", cv1=t(b.first), cv2=t(b.second)) for b in part.chain]
            return self.make("C2f", cv1=t(part.enter), cv2=t(part.leave), m=nn.ModuleList(chain))
        if isinstance(part, SPPF):
            return self.make("SPPF", cv1=t(part.enter), cv2=t(part.leave), m=part.pool)
        if isinstance(part, Branch):
            return nn.Sequential(t(part.first), t(part.second), part.out)
        if isinstance(part, Proto):
            return self.make("Proto", cv1=t(part.enter), upsample=part.upsample, cv2=t(part.refine), cv3=t(part.leave))
        raise TypeError(type(part))

    def model(self, network: Network, names: Any, kind: str = "SegmentationModel") -> Any:
        """The network as the other package holds it."""
        b, n, h, t = network.backbone, network.neck, network.head, self.translate
        up, cat = nn.Upsample(scale_factor=2), lambda: self.make("Concat")
        dfl = self.make("DFL", conv=nn.Conv2d(16, 1, 1, bias=False))
        with torch.no_grad():
            dfl.conv.weight.copy_(torch.arange(16.0).view(1, 16, 1, 1))
        lists = {f"cv{i}": nn.ModuleList(t(x) for x in part) for i, part in ((2, h.box), (3, h.score), (4, h.coeff))}
        head = self.make("Segment", dfl=dfl, proto=t(h.proto), **lists)
        head.nc, head.nm, head.reg_max, head.stride = network.nc, 32, 16, torch.tensor([8.0, 16.0, 32.0])
        layers = [t(b.stem)]
        for stage in (b.p2, b.p3, b.p4, b.p5):
            layers += [t(stage.down), t(stage.mix)]
        layers += [t(b.sppf), up, cat(), t(n.top4), up, cat(), t(n.out3), t(n.down3), cat(), t(n.out4), t(n.down4), cat()]
        layers += [t(n.out5), head]
        model = self.make(kind, model=nn.Sequential(*layers))
        model.names, model.stride, model.task = names, torch.tensor([8.0, 16.0, 32.0]), "segment"
        model.yaml = {
            "nc": network.nc,
            "depth_multiple": network.definition.depth,
            "width_multiple": network.definition.width,
        }
        model.yaml["max_channels"] = network.definition.max_channels
        if kind == "DetectionModel":
            detect = self.make("Detect", **{k: v for k, v in head._modules.items() if k not in ("cv4", "proto")})
            detect.nc, detect.reg_max, detect.stride = head.nc, head.reg_max, head.stride
            model.model[22], model.task = detect, "detect"
        model.args = self.classes["IterableSimpleNamespace"](imgsz=320, data=pathlib.PosixPath("my/data.yaml"))
        return model


@pytest.fixture
def stubs() -> Iterator[Stubs]:
    with pytest.MonkeyPatch.context() as patch:
        yield Stubs(patch)


@pytest.fixture
def small() -> Network:
    """A small network with weights and statistics that are not the initial ones, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = Network(Definition("tiny", nc=3, depth=0.33, width=0.125, max_channels=256), ("circle", "square", "star"))
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
                assert module.running_mean is not None and module.running_var is not None
                nn.init.uniform_(module.running_mean, -0.2, 0.2)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


@pytest.fixture
def foreign_file(stubs: Stubs, small: Network, tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """``foreign_file(name, half=True, **changes)``: a user-trained checkpoint of ``small``, with all its baggage."""

    def write(name: str = "best.pt", *, half: bool = True, **changes: Any) -> pathlib.Path:
        import copy

        model = stubs.model(copy.deepcopy(small), {0: "circle", 1: "square", 2: "star"})
        model = model.half() if half else model
        optimizer = torch.optim.SGD([nn.Parameter(torch.ones(3))], 0.1, momentum=0.9)
        optimizer.param_groups[0]["params"][0].sum().backward()
        optimizer.step()
        content = {
            "epoch": 4,
            "best_fitness": np.float64(0.5),
            "model": None,
            "ema": model,
            "updates": 100,
            "optimizer": optimizer.state_dict(),
            "train_args": {"imgsz": 320, "data": "my/data.yaml", "device": torch.device("cpu"), "freeze": None},
            "train_metrics": {"metrics/mAP50(B)": np.float32(0.25)},
            "date": datetime.datetime(2025, 1, 2).isoformat(),
            "when": datetime.datetime(2025, 1, 2),
            "where": pathlib.PosixPath("runs/segment"),
            "space": types.SimpleNamespace(a=1),
            "size": torch.Size([1, 2]),
            "kinds": {torch.float16, torch.int64},
            "version": "8.3.0",
            **changes,
        }
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write
