"""From what a person has to what a bundle is made of: a network is exported first, pictures are found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg.boards import Board, Use
from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.registry import target_by_name
from edgeseg.running.open import is_checkpoint, open_model

if TYPE_CHECKING:
    from edgeseg.export.options import ExportOptions


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
    from edgeseg.export.options import precision_for
    from edgeseg.model import Model

    use, options = recommended(board)
    if precision_for(target_by_name(use.format), options) == "int8":
        options = replace(options, data=data or Model(model).default_data())
    (result,) = export(model, [use.format], options, on_event=on_event)
    if result.error is not None or result.path is None:
        raise result.error or StepFailed(f"{use.format} was not made", path=result.log)
    return result.path


def recommended(
    board: Board, formats: Sequence[str] = (), options: ExportOptions | None = None
) -> tuple[Use, ExportOptions]:
    """What to export for a board, and the options with its precision and size where none were asked for.

    Args:
        formats: the one that is wanted; none: that of the board's first recommendation.

    Raises:
        EdgesegError: several formats, or one that is not recommended for this board.
    """
    from edgeseg.export.options import ExportOptions

    wanted = [target_by_name(f).name for f in formats]
    use = next((u for u in board.use if wanted in ([], [u.format])), None)
    if use is None:
        known = ", ".join(dict.fromkeys(u.format for u in board.use))
        what = f"{', '.join(wanted)}: not what is recommended for {board.name} ({board.title})"
        raise EdgesegError(what, hint=f"Give one format of {known}, or leave --board out")
    options = options or ExportOptions()
    if options.half is None and options.int8 is None:
        options = replace(options, half=use.precision == "fp16" or None, int8=use.precision == "int8" or None)
    return use, replace(options, imgsz=options.imgsz or use.imgsz)


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
