from __future__ import annotations

import pytest
import torch
from torch import nn

from edgeseg.errors import EdgesegError
from edgeseg.manifest import TASKS
from edgeseg.network.definition import Definition
from edgeseg.network.model import Network, count_flops, count_parameters

# Parameters and FLOPs (10^9, fused, 640 px) as Ultralytics 8.4 sums them up: segmentation, then detection.
PUBLISHED = {
    "yolov8n": (3_409_968, 12.0, 3_157_200, 8.74), "yolov8s": (11_821_056, 40.09, 11_166_560, 28.6),
    "yolo11n": (2_876_848, 9.8, 2_624_080, 6.54), "yolo11s": (10_113_248, 33.07, 9_458_752, 21.59),
    "yolo26n": (3_126_280, 9.25, 2_572_280, 5.48), "yolo26s": (11_505_800, 34.46, 10_009_784, 20.93),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_equals_the_published_table(name: str) -> None:
    found: tuple[float, ...] = ()
    for task in TASKS:
        with torch.device("meta"):
            network = Network(Definition(name[-1], family=name[:-1], task=task))
        found += (count_parameters(network), round(count_flops(network, 640) / 1e9, 2))
    assert found == PUBLISHED[name]


def test_exact_parameters_of_the_smallest() -> None:
    network = Network(Definition("n"))
    assert count_parameters(network) == 3_409_968
    assert count_parameters(network.fuse()) == 3_404_320
    assert count_parameters(network) == 3_409_968, "fuse works on a copy"


def test_shapes_and_outputs(small: Network) -> None:
    for head in ("raw", "decoded"):
        tensors = small.view(head)(torch.rand(2, 3, 96, 64))
        described = small.outputs(head, (96, 64), batch=2)
        assert [tuple(t.shape) for t in tensors] == [o.shape for o in described]
        assert all(t.dtype == torch.float32 for t in tensors)
    names = [o.name for o in small.outputs("raw", 64)]
    assert names == [f"{r}_{s}" for s in (8, 16, 32) for r in ("box", "score", "coeff")] + ["proto"]
    assert [o.stride for o in small.outputs("raw", None)] == [8, 8, 8, 16, 16, 16, 32, 32, 32, None]
    assert small.outputs("raw", None, batch=-1)[0].shape == (-1, 64, -1, -1)
    assert small.outputs("decoded", None)[0].shape == (1, 39, -1)


def test_wrong_requests(small: Network) -> None:
    with pytest.raises(EdgesegError, match="head layout"):
        small.view("both")
    with pytest.raises(EdgesegError, match="multiple of 32"):
        small.outputs("raw", (100, 64))
    with pytest.raises(EdgesegError, match="2 names"):
        Network(Definition("n", nc=3), ("a", "b"))


@torch.no_grad()
def test_fused_network_computes_the_same(small: Network) -> None:
    x = torch.rand(1, 3, 64, 96)
    before = [v.clone() for v in small.state_dict().values()]
    fused = small.fuse()
    assert fused.fused and not small.fused and not fused.training
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fused.modules())
    for a, b in zip(small.view("raw")(x), fused.view("raw")(x)):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, small.state_dict().values()))
    again = fused.fuse()
    assert all(torch.equal(a, b) for a, b in zip(fused.state_dict().values(), again.state_dict().values()))


@pytest.mark.parametrize("act", ["silu", "relu6", "hardswish"])
def test_training_reaches_every_weight(act: str) -> None:
    network = Network(Definition("tiny", nc=2, act=act, depth=0.33, width=0.125, max_channels=128)).train()
    out = network(torch.rand(2, 3, 64, 64))
    sum(t.square().mean() for t in out.flat()).backward()
    without = [name for name, p in network.named_parameters() if p.grad is None]
    assert without == ["head.bins"]


@pytest.mark.parametrize("task", TASKS)
def test_what_only_training_uses(task: str) -> None:
    network = Network(Definition("tiny", 2, "silu", 0.33, 0.125, 128, "yolo26", task)).train()
    out = network(torch.rand(2, 3, 64, 64))
    assert out.single is not None and (out.semantic is None) == (task == "detect")
    rest = [*(t for one in out.single for t in one), *([] if out.semantic is None else [out.semantic])]
    if out.semantic is not None:
        assert out.semantic.shape == (2, 2, 8, 8)
    sum(t.square().mean() for t in rest).backward()
    reached = {
        name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None and name.startswith("head")
    }
    assert reached == ({"single"} if task == "detect" else {"single", "proto"})
    # The second copy reads the features, and bends them not.
    assert any(p.grad is not None for p in network.backbone.parameters()) == (task == "segment")
    out = network.eval()(torch.rand(1, 3, 64, 64))
    assert out.single is None and out.semantic is None


def test_initial_biases_expect_few_objects() -> None:
    network = Network(Definition("n", nc=4))
    for stride, box, score in zip(network.strides, network.head.box, network.head.score):
        assert torch.all(box.get_parameter("out.bias") == 1.0)
        expected = score.get_parameter("out.bias").detach().sigmoid().double().sum() * (640 / stride) ** 2
        assert float(expected) == pytest.approx(5, rel=0.01)


def test_names_default_and_info() -> None:
    network = Network(Definition("n", nc=2))
    assert network.names == ("class0", "class1") and network.nc == 2 and network.info == {}
    assert network.strides == (8, 16, 32)


@torch.no_grad()
@pytest.mark.parametrize("task", TASKS)
def test_the_second_copy_alone(task: str) -> None:
    network = Network(Definition("tiny", 2, "silu", 0.33, 0.125, 128, "yolo26", task), ("a", "b"))
    network.info = {"imgsz": 64}
    alone, x = network.eval().end2end(), torch.rand(1, 3, 64, 96)
    features = network.neck(*network.backbone(x))
    wanted = [t for one in network.head.single.read(features) for t in one]
    found = alone.view("raw")(x)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted)) and len(found) == len(wanted) + (task == "segment")
    assert alone.names == ("a", "b") and alone.info == {"imgsz": 64} and alone.definition.end2end
    assert not hasattr(alone.head, "single") and torch.equal(alone.end2end().view("raw")(x)[0], found[0])
    fused = alone.fuse()
    assert torch.allclose(fused.view("raw")(x)[0], found[0], atol=1e-4)
    served = network.fuse()
    assert not any("single" in k or "semantic" in k for k in served.state_dict())
    assert count_parameters(served) < count_parameters(network) - count_parameters(network.head.single)
    with pytest.raises(EdgesegError, match="folded in"):
        served.end2end()
    assert served.train()(x).single is None
    with pytest.raises(EdgesegError, match="YOLO11 has no one-to-one head"):
        Network(Definition("tiny", 2, "silu", 0.33, 0.125, 128, "yolo11", task)).end2end()
