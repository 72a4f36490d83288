"""Kill what writes files, at every file operation or at random times, and see what is left.

For each scenario a child process does the work and is killed (SIGKILL) just before its first, second, ... file operation, as
Python's audit events number them. After each kill: whatever is visible is whole, old or new; nothing that was there is
missing; and one more run brings the new state and leaves nothing hidden, neither beside the artifact nor in the cache.

    python scripts/kill9.py                 every operation of every scenario
    python scripts/kill9.py --random 100    so many kills at random times, spread over the scenarios
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgeseg import store

OPERATIONS = ("open", "os.", "shutil.", "ctypes.dlsym", "fcntl.flock")
CONVERT = """
def convert(job):
    job.output.mkdir()
    for name in ("a", "b"):
        (job.output / name).write_bytes(job.source.read_bytes() * 1000)
"""


@dataclass(frozen=True)
class Scenario:
    """One kind of writing.

    ``old`` makes what is there before, ``new`` is the work that is killed, both in a folder of their own (``out`` is what a
    person sees of it). ``gap`` is set where the place is empty for a moment, to be filled by the next run.
    """

    old: Callable[[Path], Any]
    new: Callable[[Path], Any]
    gap: bool = False


def make_sources(folder: Path) -> None:
    """A file of 50 kB and a folder with three of them, each with content ``o`` and ``n``."""
    for content in "on":
        (folder / f"{content}-folder" / "deep").mkdir(parents=True)
        for name in (f"{content}-file", *(f"{content}-folder/{n}" for n in ("one", "two", "deep/three"))):
            (folder / name).write_text(content * 50_000)


def nothing(folder: Path) -> None:
    """No state before."""


def placed(content: str, *, folders: bool) -> Callable[[Path], None]:
    """An artifact put in place, as an export does it."""

    def work(folder: Path) -> None:
        from edgeseg.export.placing import place_parts

        kind = "folder" if folders else "file"
        place_parts({folder / f"{content}-{kind}": folder / "out" / "artifact"})

    return work


def with_notes(folder: Path) -> None:
    """An artifact's folder with something of a person's in it."""
    placed("o", folders=True)(folder)
    (folder / "out" / "artifact" / "deep" / "notes.txt").write_text("mine")


def in_two_steps(folder: Path) -> None:
    """The new artifact, on a system that cannot exchange two names."""
    store.exchange = lambda a, b: False  # type: ignore[assignment]
    placed("n", folders=True)(folder)


def checkpoint(seed: int) -> Callable[[Path], None]:
    """A training's checkpoint and its table."""

    def work(folder: Path) -> None:
        from edgeseg.network.checkpoint import save_checkpoint
        from edgeseg.training.record import new_folder, write_atomically

        new_folder(str(folder), "out", exist_ok=True)
        save_checkpoint(folder / "out" / "weights" / "last.pt", network(seed), epoch=seed)
        write_atomically(folder / "out" / "results.csv", f"epoch\n{seed}\n" * 1000)

    return work


def network(seed: int) -> Any:
    """A small one."""
    import torch

    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    torch.manual_seed(seed)
    return Network(Definition("tiny", nc=2, depth=0.1, width=0.0625, max_channels=256), ("cat", "dog")).eval()


def dataset(folder: Path) -> None:
    """A generated dataset."""
    from edgeseg.data.shapes import make_shapes

    make_shapes(folder / "out", train=2, val=1, size=32, seed=1)


def exported(content: str, **options: Any) -> Callable[[Path], None]:
    """An export from its beginning to its end, with a target that takes no time."""

    def work(folder: Path) -> None:
        from edgeseg.export.api import export

        (folder / "net.pt").write_text(content)
        (result,) = export(folder / "net.pt", ["toy"], out=folder / "out", **options)
        if result.error is not None:
            raise result.error

    return work


SCENARIOS = {
    "file, new": Scenario(nothing, placed("n", folders=False)),
    "file, replaced": Scenario(placed("o", folders=False), placed("n", folders=False)),
    "folder, new": Scenario(nothing, placed("n", folders=True)),
    "folder, replaced": Scenario(placed("o", folders=True), placed("n", folders=True)),
    "folder with notes": Scenario(with_notes, placed("n", folders=True)),
    "folder in two steps": Scenario(with_notes, in_two_steps, gap=True),
    "checkpoint": Scenario(checkpoint(1), checkpoint(2)),
    "dataset": Scenario(nothing, dataset),
    "export": Scenario(exported("o"), exported("n")),
    "export anew": Scenario(exported("o"), exported("n", rebuild=True)),
}


def visible(folder: Path) -> dict[str, bytes]:
    """Everything that a person sees in a folder."""
    found = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        parts = path.relative_to(folder).parts
        if path.is_file() and not any(p.startswith(".") for p in parts):
            found["/".join(parts)] = path.read_bytes()
    return found


def hidden(folder: Path) -> list[str]:
    """What nobody should find after a run: unfinished files, scratch folders, locks."""
    left = [p for p in (folder / "out").rglob(".*") if p.name not in (".", "..")]
    home = folder / "home"
    left += [p for p in home.rglob("*") if p.name.endswith((".part", ".old"))]
    left += [p for name in ("work", "locks") if (home / name).is_dir() for p in (home / name).iterdir()]
    return [str(p.relative_to(folder)) for p in left]


def child(work: Callable[[Path], None], folder: Path, kill_at: int) -> int:
    """Do the work in a forked process that kills itself before operation ``kill_at`` (-1: never); the process's id."""
    pid = os.fork()
    if pid:
        return pid
    seen, inside = 0, str(folder)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        if event.startswith(OPERATIONS) and (event.startswith(("ctypes", "fcntl")) or inside in str(values)):
            if seen == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    code = 1
    try:
        sys.addaudithook(hook)
        work(folder)
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def prepare(folder: Path, scenario: Scenario) -> None:
    """A fresh folder with the state before."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "toys" / "toy").mkdir(parents=True)
    toml = 'name = "toy"\ntitle = "Toy"\nsuffix = "_toy"\nreads = ["network"]\n'
    (folder / "toys" / "toy" / "target.toml").write_text(toml)
    (folder / "toys" / "toy" / "convert.py").write_text(CONVERT)
    make_sources(folder)
    os.environ.update(EDGESEG_HOME=str(folder / "home"), EDGESEG_TARGETS=str(folder / "toys"))
    if os.waitpid(child(scenario.old, folder, -1), 0)[1]:
        raise SystemExit("the state before cannot be made")


def examine(folder: Path, scenario: Scenario, old: dict[str, bytes], new: dict[str, bytes], where: str) -> None:
    """Raise if something is half, lost or left behind."""
    problem = states(visible(folder / "out"), old, new, scenario.gap)
    if not problem and scenario.gap:
        store.sweep_folder(folder / "out")
        problem = states(visible(folder / "out"), old, new, False)
    if not problem and os.waitpid(child(scenario.new, folder, -1), 0)[1]:
        problem = "the next run fails"
    if not problem and visible(folder / "out") != new:
        problem = f"the next run gives {sorted(visible(folder / 'out'))}, not {sorted(new)}"
    if not problem and hidden(folder):
        problem = f"the next run leaves {hidden(folder)}"
    if problem:
        raise SystemExit(f"{where}: {problem} (see {folder})")


def states(found: dict[str, bytes], old: dict[str, bytes], new: dict[str, bytes], gap: bool) -> str:
    """What is wrong with what is visible. Files of one artifact change together, single files one after the other."""
    if found in (old, new) or (gap and not found):
        return ""
    together = any(name.startswith("artifact/") or "_toy/" in name for name in new)
    mixed = all(found.get(n) in (old.get(n), new.get(n)) for n in {*found, *old, *new})
    if mixed and not together:
        return ""
    return f"visible: { ({n: len(c) for n, c in found.items()}) }"


def every_operation(name: str, folder: Path) -> int:
    """Kill a scenario before each of its operations; returns how many there were."""
    scenario, old, new = SCENARIOS[name], *before_and_after(name, folder)
    count = 0
    while True:
        prepare(folder, scenario)
        status = os.waitpid(child(scenario.new, folder, count), 0)[1]
        if not os.WIFSIGNALED(status):
            return count
        examine(folder, scenario, old, new, f"{name}, operation {count}")
        count += 1


def random_times(names: list[str], folder: Path, count: int, seed: int) -> int:
    """Kill ``count`` children at random times before their end; returns how many were started for that."""
    rng, killed, tried = random.Random(seed), 0, 0
    known: dict[str, tuple[Any, ...]] = {}
    while killed < count:
        name = names[tried % len(names)]
        tried += 1
        scenario = SCENARIOS[name]
        if name not in known:
            states_ = before_and_after(name, folder)
            prepare(folder, scenario)
            start = time.monotonic()
            os.waitpid(child(scenario.new, folder, -1), 0)
            known[name] = (*states_, time.monotonic() - start)
        old, new, seconds = known[name]
        prepare(folder, scenario)
        pid = child(scenario.new, folder, -1)
        after = rng.uniform(0, seconds)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        examine(folder, scenario, old, new, f"{name}, after {after * 1000:.1f} ms")
    return tried


def before_and_after(name: str, folder: Path) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """What a person sees before the work and after it."""
    prepare(folder, SCENARIOS[name])
    old = visible(folder / "out")
    if os.waitpid(child(SCENARIOS[name].new, folder, -1), 0)[1]:
        raise SystemExit(f"{name}: the work fails")
    return old, visible(folder / "out")


def main() -> None:
    """Run what the command line asks for; exit code 1 and one line at the first thing that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="scenarios (default: all)")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="so many kills at random times instead")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    names = args.names or list(SCENARIOS)
    # Imported once here, not in each child.
    import edgeseg.export.api

    if "checkpoint" in names:
        import edgeseg.training.record  # noqa: F401

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch).resolve() / "work"
        if args.random:
            tried = random_times(names, folder, args.random, args.seed)
            print(f"{args.random} killed at random times ({tried - args.random} more had ended before): fine")
        else:
            for name in names:
                print(f"{name}: {every_operation(name, folder)} operations, fine", flush=True)


if __name__ == "__main__":
    main()
