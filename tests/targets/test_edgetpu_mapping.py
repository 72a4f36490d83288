"""The prediction of what the Edge TPU compiler maps, and the rewriting of words that changes no bit."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from edgeseg.registry import target_by_name

pytest.importorskip("ai_edge_litert")

_spec = importlib.util.spec_from_file_location("small_tflite", Path(__file__).with_name("small_tflite.py"))
small = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(small)
Graph, network, run = small.Graph, small.network, small.run


@pytest.fixture
def target():
    return target_by_name("edgetpu")


def test_a_network_of_ours_maps_whole(target):
    report = target.load("mapping").report(network())
    assert report.percent == 100 and [o.status for o in report.operators] == ["mapped"] * 5
    assert report.parameter_bytes == 4 * 3 + 4 * 4 + 5 * 16 + 5 * 4
    assert report.largest_activation_bytes == 32 * 32 * 5 and report.peak_activation_bytes == 32 * 32 * 5 + 16 * 16 * 4
    assert report.streamed_bytes == 0 and report.risks == ("compilers 14 and 15 refuse half_pixel_centers; 16 takes it",)
    assert "5 of 5 operators (100 %)" in report.to_text()
    json.dumps(report.to_dict())


def test_lowering_changes_words_and_no_bit(target):
    content, notes = target.load("lower").lower(network())
    assert len(notes) == 2 and "without half_pixel_centers" in notes[0]
    changed = "CONV_2D 1 to 3, LOGISTIC 1 to 2, MUL 1 to 2, RESIZE_NEAREST_NEIGHBOR 3 to 2"
    assert notes[1] == f"operator versions set to those of int8: {changed}"
    assert np.array_equal(run(network()), run(content)) and len(np.unique(run(content))) > 50
    assert target.load("mapping").report(content).risks == ()
    assert target.load("lower").lower(content) == (content, [])


def test_lowering_keeps_odd_factors_and_raises_mul(target):
    g = Graph()
    x = g.tensor((1, 8, 8, 4), scale=2.0)
    y = g.op("MUL", [x, x], [g.tensor((1, 8, 8, 4), scale=1.0)], 1, "MulOptions")
    size = g.tensor((2,), "INT32", np.array([12, 12], np.int32))
    out, options = g.tensor((1, 12, 12, 4), scale=1.0), "ResizeNearestNeighborOptions"
    g.op("RESIZE_NEAREST_NEIGHBOR", [y, size], [out], 3, options, halfPixelCenters=True)
    content, notes = target.load("lower").lower(g.bytes([x], [out]))
    assert notes == ["operator versions set to those of int8: MUL 1 to 3"]
    assert [o.version for o in target.load("mapping").report(content).operators] == [3, 3]


def one(kind, shapes, out, version=1, options=None, constants=None, **values):
    """A file of one operator; ``constants`` are int32 inputs behind the activations."""
    g = Graph()
    inputs = [g.tensor(s) for s in shapes]
    more = [g.tensor(np.shape(c), "INT32", np.asarray(c, np.int32)) for c in constants or ()]
    y = g.tensor(out)
    g.op(kind, [*inputs, *more], [y], version, options, **values)
    return g.bytes(inputs, [y])


MAP = (1, 4, 4, 8)
LONG = "more than one dimension, or more than 16000 elements"
ODD = "reduction over channels that are no multiple of 4"
STRIDES = "strides other than 1, or masks"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (one("MAX_POOL_2D", [MAP], MAP, 2, "Pool2DOptions", fusedActivationFunction=1), "fused activation function"),
        (one("MAX_POOL_2D", [MAP], MAP, 2, "Pool2DOptions"), "mapped"),
        (one("MAX_POOL_2D", [MAP], MAP, 3, "Pool2DOptions"), "operator version 3 not supported (up to 2)"),
        (one("LOGISTIC", [(2, 4, 4, 8)], (2, 4, 4, 8)), "a tensor has more than 3 dimensions larger than 1"),
        (one("PAD", [MAP], (1, 6, 6, 8), 2, None, [[[0, 0], [1, 1], [1, 1], [0, 0]]]), "mapped"),
        (one("PAD", [MAP], (1, 4, 4, 8), 2, None, [[[0, 1], [0, 0], [0, 0], [0, 0]]]), "padding of the batch"),
        (one("SOFTMAX", [(1, 16_000)], (1, 16_000), 2, "SoftmaxOptions"), "mapped"),
        (one("SOFTMAX", [(1, 16_001)], (1, 16_001), 2, "SoftmaxOptions"), LONG),
        (one("SOFTMAX", [(1, 4, 16)], (1, 4, 16), 2, "SoftmaxOptions"), LONG),
        (one("MEAN", [MAP], (1, 8), 2, "ReducerOptions", [[1, 2]]), "mapped"),
        (one("MEAN", [(1, 4, 4, 6)], (1, 4, 4), 2, "ReducerOptions", [[-1]]), ODD),
        (one("MEAN", [MAP], (4, 4, 8), 2, "ReducerOptions", [[0]]), "reduction over the batch"),
        (one("STRIDED_SLICE", [MAP], MAP, 2, "StridedSliceOptions", [[0] * 4, [4] * 4, [1] * 4]), "mapped"),
        (one("STRIDED_SLICE", [MAP], MAP, 2, "StridedSliceOptions", [[0] * 4, [4] * 4, [1, 2, 1, 1]]), STRIDES),
        (one("EXP", [MAP], MAP), "operator not supported"),
    ],
)  # fmt: skip
def test_documented_limits(target, content, status):
    assert [o.status for o in target.load("mapping").report(content).operators] == [status]


def test_types_weights_dilation_and_constants(target):
    mapping = target.load("mapping")
    g = Graph()
    x = g.tensor(MAP)
    a = g.conv(x, 8, 4, (1, 4, 4, 4), dilationWFactor=2)
    z = g.tensor((1, 4, 4, 4), data=np.ones(64, np.int8))
    b = g.op("CONCATENATION", [x, z], [g.tensor((1, 4, 4, 12))], 2, "ConcatenationOptions", axis=3)
    f = g.op("LOGISTIC", [x], [g.tensor(MAP, "FLOAT32")])
    w = g.op("CONV_2D", [x, x], [g.tensor(MAP)], 3, "Conv2DOptions", dilationWFactor=1, dilationHFactor=1)
    dynamic = g.tensor(MAP)
    g.graph.tensors[dynamic].shapeSignature = [-1, 4, 4, 8]
    d = g.op("LOGISTIC", [x], [dynamic])
    scales = g.op("LOGISTIC", [x], [g.tensor(MAP, scales=8)])
    fc = g.tensor((4, 8), data=np.ones(32, np.int8))
    full = g.op("FULLY_CONNECTED", [x, fc], [g.tensor((4, 4))], 4, "FullyConnectedOptions")
    shuffled = g.op("FULLY_CONNECTED", [x, fc], [g.tensor((1, 4))], 4, "FullyConnectedOptions", weightsFormat=1)
    report = mapping.report(g.bytes([x], [a, b, f, w, d, scales, full, shuffled]))
    assert [o.status for o in report.operators] == [
        "dilation differs between width and height",
        "a constant input that is not zero padding",
        "works on another type than int8 or uint8",
        "weights are not constant",
        "a tensor has a dynamic size",
        "an activation has not one scale",
        "output has more than one dimension",
        "shuffled weights",
    ]
    assert report.percent == 0


def test_what_follows_is_on_the_cpu_and_branches_are_not(target):
    """The compiler maps one part: what depends on an operator of the CPU stays there too."""
    g = Graph()
    x = g.tensor(MAP)
    bad = g.op("EXP", [x], [g.tensor(MAP)])
    after = g.op("LOGISTIC", [bad], [g.tensor(MAP)])
    beside = g.op("LOGISTIC", [x], [g.tensor(MAP)])
    both = g.op("ADD", [after, beside], [g.tensor(MAP)], 2, "AddOptions")
    report = target.load("mapping").report(g.bytes([x], [both]))
    assert [o.mapped for o in report.operators] == [False, False, True, False] and report.percent == 25
    said = report.sentences()
    assert "1 of 4 operators (25 %)" in said[0] and "1 EXP (operator not supported)" in said[1]


def test_large_networks_stream_and_large_images_are_a_risk(target):
    g = Graph()
    x = g.tensor((1, 640, 640, 3))
    weight = np.zeros((3000, 1, 1, 3000), np.int8)
    w = g.tensor(weight.shape, data=weight, scales=3000)
    y = g.op("CONV_2D", [x, w], [g.tensor((1, 1, 1, 3000))], 3, "Conv2DOptions", dilationWFactor=1, dilationHFactor=1)
    report = target.load("mapping").report(g.bytes([x], [y]))
    assert report.streamed_bytes == 9_000_000 - (8 << 20)
    assert "at least 0.58 MiB are streamed" in report.to_text() and "640x640" in report.risks[0]
