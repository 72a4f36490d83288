import json
from xml.etree import ElementTree

import pytest

from edgeseg.errors import EdgesegError
from edgeseg.export.draw import plan_svg, plan_text
from edgeseg.export.options import ExportOptions
from edgeseg.export.plan import Given, make_plan
from edgeseg.registry import targets


def chain(step) -> list[str]:
    return [s.format for s in step.chain()][::-1]


@pytest.fixture
def family(toys):
    toys.add("trace", options=["imgsz", "opset", "dynamic", "head"], precisions=["fp32", "fp16"])
    toys.add("saved", reads=["trace"], options=["imgsz"])
    toys.add("web", reads=["saved"], options=["imgsz", "half"], precisions=["fp32", "fp16"])
    toys.add("open", reads=["nowhere", "trace"], options=["imgsz", "dynamic", "head"])
    return toys


def test_shared_prefixes_are_made_once(family) -> None:
    plan = make_plan(["web", "open", "trace"], ExportOptions())
    assert [chain(s) for s in plan.wanted] == [["trace", "saved", "web"], ["trace", "open"], ["trace"]]
    assert sorted(s.format for s in plan.steps) == ["open", "saved", "trace", "web"]
    order = list(plan.steps)
    assert all(s.source is None or order.index(s.source) < order.index(s) for s in order)


def test_the_first_read_that_leads_somewhere_is_taken(family) -> None:
    family.add("picky", reads=["trace", "network"])
    family.add("near", reads=["network", "trace"])
    plan = make_plan(["picky", "near"], ExportOptions())
    assert [chain(s) for s in plan.wanted] == [["trace", "picky"], ["near"]]


def test_an_intermediate_gets_only_what_it_takes(family) -> None:
    plan = make_plan(["web"], ExportOptions(half=True, imgsz=320))
    by_name = {s.format: s for s in plan.steps}
    assert by_name["web"].precision == "fp16"
    assert by_name["trace"].precision == by_name["saved"].precision == "fp32"
    assert {s.imgsz for s in plan.steps} == {(320, 320)}
    plan = make_plan(["open"], ExportOptions(dynamic=True, head="decoded"))
    assert {(s.format, s.options, s.head) for s in plan.steps} == {
        ("open", (("dynamic", True),), "decoded"),
        ("trace", (("dynamic", True),), "decoded"),
    }


def test_source_precision(family) -> None:
    family.add("same", reads=["trace"], precisions=["fp32", "fp16"], options=["half"], settings={"source_precision": "same"})
    family.add("fixed", reads=["trace"], settings={"source_precision": "fp16"})
    family.add(
        "table",
        reads=["trace"],
        precisions=["fp32", "int8"],
        options=["int8"],
        settings={"source_precision": {"int8": "fp16"}},
    )
    assert make_plan(["same"], ExportOptions(half=True)).steps[0].precision == "fp16"
    assert make_plan(["same"], ExportOptions()).steps[0].precision == "fp32"
    assert make_plan(["fixed"], ExportOptions()).steps[0].label == "trace fp16"
    assert make_plan(["table"], ExportOptions(int8=True)).steps[0].precision == "fp16"
    assert make_plan(["table"], ExportOptions()).steps[0].precision == "fp32"


def test_different_needs_are_different_steps(family) -> None:
    family.add("old", reads=["trace"], settings={"source_precision": "fp16"})
    plan = make_plan(["old", "open"], ExportOptions())
    assert [s.label for s in plan.steps if s.format == "trace"] == ["trace fp16", "trace fp32"]


def test_from_an_artifact(family) -> None:
    plan = make_plan(["open", "web"], ExportOptions(), "trace")
    assert [chain(s) for s in plan.wanted] == [["open"], ["saved", "web"]]
    with pytest.raises(EdgesegError, match="trace fp32 raw cannot be made from an artifact of the format saved"):
        make_plan(["trace"], ExportOptions(), "saved")


def test_what_is_quantized_already_needs_no_images(toys) -> None:
    toys.add("lite", precisions=["fp32", "int8"], options=["int8"])
    toys.add("stick", reads=["lite"], precisions=["int8"], settings={"source_precision": "int8"})
    assert [(s.format, s.quantized) for s in make_plan(["stick"], ExportOptions()).steps] == [
        ("lite", True),
        ("stick", False),
    ]
    plan = make_plan(["stick"], ExportOptions(), Given("lite", "int8", "raw", (320, 320), 1))
    assert [(s.format, s.quantized, s.imgsz) for s in plan.steps] == [("stick", False, (320, 320))]
    with pytest.raises(EdgesegError, match="of the format lite fp32: it reads lite int8"):
        make_plan(["stick"], ExportOptions(), Given("lite", "fp32", "raw"))


def test_weights_alone_need_no_images(toys) -> None:
    toys.add("light", precisions=["fp32", "int8"], options=["int8"], settings={"weights_only": True})
    (step,) = make_plan(["light"], ExportOptions(int8=True)).steps
    assert step.quantized and not step.calibrated


def test_no_way(toys) -> None:
    toys.add("lost", reads=["nowhere"])
    toys.add("a", reads=["b"])
    toys.add("b", reads=["a"])
    for name in ("lost", "a"):
        with pytest.raises(EdgesegError, match=f"{name} fp32 raw cannot be made from a checkpoint"):
            make_plan([name], ExportOptions())
    with pytest.raises(EdgesegError, match="unknown format 'nope'"):
        make_plan(["nope"], ExportOptions())
    with pytest.raises(EdgesegError, match="no format was named"):
        make_plan([], ExportOptions())


def test_a_format_named_twice_is_made_once(family) -> None:
    plan = make_plan(["trace", "TRACE", "trace"], ExportOptions())
    assert len(plan.wanted) == len(plan.steps) == 1


def test_all_drops_what_a_format_does_not_take_and_says_so(family) -> None:
    plan = make_plan(["all"], ExportOptions.of(opset=13))
    assert {s.format for s in plan.wanted} >= {"trace", "saved", "web", "open"}
    assert "saved does not take opset: exported without" in plan.notes
    assert next(s for s in plan.wanted if s.format == "trace").options == (("opset", 13),)
    plan = make_plan(["all"], ExportOptions(half=True))
    precisions = {s.format: s.precision for s in plan.wanted}
    assert precisions["trace"] == precisions["web"] == "fp16" and precisions["saved"] == "fp32"
    assert "saved does not take half: exported as fp32" in plan.notes


def test_all_never_quantizes_what_was_asked_for_in_half_precision(family) -> None:
    plan = make_plan(["all"], ExportOptions(half=True))
    assert not [s for s in plan.wanted if s.precision == "int8"]
    assert any(n.startswith("edgetpu left out") for n in plan.notes)


def test_all_in_float_has_no_use_for_data(family) -> None:
    assert make_plan(["all"], ExportOptions(half=True, data="x.yaml")).wanted
    with pytest.raises(EdgesegError, match="images: only int8 takes it") as error:
        make_plan(["all"], ExportOptions(half=True, images=8))
    assert "--int8" in error.value.hint


def test_all_with_an_option_that_none_takes(family, monkeypatch) -> None:
    monkeypatch.setattr("edgeseg.registry.target_roots", lambda: [family.root])
    with pytest.raises(EdgesegError, match="no option 'keras'"):
        make_plan(["all"], ExportOptions.of(keras=True))
    with pytest.raises(EdgesegError, match="no format takes head, nms"):
        make_plan(["all"], ExportOptions(nms=True))


def test_every_built_in_target_can_be_reached() -> None:
    known = targets()
    for name, target in known.items():
        plan = make_plan([name], ExportOptions())
        assert plan.wanted[0].precision == target.precisions[0]


def test_drawn(family) -> None:
    plan = make_plan(["web", "open"], ExportOptions())
    text = plan_text(plan)
    assert text.splitlines() == [
        "checkpoint",
        "└─ trace fp32  (on the way)",
        "   ├─ saved fp32  (on the way)",
        "   │  └─ web fp32",
        "   └─ open fp32",
    ]
    root = ElementTree.fromstring(plan_svg(plan))
    boxes = [r for r in root.iter("{http://www.w3.org/2000/svg}rect") if r.get("class")]
    assert len(boxes) == 5
    spots = {(r.get("x"), r.get("y")) for r in boxes}
    assert len(spots) == 5
    data = json.loads(json.dumps(plan.to_dict()))
    assert [n["source"] for n in data["nodes"]] == [None, 0, 1, 0]


def test_a_network_is_exported_at_the_size_of_its_training_unless_told(family) -> None:
    given = Given(usual=(160, 320))
    assert make_plan(["tflite"], ExportOptions(), given).wanted[0].imgsz == (160, 320)
    assert make_plan(["tflite"], ExportOptions(imgsz=640), given).wanted[0].imgsz == (640, 640)
    assert make_plan(["tflite"], ExportOptions()).wanted[0].imgsz == (640, 640)
