"""Run on the board, in a bundle: does the model find here what it found where the bundle was made, and how fast is it?

    python -m edgeseg.fleet.selftest BUNDLE [--runs 30]

Writes ``report.json`` into the bundle. Exit code: 0 it agrees, 1 it does not, 2 the test cannot be run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeseg import __version__
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.fidelity import Fidelity, FidelityMeter
from edgeseg.fleet import facts
from edgeseg.fleet.cases import FOLDER, Case, largest_difference, read_cases
from edgeseg.live.loop import temperature
from edgeseg.running.open import open_model
from edgeseg.store import write_atomically

if TYPE_CHECKING:
    from edgeseg.running.pipeline import Pipeline
    from edgeseg.vision.detections import Detections

REPORT, ABOUT, SUMS = "report.json", "bundle.json", "SHA256SUMS"
RUNS, WARM = 30, 3
STAGES = ("preprocess", "inference", "postprocess")


def selftest(bundle: Path, runs: int = RUNS) -> dict[str, Any]:
    """Run a bundle's self-test and return its report, which is written to ``report.json`` too.

    ``runs`` images are timed, after a few that warm up.

    Raises:
        EdgesegError: this is no bundle, or its model does not run here.
    """
    about = read_about(bundle)
    before = temperature()
    start = time.perf_counter()
    with open_model(bundle / artifact(bundle, about)) as opened:
        pipeline = opened.pipeline(conf=about["conf"])
        loaded = time.perf_counter() - start
        cases = read_cases(bundle / FOLDER, opened.manifest.names)
        figures, same, tensors = _compare(pipeline, cases)
        ms = _timed(pipeline, cases, runs)
    report = {
        "schema": 1,
        "bundle": about["name"],
        "key": about["key"],
        "model": about["model"],
        "made_on": about["made_on"],
        "edgeseg": __version__,
        **facts.machine(),
        "images": len(cases),
        "expected": figures.reference,
        "agreement": round(figures.agreement, 5),
        "equal": same,
        "tensor_difference": tensors,
        "tensor_unit": "steps" if about["model"]["precision"] == "int8" else "",
        "fidelity": figures.to_dict(),
        "ms": ms,
        "runs": runs,
        "load_ms": round(1e3 * loaded, 1),
        "memory_mb": facts.peak_mb(),
        "temperature_c": [before, temperature()],
        "throttled": facts.throttled(),
        "least_agreement": about["least_agreement"],
        "passed": bool(figures.agreement >= about["least_agreement"]),
    }
    write_atomically(bundle / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def read_about(bundle: Path) -> dict[str, Any]:
    """What ``bundle.json`` says.

    Raises:
        EdgesegError: there is none, or one of another kind.
    """
    try:
        about = json.loads((bundle / ABOUT).read_text(encoding="utf-8"))
        if about["schema"] != 1:
            raise EdgesegError("the bundle was made by a newer edgeseg", path=bundle, hint="Install that one")
        return dict(about)
    except (OSError, ValueError, KeyError, TypeError) as e:
        hint = "Make one: edgeseg bundle MODEL --board pi5"
        raise EdgesegError("this is no bundle", path=bundle, hint=hint) from e


def artifact(bundle: Path, about: dict[str, Any]) -> str:
    """Where the model lies in the bundle: what was built on this board, where something had to be."""
    built = about.get("built")
    return str(built if built and (bundle / built).exists() else about["model"]["path"])


def _compare(pipeline: Pipeline, cases: list[Case]) -> tuple[Fidelity, bool, float | None]:
    """Agreement, whether all detections are equal to the last bit, and the largest difference of a tensor."""
    meter, same, largest = FidelityMeter(pipeline.conf), True, None
    for case in cases:
        found = pipeline(case.image)
        meter.add(case.expected, found)
        same = same and _equal(case.expected, found)
        if case.tensors:
            outputs = pipeline.raw(case.image)[0]
            try:
                largest = max(largest or 0.0, largest_difference(case.tensors, outputs))
            except EdgesegError:  # an engine that was built here may keep its outputs in another type
                largest = None
    return meter.result(), same, largest


def _equal(a: Detections, b: Detections) -> bool:
    arrays = [(getattr(a, n), getattr(b, n)) for n in ("boxes", "scores", "classes")]
    return all(np.array_equal(x, y) for x, y in arrays) and a.rle() == b.rle()


def _timed(pipeline: Pipeline, cases: list[Case], runs: int) -> dict[str, float]:
    """Medians of milliseconds an image by stage, of their sum, and the sum's 95th percentile."""
    rows = []
    for i in range(WARM + runs):
        pipeline(cases[i % len(cases)].image)
        rows.append([pipeline.speed[s] for s in STAGES])
    rows = rows[WARM:]
    whole = sorted(sum(r) for r in rows)
    ms = {stage: statistics.median(r[k] for r in rows) for k, stage in enumerate(STAGES)}
    ms |= {"total": statistics.median(whole), "p95": whole[min(len(whole) - 1, int(0.95 * len(whole)))]}
    return {k: round(v, 3) for k, v in ms.items()}


def words(report: dict[str, Any]) -> str:
    """The report in a few lines for people."""
    f, ms, model = report["fidelity"], report["ms"], report["model"]
    hot = [f"{t:.0f}" for t in report["temperature_c"] if t is not None]
    memory = "unknown" if report["memory_mb"] is None else f"{report['memory_mb']:.0f} MB"
    agrees = "agrees" if report["passed"] else "DOES NOT AGREE"
    lines = [
        f"{model['path']} ({model['format']} {model['precision']}) on {report['board'] or report['machine']}:",
        f"  {agrees} with {report['made_on']}: agreement {report['agreement']:.4f} ({f['missing']} missing, {f['extra']} "
        f"extra of {report['expected']} detections)" + (", equal to the last bit" if report["equal"] else ""),
        f"  largest difference of a tensor: {difference(report)}",
        f"  {ms['total']:.1f} ms an image ({ms['preprocess']:.1f} + {ms['inference']:.1f} + {ms['postprocess']:.1f}, "
        f"median of {report['runs']}; 95 % within {ms['p95']:.1f}), loaded in {report['load_ms']:.0f} ms",
        f"  memory {memory}, temperature {' to '.join(hot) + ' °C' if hot else 'unknown'}, "
        f"throttled: {report['throttled'] or 'unknown'}",
    ]
    return "\n".join(lines)


def difference(report: dict[str, Any]) -> str:
    """The largest difference of a tensor, in words."""
    value = report["tensor_difference"]
    if value is None:
        return "not comparable"
    return "none" if value == 0 else f"{value:.3g} {report['tensor_unit']}".strip()


def main(argv: list[str] | None = None) -> int:
    """Parse the words, run the test, print and write its report."""
    parser = argparse.ArgumentParser(prog="edgeseg.fleet.selftest", description="Run the self-test of a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=RUNS, help="images timed (default: %(default)s)")
    given = parser.parse_args(argv)
    try:
        report = selftest(given.bundle, max(1, given.runs))
    except EdgesegError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(words(report))
    print(f"report: {given.bundle / REPORT}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
