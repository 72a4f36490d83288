"""Mutated inputs of every kind against the command line: exit codes 0, 1 and 2 only, no signal, no hang.

    python scripts/fuzz.py --cases 2000                  # every kind
    python scripts/fuzz.py onnx tflite --cases 300 --seed 7

Sound files are made once from the tiny networks of the tests; each case changes one of them and gives it to a real command
in a forked child with bounded memory and time. What was found lies in --keep, one folder a case.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path

KINDS = (
    *("labels", "yaml", "coco", "definition", "recipe", "checkpoint"),
    *("onnx", "tflite", "openvino", "ncnn", "manifest", "caches"),
)
GOOD = (0, 1, 2)
MEMORY = 6 << 30  # address space beyond what the parent has: runtimes map more than they use
SECONDS = 60
ENDED: Counter[int] = Counter()  # how often which exit code was met
WORDS = [
    b"\0", b"\xff" * 8, b"-1", b"0", b"1e308", b"nan", b"inf", b"9" * 400, b"[" * 60, b"{" * 60, b"\n", b"\r\n", b"\x1b[31m",
    b"null", b"true", b"!!python/name:os.system ", b"&a [*a]", b"../", b"/", b"~x/", b"\xef\xbb\xbf", b"\x80", b"2147483648",
    b"-9223372036854775809", b'"', b"'", b": ",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """One kind of input: the sound files by name, which of them is changed, and the command that reads it."""

    name: str
    files: dict[str, Path]
    changed: tuple[str, ...]
    command: Callable[[Path], list[str]]


@dataclass(frozen=True)
class Finding:
    """A case that ended otherwise than it may."""

    kind: str
    case: int
    how: str
    said: str


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with one to four faults: bytes changed, cut, doubled, moved, or words that parsers stumble over put in."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        # Heads are where sizes stand: they get more than their share.
        at = at if rng.random() < 0.6 else rng.randrange(min(len(out), 512) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 64, 1024)))
        what = rng.randrange(7)
        if what == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            out[at:end] = bytes(rng.randrange(256) for _ in range(end - at))
        elif what == 2:
            del out[at:]
        elif what == 3:
            del out[at:end]
        elif what == 4:
            out[at:at] = out[at:end] * rng.choice((1, 2, 50))
        elif what == 5:
            out[at:at] = rng.choice(WORDS)
        else:
            out[at:end] = rng.choice(WORDS)
    return bytes(out)


def changed_text(data: bytes, rng: random.Random) -> bytes:
    """Text with one of its words or lines replaced, doubled or dropped: what survives a parser and reaches the checks."""
    lines = data.split(b"\n")
    i = rng.randrange(len(lines))
    if rng.random() < 0.4:
        lines[i : i + 1] = [] if rng.random() < 0.5 else [lines[i], lines[i]]
    else:
        for mark in (b" ", b",", b":", b"="):
            parts = lines[i].split(mark)
            if len(parts) > 1:
                parts[rng.randrange(len(parts))] = rng.choice((*WORDS, b"[]", b"{}", b"''", b"1", b"x"))
                lines[i] = mark.join(parts)
                break
    return b"\n".join(lines)


def kinds(folder: Path, wanted: Container[str]) -> Iterator[Kind]:
    """All kinds, their sound files made below ``folder``; those of the runtimes only where they are wanted."""
    import torch

    import edgeseg.cli.predict  # noqa: F401 - imports are paid once, before the forks
    from edgeseg.data.shapes import make_shapes
    from edgeseg.model import Model
    from edgeseg.network.checkpoint import save_checkpoint
    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    torch.set_num_threads(1)
    data = make_shapes(folder / "shapes", train=2, val=2, size=64, seed=3).parent
    image = next((data / "images" / "val").iterdir())
    tiny = Definition("tiny", nc=4, depth=0.1, width=0.0625, max_channels=64)
    network = Network(tiny, ("circle", "square", "triangle", "star")).eval()
    network.info = {"imgsz": 64}
    checkpoint = save_checkpoint(folder / "tiny.pt", network)
    definition = folder / "tiny.yaml"
    definition.write_text("variant: tiny\nnc: 4\ndepth: 0.1\nwidth: 0.0625\nmax_channels: 64\nnames: [a, b, c, d]\n")
    recipe = folder / "own.toml"
    recipe.write_text((Path(__file__).parent.parent / "calib" / "int8.toml").read_text())

    def scan(where: Path) -> list[str]:
        return ["calibrate", "inspect", f"data={where / 'shapes.yaml'}", "--images", "2"]

    def convert(where: Path) -> list[str]:
        return ["data", "convert", str(where / coco), "--images", str(where / "images" / "val"), "--out", str(where / "o")]

    whole = {str(p.relative_to(data)): p for p in data.rglob("*") if p.is_file()}
    labels = tuple(n for n in whole if n.endswith(".txt") and "labels" in n)
    coco = next(n for n in whole if n.endswith("instances_val.json"))
    yield Kind("labels", whole, labels, lambda w: ["@labels", str(w / "shapes.yaml")])
    yield Kind("yaml", whole, ("shapes.yaml",), scan)
    yield Kind("coco", whole, (coco,), convert)
    yield Kind("definition", {"tiny.yaml": definition}, ("tiny.yaml",), lambda w: ["info", str(w / "tiny.yaml")])
    yield Kind("recipe", {"own.toml": recipe}, ("own.toml",), lambda w: ["@recipe", str(w / "own.toml")])
    yield Kind("checkpoint", {"tiny.pt": checkpoint}, ("tiny.pt",), lambda w: ["info", str(w / "tiny.pt"), "imgsz=64"])
    for name in ("onnx", "tflite", "openvino", "ncnn"):
        if name not in wanted and not (name == "ncnn" and "manifest" in wanted):
            continue
        importlib.import_module({"onnx": "onnxruntime", "tflite": "ai_edge_litert.interpreter"}.get(name, name))
        made = Model(checkpoint).export(format=name, imgsz=64, out=folder / "made")
        files = {made.name: made} if made.is_file() else {f"{made.name}/{p.name}": p for p in made.iterdir()}
        native = tuple(n for n in files if not n.endswith("metadata.yaml"))

        def predict(where: Path, name: str = made.name) -> list[str]:
            return ["predict", str(where / name), str(image), "--out", str(where / "out")]

        yield Kind(name, files, native, predict)
        if name == "ncnn":
            yield Kind("manifest", files, (f"{made.name}/metadata.yaml",), lambda w, name=made.name: ["info", str(w / name)])


def run(kind: Kind, cases: int, seed: int, keep: Path | None = None) -> list[Finding]:
    """Give ``cases`` changed inputs of a kind to its command and return what ended wrongly."""
    found = []
    for case in range(cases):
        rng = random.Random(f"{seed}/{kind.name}/{case}")
        with tempfile.TemporaryDirectory(prefix="edgeseg-fuzz-") as name:
            where = Path(name)
            for part, source in kind.files.items():
                place = where / part
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, place)
            target = where / rng.choice(kind.changed)
            content = target.read_bytes()
            as_text = rng.random() < 0.5 and b"\0" not in content[:1000]
            target.write_bytes(changed_text(content, rng) if as_text else mutated(content, rng))
            how, said = _child(kind.command(where), where)
            if how:
                found.append(Finding(kind.name, case, how, said))
                if keep is not None:
                    shutil.copytree(where, keep / f"{kind.name}-{case}", dirs_exist_ok=True)
    return found


def _child(words: list[str], where: Path) -> tuple[str, str]:
    """How a command ended in a forked child: "" as it may, else in words, and what it said."""
    log = where / "said.txt"
    pid = os.fork()
    if pid == 0:
        code = 99
        with contextlib.suppress(BaseException):
            code = _command(words, where, log)
        os._exit(code)
    end = time.monotonic() + SECONDS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"ran past {SECONDS} s", _said(log)
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    ENDED[code] += 1
    return ("" if code in GOOD else f"signal {-code}" if code < 0 else f"exit code {code}"), _said(log)


def _command(words: list[str], where: Path, log: Path) -> int:
    from edgeseg import cli

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["EDGESEG_HOME"] = str(where / "home")
    os.chdir(where)
    with open(log, "w") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
        return _library(*words) if words[0].startswith("@") else cli.run(words)


def _library(what: str, path: str) -> int:
    """What has no command of its own, with the exit code that the command line would give it."""
    from edgeseg.data.cache import scan
    from edgeseg.data.dataset import load_dataset
    from edgeseg.errors import EdgesegError
    from edgeseg.quantize.recipe import load_recipe

    try:
        if what == "@recipe":
            load_recipe(path)
        else:
            scan(load_dataset(path), "train")
    except EdgesegError as e:
        print(e)
        return 2
    except Exception as e:
        print(type(e).__name__, e)
        return 70
    return 0


def _said(log: Path) -> str:
    with contextlib.suppress(OSError):
        return log.read_text(errors="replace")[-400:]
    return ""


def caches(folder: Path, cases: int, seed: int, keep: Path | None = None) -> list[Finding]:
    """Files of EDGESEG_HOME changed, under commands that read them: rebuilt, and never believed."""
    from edgeseg.data.shapes import make_shapes

    yaml = make_shapes(folder / "cached", train=2, val=2, size=64, seed=4)
    commands = [["@labels", str(yaml)], ["export", str(folder / "tiny.pt"), "imgsz=64", "--format", "onnx", "--out", "out"]]
    homes = []
    for i, words in enumerate(commands):
        where = folder / f"filled{i}"
        where.mkdir()
        homes.append(where / "home")
        how, said = _child(words, where)
        if how or not homes[-1].is_dir():
            raise SystemExit(f"{' '.join(words)} with nothing changed: {how} {said}")
    found = []
    for case in range(cases):
        rng = random.Random(f"{seed}/caches/{case}")
        i = rng.randrange(len(commands))
        with tempfile.TemporaryDirectory(prefix="edgeseg-fuzz-") as name:
            where = Path(name)
            shutil.copytree(homes[i], where / "home")
            target = rng.choice(sorted(p for p in (where / "home").rglob("*") if p.is_file() and p.suffix != ".log"))
            target.write_bytes(mutated(target.read_bytes(), rng))
            how, said = _child(commands[i], where)
            if how:
                found.append(Finding("caches", case, how, said))
                if keep is not None:
                    shutil.copytree(where, keep / f"caches-{case}", dirs_exist_ok=True)
    return found


def main() -> int:
    """Fuzz the kinds named on the command line (default: all) and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    wanted = set(args.kinds or KINDS)
    if wanted - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(wanted - set(KINDS)))}")
    total = 0
    with tempfile.TemporaryDirectory(prefix="edgeseg-fuzz-") as name:
        folder = Path(name)
        for kind in (*kinds(folder, wanted), None):
            title = kind.name if kind is not None else "caches"
            if title not in wanted:
                continue
            start = time.monotonic()
            ENDED.clear()
            if kind is not None:
                found = run(kind, args.cases, args.seed, args.keep)
            else:
                found = caches(folder, args.cases, args.seed, args.keep)
            total += len(found)
            codes = ", ".join(f"{n} x {code}" for code, n in sorted(ENDED.items()))
            print(f"{title}: exit codes {codes}; {len(found)} found, {time.monotonic() - start:.0f} s", flush=True)
            for f in found[:10]:
                print("  " + json.dumps([f.case, f.how, f.said[-300:]]), flush=True)
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
