"""Trackers of runs, with the real packages beside the environment and nothing on the network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseg import cli
from edgeseg.data.shapes import make_shapes
from edgeseg.errors import EdgesegError, Notice
from edgeseg.training import TrainOptions
from edgeseg.training.trackers import TRACKERS, Tracker, checked, trackers

ROOT = Path(__file__).resolve().parents[2]
Followed = tuple[Path, dict[str, str], Path]
# A run that is stopped in its second epoch and then goes on, as a person would type it.
RUN = """
import sys, warnings
from edgeseg.training import TrainOptions, train
from edgeseg.training.loop import Listener
class Stop(Listener):
    def on_batch(self, trainer, batch, rates):
        trainer.stop_requested = trainer.position.step == 4
options = TrainOptions.from_flat(dict(data=sys.argv[1], model=sys.argv[2], log=sys.argv[3], epochs=3, imgsz=64, batch=2,
    nominal_batch=2, workers=0, device="cpu", plots=False, tensorboard=False, close_mosaic=0, amp=False))
first = train(options, listeners=[Stop()])
assert not first.complete and first.epochs == 1, first
second = train(TrainOptions.from_flat(dict(resume=str(first.last), device="cpu", workers=0)))
assert second.complete and second.folder == first.folder and second.epochs == 3
print(second.folder)
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return made(tmp_path)


def made(folder: Path) -> Path:
    make_shapes(folder / "shapes", train=6, val=2, size=64, seed=3)
    (folder / "tiny.yaml").write_text("variant: tiny\ndepth: 0.33\nwidth: 0.0625\nmax_channels: 128\nnc: 4\n")
    return folder


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Followed]:
    """A stopped and resumed run that all of them follow: its folder, the environment that has their packages, and where."""
    place = made(tmp_path_factory.mktemp("runs"))
    site = place / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(site), "tensorboard", "mlflow-skinny", "wandb"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"they cannot be installed here: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "EDGESEG_HOME": str(place / "home")}
    environment |= {"WANDB_MODE": "offline", "WANDB_DATA_DIR": str(place / "staging"), "OMP_NUM_THREADS": "1"}
    environment |= {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/runs.db"}
    words = [str(place / "shapes" / "shapes.yaml"), str(place / "tiny.yaml"), ",".join(TRACKERS)]
    done = subprocess.run([sys.executable, "-c", RUN, *words], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "left out from here on" not in done.stderr, done.stderr
    yield place / done.stdout.strip().splitlines()[-1], environment, place
    shutil.rmtree(site)


def ask(code: str, environment: dict[str, str], place: Path, *words: str) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def figures(folder: Path) -> list[float]:
    """The box losses of the three epochs, as the run's own table has them."""
    rows = (folder / "results.csv").read_text().splitlines()
    at = rows[0].split(",").index("train/box")
    return [float(row.split(",")[at]) for row in rows[1:]]


@pytest.mark.slow
def test_tensorboard_reads_its_files(followed: Followed) -> None:
    folder, environment, place = followed
    code = (
        "import sys, json; from tensorboard.backend.event_processing.event_accumulator import EventAccumulator as E\n"
        "e = E(sys.argv[1]); e.Reload(); s = e.Scalars('train/box')\n"
        "print(json.dumps({'steps': [x.step for x in s], 'values': [x.value for x in s], 'tags': e.Tags()['scalars'],"
        " 'text': str(e.Tensors('options/text_summary')[0].tensor_proto.string_val[0])}))"
    )
    said = ask(code, environment, place, str(folder))
    assert said["steps"] == [1, 2, 3] and said["values"] == pytest.approx(figures(folder), rel=1e-4)
    assert {"box/map50", "fitness", "lr"} <= set(said["tags"])  # type: ignore[call-overload]
    assert "| nominal_batch | 2 |" in str(said["text"])


@pytest.mark.slow
def test_mlflow_reads_its_database(followed: Followed) -> None:
    folder, environment, place = followed
    code = (
        "import json; from mlflow.tracking import MlflowClient\nc = MlflowClient()\n"
        "(r,) = c.search_runs([c.get_experiment_by_name('edgeseg').experiment_id])\n"
        "h = sorted(c.get_metric_history(r.info.run_id, 'train/box'), key=lambda m: m.step)\n"
        "print(json.dumps({'steps': [m.step for m in h], 'values': [m.value for m in h], 'epochs': r.data.params['epochs'],"
        " 'status': r.info.status, 'name': r.info.run_name,"
        " 'files': [a.path for a in c.list_artifacts(r.info.run_id, 'weights')], 'id': r.info.run_id}))"
    )
    said = ask(code, environment, place)
    assert (said["steps"], said["epochs"], said["status"], said["name"]) == ([1, 2, 3], "3", "FINISHED", folder.name)
    assert said["values"] == pytest.approx(figures(folder), rel=1e-4)
    assert said["files"] == ["weights/best.pt", "weights/last.pt"]
    assert json.loads((folder / "trackers.json").read_text())["mlflow"] == said["id"]


@pytest.mark.slow
def test_wandb_s_offline_files_are_one_run(followed: Followed) -> None:
    folder, environment, place = followed
    key = json.loads((folder / "trackers.json").read_text())["wandb"]
    parts = sorted((folder / "wandb").glob(f"offline-run-*-{key}/run-{key}.wandb"))
    assert len(parts) == 2
    code = (
        "import sys, json\n"
        "from wandb.proto import wandb_internal_pb2 as pb\n"
        "rows, ids, files, names = [], set(), set(), set()\n"
        # LevelDB's log: blocks of 32 KiB, each piece with checksum, length and kind (2 and 3 go on in the next block).
        "def records(data):\n"
        "    at, whole = 7, b''\n"
        "    while at + 7 <= len(data):\n"
        "        size, kind = int.from_bytes(data[at + 4 : at + 6], 'little'), data[at + 6]\n"
        "        whole += data[at + 7 : at + 7 + size]; at += 7 + size\n"
        "        if kind in (1, 4): yield whole; whole = b''\n"
        "        if 32768 - at % 32768 < 7: at += 32768 - at % 32768\n"
        "for path in sys.argv[1:]:\n"
        "    for data in records(open(path, 'rb').read()):\n"
        "        record = pb.Record(); record.ParseFromString(data)\n"
        "        kind = record.WhichOneof('record_type')\n"
        "        if kind == 'run': ids.add(record.run.run_id); names.add(record.run.display_name)\n"
        "        if kind == 'history':\n"
        "            row = {(i.key or '/'.join(i.nested_key)): json.loads(i.value_json) for i in record.history.item}\n"
        "            if 'train/box' in row: rows.append([row['epoch'], row['train/box']])\n"
        "        if kind == 'artifact': files |= {e.path for e in record.artifact.manifest.contents}\n"
        "print(json.dumps({'rows': rows, 'ids': sorted(ids), 'files': sorted(files), 'names': sorted(names)}))"
    )
    said = ask(code, environment, place, *map(str, parts))
    assert said["ids"] == [key] and said["names"] == [folder.name]
    assert [r[0] for r in said["rows"]] == [1, 2, 3]  # type: ignore[attr-defined]
    assert [r[1] for r in said["rows"]] == pytest.approx(figures(folder), rel=1e-4)  # type: ignore[attr-defined]
    assert said["files"] == ["best.pt", "last.pt"]


def test_a_tracker_that_fails_says_so_once_and_ends_nothing(tmp_path: Path) -> None:
    class Broken(Tracker):
        title = "Broken"

        def start(self, trainer: object) -> None:
            raise ConnectionError("no route to\nhost")

        def point(self, figures: object, epoch: int) -> None:
            raise AssertionError("it is not asked again")

    broken = Broken(tmp_path, TrainOptions(data="x.yaml"))
    with pytest.warns(Notice, match="Broken is left out from here on, the training goes on: no route to host"):
        broken.on_start(None)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broken.on_epoch(None, {"epoch": 1, "train/box": 0.5}, True)  # type: ignore[arg-type]


def test_what_is_not_there_is_said_before_anything_is_read(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setattr(TRACKERS["wandb"], "module", "surely_not_installed")
    assert cli.run(["train", "tiny.yaml", "data=shapes/shapes.yaml", "--log", "wandb"]) == 2
    assert (
        "Weights & Biases is not installed" in (said := capsys.readouterr().err) and 'pip install "edgeseg[wandb]"' in said
    )
    with pytest.raises(EdgesegError, match="log=wandbb is no tool") as e:
        checked(("wandbb",))
    assert "wandb" in str(e.value) and not Path("runs").exists()


def test_log_is_an_option_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = TrainOptions.from_flat({"data": "x.yaml", "log": "mlflow, wandb"})
    assert options.log == ("mlflow", "wandb") == TrainOptions.from_flat(options.to_flat()).log
    monkeypatch.setattr(TRACKERS["tensorboard"], "module", "json")
    assert [t.name for t in trackers(tmp_path, options)] == ["mlflow", "wandb", "tensorboard"]  # type: ignore[attr-defined]
    assert checked(()) == ()
