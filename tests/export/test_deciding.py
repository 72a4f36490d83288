"""One observation, decisions once for each kind of integers, and a file that people keep: with a format of their own."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from edgeseg.errors import EdgesegError
from edgeseg.export.deciding import OBSERVATION, OWN
from edgeseg.export.draw import plan_text
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import make_plan
from edgeseg.quantize.carried import load

# A format that writes down what it was given, and knows an operator that the core does not.
CONVERT = """
import json
import sys
import torch
from edgeseg.network.checkpoint import load_checkpoint
def convert(job):
    weights = {n: p.detach().numpy() for n, p in load_checkpoint(job.source).fuse().named_parameters() if p.ndim == 4}
    decisions = job.decisions()
    found = decisions.by_weights(weights.items())
    job.output.write_text(json.dumps({
        "scales": {n: c.step is not None and c.step.tolist() for n, c in found.items()},
        "entries": {c.name: c.entry and c.entry.scale for c in found.values()},
        "ranges": {n: t.range for n, t in decisions.tensors.items()},
    }))
"""


@pytest.fixture
def formats(toys, tiny, monkeypatch):
    monkeypatch.setattr(toys, "model", tiny)
    common = {"precisions": ["fp32", "int8"], "options": ["int8", "imgsz"]}
    toys.add("plain", CONVERT, quantize={"rounds": "inside", "pairwise": True}, **common)
    toys.add(
        "signed", CONVERT, quantize={"rounds": "entries", "symmetric": True, "first": 1, "first_why": "coarse"}, **common
    )
    toys.add("twin", CONVERT, quantize={"rounds": "inside", "pairwise": True}, **common)
    return toys


def built(toys) -> list[str]:
    return [e.step for e in toys.events if e.kind == "built"]


def test_one_observation_serves_every_format(formats, shapes_yaml, tmp_path) -> None:
    options = ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3)
    results = formats.export("plain", "signed", "twin", options=options, out=tmp_path, gate=False)
    assert all(r.ok for r in results), [r.error for r in results]
    steps = built(formats)
    assert steps.count("observation") == 1 and sum(s.startswith("decisions") for s in steps) == 2
    plain, signed, twin = (json.loads(r.path.read_text()) for r in results)
    assert plain == twin and plain["ranges"].keys() == signed["ranges"].keys()
    assert all(plain["scales"].values()) and list(signed["scales"].values()).count(False) == 1
    assert "coarse" in " ".join(results[1].notes)
    # Another recipe decides anew, on the same observation.
    again = ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3, recipe="int8-accurate")
    assert all(r.ok for r in formats.export("plain", options=again, out=tmp_path, gate=False))
    assert "observation" not in built(formats) and any(s.startswith("decisions") for s in built(formats))


WAITS = """
def convert(job):
    job.progress(0.5, "there yet: " + str(job.given.exists()))
    job.output.write_bytes(job.awaited().read_bytes()[:2])
"""


def test_a_step_begins_before_what_it_is_given_is_made(formats, shapes_yaml, tmp_path) -> None:
    formats.add("waits", WAITS, quantize={"rounds": "inside"}, precisions=["fp32", "int8"], options=["int8", "imgsz"])
    options = ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3)
    (made,) = formats.export("waits", options=options, out=tmp_path, gate=False, jobs=3)
    assert made.ok and made.path.read_bytes() == b"{\n"
    order = [(e.kind, e.step.split()[0]) for e in formats.events if e.kind in ("start", "built")]
    assert order.index(("start", "decisions")) < order.index(("built", "observation")) < order.index(("built", "decisions"))
    assert order.index(("start", "waits")) < order.index(("built", "decisions"))
    assert "there yet: False" in [e.text for e in formats.events]
    # Alone, one after the other, it makes the same.
    (again,) = formats.export("waits", options=options, out=tmp_path / "b", gate=False, jobs=1, rebuild=True)
    order = [e.kind for e in formats.events if e.kind in ("start", "built")]
    assert again.path.read_bytes() == made.path.read_bytes() and order == ["start", "built"] * 3


def test_a_step_that_waits_ends_with_what_it_waits_for(formats, shapes_yaml, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(OWN, "observation", replace(OBSERVATION, timeout_s=0.5))
    formats.add("waits", WAITS, quantize={"rounds": "inside"}, precisions=["fp32", "int8"], options=["int8", "imgsz"])
    options = ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3)
    (made,) = formats.export("waits", options=options, out=tmp_path, gate=False, jobs=3)
    assert {e.step.split()[0] for e in formats.events if e.kind == "start"} == {"observation", "decisions", "waits"}
    assert "decisions (inside), which it reads, failed" in str(made.error) and "its limit of 0.5 s" in str(made.error)
    assert not [e for e in formats.events if e.kind == "built"] and formats.hidden() == []


def test_decisions_are_kept_in_a_file_and_taken_from_it(formats, shapes_yaml, tmp_path, monkeypatch) -> None:
    file, options = tmp_path / "d.json", ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3)
    (first,) = formats.export("plain", options=options, out=tmp_path / "a", gate=False, decisions=file)
    assert first.ok and len(load(file)) == 1
    before = file.read_text()
    file.write_text(before.replace('"range": [0.0, 1.0]', '"range": [0.0, 2.0]'))  # people may: the file says what is made
    (second,) = formats.export(
        "twin", options=ExportOptions(int8=True, imgsz=64), out=tmp_path / "b", gate=False, decisions=file
    )
    assert second.ok and not [s for s in built(formats) if s == "observation"]
    ranges = json.loads(second.path.read_text())["ranges"]
    assert ranges["images"] == [0.0, 2.0] and json.loads(first.path.read_text())["ranges"]["images"] == [0.0, 1.0]
    assert len(formats.export("signed", options=options, out=tmp_path / "c", gate=False, decisions=file)) == 1
    assert len(load(file)) == 2  # what was missing is there now


def test_a_file_of_another_network_size_or_recipe(formats, shapes_yaml, tmp_path) -> None:
    file, options = tmp_path / "d.json", {"int8": True, "data": str(shapes_yaml), "images": 3}
    formats.export("plain", options=ExportOptions(imgsz=64, **options), out=tmp_path, gate=False, decisions=file)
    for more, message in (({"imgsz": 96}, "64x64 pixels"), ({"imgsz": 64, "recipe": "w8a16"}, "by the recipe int8")):
        with pytest.raises(EdgesegError, match=message):
            formats.export("plain", options=ExportOptions(**options, **more), out=tmp_path, gate=False, decisions=file)
    file.write_text(file.read_text().replace('"network": "', '"network": "0'))
    with pytest.raises(EdgesegError, match="another network"):
        formats.export("plain", options=ExportOptions(imgsz=64, **options), out=tmp_path, gate=False, decisions=file)
    with pytest.raises(EdgesegError, match="nothing is quantized"):
        formats.export("plain", options=ExportOptions(imgsz=64), out=tmp_path, decisions=tmp_path / "e.json")


def test_weights_alone_need_no_observation(formats, tmp_path) -> None:
    options = ExportOptions(int8=True, imgsz=64, recipe="w8a32")
    (result,) = formats.export("plain", options=options, out=tmp_path, gate=False)
    assert result.ok and "observation" not in built(formats)
    assert not any(json.loads(result.path.read_text())["entries"].values())


def test_an_unknown_key_is_an_error_before_anything_begins(formats) -> None:
    formats.add("odd", CONVERT, quantize={"rounded": "inside"}, precisions=["fp32", "int8"], options=["int8"])
    with pytest.raises(EdgesegError, match="rounded") as e:
        make_plan(["odd"], ExportOptions(int8=True))
    assert e.value.path == str(formats.root / "odd" / "target.toml")


def test_the_plan_shows_the_steps(formats) -> None:
    plan = make_plan(["plain", "signed"], ExportOptions(int8=True))
    assert plan_text(plan).splitlines() == [
        "checkpoint",
        "└─ observation  (on the way)",
        "   ├─ decisions (inside)  (on the way)",
        "   │  └─ plain int8",
        "   └─ decisions (entries, symmetric)  (on the way)",
        "      └─ signed int8",
    ]


GELU = """
from edgeseg.network import flow
from edgeseg.quantize.kinds import Kind, register
register(Kind("gelu", lambda n, x, w, b: __import__("torch").nn.functional.gelu(x[0]), activation=True))
@flow.reads("gelu")
def _gelu(tracer, node):
    return tracer.one("gelu", node)
"""


def test_a_new_operator_is_one_function_and_one_kind(tmp_path) -> None:
    """What a target's folder, or anybody, adds: how the operator is read, and what it does."""
    import torch

    from edgeseg.network import flow
    from edgeseg.quantize.carried import carry
    from edgeseg.quantize.constraints import Constraints
    from edgeseg.quantize.decide import decide
    from edgeseg.quantize.kinds import KINDS
    from edgeseg.quantize.recipe import load_recipe

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(3, 8, 3, 2, 1), torch.nn.Conv2d(8, 4, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (self.b(torch.nn.functional.gelu(self.a(x))),)

    with pytest.raises(EdgesegError, match="gelu"):
        flow.trace(Body().eval(), (32, 32), ["proto"])
    exec(GELU, {})
    try:
        made = flow.trace(Body().eval(), (32, 32), ["proto"])
        images = _pictures(tmp_path)
        for limits in (Constraints(), Constraints(rounds="entries", symmetric=True)):
            decisions = decide(made, load_recipe("int8"), images, (32, 32), constraints=limits)
            carried = carry(made, decisions, load_recipe("int8"), limits, (32, 32))
            assert len(carried.convolutions) == 2 and all(c.entry is not None for c in carried.convolutions.values())
    finally:
        flow.OPERATORS.pop("gelu")
        KINDS.pop("gelu")


def _pictures(folder: Path) -> list[Path]:
    import cv2

    from edgeseg.data.shapes import shapes_image

    paths = [folder / f"{i}.png" for i in range(2)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), shapes_image(i, 32)[0])
    return paths


WHERE = """
import json, os
import psutil, torch
def convert(job):
    above = " ".join(psutil.Process(os.getppid()).cmdline())
    job.output.write_text(json.dumps({"above": above, "threads": [torch.get_num_threads(), os.environ["OMP_NUM_THREADS"]]}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there are forks on Linux only")
def test_steps_that_read_the_network_are_forked_where_there_are_several(formats, shapes_yaml, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    formats.add("where", WHERE, quantize={"rounds": "inside"}, precisions=["fp32", "int8"], options=["int8", "imgsz"])
    options = ExportOptions(int8=True, data=str(shapes_yaml), imgsz=64, images=3)
    (whole,) = formats.export("where", options=options, out=tmp_path / "a", gate=False, jobs=1)
    (alone,) = formats.export("where", options=ExportOptions(imgsz=64), out=tmp_path / "b", gate=False, jobs=1)
    forked, started = (json.loads(r.path.read_text()) for r in (whole, alone))
    assert "edgeseg.environments.forks" in forked["above"] and "edgeseg.environments.forks" not in started["above"]
    assert str(forked["threads"][0]) == forked["threads"][1] and str(started["threads"][0]) == started["threads"][1]
