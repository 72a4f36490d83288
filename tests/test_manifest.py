from __future__ import annotations

import ast
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edgeseg.errors import EdgesegError
from edgeseg.manifest import HEADS, ROLES, Manifest, Output, Tensor

SHAPES = st.lists(st.integers(-1, 4000), min_size=1, max_size=4).map(tuple)
# Control characters are left out: a class name holds none, and YAML folds some of them into blanks.
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=20)
QUANT = st.one_of(st.just((None, None)), st.tuples(st.floats(1e-9, 1e9, allow_nan=False), st.integers(-128, 255)))
DTYPES = st.sampled_from(["float32", "float16", "int8", "uint8"])


@st.composite
def tensors(draw, cls=Tensor, **more):
    scale, zero_point = draw(QUANT)
    layout = draw(st.sampled_from(["nchw", "nhwc"]))
    return cls(draw(TEXT), draw(SHAPES), draw(DTYPES), layout, scale, zero_point, **{k: draw(v) for k, v in more.items()})


OUTPUTS = tensors(Output, role=st.sampled_from(ROLES), stride=st.one_of(st.none(), st.sampled_from([8, 16, 32])))
MANIFESTS = st.builds(
    Manifest,
    format=TEXT,
    names=st.lists(TEXT, max_size=5).map(tuple),
    imgsz=st.tuples(st.integers(32, 4096), st.integers(32, 4096)),
    input=tensors(),
    outputs=st.lists(OUTPUTS, max_size=3).map(tuple),
    head=st.sampled_from(HEADS),
    dynamic=st.booleans(),
    normalized_boxes=st.booleans(),
    description=TEXT,
    args=st.dictionaries(TEXT, st.one_of(st.booleans(), st.integers(), TEXT), max_size=3),
    recipe=st.one_of(st.none(), TEXT),
    calibration=st.one_of(st.none(), st.fixed_dictionaries({"hash": TEXT, "images": st.integers(0, 1000)})),
    tools=st.dictionaries(TEXT, TEXT, max_size=2),
    notes=st.lists(TEXT, max_size=2).map(tuple),
)


@given(MANIFESTS)
def test_json_brings_everything_back(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(MANIFESTS)
def test_metadata_is_flat_text_and_brings_everything_back(manifest):
    metadata = manifest.to_metadata()
    assert all(isinstance(k, str) and isinstance(v, str) for k, v in metadata.items())
    assert Manifest.from_metadata(metadata) == manifest
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(manifest.names))
    assert ast.literal_eval(metadata["imgsz"]) == list(manifest.imgsz)
    assert ast.literal_eval(metadata["args"]) == dict(manifest.args)


@given(MANIFESTS)
def test_yaml_has_native_types_and_brings_everything_back(manifest):
    read = yaml.safe_load(manifest.to_yaml())
    assert read["names"] == dict(enumerate(manifest.names)) and read["imgsz"] == list(manifest.imgsz)
    assert Manifest.from_metadata(read) == manifest


def test_metadata_of_others_is_none_of_ours():
    assert Manifest.from_metadata({"names": "{0: 'a'}", "stride": "32"}) is None


@pytest.mark.parametrize("text", ["", "nothing", "[]", "{}", '{"schema": 1}', '{"schema": 1, "input": 3}', "null"])
def test_unreadable(text):
    with pytest.raises(EdgesegError, match=r"model\.bin") as caught:
        Manifest.from_json(text, path="model.bin")
    assert "\n" not in str(caught.value)


@given(MANIFESTS)
def test_a_key_or_schema_that_nobody_knows(manifest):
    raw = json.loads(manifest.to_json())
    assert Manifest.from_json(json.dumps({**raw, "colour_of_the_sky": "blue"})) == manifest
    with pytest.raises(EdgesegError, match="schema 99"):
        Manifest.from_json(json.dumps({**raw, "schema": 99}))


def test_geometry_of_tensors():
    assert Tensor("a", (1, 3, 10, 20)).hw == (10, 20) and Tensor("a", (1, 3, 10, 20)).channels == 3
    last = Tensor("a", (1, 10, 20, 3), layout="nhwc")
    assert last.hw == (10, 20) and last.channels == 3
    assert Tensor("a", (1, 38, 84)).channels == 38 and Tensor("a", (1, 84, 38), layout="nhwc").channels == 38


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Tensor("a", (1,), layout="nwhc"), "layout"),
        (lambda: Tensor("a", (1,), scale=1.0), "come together"),
        (lambda: Tensor("a", (1,), zero_point=0), "come together"),
        (lambda: Output("a", (1,), role="mask"), "role 'mask'"),
        (lambda: Manifest("f", (), (64, 64), Tensor("a", (1,)), (), head="cooked"), "head layout 'cooked'"),
    ],
)
def test_refuses(make, what):
    with pytest.raises(EdgesegError, match=what):
        make()


def test_with_tensors_changes_nothing_else():
    manifest = Manifest("f", ("a",), (64, 64), Tensor("a", (1,)), (), notes=("n",))
    other = manifest.with_tensors(Tensor("b", (2,)), (Output("c", (1,)),))
    assert (other.input.name, other.outputs[0].name, other.notes, other.nc) == ("b", "c", ("n",), 1)
