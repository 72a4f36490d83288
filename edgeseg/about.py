"""What a model is, as plain values: for ``info`` and for ``Model.info``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgeseg.running.open import Opened


def artifact_info(opened: Opened) -> dict[str, Any]:
    """Manifest and tensors of an artifact."""
    m = opened.manifest
    return {
        "path": str(opened.path),
        **{k: getattr(m, k) for k in ("format", "precision", "head")},
        "size": opened.size,
        "imgsz": list(m.imgsz),
        **{k: getattr(m, k) for k in ("batch", "dynamic", "stride")},
        "classes": m.nc,
        "names": list(m.names),
        **{k: getattr(m, k) for k in ("date", "version", "license", "author", "recipe")},
        "calibration": dict(m.calibration) if m.calibration else None,
        **{k: dict(getattr(m, k)) for k in ("tools", "source", "args")},
        "notes": list(m.notes),
        "inputs": [asdict(m.input)],
        "outputs": [asdict(o) for o in m.outputs],
    }


def unopened_info(path: Path) -> dict[str, Any] | None:
    """What is known of another tool's file without opening it, where opening would run code in it; None for all others."""
    from edgeseg.manifest import Manifest, size_on_disk
    from edgeseg.registry import target_by_path

    target = target_by_path(path)
    if target is None or not target.settings.get("executes") or target.missing_modules() or not path.exists():
        return None
    metadata = dict(target.load("runtime").read_metadata(path))
    if Manifest.from_metadata(metadata, path=str(path)) is not None:
        return None
    said = {k: str(metadata[k])[:500] for k in ("task", "imgsz", "names", "author", "date", "version") if k in metadata}
    note = f"a {target.title} file runs code of its own when it is opened: nothing was run to say this"
    return {"path": str(path), "format": target.name, "size": size_on_disk(path), **said, "notes": [note]}


def network_info(path: Path, imgsz: int) -> dict[str, Any]:
    """Parameters and FLOPs (at ``imgsz`` pixels) of a checkpoint or a definition, and what it says of its training."""
    from edgeseg.manifest import size_on_disk
    from edgeseg.network.checkpoint import load_checkpoint
    from edgeseg.network.definition import find_checkpoint
    from edgeseg.network.model import count_flops, count_parameters

    network = load_checkpoint(path)
    where = find_checkpoint(path) if path.suffix not in (".yaml", ".yml") else path
    about = {k: v for k, v in network.info.items() if isinstance(v, str | int | float | list | tuple) and v not in ("", ())}
    return {
        "path": str(path),
        "format": "network",
        "network": network.definition.title,
        "task": network.task,
        "variant": network.definition.variant,
        "size": size_on_disk(where) if where.exists() else 0,
        "parameters": count_parameters(network),
        "gflops": round(count_flops(network, imgsz) / 1e9, 2),
        "gflops_imgsz": imgsz,
        "strides": list(network.strides),
        "classes": network.nc,
        "names": list(network.names),
        **{f"trained {k}": v for k, v in about.items()},
    }
