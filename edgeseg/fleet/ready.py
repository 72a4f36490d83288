"""From what a person has to what a bundle is made of: a network is exported first, pictures are found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgeseg.boards import Board
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.running.open import is_checkpoint, open_model


def artifact_for(
    model: str | Path, board: Board, data: str | None = None, on_event: Callable[[Any], None] | None = None
) -> Path:
    """The artifact itself, or what a network's export gives as the board's first recommendation says.

    Args:
        data: the dataset that calibrates INT8; None: the network's own.
        on_event: as for ``edgeseg.export.api.export``.

    Raises:
        EdgesegError: bad input, as for an export.
        StepFailed: the export failed, or the gate refused it.
    """
    if not is_checkpoint(model):
        return Path(model)
    from edgeseg.export.api import export
    from edgeseg.export.options import ExportOptions, precision_for
    from edgeseg.model import Model
    from edgeseg.registry import target_by_name

    use = board.use[0]
    size = (use.imgsz, use.imgsz)
    half, int8 = use.precision == "fp16" or None, use.precision == "int8" or None
    options = ExportOptions(imgsz=size, half=half, int8=int8)
    if precision_for(target_by_name(use.format), options) == "int8":
        options = ExportOptions(imgsz=size, int8=int8, data=data or Model(model).default_data())
    (result,) = export(model, [use.format], options, on_event=on_event)
    if result.error is not None or result.path is None:
        raise result.error or StepFailed(f"{use.format} was not made", path=result.log)
    return result.path


def images_for(model: Path, given: str | None) -> tuple[Path, ...] | None:
    """Pictures for the self-test: of the folder or dataset ``given``, else the validation images that the model remembers.

    None where neither is there.

    Raises:
        EdgesegError: there are no pictures in ``given``.
    """
    from edgeseg.data.dataset import pictures
    from edgeseg.data.remembered import recall

    if given is not None:
        return tuple(pictures(given)[0])
    with open_model(model) as opened:
        said = opened.manifest.source
    if not Path(str(said.get("data") or "")).is_file():
        return None
    with contextlib.suppress(EdgesegError):
        return tuple(pictures(recall(said, model)[0])[0])
    return None
