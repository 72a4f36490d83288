"""The program of one step, run in the toolchain's interpreter: ``edgeseg.export.worker JOB.json``.

It loads ``convert.py`` of the job's target, calls ``convert(job)`` and leaves ``result.json`` beside the job file. It
imports nothing that a converter's environment may lack.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from edgeseg.errors import EdgesegError
from edgeseg.export.inspect import inspect
from edgeseg.export.job import Job
from edgeseg.store import write_atomically

RESULT = "result.json"


def main(argv: list[str]) -> int:
    """Run the job of ``argv[0]``. Exit code 0: converted; 1: ``result.json`` says what was wrong."""
    _die_with_parent()
    file = Path(argv[0])
    result: dict[str, Any]
    try:
        result = {"output": str(_convert(Job.from_json(file.read_text(encoding="utf-8"))))}
    except EdgesegError as e:
        result = {"error": {"what": e.what, "path": _text(e.path), "line": e.line, "hint": e.hint}}
        traceback.print_exc()
    except OSError as e:
        traceback.print_exc()
        full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        result = {"failed": _last_line(e), "full": full}
    except BaseException as e:
        # Whatever a converter throws ends up in the report, SystemExit and KeyboardInterrupt too.
        traceback.print_exc()
        result = {"failed": _last_line(e), "full": False}
    sys.stdout.flush()
    sys.stderr.flush()
    write_atomically(file.with_name(RESULT), json.dumps(result))
    return 0 if "output" in result else 1


def _convert(job: Job) -> Path:
    from edgeseg.export import deciding
    from edgeseg.registry import target_by_name

    if job.format in deciding.OWN:
        deciding.convert(job)
        return job.output
    target = target_by_name(job.format)
    made = target.load("convert").convert(job)
    output = Path(made) if isinstance(made, (str, os.PathLike)) else job.output
    if output.parent != job.output.parent:
        raise EdgesegError(f"the converter of {job.format} wrote outside its folder", path=output)
    if not output.exists():
        raise EdgesegError(
            f"the converter of {job.format} ended without writing its artifact", path=target.folder / "convert.py"
        )
    if not target.is_kit(output):
        inspect(target, job, output)
    return output


def _last_line(e: BaseException) -> str:
    text = traceback.format_exception_only(type(e), e)[-1].strip()
    return text if len(text) <= 500 else text[:500] + " ..."


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _die_with_parent() -> None:
    """End this process and its children when the runner is gone, however it went: its end of our stdin closes then."""
    watched = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(watched, 1):
                pass
        if hasattr(os, "killpg") and os.getpgid(0) == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="edgeseg-parent").start()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Converters leave threads and native finalizers behind that crash or hang on the way out; the work is done and on disk.
    os._exit(code)
