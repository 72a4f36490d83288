"""The JSON Schema of the manifest says what the dataclasses say, and what readers do with files of other releases."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

import edgeseg.decoders
from edgeseg.errors import EdgesegError
from edgeseg.manifest import BOXES, DTYPES, HEADS, LAYOUTS, MOST_SIDE, ROLES, SCHEMA, TASKS, Manifest, Output, Tensor

WHOLE = json.loads(Path(edgeseg.decoders.__path__[0], "manifest.schema.json").read_text(encoding="utf-8"))
VALID = Draft202012Validator(WHOLE)
TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean", "tuple": "array", "Mapping": "object"}
MANIFEST = Manifest(
    "tflite",
    ("cat",),
    (64, 96),
    Tensor("images", (1, 64, 96, 3), "int8", "nhwc", 1 / 255, -128),
    (Output("box_8", (1, 8, 12, 64), "int8", "nhwc", 0.1, 4, "box", 8), Output("proto", (1, 16, 24, 32), role="proto")),
    calibration={"hash": "ab", "images": 3},
)


def block(**changes: Any) -> dict[str, Any]:
    return {**json.loads(MANIFEST.to_json()), **changes}


def output(**changes: Any) -> dict[str, Any]:
    return {**block()["outputs"][0], **changes}


def default(f: Field[Any]) -> Any:
    if f.default is MISSING:
        return f.default_factory() if callable(f.default_factory) else MISSING
    return f.default


@pytest.mark.parametrize(
    ("cls", "place"), [(Manifest, WHOLE), (Tensor, WHOLE["$defs"]["tensor"]), (Output, WHOLE["$defs"]["output"])]
)
def test_it_has_every_field_with_its_type_and_default(cls: type[Any], place: dict[str, Any]) -> None:
    own = {f.name: f for f in fields(cls)}
    said = {**place["properties"], **(WHOLE["$defs"]["tensor"]["properties"] if cls is Output else {})}
    assert set(said) - {"schema"} == set(own)
    needed = {*place.get("required", ()), *(WHOLE["$defs"]["tensor"]["required"] if cls is Output else ())} - {"schema"}
    assert needed == {name for name, f in own.items() if default(f) is MISSING}
    for name, f in own.items():
        if name not in needed:
            assert json.dumps(said[name]["default"]) == json.dumps(default(f)), name
        if "enum" not in said[name] and "$ref" not in said[name]:
            words = [w.split("[")[0] for w in str(f.type).split(" | ")]
            kinds = said[name]["type"] if isinstance(said[name]["type"], list) else [said[name]["type"]]
            assert kinds == ["null" if w == "None" else TYPES[w] for w in words], name


def test_it_has_every_allowed_value() -> None:
    tensor, one = WHOLE["$defs"]["tensor"]["properties"], WHOLE["$defs"]["output"]["properties"]
    found = [WHOLE["properties"][k]["enum"] for k in ("head", "task", "boxes")]
    found += [one["role"]["enum"], tensor["layout"]["enum"], tensor["dtype"]["enum"]]
    assert [tuple(v) for v in found] == [HEADS, TASKS, BOXES, ROLES, LAYOUTS, DTYPES]
    assert WHOLE["properties"]["schema"] == {"const": SCHEMA} and WHOLE["$id"].endswith(f":{SCHEMA}")
    assert WHOLE["properties"]["imgsz"]["items"]["maximum"] == MOST_SIDE
    Draft202012Validator.check_schema(WHOLE)


def test_what_is_written_is_valid_and_read_back() -> None:
    VALID.validate(block())
    assert Manifest.from_json(json.dumps(block())) == MANIFEST


@pytest.mark.parametrize(
    "bad",
    [
        *({k: "cooked"} for k in ("head", "task", "boxes")),
        *({"imgsz": v} for v in ([64], [64, 0], [64, 1 << 17], [64, 64, 64])),
        {"pad_value": 256},
        {"reg_max": 0},
        {"names": [1]},
        {"args": 3},
        {"schema": 2},
        *({"outputs": [output(**o)]} for o in ({"role": "mask"}, {"dtype": "i1"}, {"layout": "nwhc"}, {"shape": [-2]})),
        *({"outputs": [output(**o)]} for o in ({"scale": 0.0}, {"scale": None}, {"zero_point": None}, {"shape": [1] * 9})),
    ],
    ids=str,
)
def test_what_the_dataclasses_refuse_is_invalid(bad: dict[str, Any]) -> None:
    with pytest.raises(EdgesegError):
        Manifest.from_json(json.dumps(block(**bad)))
    with pytest.raises(ValidationError):
        VALID.validate(block(**bad))


def test_todays_reader_leaves_out_what_a_newer_release_added() -> None:
    newer = block(colour_of_the_sky="blue", input={**block()["input"], "planes": 2})
    newer["outputs"] = [{**o, "unit": "px"} for o in newer["outputs"]]
    VALID.validate(newer)
    assert Manifest.from_json(json.dumps(newer)) == MANIFEST


def test_todays_reader_refuses_a_newer_schema_and_says_what_to_do() -> None:
    with pytest.raises(EdgesegError, match=r"m\.tflite: its manifest has schema 2, and this edgeseg reads 1") as caught:
        Manifest.from_json(json.dumps(block(schema=2)), path="m.tflite")
    assert "Update edgeseg" in str(caught.value)


def test_todays_reader_takes_the_default_of_what_an_older_release_did_not_write() -> None:
    older = {k: v for k, v in block().items() if k in WHOLE["required"]}
    older["outputs"] = [{k: v for k, v in o.items() if k != "stride"} for o in older["outputs"]]
    VALID.validate(older)
    read = Manifest.from_json(json.dumps(older))
    assert (read.head, read.reg_max, read.boxes, read.notes, read.outputs[0].stride) == ("raw", 16, "xywh", (), None)
