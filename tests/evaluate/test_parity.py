"""Models side by side: who parts from the reference, where, and a page of pictures of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.evaluate.parity import Subject, compare
from edgeseg.evaluate.pictures import write_html
from edgeseg.resources import demo_checkpoint

pytest.importorskip("torch")
SIZE = 160


class Disturbed:
    """A runtime that answers like the network, with one role's tensors changed."""

    def __init__(self, runtime, manifest, role="", amount=0.0, fails_at=None):
        self.runtime, self.manifest, self.role, self.amount, self.fails_at = runtime, manifest, role, amount, fails_at
        self.input, self.outputs, self.metadata, self.runs = runtime.input, runtime.outputs, {}, 0

    def run(self, x):
        self.runs += 1
        if self.runs == self.fails_at:
            raise EdgesegError("out of memory")
        found = [np.array(a) for a in self.runtime.run(x)]
        for spec, a in zip(self.manifest.outputs, found):
            if spec.role == self.role:
                a += self.amount
        return found


@pytest.fixture(scope="module")
def network():
    from edgeseg.network.runtime import NetworkRuntime

    return NetworkRuntime(demo_checkpoint())


def subject(network, name, precision="fp32", **changes):
    manifest = replace(network.manifest, precision=precision, imgsz=(SIZE, SIZE))
    runtime = Disturbed(network, manifest, **changes) if changes else network
    return Subject(Path(name), name, 1, runtime, manifest)


def test_each_model_is_judged_by_itself(network, shapes_dataset, tmp_path):
    others = [
        subject(network, "same"),
        subject(network, "shy", "int8", role="score", amount=-1.5),
        subject(network, "blurred", role="proto", amount=0.05),
        subject(network, "broken", role="box", amount=0.0, fails_at=2),
    ]
    found = compare(subject(network, "reference"), others, shapes_dataset)
    reference, same, shy, blurred, broken = found
    assert reference.diverges == same.diverges == ""
    assert same.fidelity.matched == 1 and same.largest_score == 0 and same.tensors["box"].snr_db == np.inf
    assert shy.diverges.startswith("score tensors") or shy.diverges.startswith(("detections", "scores"))
    assert shy.fidelity.score_shift < -0.05 and shy.worst
    assert blurred.diverges.startswith("proto tensors") and blurred.tensors["score"].snr_db == np.inf
    assert broken.error == "out of memory" and broken.diverges == "runtime" and broken.metrics is None
    page = write_html(tmp_path / "report.html", found, "reference", "shapes").read_text()
    assert "out of memory" in page and "data:image/jpeg;base64," in page and "http" not in page.split("<style>")[0]
    assert all(isinstance(v.to_dict()["size"], int) for v in found)


def test_the_other_head_is_compared_by_its_detections(network, shapes_dataset):
    import torch

    from edgeseg.network.checkpoint import load_checkpoint

    model = load_checkpoint(demo_checkpoint()).fuse()
    view, outputs = model.view("decoded"), model.outputs("decoded", (SIZE, SIZE))

    class Decoded:
        input, metadata = network.input, {}

        def __init__(self):
            self.outputs = outputs

        def run(self, x):
            with torch.inference_mode():
                return [t.numpy() for t in view(torch.from_numpy(x))]

    manifest = replace(network.manifest, head="decoded", outputs=outputs, imgsz=(SIZE, SIZE))
    other = Subject(Path("decoded"), "decoded", 1, Decoded(), manifest)
    _, decoded = compare(subject(network, "reference"), [other], shapes_dataset)
    assert decoded.tensors == {} and decoded.diverges == ""
    assert decoded.fidelity.matched == 1 and decoded.largest_box < 0.01


def test_a_reference_that_fails_is_an_error(network, shapes_dataset):
    with pytest.raises(EdgesegError, match="the reference fails: out of memory"):
        compare(subject(network, "reference", role="box", fails_at=1), [], shapes_dataset)
