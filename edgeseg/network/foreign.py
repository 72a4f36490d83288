"""Checkpoints of other trainers: from their records to a ``Network``. What they call our parts is in ``layouts``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import EdgesegError, brief
from edgeseg.network.allowlist import TensorRef
from edgeseg.network.blocks import BN_EPS, Conv
from edgeseg.network.definition import COEFFS, FAMILIES, VARIANTS, Definition, titled
from edgeseg.network.layouts import foreign_names, layer_kinds, layer_numbers
from edgeseg.network.model import Network
from edgeseg.network.pickles import Record
from edgeseg.network.torchfile import TorchFile

_WRAPPERS = re.compile(r"^(?:[A-Za-z_]\w*\.)+(?=\d+\.)")
_HEADS = {"Segment": "segment", "Segment26": "segment", "Detect": "detect"}
_ACTIVATIONS = {"SiLU": "silu", "ReLU6": "relu6", "Hardswish": "hardswish"}
_READS = ", ".join(titled(family, task) for family in FAMILIES for task in ("segment", "detect"))
_HINT = f"edgeseg reads {_READS}: their sizes n, s, m, l, x, or one trained from them"
_TASKS = {
    "v10Detect": "detection without suppression", "RTDETRDecoder": "a transformer's detection", "WorldDetect": "open words",
    "Pose": "pose", "Pose26": "pose", "OBB": "oriented boxes", "OBB26": "oriented boxes", "Classify": "classification",
    "SemanticSegment": "semantic segmentation",
}  # fmt: skip


def _refused(what: str, path: Path) -> EdgesegError:
    return EdgesegError(what, path=path, hint=_HINT)


def network_from(file: TorchFile, content: Any) -> Network:
    """Build the network that a checkpoint of another trainer holds; ``content`` is what ``file.read()`` gave.

    Returns:
        The network in evaluation mode, float32; ``info`` has ``imgsz``, ``data``, ``date``, ``version`` if known.

    Raises:
        EdgesegError: no network in it that edgeseg builds; says what it is instead, if that is known.
    """
    try:
        return _network_from(file, content)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, RecursionError) as e:
        raise _refused("damaged: a part of its network is of the wrong kind", file.path) from e


def _network_from(file: TorchFile, content: Any) -> Network:
    path = file.path
    model = _choose(content, path)
    names: Any = None
    scale: Any = None
    act, plain = "silu", None
    if isinstance(model, Record):
        windows = {k.removeprefix("model."): v for k, v in _tensors(model, path)}
        family, task = _kind_of(windows)
        _check_layers(model, family, path)
        act, plain = _activations(model, path)
        names, scale = model.state.get("names"), _scale(model.state.get("yaml"))
    else:
        windows = _plain(model, path)
        family, task = _kind_of(windows)
    title = titled(family, task)
    end2end = any(".one2one_" in k for k in windows) and not any(re.match(r"\d+\.cv3\.", k) for k in windows)
    if end2end:  # with joined layers they keep the copy that needs no suppression, where they run by it
        windows = {k.replace(".one2one_", "."): v for k, v in windows.items()}
        plain = {k.replace(".one2one_", ".") for k in plain} if plain is not None else None
    try:
        definition = _infer(windows, scale, Definition(act=act, family=family, task=task, end2end=end2end))
    except (KeyError, IndexError) as e:
        raise _refused(f"not a {title} network: it has no tensor {e}", path) from e
    if definition is None:
        raise _refused(f"its widths and depths are no {title} variant's", path)
    for window in windows.values():
        file.check(window)
    theirs = _compare(definition, windows, plain, path)
    network = Network(definition, _class_names(names, definition.nc, path)).eval()
    if not any(".bn." in k for k in windows):
        network = network.fuse()
        theirs = foreign_names(network, definition)
    _fill(network, theirs, windows, file)
    network.info = _info(content, model)
    return network


def _compare(definition: Definition, windows: Mapping[str, TensorRef], plain: set[str] | None, path: Path) -> dict[str, str]:
    """Compare all tensors' shapes before a network of that size takes memory; returns what they call our tensors.

    Channels are read from a few tensors, so the others may be anything. ``plain`` names their convolutions without an
    activation, None where the file does not say.
    """
    with torch.device("meta"):
        network = Network(definition)
    names = foreign_names(network, definition)
    for key, value in network.state_dict().items():
        window = windows.get(names[key])
        if key != "head.bins" and window is not None and window.size != tuple(value.shape):
            if key == "backbone.stem.conv.weight" and len(window.size) == 4 and window.size[1] != 3:
                raise _refused(f"it reads pictures of {window.size[1]} channels, and edgeseg builds networks for 3", path)
            raise _refused(f"tensor {names[key]} is {window.size} where {tuple(value.shape)} belongs", path)
    bare = {
        names[f"{k}.conv.weight"].removesuffix(".conv.weight")
        for k, m in network.named_modules()
        if isinstance(m, Conv) and isinstance(m.act, torch.nn.Identity)
    }
    if plain is not None and plain != bare:
        odd = sorted(plain ^ bare)
        raise _refused(
            f"{len(odd)} of its convolutions ({odd[0]}) differ from {definition.title} in having an activation", path
        )
    return names


def _choose(content: Any, path: Path) -> Record | Mapping[str, Any]:
    """The averaged weights where there are some, else the network, else a plain state dict."""
    if isinstance(content, Record) and "_modules" in content.state:
        return content
    if isinstance(content, Mapping):
        for key in ("ema", "model", "model_state_dict", "state_dict"):
            inner = content.get(key)
            if isinstance(inner, Record) and inner.short == "ModelEMA":
                inner = inner.state.get("ema")
            if isinstance(inner, Record) or (isinstance(inner, Mapping) and inner):
                return inner
        if any(isinstance(v, TensorRef) for v in content.values()):
            return content
    raise _refused("there is no network in it", path)


def _part(record: Record, key: str) -> Mapping[str, Any]:
    value = record.state.get(key)
    return value if isinstance(value, Mapping) else {}


def _kind_of(windows: Mapping[str, TensorRef]) -> tuple[str, str]:
    """Family and task, by tensors that only they have."""
    attention = any(k.startswith("10.m.0.attn.") for k in windows)
    head = layer_numbers(FAMILIES["yolo26" if attention else "yolov8"])["head"]
    four = windows.get(f"{head}.cv2.0.2.weight")  # a box of four numbers, without bins; joined layers keep one copy
    single = any(".one2one_" in k for k in windows) or (four is not None and four.size[:1] == (4,))
    family = "yolov8" if not attention else "yolo26" if single else "yolo11"
    coefficients = any(k.startswith((f"{head}.cv4.", f"{head}.one2one_cv4.", f"{head}.proto.")) for k in windows)
    others = any(k.startswith((f"{head}.cv3.", f"{head}.one2one_cv3.")) for k in windows)
    return family, "segment" if coefficients or not others else "detect"


def _check_layers(model: Record, family: str, path: Path) -> None:
    """Compare the layers with those of the family."""
    if model.short not in ("SegmentationModel", "DetectionModel") and "model" not in _part(model, "_modules"):
        raise _refused(f"it holds a {model.short}, not a network that edgeseg builds", path)
    sequence = _part(model, "_modules").get("model")
    layers = list(_part(sequence, "_modules").values()) if isinstance(sequence, Record) else []
    kinds = [layer.short if isinstance(layer, Record) else "nothing" for layer in layers]
    if not kinds:
        raise _refused(f"it holds a {model.short} without layers", path)
    if kinds[-1] in _TASKS:
        raise _refused(f"a network for {_TASKS[kinds[-1]]} ({kinds[-1]}), not for segmentation or detection", path)
    plan = FAMILIES[family]
    layout = layer_kinds(plan, kinds[-1] if kinds[-1] in _HEADS else "Segment")
    if kinds != layout:
        at = next((i for i, (a, b) in enumerate(zip(kinds, layout)) if a != b), min(len(kinds), len(layout)))
        found = kinds[at] if at < len(kinds) else "nothing"
        wanted = layout[at] if at < len(layout) else "nothing"
        raise _refused(f"not {plan.title}: layer {at} is {found} where {wanted} belongs (another YOLO generation?)", path)
    head = layers[-1].state
    if head.get("nm", COEFFS) != COEFFS or head.get("reg_max", plan.reg_max) != plan.reg_max:
        raise _refused(f"its head has {brief(head.get('nm'))} masks and reg_max {brief(head.get('reg_max'))}", path)


def _activations(model: Record, path: Path) -> tuple[str, set[str]]:
    """The activation of the convolutions, and which of them have none (by name, without ``model.``)."""
    acts, plain = set(), set()
    for name, record in _walk(model, path):
        if record.short in ("Conv", "DWConv"):
            inner = _part(record, "_modules").get("act")
            kind = inner.short if isinstance(inner, Record) else "none"
            if kind == "Identity":
                plain.add(name.removeprefix("model."))
            else:
                acts.add(kind)
        if record.short == "BatchNorm2d" and abs(record.state.get("eps", BN_EPS) - BN_EPS) > 1e-9:
            raise _refused(f"its batch normalisation has eps {brief(record.state['eps'])}, not {BN_EPS}", path)
    if len(acts) != 1 or not acts <= set(_ACTIVATIONS):
        what = f"its activations are {', '.join(sorted(acts))}"
        raise EdgesegError(what, path=path, hint="edgeseg builds one of SiLU, ReLU6, Hardswish")
    return _ACTIVATIONS[acts.pop()], plain


def _walk(root: Record, path: Path) -> Iterator[tuple[str, Record]]:
    """All modules with their dotted names; a file that nests them without end is refused."""
    todo: list[tuple[str, Record, int]] = [("", root, 0)]
    seen = 0
    while todo:
        name, record, depth = todo.pop()
        seen += 1
        if depth > 16 or seen > 20_000:
            raise _refused("its modules are nested too deeply to be a network", path)
        yield name, record
        for key, child in _part(record, "_modules").items():
            if isinstance(child, Record):
                todo.append((f"{name}.{key}" if name else str(key), child, depth + 1))


def _tensors(root: Record, path: Path) -> Iterator[tuple[str, TensorRef]]:
    for name, record in _walk(root, path):
        hidden = record.state.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for key, value in _part(record, kind).items():
                if isinstance(value, TensorRef) and key not in hidden:
                    yield f"{name}.{key}", value


def _plain(state: Mapping[str, Any], path: Path) -> dict[str, TensorRef]:
    """A plain state dict; the layers' numbers may follow any words: ``module.``, ``_orig_mod.``, ``net.model.`` ..."""
    found: dict[str, TensorRef] = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, TensorRef):
            key = _WRAPPERS.sub("", key)
            if found.setdefault(key, value) != value:
                raise _refused(f"there are two networks in it: both have {brief(key)}", path)
    if not found:
        raise _refused("there is no network in it", path)
    return found


def _scale(yaml: Any) -> tuple[float, float, int] | None:
    """Depth, width and channel ceiling that the file's own layer list asks for, if it says so."""
    if not isinstance(yaml, Mapping):
        return None
    scales = yaml.get("scales")
    triple = scales.get(yaml.get("scale")) if isinstance(scales, Mapping) else None
    if triple is None and "depth_multiple" in yaml:
        triple = [yaml.get("depth_multiple"), yaml.get("width_multiple"), yaml.get("max_channels") or 1024]
    if isinstance(triple, (list, tuple)) and len(triple) == 3 and all(isinstance(v, (int, float)) for v in triple):
        return float(triple[0]), float(triple[1]), int(triple[2])
    return None


def _infer(windows: Mapping[str, TensorRef], scale: tuple[float, float, int] | None, like: Definition) -> Definition | None:
    """The variant whose channels and depths the tensors have; tensors decide, what the file claims is only a candidate.

    ``like`` has family, task and activation.
    """
    numbers = layer_numbers(like.plan)
    stages = tuple(windows[f"{i}.conv.weight"].size[0] for i in (0, 1, 3, 5, 7))
    nc = windows[f"{numbers['head']}.cv3.0.2.weight"].size[0]
    blocks = {
        name: numbers[f"neck.{name}" if f"neck.{name}" in numbers else f"backbone.{name}.mix"] for name in like.plan.mixes
    }
    depths = {name: len({k.split(".")[2] for k in windows if k.startswith(f"{i}.m.")}) for name, i in blocks.items()}
    candidates = [replace(like, variant=v, nc=nc, depth=None, width=None, max_channels=None) for v in VARIANTS]
    if scale is not None and all(0 < v <= 4096 for v in scale):
        with contextlib.suppress(EdgesegError):  # a claim that cannot be is none
            depth, width, ceiling = scale
            candidates.append(replace(like, variant="custom", nc=nc, depth=depth, width=width, max_channels=ceiling))
    for one in candidates:
        if one.stages == stages and all(one.mix(name).repeats == depth for name, depth in depths.items()):
            return one
    return None


def _class_names(names: Any, nc: int, path: Path) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names.get(i, names.get(str(i))) for i in range(len(names))]
    if not isinstance(names, (list, tuple)):
        return None
    if len(names) != nc:
        raise _refused(f"it has {len(names)} class names for {nc} classes", path)
    if not all(n is None or isinstance(n, (str, int, float)) for n in names):
        raise _refused("its class names are no text", path)
    return tuple(n if isinstance(n, str) else brief(n) for n in names)


def _fill(network: Network, theirs: Mapping[str, str], windows: Mapping[str, TensorRef], file: TorchFile) -> None:
    """Copy the tensors in. ``theirs`` has their name for each of ours."""
    ours = network.state_dict()
    wanted = {theirs[key]: key for key in ours}
    optional = {k for k, key in wanted.items() if k.endswith("num_batches_tracked") or key == "head.bins"}
    missing = sorted(set(wanted) - set(windows) - optional)
    extra = sorted(set(windows) - set(wanted))
    if missing or extra:
        what = [
            f"{len(k)} tensors {word} ({', '.join(k[:3])})" for word, k in (("missing", missing), ("unknown", extra)) if k
        ]
        raise _refused(f"not a {network.definition.title} network: {' and '.join(what)}", file.path)
    with torch.no_grad():
        for name, key in wanted.items():
            if name not in windows:
                continue
            target, window = ours[key], windows[name]
            shape = tuple(n for n in window.size if n != 1) if key == "head.bins" else window.size
            if shape != tuple(target.shape):
                raise _refused(f"tensor {name} is {tuple(window.size)} where {tuple(target.shape)} belongs", file.path)
            target.copy_(file.tensor(window).view(target.shape))
            if target.is_floating_point() and not bool(torch.isfinite(target).all()):
                odd = f"tensor {name} holds infinite or undefined numbers"
                raise EdgesegError(odd, path=file.path, hint="Train it again")


def _info(content: Any, model: Any) -> dict[str, Any]:
    """Plain values worth keeping: those of the training arguments first, then the file's own."""
    info: dict[str, Any] = {"origin": "foreign"}
    sources: list[Any] = []
    if isinstance(content, Mapping):
        sources += [content.get("train_args"), content]
    if isinstance(model, Record):
        sources.append(model.state.get("args"))
    for source in sources:
        values = source.state if isinstance(source, Record) else source
        if isinstance(values, Mapping):
            for key in ("imgsz", "data", "epochs", "date", "version", "license"):
                if isinstance(values.get(key), (str, int, float)):
                    info.setdefault(key, values[key])
    return info
