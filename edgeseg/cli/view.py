"""``edgeseg view``: models beside each other on pictures, in the browser."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Annotated

from edgeseg.cli import console, flags
from edgeseg.cli.flags import flag, word

PAGE = "Page"


def view(
    models: Annotated[
        list[str] | None, word("Checkpoints or artifacts, the first is the reference (default: the newest).", "[MODEL]...")
    ] = None,
    data: Annotated[
        str | None, flag("Pictures to look at: a dataset, or a folder.", "those that you drop in", metavar="YAML|FOLDER")
    ] = None,
    split: flags.Split = "val",
    conf: flags.Conf = 0.25,
    host: Annotated[str, flag("Address to listen at.", "this machine alone", panel=PAGE)] = "127.0.0.1",
    port: Annotated[int, flag("Port to listen at; 0 takes a free one.", panel=PAGE)] = 8080,
    open: Annotated[bool, flag("Open the browser too.", True, "--open", panel=PAGE)] = False,
    input: flags.Input = None,
    threads: flags.Threads = None,
) -> None:
    """Look at what models find, side by side in the browser, on pictures of the data and on your own.

    Ctrl-C ends it. Pictures that you drop in are not written to disk. Beyond this machine (--host 0.0.0.0) the address has a
    token, which EDGESEG_PAGE_TOKEN sets; the connection is not encrypted.
    """
    from edgeseg.cli.compare import open_apart
    from edgeseg.cli.predict import check_detection
    from edgeseg.data.dataset import pictures
    from edgeseg.errors import EdgesegError
    from edgeseg.kernel import Stopping
    from edgeseg.running.open import newest_checkpoint
    from edgeseg.view.gallery import LOWEST, Gallery, Subject
    from edgeseg.view.labels import labels_if_any
    from edgeseg.view.page import ViewPage

    check_detection(conf, 0.7, 1)
    if not 0 <= port <= 65535:
        raise EdgesegError(f"port {port} is none", hint="Ports are 1 to 65535; 0 takes a free one")
    images, dataset = pictures(data, split) if data is not None else ([], None)
    with ExitStack() as stack:
        files = models or [newest_checkpoint()]
        subjects = [Subject(partial(open_apart, file, threads, stack, input)) for file in files]
        task = subjects[0].manifest.task
        labels = None if dataset is None else labels_if_any(dataset.for_task(task), split, images)
        gallery = Gallery(subjects, images, labels, lowest=min(conf, LOWEST))
        token = os.environ.get("EDGESEG_PAGE_TOKEN")
        shown = stack.enter_context(closing(ViewPage(gallery, conf=conf, host=host, port=port, token=token)))
        with Stopping() as stopping:
            shown.start()
            what = f"{len(images)} pictures of {Path(data).name}" if data else "pictures that you drop in"
            console.say(f"{', '.join(s.path.name for s in subjects)} on {what}: {shown.url}")
            console.note("Ctrl-C ends it")
            if open:
                import webbrowser

                webbrowser.open(shown.url)
            try:
                with stopping.allowed():
                    while True:
                        time.sleep(3600)  # a signal wakes it
            except KeyboardInterrupt:
                console.note("ended")
