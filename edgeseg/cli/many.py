"""``edgeseg export A.pt B.pt ...``: many models, one table; one that fails leaves the others alone."""

from __future__ import annotations

import glob
import json as codec
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from edgeseg.cli import console
from edgeseg.errors import EdgesegError

if TYPE_CHECKING:
    from edgeseg.cluster.driver import Cluster
    from edgeseg.export.job import ExportResult
    from edgeseg.export.run import Event

HEADER = ("model", "format", "precision", "size", "seconds", "how", "path")


def expanded(words: Sequence[str]) -> list[str]:
    """The models that words name, globs among them, each once.

    Raises:
        EdgesegError: a glob that nothing matches.
    """
    found: dict[str, None] = {}
    for word in words:
        names = sorted(glob.glob(word, recursive=True)) if glob.has_magic(word) and not Path(word).exists() else [word]
        if not names:
            raise EdgesegError("no model matches", path=word, hint="Check the pattern, in quotes, from this folder")
        found.update(dict.fromkeys(names))
    return list(found)


@contextmanager
def _events(names: Sequence[str]) -> Iterator[Callable[[str], Callable[[Event], None]]]:
    """A listener for each model; they share the live lines."""
    lock = Lock()
    with console.shown_events() as show:

        def of(model: str) -> Callable[[Event], None]:
            def tell(event: Event) -> None:
                with lock:
                    show(replace(event, step=f"{Path(model).stem}: {event.step}" if event.step else Path(model).stem))

            return tell

        yield of


def export_many(
    models: Sequence[str],
    run: Callable[..., list[ExportResult]],
    cluster: Cluster | None,
    *,
    out: str | None,
    json: str | None,
) -> int:
    """Export models and show one table; a line of JSON for each as soon as it is done.

    Args:
        models: paths or names.
        run: exports one, given ``on_event``.
        cluster: where the steps run: on one, so many models at once as it runs steps.
        out: the folder for all artifacts; None: beside each model.
        json: file for the lines, or ``-``.

    Returns:
        0, or 1 when any failed; 2 when none could be begun.

    Raises:
        EdgesegError: two models would write the same artifacts.
    """
    stems = [Path(m).stem for m in models]
    twice = next((s for s in stems if stems.count(s) > 1), None)
    if out is not None and twice is not None:
        raise EdgesegError(
            f"two models are called {twice}", path=out, hint="Leave --out out: artifacts go beside each model"
        )
    to, rows, refused, failed = console.people(json), [], 0, 0
    slots = 1 if cluster is None else cluster.slots or 1
    with console.json_file(json) as stream, _events(models) as of, ThreadPoolExecutor(min(slots, len(models))) as pool:
        asked = {pool.submit(run, m, on_event=of(m)): m for m in models}
        for future in as_completed(asked):
            model = asked[future]
            try:
                results, error = future.result(), None
            except EdgesegError as e:
                results, error, refused = [], e, refused + 1
                console.error(str(e))
            failed += error is not None or any(r.error is not None for r in results)
            for r in results:
                if r.error is not None:
                    console.error(f"{model}: {r.format}: {r.error}")
            shown = ((Path(model).name, r.format, r.precision, *console.export_row(r)) for r in results)
            rows += [(models.index(model), row) for row in shown]
            if stream is not None:
                line = {"model": model, "exports": [r.to_dict() for r in results]}
                stream.write(codec.dumps(line | ({} if error is None else {"error": str(error)})) + "\n")
                stream.flush()
    console.table("", HEADER, [row for _, row in sorted(rows, key=lambda r: r[0])], to=to)
    console.say(f"{len(models)} models, {failed} with failures" if failed else f"{len(models)} models", to=to)
    return 2 if refused == len(models) else int(failed > 0)
