from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgeseg.errors import EdgesegError
from edgeseg.manifest import TASKS
from edgeseg.network.checkpoint import load_checkpoint, load_training_state
from edgeseg.network.definition import FAMILIES, VARIANTS, Definition
from edgeseg.network.layouts import foreign_names, layer_kinds, layer_numbers
from edgeseg.network.model import Network, count_parameters

Writer = Callable[..., Path]


def same_outputs(a: Network, b: Network, atol: float = 1e-5) -> None:
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(a.view("raw")(x), b.view("raw")(x)):
            torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


def test_user_trained_checkpoint(foreign_file: Writer, small: Network, stubs: Any) -> None:
    path = foreign_file(half=False)
    found = load_checkpoint(path)
    assert found.names == ("circle", "square", "star") and not found.training
    assert (found.definition.stages, found.definition.act) == (small.definition.stages, "silu")
    ours = small.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in found.state_dict().items())
    assert found.info["imgsz"] == 320 and found.info["data"] == "my/data.yaml" and found.info["source"] == "best.pt"
    assert load_training_state(path) == {}
    same_outputs(found, small)


def test_half_weights_become_float(foreign_file: Writer, small: Network) -> None:
    found = load_checkpoint(foreign_file())
    assert all(v.dtype in (torch.float32, torch.int64) for v in found.state_dict().values())
    assert torch.equal(found.backbone.stem.conv.weight, small.backbone.stem.conv.weight.half().float())


def test_nothing_of_the_other_package_is_needed(foreign_file: Writer) -> None:
    path = foreign_file()
    for name in [n for n in sys.modules if n.startswith("ultralytics")]:
        del sys.modules[name]
    assert load_checkpoint(path).nc == 3
    assert not any(n.startswith("ultralytics") for n in sys.modules)


def test_average_weights_come_first_then_the_network(foreign_file: Writer, stubs: Any, small: Network) -> None:
    other = copy.deepcopy(small)
    nn.init.zeros_(other.backbone.stem.conv.weight)
    zeros = stubs.model(other, ["a", "b", "c"])
    assert load_checkpoint(foreign_file(model=zeros)).backbone.stem.conv.weight.any()
    found = load_checkpoint(foreign_file(ema=None, model=zeros))
    assert not found.backbone.stem.conv.weight.any() and found.names == ("a", "b", "c")


def test_fused_checkpoint(stubs: Any, small: Network, tmp_path: Path) -> None:
    torch.save({"model": stubs.model(small.fuse(), ["a", "b", "c"])}, tmp_path / "fused.pt")
    found = load_checkpoint(tmp_path / "fused.pt")
    assert found.fused and count_parameters(found) == count_parameters(small.fuse())
    same_outputs(found, small, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "_orig_mod.model.", "net.model."])
@pytest.mark.parametrize("under", ["", "state_dict", "model_state_dict"])
def test_plain_state_dict(stubs: Any, tmp_path: Path, prefix: str, under: str) -> None:
    network = Network(Definition("n", nc=2)).eval()
    state = {prefix + k.removeprefix("model."): v for k, v in stubs.model(network, {}).state_dict().items()}
    torch.save({under: state, "epoch": 3} if under else state, tmp_path / "weights.pt")
    found = load_checkpoint(tmp_path / "weights.pt")
    assert found.definition.variant == "n" and found.names == ("class0", "class1")
    same_outputs(found, network)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("end2end", [False, True])
def test_joined_layers_keep_one_copy_of_the_branches(tmp_path: Path, task: str, end2end: bool) -> None:
    network = Network(Definition("n", nc=2, family="yolo26", task=task)).eval()
    with torch.no_grad():
        for weight in network.head.single.parameters():
            weight += 0.01
    kept = (network.end2end() if end2end else network).fuse()
    names = foreign_names(kept, kept.definition)
    state = {
        names[k].replace(".cv", ".one2one_cv") if end2end and names[k].startswith("23.cv") else names[k]: v
        for k, v in kept.state_dict().items()
    }
    torch.save({f"model.{k}": v for k, v in state.items()}, tmp_path / "joined.pt")
    found = load_checkpoint(tmp_path / "joined.pt")
    assert (found.definition.family, found.task, found.definition.end2end) == ("yolo26", task, end2end)
    same_outputs(found, kept)


def test_weights_of_two_networks(stubs: Any, small: Network, tmp_path: Path) -> None:
    state = stubs.model(small, {}).state_dict()
    torch.save(state | {f"ema.{k}": v + 1 for k, v in state.items()}, tmp_path / "two.pt")
    refused(tmp_path / "two.pt", "two networks")


@pytest.mark.parametrize("act", ["relu6", "hardswish"])
def test_other_activations(stubs: Any, tmp_path: Path, act: str) -> None:
    network = Network(Definition("tiny", nc=2, act=act, depth=0.33, width=0.125, max_channels=256)).eval()
    torch.save({"model": stubs.model(network, {0: "a", 1: "b"})}, tmp_path / "act.pt")
    found = load_checkpoint(tmp_path / "act.pt")
    assert found.definition.act == act
    same_outputs(found, network)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("task", TASKS)
def test_every_tensor_has_a_name_of_its_own(family: str, task: str) -> None:
    for variant in VARIANTS:
        definition = Definition(variant, family=family, task=task)
        with torch.device("meta"):
            names = foreign_names(Network(definition), definition)
        assert len(set(names.values())) == len(names)
        kinds, numbers = layer_kinds(definition.plan, "Segment"), layer_numbers(definition.plan)
        assert {int(n.split(".")[0]) for n in names.values()} == set(numbers.values())
        assert {kinds[n] for part, n in numbers.items() if part.endswith(("down", "down3", "down4"))} == {"Conv"}


def test_names_of_the_published_layers() -> None:
    definition = Definition("n", family="yolo26")
    with torch.device("meta"):
        names = foreign_names(Network(definition), definition)
    assert names["backbone.attend.chain.0.attention.read.conv.weight"] == "10.m.0.attn.qkv.conv.weight"
    assert names["neck.out5.chain.0.1.widen.bn.bias"] == "22.m.0.1.ffn.0.bn.bias"
    assert names["head.single.score.2.first.spatial.conv.weight"] == "23.one2one_cv3.2.0.0.conv.weight"
    assert names["head.proto.semantic.2.bias"] == "23.proto.semseg.2.bias"
    assert foreign_names(Network(Definition("n")), Definition("n"))["head.bins"] == "22.dfl.conv.weight"


def refused(path: Path, words: str) -> None:
    with pytest.raises(EdgesegError, match=words) as error:
        load_checkpoint(path)
    assert path.name in str(error.value) and error.value.hint


def test_other_networks_are_told_apart(stubs: Any, small: Network, tmp_path: Path) -> None:
    path = tmp_path / "other.pt"

    def write(change: Callable[[Any], None], names: Any = ("a", "b", "c")) -> Path:
        model = stubs.model(copy.deepcopy(small), names)
        change(model)
        torch.save({"model": model}, path)
        return path

    def put(at: str, name: str) -> Callable[[Any], None]:
        return lambda model: model.model._modules.__setitem__(at, stubs.make(name))

    refused(write(put("22", "Pose")), "pose")
    refused(write(put("2", "C3k2")), "layer 2 is C3k2")
    refused(write(lambda m: m.model._modules.popitem()), "layer 22 is nothing")
    refused(write(lambda m: m.model._modules.clear()), "without layers")
    refused(write(lambda m: m.model[22]._modules.pop("proto")), "missing")
    refused(write(lambda m: m.model[22].add_module("more", nn.Conv2d(1, 1, 1))), "unknown")
    refused(write(lambda m: m.model[22].__setattr__("nm", 64)), "64 masks")
    refused(write(lambda m: m.model[0].__setattr__("act", nn.GELU())), "activations are GELU, SiLU")
    refused(write(lambda m: m.model[0].bn.__setattr__("eps", 1e-5)), "eps 1e-05")
    refused(write(lambda m: m.model[0].__setattr__("conv", nn.Conv2d(4, 8, 3, bias=False))), "reads pictures of 4 channels")
    refused(write(lambda m: m.model[0].__setattr__("conv", nn.Conv2d(3, 8, 5, bias=False))), r"is \(8, 3, 5, 5\)")
    refused(write(lambda m: m.model[0].__setattr__("conv", nn.Conv2d(3, 40, 3, bias=False))), "no YOLOv8-seg variant")
    refused(write(lambda m: m.model[0].__setattr__("act", nn.Identity())), "differ from YOLOv8-seg in having an activation")
    refused(write(lambda m: nn.init.constant_(m.model[0].conv.weight, float("nan"))), "undefined")
    refused(write(lambda m: None, ["a"]), "1 class names for 3")
    torch.save({"model": stubs.make("Conv")}, path)
    refused(path, "holds a Conv")
    torch.save({"0.conv.weight": torch.ones(8, 3, 3, 3)}, path)
    refused(path, "no tensor")


def test_modules_nested_without_end(stubs: Any, small: Network, tmp_path: Path) -> None:
    model = stubs.model(small, ("a", "b", "c"))
    model.model[0]._modules["loop"] = model
    torch.save({"model": model}, tmp_path / "loop.pt")
    refused(tmp_path / "loop.pt", "nested too deeply")


def test_a_class_off_the_list(foreign_file: Writer, stubs: Any) -> None:
    refused(foreign_file(extra=stubs.classes["Evil"]()), r"refused: it names 'ultralytics\.evil\.Evil'")


@pytest.mark.parametrize("plain", [False, True])
def test_a_detection_network_is_one(stubs: Any, small: Network, tmp_path: Path, plain: bool) -> None:
    network, names = (Network(Definition("n", nc=2)).eval(), ("a", "b")) if plain else (small, ("a", "b", "c"))
    model = stubs.model(copy.deepcopy(network), names, "DetectionModel")
    torch.save(model.state_dict() if plain else {"model": model}, tmp_path / "detector.pt")
    found = load_checkpoint(tmp_path / "detector.pt")
    assert found.task == "detect" and found.names == (("class0", "class1") if plain else names)
    ours = network.state_dict()
    assert set(ours) - set(found.state_dict()) == {k for k in ours if k.startswith(("head.coeff.", "head.proto."))}
    assert all(torch.equal(v, ours[k]) for k, v in found.state_dict().items())
    assert [o.role for o in found.outputs("raw", 64)] == ["box", "score"] * 3


def test_a_detection_network_starts_a_training(stubs: Any, small: Network, tmp_path: Path) -> None:
    from edgeseg import Model

    torch.save({"model": stubs.model(copy.deepcopy(small), ("a", "b", "c"), "DetectionModel")}, tmp_path / "detector.pt")
    (tmp_path / "own.yaml").write_text("variant: own\nnc: 3\ndepth: 0.33\nwidth: 0.125\nmax_channels: 256\n")
    model = Model(tmp_path / "own.yaml").load(tmp_path / "detector.pt")
    loaded = load_checkpoint(model.path)
    assert torch.equal(loaded.backbone.stem.conv.weight, small.backbone.stem.conv.weight)
    assert torch.equal(loaded.head.box[0].out.weight, small.head.box[0].out.weight)
    assert {k.split(".")[1] for k in loaded.info["fresh"]} == {"coeff", "proto"}


def test_shared_checkpoint(shared: Path) -> None:
    network = load_checkpoint(shared / "models" / "yolov8n-seg.pt")
    assert network.definition == Definition("n", nc=80) and len(network.names) == 80 and network.names[0] == "person"
    assert count_parameters(network) == 3_409_968 and count_parameters(network.fuse()) == 3_404_320
    assert network.info["imgsz"] == 640
