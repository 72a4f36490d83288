"""Checkpoints: read ours and other trainers', write ours."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from edgeseg.errors import EdgesegError, Notice, brief
from edgeseg.network.definition import Definition, find_checkpoint, load_definition
from edgeseg.network.foreign import network_from
from edgeseg.network.model import Network
from edgeseg.network.torchfile import TorchFile
from edgeseg.registry import DEFINITIONS
from edgeseg.store import writing

SCHEMA = 1


def load_checkpoint(path_or_name: str | Path, *, nc: int | None = None, seed: int = 0) -> Network:
    """A network from a file or a well-known name, in evaluation mode, float32, on the CPU.

    Args:
        path_or_name: our checkpoint, a ``.pt`` of another trainer (nothing in it is run), a definition ``.yaml`` (fresh
            weights), or a name: ``yolov8n-seg.pt``, ``yolo11s.pt`` ... is looked for here, then in the cache, then
            downloaded; ``yolov8n-seg.yaml`` and the like are built in.
        nc: number of classes of a fresh network, in place of the definition's.
        seed: of fresh weights; torch's global generator is left alone.

    Raises:
        EdgesegError: missing, damaged, hostile, or of a family that edgeseg does not build; says what to do next.
    """
    path = Path(path_or_name)
    if path.suffix.lower() in DEFINITIONS:
        return _fresh(path, nc, seed)
    path = find_checkpoint(path)
    file = TorchFile(path)
    content = file.read()
    if isinstance(content, Mapping) and "edgeseg" in content:
        return _ours(file, content)
    network = network_from(file, content)
    network.info["source"] = path.name
    return network


def save_checkpoint(path: str | Path, network: Network, /, **training_state: Any) -> Path:
    """Write a network, and what training needs to go on, and return ``path``; a crash leaves the old file or the new one.

    Args:
        path: the file to write; missing folders are made.
        network: its definition, names, ``info`` and weights are kept (in their own dtype, from whatever device).
        training_state: plain values and tensors in dicts, lists and tuples (``epoch``, ``optimizer``, ``ema`` ...).

    Raises:
        EdgesegError: the state holds something that ``weights_only`` loading would refuse, or the disk is full.
    """
    path = Path(path)
    state = OrderedDict((key, value.detach().cpu()) for key, value in network.state_dict().items())
    content = {
        "edgeseg": SCHEMA,
        "definition": network.definition.to_dict(),
        "names": list(network.names),
        "info": dict(network.info),
        "fused": network.fused,
        "state": state,
        "training": training_state,
    }
    _check_plain(content, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path, durable=True) as f:
            torch.save(content, f)
    except (OSError, RuntimeError) as e:
        # torch's writer hides a full disk behind a complaint of its own.
        causes = [c.strerror for c in (e, e.__context__) if isinstance(c, OSError) and c.strerror]
        reason = causes[0] if causes else str(e).splitlines()[0]
        what = f"cannot be written ({reason})"
        raise EdgesegError(what, path=path, hint="Free some space, or choose another folder") from e
    return path


def load_training_state(path: str | Path) -> dict[str, Any]:
    """What ``save_checkpoint`` was given besides the network, {} for checkpoints of other trainers.

    Raises:
        EdgesegError: missing or damaged.
    """
    path = Path(path)
    file = TorchFile(path)
    content = file.read()
    if not isinstance(content, Mapping) or "edgeseg" not in content:
        return {}
    training = _load_ours(file, content).get("training") or {}
    if not isinstance(training, dict):
        raise EdgesegError("damaged (its training state is no mapping)", path=path, hint="Use an older checkpoint")
    return training


def _fresh(path: Path, nc: int | None, seed: int) -> Network:
    definition, names = load_definition(path, nc=nc)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(definition, names)
    network.info = {"origin": "fresh", "source": path.name}
    return network.eval()


def _load_ours(file: TorchFile, content: Any) -> dict[str, Any]:
    if content.get("edgeseg") != SCHEMA:
        what = f"checkpoint schema {brief(content.get('edgeseg'))} is not {SCHEMA}"
        raise EdgesegError(what, path=file.path, hint="Install a newer edgeseg")
    loaded: dict[str, Any] = file.load(content)
    return loaded


def _ours(file: TorchFile, read: Any) -> Network:
    path = file.path
    content = _load_ours(file, read)
    try:
        definition = Definition.from_dict(content["definition"], path=path)
        names = content["names"]
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise TypeError("its names are no list of text")
        state = {k: v.float() if v.is_floating_point() else v for k, v in content["state"].items()}
        # Built without memory first: what the definition claims is compared with the tensors that are there.
        with torch.device("meta"):
            plan = Network(definition, names).eval()
            plan = plan.fuse() if content["fused"] else plan
        for key, value in plan.state_dict().items():
            if state[key].shape != value.shape:
                raise ValueError(f"tensor {key} is {tuple(state[key].shape)} where {tuple(value.shape)} belongs")
        network = Network(definition, names).eval()
        if content["fused"]:
            network = network.fuse()
        network.load_state_dict(state)
        network.info = dict(content["info"])
    except EdgesegError as e:
        raise EdgesegError(e.what, path=path, hint=e.hint or "Use an older checkpoint") from e
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError, RecursionError) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:120]
        raise EdgesegError(f"damaged ({reason})", path=path, hint="Use an older checkpoint") from e
    if not all(bool(torch.isfinite(v).all()) for v in state.values() if v.is_floating_point()):
        warnings.warn(f"{path}: its weights hold infinite or undefined numbers. Train it again", Notice, stacklevel=3)
    return network


def _check_plain(value: Any, path: Path, where: str = "", depth: int = 0) -> None:
    if value is None or isinstance(value, torch.Tensor) or type(value) in (str, int, float, bool, bytes):
        return
    if depth > 32:
        raise EdgesegError(f"{where} is nested too deeply for a checkpoint", path=path)
    if type(value) in (dict, OrderedDict):
        for key, inner in value.items():
            if type(key) not in (str, int, float, bool):
                raise EdgesegError(f"{where}: a {type(key).__name__} cannot be a key in a checkpoint", path=path)
            _check_plain(inner, path, f"{where}.{key}".lstrip("."), depth + 1)
    elif type(value) in (list, tuple):
        for i, inner in enumerate(value):
            _check_plain(inner, path, f"{where}[{i}]", depth + 1)
    else:
        what = f"{where} is a {type(value).__name__}, which a checkpoint cannot hold"
        raise EdgesegError(what, path=path, hint="Give plain values or tensors")
