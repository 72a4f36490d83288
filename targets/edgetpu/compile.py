#!/usr/bin/env python3
"""Compile an int8 TF Lite file for the Edge TPU, put its metadata back, and say what the compiler mapped.

Needs Python 3.8 and ``edgetpu_compiler`` (x86-64 Linux), or docker with an image that holds it, named by the environment
variable ``EDGESEG_EDGETPU_IMAGE`` and already on this machine: nothing is pulled. In a kit, type ``python3 compile.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from typing import Any

COMPILER = "edgetpu_compiler"
IMAGE = "EDGESEG_EDGETPU_IMAGE"
MEMBER = "metadata.json"
INSTALL = (
    "On x86-64 Debian or Ubuntu install the package edgetpu-compiler (https://coral.ai/docs/edgetpu/compiler), "
    f"or name a local docker image that has it: {IMAGE}"
)
MAPPED = "Mapped to Edge TPU"
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_BYTES = {
    "on_chip_bytes": "On-chip memory used for caching model parameters",
    "on_chip_left_bytes": "On-chip memory remaining for caching model parameters",
    "streamed_bytes": "Off-chip memory used for streaming uncached model parameters",
}
_COUNTS = {
    "subgraphs": "Number of Edge TPU subgraphs",
    "operators": "Total number of operations",
    "operators_tpu": "Number of operations that will run on Edge TPU",
    "operators_cpu": "Number of operations that will run on CPU",
}


class CompileError(Exception):
    """Something that a person must change; ``hint`` is what to do."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what + (". " + hint if hint else ""))
        self.what, self.hint = what, hint


def find_compiler() -> list[str] | None:
    """How to call the compiler: its path, or docker with a local image (``{folder}`` stands for the folder of the files)."""
    found = shutil.which(COMPILER)
    if found:
        return [found]
    image, docker = os.environ.get(IMAGE, ""), shutil.which("docker")
    if not image or docker is None:
        return None
    there = subprocess.run([docker, "image", "inspect", image], capture_output=True, check=False)
    if there.returncode:
        return None
    return [docker, "run", "--rm", "--pull=never", "-v", "{folder}:{folder}", "-w", "{folder}", image, COMPILER]


def run_compiler(command: list[str], source: str, timeout_s: int = 600) -> tuple[bytes, dict[str, Any], str]:
    """(compiled file, facts of the log, the log itself).

    If the compiler gives up on the whole graph (large activations), it is asked to search for the largest part that it can
    map.

    Raises:
        CompileError: it failed, or ran past ``timeout_s`` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = "network"
        shutil.copyfile(source, os.path.join(folder, name + ".tflite"))
        log = ""
        for more in ([], ["--search_delegate"]):
            arguments = ["--show_operations", f"--timeout_sec={timeout_s}", *more, "--out_dir", folder]
            words = [w.replace("{folder}", folder) for w in command]
            try:
                done = subprocess.run(
                    [*words, *arguments, os.path.join(folder, name + ".tflite")],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    errors="replace",
                    timeout=timeout_s + 60,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise CompileError(f"{COMPILER} ran past {timeout_s} s", "Try a smaller imgsz") from None
            log += done.stdout
            made = os.path.join(folder, f"{name}_edgetpu.tflite")
            if done.returncode == 0 and os.path.isfile(made):
                with open(made, "rb") as f:
                    return f.read(), parse_log(done.stdout), log
        said = [line for line in log.splitlines() if re.search(r"error|failed|invalid|didn't", line, re.IGNORECASE)]
        why = said[0].strip() if said else f"exit code {done.returncode}"
        raise CompileError(f"{COMPILER} could not compile the network ({why})", "Try a smaller imgsz")


def parse_log(text: str) -> dict[str, Any]:
    """What the compiler says (version 2 to 16): versions, bytes, counts, and each operator with its count and status."""
    facts: dict[str, Any] = {}
    version = re.search(r"Edge TPU Compiler version (\S+)", text)
    if version:
        facts["compiler"] = version.group(1)
    for key, label in _BYTES.items():
        found = re.search(re.escape(label) + r":\s*([\d.]+)\s*(B|KiB|MiB|GiB)\b", text)
        if found:
            facts[key] = round(float(found.group(1)) * _UNITS[found.group(2)])
    for key, label in _COUNTS.items():
        found = re.search(re.escape(label) + r":\s*(\d+)", text)
        if found:
            facts[key] = int(found.group(1))
    table = text.split("Operator ", 1)[1] if "Operator " in text else ""
    rows = re.findall(r"^([A-Za-z][\w-]*)[ \t]+(\d+)[ \t]+(\S.*?)[ \t]*$", table, re.MULTILINE)
    facts["status"] = [{"operator": o, "count": int(n), "status": s} for o, n, s in rows]
    if rows:
        total, tpu = sum(int(n) for _, n, _ in rows), sum(int(n) for _, n, s in rows if s == MAPPED)
        facts.setdefault("operators", total)
        facts.setdefault("operators_tpu", tpu)
    if "operators" in facts:
        facts.setdefault("operators_tpu", facts["operators"] - facts.get("operators_cpu", 0))
        facts.setdefault("operators_cpu", facts["operators"] - facts["operators_tpu"])
    return facts


def sentences(facts: dict[str, Any]) -> list[str]:
    """The facts for a person: what runs where, and what is streamed."""
    total, tpu = facts.get("operators", 0), facts.get("operators_tpu", 0)
    said = [f"{tpu} of {total} operators run on the Edge TPU, in {facts.get('subgraphs', '?')} part(s)"]
    rest = [r for r in facts.get("status", []) if r["status"] != MAPPED]
    if rest:
        said.append("on the CPU: " + "; ".join(f"{r['count']} {r['operator']} ({r['status']})" for r in rest))
    if "on_chip_bytes" in facts:
        on, streamed = facts["on_chip_bytes"] / (1 << 20), facts.get("streamed_bytes", 0) / (1 << 20)
        more = f", {streamed:.2f} MiB are streamed at every run" if streamed else ", nothing is streamed"
        said.append(f"{on:.2f} MiB of parameters stay on the chip{more}")
    return said


def read_metadata(path: str) -> dict[str, Any]:
    """Metadata of the ZIP appended to a TF Lite file."""
    with zipfile.ZipFile(path) as z:
        value: dict[str, Any] = json.loads(z.read(MEMBER).decode("utf-8"))
    return value


def embed(path: str, compiled: bytes, metadata: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the compiled file with the metadata of the int8 one: the compiler drops what follows the flatbuffer."""
    own = json.loads(metadata["edgeseg"])
    own["tools"] = {**own.get("tools", {}), COMPILER: facts.get("compiler", "")}
    own["args"] = {**own.get("args", {}), "edgetpu": {k: v for k, v in facts.items() if k != "status"}}
    own["notes"] = [*own.get("notes", ()), *sentences(facts)]
    text = json.dumps({**metadata, "args": str(own["args"]), "edgeseg": json.dumps(own)})
    beside = f"{path}.part"
    with open(beside, "wb") as f:
        f.write(compiled)
    with zipfile.ZipFile(beside, "a") as z:
        z.writestr(zipfile.ZipInfo(MEMBER), text)
    os.replace(beside, path)


def main(argv: list[str] | None = None) -> int:
    """Compile the network of the kit that this file lies in."""
    here = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description="Compile the int8 network of this kit for the Edge TPU.")
    name = re.sub(r"_kit$", "", os.path.basename(here)) + ".tflite"
    parser.add_argument("--out", default=os.path.join(here, name), help="the compiled file (default: %(default)s)")
    parser.add_argument("--timeout", type=int, default=600, help="seconds (default: %(default)s)")
    given = parser.parse_args(argv)
    source = os.path.join(here, "model_int8.tflite")
    command = find_compiler()
    try:
        if command is None:
            raise CompileError(f"there is no {COMPILER} on this machine", INSTALL)
        compiled, facts, log = run_compiler(command, source, given.timeout)
    except CompileError as e:
        print(f"Error: {e}", file=sys.stderr)
        return 1
    embed(given.out, compiled, read_metadata(source), facts)
    with open(os.path.join(here, "report_compiled.json"), "w", encoding="utf-8") as f:
        json.dump(facts, f, indent=1)
    with open(os.path.join(here, "compiler.log"), "w", encoding="utf-8") as f:
        f.write(log)
    print("\n".join(sentences(facts)))
    print(f"Now type, where the Edge TPU is: edgeseg predict {given.out} source=IMAGE")
    return 0


if __name__ == "__main__":
    sys.exit(main())
