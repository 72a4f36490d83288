"""``edgeseg info``: what a checkpoint or an artifact is."""

from __future__ import annotations

from typing import Annotated, Any

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word


def info(
    model: Annotated[str | None, word("Checkpoint, definition or artifact.", "[MODEL]")] = None,
    imgsz: Annotated[int, flag("Input size for the FLOPs of a checkpoint.")] = 640,
    json: flags.Json = None,
) -> None:
    """Say what a model is: classes, parameters and FLOPs, or the manifest and tensors of an artifact."""
    from edgeseg.model import Model
    from edgeseg.running.open import newest_checkpoint

    facts = Model(model or newest_checkpoint()).info(imgsz=imgsz)
    console.as_json(json, facts)
    if json == "-":
        return
    tensors = {k: facts[k] for k in ("inputs", "outputs") if facts.get(k)}
    rows = [(k, _plain(v)) for k, v in facts.items() if k not in ("inputs", "outputs") and v not in (None, "", {}, [])]
    console.table(str(facts["path"]), ("what", "value"), rows)
    if tensors:
        lines = [_tensor(t, kind[:-1]) for kind, many in tensors.items() for t in many]
        console.say("")
        console.table("", ("tensor", "name", "role", "stride", "shape", "type", "scale", "zero point"), lines)
    if json:
        console.say(f"JSON in {json}")


def _tensor(t: dict[str, Any], kind: str) -> tuple[Any, ...]:
    shape = "x".join("?" if n < 0 else str(n) for n in t["shape"])
    return kind, t["name"], t.get("role", ""), t.get("stride"), shape, t["dtype"], t.get("scale"), t.get("zero_point")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, list | tuple):
        text = ", ".join(str(v) for v in value)
        return text if len(text) < 200 else text[:200].rsplit(",", 1)[0] + f" ... ({len(value)})"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
