"""A runtime in its own process: the same tensors, and errors in place of crashes."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeseg.errors import EdgesegError
from edgeseg.running.remote import RemoteRuntime

RUNTIME = """
import os, signal
import numpy as np
from edgeseg.errors import EdgesegError
from edgeseg.manifest import Tensor

class Runtime:
    def __init__(self, path, *, threads=None):
        if "refused" in path.name:
            raise EdgesegError("not for this board", path=path, hint="Build it again")
        print("runtimes print what they like")
        self.input = Tensor("images", (1, 3, 4, 4))
        self.outputs = (Tensor("half", (1, 3, 4, 4)), Tensor("count", (1,), "int8", "nchw", 0.5, 3))
        self.metadata = {"threads": str(threads)}
        self.path = path

    def run(self, x):
        if "segfault" in self.path.name:
            os.kill(os.getpid(), signal.SIGSEGV)
        if "bug" in self.path.name:
            raise RuntimeError("shape mismatch\\nlong story")
        return [x / 2, np.array([len(x)], np.int8)]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    folder = tmp_path / "targets" / "toyrun"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text('name = "toyrun"\ntitle = "Toy"\nsuffix = ".toyrun"\nreads = ["network"]\n')
    (folder / "runtime.py").write_text(RUNTIME)
    monkeypatch.setenv("EDGESEG_TARGETS", str(folder.parent))

    def make(stem: str) -> Path:
        file = tmp_path / f"{stem}.toyrun"
        file.write_bytes(b"x")
        return file

    return make


def test_tensors_come_through_unchanged(toy):
    x = np.random.default_rng(0).random((1, 3, 4, 4), dtype=np.float32)
    with RemoteRuntime(toy("good"), threads=2) as runtime:
        for _ in range(3):
            half, count = runtime.run(x)
            np.testing.assert_array_equal(half, x / 2)
            assert count.dtype == np.int8 and count.tolist() == [1]
        assert runtime.outputs[1].scale == 0.5 and runtime.outputs[1].zero_point == 3
        assert runtime.metadata == {"threads": "2"}
        assert 0 < runtime.seconds < 5


def test_what_the_runtime_refuses_is_said_in_its_words(toy):
    with pytest.raises(EdgesegError, match="not for this board") as e:
        RemoteRuntime(toy("refused"))
    assert e.value.hint == "Build it again"


def test_a_crash_is_an_error_with_the_signal(toy):
    runtime = RemoteRuntime(toy("segfault"))
    with pytest.raises(EdgesegError, match="signal 11"):
        runtime.run(np.zeros((1, 3, 4, 4), np.float32))
    with pytest.raises(EdgesegError):
        runtime.run(np.zeros((1, 3, 4, 4), np.float32))


def test_a_bug_is_its_first_line(toy):
    with (
        RemoteRuntime(toy("bug")) as runtime,
        pytest.raises(EdgesegError, match=r"its runtime cannot run it \(shape mismatch\)"),
    ):
        runtime.run(np.zeros((1, 3, 4, 4), np.float32))


def test_no_child_is_left(toy):
    with RemoteRuntime(toy("good")) as runtime:
        pid = runtime._child.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_threads_of_a_checkpoint_do_not_spin_while_they_wait() -> None:
    """torch reads the variable once, when it is imported."""
    pytest.importorskip("torch")
    code = (
        "import os, sys; from edgeseg.resources import demo_checkpoint; from edgeseg.running.open import open_model\n"
        "import builtins; real = builtins.__import__\n"
        "def watched(name, *a, **k):\n"
        "    if name == 'torch' and 'torch' not in sys.modules: print(os.environ.get('OMP_WAIT_POLICY'), flush=True)\n"
        "    return real(name, *a, **k)\n"
        "builtins.__import__ = watched\n"
        "open_model(demo_checkpoint()).close()\n"
    )
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "PASSIVE"
