"""What all tests share: where real data may lie, a tiny generated dataset, and how much hypothesis tries."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from jsonschema import Draft202012Validator

import edgeseg.decoders
from edgeseg.data.dataset import Dataset, load_dataset
from edgeseg.data.shapes import make_shapes
from edgeseg.manifest import Manifest

# Started in the background of a shell, or below nohup, these would be ignored, by everything that a test starts too.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (getattr(signal, "SIGHUP", None), signal.SIG_DFL)):
    if number is not None and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)

settings.register_profile(
    "default",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", parent=settings.get_profile("default"), max_examples=20, derandomize=True)
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


@pytest.fixture(scope="session", autouse=True)
def _every_manifest_is_valid() -> Iterator[None]:
    """Whatever manifest a test reads from an artifact, the JSON Schema agrees that it is one."""
    file = Path(edgeseg.decoders.__path__[0], "manifest.schema.json")
    schema, read = Draft202012Validator(json.loads(file.read_text(encoding="utf-8"))), Manifest.from_json

    def checked(text: str, *, path: str | None = None) -> Manifest:
        manifest = read(text, path=path)
        schema.validate(json.loads(text))
        return manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "from_json", staticmethod(checked))
        yield


@pytest.fixture(autouse=True)
def _variables_of_the_command_end_with_the_test() -> Iterator[None]:
    """``edgeseg.cli.main`` makes Pythons that this process starts safe; scripts of the tests import their neighbours."""
    before = os.environ.get("PYTHONSAFEPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture
def until() -> Callable[..., bool]:
    """Wait until something is true; False when it never is."""

    def wait(true: Callable[[], bool], seconds: float = 20) -> bool:
        end = time.monotonic() + seconds
        while not true():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    return wait


@pytest.fixture
def audit() -> Callable[..., list[str]]:
    """``audit(page, narrow=, dark=)`` of ``tests/accessible.py``: what is wrong with a page; skips where it cannot run."""
    spec = importlib.util.spec_from_file_location("accessible", Path(__file__).with_name("accessible.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.audit


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network for ONNX Runtime, for 160 px, which a process opens in a moment."""
    for name in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(name)
    from edgeseg.demo import CHECKPOINT
    from edgeseg.model import Model

    model = Model(shutil.copy(CHECKPOINT, tmp_path_factory.mktemp("artifact")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGESEG_HOME", str(tmp_path_factory.mktemp("home")))
        return model.export(format="onnx", imgsz=160)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with a real checkpoint and COCO images: ``EDGESEG_SHARED``, else ``../shared``; skips without it."""
    folder = Path(os.environ.get("EDGESEG_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip("no shared folder with real models (EDGESEG_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shapes_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """YAML of a generated dataset: 6 training and 4 validation images of 96 pixels. Do not write into its folder."""
    return make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=6, val=4, size=96, seed=3)


@pytest.fixture(scope="session")
def shapes_dataset(shapes_yaml: Path) -> Dataset:
    """The same, loaded."""
    return load_dataset(shapes_yaml)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a fresh network of two classes (cat, dog), small enough to run in milliseconds at 64 pixels."""
    torch = pytest.importorskip("torch")
    from edgeseg.network.checkpoint import save_checkpoint
    from edgeseg.network.definition import Definition
    from edgeseg.network.model import Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network(Definition("tiny", nc=2, depth=0.1, width=0.0625, max_channels=256), ("cat", "dog")).eval()
    network.info = {"imgsz": 64}
    return save_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny-seg.pt", network)
