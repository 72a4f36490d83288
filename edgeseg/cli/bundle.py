"""``edgeseg bundle``: one folder that installs, proves and runs a model on a board without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word

Board = Annotated[str, flag("The board: pi5, pi4, pc, jetson-orin ...", False, metavar="NAME")]
Images = Annotated[
    str | None, flag("Pictures of the self-test: a folder or a dataset.", "validation images", metavar="FOLDER")
]
Run = Annotated[str, flag("Options of edgeseg run on the board.", metavar="WORDS")]
Python = Annotated[str | None, flag("The board's Python.", "its usual one", metavar="3.N")]


def bundle(
    model: Annotated[str, word("An artifact, or a checkpoint, which is exported first.", "MODEL")],
    board: Board = "",
    out: Annotated[str | None, flag("A folder, or FILE.tar.gz.", "./MODEL-BOARD-PYTHON", metavar="PLACE")] = None,
    data: flags.Data = None,
    images: Images = None,
    python: Python = None,
    run: Run = "--camera 0",
) -> None:
    """Make a bundle: the model, its packages for that board, install.sh, a service, and a self-test.

    Copied to the board, sh install.sh works without a network, sh selftest.sh proves that the model finds there what it
    finds here, and sh run.sh runs it. edgeseg board run does all that over SSH.
    """
    from edgeseg.boards import board_by_name, boards
    from edgeseg.errors import EdgesegError
    from edgeseg.fleet.bundle import compose, order
    from edgeseg.fleet.ready import artifact_for, images_for
    from edgeseg.fleet.wheels import platform_of
    from edgeseg.manifest import size_on_disk

    if not board:
        fit = ", ".join(b.name for b in boards().values() if b.machine)
        raise EdgesegError("a bundle is for one kind of board", hint=f"Say which: --board with one of {fit}")
    device = board_by_name(board)
    platform_of(device, python)  # before an export, which takes minutes
    with console.shown_events() as on_event:
        artifact = artifact_for(model, device, data, on_event)
    with console.progress("bundle"):
        wish = order(artifact, device, python=python, images=images_for(artifact, images or data), run=run)
        place = compose(wish, Path(out) if out else Path(wish.name), say=console.note)
    console.say(f"{place}: {console.size(size_on_disk(place))}. Copy it to the board, and type there: sh install.sh")
