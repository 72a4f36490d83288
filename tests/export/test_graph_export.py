import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.errors import EdgesegError, StepFailed
from edgeseg.export.api import export
from edgeseg.export.options import ExportOptions
from edgeseg.export.source import find_source

FOLDER = """
def convert(job):
    job.output.mkdir()
    (job.output / "weights").write_bytes(job.source.read_bytes())
    (job.output / "metadata.yaml").write_text("x: 1")
    job.note("two files")
"""
SIDECAR = """
def convert(job):
    job.output.write_bytes(b"graph")
    job.output.with_name(job.output.name + ".yaml").write_text("beside")
    (job.output.parent / "rubbish").write_text("left by the converter")
"""
RUNTIME = """
import json
from edgeseg.manifest import Manifest, Output, Tensor
class Runtime:
    def __init__(self, path, threads=None):
        self.input = Tensor("images", (1, 3, 320, 320))
        self.outputs = (Output("prediction", (1, 40, 100)), Output("proto", (1, 32, 80, 80), role="proto"))
        m = Manifest("toy", ("a",), (320, 320), self.input, self.outputs, head="decoded")
        self.metadata = m.to_metadata()
    def run(self, x):
        return []
"""


def test_a_toy_exports_and_the_second_time_comes_from_the_cache(toys) -> None:
    toys.counting("toy")
    (first,) = toys.export("toy")
    assert first.path == toys.model.with_name("net.toy") and first.path.read_bytes() == b"weights|toy"
    assert first.ok and not first.cached and first.toolchain == "current" and first.size == 11
    assert [e.kind for e in toys.events] == ["start", "built"]
    (second,) = toys.export("toy")
    assert second.cached and second.path == first.path and second.key == first.key
    assert [e.kind for e in toys.events] == ["cached"]
    assert toys.runs == ["toy"]
    assert toys.hidden() == []


def test_progress_notes_and_log(toys) -> None:
    toys.add(
        "noisy",
        """
        import os, sys
        def convert(job):
            print("to stdout")
            os.write(1, b"no newline before ")
            job.progress(0.25, "a quarter, or so")
            os.system("echo from a child")
            print("to stderr", file=sys.stderr)
            os.write(1, bytes(range(128, 200)) + b"\\n")
            job.note("remember this")
            job.output.write_text(sys.stdin.read() + "x")
        """,
    )
    (result,) = toys.export("noisy")
    assert [(e.done, e.text) for e in toys.events if e.kind == "progress"] == [(0.25, "a quarter, or so")]
    assert result.notes == ("remember this",)
    text = result.log.read_bytes()
    assert all(words in text for words in (b"to stdout", b"from a child", b"to stderr"))
    assert toys.export("noisy")[0].notes == ("remember this",)


def test_names_of_artifacts(toys) -> None:
    toys.add("toy", precisions=["fp32", "fp16"], options=["imgsz", "half", "head"])
    toys.add("web", suffix="_web_model", convert=FOLDER)
    toys.add("only", precisions=["fp16"], heads=["decoded"], suffix="_only.toy")
    names = [toys.export("toy", options=o)[0].path.name for o in (None, ExportOptions(half=True, head="decoded"))]
    assert names == ["net.toy", "net_fp16_decoded.toy"]
    assert [r.path.name for r in toys.export("web", "only")] == ["net_web_model", "net_only.toy"]


def test_a_chain_runs_its_shared_prefix_once(toys) -> None:
    toys.counting("first")
    for name in ("left", "right"):
        toys.counting(name, reads=["first"])
    toys.counting("last", reads=["left"])
    results = toys.export("last", "right")
    assert [r.path.read_bytes() for r in results] == [b"weights|first|left|last", b"weights|first|right"]
    assert sorted(toys.runs) == ["first", "last", "left", "right"]
    assert not (toys.model.parent / "net.first").exists()
    # The intermediates are cached too: asking for one builds nothing, and a new reader builds itself alone.
    toys.counting("more", reads=["left"])
    assert [r.cached for r in toys.export("first", "more")] == [True, False]
    assert toys.runs[4:] == ["more"]


def test_folders_are_replaced_and_notes_are_kept(toys) -> None:
    toys.add("web", FOLDER, suffix="_web_model")
    toys.model.with_name("net_web_model").mkdir()  # empty: nothing is lost with it
    toys.export("web")
    toys.add("web", FOLDER.replace('"metadata.yaml"', '"stale"'), suffix="_web_model")
    (result,) = toys.export("web")
    assert (result.path / "stale").is_file() and not (result.path / "metadata.yaml").exists()
    toys.add("web", FOLDER, suffix="_web_model")
    (result,) = toys.export("web")
    assert sorted(p.name for p in result.path.iterdir()) == ["metadata.yaml", "weights"]
    assert result.notes == ("two files",) and result.size == 11
    assert toys.hidden() == []


def test_what_belongs_beside_an_artifact_travels_with_it(toys, tmp_path) -> None:
    toys.add("frozen", SIDECAR, suffix=".pb9")
    toys.counting("reader", reads=["frozen"])
    toys.export("frozen", out=tmp_path / "o" / "named.pb9")
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["named.pb9", "named.pb9.yaml"]
    toys.export("frozen", out=tmp_path / "p")
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == ["net.pb9", "net.pb9.yaml"]


def test_the_artifact_in_place_is_not_the_cache(toys) -> None:
    toys.add("toy")
    (result,) = toys.export("toy")
    with open(result.path, "ab") as f:
        f.write(b"scribble")
    (again,) = toys.export("toy")
    assert again.cached and again.path.read_bytes() == b"weights|toy fp32"


def test_a_converter_may_write_beside_its_source(toys) -> None:
    toys.add("first")
    toys.add(
        "second",
        """
        def convert(job):
            job.source.with_suffix(".tmp").write_text("beside")
            job.output.write_bytes(job.source.read_bytes())
        """,
        reads=["first"],
    )
    toys.export("second")
    (result,) = toys.export("first")
    assert result.cached and toys.said() == ""


def test_a_converter_may_name_another_artifact(toys) -> None:
    toys.add(
        "kit",
        """
        def convert(job):
            kit = job.output.parent / "model_kit"
            kit.mkdir()
            (kit / "build.sh").write_text("build")
            job.note("built there, not here")
            return kit
        """,
        suffix=".engine9",
    )
    for cached in (False, True):
        (result,) = toys.export("kit")
        assert result.path == toys.model.with_name("net_kit") and (result.path / "build.sh").is_file()
        assert result.cached is cached and result.notes == ("built there, not here",)


def test_errors_before_anything_begins(toys, tmp_path) -> None:
    toys.counting("toy")
    for source, match in (("absent.onnx", "no such file"), (tmp_path, "suffix"), ("absent.yaml", "no such definition")):
        with pytest.raises(EdgesegError, match=match):
            export(source, ["toy"])
    with pytest.raises(EdgesegError, match="does not take half"):
        toys.export("toy", options=ExportOptions(half=True))
    with pytest.raises(EdgesegError, match="this is a file"):
        toys.export("toy", out=toys.model)
    assert toys.runs == []


def test_the_one_to_one_head_is_a_checkpoint_of_its_own(toys, tmp_path) -> None:
    torch = pytest.importorskip("torch")
    from edgeseg.network.checkpoint import load_checkpoint, save_checkpoint
    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    read = "from edgeseg.network.checkpoint import load_checkpoint\n"
    write = "job.output.write_text(str(load_checkpoint(job.source).definition.end2end))"
    toys.add("toy", f"{read}def convert(job):\n    {write}\n")
    toys.add("other", precisions=["fp32", "int8"])
    networks = {f: Network(Definition("tiny", 2, "silu", 0.1, 0.0625, 64, f)) for f in ("yolo26", "yolo11")}
    files = {f: save_checkpoint(tmp_path / f"{f}.pt", n) for f, n in networks.items()}
    (result,) = export(files["yolo26"], ["toy"], ExportOptions(end2end=True))
    assert result.path == tmp_path / "yolo26-end2end.toy" and result.path.read_text() == "True"
    (result,) = export(files["yolo26"], ["toy"])
    assert result.path == tmp_path / "yolo26.toy" and result.path.read_text() == "False"
    kept = load_checkpoint(next((toys.home / "end2end").rglob("*.pt")))
    assert torch.equal(kept.head.box[0].out.weight, networks["yolo26"].head.single.box[0].out.weight)
    with pytest.raises(EdgesegError, match="YOLO11 has no one-to-one head"):
        export(files["yolo11"], ["toy"], ExportOptions(end2end=True))
    with pytest.raises(EdgesegError, match="may not survive integers") as error:
        export(files["yolo26"], ["other"], ExportOptions(end2end=True, int8=True))
    assert "--force" in error.value.hint
    artifact = tmp_path / "some.toy"
    artifact.write_text("x")
    with pytest.raises(EdgesegError, match="needs the checkpoint"):
        export(artifact, ["other"], ExportOptions(end2end=True))


def test_a_place_that_cannot_be_written(toys, tmp_path) -> None:
    toys.add("toy")
    (tmp_path / "file").write_text("")
    (result,) = toys.export("toy", out=tmp_path / "file" / "below")
    assert not result.ok and "cannot be written" in str(result.error) and result.path is None


def test_an_artifact_as_the_source_keeps_its_size_and_head(toys) -> None:
    toys.add("toy", runtime=RUNTIME)
    toys.add("next", "def convert(job):\n    job.output.write_text(f'{job.imgsz} {job.head}')\n", reads=["toy"])
    artifact = toys.model.with_name("some.toy")
    artifact.write_text("x")
    (result,) = export(artifact, ["next"])
    assert result.path.name == "some_decoded.next"
    assert result.path.read_text() == "(320, 320) decoded"
    with pytest.raises(EdgesegError, match="was exported with imgsz"):
        export(artifact, ["next"], ExportOptions(imgsz=640))


def test_int8_takes_images_and_recipe_into_job_and_key(toys, monkeypatch) -> None:
    from edgeseg.export import api as module
    from edgeseg.export.calibrate import Calibration
    from edgeseg.quantize.recipe import load_recipe

    images, recipe = tuple(toys.root / f"{i}.jpg" for i in range(3)), load_recipe("int8").to_dict()
    monkeypatch.setattr(
        module, "choose_calibration", lambda options, *rest: Calibration(images, {"hash": options.data}, recipe)
    )
    toys.add(
        "small",
        """
        import json
        def convert(job):
            seen = [job.precision, len(job.calibration), dict(job.calibration_info), job.recipe["name"]]
            job.output.write_text(json.dumps(seen))
        """,
        precisions=["fp32", "int8"],
        options=["int8"],
    )
    (a,) = toys.export("small", options=ExportOptions(int8=True, data="a"), gate=False)
    assert a.path.name == "net_int8.small" and json.loads(a.path.read_text()) == ["int8", 3, {"hash": "a"}, "int8"]
    (b,) = toys.export("small", options=ExportOptions(int8=True, data="b"), gate=False)
    assert not b.cached and b.key != a.key
    assert toys.export("small", options=ExportOptions(int8=True, data="a"), gate=False)[0].cached


def test_result_as_plain_data(toys) -> None:
    toys.add("toy")
    data = json.loads(json.dumps(toys.export("toy")[0].to_dict()))
    assert data["path"].endswith("net.toy") and data["error"] is None and data["precision"] == "fp32"


def test_offline_names_the_command_and_the_others_finish(toys) -> None:
    toys.add("toy")
    folder = toys.add("far")
    (folder / "toolchain.txt").write_text("no-such-distribution==1.0\n")
    far, toy = toys.export("far", "toy", offline=True)
    assert toy.ok and not far.ok
    assert "edgeseg toolchain install far" in str(far.error) and "no-such-distribution" in str(far.error)
    assert far.error.exit_code == 2 and not isinstance(far.error, StepFailed)


def test_a_second_export_needs_no_torch(toys) -> None:
    toys.add("toy")
    toys.export("toy")
    script = (
        "import sys; from edgeseg.export.api import export\n"
        f"assert export({str(toys.model)!r}, ['toy'])[0].cached\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'tensorflow', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)


def test_well_known_weights_that_were_downloaded_before(toys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    weights = toys.home / "weights" / "yolov8n-seg.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"w")
    for name in ("yolov8n-seg.pt", "yolov8n-seg"):
        source = find_source(name)
        assert (source.path, source.stem, source.home) == (weights, "yolov8n-seg", tmp_path)
    assert find_source("yolov8n-seg.yaml").format == "network"


def test_the_size_of_the_training_is_found_and_remembered(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch")
    from edgeseg.export.source import trained_size
    from edgeseg.resources import demo_checkpoint

    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    assert trained_size(demo_checkpoint()) == (160, 160)

    def refuse(path):
        raise AssertionError("read again")

    monkeypatch.setattr("edgeseg.network.checkpoint.load_checkpoint", refuse)
    assert trained_size(demo_checkpoint()) == (160, 160)
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no zip")
    assert trained_size(broken) == (640, 640)  # the step that reads it says what is wrong
