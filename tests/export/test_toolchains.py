import json
import os
import platform
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from edgeseg.environments import toolchains
from edgeseg.environments.toolchains import (
    MARKER,
    Toolchain,
    check,
    find_python,
    install,
    installer_env,
    list_toolchains,
    remove_toolchain,
    toolchain_of,
)
from edgeseg.errors import EdgesegError
from edgeseg.registry import target_by_name

# Stands in for uv: makes a bare environment and writes down how it was called.
FAKE_UV = """\
#!{python}
import json, os, subprocess, sys
with open({calls!r}, "a") as f:
    keep = {{k: os.environ.get(k) for k in ("UV_FIND_LINKS", "PYTHONPATH", "VIRTUAL_ENV")}}
    f.write(json.dumps([sys.argv[1:], keep]) + "\\n")
if sys.argv[1] == "venv":
    sys.exit(subprocess.call([{python!r}, "-m", "venv", "--without-pip", sys.argv[-1]]))
if {fail!r}:
    print("  error: " + {fail!r}, file=sys.stderr)
    sys.exit(2)
python = sys.argv[sys.argv.index("--python") + 1]
site = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip()
for word in sys.argv[1:]:
    if word.startswith("tomli") and sys.version_info < (3, 11):  # the one package that a step cannot do without there
        import shutil, tomli
        shutil.copytree(os.path.dirname(tomli.__file__), os.path.join(site, "tomli"), dirs_exist_ok=True)
    if word.startswith("edgeseg-toy-"):
        name, version = word.split("==")
        folder = os.path.join(site, f"{{name.replace('-', '_')}}-{{version}}.dist-info")
        os.makedirs(folder)
        with open(os.path.join(folder, "METADATA"), "w") as f:
            f.write(f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: {{version}}\\n")
"""


@pytest.fixture
def uv(toys, tmp_path, monkeypatch):
    """A fake uv on the PATH; call it with words to make it fail with them; it returns how it was called so far."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()

    def write(fail: str = "") -> list:
        (folder / "uv").write_text(FAKE_UV.format(python=sys.executable, calls=str(calls), fail=fail))
        (folder / "uv").chmod(0o755)
        return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []

    write()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return write


def pinned(toys, name: str, *lines: str, nodeps: str = "", **keys) -> Path:
    folder = toys.add(name, **keys)
    (folder / "toolchain.txt").write_text("\n".join(lines) + "\n")
    if nodeps:
        (folder / "toolchain-nodeps.txt").write_text(nodeps + "\n")
    return folder


def test_reading_pins(toys) -> None:
    lines = ["# a comment", "", "numpy>=1.0  # why", "--extra-index-url https://example.org", 'x==1; python_version < "3"']
    pinned(toys, "a", *lines, nodeps="sne9==2.0", settings={"python": ">=3.10"})
    a = toolchain_of(target_by_name("a"))
    assert a.requirements == ("numpy>=1.0", 'x==1; python_version < "3"') and a.nodeps == ("sne9==2.0",)
    assert a.pip_options == ("--extra-index-url https://example.org",) and a.python == ">=3.10"
    assert a.unmet() == ["sne9==2.0 (not here)"]
    assert set(a.versions()) == {"numpy"}
    folder = pinned(toys, "b", "numpy", "what is this==")
    with pytest.raises(EdgesegError, match=r"toolchain\.txt:2: .* is no requirement"):
        toolchain_of(target_by_name("b"))
    assert folder.is_dir()


def test_unmet(toys) -> None:
    here = platform.python_version()
    pinned(toys, "a", "numpy==0.1", "no-such-thing", settings={"python": "<3"})
    unmet = toolchain_of(target_by_name("a")).unmet()
    assert unmet[0] == f"python<3 (here {here})" and unmet[1].startswith("numpy==0.1 (here ") and len(unmet) == 3
    assert check("a") == unmet
    toys.add("free")
    assert check("free") == []


def test_targets_share(toys) -> None:
    pinned(toys, "a", "edgeseg-toy-x==1.0")
    pinned(toys, "b", "edgeseg-toy-x==1.0")
    toys.add("c", settings={"toolchain": "a"})
    rows = {s.toolchain.name: s for s in list_toolchains()}
    assert rows["a"].formats == ("a", "b", "c") and rows["a"].where == "" and rows["a"].size == 0
    assert "b" not in rows and "c" not in rows
    assert any(s.where == "current" for s in rows.values())


def test_installed_by_uv_into_its_own_environment_and_used(toys, uv, monkeypatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "/wheels /more")
    monkeypatch.setenv("PYTHONPATH", "/leaks")
    pinned(toys, "a", "edgeseg-toy-x==1.0", nodeps="edgeseg-toy-y==2.0", settings={"python": ">=3.10"})
    (toys.root / "a" / "convert.py").write_text(
        textwrap.dedent("""
        import importlib.metadata, os, sys
        def convert(job):
            found = [importlib.metadata.version("edgeseg-toy-x"), sys.prefix]
            try:
                import numpy
                found.append("leak")
            except ImportError:
                pass
            job.output.write_text("\\n".join(found))
        """)
    )
    (result,) = toys.export("a")
    toolchain = toolchain_of(target_by_name("a"))
    assert result.ok, result.error
    assert result.toolchain == "a" and toolchain.installed
    assert result.path.read_text().splitlines() == ["1.0", str(toolchain.folder)]
    assert any("installing" in e.text for e in toys.events if e.kind == "progress")
    calls = uv()
    assert [c[0][0] for c in calls] == ["venv", "pip", "pip"]
    assert sys.executable in calls[0][0] and "edgeseg-toy-x==1.0" in calls[1][0] and "PyYAML>=6.0" in calls[1][0]
    assert "--no-deps" in calls[2][0] and "edgeseg-toy-y==2.0" in calls[2][0] and "edgeseg-toy-x==1.0" not in calls[2][0]
    assert all(env == {"UV_FIND_LINKS": "/wheels,/more", "PYTHONPATH": None, "VIRTUAL_ENV": None} for _, env in calls)
    assert check("a") == []
    assert [s.where for s in list_toolchains() if s.toolchain.name == "a"] == [str(toolchain.folder)]
    # There once: nothing is installed again, nor needed offline.
    assert toys.export("a", rebuild=True, offline=True)[0].ok and len(uv()) == 3
    assert remove_toolchain("a") and not toolchain.folder.exists() and not remove_toolchain("a")
    # Cached artifacts outlive their toolchain.
    assert toys.export("a", offline=True)[0].cached


def test_a_failed_install_leaves_nothing_and_says_why(toys, uv) -> None:
    pinned(toys, "a", "edgeseg-toy-x==1.0")
    toys.add("toy")
    uv("no version of edgeseg-toy-x")
    a, toy = toys.export("a", "toy")
    toolchain = toolchain_of(target_by_name("a"))
    assert toy.ok and "cannot be installed (error: no version of edgeseg-toy-x)" in str(a.error)
    assert not toolchain.folder.exists()
    assert "no version" in Path(a.error.path).read_text()
    uv("No space left on device (os error 28)")
    assert "the disk is full" in str(toys.export("a")[0].error)


def test_an_unfinished_environment_is_made_again(toys, uv) -> None:
    pinned(toys, "a", "edgeseg-toy-x==1.0")
    toolchain = toolchain_of(target_by_name("a"))
    (toolchain.folder / "bin").mkdir(parents=True)
    (toolchain.folder / "bin" / "python").write_text("half")
    said = []
    install("a", say=lambda done, words: said.append(words))
    assert toolchain.installed and any("unfinished" in words for words in said)
    assert json.loads((toolchain.folder / MARKER).read_text())["versions"] == {"edgeseg-toy-x": "1.0"}
    count = len(uv())
    assert install("a") == toolchain and len(uv()) == count
    install("a", again=True)
    assert len(uv()) == 2 * count


def test_two_exports_install_once(toys, uv) -> None:
    for name in ("a", "b"):
        pinned(toys, name, "edgeseg-toy-x==1.0")
    assert all(r.ok for r in toys.export("a", "b", jobs=2))
    assert [c[0][0] for c in uv()] == ["venv", "pip"]


def test_changes_in_an_environment_are_found(toys, uv) -> None:
    pinned(toys, "a", "edgeseg-toy-x==1.0", "edgeseg-toy-z==3.0")
    toolchain = install("a")
    (meta,) = toolchain.folder.rglob("edgeseg_toy_x-1.0.dist-info/METADATA")
    meta.write_text(meta.read_text().replace("1.0", "1.1"))
    (gone,) = toolchain.folder.rglob("edgeseg_toy_z-3.0.dist-info/METADATA")
    gone.unlink()
    assert check("a") == ["edgeseg-toy-x==1.0 (there 1.1)", f"edgeseg-toy-z==3.0 (missing from {toolchain.folder})"]


def test_another_python_is_left_to_uv(toys, uv) -> None:
    pinned(toys, "a", "edgeseg-toy-x==1.0", settings={"python": ">=3.99"})
    assert toys.export("a")[0].ok
    assert ">=3.99" in uv()[0][0]


def test_no_pins_no_environment(toys, uv) -> None:
    toys.add("toy")
    said = []
    install("toy", say=lambda done, words: said.append(words))
    assert uv() == [] and "no pins" in said[0]


def test_the_interpreter(toys, monkeypatch, tmp_path) -> None:
    assert find_python(Toolchain("a")) == Path(sys.executable)
    (tmp_path / "python3.10").write_text("#!/bin/sh\necho 3.10.99\n")
    (tmp_path / "python3.11").write_text("#!/bin/sh\nexit 127\n")
    for file in tmp_path.glob("python*"):
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_python(Toolchain("a", python="==3.10.99")) == tmp_path / "python3.10"
    with pytest.raises(EdgesegError, match=r"needs Python ==3\.9\.77, and none is on the PATH"):
        find_python(Toolchain("a", python="==3.9.77"))


def test_offline_by_environment(toys, monkeypatch) -> None:
    monkeypatch.setenv("EDGESEG_OFFLINE", "1")
    pinned(toys, "a", "edgeseg-toy-x==1.0")
    assert "edgeseg toolchain install a" in str(toys.export("a")[0].error)


def test_installer_env() -> None:
    env = installer_env({"PIP_FIND_LINKS": "a b", "UV_FIND_LINKS": "mine", "PYTHONHOME": "x", "PATH": "p"})
    assert env == {"PIP_FIND_LINKS": "a b", "UV_FIND_LINKS": "mine", "PATH": "p", "PYTHONSAFEPATH": "1"}


@pytest.mark.slow
def test_with_venv_and_pip(toys, tmp_path, monkeypatch) -> None:
    """The real thing, from wheels made here, without a network."""
    for name, version in (("numpy", "9.0"), ("PyYAML", "9.0"), ("edgeseg_toy_x", "1.0"), ("tomli", "9.0")):
        _wheel(tmp_path, name, version)
    monkeypatch.setattr(toolchains.shutil, "which", lambda name: None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    pinned(toys, "a", "edgeseg-toy-x==1.0")
    before = subprocess.check_output([sys.executable, "-m", "pip", "freeze"])
    (result,) = toys.export("a")
    assert result.ok and result.toolchain == "a" and check("a") == []
    assert subprocess.check_output([sys.executable, "-m", "pip", "freeze"]) == before
    pinned(toys, "b", "edgeseg-toy-x==2.0")
    assert "cannot be installed (ERROR: No matching distribution" in str(toys.export("b")[0].error)


def _wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as z:
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
