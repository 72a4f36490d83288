"""The gate: a network whose tensors are rounded too coarsely is caught, and the role that broke is named."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeseg.data.dataset import load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError
from edgeseg.evaluate.gate import BEFORE, GateVerdict, judge, resolution
from edgeseg.manifest import Manifest, Output, Tensor
from edgeseg.quantize.floors import Floors
from edgeseg.quantize.recipe import load_recipe
from edgeseg.resources import demo_checkpoint
from edgeseg.running.open import Opened
from edgeseg.running.runtime import Local

torch = pytest.importorskip("torch")
ROLES = ("box", "score", "coeff", "proto")


class Rounded:
    """The float network with the tensors of some roles on a lattice, as integers with a scale or as floats."""

    def __init__(self, network, steps, *, integers=False):
        self.network, self.steps, self.integers = network, steps, integers
        self.input, self.metadata = network.input, {}
        self.outputs = tuple(self.describe(o) for o in network.outputs)
        self.manifest = replace(network.manifest, outputs=self.outputs, format="toy", precision="int8", imgsz=(160, 160))

    def describe(self, o):
        step = self.steps.get(o.role, 0.0)
        return replace(o, dtype="int32", scale=step, zero_point=7) if step and self.integers else o

    def run(self, x):
        found = []
        for o, a in zip(self.network.outputs, self.network.run(x)):
            step = self.steps.get(o.role, 0.0)
            q = np.rint(a / step) if step else a
            found.append(a if not step else (q + 7).astype(np.int32) if self.integers else (q * step).astype(np.float32))
        return found


@pytest.fixture(scope="module")
def network():
    from edgeseg.network.runtime import NetworkRuntime

    return NetworkRuntime(demo_checkpoint(), threads=1)


@pytest.fixture(scope="module")
def decoded():
    from edgeseg.network.runtime import NetworkRuntime

    return NetworkRuntime(demo_checkpoint(), threads=1, head="decoded")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    yaml = make_shapes(tmp_path_factory.mktemp("gate") / "shapes", train=1, val=10, size=160, seed=5)
    return load_dataset(yaml).images("val")


def subject(runtime, title="toy"):
    untimed = not hasattr(runtime, "seconds")
    return Opened(Path("toy"), title, Local(runtime) if untimed else runtime, runtime.manifest)


FINE = {"box": 0.1, "score": 0.05, "coeff": 0.03, "proto": 0.03}
COARSE = {"box": 20.0, "score": 9.0, "coeff": 3.0, "proto": 4.0}


@pytest.mark.parametrize("integers", [False, True])
def test_a_sound_artifact_passes_and_the_figures_are_there(network, images, integers):
    seen = []
    verdict = judge(
        subject(network),
        subject(Rounded(network, FINE, integers=integers)),
        images,
        Floors(),
        where="10 images of val",
        progress=lambda done, total: seen.append((done, total)),
    )
    assert verdict.passed and not verdict.culprits and verdict.by == "detections"
    assert verdict.images == len(images) and seen[-1] == (len(images), len(images))
    assert set(verdict.snr) == set(ROLES) and all(db > 20 for db in verdict.snr.values())
    assert verdict.resolution == pytest.approx(0.05 * 0.25 * 0.75, rel=1e-3)
    assert "agreement" in verdict.summary() and "10 images of val" in verdict.summary()
    assert GateVerdict.from_dict(verdict.to_dict()) == verdict


@pytest.mark.parametrize("role", ROLES)
def test_the_role_that_broke_is_named(network, images, role):
    artifact = subject(Rounded(network, {**FINE, role: COARSE[role]}))
    verdict = judge(subject(network), artifact, images, Floors())
    assert not verdict.passed
    assert verdict.culprits == (role,)
    assert f"the {role} branch" in verdict.blame() and "worst tensor" in verdict.blame()


def test_a_branch_that_detections_hardly_show_is_caught_by_its_tensors(network, images):
    blind = Floors(matched=0, box_iou=0, mask_iou=0, score_shift=1, extra=1)
    verdict = judge(subject(network), subject(Rounded(network, {**FINE, "coeff": COARSE["coeff"]})), images, blind)
    assert verdict.by == "detections" and verdict.culprits == ("coeff",)
    assert len(verdict.reasons) == 1 and "coeff tensors" in verdict.reasons[0]
    assert judge(subject(network), subject(Rounded(network, FINE)), images, blind).passed


def test_several_broken_branches_are_blamed_on_what_they_share(network, images):
    verdict = judge(subject(network), subject(Rounded(network, COARSE)), images, Floors())
    assert verdict.culprits == (BEFORE,)


@pytest.mark.parametrize(("role", "rows"), [("box", slice(0, 4)), ("score", slice(4, 8)), ("coeff", slice(8, None))])
def test_a_decoded_head_is_taken_apart(decoded, images, role, rows):
    class Ruined(Rounded):
        def run(self, x):
            prediction, proto = (a.copy() for a in self.network.run(x))
            step = {"box": 60.0, "score": 0.7, "coeff": 4.0}[role]
            prediction[:, rows] = np.rint(prediction[:, rows] / step) * step
            return [prediction, proto]

    verdict = judge(subject(decoded), subject(Ruined(decoded, {})), images, Floors())
    assert verdict.culprits == (role,)


def test_other_heads_are_compared_by_detections_alone(network, decoded, images):
    verdict = judge(subject(network), subject(Rounded(decoded, {})), images, Floors())
    assert verdict.passed and not verdict.snr


def test_where_nothing_is_found_tensors_decide(network, tmp_path):
    yaml = make_shapes(tmp_path / "s", train=1, val=2, size=160, seed=9)
    images = load_dataset(yaml).images("val")
    few = Floors(detections=10_000)
    good = judge(subject(network), subject(Rounded(network, FINE)), images, few)
    assert good.passed and good.by == "tensors" and "too few detections" in good.summary()
    bad = judge(subject(network), subject(Rounded(network, {**FINE, "coeff": COARSE["coeff"]})), images, few)
    assert bad.culprits == ("coeff",) and "dB" in bad.reasons[0]


def test_speed_is_told_honestly(network, images):
    class Slow(Rounded):
        seconds = 0.02

    class Fast(Rounded):
        seconds = 0.01

    class Slowest(Rounded):
        seconds = 0.03

    network, slow, fast = Slowest(network, {}), Slow(network, FINE), Fast(network, {})
    verdict = judge(subject(network), subject(slow, "Toy int8"), images[:3], Floors(), others=[subject(fast, "Toy fp32")])
    assert verdict.ratio == pytest.approx(2)
    assert "slower than float" in verdict.speed() and "faster: Toy fp32 (10.0 ms)" in verdict.speed()
    verdict = judge(subject(network), subject(fast, "Toy int8"), images[:3], Floors(), others=[subject(slow, "Toy fp32")])
    assert "slower" not in verdict.speed() and "10.0 ms" in verdict.speed()


def test_unreadable_images_are_left_out_but_not_all_of_them(network, images, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    artifact = subject(Rounded(network, FINE))
    assert judge(subject(network), artifact, [broken, *images[:2]], Floors()).images == 2
    with pytest.raises(EdgesegError, match="none of the held-out images"):
        judge(subject(network), artifact, [broken], Floors())


def test_a_slow_runtime_is_given_fewer_images(network, images):
    assert judge(subject(network), subject(Rounded(network, FINE)), images, Floors(), budget_s=0.0).images == 8


def test_floors_are_inclusive_and_nothing_found_at_all_is_a_miss():
    from edgeseg.evaluate.fidelity import Fidelity

    at = Fidelity(0.9, 0.945, 0.94, -0.05, 0.0, 90, 100, 90, 10)
    assert Floors().missed(at) == []
    nan = math.nan
    blind = Fidelity(0.0, nan, nan, nan, nan, 0, 100, 0, 10)
    assert len(Floors().missed(blind)) == 2  # agreement and matched
    flood = Fidelity(1.0, 1.0, 1.0, 0.0, 0.0, 100, 100, 200, 10)
    assert "100 extra: of 200 detections not the float network's" in Floors().missed(flood)[-1]


@pytest.mark.parametrize("n", [200, 300, 1000])
def test_ghosts_are_refused_whatever_is_matched(n):
    """97 % matched is fine by itself; with every tenth detection invented it is not."""
    from edgeseg.evaluate.fidelity import Fidelity

    pairs = round(0.97 * n)
    ghosts = Fidelity(0.97, 0.97, 0.97, 0.0, 0.0, pairs, n, round(pairs / 0.9), 50)
    (why,) = Floors().missed(ghosts)
    assert "extra" in why
    sound = Fidelity(0.97, 0.97, 0.97, 0.0, 0.0, pairs, n, round(pairs / 0.96), 50)
    assert Floors().missed(sound) == []


def test_the_score_resolution_of_floats_comes_from_the_values():
    outputs = (Output("score_8", (1, 2, 4, 4), role="score", stride=8),)
    manifest = Manifest("toy", ("a", "b"), (32, 32), Tensor("images", (1, 3, 32, 32)), outputs)
    lattice = np.random.default_rng(0).integers(-100, 100, (1, 2, 40, 40)) * 0.1
    assert resolution(manifest, [lattice]) == pytest.approx(0.1 * 0.1875)
    assert resolution(manifest, [np.random.default_rng(0).normal(size=(1, 2, 40, 40))]) is None


def test_a_recipe_sets_the_floors(tmp_path):
    file = tmp_path / "strict.toml"
    file.write_text("[gate]\nmatched = 0.99\nimages = 8\n")
    recipe = load_recipe(file)
    assert recipe.gate == Floors(matched=0.99, images=8)
    assert "gate" not in recipe.to_dict()
    for line in ("matched = 2.0", "matches = 0.9", "images = 0"):
        file.write_text(f"[gate]\n{line}\n")
        with pytest.raises(EdgesegError, match=r"strict\.toml:2"):
            load_recipe(file)
