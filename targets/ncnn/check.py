"""Whether an ncnn graph and its weights hold together, before ncnn reads them: it takes both at their word, and crashes."""

from __future__ import annotations

import re
from pathlib import Path

from edgeseg.errors import EdgesegError, brief

MAGIC = "7767517"
HINT = "Export the model again"
_LARGEST = 4 << 20  # bytes of a graph; one of a thousand layers has a tenth of a megabyte
_MOST = 20_000
_ARRAYS = -23300
#: The tags in front of weights that are half floats and integers.
HALF, INTEGER = 0x01306B47, 0x000D4B38
#: Bytes of a weight by its tag; with other tags a table of 256 floats and one byte each follow.
_TAGS = {0: 4, HALF: 2, INTEGER: 1, 0x0002C056: 4}
_TABLE = 256 * 4
_Size = tuple[int, int, int]
_NOMINAL = (640, 640)
#: The convolutions, and the parameter that says that the weights are a second input (19 is a padding of the others).
_FED = {"Convolution": 19, "ConvolutionDepthWise": 19, "Deconvolution": 28, "DeconvolutionDepthWise": 28}
_INPUT = re.compile(r"^(Input +)(\S+)", re.MULTILINE)
_NUMBERS = (0, 1, 2, 3, 5, 6, 7, 8, 11, 12, 13, 19, 28)


def check(param: Path, weights: Path) -> frozenset[int]:
    """See that every blob is made before it is read, and that the weights which the layers claim are there.

    Returns:
        The tags of the weights, as far as they could be walked through: up to the first with scales, INT8.

    Raises:
        EdgesegError: they do not; with the line.
    """
    if param.stat().st_size > _LARGEST:
        raise EdgesegError("too large for a graph", path=param, hint=HINT)
    lines = param.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        layers, blobs = (int(n) for n in lines[1].split())
    except (IndexError, ValueError):
        layers = blobs = -1
    if not lines or lines[0].strip() != MAGIC or layers < 1:
        raise EdgesegError("no ncnn graph (a text that begins with 7767517)", path=param, hint=HINT)
    rows = [(i, line.split()) for i, line in enumerate(lines[2:], 3) if line.strip()]
    if len(rows) != layers or layers > _MOST or blobs > 10 * _MOST:
        raise EdgesegError(f"it names {layers} layers and has {len(rows)}", path=param, hint=HINT)
    made: set[str] = set()
    claims: list[tuple[int, str, dict[int, str]]] = []
    sizes: dict[str, _Size] = {}
    for number, words in rows:
        kind, params = _layer(words, made, param, number)
        claims.append((number, kind, params))
        inputs, outputs = int(words[2]), int(words[3])
        given = [sizes.get(b) for b in words[4 : 4 + inputs]]
        found = _size(kind, params, given, (param, number))
        sizes.update({b: found for b in words[4 + inputs : 4 + inputs + outputs] if found is not None})
    if len(made) > blobs:
        raise EdgesegError(f"it names {blobs} blobs and has {len(made)}", path=param, hint=HINT)
    if not any(kind == "Input" for _, kind, _ in claims):
        raise EdgesegError("it has no input", path=param, hint=HINT)
    return _weights(claims, weights, param)


def _layer(words: list[str], made: set[str], param: Path, number: int) -> tuple[str, dict[int, str]]:
    try:
        kind, inputs, outputs = words[0], int(words[2]), int(words[3])
        if min(inputs, outputs) < 0 or len(words) < 4 + inputs + outputs:
            raise ValueError
    except (IndexError, ValueError):
        raise EdgesegError("no layer: a name or a number is missing", path=param, line=number, hint=HINT) from None
    for blob in words[4 : 4 + inputs]:
        if blob not in made:
            raise EdgesegError(f"blob {brief(blob)} is read before it is made", path=param, line=number, hint=HINT)
    for blob in words[4 + inputs : 4 + inputs + outputs]:
        if blob in made:
            raise EdgesegError(f"blob {brief(blob)} is made twice", path=param, line=number, hint=HINT)
        made.add(blob)
    params: dict[int, str] = {}
    for word in words[4 + inputs + outputs :]:
        key, equals, value = word.partition("=")
        if not equals or not key.lstrip("-").isdigit():
            raise EdgesegError(f"{brief(word)} is no parameter", path=param, line=number, hint=HINT)
        if int(key) <= _ARRAYS and value.split(",")[0] != str(len(value.split(",")) - 1):
            raise EdgesegError(f"{brief(word)} is no array", path=param, line=number, hint=HINT)
        params[int(key)] = value
    return kind, params


def _convolution(here: dict[int, int], kind: str, param: Path, number: int) -> None:
    """ncnn divides by these without a look, and takes the weights from a second input that may not be there."""
    width, outputs = here.get(1, 0), here.get(0, 0)
    kernel = width * here.get(11, width)
    sizes = [here.get(k, 1) for k in (2, 3, 7)] + [here.get(12, 1), here.get(13, 1)]
    if min(kernel, outputs, *sizes) < 1 or here.get(6, 0) % (kernel * outputs) or here.get(_FED[kind], 0):
        raise EdgesegError(f"no {kind}: its sizes contradict each other", path=param, line=number, hint=HINT)


def _size(kind: str, params: dict[int, str], given: list[_Size | None], where: tuple[Path, int]) -> _Size | None:
    """(channels, height, width) of what a layer writes where the image is ``_NOMINAL``; None where that is not known, and no
    channels where those are not. ncnn reads past the end of a tensor that is smaller than the layer believes."""
    known = [s for s in given if s is not None]
    if kind == "Input":
        return 0, *_NOMINAL
    # Of a concatenation 0 is the axis, of two tensors what is done with them: add or multiply.
    aligned = {"Concat": ("0",), "BinaryOp": ("0", "2")}.get(kind, ())
    if len({s[1:] for s in known}) > 1 and params.get(0, "0") in aligned:
        what = f"the {kind} reads tensors of different sizes"
        raise EdgesegError(what, path=where[0], line=where[1], hint=HINT)
    if not known or len(known) < len(given) or (kind == "Concat" and params.get(0, "0") != "0"):
        return None
    (channels, height, width), n = known[0], {k: int(v) for k, v in params.items() if v.lstrip("-").isdigit()}
    if kind in ("Swish", "Sigmoid", "HardSwish", "ReLU", "Clip", "Split", "BinaryOp"):
        return channels, height, width
    if kind == "Concat":
        return sum(s[0] for s in known) if all(s[0] for s in known) else 0, height, width
    if kind == "Slice":
        parts = params.get(_ARRAYS, "").split(",")[1:]
        even = bool(parts) and set(parts) == {"-233"}
        return (channels // len(parts) if even else 0, height, width) if n.get(1, 0) == 0 else None
    if kind == "Interp":
        scale = [int(m[1]) for k in (1, 2) if (m := re.fullmatch(r"(\d+)(\.0*)?(e\+00)?", params.get(k, "1")))]
        return (channels, height * scale[0], width * scale[1]) if len(scale) == 2 and not {3, 4} & set(params) else None
    pooling, k = kind == "Pooling", 3 if kind == "Pooling" else 4
    if not pooling and _FED.get(kind) != 19:
        return None
    wide = n.get(1, 1)
    high = n.get(11, wide)
    step = (n.get(2, 1), n.get(12, n.get(2, 1))) if pooling else (n.get(3, 1), n.get(13, n.get(3, 1)))
    left = n.get(k, 0)
    top, right = n.get(k + 10, left), n.get(k + 11, left)
    bottom = n.get(k + 12, top)
    if kind == "Convolution" and channels and n.get(6, 0) != channels * n.get(0, 0) * wide * high:
        what = f"the weights of the Convolution are not for the {channels} channels that it reads"
        raise EdgesegError(what, path=where[0], line=where[1], hint=HINT)
    plain = n.get(4, 0) == 0 and n.get(5, 0) == 1 if pooling else n.get(2, 1) == n.get(12, 1) == 1
    if not plain or min(left, top, right, bottom) < 0 or min(*step, wide, high) < 1:
        return None
    size = (height + top + bottom - high) // step[1] + 1, (width + left + right - wide) // step[0] + 1
    return channels if pooling else n.get(0, 0), *size


def _weights(claims: list[tuple[int, str, dict[int, str]]], weights: Path, param: Path) -> frozenset[int]:
    """Walk through the weights of the kinds whose layout is known, as far as those go."""
    size, at = weights.stat().st_size, 0
    seen: set[int] = set()
    with open(weights, "rb") as f:
        for number, kind, params in claims:
            try:
                here = {k: int(v) for k, v in params.items() if k in _NUMBERS}
            except ValueError:
                here = {}
            if kind in _FED:
                _convolution(here, kind, param, number)
                count, outputs, bias, int8 = here.get(6, 0), here.get(0, 0), here.get(5, 0), here.get(8, 0)
            elif kind == "InnerProduct":
                count, outputs, bias, int8 = here.get(2, 0), here.get(0, 0), here.get(1, 0), here.get(8, 0)
            elif kind in ("BatchNorm", "Scale", "PReLU", "MemoryData", "Embed", "LSTM", "GRU", "RNN", "MultiHeadAttention"):
                break  # what follows is not known
            else:
                continue
            f.seek(at)
            tag = int.from_bytes(f.read(4), "little")
            seen.add(tag)
            each = _TAGS.get(tag)
            body = count + _TABLE if each is None else count * each
            at += 4 + -(-body // 4) * 4 + 4 * outputs * bool(bias)
            if int8:  # scales of the weights and of the input, of which the layouts differ
                at += 4
            if count < 0 or outputs < 0 or at > size:
                what = f"its weights end at {size} bytes, the {kind} needs {at}"
                raise EdgesegError(what, path=weights, hint=f"{HINT} (line {number} of {param.name})")
            if int8:
                break
    return frozenset(seen)


def mark(param: Path) -> None:
    """Call the layer of the input edgeseg, a name that nothing reads: a folder that lost its metadata is known by it."""
    text = param.read_text(encoding="utf-8")
    param.write_text(_INPUT.sub(r"\g<1>edgeseg", text, count=1), encoding="utf-8")


def marked(param: Path) -> bool:
    """Whether ``mark`` was here."""
    found = _INPUT.search(param.read_text(encoding="utf-8"))
    return found is not None and found[2] == "edgeseg"
