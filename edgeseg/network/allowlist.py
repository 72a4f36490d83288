"""The closed list of names that a foreign checkpoint may hold, and how the few constructors of plain data are read.

Nothing on the list is imported or called. Names become ``Record``s: the list is closed all the same, so that a file that was
made to do harm is recognised as such rather than half read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from edgeseg.network.pickles import Construct, Name, Record, Storage, hashable


@dataclass(frozen=True)
class TensorRef:
    """A tensor as a strided window on a storage; all numbers count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


# Layers of the checkpoints that this project reads, and of their relatives: those are read far enough to say what they are.
_YOLO_BLOCKS = (
    "AConv ADown AIFI A2C2f AAttn ABlock Attention BasicBlock BNContrastiveHead Bottleneck BottleneckCSP C1 C2 C2f C2fAttn "
    "C2fCIB C2fPSA C2PSA C3 C3Ghost C3TR C3f C3k C3k2 C3x CBFuse CBLinear CIB ContrastiveHead DFL ELAN1 GhostBottleneck "
    "HGBlock HGStem ImagePoolingAttn MaxSigmoidAttnBlock Proto Proto26 PSA PSABlock RealNVP RepBottleneck RepC3 RepCSP "
    "RepNCSPELAN4 RepVGGDW Residual ResNetBlock ResNetLayer SAVPE SCDown SPP SPPELAN SPPF SwiGLUFFN TorchVision"
)
_YOLO_CONVS = (
    "CBAM ChannelAttention Concat Conv Conv2 ConvTranspose DWConv DWConvTranspose2d Focus GhostConv Index LightConv RepConv "
    "SpatialAttention"
)
_YOLO_HEADS = (
    "Classify Detect LRPCHead OBB OBB26 Pose Pose26 RTDETRDecoder Segment Segment26 SemanticSegment WorldDetect YOLOEDetect "
    "YOLOESegment YOLOESegment26 v10Detect"
)
_YOLO_TASKS = (
    "ClassificationModel DetectionModel Ensemble OBBModel PoseModel RTDETRDetectionModel SegmentationModel WorldModel "
    "YOLOEModel YOLOESegModel"
)
_YOLO_LOSSES = (
    "BCEDiceLoss BboxLoss DFLoss E2ELoss FocalLoss KeypointLoss MultiChannelDiceLoss RotatedBboxLoss v8ClassificationLoss "
    "v8DetectionLoss v8OBBLoss v8PoseLoss v8SegmentationLoss"
)
_STORAGES = {
    "Float": "float32", "Half": "float16", "Double": "float64", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip

_MODULES: dict[str, str] = {
    "ultralytics.nn.tasks": _YOLO_TASKS,
    "ultralytics.nn.modules": f"{_YOLO_BLOCKS} {_YOLO_CONVS} {_YOLO_HEADS}",
    "ultralytics.nn.modules.block": _YOLO_BLOCKS,
    "ultralytics.nn.modules.conv": _YOLO_CONVS,
    "ultralytics.nn.modules.head": _YOLO_HEADS,
    "ultralytics.nn.modules.transformer": "AIFI DeformableTransformerDecoder DeformableTransformerDecoderLayer LayerNorm2d "
    "MLP MLPBlock MSDeformAttn TransformerBlock TransformerEncoderLayer TransformerLayer",
    "ultralytics.utils": "IterableSimpleNamespace SimpleClass",
    "ultralytics.yolo.utils": "IterableSimpleNamespace SimpleClass",
    "ultralytics.utils.loss": _YOLO_LOSSES,
    "ultralytics.yolo.utils.loss": _YOLO_LOSSES,
    "ultralytics.utils.tal": "RotatedTaskAlignedAssigner TaskAlignedAssigner",
    "ultralytics.yolo.utils.tal": "TaskAlignedAssigner",
    "ultralytics.utils.torch_utils": "ModelEMA",
    "torch.nn.modules.activation": "ELU GELU Hardsigmoid Hardswish Hardtanh LeakyReLU Mish MultiheadAttention PReLU ReLU "
    "ReLU6 SELU SiLU Sigmoid Softmax Softplus Tanh",
    "torch.nn.modules.batchnorm": "BatchNorm1d BatchNorm2d SyncBatchNorm",
    "torch.nn.modules.container": "ModuleDict ModuleList ParameterDict ParameterList Sequential",
    "torch.nn.modules.conv": "Conv1d Conv2d ConvTranspose2d",
    "torch.nn.modules.dropout": "Dropout Dropout2d",
    "torch.nn.modules.flatten": "Flatten Unflatten",
    "torch.nn.modules.instancenorm": "InstanceNorm2d",
    "torch.nn.modules.linear": "Identity Linear NonDynamicallyQuantizableLinear",
    "torch.nn.modules.loss": "BCELoss BCEWithLogitsLoss CrossEntropyLoss",
    "torch.nn.modules.module": "Module",
    "torch.nn.modules.normalization": "GroupNorm LayerNorm",
    "torch.nn.modules.padding": "ZeroPad2d",
    "torch.nn.modules.pooling": "AdaptiveAvgPool2d AvgPool2d MaxPool2d",
    "torch.nn.modules.sparse": "Embedding",
    "torch.nn.modules.upsampling": "Upsample UpsamplingNearest2d",
    "torch.nn.parameter": "Buffer Parameter",
    "torch._tensor": "_rebuild_from_type_v2",
    "torch._utils": "_rebuild_parameter _rebuild_parameter_with_state _rebuild_tensor _rebuild_tensor_v2",
    "torch.serialization": "_get_layout",
    "torch.storage": "TypedStorage UntypedStorage",
    "torch": "Size Tensor bfloat16 bool device float float16 float32 float64 half int16 int32 int64 int8 long strided uint8 "
    + " ".join(f"{kind}Storage" for kind in _STORAGES),
    "torch.torch": "strided",
    "collections": "Counter OrderedDict defaultdict",
    "builtins": "bool complex dict float frozenset int list set slice str tuple",
    "_codecs": "encode",
    "datetime": "date datetime timedelta timezone",
    "numpy": "dtype float16 float32 float64 int32 int64 ndarray",
    "numpy.core.multiarray": "_reconstruct scalar",
    "numpy._core.multiarray": "_reconstruct scalar",
    "pathlib": "Path PosixPath PurePath PurePosixPath PureWindowsPath WindowsPath",
    "pathlib._local": "Path PosixPath PurePosixPath PureWindowsPath WindowsPath",
    "types": "SimpleNamespace",
}
ALLOWED = frozenset(f"{module}.{name}" for module, names in _MODULES.items() for name in names.split())
STORAGES = {f"torch.{kind}Storage": dtype for kind, dtype in _STORAGES.items()} | {"torch.storage.UntypedStorage": "uint8"}


def _mapping(args: tuple[Any, ...]) -> dict[Any, Any]:
    found = args[-1] if args else {}
    if isinstance(found, (dict, list, tuple)):
        pairs = found.items() if isinstance(found, dict) else found
        return {hashable(key): value for key, value in pairs}
    return {}


def _set(args: tuple[Any, ...]) -> set[Any]:
    return {hashable(v) for v in args[0]} if args else set()


def _frozenset(args: tuple[Any, ...]) -> frozenset[Any]:
    return frozenset(_set(args))


def _size(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(args[0]) if args and isinstance(args[0], (tuple, list)) else ()


def _encode(args: tuple[Any, ...]) -> bytes:
    text, codec = args if len(args) == 2 else (*args, "latin1")
    if codec not in ("latin1", "latin-1"):
        raise ValueError("bytes in an unusual encoding")
    if not isinstance(text, str):
        raise ValueError("bytes that are no text")
    return text.encode("latin1")


def _path(args: tuple[Any, ...]) -> str:
    if not all(isinstance(part, str) for part in args) or sum(map(len, args)) > 4096:
        raise ValueError("no path")
    return "/".join(args)


def _scalar(args: tuple[Any, ...]) -> Any:
    """A NumPy scalar as a Python number; a record when it is of another kind than a float or an integer."""
    kind, raw = args
    code = kind.args[0] if isinstance(kind, Record) and kind.cls == "numpy.dtype" and kind.args else None
    letter = {
        "f8": "d",
        "f4": "f",
        "f2": "e",
        "i8": "q",
        "i4": "i",
        "i2": "h",
        "i1": "b",
        "u8": "Q",
        "u4": "I",
        "u1": "B",
        "b1": "?",
    }
    if isinstance(raw, bytes) and isinstance(code, str) and code.lstrip("<|=") in letter:
        return struct.unpack("<" + letter[code.lstrip("<|=")], raw)[0]
    return Record("numpy.scalar", args)


def _counts(value: Any) -> tuple[int, ...]:
    if isinstance(value, tuple) and len(value) <= 8 and all(type(n) is int and 0 <= n < 1 << 62 for n in value):
        return value
    raise ValueError(f"no sizes: {type(value).__name__}")


def _tensor(args: tuple[Any, ...]) -> TensorRef:
    """``(storage, offset, size, stride, ...)``; whether the window lies inside the storage is checked where it is read."""
    storage, offset, size, stride = args[:4]
    if not isinstance(storage, Storage) or len(_counts(size)) != len(_counts(stride)):
        raise ValueError("no tensor")
    return TensorRef(storage, _counts((offset,))[0], _counts(size), _counts(stride))


def _parameter(args: tuple[Any, ...]) -> Any:
    if not args:
        return Record("torch.nn.parameter.Parameter")
    if not isinstance(args[0], TensorRef):
        raise ValueError("a parameter without a tensor")
    return args[0]


def _typed_tensor(args: tuple[Any, ...]) -> Any:
    function, _, inner = args[:3]
    maker = {"torch._utils._rebuild_tensor_v2": _tensor, "torch._utils._rebuild_parameter": _parameter}
    if not isinstance(function, Name) or not isinstance(inner, tuple):
        raise ValueError("no tensor")
    return maker[function.full](inner)


CONSTRUCTORS: dict[str, Construct] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": lambda args: {},
    "builtins.dict": _mapping,
    "builtins.set": _set,
    "builtins.frozenset": _frozenset,
    "torch.Size": _size,
    "_codecs.encode": _encode,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    **{name: _path for name in ALLOWED if name.startswith("pathlib")},
}
