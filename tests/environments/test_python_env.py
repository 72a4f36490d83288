"""Programs that edgeseg starts import nothing from the folder that a person happens to be in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeseg.environments import python_env as children

BAIT = ("json.py", "numpy.py", "yaml.py", "runpy.py", "encodings.py", "pip.py", "venv.py", "edgeseg/__init__.py")


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, full of modules that leave a mark when they are imported."""
    folder, mark = tmp_path / "here", tmp_path / "imported"
    for name in BAIT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"open({str(mark)!r}, 'a').write(__name__ + ' ')\nraise SystemExit(9)\n")
    (folder / "edgeseg" / "cli.py").write_text((folder / "json.py").read_text())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EDGESEG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "here"]))
    monkeypatch.setenv("EDGESEG_OFFLINE", "1")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return mark


def edgeseg(mark: Path, *words: object) -> None:
    command = children.command(sys.executable, "edgeseg.cli", *map(str, words))
    done = subprocess.run(command, env=children.environment(), capture_output=True, text=True, check=False)
    imported = mark.read_text() if mark.exists() else ""
    assert (done.returncode, imported) == (0, ""), f"{imported}\n{done.stdout}{done.stderr}"


def test_the_trap_works(trap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    assert subprocess.run([sys.executable, "-m", "edgeseg.cli", "--version"], check=False).returncode == 9
    assert trap.read_text()


@pytest.mark.parametrize("safe", ["", "1"])
def test_what_a_child_has_on_its_path(trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: str) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "told.py").write_text("import json, sys; print(json.dumps([sys.argv[1:], sys.path, __name__]))")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "here", str(tmp_path / "lib")]))
    env = children.environment()
    env["PYTHONSAFEPATH"] = safe  # Python 3.10 does not know it
    command = children.command(sys.executable, "told", "--word", "")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    import json

    words, path, name = json.loads(done.stdout)
    assert words == ["--word", ""] and name == "__main__" and str(tmp_path / "lib") in path
    assert not {"", ".", "here", os.getcwd()} & set(path) and not trap.exists()


def test_the_environment_of_a_toolchain_has_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    assert children.python_env(tmp_path / "place", False)["PYTHONPATH"] == str(tmp_path / "place" / "lib")
    ours = children.python_env(tmp_path / "place", True)["PYTHONPATH"]
    assert ours == os.pathsep.join([str(tmp_path / "place" / "lib"), str(tmp_path / "mine")])
    assert (tmp_path / "place" / "lib" / "edgeseg" / "environments" / "python_env.py").is_file()


@pytest.mark.slow
def test_export_and_validate(trap: Path, tiny: Path, shapes_yaml: Path, tmp_path: Path) -> None:
    """The converters, the gate's network and artifact, and a reference in a process of its own."""
    words = ("--imgsz", "64", "--data", shapes_yaml, "--out", tmp_path / "out", "--force")
    edgeseg(trap, "export", tiny, "-f", "onnx", "--int8", *words)
    edgeseg(trap, "export", tiny, "-f", "onnx", *words[:-1])
    made = tmp_path / "out" / "tiny-seg.onnx"
    edgeseg(trap, "validate", made, "--reference", tiny, "--data", shapes_yaml.parent / "images/val", "--imgsz", "64")


def test_train(trap: Path, shapes_yaml: Path, tiny: Path, tmp_path: Path) -> None:
    words = ("epochs=1", "imgsz=64", "batch=2", "workers=2", "device=cpu", f"project={tmp_path / 'runs'}")
    edgeseg(trap, "train", f"data={shapes_yaml}", f"model={tiny}", *words)


def test_toolchain_install(trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uv: ``venv`` and ``pip`` of the standard library, up to where no wheel can be found."""
    folder = tmp_path / "targets" / "toy"
    folder.mkdir(parents=True)
    (folder / "target.toml").write_text('name = "toy"\ntitle = "Toy"\nsuffix = ".toy"\nreads = ["network"]\n')
    (folder / "convert.py").write_text("")
    (folder / "toolchain.txt").write_text("edgeseg-no-such-wheel==1.0\n")
    monkeypatch.setenv("EDGESEG_TARGETS", str(folder.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PATH", "/nowhere")
    command = children.command(sys.executable, "edgeseg.cli", "toolchain", "install", "toy")
    done = subprocess.run(command, env=children.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "No matching distribution found" in done.stderr and not trap.exists(), done.stderr


def test_nobody_starts_a_python_in_another_way() -> None:
    """``-m`` and ``-c`` belong to ``edgeseg.environments.python_env``; ``-I`` is as safe."""
    root = Path(children.__file__).resolve().parents[1]
    for file in (*root.rglob("*.py"), *(root.parent / "targets").rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        if file.name != "python_env.py":
            assert '"-m", "' not in text and ('"-c"' not in text or '"-I", "-c"' in text), file
