"""Python programs that edgeseg starts: one command line and one environment for all of them.

``python -m`` and ``python -c`` import from the current folder first: a ``json.py`` beside somebody's pictures would run.
``-P`` prevents that from Python 3.11 on, ``-I`` at the price of the user's own packages; the few words of ``_START``
do it everywhere, before anything is imported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgeseg.resources import PACKAGE
from edgeseg.store import make_folder

# ``sys`` is part of the interpreter, it is found in no folder. The first entry is "" unless the path is safe already.
_START = "import sys; sys.path[:] = [p for p in sys.path if p]; import runpy; runpy.run_module({!r}, None, '__main__', True)"


def command(python: str | os.PathLike[str], module: str, *words: str) -> list[str]:
    """The command line of ``python -m module words``, without the current folder among those that modules come from.

    The environment has a part in that: see ``environment``.
    """
    return [os.fspath(python), "-c", _START.format(module), *words]


def environment(given: Mapping[str, str] | None = None, *, first: Sequence[Path] = ()) -> dict[str, str]:
    """Environment variables for a Python: ``given`` (None: this process's), ``first`` leading ``PYTHONPATH``.

    Folders that the user names in ``PYTHONPATH`` stay, but for those that mean the current one: nothing (as a colon too many
    leaves it) and relative ones.
    """
    env = dict(os.environ if given is None else given)
    named = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    env["PYTHONPATH"] = os.pathsep.join([*map(str, first), *named])
    # For Pythons that the child starts in turn, from 3.11 on.
    env["PYTHONSAFEPATH"] = "1"
    return env


def python_env(place: Path, current: bool) -> dict[str, str]:
    """The environment variables of a Python that finds edgeseg, in this environment (``current``) or in a toolchain's.

    edgeseg is found through a folder in ``place`` that holds nothing else: site-packages of the running environment on
    ``PYTHONPATH`` would bring its packages into a toolchain's environment too.
    """
    package = make_folder(place / "lib") / PACKAGE.name
    lib = package.parent
    try:
        if not (package.is_symlink() and package.resolve() == PACKAGE):
            package.symlink_to(PACKAGE, target_is_directory=True)
    except OSError:
        lib = PACKAGE.parent
    env = dict(os.environ)
    if not current:
        env["PYTHONNOUSERSITE"] = "1"
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            env.pop(name, None)
    env = environment(env, first=[lib.absolute()])
    # Threads that spin while they wait make two of them ten times slower than one on a machine that is busy.
    env.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    env.update(PYTHONUNBUFFERED="1", PYTHONFAULTHANDLER="1", PYTHONIOENCODING="utf-8")
    return env
