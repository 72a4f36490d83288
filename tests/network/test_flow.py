"""The network read into a ``Flow``: the same numbers, names of its modules, operators beyond the built-in network."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from edgeseg.errors import EdgesegError  # noqa: E402
from edgeseg.manifest import TASKS  # noqa: E402
from edgeseg.network.definition import FAMILIES, Definition  # noqa: E402
from edgeseg.network.flow import network_flow, trace  # noqa: E402
from edgeseg.network.model import Network  # noqa: E402
from edgeseg.quantize.constraints import Constraints, constrain, unfollowed  # noqa: E402
from edgeseg.quantize.decide import decide  # noqa: E402
from edgeseg.quantize.recipe import load_recipe  # noqa: E402
from edgeseg.quantize.simulate import Simulator  # noqa: E402


@pytest.fixture(scope="module", params=["silu", "relu6", "hardswish"])
def network(request):
    torch.manual_seed(0)
    definition = Definition("tiny", nc=4, act=request.param, depth=0.1, width=0.0625, max_channels=64)
    return Network(definition, ("a", "b", "c", "d")).eval()


def test_it_computes_what_the_network_does(network):
    flow = network_flow(network, (64, 96))
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = network.fuse().view("raw")(x)
    for a, b in zip(Simulator(flow).run(x), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_tensors_are_called_like_their_modules(network):
    flow = network_flow(network, (64, 64))
    names = [n.output for n in flow.nodes]
    assert len(set(names)) == len(names) and "backbone.stem.conv" in names and "backbone.stem.act" in names
    assert flow.roles == (*("box", "score", "coeff") * 3, "proto") and flow.stages["backbone.stem.conv"] == "backbone"
    assert all("conv" in n.output or "proto" in n.output or "head" in n.output for n in flow.nodes if n.weight is not None)


class Attention(nn.Module):
    """What newer networks have: depthwise and dilated convolutions, products of activations, softmax, other ranks."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(3, 12, 3, 2, 1)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 2, groups=12, dilation=2, bias=False)
        self.qkv = nn.Conv2d(12, 24, 1)
        self.leave = nn.Conv2d(8, 6, 1)

    def forward(self, x):
        x = torch.sigmoid(self.depthwise(self.enter(x)))
        q, k, v = self.qkv(x).flatten(2).split([8, 8, 8], 1)
        weights = ((q.transpose(1, 2) @ k) * 0.35).softmax(-1)
        y = (v @ weights.transpose(1, 2)).reshape(1, 8, x.shape[2], x.shape[3])
        return self.leave(y), y


def test_operators_of_newer_networks():
    torch.manual_seed(1)
    module = Attention().eval()
    flow = trace(module, (32, 48), ["score", "proto"])
    kinds = {n.kind for n in flow.nodes}
    assert {"conv", "sigmoid", "slice", "matmul", "scale", "softmax", "reshape", "transpose"} <= kinds
    x = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        for a, b in zip(Simulator(flow).run(x), module(x), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_they_are_decided_on_too(tmp_path):
    import cv2

    images = []
    for i in range(3):
        images.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(images[-1]), np.random.default_rng(i).integers(0, 255, (32, 48, 3), np.uint8))
    torch.manual_seed(1)
    flow = trace(Attention().eval(), (32, 48), ["score", "proto"])
    decisions = decide(flow, load_recipe("int8"), images, (32, 48))
    softmax = next(n.output for n in flow.nodes if n.kind == "softmax")
    assert decisions.ranges[softmax] == (0.0, 1.0)
    params = decisions.params(flow)
    assert params[softmax].scale == 1 / 256 and set(params) == {flow.input, *(n.output for n in flow.nodes)}
    rounded = Simulator(flow.with_weights({k: (decisions.weights[k], b) for k, b in decisions.biases.items()}), params)
    x = torch.rand(1, 3, 32, 48)
    for a, b in zip(Simulator(flow).run(x), rounded.run(x), strict=True):
        assert float((a - b).abs().max()) < 0.2 * float(a.abs().max()) + 0.05


def test_what_is_not_known_is_named():
    with pytest.raises(EdgesegError, match="operator gelu"):
        trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU()), (32, 32), ["proto"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_family_and_task_is_read(family, task):
    torch.manual_seed(0)
    network = Network(Definition("tiny", 4, "silu", 0.1, 0.0625, 64, family, task)).eval()
    flow, x = network_flow(network, (64, 96)), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        wanted = network.fuse().view("raw")(x)
    for a, b in zip(Simulator(flow).run(x), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-4)
    masks = {"coeff", "proto"} if task == "segment" else set()
    assert set(flow.stages.values()) == {"backbone", "neck", "box", "score"} | masks
    assert not any("single" in n.output or "semantic" in n.output for n in flow.nodes)


def test_depthwise_convolutions_stay_float_where_a_backend_says_so():
    network = Network(Definition("tiny", 4, "silu", 0.1, 0.0625, 64, "yolo11")).eval()
    flow = network_flow(network, (64, 64))
    deep = {n.output for n in flow.nodes if n.weight is not None and n.attrs.get("groups", 1) > 1}
    limits = Constraints.from_table({"floating": {"depthwise": "they stay", "deconv": "so does it"}})
    kept = constrain(flow, limits).floating
    assert deep and deep < kept and len(kept - deep) == 1
    notes = unfollowed(flow, load_recipe("int8"), limits)
    assert "they stay" in notes and "so does it" in notes
    plain = network_flow(Network(Definition("tiny", 4, "silu", 0.1, 0.0625, 64, task="detect")).eval(), (64, 64))
    assert not {"they stay", "so does it"} & set(unfollowed(plain, load_recipe("int8"), limits))
