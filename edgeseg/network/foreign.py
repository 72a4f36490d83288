"""YOLOv8-seg checkpoints of other trainers: from their records to a ``Network``.

Such a file numbers its layers (``model.0.conv.weight`` ...). The tables below say which of our parts each layer is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import EdgesegError, brief
from edgeseg.network.allowlist import TensorRef
from edgeseg.network.blocks import BN_EPS
from edgeseg.network.definition import COEFFS, REG_MAX, VARIANTS, Definition
from edgeseg.network.model import Network
from edgeseg.network.pickles import Record
from edgeseg.network.torchfile import TorchFile

_UP, _DOWN = ["Upsample", "Concat", "C2f"], ["Conv", "Concat", "C2f"]
_LAYERS = ["Conv", *["Conv", "C2f"] * 4, "SPPF", *_UP * 2, *_DOWN * 2, "Segment"]
_PLACES = {
    "backbone.stem": "0", "backbone.p2.down": "1", "backbone.p2.mix": "2", "backbone.p3.down": "3", "backbone.p3.mix": "4",
    "backbone.p4.down": "5", "backbone.p4.mix": "6", "backbone.p5.down": "7", "backbone.p5.mix": "8", "backbone.sppf": "9",
    "neck.top4": "12", "neck.out3": "15", "neck.down3": "16", "neck.out4": "18", "neck.down4": "19", "neck.out5": "21",
    "head.proto": "22.proto", "head.box": "22.cv2", "head.score": "22.cv3", "head.coeff": "22.cv4",
}  # fmt: skip
_BLOCK_WORDS = {"enter": "cv1", "leave": "cv2", "chain": "m", "first": "cv1", "second": "cv2"}
_PROTO_WORDS = {"enter": "cv1", "refine": "cv2", "leave": "cv3"}
_BRANCH_WORDS = {"first": "0", "second": "1", "out": "2"}
_ACTIVATIONS = {"SiLU": "silu", "ReLU6": "relu6", "Hardswish": "hardswish"}
_HINT = "edgeseg reads YOLOv8 segmentation networks: yolov8n-seg.pt and its sizes s, m, l, x, or one trained from them"
_TASKS = {
    "Detect": "detection", "v10Detect": "detection", "RTDETRDecoder": "detection", "WorldDetect": "detection",
    "Pose": "pose", "OBB": "oriented boxes", "Classify": "classification",
}  # fmt: skip


def foreign_name(ours: str) -> str:
    """The layer-numbered name of one of our tensors: ``backbone.stem.conv.weight`` -> ``0.conv.weight``."""
    if ours == "head.bins":
        return "22.dfl.conv.weight"
    tokens = ours.split(".")
    for depth in (3, 2):
        place = _PLACES.get(".".join(tokens[:depth]))
        if place is not None:
            words = _BLOCK_WORDS
            if place.startswith("22"):
                words = _PROTO_WORDS if place.endswith("proto") else _BRANCH_WORDS
            return ".".join([place, *(words.get(t, t) for t in tokens[depth:])])
    raise KeyError(ours)


def layer_numbers() -> dict[str, int]:
    """Our parts that have weights, with their number in the published layer list: ``backbone.stem`` is 0, ``head.*`` 22."""
    return {part: int(place.split(".")[0]) for part, place in _PLACES.items()}


def network_from(file: TorchFile, content: Any, *, detection: bool = False) -> Network:
    """Build the network that a checkpoint of another trainer holds.

    Args:
        file: the opened file, from which tensors are read.
        content: what ``file.read()`` gave.
        detection: take a detection network of the same generation too, for its weights; coefficients and prototypes of the
            result are fresh, and ``info["fresh"]`` lists those tensors.

    Returns:
        The network in evaluation mode, float32; ``info`` has ``imgsz``, ``data``, ``date``, ``version`` if known.

    Raises:
        EdgesegError: no YOLOv8-seg network in it; says what it is instead, if that is known.
    """
    try:
        return _network_from(file, content, detection)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError, OverflowError, RecursionError) as e:
        raise EdgesegError("damaged: a part of its network is of the wrong kind", path=file.path, hint=_HINT) from e


def _network_from(file: TorchFile, content: Any, detection: bool) -> Network:
    path = file.path
    model = _choose(content, path)
    names: Any = None
    scale: Any = None
    act = "silu"
    if isinstance(model, Record):
        act = _check_layers(model, path, detection)
        names, scale = model.state.get("names"), _scale(model.state.get("yaml"))
        windows = {k.removeprefix("model."): v for k, v in _tensors(model, path)}
    else:
        windows = _plain(model, path)
    try:
        definition = _infer(windows, scale, act)
    except (KeyError, IndexError) as e:
        raise EdgesegError(f"not a YOLOv8-seg network: it has no tensor {e}", path=path, hint=_HINT) from e
    if definition is None:
        raise EdgesegError("its widths and depths are no YOLOv8-seg variant's", path=path, hint=_HINT)
    for window in windows.values():
        file.check(window)
    # Channels are read from a few tensors: all others are compared before a network of that width takes memory.
    with torch.device("meta"):
        shapes = {foreign_name(k): v.shape for k, v in Network(definition).state_dict().items()}
    for name in windows.keys() & shapes.keys():
        if not name.startswith("22.dfl") and tuple(shapes[name]) != windows[name].size:
            raise EdgesegError(
                f"tensor {name} is {windows[name].size} where {tuple(shapes[name])} belongs", path=path, hint=_HINT
            )
    network = Network(definition, _class_names(names, definition.nc, path)).eval()
    if not any(".bn." in k for k in windows):
        network = network.fuse()
    fresh = _fill(network, windows, file, detection)
    network.info = {**_info(content, model), **({"fresh": fresh} if fresh else {})}
    return network


def _choose(content: Any, path: Path) -> Record | Mapping[str, Any]:
    """The averaged weights where there are some, else the network, else a plain state dict."""
    if isinstance(content, Record) and "_modules" in content.state:
        return content
    if isinstance(content, Mapping):
        for key in ("ema", "model"):
            inner = content.get(key)
            if isinstance(inner, Record) and inner.short == "ModelEMA":
                inner = inner.state.get("ema")
            if isinstance(inner, Record) or (isinstance(inner, Mapping) and inner):
                return inner
        if any(isinstance(v, TensorRef) for v in content.values()):
            return content
    raise EdgesegError("there is no network in it", path=path, hint=_HINT)


def _part(record: Record, key: str) -> Mapping[str, Any]:
    value = record.state.get(key)
    return value if isinstance(value, Mapping) else {}


def _check_layers(model: Record, path: Path, detection: bool) -> str:
    """Compare the layers with YOLOv8-seg's (or with those of its detector) and return the activation they use."""
    if model.short != "SegmentationModel" and "model" not in _part(model, "_modules"):
        raise EdgesegError(f"it holds a {model.short}, not a YOLOv8-seg network", path=path, hint=_HINT)
    sequence = _part(model, "_modules").get("model")
    layers = list(_part(sequence, "_modules").values()) if isinstance(sequence, Record) else []
    kinds = [layer.short if isinstance(layer, Record) else "nothing" for layer in layers]
    if not kinds:
        raise EdgesegError(f"it holds a {model.short} without layers", path=path, hint=_HINT)
    layout = [*_LAYERS[:-1], "Detect"] if detection and kinds[-1] == "Detect" else _LAYERS
    if kinds[-1] in _TASKS and layout is _LAYERS:
        hint = "For training, its backbone and neck can be taken: pretrained=FILE" if kinds[-1] == "Detect" else _HINT
        raise EdgesegError(f"a network for {_TASKS[kinds[-1]]} ({kinds[-1]}), not for segmentation", path=path, hint=hint)
    if kinds != layout:
        at = next((i for i, (a, b) in enumerate(zip(kinds, layout)) if a != b), min(len(kinds), len(layout)))
        found = kinds[at] if at < len(kinds) else "nothing"
        wanted = layout[at] if at < len(layout) else "nothing"
        raise EdgesegError(
            f"not YOLOv8-seg: layer {at} is {found} where {wanted} belongs (another YOLO generation?)", path=path, hint=_HINT
        )
    head = layers[-1].state
    if head.get("nm", COEFFS) != COEFFS or head.get("reg_max", REG_MAX) != REG_MAX:
        raise EdgesegError(
            f"its head has {brief(head.get('nm'))} masks and reg_max {brief(head.get('reg_max'))}", path=path, hint=_HINT
        )
    acts = set()
    for record in _walk(model, path):
        if record[1].short == "Conv":
            inner = _part(record[1], "_modules").get("act")
            acts.add(inner.short if isinstance(inner, Record) else "none")
        if record[1].short == "BatchNorm2d" and abs(record[1].state.get("eps", BN_EPS) - BN_EPS) > 1e-9:
            raise EdgesegError(
                f"its batch normalisation has eps {brief(record[1].state['eps'])}, not {BN_EPS}", path=path, hint=_HINT
            )
    if len(acts) != 1 or not acts <= set(_ACTIVATIONS):
        raise EdgesegError(
            f"its activations are {', '.join(sorted(acts))}", path=path, hint="edgeseg builds one of SiLU, ReLU6, Hardswish"
        )
    return _ACTIVATIONS[acts.pop()]


def _walk(root: Record, path: Path) -> Iterator[tuple[str, Record]]:
    """All modules with their dotted names; a file that nests them without end is refused."""
    todo: list[tuple[str, Record, int]] = [("", root, 0)]
    seen = 0
    while todo:
        name, record, depth = todo.pop()
        seen += 1
        if depth > 16 or seen > 20_000:
            raise EdgesegError("its modules are nested too deeply to be a network", path=path, hint=_HINT)
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
    """A plain state dict; the layers' numbers may follow any number of ``model.`` and ``module.`` prefixes."""
    found: dict[str, TensorRef] = {}
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, TensorRef):
            while key.startswith(("model.", "module.")):
                key = key.partition(".")[2]
            found[key] = value
    if not found:
        raise EdgesegError("there is no network in it", path=path, hint=_HINT)
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


def _infer(windows: Mapping[str, TensorRef], scale: tuple[float, float, int] | None, act: str) -> Definition | None:
    """The variant whose channels and depths the tensors have; tensors decide, what the file claims is only a candidate."""
    stages = tuple(windows[f"{i}.conv.weight"].size[0] for i in (0, 1, 3, 5, 7))
    nc = windows["22.cv3.0.2.weight"].size[0]
    depths = tuple(len({k.split(".")[2] for k in windows if k.startswith(f"{i}.m.")}) for i in (2, 4, 12))
    candidates = [Definition(v, nc=nc, act=act) for v in VARIANTS]
    if scale is not None and all(0 < v <= 4096 for v in scale):
        with contextlib.suppress(EdgesegError):  # a claim that cannot be is none
            candidates.append(Definition("custom", nc, act, *scale))
    for one in candidates:
        if one.stages == stages and (one.repeats(3), one.repeats(6), one.repeats(3)) == depths:
            return one
    return None


def _class_names(names: Any, nc: int, path: Path) -> tuple[str, ...] | None:
    if isinstance(names, Mapping):
        names = [names.get(i, names.get(str(i))) for i in range(len(names))]
    if not isinstance(names, (list, tuple)):
        return None
    if len(names) != nc:
        raise EdgesegError(f"it has {len(names)} class names for {nc} classes", path=path, hint=_HINT)
    if not all(n is None or isinstance(n, (str, int, float)) for n in names):
        raise EdgesegError("its class names are no text", path=path, hint=_HINT)
    return tuple(n if isinstance(n, str) else brief(n) for n in names)


def _fill(network: Network, windows: Mapping[str, TensorRef], file: TorchFile, detection: bool) -> list[str]:
    """Copy the tensors in; returns the names of ours that a detection network has not."""
    ours = network.state_dict()
    wanted = {foreign_name(key): key for key in ours}
    masks = [k for k in wanted if k.startswith(("22.cv4.", "22.proto."))]
    fresh = masks if detection and not any(k in windows for k in masks) else []
    names = [wanted.pop(k) for k in fresh]
    optional = {k for k in wanted if k.endswith("num_batches_tracked")} | {"22.dfl.conv.weight"}
    missing = sorted(set(wanted) - set(windows) - optional)
    extra = sorted(set(windows) - set(wanted))
    if missing or extra:
        what = [
            f"{len(k)} tensors {word} ({', '.join(k[:3])})" for word, k in (("missing", missing), ("unknown", extra)) if k
        ]
        raise EdgesegError(f"not a YOLOv8-seg network: {' and '.join(what)}", path=file.path, hint=_HINT)
    with torch.no_grad():
        for theirs, key in wanted.items():
            if theirs not in windows:
                continue
            target, window = ours[key], windows[theirs]
            shape = tuple(n for n in window.size if n != 1) if key == "head.bins" else window.size
            if shape != tuple(target.shape):
                raise EdgesegError(
                    f"tensor {theirs} is {tuple(window.size)} where {tuple(target.shape)} belongs",
                    path=file.path,
                    hint=_HINT,
                )
            target.copy_(file.tensor(window).view(target.shape))
            if target.is_floating_point() and not bool(torch.isfinite(target).all()):
                raise EdgesegError(
                    f"tensor {theirs} holds infinite or undefined numbers", path=file.path, hint="Train it again"
                )
    return names


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
